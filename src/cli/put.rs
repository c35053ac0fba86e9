//! `dayfly put`: stores a value, given as an argument or on stdin, through one node.

use std::io::Read;

use super::json::Object;
use super::visit::{Client, sealed, unexpected};
use super::{Outcome, Stop, exit, number, print, tell};
use crate::dialect::sealed::key_of;
use crate::dialect::sealed::operation::Reply;
use crate::dialect::sealed::request::Request;
use crate::limits::{REPLICATION, REPLICATION_MAX, VALUE_MAX};

const HELP: &str = "\
Usage: dayfly put [options] KEY VALUE
Stores VALUE ('-': stdin) under KEY for less than ten seconds. Put '--' before a VALUE that begins with '-'.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256.
Exit codes: 0 stored; 64 usage; 68 unknown host; 69 not stored; 75 busy, full or no answer in time.

Examples:
  dayfly put greeting hello
  dayfly put --ttl 5 --replication 5 greeting - < file
";

pub(super) fn run(words: &[String]) -> Outcome {
    let mut options = sealed::options();
    options.optopt("", "ttl", "seconds to live; more than 10 means 10 (default 10)", "SECONDS");
    let replication =
        format!("nodes to hold it, at most {REPLICATION_MAX}; 1: only the node asked (default {REPLICATION})");
    options.optopt("", "replication", &replication, "N");
    let Some(client) = Client::parse(options, words, HELP)? else {
        return Ok(exit::OK);
    };
    let [key, value] = client.arguments(["KEY", "VALUE"])?;
    let ttl_s = number(&client.matches, "ttl", 10, 1, u16::MAX)?;
    let replication = number(&client.matches, "replication", REPLICATION as u8, 1, REPLICATION_MAX as u8)?;
    let (key, value, node) = (key_of(key), read_value(value)?, sealed::node(client.node()?.as_deref())?);
    if value.len() > VALUE_MAX {
        return Err(Stop::usage(format_args!("the value is larger than {VALUE_MAX} bytes")));
    }
    match sealed::ask(&client, node, Request::Put { ttl_s, replication, key, value: value.into() })? {
        Reply::Success(_) => {
            if client.json {
                print(&format!(
                    "{}\n",
                    Object::default().text("key", &key.to_string()).raw("stored", "true").finish()
                ))?;
            } else {
                tell(&format!("stored {key}"));
            }
            Ok(exit::OK)
        }
        _ => unexpected(node),
    }
}

/// The value itself, or what stdin has: at most one byte more than can be stored.
fn read_value(word: &str) -> Result<Vec<u8>, Stop> {
    if word != "-" {
        return Ok(word.as_bytes().to_vec());
    }
    let mut value = Vec::new();
    let read = std::io::stdin().take(VALUE_MAX as u64 + 1).read_to_end(&mut value);
    read.map_err(|e| Stop::new(exit::SYSTEM, format!("can't read stdin: {e}")))?;
    Ok(value)
}
