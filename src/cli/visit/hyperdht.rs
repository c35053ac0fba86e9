//! A node of the hyperdht dialect for the length of one command, and what the commands of that dialect share: options,
//! and how an answer is shown as JSON. Never speaks the protocol itself.

use std::net::SocketAddr;
use std::time::Instant;

use getopts::Options;

use super::{Client, Pong, Visitor, id_text, options_of, unexpected};
use crate::cli::json::{Object, array};
use crate::cli::listeners::hyperdht::{add_node, random_id, with_port};
use crate::cli::{Stop, exit, resolve, start_logging, tell};
use crate::contact::{Contact, Scope, scope};
use crate::dialect::Dialect;
use crate::dialect::hyperdht::DEFAULT_PORT;
use crate::dialect::hyperdht::address::Family;
use crate::dialect::hyperdht::identity::Identity;
use crate::dialect::hyperdht::operation::{Answer, Event, Operation, Outcome};
use crate::dialect::hyperdht::service::Service;
use crate::dialect::hyperdht::settings::Settings;
use crate::engine::{Engine, EngineSettings};
use crate::id::{Id, to_hex};
use crate::limits::BOOTSTRAPS;
use crate::net::Net;
use crate::net::clock::Clock;
use crate::net::socket::{route_towards, seed};

pub(super) const VISITOR: Visitor = Visitor { dialect: Dialect::Hyperdht, default_port: DEFAULT_PORT, ping, find_node };

const DEFAULT_HOST: &str = "127.0.0.1";

/// The options of a command that takes part in a network for a while.
pub(in crate::cli) fn options() -> Options {
    let mut o = with_dialect(options_of(&format!("{DEFAULT_HOST}:{DEFAULT_PORT}")));
    o.optmulti("b", "hyperdht-bootstrap", "the same as --node", "HOST[:PORT]");
    o.optflag("", "lan", "all nodes are in one network (/24): ask more than a few of it");
    o
}

/// Adds the option that names the dialect, for a command that speaks only this one.
pub(in crate::cli) fn with_dialect(mut o: Options) -> Options {
    o.optopt("", "dialect", "hyperdht, the only one that this command speaks", "NAME");
    o
}

/// Refuses another dialect for a command that speaks only this one.
pub(in crate::cli) fn check_dialect(client: &Client) -> Result<(), Stop> {
    match client.matches.opt_str("dialect").as_deref() {
        None | Some("hyperdht") => Ok(()),
        Some(other) => Err(Stop::usage(format_args!("--dialect: this command speaks hyperdht, not '{other}'"))),
    }
}

/// The address of the one node to ask, `name` if there is one; without a port it is the dialect's.
pub(in crate::cli) fn node(name: Option<&str>) -> Result<SocketAddr, Stop> {
    resolve(&with_port(name.unwrap_or(DEFAULT_HOST))?)
}

fn ping(client: &Client, name: Option<&str>) -> Result<Pong, Stop> {
    let node = node(name)?;
    let mut visit = Visit::to(vec![node], client.timeout_ms)?;
    let start = Instant::now();
    let (mut answers, ..) = visit.run(Operation::Ping(node)).map_err(|stop| unanswered(stop, node))?;
    let Some(pong) = answers.pop() else {
        return unexpected(node);
    };
    Ok(Pong { address: pong.addr, id: pong.id, seen_as: Some(visit.seen_as(&pong)), time: start.elapsed() })
}

fn find_node(client: &Client, name: Option<&str>, key: Id) -> Result<Vec<Contact>, Stop> {
    let node = node(name)?;
    let asked = Visit::to(vec![node], client.timeout_ms)?.run(Operation::FindNode(node, key));
    let (answers, ..) = asked.map_err(|stop| unanswered(stop, node))?;
    Ok(answers.into_iter().flat_map(|answer| answer.nodes).collect())
}

/// If only one node was asked, its silence means only that there was no answer in time.
fn unanswered(stop: Stop, node: SocketAddr) -> Stop {
    match stop.code {
        exit::UNAVAILABLE => Stop::new(exit::TRY_AGAIN, format!("no answer from {node}")),
        _ => stop,
    }
}

/// A node for the length of one command, which nobody lists.
pub(in crate::cli) struct Visit {
    net: Net,
    /// The nodes to ask first.
    nodes: Vec<SocketAddr>,
    own: SocketAddr,
    timeout_ms: u64,
}

impl Visit {
    /// Takes part in the network of the nodes that the command names.
    pub fn begin(client: &Client) -> Result<Visit, Stop> {
        check_dialect(client)?;
        let mut names = client.matches.opt_strs("node");
        names.extend(client.matches.opt_strs("hyperdht-bootstrap"));
        if names.is_empty() {
            names.push(DEFAULT_HOST.into());
        }
        if names.len() > BOOTSTRAPS {
            return Err(Stop::usage(format_args!(
                "--node names {} nodes to ask first, and at most {BOOTSTRAPS} are allowed",
                names.len()
            )));
        }
        let mut nodes = Vec::new();
        let mut unknown = None;
        for name in names.iter().map(|name| with_port(name)).collect::<Result<Vec<_>, _>>()? {
            match resolve(&name) {
                Ok(addr) => nodes.push(addr),
                Err(stop) => unknown = Some(stop),
            }
        }
        // The others can still be asked.
        match unknown {
            Some(stop) if nodes.is_empty() => return Err(stop),
            Some(stop) => tell(&format!("dayfly: {}", stop.line)),
            None => {}
        }
        let is_lan = client.matches.opt_present("lan");
        let mut visit = Visit::open(nodes.clone(), client.timeout_ms, is_lan)?;
        nodes.iter().for_each(|node| visit.net.service_mut::<Service>().add_seed(0, *node));
        Ok(visit)
    }

