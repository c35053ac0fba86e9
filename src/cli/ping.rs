//! `dayfly ping`: is there a node, and how fast does it answer?

#[cfg(feature = "hyperdht")]
use std::net::SocketAddr;
use std::time::Instant;

use super::client::{Client, DEFAULT_NODE, options_of_any, unexpected};
#[cfg(feature = "hyperdht")]
use super::hyperdht;
use super::json::Object;
use super::{Outcome, exit, print, resolve};
use crate::dialect::sealed::node_id;
use crate::dialect::sealed::operation::Reply;
use crate::dialect::sealed::request::Request;
use crate::net::socket::seed;

const HELP: &str = "\
Usage: dayfly ping [options] [HOST:PORT]
Connects to a node, sends a PING and waits for the PONG. With --dialect hyperdht, by UDP.

Exit codes: 0 answered; 64 usage; 68 unknown host; 69 no node there; 75 no answer in time.

Examples:
  dayfly ping 127.0.0.1:6500
  dayfly ping --dialect hyperdht 127.0.0.1:49737
";

pub(super) fn run(words: &[String]) -> Outcome {
    let Some(client) = Client::parse(options_of_any(), words, HELP)? else {
        return Ok(exit::OK);
    };
    let name = match &client.matches.free[..] {
        [] => client.one_node()?,
        _ => Some(client.words(["HOST:PORT"])?[0].to_string()),
    };
    #[cfg(feature = "hyperdht")]
    if hyperdht::is_asked_for(&client)? {
        return ping_hyperdht(&client, hyperdht::node(name)?);
    }
    let node = resolve(name.as_deref().unwrap_or(DEFAULT_NODE))?;
    let start = Instant::now();
    let Reply::Pong = client.call(node, Request::Ping(seed() as u32))? else {
        return unexpected(node);
    };
    let (address, id) = (node.to_string(), node_id(node).to_string());
    let time_ms = time_ms(start);
    let line = if client.json {
        Object::default().text("address", &address).text("id", &id).raw("time_ms", &time_ms).finish()
    } else {
        format!("pong {address} id={id} time_ms={time_ms}")
    };
    print(&format!("{line}\n"))?;
    Ok(exit::OK)
}

/// Milliseconds since `start`, to the microsecond.
fn time_ms(start: Instant) -> String {
    let micros = start.elapsed().as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

/// Says also how the node sees us, and that it has no id where it tells none.
#[cfg(feature = "hyperdht")]
fn ping_hyperdht(client: &Client, node: SocketAddr) -> Outcome {
    use super::peers::id_text;
    use crate::dialect::hyperdht::operation::Operation;

    let mut visit = hyperdht::Visit::to(vec![node], client.timeout_ms)?;
    let start = Instant::now();
    let (mut answers, ..) = visit.run(Operation::Ping(node)).map_err(|stop| hyperdht::unanswered(stop, node))?;
    let (Some(answer), time_ms) = (answers.pop(), time_ms(start)) else {
        return unexpected(node);
    };
    let seen_as = visit.seen_as(&answer);
    let (address, id) = (answer.addr.to_string(), id_text(answer.id));
    let seen_as = seen_as.map_or("-".into(), |addr| addr.to_string());
    let line = if client.json {
        let object = Object::default().text("address", &address).text("id", &id).text("seen_as", &seen_as);
        object.raw("time_ms", &time_ms).finish()
    } else {
        format!("pong {address} id={id} seen_as={seen_as} time_ms={time_ms}")
    };
    print(&format!("{line}\n"))?;
    Ok(exit::OK)
}
