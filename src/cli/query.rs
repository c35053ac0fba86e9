//! `dayfly query`: sends a user-defined command to the nodes of a hyperdht network that are nearest to a key.

use super::json::{Object, array};
use super::visit::hyperdht::{Visit, json_of, options};
use super::visit::{Client, id_text, wrong_arguments};
use super::{Outcome, Stop, exit, print};
use crate::dialect::hyperdht::operation::{Answer, Operation};
use crate::dialect::sealed::key_of;
use crate::id::to_hex;
use crate::limits::DATAGRAM_BYTES;

const HELP: &str = "\
Usage: dayfly query [options] COMMAND KEY [VALUE]
Sends a user-defined COMMAND to the nodes of a hyperdht network that a lookup of KEY asks, or with --update to the 20
nearest of them, with the token that each of them gave. VALUE is sent as it is. Prints a line
'answer ADDRESS id=HEX value=HEX' for each answer, with '-' for no value: nodes that do not know COMMAND send none.

Exit codes: 0 answered; 64 usage; 68 unknown host; 69 no node answers; 75 not done in time.

Example:
  dayfly query --node 127.0.0.1:49737 hello d5d0d35dc5d178fc919852f27138a42ad2e81575951b1e9fb38c2c21cf747cde hi
";

pub(super) fn run(words: &[String]) -> Outcome {
    let mut options = options();
    options.optflag("", "update", "send it as an update, to the nearest nodes only");
    let Some(client) = Client::parse(options, words, HELP)? else {
        return Ok(exit::OK);
    };
    let (command, key, value) = match &client.matches.free[..] {
        [command, key] => (command.clone(), key_of(key), None),
        [command, key, value] => (command.clone(), key_of(key), Some(value.clone().into_bytes())),
        other => return Err(wrong_arguments("COMMAND KEY [VALUE]", other.len())),
    };
    if command.is_empty() || command.starts_with('_') {
        return Err(Stop::usage(format_args!("'{command}' can't be a COMMAND: it is empty or begins with '_'")));
    }
    if value.as_ref().map_or(0, Vec::len) + command.len() > DATAGRAM_BYTES / 2 {
        return Err(Stop::usage(format_args!(
            "COMMAND and VALUE together have more than {} bytes",
            DATAGRAM_BYTES / 2
        )));
    }
    let is_update = client.matches.opt_present("update");
    let operation = Operation::Query { command, target: key, value, is_update };
    let (answers, answered, _) = Visit::begin(&client)?.run(operation)?;
    if client.json {
        let object = Object::default().text("key", &key.to_string()).raw("answered", &answered.to_string());
        print(&format!("{}\n", object.raw("nodes", &array(answers.iter().map(json_of))).finish()))?;
    } else {
        let value = |answer: &Answer| answer.value.as_deref().map_or("-".into(), to_hex);
        let line = |a: &Answer| format!("answer {} id={} value={}\n", a.addr, id_text(a.id), value(a));
        print(&answers.iter().map(line).collect::<String>())?;
    }
    Ok(exit::OK)
}
