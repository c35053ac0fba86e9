//! `dayfly put`: stores a value, given as an argument or on stdin, through one node.

use std::io::Read;

use super::json::Object;
use super::visit::{Client, sealed, unexpected};
use super::{Outcome, Stop, exit, number, print, tell};
use crate::dialect::sealed::key_of;
use crate::dialect::sealed::operation::Reply;
use crate::dialect::sealed::request::Request;
use crate::id::Id;
use crate::limits::{REPLICATION, REPLICATION_MAX, VALUE_MAX};

const HELP: &str = "\
Usage: dayfly put [options] KEY VALUE
Stores VALUE ('-': stdin) under KEY for less than ten seconds. Put '--' before a VALUE that begins with '-'.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256. Where fewer nodes hold the value than were
asked for, a line on stderr says how many, and --json always does ('requested', 'copies').
Exit codes: 0 stored; 64 usage; 68 unknown host; 69 not stored; 75 busy, full or no answer in time.

Examples:
  dayfly put greeting hello
  dayfly put --ttl 5 --replication 5 greeting - < file
";

/// Who is to hold the value.
#[derive(Copy, Clone)]
enum Holders {
    /// The node that is asked.
    Here,
    /// So many nodes nearest to the key.
    Nearest(u8),
}

pub(super) fn run(words: &[String]) -> Outcome {
    let mut options = sealed::options();
    options.optopt("", "ttl", "seconds to live; more than 10 means 10 (default 10)", "SECONDS");
    let replication =
        format!("nodes to hold it, those nearest to KEY, at most {REPLICATION_MAX} (default {REPLICATION})");
    options.optopt("", "replication", &replication, "N");
    options.optflag("", "here", "only the node that is asked holds it");
    let Some(client) = Client::parse(options, words, HELP)? else {
        return Ok(exit::OK);
    };
    let [key, value] = client.arguments(["KEY", "VALUE"])?;
    let ttl_s = number(&client.matches, "ttl", 10, 1, u16::MAX)?;
    let holders = holders(&client)?;
    let (key, value, node) = (key_of(key), read_value(value)?, sealed::node(client.node()?.as_deref())?);
    if value.len() > VALUE_MAX {
        return Err(Stop::usage(format_args!("the value is larger than {VALUE_MAX} bytes")));
    }
    let requested = match holders {
        Holders::Here => 1,
        Holders::Nearest(copies) => copies,
    };
    let put = Request::Put { ttl_s, replication: requested, key, value: value.into() };
    let copies = match holders {
        Holders::Nearest(1) => {
            sealed::put_nearest(&client, node, &put, key)?;
            1
        }
        Holders::Here | Holders::Nearest(_) => match sealed::ask(&client, node, put)? {
            Reply::Success(number) => match *number {
                [] => requested,
                [copies] if copies > 0 => copies,
                _ => return unexpected(node),
            },
            _ => return unexpected(node),
        },
    };
    report(&client, &key, copies, requested)
}

/// Says that `copies` nodes hold the value.
fn report(client: &Client, key: &Id, copies: u8, requested: u8) -> Outcome {
    if client.json {
        let object = Object::default().text("key", &key.to_string()).raw("stored", "true");
        let object = object.raw("requested", &requested.to_string()).raw("copies", &copies.to_string());
        print(&format!("{}\n", object.finish()))?;
    }
    if copies < requested {
        tell(&format!("stored {key} on {copies} of {requested} nodes: no others would hold it"));
    } else if !client.json {
        tell(&format!("stored {key}"));
    }
    Ok(exit::OK)
}

fn holders(client: &Client) -> Result<Holders, Stop> {
    let nearest = number(&client.matches, "replication", REPLICATION as u8, 1, REPLICATION_MAX as u8)?;
    match (client.matches.opt_present("here"), client.matches.opt_present("replication")) {
        (true, true) => Err(Stop::usage("--here is one copy: it takes no --replication")),
        (true, false) => Ok(Holders::Here),
        (false, _) => Ok(Holders::Nearest(nearest)),
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
