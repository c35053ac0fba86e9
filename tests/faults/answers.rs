//! Rows 9 to 15: what others answer, and what becomes of a node whose others are gone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::dialect::sealed::{contact_at, node_id};
use dayfly::id::Id;

use crate::bytes::*;
use crate::common::{Node, Peer, eventually, frame, key};
use crate::fake::*;
use crate::row::*;
use crate::slow::slow;

// ---- row 9 ----

#[test]
fn row_09_only_twenty_of_a_list_are_looked_at() {
    let (mut fakes, addrs) = listeners(21);
    // The traps are true entries, so that only their place in the list keeps them from being dialled.
    let (traps, trap_addrs) = listeners(108);
    let named: Vec<Vec<u8>> = addrs[1..].iter().chain(&trap_addrs).map(|addr| true_entry(*addr)).collect();
    assert_eq!(named.len(), 128);
    let bootstrap = addrs[0];
    let fakes = Fake::serve(std::mem::take(&mut fakes), move |question| match question.message {
        Message::FindNode { .. } if question.listener == 0 => node_frame(&named),
        message => polite(&message, &[]),
    });
    let row = Row::joining(bootstrap);
    // A lookup is content with the twenty nearest, so one of the twenty-one may stay unasked.
    eventually("the first twenty and the bootstrap are learnt", || row.node.counter("contacts") >= 20);
    until_idle(&row.node);
    sleep(ms(1000));
    assert!((20..=21).contains(&row.node.counter("contacts")));
    for trap in &traps {
        assert_untouched(trap, "an entry after the twentieth");
    }
    assert_eq!(fakes.count(Heard::is_error), 0, "128 are allowed");
    row.end(&[]);
}

#[test]
fn row_09_a_list_above_128_is_a_strike() {
    // 129, and as many as a frame holds.
    for n in [129, 1679] {
        let (fakes, addrs) = listeners(1);
        let (traps, trap_addrs) = listeners(10);
        // Whether the first twenty of a violation are still looked at is not said; those after them never are.
        let mut named = vec![true_entry(addrs[0]); 20];
        named.extend((20..n).map(|i| true_entry(trap_addrs[i % 10])));
        let fake = Fake::serve(fakes, move |question| match question.message {
            Message::FindValue { .. } => node_frame(&named),
            message => polite(&message, &[]),
        });
        let row = Row::joining(addrs[0]);
        eventually("the fake is learnt", || row.node.counter("contacts") == 1);
        until_idle(&row.node);
        let mut client = Peer::connect(row.node.addr);
        for i in 0..3 {
            // Each sends the node out to ask the fake, on the one connection.
            client.send(&Message::Get { key: key(i) });
            client.receive();
        }
        assert!(row.node.counter("long_lists") >= 3, "{n}: counted");
        let closed = |heard: &Heard| heard.frame.is_none() && heard.connection == 0;
        let begin = Instant::now();
        while fake.count(closed) == 0 {
            assert!(begin.elapsed() < LATE, "{n}: three strikes on one connection close it");
            sleep(ms(10));
        }
        for trap in &traps {
            assert_untouched(trap, "an entry after the twentieth");
        }
        row.end(&["long_lists"]);
    }
}

// ---- row 10 ----

