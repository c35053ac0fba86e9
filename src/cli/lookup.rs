//! `dayfly lookup`: who has announced itself under a key of a hyperdht network?

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::json::{Object, array};
use super::visit::Client;
use super::visit::hyperdht::{Visit, distinct, json_of, json_of_addresses, options};
use super::{Outcome, Stop, exit, print, tell};
use crate::dialect::hyperdht::operation::{Advertisement, Operation};
use crate::dialect::sealed::key_of;

const HELP: &str = "\
Usage: dayfly lookup [options] KEY
Asks a hyperdht network who has announced itself under KEY. Prints a line 'peer ADDRESS' for each, and with --local a
line 'local ADDRESS' for each that is in our own network (the same /16).

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256.
Exit codes: 0 found; 1 nobody is announced; 64 usage; 68 unknown host; 69 no node answers; 75 not done in time.

Example:
  dayfly lookup --dialect hyperdht --node 127.0.0.1:49737 my-service
";

pub(super) fn run(words: &[String]) -> Outcome {
    let mut options = options();
    options.optopt("", "local", "our address in our own network", "IP[:PORT]");
    let Some(client) = Client::parse(options, words, HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.arguments(["KEY"])?;
    let (key, own) = (key_of(key), Advertisement { port: 0, local: local(&client)? });
    let mut answers = Vec::new();
    let outcome = Visit::begin(&client)?.collect(Operation::Lookup(key, own), &mut answers);
    let has_found = answers.iter().any(|answer| !answer.peers.is_empty());
    let answered = match outcome {
        Ok((answered, _)) => answered,
        // What was found before the failure is still worth showing.
        Err(stop) if has_found => {
            tell(&format!("dayfly: {}", stop.line));
            answers.len()
        }
        Err(stop) => return Err(stop),
    };
    let peers = distinct(answers.iter().flat_map(|answer| &answer.peers).copied());
    let locals = distinct(answers.iter().flat_map(|answer| &answer.local_peers).map(|addr| SocketAddr::V4(*addr)));
    if client.json {
        let object = Object::default().text("key", &key.to_string()).raw("found", &has_found.to_string());
        let object = object.raw("peers", &json_of_addresses(&peers)).raw("local_peers", &json_of_addresses(&locals));
        let nodes = array(answers.iter().filter(|answer| !answer.peers.is_empty()).map(json_of));
        let object = object.raw("answered", &answered.to_string()).raw("nodes", &nodes);
        print(&format!("{}\n", object.finish()))?;
    } else {
        let lines: String = peers.iter().map(|addr| format!("peer {addr}\n")).collect();
        print(&(lines + &locals.iter().map(|addr| format!("local {addr}\n")).collect::<String>()))?;
    }
    if !has_found {
        tell(&format!("dayfly: nobody is announced under {key}"));
        return Ok(exit::NOT_FOUND);
    }
    Ok(exit::OK)
}

/// The address of `--local`; a port is allowed and says nothing.
fn local(client: &Client) -> Result<Option<SocketAddrV4>, Stop> {
    let parse = |text: String| {
        let bare = text.parse().map(|ip: Ipv4Addr| SocketAddrV4::new(ip, 0));
        let wrong = |_| Stop::usage(format_args!("--local takes an IPv4 address or IPv4:PORT, not '{text}'"));
        text.parse().or(bare).map_err(wrong)
    };
    client.matches.opt_str("local").map(parse).transpose()
}
