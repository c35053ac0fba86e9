//! Frames and entries, true and false, byte by byte.

use std::net::{IpAddr, SocketAddr};

use dayfly::dialect::sealed::codec::Message;
use dayfly::id::{Id, from_hex};

use crate::common::{Peer, frame};

/// A frame with a good checksum over any body.
pub fn raw_frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let kind = kind.to_be_bytes();
    let sum = from_hex(&Id::hash_of(&[&kind, body]).to_string()).unwrap();
    let size = u16::try_from(2 + 2 + body.len() + 32).unwrap();
    [&size.to_be_bytes()[..], &kind, body, &sum].concat()
}

/// A PING whose checksum is wrong.
pub fn corrupt_ping() -> Vec<u8> {
    let mut bytes = frame(&Message::Ping { nonce: 1 });
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

/// An entry of DHT_NODE, true or not.
pub fn entry(ip: IpAddr, port: u16, id: Id) -> Vec<u8> {
    let id = from_hex(&id.to_string()).unwrap();
    match ip {
        IpAddr::V4(ip) => [&[4][..], &ip.octets(), &port.to_be_bytes(), &id].concat(),
        IpAddr::V6(ip) => [&[6][..], &ip.octets(), &port.to_be_bytes(), &id].concat(),
    }
}

/// An entry whose id is the hash of its very bytes.
pub fn matching_entry(ip: IpAddr, port: u16) -> Vec<u8> {
    let bare = entry(ip, port, Id::default());
    entry(ip, port, Id::hash_of(&[&bare[..bare.len() - 32]]))
}

pub fn true_entry(addr: SocketAddr) -> Vec<u8> {
    matching_entry(addr.ip(), addr.port())
}

pub const NODE: u16 = 659;

pub fn node_frame(entries: &[Vec<u8>]) -> Vec<u8> {
    raw_frame(NODE, &entries.concat())
}

pub fn put(key: Id, ttl_s: u16, value: &[u8]) -> Message<'_> {
    Message::Put { ttl_s, replication: 1, key, value }
}

/// Stores a value on the node itself.
pub fn store(peer: &mut Peer, key: Id, ttl_s: u16, value: &[u8]) {
    peer.expect(&put(key, ttl_s, value), &Message::Success { key, value: b"" });
}

pub fn value(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed) % 251) as u8).collect()
}
