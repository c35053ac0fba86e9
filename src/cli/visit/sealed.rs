//! Asking a node of the sealed dialect, as a client for the length of one command: on the same engine and loop as a node,
//! only without listeners. Never prints.

use std::net::SocketAddr;
use std::time::Instant;

use getopts::Options;

use super::{Client, Pong, Visitor, options_of, unexpected};
use crate::cli::{Stop, exit, resolve, start_logging};
use crate::contact::Contact;
use crate::dialect::sealed::codec::ErrorCode;
use crate::dialect::sealed::operation::{Operation, Reply};
use crate::dialect::sealed::request::Request;
use crate::dialect::sealed::service::Service;
use crate::dialect::sealed::{DEFAULT_PORT, node_id};
use crate::dialect::{CallId, Dialect};
use crate::engine::{Engine, EngineSettings};
use crate::id::Id;
use crate::kad::Parameters;
use crate::kad::lookup::{Goal, Lookup};
use crate::limits::{K, LONG_TIMEOUT_MS, SPARE_HOLDERS};
use crate::net::Net;
use crate::net::clock::Clock;
use crate::net::socket::seed;
use crate::time::Time;

pub(super) const VISITOR: Visitor = Visitor { dialect: Dialect::Sealed, default_port: DEFAULT_PORT, ping, find_node };

/// A lookup of a command does not wait longer for one node: unlike a node, it does not know how fast the others are.
const SLOW_MS: u64 = LONG_TIMEOUT_MS / 4;

/// The node that is asked unless told otherwise.
pub(in crate::cli) fn default_node() -> String {
    format!("127.0.0.1:{DEFAULT_PORT}")
}

/// The options of a command that asks a node of this dialect.
pub(in crate::cli) fn options() -> Options {
    options_of(&default_node())
}

/// The address of the one node to ask, `name` if there is one.
pub(in crate::cli) fn node(name: Option<&str>) -> Result<SocketAddr, Stop> {
    name.map_or_else(|| resolve(&default_node()), resolve)
}

/// Asks `node`. An ERROR, no connection and no answer in time are all a [`Stop`].
pub(in crate::cli) fn ask(client: &Client, node: SocketAddr, request: Request) -> Result<Reply, Stop> {
    Visit::begin(client)?.ask(node, request)
}

/// Stores a value on the one node nearest to its key, as far as `through` and those that it names know. A node that
/// would not hold it is replaced by the next nearest, as in the PUT of a node: but that can't be asked for one copy,
/// because of nodes a PUT with replication 1 asks to keep the value themselves.
pub(in crate::cli) fn put_nearest(client: &Client, through: SocketAddr, put: &Request, key: Id) -> Result<(), Stop> {
    let mut visit = Visit::begin(client)?;
    let Reply::Nodes(known) = visit.ask(through, Request::FindNode(key))? else {
        return unexpected(through);
    };
    let wanted = Goal::Nodes(1 + SPARE_HOLDERS);
    let mut lookup = Lookup::new(key, wanted, Parameters::default(), 1, &known, &[]);
    let (mut refusals, mut asked): (Vec<Stop>, Vec<SocketAddr>) = Default::default();
    for reach in [1 + SPARE_HOLDERS, K] {
        visit.finish(&mut lookup, key)?;
        let mut nearest: Vec<SocketAddr> = lookup.closest().iter().take(reach).map(|contact| contact.addr).collect();
        if nearest.is_empty() {
            // Nobody but the one that was asked.
            nearest.push(through);
        }
        for addr in nearest {
            if asked.contains(&addr) {
                continue;
            }
            asked.push(addr);
            match visit.ask(addr, put.clone()) {
                Ok(Reply::Success(_)) => return Ok(()),
                Ok(_) => {}
                Err(stop) => refusals.push(stop),
            }
        }
        lookup.widen();
    }
    // That the stores are full is a reason to try again, whatever else there was.
    let again = refusals.iter().rposition(|stop| stop.code == exit::TRY_AGAIN).unwrap_or(0);
    let none = || Stop::new(exit::UNAVAILABLE, "no node would hold the value");
    Err(if refusals.is_empty() { none() } else { refusals.swap_remove(again) })
}

