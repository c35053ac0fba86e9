//! Asking a node of the sealed dialect, as a client for the length of one command: on the same engine and loop as a node,
//! only without listeners. Never prints.

use std::net::SocketAddr;
use std::time::Instant;

use getopts::Options;

use super::{Client, Pong, Visitor, options_of, unexpected};
use crate::cli::{Stop, exit, resolve, start_logging};
use crate::contact::Contact;
use crate::dialect::Dialect;
use crate::dialect::sealed::codec::ErrorCode;
use crate::dialect::sealed::operation::{Operation, Reply};
use crate::dialect::sealed::request::Request;
use crate::dialect::sealed::service::Service;
use crate::dialect::sealed::{DEFAULT_PORT, node_id};
use crate::engine::{Engine, EngineSettings};
use crate::id::Id;
use crate::net::Net;
use crate::net::clock::Clock;
use crate::net::socket::seed;

pub(super) const VISITOR: Visitor = Visitor { dialect: Dialect::Sealed, default_port: DEFAULT_PORT, ping, find_node };

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
    start_logging("error");
    let engine = Engine::new(EngineSettings::default(), seed());
    let mut net = Net::new(engine, Clock::start()).map_err(Stop::system("can't poll"))?;
    let operation = Operation::Ask { to: node, request };
    let reply = net.operation::<Service, _>(None, operation, client.timeout_ms, Some);
    match reply.map_err(Stop::system("can't poll"))? {
        None => Err(Stop::new(exit::TRY_AGAIN, format!("no answer from {node} within {} ms", client.timeout_ms))),
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