#[test]
fn row_10_martians_are_never_dialled() {
    let (fakes, addrs) = listeners(2);
    let (traps, trap_addrs) = listeners(4);
    let good = addrs[1];
    let ports: Vec<u16> = trap_addrs.iter().map(SocketAddr::port).collect();
    let mapped = |port| (IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()), port);
    // What would reach a trap if it were dialled, and what cannot be dialled.
    let mut martians: Vec<Vec<u8>> = vec![
        matching_entry([0, 0, 0, 0].into(), ports[0]),
        matching_entry(mapped(ports[1]).0, ports[1]),
        entry(mapped(ports[2]).0, ports[2], node_id(trap_addrs[2])),
    ];
    for ip in [[224, 0, 0, 1], [255, 255, 255, 255], [240, 0, 0, 1], [10, 0, 0, 1], [192, 168, 0, 1], [169, 254, 0, 1]]
    {
        martians.push(matching_entry(ip.into(), ports[3]));
    }
    martians.push(matching_entry([127, 0, 0, 1].into(), 0));
    martians.push(matching_entry("::".parse().unwrap(), ports[3]));
    martians.push(matching_entry("ff02::1".parse().unwrap(), ports[3]));
    // No listener speaks its family.
    martians.push(matching_entry("::1".parse().unwrap(), ports[3]));
    let _fake = Fake::serve(fakes, move |question| match question.message {
        Message::FindNode { .. } if question.listener == 0 => {
            // The node dials from its own address. The good one comes last and proves that the list was read.
            let own = true_entry(question.from);
            node_frame(&[&martians[..], &[own, true_entry(good)]].concat())
        }
        message => polite(&message, &[]),
    });
    let row = Row::joining(addrs[0]);
    eventually("the good one is learnt", || row.node.counter("contacts") == 2);
    until_idle(&row.node);
    sleep(ms(1000));
    for trap in &traps {
        assert_untouched(trap, "a martian");
    }
    assert_eq!(row.node.counter("dialled"), 2, "the two fakes, nobody else");
    assert_eq!(row.node.counter("dials_failed"), 0, "nor tried in vain");
    assert_eq!(row.node.counter("self_connections"), 0, "its own address is not dialled either");
    // Asked last, as who asks for nodes is probed for being one.
    assert_eq!(known(&row.node), honest_set(&addrs));
    row.end(&["martian_contacts"]);
}

// ---- row 11 ----

#[test]
fn row_11_an_answer_to_nothing_is_a_strike() {
    let row = Row::start(&[]);
    let (traps, trap_addrs) = listeners(1);
    let mut peer = Peer::connect(row.node.addr);
    // ERROR is never answered, nor a strike.
    for _ in 0..5 {
        peer.send(&Message::Error { code: 1, text: b"?" });
        peer.send_bytes(&raw_frame(658, b"cut"));
    }
    let nodes = node_frame(&[true_entry(trap_addrs[0])]);
    for answer in [nodes.clone(), frame(&Message::Pong { nonce: 0 }), nodes] {
        peer.ping(1);
        peer.send_bytes(&answer);
        assert_eq!(peer.receive_error(), UNKNOWN_TYPE);
    }
    assert!(peer.expect_end() < PROMPT);
    for answer in [Message::Value { value: b"" }, Message::Failure { key: key(1) }] {
        let mut peer = Peer::connect(row.node.addr);
        peer.send(&answer);
        assert_eq!(peer.receive_error(), UNKNOWN_TYPE);
        peer.ping(1);
    }
    sleep(ms(500));
    assert_untouched(&traps[0], "a contact named unasked");
    assert!(known(&row.node).is_empty());
    assert_eq!(row.node.counter("unasked_answers"), 5);
    row.end(&["unasked_answers", "unasked_errors", "struck_out"]);
}

#[test]
fn row_11_a_wrong_answer_closes_the_connection() {
    let (traps, trap_addrs) = listeners(1);
    let trap = true_entry(trap_addrs[0]);
    let unknown_ip_type = [&[5][..], &trap[1..]].concat();
    let mut bad_sum = node_frame(std::slice::from_ref(&trap));
    *bad_sum.last_mut().unwrap() ^= 1;
    let answers: Vec<(&str, Vec<u8>)> = vec![
        ("PONG", frame(&Message::Pong { nonce: 7 })),
        ("VALUE", frame(&Message::Value { value: b"to FIND_NODE" })),
        ("SUCCESS", frame(&Message::Success { key: key(1), value: b"" })),
        ("FAILURE", frame(&Message::Failure { key: key(1) })),
        ("an entry cut short", node_frame(&[trap.clone(), trap[..38].to_vec()])),
        ("an unknown ip_type", node_frame(&[trap.clone(), unknown_ip_type])),
        ("a bad checksum", bad_sum),
    ];
    thread::scope(|s| {
        for (what, answer) in answers {
            s.spawn(move || assert_closes(what, answer));
        }
    });
    assert_untouched(&traps[0], "a contact of an answer that does not count");
}

