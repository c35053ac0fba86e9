//! The main job: separate processes, real sockets, values crossing the network and gone before they are ten seconds old.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Node, Peer, alone, dayfly, eventually, key, network};
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::dialect::sealed::contact_at;
use dayfly::id::Id;

/// A GET or a coordinated PUT has 4 s; on a busy machine five times that.
const JOB_PATIENCE: Duration = Duration::from_secs(20);

/// Stores through `peer` with this replication; whether the node says that it is stored.
fn put(peer: &mut Peer, key: Id, value: &[u8], replication: u8) -> bool {
    peer.send(&Message::Put { ttl_s: 0, replication, key, value });
    let answer = peer.receive();
    match Sealed::decode(&answer).unwrap() {
        Message::Success { key: stored, value: [] } => stored == key,
        Message::Error { .. } => false,
        other => panic!("PUT is answered by {other:?}"),
    }
}

/// Looks `key` up through `peer`.
fn get(peer: &mut Peer, key: Id) -> Option<Vec<u8>> {
    let begin = Instant::now();
    peer.send(&Message::Get { key });
    let found = receive_found(peer, key);
    assert!(begin.elapsed() < JOB_PATIENCE, "a GET takes 4 s at most");
    found
}

/// The answer to a GET of `key`.
fn receive_found(peer: &mut Peer, key: Id) -> Option<Vec<u8>> {
    let answer = peer.receive();
    match Sealed::decode(&answer).unwrap() {
        Message::Success { key: found, value } => {
            assert_eq!(found, key);
            Some(value.to_vec())
        }
        Message::Failure { key: missing } => {
            assert_eq!(missing, key);
            None
        }
        other => panic!("GET is answered by {other:?}"),
    }
}

/// Whether the node itself holds `key`.
fn holds(peer: &mut Peer, key: Id) -> Option<Vec<u8>> {
    peer.send(&Message::FindValue { key });
    let answer = peer.receive();
    match Sealed::decode(&answer).unwrap() {
        Message::Value { value } => Some(value.to_vec()),
        Message::Node(_) => None,
        other => panic!("FIND_VALUE is answered by {other:?}"),
    }
}

fn peers(nodes: &[Node]) -> Vec<Peer> {
    nodes.iter().map(|node| Peer::connect(node.addr)).collect()
}

/// A small generator, so that runs differ in nothing.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[test]
fn five_hundred_values_cross_a_network_of_twenty_and_are_gone_after_ten_seconds() {
    let _alone = alone();
    let nodes = network(20, 19);
    let (mut putters, mut getters) = (peers(&nodes), peers(&nodes));
    let mut dice = Dice(1);
    let values: Vec<(Id, Vec<u8>)> = (0..500).map(|n| (key(n), format!("value {n}").into_bytes())).collect();
    // Values live ten seconds, so each is fetched before the first could have gone.
    let mut found = 0;
    let mut holders = BTreeMap::new();
    let begin = Instant::now();
    for batch in values.chunks(100) {
        for (key, value) in batch {
            let through = dice.below(nodes.len());
            assert!(put(&mut putters[through], *key, value, 3));
        }
        for (key, value) in batch {
            let through = dice.below(nodes.len());
            found += usize::from(get(&mut getters[through], *key).as_ref() == Some(value));
            let count = getters.iter_mut().filter_map(|peer| holds(peer, *key)).filter(|held| held == value).count();
            *holders.entry(count).or_insert(0) += 1;
        }
    }
    println!("found {found} of 500 in {:?}; values by number of holders: {holders:?}", begin.elapsed());
    assert_eq!(found, 500);
    assert!(holders.keys().all(|count| (3..=4).contains(count)), "{holders:?}");
    // The last one was stored before now, so in ten seconds none may be served any more.
    std::thread::sleep(Duration::from_millis(10_001));
    for peer in &mut getters {
        for (key, _) in &values {
            assert_eq!(holds(peer, *key), None, "served past its time");
        }
    }
    for node in &nodes {
        eventually("memory is freed", || node.counter("store_entries") == 0);
    }
}

