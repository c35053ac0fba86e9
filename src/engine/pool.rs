//! The pool: which connection leads to which address, so that two nodes share one connection. Holds only keys, a few
//! bytes for each of many thousand connections; the addresses are in the connections, which the caller passes in. Never
//! decides who may be dialled, and how; the caller does.

use std::hash::Hash;
use std::net::SocketAddr;

use hashbrown::HashTable;

use crate::arena::{Arena, Key};
use crate::dialect::stream::Listener;
use crate::engine::conn::Conn;
use crate::hash::seeded;

/// Connections by our listener and the peer's address.
#[derive(Debug)]
pub struct Pool {
    by_peer: HashTable<Key>,
    /// Mixed into the hash, because strangers choose their addresses.
    seed: u64,
    /// The connections that carry our requests. Their number is limited.
    links: Vec<Key>,
}

impl Pool {
    /// An empty pool. `seed` must be secret, so that nobody can choose addresses that collide.
    pub fn new(seed: u64) -> Pool {
        Pool { by_peer: HashTable::new(), seed, links: Vec::new() }
    }

    /// The connection that our listener shares with `peer`.
    pub fn find(&self, conns: &Arena<Conn>, listener: Listener, peer: SocketAddr) -> Option<Key> {
        self.by_peer.find(self.hash(listener, peer), |key| leads(conns, *key, listener, peer)).copied()
    }

    /// Makes `conn` the connection that our listener shares with `peer`. The pool forgets an older one, which stays
    /// open as long as it is in use.
    pub fn set(&mut self, conns: &Arena<Conn>, listener: Listener, peer: SocketAddr, conn: Key) {
        let hash = self.hash(listener, peer);
        if let Some(key) = self.by_peer.find_mut(hash, |key| leads(conns, *key, listener, peer)) {
            *key = conn;
            return;
        }
        let seed = self.seed;
        let rehash = |key: &Key| {
            let named = conns.get(*key).and_then(|conn| Some((conn.info.listener?, conn.info.peer)));
            named.map_or(0, |(listener, peer)| hash_of(seed, listener, peer))
        };
        self.by_peer.insert_unique(hash, conn, rehash);
    }

    /// `conn` carries our requests.
    pub fn add_link(&mut self, conn: Key) {
        if !self.links.contains(&conn) {
            self.links.push(conn);
        }
    }

    /// The connections that carry our requests.
    pub fn links(&self) -> &[Key] {
        &self.links
    }

    /// Forgets `conn`, which has closed. Call it before its slot is freed.
    pub fn remove(&mut self, listener: Option<Listener>, peer: SocketAddr, conn: Key, is_link: bool) {
        let hash = listener.map(|listener| self.hash(listener, peer));
        if let Some(Ok(entry)) = hash.map(|hash| self.by_peer.find_entry(hash, |key| *key == conn)) {
            entry.remove();
        }
        if is_link {
            self.links.retain(|link| *link != conn);
        }
    }

    fn hash(&self, listener: Listener, peer: SocketAddr) -> u64 {
        hash_of(self.seed, listener, peer)
    }
}

fn leads(conns: &Arena<Conn>, key: Key, listener: Listener, peer: SocketAddr) -> bool {
    conns.get(key).is_some_and(|conn| conn.info.peer == peer && conn.info.listener == Some(listener))
}

fn hash_of(seed: u64, listener: Listener, peer: SocketAddr) -> u64 {
    seeded(seed, |hasher| (listener, peer).hash(hasher))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::dialect::stream::Origin;
    use crate::engine::dialects::{Services, Settings};
    use crate::time::Time;

    #[test]
    fn each_pair_finds_its_newest_connection_however_many_there_are() {
        let (mut conns, mut pool) = (Arena::default(), Pool::new(7));
        let of = Listener::Sealed;
        let peer = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        let open = |conns: &mut Arena<Conn>, pool: &mut Pool, listener: Listener, n: u16| {
            let session = Services::new(Settings::default(), 7).accepted(listener);
            let key = conns.insert(Conn::new(peer(n), Some(listener), Origin::Inbound, session, Time::ZERO));
            pool.set(conns, listener, peer(n), key);
            key
        };
        let first: Vec<Key> = (0..2_000).map(|n| open(&mut conns, &mut pool, of(n % 2), n)).collect();
        let second = open(&mut conns, &mut pool, of(0), 8);
        for (n, key) in (0..2_000).zip(&first).filter(|(n, _)| *n != 8) {
            assert_eq!(pool.find(&conns, of(n % 2), peer(n)), Some(*key));
            assert_eq!(pool.find(&conns, of(1 - n % 2), peer(n)), None, "another node's");
        }
        assert_eq!(pool.find(&conns, of(0), peer(8)), Some(second));
        pool.remove(Some(of(0)), peer(8), first[8], false);
        assert_eq!(pool.find(&conns, of(0), peer(8)), Some(second), "the older one was no longer named");
        pool.add_link(second);
        pool.remove(Some(of(0)), peer(8), second, true);
        assert_eq!((pool.find(&conns, of(0), peer(8)), pool.links()), (None, &[][..]));
        for (n, key) in (0..2_000).zip(first) {
            pool.remove(Some(of(n % 2)), peer(n), key, false);
        }
        assert!(pool.by_peer.is_empty(), "who is gone leaves nothing behind");
    }
}
