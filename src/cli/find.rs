//! `dayfly find-node` and `dayfly find-value`: what one node knows by itself, without asking others.

use std::io::IsTerminal;

use super::client::{Client, DEFAULT_NODE, not_found, options, options_of_any, unexpected};
#[cfg(feature = "hyperdht")]
use super::hyperdht;
use super::json::{Object, array};
use super::{Outcome, Stop, exit, print, print_bytes};
use crate::contact::Contact;
use crate::dialect::sealed::key_of;
use crate::dialect::sealed::operation::Reply;
use crate::dialect::sealed::request::Request;
use crate::id::{Id, to_hex};

const NODE_HELP: &str = "\
Usage: dayfly find-node [options] KEY
Prints the contacts that one node knows nearest to KEY: a line 'ID ADDRESS' each, nearest first.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256.
Exit codes: 0 answered; 64 usage; 68 unknown host; 69 no node there; 75 busy or no answer in time.

Examples:
  dayfly find-node --node 127.0.0.1:6500 d5d0d35dc5d178fc919852f27138a42ad2e81575951b1e9fb38c2c21cf747cde
  dayfly find-node --dialect hyperdht --node 127.0.0.1:49737 my-service
";

const VALUE_HELP: &str = "\
Usage: dayfly find-value [options] KEY
Writes the value of KEY to stdout if the asked node itself holds it.

A KEY of 64 hex digits is the key; any other text is hashed with SHA-256. With --json, the contacts named instead are
printed where the value is not held.
Exit codes: 0 held; 1 not held; 64 usage; 68 unknown host; 69 no node there; 75 busy or no answer in time.

Example:
  dayfly find-value --node 127.0.0.1:6500 greeting
";

pub(super) fn run_node(words: &[String]) -> Outcome {
    let Some(client) = Client::parse(options_of_any(), words, NODE_HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.words(["KEY"])?;
    let key = key_of(key);
    let contacts = contacts_near(&client, key)?;
    if client.json {
        print_contacts(&key, &contacts)?;
    } else {
        let lines: String = contacts.iter().map(|contact| format!("{} {}\n", contact.id, contact.addr)).collect();
        print(&lines)?;
    }
    Ok(exit::OK)
}

/// Whom one node knows near `key`.
fn contacts_near(client: &Client, key: Id) -> Result<Vec<Contact>, Stop> {
    #[cfg(feature = "hyperdht")]
    if hyperdht::is_asked_for(client)? {
        use crate::dialect::hyperdht::operation::Operation;
        let node = hyperdht::node(client.one_node()?)?;
        let asked = hyperdht::Visit::to(vec![node], client.timeout_ms)?.run(Operation::FindNode(node, key));
        let (answers, ..) = asked.map_err(|stop| hyperdht::unanswered(stop, node))?;
        return Ok(answers.into_iter().flat_map(|answer| answer.nodes).collect());
    }
    let node = client.node()?;
    match client.call(node, Request::FindNode(key))? {
        Reply::Nodes(contacts) => Ok(contacts),
        _ => unexpected(node),
    }
}

pub(super) fn run_value(words: &[String]) -> Outcome {
    let Some(client) = Client::parse(options(DEFAULT_NODE), words, VALUE_HELP)? else {
        return Ok(exit::OK);
    };
    let [key] = client.words(["KEY"])?;
    let (key, node) = (key_of(key), client.node()?);
    match client.call(node, Request::FindValue(key))? {
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
            // For the eye only: data that goes anywhere else is the value and nothing else.
            print("\n")?;
        }
    }
    Ok(exit::OK)
}

/// Prints that nobody has the value.
pub(super) fn print_missing(key: &Id) -> Result<(), Stop> {
    print(&format!("{}\n", Object::default().text("key", &key.to_string()).raw("found", "false").finish()))
}

fn print_contacts(key: &Id, contacts: &[Contact]) -> Result<(), Stop> {
    let entry =
        |c: &Contact| Object::default().text("id", &c.id.to_string()).text("address", &c.addr.to_string()).finish();
    let object = Object::default().text("key", &key.to_string()).raw("found", "false");
    print(&format!("{}\n", object.raw("contacts", &array(contacts.iter().map(entry))).finish()))
}