#[test]
fn values_of_all_sizes_come_back_byte_for_byte() {
    let _alone = alone();
    let nodes = network(20, 19);
    let mut peers = peers(&nodes);
    let mut dice = Dice(2);
    for (n, len) in [0, 1, 1_000, 65_463].into_iter().cycle().take(60).enumerate() {
        let value: Vec<u8> = (0..len).map(|i| ((i * 7 + n) % 251) as u8).collect();
        let key = key(1_000 + n as u64);
        assert!(put(&mut peers[dice.below(20)], key, &value, 3));
        assert!(get(&mut peers[dice.below(20)], key).as_ref() == Some(&value), "{len} bytes");
    }
}

/// Thirty nodes; after the puts ten are hit by `signal`. Every value with a living holder is found.
fn survives(signal: &str) {
    let _alone = alone();
    let nodes = network(30, 20);
    let mut peers = peers(&nodes);
    let values: Vec<(Id, Vec<u8>)> = (0..60).map(|n| (key(2_000 + n), n.to_be_bytes().to_vec())).collect();
    for (n, (key, value)) in values.iter().enumerate() {
        assert!(put(&mut peers[n % 30], *key, value, 3));
    }
    let has_living_holder: Vec<bool> =
        values.iter().map(|(key, _)| peers[10..].iter_mut().any(|peer| holds(peer, *key).is_some())).collect();
    for node in &nodes[..10] {
        node.signal(signal);
    }
    // All asked at once, so that all are asked while the values live.
    let begin = Instant::now();
    let askers: Vec<usize> = (0..60).map(|n| 10 + n % 20).collect();
    for ((key, _), asker) in values.iter().zip(&askers) {
        peers[*asker].send(&Message::Get { key: *key });
    }
    let mut found = 0;
    for (((key, value), alive), asker) in values.iter().zip(&has_living_holder).zip(&askers) {
        let got = receive_found(&mut peers[*asker], *key);
        assert_eq!(got.as_ref() == Some(value), *alive, "a value with a living holder is found");
        found += usize::from(got.is_some());
    }
    let took = begin.elapsed();
    println!("SIG{signal}: found {found} of 60, all answered within {took:?}");
    assert!(took < JOB_PATIENCE, "each GET takes 4 s at most");
    if signal == "STOP" {
        nodes[..10].iter().for_each(|node| node.signal("CONT"));
    }
}

#[test]
fn a_third_of_the_network_killed() {
    survives("KILL");
}

#[test]
fn a_third_of_the_network_stopped() {
    survives("STOP");
}

#[test]
fn a_key_that_nobody_has_fails_fast_through_either_listener() {
    let _alone = alone();
    let nodes = network(12, 11);
    let begin = Instant::now();
    assert_eq!(get(&mut Peer::connect(nodes[3].addr), key(404)), None);
    let sealed = begin.elapsed();
    let mut api = Peer::connect(nodes[7].api.unwrap());
    let begin = Instant::now();
    api.send_bytes(&[&[0, 36, 2, 139], &key(404).0[..]].concat());
    let mut answer = [0; 36];
    std::io::Read::read_exact(&mut api.stream, &mut answer).unwrap();
    println!("FAILURE after {sealed:?} (sealed), {:?} (api)", begin.elapsed());
    assert_eq!(answer[..4], [0, 36, 2, 141]);
    assert!(sealed < Duration::from_secs(4) && begin.elapsed() < Duration::from_secs(4));
}

fn names(node: SocketAddr, wanted: SocketAddr) -> bool {
    let output = dayfly(&["find-node", "--node", &node.to_string(), &contact_at(wanted).id.to_string()]);
    String::from_utf8(output.stdout).unwrap().lines().any(|line| line.ends_with(&format!(" {wanted}")))
}

