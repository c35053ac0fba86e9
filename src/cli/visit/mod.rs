//! What the commands that ask nodes share: their options, and `--dialect` with what can be asked in any of them. A dialect
//! is a file here and an entry in [`DIALECTS`]. Never prints, and never speaks a protocol itself.

#[cfg(feature = "hyperdht")]
pub(super) mod hyperdht;
pub(super) mod sealed;

use std::net::SocketAddr;
use std::time::Duration;

use getopts::{Matches, Options};

use super::{Stop, duration_ms, exit, parse};
use crate::contact::Contact;
use crate::dialect::Dialect;
use crate::id::Id;
use crate::limits::COMMAND_TIMEOUT_MS;

/// What can be asked in every dialect. The node is asked by name; `None` for the one on this host at the default port.
struct Visitor {
    dialect: Dialect,
    default_port: u16,
    ping: Ping,
    find_node: FindNode,
}

type Ping = fn(&Client, Option<&str>) -> Result<Pong, Stop>;
type FindNode = fn(&Client, Option<&str>, Id) -> Result<Vec<Contact>, Stop>;

/// The first is the one that is spoken unless told otherwise.
const DIALECTS: &[Visitor] = &[
    sealed::VISITOR,
    #[cfg(feature = "hyperdht")]
    hyperdht::VISITOR,
];

/// The options and arguments of a command that asks nodes.
pub(super) struct Client {
    pub matches: Matches,
    pub json: bool,
    pub timeout_ms: u64,
}

/// The answer to a ping.
pub(super) struct Pong {
    pub address: SocketAddr,
    /// `None` if the node has none to tell.
    pub id: Option<Id>,
    /// The address that the node sees us at; `None` in dialects that don't tell, `Some(None)` if this node did not.
    pub seen_as: Option<Option<SocketAddr>>,
    pub time: Duration,
}

/// The options of every command that asks nodes.
pub(super) fn common_options() -> Options {
    let mut options = Options::new();
    options.optopt("", "timeout", "give up after this long: seconds, or 500ms (default 5)", "TIME");
    options.optflag("", "json", "print JSON to stdout");
    options
}

/// The options of a command that asks a node, by default the one at `default_node`.
pub(super) fn options_of(default_node: &str) -> Options {
    let mut options = common_options();
    options.optmulti("", "node", &format!("the node to ask (default {default_node})"), "HOST:PORT");
    options
}

/// The options of a command that asks one node in any dialect.
pub(super) fn options_of_any() -> Options {
    let first = &DIALECTS[0];
    let others = DIALECTS[1..].iter().map(|v| format!(", of {} 127.0.0.1:{}", v.dialect.name(), v.default_port));
    let mut options = options_of(&format!("127.0.0.1:{}{}", first.default_port, others.collect::<String>()));
    options.optopt("", "dialect", &format!("{} (default {})", names(), first.dialect.name()), "NAME");
    options
}

/// Pings the node of this name in the dialect that is asked for.
pub(super) fn ping(client: &Client, name: Option<&str>) -> Result<Pong, Stop> {
    (visitor(client)?.ping)(client, name)
}

/// Asks the node of this name, in the dialect that is asked for, which contacts near `key` it knows: nearest first.
pub(super) fn find_node(client: &Client, name: Option<&str>, key: Id) -> Result<Vec<Contact>, Stop> {
    (visitor(client)?.find_node)(client, name, key)
}

fn visitor(client: &Client) -> Result<&'static Visitor, Stop> {
    let name = client.matches.opt_str("dialect");
    let is_asked_for = |v: &&Visitor| name.as_deref().is_none_or(|name| name == v.dialect.name());
    let unknown = |name: &str| Stop::usage(format_args!("--dialect takes {}, not '{name}'", names()));
    DIALECTS.iter().find(is_asked_for).ok_or_else(|| unknown(name.as_deref().unwrap_or_default()))
}

fn names() -> String {
    DIALECTS.iter().map(|v| v.dialect.name()).collect::<Vec<_>>().join(" or ")
}

impl Client {
    /// Parses the words of a command; prints its help and returns `Ok(None)` if that was asked for.
    pub fn parse(mut options: Options, words: &[String], help: &str) -> Result<Option<Client>, Stop> {
        let Some(matches) = parse(&mut options, words, help)? else {
            return Ok(None);
        };
        let timeout_ms =
            matches.opt_str("timeout").map_or(Ok(COMMAND_TIMEOUT_MS), |text| duration_ms("timeout", &text))?;
        Ok(Some(Client { json: matches.opt_present("json"), timeout_ms, matches }))
    }

    /// The `N` arguments, which `names` names in the error if there are more or fewer.
    pub fn arguments<const N: usize>(&self, names: [&str; N]) -> Result<[&str; N], Stop> {
        let words: Vec<&str> = self.matches.free.iter().map(String::as_str).collect();
        words.try_into().map_err(|words: Vec<&str>| wrong_arguments(&names.join(" "), words.len()))
    }

    /// The name of the one node to ask, if one is given.
    pub fn node(&self) -> Result<Option<String>, Stop> {
        let mut nodes = self.matches.opt_strs("node");
        if nodes.len() > 1 {
            return Err(Stop::usage("--node: this command asks only one node"));
        }
        Ok(nodes.pop())
    }
}

/// For arguments that are not those which the command takes.
pub(super) fn wrong_arguments(expected: &str, given: usize) -> Stop {
    let s = if given == 1 { "" } else { "s" };
    Stop::usage(format_args!("expected {expected}, got {given} argument{s}"))
}

/// For an answer that none of our nodes gives.
pub(super) fn unexpected<T>(node: SocketAddr) -> Result<T, Stop> {
    Err(Stop::new(exit::UNAVAILABLE, format!("{node} gave an answer that does not fit the request")))
}

/// The id of a node, or '-' if it has none to tell.
pub(super) fn id_text(id: Option<Id>) -> String {
    id.map_or("-".into(), |id| id.to_string())
}
