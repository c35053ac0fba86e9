//! Mutated datagrams into a whole engine with a hyperdht listener, which asks others all the while: no panic, and no memory
//! that grows with them. `DAYFLY_DATAGRAMS` says how many (default ten million).
#![cfg(feature = "hyperdht")]

mod common;

use std::collections::VecDeque;
use std::net::SocketAddr;

use common::process::resident_kib;
use dayfly::dialect::Dialect;
use dayfly::dialect::hyperdht::identity::Identity;
use dayfly::dialect::hyperdht::node::Node;
use dayfly::dialect::hyperdht::operation::{Advertisement, Event, Operation};
use dayfly::dialect::hyperdht::service::Service;
use dayfly::dialect::hyperdht::settings::Settings;
use dayfly::engine::{CallId, Engine, EngineSettings};
use dayfly::id::{Id, from_hex};
use dayfly::limits::{DATAGRAM_BYTES, DATAGRAM_OUTBOX_BYTES, JOBS, OPERATIONS};
use dayfly::time::Time;
use serde_json::Value;

/// What is mutated: every datagram of the vectors.
fn corpus() -> Vec<Vec<u8>> {
    let all: Value = serde_json::from_str(include_str!("data/hyperdht-vectors.json")).unwrap();
    let vectors = all["vectors"].as_array().unwrap();
    let datagrams = vectors.iter().filter(|v| ["request", "response"].contains(&v["direction"].as_str().unwrap_or("")));
    datagrams.map(|v| from_hex(v["hex"].as_str().unwrap()).unwrap()).collect()
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut fastrand::Rng) {
    for _ in 0..random.u8(..4) {
        let at = random.usize(..=bytes.len());
        match random.u8(..8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)],
            3 => bytes.truncate(at),
            4 => {
                let other = random.choice(corpus).unwrap();
                let from = random.usize(..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            5 => {
                let piece: Vec<u8> = bytes[at..].iter().copied().take(60).collect();
                (0..random.usize(..40)).for_each(|_| bytes.extend_from_slice(&piece));
            }
            6 => bytes.insert(at, random.u8(..)),
            _ => bytes.extend((0..random.usize(..20)).map(|_| random.u8(..))),
        }
        bytes.truncate(DATAGRAM_BYTES + 1);
    }
}

fn source(random: &mut fastrand::Rng) -> SocketAddr {
    if random.u8(..4) == 0 {
        // The tokens of the vectors are this host's, so its announcements are taken.
        return ([127, 0, 0, 1], random.u16(1..)).into();
    }
    // Few enough that some come back, and some of one network.
    let host = random.u16(..2_000);
    ([20, (host >> 8) as u8, host as u8, random.u8(1..4)], random.u16(1..50)).into()
}

/// Pulls the events of an operation; whether the last one was among them.
fn has_ended(engine: &mut Engine, call: CallId) -> bool {
    std::iter::from_fn(|| engine.next_event::<Service>(call)).any(|event| matches!(event, Event::Done(_)))
}

#[test]
fn no_datagram_panics_or_makes_it_grow() {
    let count: u64 = std::env::var("DAYFLY_DATAGRAMS").map_or(10_000_000, |n| n.parse().unwrap());
    let corpus = corpus();
    let mut random = fastrand::Rng::with_seed(7);
    let mut now = Time::from_ms(1);
    let mut engine = Engine::new(EngineSettings::default(), 1);
    let identity = Identity { id: Id([0x55; 32]), addr: "30.0.0.1:9".parse().unwrap(), is_ephemeral: false };
    let listener =
        engine.service_mut::<Service>().add(Node::new(identity, Settings::default(), [[0x5a; 32], [0xa5; 32]], 1, now));
    engine.add_bootstrap(Dialect::Hyperdht, source(&mut random), now);
    let mut asked: VecDeque<(SocketAddr, [u8; 2])> = VecDeque::new();
    let mut running: Vec<CallId> = Vec::new();
    let (mut warm_kib, mut sent) = (0, 0_u64);
    for n in 0..count {
        let mut bytes = random.choice(&corpus).unwrap().clone();
        mutate(&mut bytes, &corpus, &mut random);
        let mut from = source(&mut random);
        if let (true, Some((to, tid))) = (random.bool(), random.choice(asked.make_contiguous())) {
            // Something like an answer, from the right place and to a request in flight.
            from = *to;
            bytes.splice(..bytes.len().min(2), [tid[0] & 0x7f, tid[1]]);
        }
        engine.datagram(listener, from, &bytes, now);
        if n % 50 == 0 {
            let key = Id(std::array::from_fn(|_| random.u8(..)));
            let operation = match random.u8(..4) {
                0 => Operation::Lookup(key, Advertisement::default()),
                1 => Operation::Announce(key, Advertisement { port: 5, local: None }),
                2 => Operation::HolePunch { peer: source(&mut random), referrer: from },
                _ => Operation::FindNode(from, key),
            };
            match engine.start::<Service>(Some(listener), operation, now) {
                Some(call) if random.u8(..10) == 0 => engine.cancel::<Service>(call, now),
                Some(call) => running.push(call),
                None => {}
            }
        }
        if n % 500 == 0 {
            running.retain(|call| !has_ended(&mut engine, *call));
        }
        if n % 10 == 0 {
            now = now.after(1);
        }
        if engine.next_deadline().is_some_and(|at| at <= now) {
            engine.on_timeout(now);
            assert!(engine.next_deadline().is_none_or(|at| at > now), "no busy loop");
        }
        while engine.poll_output(now).is_some() {}
        let mut waiting = 0;
        while let Some((to, datagram)) = engine.next_datagram(listener) {
            assert!(datagram.len() <= DATAGRAM_BYTES, "{} bytes", datagram.len());
            waiting += datagram.len();
            if datagram[0] & 0x80 != 0 {
                asked.push_back((to, [datagram[0], datagram[1]]));
            }
            sent += 1;
            engine.datagram_sent(listener, false);
        }
        assert!(waiting <= DATAGRAM_OUTBOX_BYTES + DATAGRAM_BYTES);
        let surplus = asked.len().saturating_sub(64);
        asked.drain(..surplus);
        if n == count / 2 {
            warm_kib = resident_kib("self");
        }
    }
    let node = engine.service::<Service>().nodes().next().unwrap();
    node.overlay().table().check_invariants();
    node.records().check_invariants();
    assert!(node.jobs() <= JOBS && running.len() <= OPERATIONS);
    let grown = resident_kib("self").saturating_sub(warm_kib);
    eprintln!(
        "{count} mutated datagrams, {sent} sent in answer or on its own account; {} contacts, {} records; VmRSS {warm_kib} KiB after \
         half of them, {grown} KiB more at the end",
        node.overlay().table().len(),
        node.records().len(),
    );
    // Nobody answers any more: what is queued fails, a hundred requests every two seconds.
    for _ in 0..500 {
        now = now.after(3_000);
        engine.on_timeout(now);
        while engine.next_datagram(listener).is_some() {
            engine.datagram_sent(listener, false);
        }
    }
    running.retain(|call| !has_ended(&mut engine, *call));
    assert!(running.is_empty(), "{} operations that never end", running.len());
    assert!(grown < 2_048, "{grown} KiB more after the second half");
}
