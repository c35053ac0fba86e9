//! Rows 16 to 20: floods of values, requests and connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use dayfly::contact::Contact;
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Nodes, Sealed};
use dayfly::dialect::sealed::contact_at;

use crate::bytes::*;
use crate::common::{Node, Peer, eventually, frame, key};
use crate::fake::*;
use crate::row::*;
use crate::slow::slow;

// ---- row 16 ----

#[test]
fn row_16_a_full_store_keeps_what_it_holds() {
    let row = Row::start(&["--store-entries", "100", "--max-value-bytes", "100"]);
    let mut peer = Peer::connect(row.node.addr);
    let begin = Instant::now();
    let flood: Vec<u8> = (0..300).flat_map(|i| frame(&put(key(i), 3, b"held"))).collect();
    peer.send_bytes(&flood);
    for i in 0..300 {
        let answer = peer.receive();
        match Sealed::decode(&answer).unwrap() {
            Message::Success { key: k, value: b"" } => assert!(k == key(i) && i < 100, "{i} is stored"),
            Message::Error { code, .. } => assert!(code == FULL && i >= 100, "{i}: ERROR {code}"),
            other => panic!("{other:?}"),
        }
    }
    let stored = Instant::now();
    assert_eq!(row.node.counter("store_full"), 200);
    assert_eq!(row.node.counter("store_entries"), 100);
    // Replacing takes no room.
    store(&mut peer, key(0), 3, b"dleh");
    for i in 1..100 {
        peer.expect(&Message::FindValue { key: key(i) }, &Message::Value { value: b"held" });
    }
    assert!(begin.elapsed() < ms(3000), "too slow to tell");
    sleep((stored + ms(3000)).saturating_duration_since(Instant::now()) + ms(5));
    for i in 1..100 {
        peer.expect(&Message::FindValue { key: key(i) }, &Message::Node(Nodes::Wire(&[])));
    }
    store(&mut peer, key(200), 3, b"room again");
    // Too large is no strike.
    for i in 0..5 {
        peer.send(&put(key(i), 3, &[0; 101]));
        assert_eq!(peer.receive_error(), TOO_LARGE);
    }
    store(&mut peer, key(201), 3, &[0; 100]);
    row.end(&["store_full", "values_too_large"]);
}

#[test]
fn row_16_a_flood_of_puts_stays_within_its_bytes() {
    let _alone = crate::common::alone();
    let row = Row::start(&["--store-bytes", "1000000"]);
    let before = row.node.resident_kib();
    let mut stored = 0;
    thread::scope(|s| {
        let floods: Vec<_> = (0..4).map(|source| s.spawn(move || flood_with_puts(row.node.addr, source))).collect();
        stored = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    });
    assert!((10..=16).contains(&stored), "{stored} of 60,000 bytes each fit into 1,000,000");
    assert!(row.node.counter("store_bytes") <= 1_000_000);
    assert_eq!(row.node.counter("store_full"), 400 - stored);
    let grown = row.node.resident_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "grown by {grown} KiB");
    row.end(&["store_full"]);
}

/// How many of 100 large values were stored; the others got ERROR 6, and what was stored is served.
fn flood_with_puts(addr: SocketAddr, source: u64) -> u64 {
    let mut peer = Peer::connect(addr);
    let big = value(source as usize, 60_000);
    let mut held = Vec::new();
    for i in 0..100 {
        let key = key(1000 * source + i);
        peer.send(&put(key, 10, &big));
        match Sealed::decode(&peer.receive()).unwrap() {
            Message::Success { .. } => held.push(key),
            Message::Error { code, .. } => assert_eq!(code, FULL),
            other => panic!("{other:?}"),
        }
    }
    for key in &held {
        peer.expect(&Message::FindValue { key: *key }, &Message::Value { value: &big });
    }
    held.len() as u64
}

// ---- row 17 ----

#[test]
fn row_17_lifetimes_and_sizes_at_their_limits() {
    slow("row 17");
}

