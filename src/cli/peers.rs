//! `dayfly lookup`, `announce`, `unannounce`, `query` and `punch`: who is to be found under a key of a hyperdht
//! network, and what else its nodes do for others.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::client::{Client, common_options, duration_ms};
use super::hyperdht::{Visit, check_dialect, client_options, node as node_named, options_of_one};
use super::json::{Object, array};
use super::{Outcome, Stop, exit, number, print, tell};
use crate::dialect::hyperdht::operation::{Advertisement, Answer, Operation};
use crate::dialect::sealed::key_of;
use crate::id::{Id, to_hex};
use crate::limits::{ANNOUNCE_AGAIN_MAX_MS, ANNOUNCE_AGAIN_MS, DATAGRAM_BYTES};
use crate::net::socket::seed;

const LOOKUP_HELP: &str = "\
Usage: dayfly lookup [options] KEY
Asks a hyperdht network who has announced itself under KEY: prints a line 'peer ADDRESS' each, and with --local a line
'local ADDRESS' for each that is in our own network (the same /16).

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256.
Exit codes: 0 found; 1 nobody has; 64 usage; 68 unknown host; 69 no node answers; 75 not done in time.

Example:
  dayfly lookup --dialect hyperdht --node 127.0.0.1:49737 my-service
";

const ANNOUNCE_HELP: &str = "\
Usage: dayfly announce [options] KEY
Announces this host under KEY to the 20 nodes of a hyperdht network that are nearest to it, and again every four to five
minutes, until SIGINT or SIGTERM; then takes it back. Prints 'announced KEY nodes=N address=ADDRESS' each time.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256. The address is the one that others see, with
the port of --port, or else that of the command's own socket, at which it answers hole punches.
Exit codes: 0 taken back, or announced with --once; 64 usage; 68 unknown host; 69 no node answers, or none takes it;
75 not done in time.

Examples:
  dayfly announce --dialect hyperdht --node 127.0.0.1:49737 --port 8080 my-service
  dayfly announce --node 127.0.0.1:49737 --port 8080 --local 192.168.1.7:8080 --once my-service
";

const UNANNOUNCE_HELP: &str = "\
Usage: dayfly unannounce [options] --port N KEY
Takes back what this host has announced under KEY with the same --port.

Exit codes: 0 taken back; 64 usage; 68 unknown host; 69 no node answers; 75 not done in time.

Example:
  dayfly unannounce --dialect hyperdht --node 127.0.0.1:49737 --port 8080 my-service
";

const QUERY_HELP: &str = "\
Usage: dayfly query [options] COMMAND KEY [VALUE]
Sends a user's COMMAND to the nodes of a hyperdht network on the way to KEY, or with --update to the 20 nearest, with
the token that each gave. VALUE is sent as it is; prints a line 'answer ADDRESS id=HEX value=HEX' for each answer, '-'
for no value: a node that does not know COMMAND answers without one.

Exit codes: 0 answered; 64 usage; 68 unknown host; 69 no node answers; 75 not done in time.

Example:
  dayfly query --node 127.0.0.1:49737 hello d5d0d35dc5d178fc919852f27138a42ad2e81575951b1e9fb38c2c21cf747cde hi
";

const PUNCH_HELP: &str = "\
Usage: dayfly punch [options] --referrer HOST[:PORT] HOST[:PORT]
Opens a way to a hyperdht node behind a NAT: pings it, and has the referrer, with which it is in touch, tell it to
answer. Prints 'pong ADDRESS id=HEX' with the address that it answered from.

Exit codes: 0 it answered; 64 usage; 68 unknown host; 69 it did not answer.

Example:
  dayfly punch --referrer 203.0.113.5:49737 198.51.100.7:40123
";