#[test]
fn a_node_that_joins_through_any_other_is_known_everywhere() {
    let _alone = alone();
    let mut nodes = network(12, 11);
    let mut slowest = Duration::ZERO;
    for through in [0, 5, 11] {
        let begin = Instant::now();
        let joined = Node::start(&["--bootstrap", &nodes[through].addr.to_string()]);
        for node in &nodes {
            eventually("the new node is named", || names(node.addr, joined.addr));
        }
        slowest = slowest.max(begin.elapsed());
        nodes.push(joined);
    }
    println!("a joined node is named by all within {slowest:?}");
    assert!(slowest < Duration::from_secs(10), "2 s, on a busy machine five times that");
}

#[test]
fn a_node_of_twelve_is_small_and_starts_and_stops_fast() {
    let _alone = alone();
    let mut nodes = network(12, 11);
    let largest = nodes.iter().map(Node::resident_kib).max().unwrap();
    let mut started: Vec<Duration> = nodes.iter().map(|node| node.started_in).collect();
    started.sort();
    let mut stopped = Vec::new();
    for node in &mut nodes {
        let begin = Instant::now();
        node.signal("TERM");
        assert_eq!(node.wait(), Some(0));
        stopped.push(begin.elapsed());
    }
    stopped.sort();
    println!(
        "resident at most {largest} KiB; ready after {:?} (median {:?}); ended after {:?} (median {:?})",
        started[11], started[6], stopped[11], stopped[6]
    );
    assert!(largest <= 12 * 1024, "{largest} KiB");
    assert!(started[6] < Duration::from_millis(250), "50 ms, on a busy machine five times that");
    assert!(stopped[11] < Duration::from_secs(10), "2 s, on a busy machine five times that");
}

/// docs/faults.md, row 23, with eleven seconds for the minute: long enough for any value.
#[test]
fn a_node_that_was_stopped_serves_nothing_old_and_forgets_nobody() {
    let nodes = network(3, 2);
    let mut peer = Peer::connect(nodes[0].addr);
    assert!(put(&mut peer, key(23), b"old", 1));
    nodes[0].signal("STOP");
    peer.send(&Message::FindValue { key: key(23) });
    std::thread::sleep(Duration::from_secs(11));
    nodes[0].signal("CONT");
    let answer = peer.receive();
    assert!(matches!(Sealed::decode(&answer), Ok(Message::Node(_))), "not even asked for while it lived");
    assert_eq!(holds(&mut peer, key(23)), None);
    eventually("memory is freed", || nodes[0].counter("store_entries") == 0);
    assert_eq!(nodes[0].counter("contacts"), 2);
}

#[test]
fn two_nodes_both_hold_what_three_should() {
    let nodes = network(2, 1);
    let mut peers = peers(&nodes);
    let mut n = 0;
    eventually("each has learnt that the other can find it", || {
        n += 1;
        let (by_first, by_second) = (key(7_000 + n), key(8_000 + n));
        assert!(put(&mut peers[0], by_first, b"v", 3) && put(&mut peers[1], by_second, b"v", 3));
        peers.iter_mut().all(|peer| holds(peer, by_first).is_some() && holds(peer, by_second).is_some())
    });
}

#[test]
fn a_network_whose_only_other_node_dies_still_answers() {
    let first = Node::start(&[]);
    let second = Node::start(&["--bootstrap", &first.addr.to_string()]);
    eventually("they know each other", || first.counter("contacts") == 1 && second.counter("contacts") == 1);
    drop(second);
    let mut peer = Peer::connect(first.addr);
    assert!(put(&mut peer, key(1), b"alone", 3), "the survivor holds it itself");
    assert_eq!(get(&mut peer, key(1)).as_deref(), Some(&b"alone"[..]));
    assert_eq!(get(&mut peer, key(2)), None);
}
