//! `dayfly status`: what a node on this host reports about itself.

use std::io::ErrorKind;
use std::time::Duration;

use super::json::Object;
use super::visit::{Client, sealed};
use super::{Outcome, Stop, exit, no_arguments, print};
use crate::net::status::read;

const HELP: &str = "\
Usage: dayfly status [options]
Prints what the node at --node reports about itself: sizes, and how often each kind of fault occurred, by name.

The node must run on this host (in this network namespace) and as the same user, unless you are root.
Exit codes: 0 answered; 64 usage; 68 unknown host; 69 no node of ours there; 75 no answer in time.

Examples:
  dayfly status
  dayfly status --node 127.0.0.1:6501 --json
";

pub(super) fn run(words: &[String]) -> Outcome {
    let Some(client) = Client::parse(sealed::options(), words, HELP)? else {
        return Ok(exit::OK);
    };
    no_arguments(&client.matches)?;
    let node = sealed::node(client.node()?.as_deref())?;
    let report = read(node, Duration::from_millis(client.timeout_ms)).map_err(|e| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            Stop::new(exit::TRY_AGAIN, format!("no status from {node} in time"))
        }
        ErrorKind::PermissionDenied => Stop::new(exit::UNAVAILABLE, format!("the node on {node} is another user's")),
        _ => Stop::new(exit::UNAVAILABLE, format!("no dayfly node on this host listens on {node}")),
    })?;
    if client.json {
        let members = report.lines().filter_map(|line| line.split_once(' '));
        let object = members.fold(Object::default(), |object, (name, value)| match value.parse::<u64>() {
            Ok(_) => object.raw(name, value),
            Err(_) => object.text(name, value),
        });
        print(&format!("{}\n", object.finish()))?;
    } else {
        print(&report)?;
    }
    Ok(exit::OK)
}
