//! The listeners that `dayfly node` can open: the closed list of dialects that have some, and what they share. A dialect
//! is a file here and an entry in [`DIALECTS`]. Never speaks a protocol.

mod address;
#[cfg(feature = "hyperdht")]
pub(super) mod hyperdht;
mod sealed;

use std::net::SocketAddr;

use getopts::{Matches, Options};

use super::config::Config;
use super::{Stop, exit};
use crate::engine::dialects::Settings;
use crate::limits::LISTENERS;
use crate::net::Net;

/// The listeners of one dialect: its options, and how they become a plan.
struct Kind {
    add_options: fn(&mut Options),
    read: Read,
}

type Read = fn(&Matches, &Config) -> Result<Box<dyn DialectPlan>, Stop>;

const DIALECTS: &[Kind] = &[
    sealed::LISTENERS,
    #[cfg(feature = "hyperdht")]
    hyperdht::LISTENERS,
];

/// The listeners of one dialect that the command line and the configuration ask for, checked.
trait DialectPlan {
    /// How many they are.
    fn count(&self) -> usize;

    /// Reports what is wrong with them, as far as that can be told without opening one.
    fn check(&self) -> Result<(), Stop>;

    /// The listeners, one setting a line.
    fn describe(&self) -> Vec<String>;

    /// The settings of their nodes, one a line.
    fn describe_nodes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Puts the settings of their nodes into the engine's.
    fn configure(&self, _: &mut Settings) {}

    /// Opens the listeners, adds their nodes and bootstraps, and their ready lines to `ready`.
    fn open(&self, net: &mut Net, ready: &mut Ready) -> Result<(), Stop>;
}

/// The ready lines: nodes first, and then what only clients use.
#[derive(Default)]
struct Ready {
    nodes: String,
    clients: String,
}

/// All listeners that are asked for, of whichever dialect.
pub(super) struct Plan {
    dialects: Vec<Box<dyn DialectPlan>>,
}

/// Adds the options of all listeners.
pub(super) fn add_options(options: &mut Options) {
    DIALECTS.iter().for_each(|kind| (kind.add_options)(options));
    address::add_options(options);
    options.optflag(
        "",
        "lan",
        "all nodes are in one network (/24) that no stranger is in: keep more than a few contacts of it",
    );
}

impl Plan {
    /// Reads the options, and the configuration where there are none.
    pub fn read(matches: &Matches, config: &Config) -> Result<Plan, Stop> {
        let dialects = DIALECTS.iter().map(|kind| (kind.read)(matches, config)).collect::<Result<Vec<_>, _>>()?;
        match dialects.iter().map(|plan| plan.count()).sum() {
            0 => Err(Stop::usage("--listen none leaves no listener")),
            1..=LISTENERS => Ok(Plan { dialects }),
            _ => Err(Stop::usage(format_args!("more than {LISTENERS} listeners"))),
        }
    }

    /// The settings of all nodes.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        self.dialects.iter().for_each(|plan| plan.configure(&mut settings));
        settings
    }

    /// Reports what is wrong, as far as that can be told without opening a listener.
    pub fn check(&self) -> Result<(), Stop> {
        self.dialects.iter().try_for_each(|plan| plan.check())
    }

    /// The settings in effect, one a line.
    pub fn describe(&self) -> Vec<String> {
        let listeners = self.dialects.iter().flat_map(|plan| plan.describe());
        listeners.chain(self.dialects.iter().flat_map(|plan| plan.describe_nodes())).collect()
    }

    /// Opens all listeners and returns their ready lines.
    pub fn open(&self, net: &mut Net) -> Result<String, Stop> {
        let mut ready = Ready::default();
        self.dialects.iter().try_for_each(|plan| plan.open(net, &mut ready))?;
        Ok(ready.nodes + &ready.clients)
    }
}

/// Refuses an address that is given twice; port 0 is another port each time.
fn check_distinct<'a>(addrs: impl Iterator<Item = &'a SocketAddr>) -> Result<(), Stop> {
    let mut seen = Vec::new();
    for addr in addrs.filter(|addr| addr.port() != 0) {
        if seen.contains(&addr) {
            return Err(Stop::usage(format_args!("{addr} is given twice")));
        }
        seen.push(addr);
    }
    Ok(())
}

/// Answers `dayfly status` for the node on `addr`; a node works without it.
fn serve_status(net: &mut Net, addr: SocketAddr) {
    net.add_status(addr).unwrap_or_else(|e| log::warn!("status_unavailable address={addr} error={e}"));
}

fn cant_listen(addr: SocketAddr, e: &std::io::Error) -> Stop {
    Stop::new(exit::CANT_CREATE, format!("can't listen on {addr}: {e}"))
}
