//! `dayfly find-node` and `dayfly find-value`: what one node knows without asking others. Also how values and contacts
//! are printed.

use std::io::IsTerminal;

use super::json::{Object, array};
use super::visit::{Client, find_node, options_of_any, sealed, unexpected};
use super::{Outcome, Stop, exit, print, print_bytes, tell};
use crate::contact::Contact;
use crate::dialect::sealed::key_of;
use crate::dialect::sealed::operation::Reply;
use crate::dialect::sealed::request::Request;
use crate::id::{Id, to_hex};

const NODE_HELP: &str = "\
Usage: dayfly find-node [options] KEY
Prints the contacts nearest to KEY that one node knows: a line 'ID ADDRESS' for each, nearest first.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256.
Exit codes: 0 answered; 64 usage; 68 unknown host; 69 no node there; 75 busy or no answer in time.

Examples:
  dayfly find-node --node 127.0.0.1:6500 d5d0d35dc5d178fc919852f27138a42ad2e81575951b1e9fb38c2c21cf747cde
  dayfly find-node --dialect hyperdht --node 127.0.0.1:49737 my-service
";

const VALUE_HELP: &str = "\
Usage: dayfly find-value [options] KEY
Writes the value of KEY to stdout if the node that is asked holds it itself.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256. If the node does not hold the value, --json
prints the contacts that it names instead.
Exit codes: 0 held; 1 not held; 64 usage; 68 unknown host; 69 no node there; 75 busy or no answer in time.

Example:
  dayfly find-value --node 127.0.0.1:6500 greeting
";

pub(super) fn run_node(words: &[String]) -> Outcome {
    let Some(client) = Client::parse(options_of_any(), words, NODE_HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.arguments(["KEY"])?;
    let key = key_of(key);
    let contacts = find_node(&client, client.node()?.as_deref(), key)?;
    if client.json {
        print_contacts(&key, &contacts)?;
    } else {
        let lines: String = contacts.iter().map(|contact| format!("{} {}\n", contact.id, contact.addr)).collect();
        print(&lines)?;
    }
    Ok(exit::OK)
}

pub(super) fn run_value(words: &[String]) -> Outcome {
    let Some(client) = Client::parse(sealed::options(), words, VALUE_HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.arguments(["KEY"])?;
    let (key, node) = (key_of(key), sealed::node(client.node()?.as_deref())?);
    match sealed::ask(&client, node, Request::FindValue(key))? {
        Reply::Success(value) => print_value(&key, &value, client.json),
        Reply::Nodes(contacts) if client.json => {
            print_contacts(&key, &contacts)?;
            Ok(exit::NOT_FOUND)
        }
        Reply::Nodes(_) => not_found(&key),
        _ => unexpected(node),
    }
}

/// Prints a value that was found: raw, or in hex within JSON.
pub(super) fn print_value(key: &Id, value: &[u8], json: bool) -> Outcome {
    if json {
        let object = Object::default().text("key", &key.to_string()).raw("found", "true");
        let object = object.raw("bytes", &value.len().to_string()).text("value_hex", &to_hex(value));
        print(&format!("{}\n", object.finish()))?;
    } else {
        print_bytes(value)?;
        if std::io::stdout().is_terminal() {
            // Only for the eye: elsewhere the output is the value and nothing else.
            print("\n")?;
        }
    }
    Ok(exit::OK)
}

/// Reports that nobody has the value.
pub(super) fn not_found(key: &Id) -> Outcome {
    tell(&format!("dayfly: nobody has {key}"));
    Ok(exit::NOT_FOUND)
}

fn print_contacts(key: &Id, contacts: &[Contact]) -> Result<(), Stop> {
    let entry =
        |c: &Contact| Object::default().text("id", &c.id.to_string()).text("address", &c.addr.to_string()).finish();
    let object = Object::default().text("key", &key.to_string()).raw("found", "false");
    print(&format!("{}\n", object.raw("contacts", &array(contacts.iter().map(entry))).finish()))
}