    /// Opens a node that has one thing to ask of one of `nodes`.
    pub fn to(nodes: Vec<SocketAddr>, timeout_ms: u64) -> Result<Visit, Stop> {
        Visit::open(nodes, timeout_ms, false)
    }

    fn open(nodes: Vec<SocketAddr>, timeout_ms: u64, is_lan: bool) -> Result<Visit, Stop> {
        start_logging("error");
        let first = *nodes.first().ok_or_else(|| Stop::usage("no node to ask"))?;
        let ip = route_towards(first).ok().filter(|ip| scope(*ip).is_some());
        let ip = ip.ok_or_else(|| Stop::new(exit::UNAVAILABLE, format!("no route to {first}")))?;
        let engine = Engine::new(EngineSettings::default(), seed());
        let mut net = Net::new(engine, Clock::start()).map_err(Stop::system("can't start"))?;
        let own = net.add_datagram_listener((ip, 0).into()).map_err(Stop::system("can't open a UDP socket"))?;
        // A command keeps no table for long, and at home all nodes may be in one network.
        let settings = Settings { counts_networks: scope(ip) == Some(Scope::Global) && !is_lan };
        add_node(&mut net, Identity { id: random_id()?, addr: own, is_ephemeral: true }, settings)?;
        Ok(Visit { net, nodes, own, timeout_ms })
    }

    /// From now on SIGINT and SIGTERM end the operation under way, not the process.
    pub fn handle_signals(&mut self) -> Result<(), Stop> {
        self.net.handle_signals().map_err(Stop::system("can't handle signals"))
    }

    /// Runs an operation. Returns the answers worth showing, how many nodes answered, and how many took an update. No
    /// answer in time, and no answer at all, are a [`Stop`].
    pub fn run(&mut self, operation: Operation) -> Result<(Vec<Answer>, usize, usize), Stop> {
        let mut found = Vec::new();
        let (answers, commits) = self.collect(operation, &mut found)?;
        Ok((found, answers, commits))
    }

    /// Does the same into `found`, which also has the answers that came before a failure. Returns how many nodes
    /// answered, and how many took an update.
    pub fn collect(&mut self, operation: Operation, found: &mut Vec<Answer>) -> Result<(usize, usize), Stop> {
        let show = |event| match event {
            Event::Answer(answer) => {
                found.push(answer);
                None
            }
            Event::Done(outcome) => Some(outcome),
        };
        let outcome = self.net.operation::<Service, _>(Some(0), operation, self.timeout_ms, show);
        let asked: Vec<String> = self.nodes.iter().map(SocketAddr::to_string).collect();
        match outcome.map_err(Stop::system("can't poll"))? {
            Some(Outcome::Done { answers, commits }) => Ok((answers, commits)),
            Some(Outcome::NobodyAnswered) => {
                Err(Stop::new(exit::UNAVAILABLE, format!("no hyperdht node answers at {}", asked.join(", "))))
            }
            Some(Outcome::NobodyNear) => Err(Stop::new(
                exit::UNAVAILABLE,
                "no node near the key takes it: none of them has an id and hands out tokens",
            )),
            None if self.net.is_signalled() => Err(Stop::new(exit::TRY_AGAIN, "ended by a signal before it was done")),
            None => Err(Stop::new(exit::TRY_AGAIN, format!("not done within {} ms", self.timeout_ms))),
        }
    }

    /// Whether a signal has asked to stop.
    pub fn is_signalled(&self) -> bool {
        self.net.is_signalled()
    }

    /// The address that the node which sent `pong` sees us at, if it tells.
    fn seen_as(&self, pong: &Answer) -> Option<SocketAddr> {
        Family::of(self.own).decode(pong.value.as_deref()?)
    }

    /// The address that others see us at, as the first node says that tells; our own address if none does.
    pub fn ask_seen_as(&mut self) -> SocketAddr {
        let nodes = self.nodes.clone();
        let seen = |node| self.run(Operation::Ping(node)).ok()?.0.pop().and_then(|pong| self.seen_as(&pong));
        nodes.into_iter().find_map(seen).unwrap_or(self.own)
    }

    /// Serves for a while, and returns whether a signal has come.
    pub fn serve_for(&mut self, ms: u64) -> Result<bool, Stop> {
        self.net.serve_for(ms).map_err(Stop::system("can't poll"))
    }
}

/// An answer as JSON.
pub(in crate::cli) fn json_of(answer: &Answer) -> String {
    let locals = distinct(answer.local_peers.iter().map(|addr| SocketAddr::V4(*addr)));
    let object = Object::default().text("id", &id_text(answer.id)).text("address", &answer.addr.to_string());
    let object = object.raw("peers", &json_of_addresses(&answer.peers)).raw("local_peers", &json_of_addresses(&locals));
    let value = answer.value.as_deref().map_or("null".into(), |value| format!("\"{}\"", to_hex(value)));
    object.raw("value_hex", &value).finish()
}

/// Addresses as a JSON array.
pub(in crate::cli) fn json_of_addresses(addrs: &[SocketAddr]) -> String {
    array(addrs.iter().map(|addr| format!("\"{addr}\"")))
}

/// Sorted, each once.
pub(in crate::cli) fn distinct(addrs: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addrs: Vec<SocketAddr> = addrs.collect();
    addrs.sort_unstable();
    addrs.dedup();
    addrs
}
