//! What the client commands share: their options, one call to a node, and what its failures mean. The call runs on the
//! same engine and loop as a node, only without listeners.

use std::net::SocketAddr;

use getopts::{Matches, Options};

use super::{Outcome, Stop, exit, parse, resolve, tell};
use crate::dialect::sealed::codec::ErrorCode;
use crate::dialect::sealed::operation::{Operation, Reply};
use crate::dialect::sealed::request::Request;
use crate::dialect::sealed::service::Service;
use crate::engine::{Engine, EngineSettings};
use crate::net::Net;
use crate::net::clock::Clock;
use crate::net::socket::seed;

/// Where a node listens unless told otherwise.
pub(super) const DEFAULT_NODE: &str = "127.0.0.1:6500";

/// A little longer than a node takes for the longest job.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;

/// A client command's options and words.
pub(super) struct Client {
    pub matches: Matches,
    pub json: bool,
    pub timeout_ms: u64,
}

/// The options of a client command that asks a node, `default_node` unless told otherwise.
pub(super) fn options(default_node: &str) -> Options {
    let mut options = common_options();
    options.optmulti("", "node", &format!("the node to ask (default {default_node})"), "HOST:PORT");
    options
}

/// The options of a command that asks one node, of whichever dialect this build speaks.
pub(super) fn options_of_any() -> Options {
    #[cfg(feature = "hyperdht")]
    let options = super::hyperdht::options_of_both();
    #[cfg(not(feature = "hyperdht"))]
    let options = options(DEFAULT_NODE);
    options
}

/// The options of every client command.
pub(super) fn common_options() -> Options {
    let mut options = Options::new();
    options.optopt("", "timeout", "give up after this long: seconds, or 500ms (default 5)", "TIME");
    options.optflag("", "json", "print JSON to stdout");
    options
}

impl Client {
    /// Parses the words of a client command; `Ok(None)` after printing its help.
    pub fn parse(mut options: Options, words: &[String], help: &str) -> Result<Option<Client>, Stop> {
        let Some(matches) = parse(&mut options, words, help)? else {
            return Ok(None);
        };
        let timeout_ms =
            matches.opt_str("timeout").map_or(Ok(DEFAULT_TIMEOUT_MS), |text| duration_ms("timeout", &text))?;
        Ok(Some(Client { json: matches.opt_present("json"), timeout_ms, matches }))
    }

    /// Exactly `N` words, named for the error.
    pub fn words<const N: usize>(&self, names: [&str; N]) -> Result<[&str; N], Stop> {
        let words: Vec<&str> = self.matches.free.iter().map(String::as_str).collect();
        words.try_into().map_err(|words: Vec<&str>| {
            let wanted = if N == 0 { "no words".to_string() } else { names.join(" ") };
            Stop::usage(format_args!("expected {wanted}, got {}", words.len()))
        })
    }

    /// The one node to ask.
    pub fn node(&self) -> Result<SocketAddr, Stop> {
        resolve(self.one_node()?.as_deref().unwrap_or(DEFAULT_NODE))
    }

    /// The name of the one node to ask, if one is given.
    pub fn one_node(&self) -> Result<Option<String>, Stop> {
        let mut nodes = self.matches.opt_strs("node");
        if nodes.len() > 1 {
            return Err(Stop::usage("--node: this command asks one node only"));
        }
        Ok(nodes.pop())
    }

    /// Asks `node`. An ERROR, no connection and no answer in time are all a [`Stop`].
    pub fn call(&self, node: SocketAddr, request: Request) -> Result<Reply, Stop> {
        super::node::start_logging("error");
        let failed = |e: std::io::Error| Stop::new(exit::SYSTEM, format!("can't poll: {e}"));
        let mut net = Net::new(Engine::new(EngineSettings::default(), seed()), Clock::start()).map_err(failed)?;
        let operation = Operation::Ask { to: node, request };
        match net.operation::<Service, _>(None, operation, self.timeout_ms, Some).map_err(failed)? {
            None => Err(Stop::new(exit::TRY_AGAIN, format!("no answer from {node} within {} ms", self.timeout_ms))),
            Some(Reply::Unreachable) => Err(Stop::new(
                exit::UNAVAILABLE,
                format!("no dayfly node answers at {node}: nobody listens there, or not a sealed listener"),
            )),
            Some(Reply::Error(code, text)) => {
                let code = ErrorCode::from_code(code);
                let exit = match code {
                    Some(ErrorCode::Busy | ErrorCode::Full) => exit::TRY_AGAIN,
                    _ => exit::UNAVAILABLE,
                };
                let text: String = text.chars().filter(|c| !c.is_control()).collect();
                Err(Stop::new(exit, format!("{node} says: {text}")))
            }
            Some(reply) => Ok(reply),
        }
    }
}

/// Milliseconds in `5`, `5s` or `500ms`; an error names the option.
pub(super) fn duration_ms(name: &str, text: &str) -> Result<u64, Stop> {
    let (digits, unit_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1_000),
        (None, None) => (text, 1_000),
    };
    match digits.parse::<u32>() {
        Ok(n) if n > 0 => Ok(u64::from(n) * unit_ms),
        _ => Err(Stop::usage(format_args!("--{name} takes a time like 5 or 500ms, not '{text}'"))),
    }
}

/// For an answer that no node of ours gives.
pub(super) fn unexpected<T>(node: SocketAddr) -> Result<T, Stop> {
    Err(Stop::new(exit::UNAVAILABLE, format!("{node} gave an answer that makes no sense")))
}

/// For a value that nobody has.
pub(super) fn not_found(key: &crate::id::Id) -> Outcome {
    tell(&format!("dayfly: nobody has {key}"));
    Ok(exit::NOT_FOUND)
}
