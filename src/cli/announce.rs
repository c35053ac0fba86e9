//! `dayfly announce`: announces this host under a key of a hyperdht network, until a signal.

use std::net::{SocketAddr, SocketAddrV4};

use super::json::Object;
use super::visit::Client;
use super::visit::hyperdht::{Visit, options};
use super::{Outcome, Stop, duration_ms, exit, number, print, tell};
use crate::dialect::hyperdht::operation::{Advertisement, Operation};
use crate::dialect::sealed::key_of;
use crate::id::Id;
use crate::limits::{ANNOUNCE_AGAIN_MAX_MS, ANNOUNCE_AGAIN_MS};
use crate::net::socket::seed;

const HELP: &str = "\
Usage: dayfly announce [options] KEY
Announces this host under KEY to the 20 nodes of a hyperdht network that are nearest to it, and again every four to five
minutes, until SIGINT or SIGTERM; then takes it back. Prints 'announced KEY nodes=N address=ADDRESS' each time.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256. The address is the one that others see us at,
with the port of --port, or without it the port of the command's own socket, which answers hole punches.
Exit codes: 0 taken back, or announced with --once; 64 usage; 68 unknown host; 69 no node answers, or none accepts it;
75 not done in time.

Examples:
  dayfly announce --dialect hyperdht --node 127.0.0.1:49737 --port 8080 my-service
  dayfly announce --node 127.0.0.1:49737 --port 8080 --local 192.168.1.7:8080 --once my-service
";

pub(super) fn run(words: &[String]) -> Outcome {
    let mut options = options();
    options.optopt("", "port", "the port to announce (default: that of the command's socket)", "N");
    options.optopt("", "local", "our address in our own network", "IP:PORT");
    options.optopt(
        "",
        "every",
        "announce again after this long (default a random time between 4 and 5 minutes)",
        "TIME",
    );
    options.optflag("", "once", "announce once, and leave the record until it expires");
    let Some(client) = Client::parse(options, words, HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.arguments(["KEY"])?;
    let port = number(&client.matches, "port", 0, 1, u16::MAX)?;
    let every_ms = client.matches.opt_str("every").map(|text| duration_ms("every", &text)).transpose()?;
    let (key, own) = (key_of(key), Advertisement { port, local: local(&client)? });
    let mut visit = Visit::begin(&client)?;
    visit.handle_signals()?;
    let is_once = client.matches.opt_present("once");
    let mut random = fastrand::Rng::with_seed(seed());
    let mut is_announced = false;
    loop {
        match visit.run(Operation::Announce(key, own)) {
            Ok((_, _, nodes)) => {
                let seen = visit.ask_seen_as();
                let address = SocketAddr::new(seen.ip(), if port == 0 { seen.port() } else { port });
                report(&client, "announced", &key, nodes, Some(address))?;
                is_announced = true;
            }
            // Some nodes may have stored it already, so it is taken back below.
            Err(_) if visit.is_signalled() => {}
            // After a first success it is tried again until a signal.
            Err(stop) if is_announced => tell(&format!("dayfly: not announced again: {}", stop.line)),
            Err(stop) => return Err(stop),
        }
        if is_once && !visit.is_signalled() {
            return Ok(exit::OK);
        }
        if visit.serve_for(every_ms.unwrap_or_else(|| random.u64(ANNOUNCE_AGAIN_MS..ANNOUNCE_AGAIN_MAX_MS)))? {
            let (_, _, nodes) = visit.run(Operation::Unannounce(key, own))?;
            report(&client, "unannounced", &key, nodes, None)?;
            return Ok(exit::OK);
        }
    }
}

/// Prints that so many nodes have accepted an announcement or its end, which `event` names.
pub(super) fn report(
    client: &Client,
    event: &str,
    key: &Id,
    nodes: usize,
    address: Option<SocketAddr>,
) -> Result<(), Stop> {
    let line = if client.json {
        let object = Object::default().text("event", event).text("key", &key.to_string());
        let object = object.raw("nodes", &nodes.to_string());
        match address {
            Some(address) => object.text("address", &address.to_string()).finish(),
            None => object.finish(),
        }
    } else {
        let address = address.map_or(String::new(), |address| format!(" address={address}"));
        format!("{event} {key} nodes={nodes}{address}")
    };
    print(&format!("{line}\n"))
}

/// The address of `--local`.
fn local(client: &Client) -> Result<Option<SocketAddrV4>, Stop> {
    let parse = |text: String| {
        let parsed = text.parse().ok().filter(|local: &SocketAddrV4| local.port() != 0);
        parsed.ok_or_else(|| Stop::usage(format_args!("--local takes IPv4:PORT, not '{text}'")))
    };
    client.matches.opt_str("local").map(parse).transpose()
}