fn assert_closes(what: &str, answer: Vec<u8>) {
    let (fakes, addrs) = listeners(1);
    let fake = Fake::serve(fakes, move |question| match question.message {
        Message::FindNode { .. } => answer.clone(),
        message => polite(&message, &[]),
    });
    let row = Row::joining(addrs[0]);
    eventually(what, || fake.count(|heard| heard.frame.is_none() && heard.connection == 0) == 1);
    let heard = fake.heard();
    let asked = heard.iter().find(|heard| heard.is_find_node()).unwrap();
    let ended = heard.iter().find(|heard| heard.frame.is_none()).unwrap();
    assert!(ended.at - asked.at < PROMPT, "{what}: closed after {:?}", ended.at - asked.at);
    assert_eq!(fake.count(Heard::is_error), 0, "{what}: without ERROR");
    assert!(known(&row.node).is_empty(), "{what}: nothing learnt");
    let status = row.node.status();
    let counted = ["wrong_answers", "malformed", "bad_checksums"].iter().any(|name| status[*name] != "0");
    assert!(counted, "{what}: counted");
    row.end(&["requests_failed"]);
}

#[test]
fn row_11_a_late_answer_is_swallowed_in_its_place() {
    let (fakes, addrs) = listeners(1);
    let (traps, trap_addrs) = listeners(1);
    let late = node_frame(&[true_entry(trap_addrs[0])]);
    let asked = AtomicU32::new(0);
    let fake = Fake::serve(fakes, move |question| match question.message {
        Message::FindNode { .. } if asked.fetch_add(1, Ordering::Relaxed) == 0 => {
            // Well past the 2 s after which a contact has failed.
            sleep(ms(3000));
            late.clone()
        }
        message => polite(&message, &[]),
    });
    let row = Row::joining(addrs[0]);
    eventually("it is asked again and learnt", || row.node.counter("contacts") == 1);
    sleep(ms(500));
    assert_untouched(&traps[0], "a contact named too late");
    assert_eq!(known(&row.node), honest_set(&addrs));
    assert_eq!(fake.count(Heard::is_error), 0, "swallowed, not answered");
    row.end(&["requests_failed"]);
}

#[test]
fn row_11_a_second_answer_is_unasked() {
    let (fakes, addrs) = listeners(1);
    let (traps, trap_addrs) = listeners(1);
    let extra = node_frame(&[true_entry(trap_addrs[0])]);
    let found = b"a value that certifies itself";
    let wanted = Id::hash_of(&[found]);
    let fake = Fake::serve(fakes, move |question| match question.message {
        Message::FindValue { key } if key == wanted => {
            // The value ends the lookup, so nothing is outstanding when the second answer comes.
            [frame(&Message::Value { value: found }), extra.clone()].concat()
        }
        message => polite(&message, &[]),
    });
    let row = Row::joining(addrs[0]);
    eventually("the fake is learnt", || row.node.counter("contacts") == 1);
    until_idle(&row.node);
    let mut client = Peer::connect(row.node.addr);
    client.expect(&Message::Get { key: wanted }, &Message::Success { key: wanted, value: found });
    eventually("the second is answered", || fake.count(Heard::is_error) == 1);
    sleep(ms(500));
    assert_untouched(&traps[0], "a contact of a second answer");
    assert_eq!(known(&row.node), honest_set(&addrs));
    row.end(&["unasked_answers"]);
}

