//! The command line: one file per command, and what they share. `listeners` and `visit` have one file per dialect. Turns
//! arguments into settings and outcomes into exit codes; never speaks a protocol itself.

#[cfg(feature = "hyperdht")]
mod announce;
#[cfg(feature = "bench")]
mod bench;
mod config;
mod find;
mod get;
mod json;
mod listeners;
#[cfg(feature = "hyperdht")]
mod lookup;
mod node;
mod ping;
#[cfg(feature = "hyperdht")]
mod punch;
mod put;
#[cfg(feature = "hyperdht")]
mod query;
#[cfg(feature = "sim")]
mod sim;
mod status;
#[cfg(feature = "hyperdht")]
mod unannounce;
mod visit;

use std::ffi::OsString;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use getopts::{Matches, Options};

/// Exit codes: sysexits(3), and 1 for "not found".
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// Nobody has the value.
    pub const NOT_FOUND: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// A host name does not resolve.
    pub const NO_HOST: u8 = 68;
    /// No node there, or it refused.
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

/// A command that failed: the exit code and the one line that says why.
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

    /// For `map_err`: what could not be done, which the operating system's error is appended to.
    fn system(what: &'static str) -> impl Fn(std::io::Error) -> Stop {
        move |e| Stop::new(exit::SYSTEM, format!("{what}: {e}"))
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
    Command { name: "lookup", run: lookup::run },
    #[cfg(feature = "hyperdht")]
    Command { name: "announce", run: announce::run },
    #[cfg(feature = "hyperdht")]
    Command { name: "unannounce", run: unannounce::run },
    #[cfg(feature = "hyperdht")]
    Command { name: "query", run: query::run },
    #[cfg(feature = "hyperdht")]
    Command { name: "punch", run: punch::run },
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

/// Runs the command that `arguments` (without the program's name) name, and returns the exit code.
pub fn main(arguments: Vec<OsString>) -> u8 {
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(std::io::stderr(), "dayfly: internal error, please report: {panic}");
        std::process::exit(exit::INTERNAL.into());
    }));
    let outcome = match arguments.into_iter().map(OsString::into_string).collect::<Result<Vec<String>, _>>() {
        Err(bad) => Err(Stop::usage(format_args!("{bad:?} is not UTF-8; pass a binary VALUE on stdin, with '-'"))),
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
                    "this build has no '{first}': it needs the cargo feature '{feature}'"
                ))),
                None => Err(Stop::usage(format_args!("unknown command '{first}'"))),
            },
        },
    }
}

/// Parses `words`; prints the help and returns `Ok(None)` if it was asked for.
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

/// Refuses arguments where a command takes options only.
fn no_arguments(matches: &Matches) -> Result<(), Stop> {
    matches.free.first().map_or(Ok(()), |word| Err(Stop::usage(format_args!("unexpected argument '{word}'"))))
}

/// Logs lines of `level time event key=value` to stderr; RUST_LOG wins over `default_level`.
fn start_logging(default_level: &str) {
    let environment = env_logger::Env::default().default_filter_or(default_level);
    // Only fails where a logger is set already.
    let _ = env_logger::Builder::from_env(environment).format_target(false).try_init();
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

/// Milliseconds in `5`, `5s` or `500ms`; an error names the option.
fn duration_ms(name: &str, text: &str) -> Result<u64, Stop> {
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

/// Writes a line for people to stderr.
fn tell(line: &str) {
    // Nowhere left to complain to if stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}
