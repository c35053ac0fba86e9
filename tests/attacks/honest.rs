//! The honest client. Whatever it does must succeed, within five seconds.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::id::Id;
use socket2::{Domain, Socket, Type};

use crate::common::Peer;
use crate::namespace::Attacker;

/// How long each honest request may take.
pub const DEADLINE: Duration = Duration::from_secs(5);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A connection to `to` from this address, or why there is none.
pub fn try_connect(from: IpAddr, to: SocketAddr) -> std::io::Result<Peer> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), DEADLINE)?;
    let peer = Peer::on(socket.into());
    peer.stream.set_read_timeout(Some(DEADLINE))?;
    peer.stream.set_write_timeout(Some(DEADLINE))?;
    Ok(peer)
}

/// A connection of an honest client, which is let in.
pub fn connect(from: IpAddr, to: SocketAddr) -> Peer {
    try_connect(from, to).unwrap_or_else(|e| panic!("an honest client from {from} is not let in: {e}"))
}

/// An honest client with one connection that it keeps, and others besides.
pub struct Honest {
    attacker: Attacker,
    kept: Peer,
    /// The nodes through which it puts, and through which it gets.
    put_at: SocketAddr,
    get_at: SocketAddr,
    replication: u8,
    /// What it has done so far; its keys and nonces.
    done: u32,
}

impl Honest {
    /// A client of the attacked node alone.
    pub fn new(attacker: Attacker) -> Honest {
        Honest::of(attacker, attacker.node(0), attacker.node(0), 1)
    }

    /// A client that puts through one node and gets through another.
    pub fn of(attacker: Attacker, put_at: SocketAddr, get_at: SocketAddr, replication: u8) -> Honest {
        let kept = connect(attacker.honest(0), put_at);
        let mut honest = Honest { attacker, kept, put_at, get_at, replication, done: 0 };
        honest.kept.ping(7);
        honest
    }

    /// Pings on the connection that it keeps and on new ones, puts and gets, for so long; how often.
    pub fn is_served_for(&mut self, time: Duration) -> u32 {
        let (begin, mut rounds) = (Instant::now(), 0);
        while begin.elapsed() < time || rounds == 0 {
            self.done += 1;
            rounds += 1;
            self.kept.ping(self.done);
            // Not more than a well-behaved client from each of a few addresses.
            let from = self.attacker.honest(1 + rounds as usize % 8);
            connect(from, self.put_at).ping(self.done);
            self.puts_and_finds();
            std::thread::sleep(ms(20));
        }
        rounds
    }

    fn puts_and_finds(&mut self) {
        let (key, value) = (Id::hash_of(&[b"honest", &self.done.to_be_bytes()]), self.done.to_be_bytes());
        let put = Message::Put { ttl_s: 10, replication: self.replication, key, value: &value };
        self.kept.expect(&put, &Message::Success { key, value: b"" });
        let get = Message::Get { key };
        let found = Message::Success { key, value: &value };
        if self.get_at == self.put_at {
            self.kept.expect(&get, &found);
        } else {
            connect(self.attacker.honest(0), self.get_at).expect(&get, &found);
        }
    }

    /// Puts `n` values; what of them is found through `nodes` a moment later: all of it.
    pub fn what_it_puts_is_found(&mut self, n: u32, nodes: &[SocketAddr]) {
        let keys: Vec<(Id, [u8; 4])> = (0..n)
            .map(|i| (Id::hash_of(&[b"kept", &self.done.to_be_bytes(), &i.to_be_bytes()]), i.to_be_bytes()))
            .collect();
        let mut refused = Vec::new();
        for (key, value) in &keys {
            self.kept.send(&Message::Put { ttl_s: 10, replication: self.replication, key: *key, value });
            let answer = self.kept.receive();
            match Sealed::decode(&answer).unwrap() {
                Message::Success { .. } => {}
                other => refused.push(format!("{other:?}")),
            }
        }
        assert!(refused.is_empty(), "{} of {n} PUTs were refused: {}", refused.len(), refused[0]);
        for at in nodes {
            let mut reader = connect(self.attacker.honest(1), *at);
            let missing = keys.iter().filter(|(key, value)| {
                reader.send(&Message::Get { key: *key });
                Sealed::decode(&reader.receive()) != Ok(Message::Success { key: *key, value })
            });
            let missing = missing.count();
            assert!(missing == 0, "{missing} of {n} values that were reported as stored are not found through {at}");
        }
    }

    /// Gets `n` values that nobody has, all at once, each on a connection of its own. That is what it is told of each.
    pub fn misses_what_nobody_has(&mut self, n: usize) {
        let keys: Vec<Id> = (0..n).map(|i| Id::hash_of(&[b"nobody's", &self.done.to_be_bytes(), &[i as u8]])).collect();
        let mut peers: Vec<Peer> = (0..n).map(|i| connect(self.attacker.honest(i), self.get_at)).collect();
        for (peer, key) in peers.iter_mut().zip(&keys) {
            peer.send(&Message::Get { key: *key });
        }
        for (peer, key) in peers.iter_mut().zip(&keys) {
            assert_eq!(Sealed::decode(&peer.receive()), Ok(Message::Failure { key: *key }));
        }
    }

    /// How many PINGs in a row are answered in this time.
    pub fn pings(&mut self, time: Duration) -> u32 {
        let (begin, mut n) = (Instant::now(), 0);
        while begin.elapsed() < time {
            self.kept.ping(n);
            n += 1;
        }
        n
    }

    /// Newcomers, each from another address, are let in and stay.
    pub fn newcomers_are_served(&mut self, n: usize) {
        let mut newcomers = Vec::new();
        for i in 0..n {
            let mut peer = connect(self.attacker.honest(9 + i), self.put_at);
            peer.ping(i as u32);
            newcomers.push(peer);
        }
        for peer in &mut newcomers {
            peer.ping(77);
        }
        self.kept.ping(78);
    }
}