#[test]
fn row_11_success_of_another_key_stores_nothing() {
    let (fakes, addrs) = listeners(1);
    let fake = Fake::serve(fakes, move |question| match question.message {
        Message::Put { .. } => frame(&Message::Success { key: key(99), value: b"" }),
        message => polite(&message, &[]),
    });
    let row = Row::joining(addrs[0]);
    eventually("the fake is learnt", || row.node.counter("contacts") == 1);
    until_idle(&row.node);
    let mut client = Peer::connect(row.node.addr);
    // Nobody has named the node, so the fake is the only holder there could be; it is asked on a connection in reuse.
    client.send(&Message::Put { ttl_s: 9, replication: 2, key: key(1), value: b"x" });
    assert_eq!(client.receive_error(), UNREACHABLE);
    assert_eq!(fake.count(Heard::is_error), 0);
    eventually("the connection is closed", || fake.count(|heard| heard.frame.is_none()) >= 1);
    row.end(&["wrong_answers"]);
}

#[test]
fn row_11_a_candidate_with_the_wrong_nonce_is_not_learnt() {
    let (fakes, addrs) = listeners(1);
    let fake = Fake::serve(fakes, |question| match question.message {
        Message::Ping { nonce } => frame(&Message::Pong { nonce: !nonce }),
        message => polite(&message, &[]),
    });
    let row = Row::start(&[]);
    let mut candidate = dial_from(addrs[0], row.node.addr);
    candidate.send(&Message::FindNode { key: key(1) });
    assert!(matches!(Sealed::decode(&candidate.receive()), Ok(Message::Node(_))));
    eventually("it is probed", || fake.count(|heard| heard.is(|m| matches!(m, Message::Ping { .. }))) == 1);
    eventually("the probe is closed", || fake.count(|heard| heard.frame.is_none()) == 1);
    assert_eq!(fake.count(Heard::is_error), 0);
    assert!(known(&row.node).is_empty());
    // The candidate's own connection did nothing wrong.
    candidate.ping(1);
    row.end(&["probes_failed"]);
}

// ---- row 12 ----

#[test]
fn row_12_the_confirmed_entry_stays() {
    let (fakes, addrs) = listeners(2);
    let (traps, trap_addrs) = listeners(3);
    let ids: Vec<Id> = addrs.iter().map(|addr| contact_at(*addr).id).collect();
    let (own_addrs, fake_addrs) = (trap_addrs.clone(), addrs.clone());
    let fake = Fake::serve(fakes, move |question| match question.message {
        Message::FindNode { .. } => {
            let [first, second] = [fake_addrs[0], fake_addrs[1]];
            let lies = [
                // Known addresses with other ids.
                entry(first.ip(), first.port(), key(12)),
                entry(second.ip(), second.port(), ids[0]),
                // Known ids, and the asker's own, from other addresses.
                entry(own_addrs[0].ip(), own_addrs[0].port(), ids[0]),
                entry(own_addrs[1].ip(), own_addrs[1].port(), ids[1]),
                entry(own_addrs[2].ip(), own_addrs[2].port(), node_id(question.from)),
                true_entry(question.from),
            ];
            node_frame(&[&lies[..], &[true_entry(second)]].concat())
        }
        message => polite(&message, &[]),
    });
    let row = Row::joining(addrs[0]);
    eventually("both are learnt", || row.node.counter("contacts") == 2);
    until_idle(&row.node);
    // Once more, when both are confirmed.
    let before = fake.heard().len();
    let mut client = Peer::connect(row.node.addr);
    client.send(&Message::Put { ttl_s: 9, replication: 3, key: key(1), value: b"x" });
    client.receive();
    eventually("the fakes are asked again", || fake.heard().len() > before);
    sleep(ms(500));
    assert_eq!(known(&row.node), honest_set(&addrs));
    for trap in &traps {
        assert_untouched(trap, "an address with an id that is not its own");
    }
    row.end(&["id_mismatches"]);
}

