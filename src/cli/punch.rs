//! `dayfly punch`: reaches a hyperdht node behind a NAT by way of another node.

use super::visit::hyperdht::{Visit, check_dialect, json_of, node, with_dialect};
use super::visit::{Client, common_options, id_text};
use super::{Outcome, Stop, exit, print};
use crate::dialect::hyperdht::operation::Operation;

const HELP: &str = "\
Usage: dayfly punch [options] --referrer HOST[:PORT] HOST[:PORT]
Reaches a hyperdht node behind a NAT: pings it, and has the referrer, a node that is in touch with it, tell it to
answer. Prints 'pong ADDRESS id=HEX' with the address that the answer came from.

Exit codes: 0 it answered; 64 usage; 68 unknown host; 69 it did not answer.

Example:
  dayfly punch --referrer 203.0.113.5:49737 198.51.100.7:40123
";

pub(super) fn run(words: &[String]) -> Outcome {
    let mut options = with_dialect(common_options());
    options.optopt("", "referrer", "a node that is in touch with the peer", "HOST[:PORT]");
    let Some(client) = Client::parse(options, words, HELP)? else {
        return Ok(exit::OK);
    };
    let [peer] = client.arguments(["HOST:PORT"])?;
    let Some(referrer) = client.matches.opt_str("referrer") else {
        return Err(Stop::usage("punch needs --referrer HOST:PORT"));
    };
    check_dialect(&client)?;
    let (peer, referrer) = (node(Some(peer))?, node(Some(&referrer))?);
    let mut visit = Visit::to(vec![peer], client.timeout_ms)?;
    let (answers, ..) = visit.run(Operation::HolePunch { peer, referrer })?;
    for answer in &answers {
        let line = match client.json {
            true => json_of(answer),
            false => format!("pong {} id={}", answer.addr, id_text(answer.id)),
        };
        print(&format!("{line}\n"))?;
    }
    Ok(exit::OK)
}
