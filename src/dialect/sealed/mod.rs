//! The sealed dialect (seed 001): Kademlia over TCP, a SHA-256 trailer on every message, values that live less than ten
//! seconds; and the VoidPhone API, the plain listener to the same node. What the seed leaves open is closed by
//! docs/protocol-sealed.md.

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

use std::net::SocketAddr;

use crate::contact::Contact;
use crate::id::Id;

/// The node id that belongs to `addr`: SHA-256 of ip_type, ip and port (seed silent:
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

/// The contact that listens on `addr`.
pub fn contact_at(addr: SocketAddr) -> Contact {
    Contact { id: node_id(addr), addr }
}

/// Whether a contact's id is the one that belongs to its address: anyone can check an entry.
pub fn is_genuine(contact: &Contact) -> bool {
    node_id(contact.addr) == contact.id
}

/// The key of a piece of text: 64 hex digits are the key itself, anything else is hashed with SHA-256
/// (docs/protocol-sealed.md, "Messages").
pub fn key_of(text: &str) -> Id {
    text.parse().unwrap_or_else(|_| Id::hash_of(&[text.as_bytes()]))
}