pub fn lifetimes_are_cut() {
    let row = Row::start(&[]);
    let addr = row.node.addr;
    thread::scope(|s| {
        for (ttl_s, len, lifetime_s) in
            [(0, 0, 10), (1, 65_463, 1), (9, 1, 9), (10, 65_463, 10), (11, 5, 10), (65_535, 0, 10)]
        {
            s.spawn(move || assert_lives(addr, ttl_s, &value(7, len), Duration::from_secs(lifetime_s)));
        }
    });
    eventually("the memory is freed", || row.node.counter("store_entries") == 0);
    assert_eq!(row.node.counter("store_bytes"), 0);
    row.end(&[]);
}

/// Stores it, then asks until it is gone; that must be after its lifetime, and at once after it.
fn assert_lives(addr: SocketAddr, ttl_s: u16, value: &[u8], lifetime: Duration) {
    // Clocks of milliseconds round down.
    let tick = ms(2);
    let key = key(u64::from(ttl_s));
    let mut peer = Peer::connect(addr);
    let before = Instant::now();
    store(&mut peer, key, ttl_s, value);
    let after = Instant::now();
    loop {
        let asked = Instant::now();
        peer.send(&Message::FindValue { key });
        match Sealed::decode(&peer.receive()).unwrap() {
            Message::Value { value: held } => {
                assert!(held == value, "ttl {ttl_s}: served whole");
                assert!(asked < after + lifetime + tick, "ttl {ttl_s}: served {:?} old", asked - after);
            }
            Message::Node(_) => {
                assert!(before.elapsed() + tick >= lifetime, "ttl {ttl_s}: gone after {:?}", before.elapsed());
                break;
            }
            other => panic!("{other:?}"),
        }
        sleep(ms(10));
    }
    peer.expect(&Message::Get { key }, &Message::Failure { key });
}

// ---- row 18 ----

#[test]
fn row_18_a_reader_that_never_reads_is_closed() {
    slow("row 18");
}

pub fn readers_that_never_read() {
    let row = Row::start(&[]);
    let addr = row.node.addr;
    let before = row.node.resident_kib();
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        // The values have to last as long as the readers have requests.
        s.spawn(|| keep_stored(addr, &stop));
        let slow_but_reading = s.spawn(|| read_slowly(addr, &stop));
        let readers: Vec<Peer> = (0..5).map(|_| ask_for_much(addr)).collect();
        let begin = Instant::now();
        // 5 x 120 MB were asked for.
        while row.node.counter("slow_readers") < 5 && begin.elapsed() < Duration::from_secs(40) {
            let grown = row.node.resident_kib().saturating_sub(before);
            assert!(grown < 64 * 1024, "grown by {grown} KiB");
            sleep(ms(250));
        }
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(row.node.counter("slow_readers"), 5, "and not the one that reads slowly");
        assert!(took > Duration::from_secs(27) && took < Duration::from_secs(36), "closed after {took:?}");
        let read = slow_but_reading.join().unwrap();
        assert!(read > 10_000_000, "{read} bytes");
        drop(readers);
    });
    assert!(row.node.counter("read_pauses") >= 5, "they were not read from, and that is counted");
    row.end(&["slow_readers"]);
}

/// Ends what goes on beside the readers, should nobody stop it.
const READERS_LAST: Duration = Duration::from_secs(45);

fn keep_stored(addr: SocketAddr, stop: &AtomicBool) {
    let mut peer = Peer::connect(addr);
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) && begin.elapsed() < READERS_LAST {
        store(&mut peer, key(18), 10, &value(18, 60_000));
        sleep(ms(500));
    }
}

/// Asks for 120 MB and reads none of it.
fn ask_for_much(addr: SocketAddr) -> Peer {
    let mut peer = Peer::connect(addr);
    // The value is there before it is asked for.
    store(&mut peer, key(18), 10, &value(18, 60_000));
    peer.send_bytes(&frame(&Message::FindValue { key: key(18) }).repeat(2000));
    peer
}

