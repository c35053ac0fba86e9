//! The sealed dialect (seed 001): Kademlia over TCP, a SHA-256 trailer on every message, values that live less than ten
//! seconds; and the VoidPhone API, the plain door to the same node. What the seed leaves open, `sealed.md` closes.

pub mod api;
pub mod codec;
mod coordinate;
pub mod job;
pub mod node;
mod owed;
pub mod request;
pub mod session;
pub mod settings;
pub mod store;

use std::net::SocketAddr;

use crate::contact::Contact;
use crate::id::Id;

/// The node id that belongs to `addr`: SHA-256 of ip_type, ip and port (seed silent: sealed.md, "Who is who").
pub fn node_id(addr: SocketAddr) -> Id {
    match addr {
        SocketAddr::V4(v4) => Id::hash_of(&[&[4], &v4.ip().octets(), &v4.port().to_be_bytes()]),
        SocketAddr::V6(v6) => Id::hash_of(&[&[6], &v6.ip().octets(), &v6.port().to_be_bytes()]),
    }
}

/// The contact that listens on `addr`.
pub fn contact_at(addr: SocketAddr) -> Contact {
    Contact { id: node_id(addr), addr }
}

/// Whether a contact's id is the one that belongs to its address: anyone can check an entry.
pub fn is_genuine(contact: &Contact) -> bool {
    node_id(contact.addr) == contact.id
}

/// The key of a piece of text: 64 hex digits are the key itself, anything else is hashed with SHA-256 (design.md).
pub fn key_of(text: &str) -> Id {
    text.parse().unwrap_or_else(|_| Id::hash_of(&[text.as_bytes()]))
}
