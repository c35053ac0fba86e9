//! `dayfly unannounce`: takes back an announcement of this host in a hyperdht network.

use super::announce::report;
use super::visit::Client;
use super::visit::hyperdht::{Visit, options};
use super::{Outcome, Stop, exit, number};
use crate::dialect::hyperdht::operation::{Advertisement, Operation};
use crate::dialect::sealed::key_of;

const HELP: &str = "\
Usage: dayfly unannounce [options] --port N KEY
Takes back what this host has announced under KEY with the same --port.

Exit codes: 0 taken back; 64 usage; 68 unknown host; 69 no node answers; 75 not done in time.

Example:
  dayfly unannounce --dialect hyperdht --node 127.0.0.1:49737 --port 8080 my-service
";

pub(super) fn run(words: &[String]) -> Outcome {
    let mut options = options();
    options.optopt("", "port", "the port that was announced", "N");
    let Some(client) = Client::parse(options, words, HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.arguments(["KEY"])?;
    let port = number(&client.matches, "port", 0, 1, u16::MAX)?;
    if port == 0 {
        return Err(Stop::usage("unannounce needs --port N, the port that was announced"));
    }
    let key = key_of(key);
    let (_, _, nodes) = Visit::begin(&client)?.run(Operation::Unannounce(key, Advertisement { port, local: None }))?;
    report(&client, "unannounced", &key, nodes, None)?;
    Ok(exit::OK)
}