/// Reads at about 1 MB/s; how much it got.
fn read_slowly(addr: SocketAddr, stop: &AtomicBool) -> usize {
    let mut peer = ask_for_much(addr);
    let (mut chunk, mut read) = (vec![0; 65_536], 0);
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) && begin.elapsed() < READERS_LAST {
        let n = peer.stream.read(&mut chunk).unwrap();
        assert!(n > 0, "closed though it reads");
        read += n;
        sleep(ms(50));
    }
    read
}

// ---- row 19 ----

#[test]
fn row_19_a_hundred_thousand_requests_at_once() {
    let _alone = crate::common::alone();
    let row = Row::start(&[]);
    let mut reader = Peer::connect(row.node.addr);
    let mut writer = reader.stream.try_clone().unwrap();
    thread::scope(|s| {
        s.spawn(move || {
            let all: Vec<u8> = (0..100_000).flat_map(|nonce| frame(&Message::Ping { nonce })).collect();
            writer.write_all(&all).unwrap();
        });
        for nonce in 0..100_000 {
            assert_eq!(Sealed::decode(&reader.receive()), Ok(Message::Pong { nonce }), "in order");
        }
    });
    // Owed answers keep their place among the others.
    let ask = |i| [frame(&Message::Get { key: key(i) }), frame(&Message::Ping { nonce: i as u32 })].concat();
    reader.send_bytes(&(0..500).flat_map(ask).collect::<Vec<u8>>());
    for i in 0..500 {
        assert_eq!(Sealed::decode(&reader.receive()), Ok(Message::Failure { key: key(i) }));
        assert_eq!(Sealed::decode(&reader.receive()), Ok(Message::Pong { nonce: i as u32 }));
    }
    row.end(&["turns_used_up"]);
}

#[test]
fn row_19_work_whose_sender_left_still_counts() {
    let _alone = crate::common::alone();
    let (fakes, addrs) = listeners(10);
    let contacts: Vec<Contact> = addrs.iter().map(|addr| contact_at(*addr)).collect();
    // They know everything about nodes and never say a word about values, so that every GET takes its time.
    let _fakes = Fake::serve(fakes, move |question| match question.message {
        Message::FindValue { .. } => Vec::new(),
        message => polite(&message, &contacts),
    });
    let row = Row::joining(addrs[0]);
    eventually("the fakes are learnt", || row.node.counter("contacts") == 10);
    until_idle(&row.node);
    let mut most = 0;
    for i in 0..200 {
        let mut peer = Peer::connect(row.node.addr);
        peer.send_bytes(&(0..64).flat_map(|j| frame(&Message::Get { key: key(100 * i + j) })).collect::<Vec<u8>>());
        if i % 10 == 0 {
            sleep(ms(20));
            most = most.max(row.node.counter("jobs"));
        }
        // Half leave politely, half don't.
        if i % 2 == 0 {
            reset(peer);
        }
    }
    // Were the work of those who left not counted, what is under way would have no bound.
    assert!((64..64 * 200 / 4).contains(&most), "{most} jobs at once");
    let begin = Instant::now();
    until_idle(&row.node);
    assert!(begin.elapsed() < Duration::from_secs(4) + LATE, "a job lasts 4 s");
    row.end(&["requests"]);
}

// ---- row 20 ----