/// A client that asks nodes, one after the other or several at once, within the time of its command.
struct Visit {
    net: Net,
    give_up_at: Time,
    timeout_ms: u64,
}

impl Visit {
    fn begin(client: &Client) -> Result<Visit, Stop> {
        start_logging("error");
        let engine = Engine::new(EngineSettings::default(), seed());
        let net = Net::new(engine, Clock::start()).map_err(Stop::system("can't poll"))?;
        let give_up_at = net.now().after(client.timeout_ms);
        Ok(Visit { net, give_up_at, timeout_ms: client.timeout_ms })
    }

    fn ask(&mut self, node: SocketAddr, request: Request) -> Result<Reply, Stop> {
        let operation = Operation::Ask { to: node, request };
        let left_ms = self.give_up_at.since(self.net.now());
        let reply = self.net.operation::<Service, _>(None, operation, left_ms, Some);
        match reply.map_err(Stop::system("can't poll"))? {
            None => Err(Stop::new(exit::TRY_AGAIN, format!("no answer from {node} within {} ms", self.timeout_ms))),
            Some(Reply::Unreachable) => Err(Stop::new(
                exit::UNAVAILABLE,
                format!("no dayfly node answers at {node}: nobody listens there, or it is not a sealed listener"),
            )),
            Some(Reply::Error(code, text)) => {
                let exit = match ErrorCode::from_code(code) {
                    Some(ErrorCode::Busy | ErrorCode::Full) => exit::TRY_AGAIN,
                    _ => exit::UNAVAILABLE,
                };
                let text: String = text.chars().filter(|c| !c.is_control()).collect();
                Err(Stop::new(exit, format!("{node} says: {text}")))
            }
            Some(reply) => Ok(reply),
        }
    }

    /// Runs a lookup for nodes near `key` to its end, or as far as there is time.
    fn finish(&mut self, lookup: &mut Lookup, key: Id) -> Result<(), Stop> {
        let mut waiting: Vec<(CallId, Contact, Time)> = Vec::new();
        while !lookup.is_finished() && self.net.now() < self.give_up_at {
            while let Some(contact) = lookup.next_to_ask() {
                let operation = Operation::Ask { to: contact.addr, request: Request::FindNode(key) };
                match self.net.start::<Service>(None, operation) {
                    Some(call) => waiting.push((call, contact, self.net.now().after(SLOW_MS))),
                    None => lookup.passed_over(&contact.id),
                }
            }
            let now = self.net.now();
            let wake_at =
                waiting.iter().map(|(.., slow_at)| *slow_at).filter(|at| *at > now).fold(self.give_up_at, Time::min);
            self.net.turn(Some(wake_at)).map_err(Stop::system("can't poll"))?;
            let now = self.net.now();
            waiting.retain(|(call, contact, slow_at)| {
                match self.net.next_event::<Service>(*call) {
                    Some(Reply::Nodes(contacts)) => {
                        lookup.answered(contact, &contacts, |_| true);
                    }
                    Some(_) => lookup.failed(&contact.id),
                    None if *slow_at <= now => {
                        lookup.slow(&contact.id);
                        return true;
                    }
                    None => return true,
                }
                false
            });
        }
        waiting.iter().for_each(|(call, ..)| self.net.cancel::<Service>(*call));
        Ok(())
    }
}

fn ping(client: &Client, name: Option<&str>) -> Result<Pong, Stop> {
    let node = node(name)?;
    let start = Instant::now();
    let Reply::Pong = ask(client, node, Request::Ping(seed() as u32))? else {
        return unexpected(node);
    };
    Ok(Pong { address: node, id: Some(node_id(node)), seen_as: None, time: start.elapsed() })
}

fn find_node(client: &Client, name: Option<&str>, key: Id) -> Result<Vec<Contact>, Stop> {
    let node = node(name)?;
    match ask(client, node, Request::FindNode(key))? {
        Reply::Nodes(contacts) => Ok(contacts),
        _ => unexpected(node),
    }
}