// ---- row 15 ----

#[test]
fn row_15_a_node_alone_backs_off() {
    slow("row 15");
}

pub fn lonely_node_backs_off() {
    // Accepts and closes at once: the network is there, nobody is in.
    let closing = listener();
    let addr = closing.local_addr().unwrap();
    let mut row = Row::on(Node::start(&["--bootstrap", &addr.to_string()]), true);
    let others: Vec<Node> = (0..5).map(|_| Node::start(&["--bootstrap", &addr.to_string()])).collect();
    let mut tries: BTreeMap<SocketAddr, Vec<Instant>> = BTreeMap::new();
    let begin = Instant::now();
    let before = cpu(&row.node);
    while begin.elapsed() < Duration::from_secs(15) {
        // The same port again, or another: the first try of a node comes from its listening port.
        while let Ok((_stream, from)) = closing.accept() {
            tries.entry(from).or_default().push(Instant::now());
        }
        sleep(ms(2));
    }
    let used = cpu(&row.node) - before;
    assert!(used < ms(2000), "used {used:?} of 15 s");
    let all: Vec<&Vec<Instant>> = tries.values().filter(|tries| tries.len() > 1).collect();
    assert!(all.len() >= 6, "each node tries again: {}", all.len());
    let total: usize = tries.values().map(Vec::len).sum();
    assert!(total <= 6 * 15, "{total} tries by 6 nodes in 15 s");
    let mine = &tries[&row.node.addr];
    assert!(mine.last().unwrap().duration_since(*mine.first().unwrap()) < Duration::from_secs(15));
    assert_backs_off(&all);
    assert!(row.node.is_running());
    drop(others);
    row.end(&["bootstraps_failed"]);
}

/// The pause grows, and it isn't the same for every node.
fn assert_backs_off(all: &[&Vec<Instant>]) {
    let first: Vec<Duration> = all.iter().map(|tries| tries[1] - tries[0]).collect();
    let spread = *first.iter().max().unwrap() - *first.iter().min().unwrap();
    assert!(spread > ms(30), "the first pauses differ by {spread:?} only: {first:?}");
    for tries in all.iter().filter(|tries| tries.len() > 2) {
        let pauses: Vec<Duration> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.last() > pauses.first(), "pauses grow: {pauses:?}");
    }
}

#[test]
fn row_15_jobs_end_when_every_contact_is_dead() {
    let killed = crate::common::network(3, 2);
    let stopped = crate::common::network(2, 1);
    let names = [killed[0].addr.to_string(), stopped[0].addr.to_string()];
    let row = Row::start(&["--bootstrap", &names[0], "--bootstrap", &names[1]]);
    eventually("all are learnt", || row.node.counter("contacts") == 5);
    until_idle(&row.node);
    killed.iter().for_each(|node| node.signal("KILL"));
    // These accept what comes and never answer.
    stopped.iter().for_each(|node| node.signal("STOP"));
    let mut client = Peer::connect(row.node.addr);
    let begin = Instant::now();
    client.expect(&Message::Get { key: key(15) }, &Message::Failure { key: key(15) });
    assert!(begin.elapsed() < Duration::from_secs(4) + PROMPT, "GET took {:?}", begin.elapsed());
    let begin = Instant::now();
    client.send(&Message::Put { ttl_s: 9, replication: 3, key: key(15), value: b"x" });
    let outcome = client.receive();
    assert!(begin.elapsed() < Duration::from_secs(4) + PROMPT, "PUT took {:?}", begin.elapsed());
    match Sealed::decode(&outcome).unwrap() {
        Message::Success { key: k, value: b"" } => assert_eq!(k, key(15)),
        Message::Error { code, .. } => assert_eq!(code, UNREACHABLE),
        other => panic!("not an outcome: {other:?}"),
    }
    until_idle(&row.node);
    assert_does_not_spin(&row.node);
    row.end(&["requests_failed"]);
}