#[test]
fn row_20_the_oldest_silent_connections_go_first() {
    let _alone = crate::common::alone();
    let row = Row::on(Node::start(&["--max-connections", "64"]), false);
    let addr = row.node.addr;
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(addr).unwrap()).collect();
    eventually("the cap holds", || row.node.counter("accepted") >= 200 && row.node.counter("connections") <= 64);
    let closed: Vec<bool> = silent.iter().map(is_closed).collect();
    let gone = closed.iter().filter(|closed| **closed).count();
    assert!((200 - 64 + 1..=160).contains(&gone), "{gone} of 200 are gone");
    assert!(closed[..gone].iter().all(|closed| *closed), "the oldest: {closed:?}");
    // Who has something to say is let in, and not pushed out by silent ones.
    let mut talkers: Vec<Peer> = (0..10).map(|_| Peer::connect(addr)).collect();
    for talker in &mut talkers {
        assert!(talker.ping(1) < PROMPT);
    }
    let more: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(addr).unwrap()).collect();
    eventually("the cap holds", || row.node.counter("accepted") >= 310 && row.node.counter("connections") <= 64);
    for talker in &mut talkers {
        assert!(talker.ping(2) < PROMPT);
    }
    drop((silent, more));
    row.end(&["evicted"]);
}

/// Whether the peer has ended the stream, whatever it still said.
fn has_ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let end = loop {
        match stream.read(&mut [0; 1024]) {
            Ok(n) if n > 0 => {}
            Ok(_) => break true,
            Err(e) => break e.kind() != ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    end
}

#[test]
fn row_20_talkers_up_to_the_cap() {
    let _alone = crate::common::alone();
    let row = Row::on(Node::start(&["--max-connections", "64"]), false);
    let mut served = Vec::new();
    let mut refused = 0;
    for _ in 0..100 {
        let mut peer = Peer::connect(row.node.addr);
        // A refused one may be closed before it has said anything.
        let _ = peer.stream.write_all(&frame(&Message::Ping { nonce: 1 }));
        let answer = peer.try_receive();
        match answer.as_ref().map(|frame| Sealed::decode(frame).unwrap()) {
            Some(Message::Pong { nonce: 1 }) => served.push(peer),
            Some(Message::Error { code: BUSY, .. }) | None => refused += 1,
            other => panic!("neither served nor refused: {other:?}"),
        }
        assert!(row.node.counter("connections") <= 64);
    }
    assert!(served.len() >= 40, "{} served, {refused} refused", served.len());
    // Whoever was refused is counted, and so is whoever went so that another was let in.
    eventually("each that is gone is counted", || {
        let gone = served.iter().filter(|peer| has_ended(&peer.stream)).count() as u64;
        let counted = ["too_many_connections", "evicted"].map(|name| row.node.counter(name));
        counted == [refused, gone] && refused + gone >= 100 - 64
    });
    drop(served);
    eventually("there is room again", || row.node.counter("connections") < 10);
    row.end(&[]);
}

/// Bug 37 of the reports: a full node hung up without a word, and a script took it for dead.
#[test]
fn row_20_a_refused_connection_is_told_so() {
    let _alone = crate::common::alone();
    let node = Node::start(&["--max-connections", "8"]);
    let mut taken: Vec<Peer> = Vec::new();
    eventually("all places are taken by those in use", || {
        taken.iter_mut().for_each(|peer| drop(peer.stream.write_all(&frame(&Message::Ping { nonce: 1 }))));
        let mut newcomer = Peer::connect(node.addr);
        let before = node.counter("too_many_connections");
        let _ = newcomer.stream.write_all(&frame(&Message::Ping { nonce: 2 }));
        let answer = newcomer.try_receive();
        let answer = answer.as_ref().map(|frame| Sealed::decode(frame).unwrap());
        assert!(answer.is_some(), "whoever connects is answered, served or not");
        let is_refused = matches!(answer, Some(Message::Error { code: BUSY, .. }));
        assert!(is_refused || answer == Some(Message::Pong { nonce: 2 }) || before > 0, "{answer:?}");
        taken.push(newcomer);
        is_refused
    });
    for _ in 0..3 {
        taken.iter_mut().for_each(|peer| drop(peer.stream.write_all(&frame(&Message::Ping { nonce: 1 }))));
        let refused = crate::common::dayfly(&["ping", &node.addr.to_string()]);
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(75) && stderr.contains("busy"), "{stderr}");
    }
}
