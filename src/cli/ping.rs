//! `dayfly ping`: is there a node, and how fast does it answer?

use std::time::Instant;

use super::client::{Client, options, unexpected};
use super::json::Object;
use super::{Outcome, exit, print, resolve};
use crate::dialect::sealed::node_id;
use crate::dialect::sealed::request::Request;
use crate::engine::Reply;
use crate::net::socket::seed;

const HELP: &str = "\
Usage: dayfly ping [options] [HOST:PORT]
Connects to a node, sends a PING and waits for the PONG.

Exit codes: 0 answered; 64 usage; 68 unknown host; 69 no node there; 75 no answer in time.

Example:
  dayfly ping 127.0.0.1:6500
";

pub(super) fn run(words: &[String]) -> Outcome {
    let Some(client) = Client::parse(options(), words, HELP)? else {
        return Ok(exit::OK);
    };
    let node = match &client.matches.free[..] {
        [] => client.node()?,
        _ => resolve(client.words(["HOST:PORT"])?[0])?,
    };
    let start = Instant::now();
    let Reply::Pong = client.call(node, Request::Ping(seed() as u32))? else {
        return unexpected(node);
    };
    let (address, id) = (node.to_string(), node_id(node).to_string());
    let micros = start.elapsed().as_micros();
    let time_ms = format!("{}.{:03}", micros / 1000, micros % 1000);
    let line = if client.json {
        Object::default().text("address", &address).text("id", &id).raw("time_ms", &time_ms).finish()
    } else {
        format!("pong {address} id={id} time_ms={time_ms}")
    };
    print(&format!("{line}\n"))?;
    Ok(exit::OK)
}
