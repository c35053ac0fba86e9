//! Attacks on the processor: A1 (hashing), A10 (searching). An honest client may get less of a busy node than of an idle
//! one, but a fair part of what it gets beside the same bytes without the attack.

use std::io::Write;
use std::thread::{self, sleep};

use dayfly::dialect::sealed::codec::Message;
use dayfly::id::Id;

use crate::common::{Peer, frame, key};
use crate::flood::{Attack, any_key, connections, discard, goes_on, repeat, send};
use crate::honest::{Honest, connect, ms};
use crate::namespace::Attacker::{ManyAddresses, OneAddress, OneSlash56};
use crate::namespace::{Attacker, inside};
use crate::slow_node;

/// The part of the PINGs beside harmless bytes that must be answered beside the attack: a tenth, as machines are noisy.
const FAIR: u32 = 10;

// ---- A1: a PUT of 0 bytes has the value under its key hashed ----

#[test]
fn a1_rehash_from_one_address() {
    inside(|| rehash(OneAddress));
}

#[test]
fn a1_rehash_from_many_addresses() {
    inside(|| rehash(ManyAddresses));
}

#[test]
fn a1_rehash_from_one_slash_56() {
    inside(|| rehash(OneSlash56));
}

fn rehash(attacker: Attacker) {
    let victim = attacker.victim(&[]);
    let addr = victim.addr;
    let value = vec![9; 65_000];
    let certified = Id::of(&value);
    let _kept = Attack::start(move |stop| {
        let mut peer = connect(attacker.address(0), addr);
        while goes_on(stop) {
            let put = Message::Put { ttl_s: 10, replication: 1, key: certified, value: &value };
            peer.expect(&put, &Message::Success { key: certified, value: b"" });
            sleep(ms(200));
        }
    });
    let mut honest = Honest::new(attacker);
    let mut beside = |key: Id| {
        let attack = Attack::start(move |stop| {
            let flood = connections(attacker, 100, 100, addr);
            let put = frame(&Message::Put { ttl_s: 1, replication: 1, key, value: b"" });
            repeat(stop, &flood, &put, 30_000);
        });
        sleep(ms(400));
        let pings = honest.pings(ms(1_000));
        honest.is_served_for(ms(300));
        drop(attack);
        pings
    };
    let (harmless, attacked) = (beside(any_key()), beside(certified));
    println!("PINGs in a second: {harmless} beside harmless bytes, {attacked} beside the attack");
    assert!(attacked >= harmless / FAIR);
}

// ---- A10: a thousand requests wait on each connection, and it says a byte now and then ----

#[test]
fn a10_bytes_behind_a_thousand_waiting_requests() {
    inside(|| {
        let attacker = OneAddress;
        let nodes = attacker.network(4, &[]);
        slow_node::join(attacker.accomplice(0), &nodes[0], |request| slow_node::knows_nobody(request, ms(1_900)));
        let mut honest = Honest::new(attacker);
        let mut beside = |conflicts: bool| {
            let flood: Vec<Peer> = (0..15).map(|_| waiting(&nodes[0].addr, conflicts)).collect();
            let attack = Attack::start(move |stop| byte_by_byte(stop, &flood));
            sleep(ms(300));
            let pings = honest.pings(ms(1_000));
            honest.is_served_for(ms(1));
            drop(attack);
            pings
        };
        let (harmless, attacked) = (beside(false), beside(true));
        println!("PINGs in a second: {harmless} beside harmless bytes, {attacked} beside the attack");
        assert!(attacked >= harmless / FAIR);
    });
}

/// A connection on which 64 GETs run and 900 PUTs wait, for the last of these or (harmless) for nothing but their turn.
fn waiting(addr: &std::net::SocketAddr, conflicts: bool) -> Peer {
    let mut peer = connect(OneAddress.address(0), *addr);
    let running: Vec<Id> = (0..64).map(|_| any_key()).collect();
    for key in &running {
        peer.send(&Message::Get { key: *key });
    }
    for _ in 0..900 {
        let key = if conflicts { running[63] } else { any_key() };
        peer.send_bytes(&frame(&Message::Put { ttl_s: 1, replication: 1, key, value: b"" }));
    }
    peer
}

fn byte_by_byte(stop: &std::sync::atomic::AtomicBool, flood: &[Peer]) {
    flood.iter().for_each(|peer| peer.stream.set_nonblocking(true).unwrap());
    let bytes = frame(&Message::FindValue { key: key(1) });
    for at in (0..bytes.len()).cycle() {
        for peer in flood {
            if !goes_on(stop) {
                return;
            }
            discard(&peer.stream);
            if (&peer.stream).write(&bytes[at..=at]).is_err() {
                thread::sleep(ms(1));
                send(&peer.stream, &bytes[at..=at]);
            }
        }
    }
}
