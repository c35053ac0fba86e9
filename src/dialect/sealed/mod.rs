//! The sealed dialect (seed 001): Kademlia over TCP with a SHA-256 trailer on every message, storing values that live
//! less than ten seconds. Also the VoidPhone API, a plain listener to the same node. docs/protocol-sealed.md specifies
//! what the seed leaves open.

mod answers;
pub mod api;
pub mod codec;
mod coordinate;
pub mod job;
mod key_locks;
pub mod node;
pub mod operation;
pub mod request;
mod serve;
pub mod service;
pub mod session;
pub mod settings;
pub mod store;
mod tally;

use std::net::SocketAddr;

use crate::contact::Contact;
use crate::id::Id;

/// The port of a node unless told otherwise.
pub const DEFAULT_PORT: u16 = 6_500;

/// The id of the node at `addr`: the SHA-256 of ip_type, ip and port, as in an entry of a NODE (seed silent:
/// docs/protocol-sealed.md, "Who is who").
pub fn node_id(addr: SocketAddr) -> Id {
    let mut entry = [0; 19];
    let len = match addr {
        SocketAddr::V4(v4) => {
            entry[0] = 4;
            entry[1..5].copy_from_slice(&v4.ip().octets());
            7
        }
        SocketAddr::V6(v6) => {
            entry[0] = 6;
            entry[1..17].copy_from_slice(&v6.ip().octets());
            19
        }
    };
    entry[len - 2..len].copy_from_slice(&addr.port().to_be_bytes());
    Id::of(&entry[..len])
}

/// The contact at `addr`, with the id that belongs to that address.
pub fn contact_at(addr: SocketAddr) -> Contact {
    Contact { id: node_id(addr), addr }
}

/// Whether the contact's id belongs to its address. Anybody can check this.
pub fn is_genuine(contact: &Contact) -> bool {
    node_id(contact.addr) == contact.id
}

/// Turns text into a key: 64 hex digits are the key itself, and any other text is hashed with SHA-256
/// (docs/protocol-sealed.md, "Messages").
pub fn key_of(text: &str) -> Id {
    text.parse().unwrap_or_else(|_| Id::hash_of(&[text.as_bytes()]))
}
