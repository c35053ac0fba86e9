//! The command line: one file per command, and what they share. Turns words into settings and outcomes into exit codes;
//! never speaks a protocol itself.

#[cfg(feature = "bench")]
mod bench;
mod client;
mod config;
mod find;
mod get;
#[cfg(feature = "hyperdht")]
mod hyperdht;
mod json;
mod node;
#[cfg(feature = "hyperdht")]
mod peers;
mod ping;
mod put;
#[cfg(feature = "sim")]
mod sim;
mod status;

use std::ffi::OsString;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use getopts::{Matches, Options};

/// Exit codes: sysexits(3), and 1 for "not there".
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// Nobody has the value.
    pub const NOT_FOUND: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// A host name does not resolve.
    pub const NO_HOST: u8 = 68;
    /// The node is not there, or will not do it.
    pub const UNAVAILABLE: u8 = 69;
    /// A bug.
    pub const INTERNAL: u8 = 70;
    /// The operating system refused something.
    pub const SYSTEM: u8 = 71;
    /// A listening socket can't be made: address in use, no permission.
    pub const CANT_CREATE: u8 = 73;
    /// No answer in time, or busy: try again.
    pub const TRY_AGAIN: u8 = 75;
    /// The configuration file is wrong.
    pub const CONFIG: u8 = 78;
}

/// A command that ended badly: the exit code and the one line that says why.
#[derive(Debug)]
struct Stop {
    code: u8,
    line: String,
}

impl Stop {
    fn new(code: u8, line: impl Into<String>) -> Stop {
        Stop { code, line: line.into() }
    }

    fn usage(line: impl std::fmt::Display) -> Stop {
        Stop::new(exit::USAGE, format!("{line} (see 'dayfly --help')"))
    }
}

type Outcome = Result<u8, Stop>;

/// A command: its name, what it does, and how.
struct Command {
    name: &'static str,
    run: fn(&[String]) -> Outcome,
}

const COMMANDS: &[Command] = &[
    Command { name: "node", run: node::run },
    Command { name: "put", run: put::run },
    Command { name: "get", run: get::run },
    Command { name: "ping", run: ping::run },
    Command { name: "find-node", run: find::run_node },
    Command { name: "find-value", run: find::run_value },
    Command { name: "status", run: status::run },
    #[cfg(feature = "hyperdht")]
    Command { name: "lookup", run: peers::run_lookup },
    #[cfg(feature = "hyperdht")]
    Command { name: "announce", run: peers::run_announce },
    #[cfg(feature = "hyperdht")]
    Command { name: "unannounce", run: peers::run_unannounce },
    #[cfg(feature = "hyperdht")]
    Command { name: "query", run: peers::run_query },
    #[cfg(feature = "hyperdht")]
    Command { name: "punch", run: peers::run_punch },
    #[cfg(feature = "bench")]
    Command { name: "bench", run: bench::run },
    #[cfg(feature = "sim")]
    Command { name: "sim", run: sim::run },
];

/// Commands that not every build has, and the cargo features that bring them.
const FEATURES: &[(&str, &str)] = &[
    ("bench", "bench"),
    ("sim", "sim"),
    ("lookup", "hyperdht"),
    ("announce", "hyperdht"),
    ("unannounce", "hyperdht"),
    ("query", "hyperdht"),
    ("punch", "hyperdht"),
];

/// Runs the command that `arguments` (without the program's name) ask for; returns the exit code.
pub fn main(arguments: Vec<OsString>) -> u8 {
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(std::io::stderr(), "dayfly: internal error, please report: {panic}");
        std::process::exit(exit::INTERNAL.into());
    }));
    let outcome = match arguments.into_iter().map(OsString::into_string).collect::<Result<Vec<String>, _>>() {
        Err(bad) => Err(Stop::usage(format_args!("{bad:?} is not UTF-8; a binary VALUE goes in by stdin, as '-'"))),
        Ok(words) => dispatch(&words),
    };
    outcome.unwrap_or_else(|stop| {
        // Nowhere left to complain to if stderr is closed.
        let _ = writeln!(std::io::stderr(), "dayfly: {}", stop.line);
        stop.code
    })
}

fn dispatch(words: &[String]) -> Outcome {
    match words.first().map(String::as_str) {
        None => node::run(words),
        Some("help") => node::run(&["--help".to_string()]),
        Some(first) if first.starts_with('-') => node::run(words),
        Some(first) => match COMMANDS.iter().find(|command| command.name == first) {
            Some(command) => (command.run)(&words[1..]),
            None => match FEATURES.iter().find(|(command, _)| *command == first) {
                Some((_, feature)) => Err(Stop::usage(format_args!(
                    "this build has no '{first}': it takes the cargo feature '{feature}'"
                ))),
                None => Err(Stop::usage(format_args!("unknown command '{first}'"))),
            },
        },
    }
}

/// Parses `words`; `Ok(None)` after printing the help that was asked for.
fn parse(options: &mut Options, words: &[String], help: &str) -> Result<Option<Matches>, Stop> {
    options.optflag("h", "help", "print this help");
    let matches = options.parse(words).map_err(|e| Stop::usage(lower_first(&e.to_string())))?;
    if matches.opt_present("help") {
        let (before, after) = help.split_once("\n\n").unwrap_or((help, ""));
        print(&format!("{}\n{after}", options.usage(before)))?;
        return Ok(None);
    }
    Ok(Some(matches))
}

fn lower_first(text: &str) -> String {
    let mut chars = text.trim_end_matches('.').chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

/// The value of option `name`, or `default`; an error names the option.
fn number<T: FromStr + PartialOrd + std::fmt::Display>(
    matches: &Matches,
    name: &str,
    default: T,
    least: T,
    most: T,
) -> Result<T, Stop> {
    let Some(text) = matches.opt_str(name) else {
        return Ok(default);
    };
    match text.parse::<T>() {
        Ok(value) if value >= least && value <= most => Ok(value),
        _ => Err(Stop::usage(format_args!("--{name} takes a number from {least} to {most}, not '{text}'"))),
    }
}

/// The address that `text` (`HOST:PORT`, `IP:PORT`, `[IP6]:PORT`) means.
fn resolve(text: &str) -> Result<SocketAddr, Stop> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    if port_of(text).is_none() {
        return Err(Stop::usage(format_args!("'{text}' is not HOST:PORT")));
    }
    let unknown = |why: String| Stop::new(exit::NO_HOST, format!("can't resolve {text}: {why}"));
    let mut addrs = text.to_socket_addrs().map_err(|e| unknown(e.to_string()))?;
    addrs.next().map(crate::contact::canonical).ok_or_else(|| unknown("no address".into()))
}

/// The port of `HOST:PORT`; `None` for anything else.
fn port_of(text: &str) -> Option<u16> {
    let (host, port) = text.rsplit_once(':')?;
    port.parse().ok().filter(|_| !host.is_empty())
}

/// Writes data to stdout.
fn print(text: &str) -> Result<(), Stop> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> Result<(), Stop> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|e| Stop::new(exit::SYSTEM, format!("can't write to stdout: {e}")))
}

/// Says something to the person.
fn tell(line: &str) {
    // Nowhere left to complain to if stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}
