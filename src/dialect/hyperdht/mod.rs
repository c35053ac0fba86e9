//! The hyperdht dialect (docs/protocol-hyperdht.md): Kademlia over UDP and protobuf, as the Go and node.js hyperdht of
//! 2017 and 2018 speak it. Finds peers that announce themselves under a key, and opens NATs between them. It has no
//! connections: a session is the request layer of one socket. It takes no part in the values of the sealed dialect.

pub mod address;
mod allowance;
pub mod breach;
pub mod codec;
pub mod identity;
pub mod node;
pub mod operation;
pub mod outbox;
pub mod records;
pub mod serve;
pub mod service;
pub mod session;
pub mod settings;
pub mod tokens;

mod jobs;
#[cfg(test)]
mod tests;

/// The port of a node unless told otherwise.
pub const DEFAULT_PORT: u16 = 49_737;
