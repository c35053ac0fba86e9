//! The pool: which connection leads to which address, so that a pair of nodes shares one. Holds keys only; who may be
//! dialled, and how, is decided by whoever asks it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::arena::Key;

/// Connections by the node of ours they belong to and the peer's address.
#[derive(Debug, Default)]
pub struct Pool {
    by_peer: BTreeMap<(usize, SocketAddr), Key>,
    /// Those over which requests of ours went, which are limited in number.
    links: Vec<Key>,
}

impl Pool {
    /// The connection between our node and `peer`.
    pub fn find(&self, node: usize, peer: SocketAddr) -> Option<Key> {
        self.by_peer.get(&(node, peer)).copied()
    }

    /// `conn` is from now on the connection between our node and `peer`; an older one serves out its time unnamed.
    pub fn set(&mut self, node: usize, peer: SocketAddr, conn: Key) {
        self.by_peer.insert((node, peer), conn);
    }

    /// `conn` carries requests of ours.
    pub fn add_link(&mut self, conn: Key) {
        if !self.links.contains(&conn) {
            self.links.push(conn);
        }
    }

    /// Connections that carry requests of ours.
    pub fn links(&self) -> &[Key] {
        &self.links
    }

    /// `conn` is gone.
    pub fn remove(&mut self, node: usize, peer: SocketAddr, conn: Key) {
        if self.find(node, peer) == Some(conn) {
            self.by_peer.remove(&(node, peer));
        }
        self.links.retain(|link| *link != conn);
    }
}
