//! The hyperdht dialect (seed 004, hyperdht.md): Kademlia over UDP and protobuf, as the Go and node.js hyperdht of 2017
//! and 2018 speak it. Finds peers that announce themselves under a key, and opens NATs between them. No connections: a
//! session is the request layer of one socket. Has no part in the sealed dialect's values.

pub mod address;
pub mod codec;
pub mod forwards;
pub mod node;
pub mod operation;
pub mod outbox;
pub mod records;
pub mod serve;
pub mod session;
pub mod settings;
pub mod tokens;

#[cfg(test)]
mod tests;

/// The command that asks whether somebody is there, and how it sees the asker.
pub const PING: &str = "_ping";
/// The command that asks for the nodes nearest to a target.
pub const FIND_NODE: &str = "_find_node";
/// The command of announcements and lookups.
pub const PEERS: &str = "peers";
/// The port of a node unless told otherwise.
pub const DEFAULT_PORT: u16 = 49_737;