pub(super) fn run_lookup(words: &[String]) -> Outcome {
    let mut options = client_options();
    options.optopt("", "local", "our address in our own network", "IP[:PORT]");
    let Some(client) = Client::parse(options, words, LOOKUP_HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.words(["KEY"])?;
    let (key, own) = (key_of(key), Advertisement { port: 0, local: local(&client, false)? });
    let mut answers = Vec::new();
    let outcome = Visit::begin(&client)?.collect(Operation::Lookup(key, own), &mut answers);
    let has_found = answers.iter().any(|answer| !answer.peers.is_empty());
    let answered = match outcome {
        Ok((answered, _)) => answered,
        // What was found until then is worth something.
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
        let object = object.raw("peers", &addresses(&peers)).raw("local_peers", &addresses(&locals));
        let nodes = array(answers.iter().filter(|answer| !answer.peers.is_empty()).map(node));
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

pub(super) fn run_announce(words: &[String]) -> Outcome {
    let mut options = client_options();
    options.optopt("", "port", "the port to announce (default: that of the command's socket)", "N");
    options.optopt("", "local", "our address in our own network", "IP:PORT");
    options.optopt(
        "",
        "every",
        "announce again after this long (default a random time between 4 and 5 minutes)",
        "TIME",
    );
    options.optflag("", "once", "announce once and leave the record to its time");
    let Some(client) = Client::parse(options, words, ANNOUNCE_HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.words(["KEY"])?;
    let port = number(&client.matches, "port", 0, 1, u16::MAX)?;
    let every_ms = client.matches.opt_str("every").map(|text| duration_ms("every", &text)).transpose()?;
    let (key, own) = (key_of(key), Advertisement { port, local: local(&client, true)? });
    let mut visit = Visit::begin(&client)?;
    visit.handle_signals()?;
    let is_once = client.matches.opt_present("once");
    let mut random = fastrand::Rng::with_seed(seed());
    let mut is_announced = false;
    loop {
        match visit.run(Operation::Announce(key, own)) {
            Ok((_, _, nodes)) => {
                let seen = seen_as(&mut visit);
                let address = SocketAddr::new(seen.ip(), if port == 0 { seen.port() } else { port });
                report(&client, "announced", &key, nodes, Some(address))?;
                is_announced = true;
            }
            // Some nodes may have taken it already.
            Err(_) if visit.is_signalled() => {}
            // One that has worked is tried again, until somebody ends it.
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

pub(super) fn run_unannounce(words: &[String]) -> Outcome {
    let mut options = client_options();
    options.optopt("", "port", "the port that was announced", "N");
    let Some(client) = Client::parse(options, words, UNANNOUNCE_HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.words(["KEY"])?;
    let port = number(&client.matches, "port", 0, 1, u16::MAX)?;
    if port == 0 {
        return Err(Stop::usage("unannounce needs --port N, the port that was announced"));
    }
    let key = key_of(key);
    let (_, _, nodes) = Visit::begin(&client)?.run(Operation::Unannounce(key, Advertisement { port, local: None }))?;
    report(&client, "unannounced", &key, nodes, None)?;
    Ok(exit::OK)
}

pub(super) fn run_query(words: &[String]) -> Outcome {
    let mut options = client_options();
    options.optflag("", "update", "send it as an update, to the nearest only");
    let Some(client) = Client::parse(options, words, QUERY_HELP)? else {
        return Ok(exit::OK);
    };
    let (command, key, value) = match &client.matches.free[..] {
        [command, key] => (command.clone(), key_of(key), None),
        [command, key, value] => (command.clone(), key_of(key), Some(value.clone().into_bytes())),
        other => return Err(Stop::usage(format_args!("expected COMMAND KEY [VALUE], got {} words", other.len()))),
    };
    if command.is_empty() || command.starts_with('_') {
        return Err(Stop::usage(format_args!("'{command}' is no user's COMMAND: those that begin with '_' are taken")));
    }
    if value.as_ref().map_or(0, Vec::len) + command.len() > DATAGRAM_BYTES / 2 {
        return Err(Stop::usage(format_args!("COMMAND and VALUE are larger than {} bytes", DATAGRAM_BYTES / 2)));
    }
    let is_update = client.matches.opt_present("update");
    let operation = Operation::Query { command, target: key, value, is_update };
    let (answers, answered, _) = Visit::begin(&client)?.run(operation)?;
    if client.json {
        let object = Object::default().text("key", &key.to_string()).raw("answered", &answered.to_string());
        print(&format!("{}\n", object.raw("nodes", &array(answers.iter().map(node))).finish()))?;
    } else {
        let value = |answer: &Answer| answer.value.as_deref().map_or("-".into(), to_hex);
        let line = |a: &Answer| format!("answer {} id={} value={}\n", a.addr, id_text(a.id), value(a));
        print(&answers.iter().map(line).collect::<String>())?;
    }
    Ok(exit::OK)
}

pub(super) fn run_punch(words: &[String]) -> Outcome {
    let mut options = options_of_one(common_options());
    options.optopt("", "referrer", "a node with which the peer is in touch", "HOST:PORT");
    let Some(client) = Client::parse(options, words, PUNCH_HELP)? else {
        return Ok(exit::OK);
    };
    let [peer] = client.words(["HOST:PORT"])?;
    let Some(referrer) = client.matches.opt_str("referrer") else {
        return Err(Stop::usage("punch needs --referrer HOST:PORT"));
    };
    check_dialect(&client)?;
    let (peer, referrer) = (node_named(Some(peer.into()))?, node_named(Some(referrer))?);
    let mut visit = Visit::to(vec![peer], client.timeout_ms)?;
    let (answers, ..) = visit.run(Operation::HolePunch { peer, referrer })?;
    for answer in &answers {
        let line = match client.json {
            true => node(answer),
            false => format!("pong {} id={}", answer.addr, id_text(answer.id)),
        };
        print(&format!("{line}\n"))?;
    }
    Ok(exit::OK)
}

/// How the first of the nodes that says so sees us.
fn seen_as(visit: &mut Visit) -> SocketAddr {
    let (own, nodes) = (visit.own, visit.nodes.clone());
    let seen = |node| visit.run(Operation::Ping(node)).ok()?.0.pop().and_then(|pong| visit.seen_as(&pong));
    nodes.into_iter().find_map(seen).unwrap_or(own)
}

fn report(client: &Client, what: &str, key: &Id, nodes: usize, address: Option<SocketAddr>) -> Result<(), Stop> {
    let line = if client.json {
        let object = Object::default().text("event", what).text("key", &key.to_string());
        let object = object.raw("nodes", &nodes.to_string());
        match address {
            Some(address) => object.text("address", &address.to_string()).finish(),
            None => object.finish(),
        }
    } else {
        let address = address.map_or(String::new(), |address| format!(" address={address}"));
        format!("{what} {key} nodes={nodes}{address}")
    };
    print(&format!("{line}\n"))
}

/// The address of `--local`.
fn local(client: &Client, needs_port: bool) -> Result<Option<SocketAddrV4>, Stop> {
    let Some(text) = client.matches.opt_str("local") else {
        return Ok(None);
    };
    let bare = text.parse().map(|ip: Ipv4Addr| SocketAddrV4::new(ip, 0));
    match text.parse().or(bare) {
        Ok(local) if local.port() != 0 || !needs_port => Ok(Some(local)),
        _ if needs_port => Err(Stop::usage(format_args!("--local takes IPv4:PORT, not '{text}'"))),
        _ => Err(Stop::usage(format_args!("--local takes an IPv4 address, with a port or without, not '{text}'"))),
    }
}

fn distinct(addrs: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addrs: Vec<SocketAddr> = addrs.collect();
    addrs.sort_unstable();
    addrs.dedup();
    addrs
}

fn node(answer: &Answer) -> String {
    let locals = distinct(answer.local_peers.iter().map(|addr| SocketAddr::V4(*addr)));
    let object = Object::default().text("id", &id_text(answer.id)).text("address", &answer.addr.to_string());
    let object = object.raw("peers", &addresses(&answer.peers)).raw("local_peers", &addresses(&locals));
    let value = answer.value.as_deref().map_or("null".into(), |value| format!("\"{}\"", to_hex(value)));
    object.raw("value_hex", &value).finish()
}

pub(super) fn id_text(id: Option<Id>) -> String {
    id.map_or("-".into(), |id| id.to_string())
}

fn addresses(addrs: &[SocketAddr]) -> String {
    array(addrs.iter().map(|addr| format!("\"{addr}\"")))
}
