//! `dayfly get`: finds a value in the network through one node; writes the value, and nothing else, to stdout.

use super::find::{not_found, print_value};
use super::json::Object;
use super::visit::{Client, sealed, unexpected};
use super::{Outcome, exit, print};
use crate::dialect::sealed::key_of;
use crate::dialect::sealed::operation::Reply;
use crate::dialect::sealed::request::Request;

const HELP: &str = "\
Usage: dayfly get [options] KEY
Finds the value of KEY and writes it, and nothing else, to stdout.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256.
Exit codes: 0 found; 1 nobody has it; 64 usage; 68 unknown host; 69 no node there; 75 busy or no answer in time.

Examples:
  dayfly get greeting
  dayfly get --node 127.0.0.1:6501 --json greeting
";

pub(super) fn run(words: &[String]) -> Outcome {
    let Some(client) = Client::parse(sealed::options(), words, HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.arguments(["KEY"])?;
    let (key, node) = (key_of(key), sealed::node(client.node()?.as_deref())?);
    match sealed::ask(&client, node, Request::Get(key))? {
        Reply::Success(value) => print_value(&key, &value, client.json),
        Reply::Missing if client.json => {
            print(&format!("{}\n", Object::default().text("key", &key.to_string()).raw("found", "false").finish()))?;
            Ok(exit::NOT_FOUND)
        }
        Reply::Missing => not_found(&key),
        _ => unexpected(node),
    }
}
