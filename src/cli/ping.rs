//! `dayfly ping`: is there a node, and how fast does it answer?

use super::json::Object;
use super::visit::{Client, Pong, id_text, options_of_any, ping};
use super::{Outcome, exit, print};

const HELP: &str = "\
Usage: dayfly ping [options] [HOST:PORT]
Sends a PING to a node and waits for its PONG: over TCP, or with --dialect hyperdht over UDP.

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
        [] => client.node()?,
        _ => Some(client.arguments(["HOST:PORT"])?[0].to_string()),
    };
    let Pong { address, id, seen_as, time } = ping(&client, name.as_deref())?;
    let seen_as = seen_as.map(|addr| addr.map_or("-".into(), |addr| addr.to_string()));
    // To the microsecond.
    let time_ms = format!("{}.{:03}", time.as_micros() / 1000, time.as_micros() % 1000);
    let line = if client.json {
        let object = Object::default().text("address", &address.to_string()).text("id", &id_text(id));
        let object = seen_as.into_iter().fold(object, |object, addr| object.text("seen_as", &addr));
        object.raw("time_ms", &time_ms).finish()
    } else {
        let seen_as = seen_as.map_or(String::new(), |addr| format!(" seen_as={addr}"));
        format!("pong {address} id={}{seen_as} time_ms={time_ms}", id_text(id))
    };
    print(&format!("{line}\n"))?;
    Ok(exit::OK)
}
