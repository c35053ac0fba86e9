//! Rows 21 to 25: descriptors, resets, signals and what stands on the command line.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use socket2::{Domain, Socket, Type};

use crate::bytes::*;
use crate::common::process::run_to_end;
use crate::common::{Node, Peer, eventually, frame, key};
use crate::fake::*;
use crate::row::*;

// ---- row 21 ----

/// A node that starts with at most 64 open files, and cannot have more.
fn node_with_few_files() -> Node {
    let script = "ulimit -n 64; exec \"$0\" --listen 127.0.0.1:0";
    Node::start_with(Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_dayfly")]))
}

#[test]
fn row_21_few_open_files() {
    let _alone = crate::common::alone();
    let row = Row::on(node_with_few_files(), false);
    let addr = row.node.addr;
    let flood: Vec<Peer> = (0..200)
        .map(|i| {
            let mut peer = Peer::connect(addr);
            // Silent ones and talking ones.
            if i % 2 == 0 {
                let _ = peer.stream.write_all(&frame(&Message::Ping { nonce: 1 }));
            }
            peer
        })
        .collect();
    assert_does_not_spin(&row.node);
    drop(flood);
    eventually("the flood is over", || row.node.counter("connections") < 10);
    let status = row.node.status();
    let names = ["evicted", "too_many_connections", "accepts_failed"];
    assert!(names.iter().any(|name| status[*name] != "0"), "counted");
    row.end(&[]);
}

#[test]
fn row_21_no_more_open_files_at_all() {
    let _alone = crate::common::alone();
    let row = Row::on(Node::start(&[]), false);
    let addr = row.node.addr;
    // The caps were derived from a higher limit: now accept itself fails.
    let files = std::fs::read_dir(format!("/proc/{}/fd", row.node.pid())).unwrap().count() + 10;
    let [pid, limit] = [format!("--pid={}", row.node.pid()), format!("--nofile={files}:{files}")];
    assert!(Command::new("prlimit").args([pid, limit]).status().unwrap().success());
    let flood: Vec<Peer> = (0..100)
        .map(|_| {
            let mut peer = Peer::connect(addr);
            let _ = peer.stream.write_all(&frame(&Message::Ping { nonce: 1 }));
            peer
        })
        .collect();
    assert_does_not_spin(&row.node);
    drop(flood);
    // Again and again: what accept left behind must not be stranded.
    for _ in 0..20 {
        eventually("new clients are served", || answers_a_ping(addr));
    }
    row.end(&["accepts_failed"]);
}

fn answers_a_ping(addr: SocketAddr) -> bool {
    let mut peer = Peer::connect(addr);
    let _ = peer.stream.write_all(&frame(&Message::Ping { nonce: 1 }));
    peer.try_receive().is_some_and(|frame| Sealed::decode(&frame) == Ok(Message::Pong { nonce: 1 }))
}

// ---- row 22 ----

#[test]
fn row_22_a_reset_touches_its_connection_alone() {
    let row = Row::start(&[]);
    let mut other = Peer::connect(row.node.addr);
    let big = value(22, 60_000);
    store(&mut other, key(22), 10, &big);
    for i in 0..20 {
        let mut peer = Peer::connect(row.node.addr);
        // Megabytes are on their way when it resets.
        peer.send_bytes(&frame(&Message::FindValue { key: key(22) }).repeat(200));
        other.send(&Message::FindValue { key: key(22) });
        peer.receive();
        // In the middle of a frame of its own, too.
        peer.send_bytes(&frame(&Message::Ping { nonce: 1 })[..i + 1]);
        reset(peer);
        assert_eq!(Sealed::decode(&other.receive()), Ok(Message::Value { value: &big }));
        other.ping(i as u32);
    }
    eventually("all are gone", || row.node.counter("buffered_bytes") == 0);
    row.end(&["resets"]);
}

#[test]
fn row_22_a_half_closed_connection_gets_its_answers() {
    let row = Row::start(&[]);
    let big = value(22, 60_000);
    let mut peer = Peer::connect(row.node.addr);
    store(&mut peer, key(22), 10, &big);
    let mut requests = Vec::new();
    for i in 0..100 {
        requests.extend(frame(&Message::FindValue { key: key(22) }));
        requests.extend(frame(&Message::Get { key: key(1000 + i) }));
    }
    peer.send_bytes(&requests);
    peer.half_close();
    for i in 0..100 {
        assert_eq!(Sealed::decode(&peer.receive()), Ok(Message::Value { value: &big }));
        assert_eq!(Sealed::decode(&peer.receive()), Ok(Message::Failure { key: key(1000 + i) }), "owed ones too");
    }
    assert!(peer.expect_end() < PROMPT, "then the end");
    // Half a frame and then the end of the stream: nothing to wait for.
    let mut peer = Peer::connect(row.node.addr);
    peer.send_bytes(&frame(&Message::Ping { nonce: 1 })[..20]);
    peer.half_close();
    assert!(peer.expect_end() < PROMPT);
    row.end(&[]);
}

#[test]
fn row_22_two_connections_of_one_peer() {
    let (fakes, addrs) = listeners(1);
    let fake = Fake::serve(fakes, |question| polite(&question.message, &[]));
    // One that the node dialled, from its listening port, and two that the peer did.
    let row = Row::joining(addrs[0]);
    eventually("the fake is learnt", || row.node.counter("contacts") == 1);
    let mut first = Peer::connect(row.node.addr);
    let mut second = Peer::connect(row.node.addr);
    store(&mut first, key(22), 10, b"x");
    first.send_bytes(&frame(&Message::FindValue { key: key(22) }).repeat(100));
    second.send_bytes(&frame(&Message::Ping { nonce: 2 }).repeat(100));
    for _ in 0..50 {
        assert_eq!(Sealed::decode(&first.receive()), Ok(Message::Value { value: b"x" }));
    }
    reset(first);
    for _ in 0..100 {
        assert_eq!(Sealed::decode(&second.receive()), Ok(Message::Pong { nonce: 2 }));
    }
    second.ping(3);
    assert_eq!(fake.count(|heard| heard.frame.is_none()), 0, "the node's own connection is untouched");
    assert_eq!(known(&row.node), honest_set(&addrs));
    row.end(&["resets"]);
}

#[test]
fn row_22_a_node_that_meets_itself_hangs_up() {
    let candidate = listener();
    let row = Row::start(&[]);
    let mut asking = dial_from(candidate.local_addr().unwrap(), row.node.addr);
    asking.send(&Message::FindNode { key: key(1) });
    asking.receive();
    let mut probe = None;
    eventually("the candidate is probed", || {
        probe = candidate.accept().ok();
        probe.is_some()
    });
    // The candidate passes the probe on to the node that sent it.
    let mut probe = Peer::on(probe.unwrap().0);
    probe.stream.set_nonblocking(false).unwrap();
    let ping = probe.receive();
    assert!(matches!(Sealed::decode(&ping), Ok(Message::Ping { .. })));
    let mut relay = Peer::connect(row.node.addr);
    relay.send_bytes(&ping);
    assert!(relay.expect_end() < PROMPT, "dropped without an answer");
    assert!(known(&row.node).is_empty());
    asking.ping(1);
    row.end(&["self_connections"]);
}

// ---- row 24 ----

/// Pings, stores and asks as fast as it can until the connection ends.
fn load(addr: SocketAddr, seed: u64) {
    let Ok(stream) = TcpStream::connect(addr) else { return };
    let mut stream = Peer::on(stream).stream;
    stream.set_read_timeout(Some(ms(50))).unwrap();
    let mut chunk = vec![0; 65_536];
    let mut requests = frame(&Message::Ping { nonce: 1 });
    requests.extend(frame(&put(key(seed), 9, &value(0, 1000))));
    requests.extend(frame(&Message::Get { key: key(seed) }));
    requests.extend(frame(&Message::Put { ttl_s: 9, replication: 3, key: key(seed), value: b"many" }));
    for _ in 0..100_000 {
        if stream.write_all(&requests).is_err() {
            return;
        }
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => return,
        }
    }
}

#[test]
fn row_24_sigterm_in_the_middle_of_load() {
    let _alone = crate::common::alone();
    let others = crate::common::network(3, 2);
    let mut node = Node::start(&["--bootstrap", &others[0].addr.to_string()]);
    eventually("it has joined", || node.counter("contacts") == 3);
    let honest = Honest::start(node.addr, true);
    let addr = node.addr;
    thread::scope(|s| {
        for seed in 0..4 {
            s.spawn(move || load(addr, seed));
        }
        let mut reader = reads_late(addr);
        sleep(ms(500));
        honest.finish();
        let begin = Instant::now();
        node.signal("TERM");
        // Reads only now what was answered before; less than the two seconds that the node may flush.
        sleep(ms(200));
        for i in 0..3 {
            let answer = reader.receive();
            assert_eq!(Sealed::decode(&answer), Ok(Message::Value { value: &value(24, 60_000) }), "answer {i}");
        }
        assert_eq!(node.wait(), Some(0));
        assert!(begin.elapsed() < Duration::from_secs(10), "took {:?}", begin.elapsed());
    });
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
    for other in &others {
        assert!(fresh_ping(other.addr) < PROMPT, "the others go on");
    }
}

/// Asks for three large values over a connection that holds little, and waits until they are answered.
fn reads_late(addr: SocketAddr) -> Peer {
    let mut peer = Peer::connect(addr);
    store(&mut peer, key(24), 10, &value(24, 60_000));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&addr.into()).unwrap();
    let mut peer = Peer::on(socket.into());
    peer.send_bytes(&frame(&Message::FindValue { key: key(24) }).repeat(3));
    peer
}

#[test]
fn row_24_a_second_signal_ends_it_at_once() {
    let mut node = Node::start(&[]);
    let addr = node.addr;
    let honest = Honest::start(addr, true);
    // Has much to be sent and doesn't take it: the node flushes as long as it may.
    let mut glutton = Peer::connect(addr);
    store(&mut glutton, key(24), 10, &value(24, 60_000));
    glutton.send_bytes(&frame(&Message::FindValue { key: key(24) }).repeat(1000));
    eventually("answers pile up", || node.counter("buffered_bytes") > 0);
    honest.finish();
    node.signal("TERM");
    sleep(ms(300));
    assert!(node.is_running(), "it is flushing");
    assert!(TcpStream::connect(addr).is_err(), "it has stopped accepting");
    let begin = Instant::now();
    node.signal("TERM");
    assert_eq!(node.wait(), Some(128 + 15));
    assert!(begin.elapsed() < PROMPT, "took {:?}", begin.elapsed());
    // With nobody to interrupt it, the same ends by itself.
    let mut node = Node::start(&[]);
    let mut glutton = Peer::connect(node.addr);
    store(&mut glutton, key(24), 10, &value(24, 60_000));
    glutton.send_bytes(&frame(&Message::FindValue { key: key(24) }).repeat(1000));
    eventually("answers pile up", || node.counter("buffered_bytes") > 0);
    let begin = Instant::now();
    node.signal("INT");
    assert_eq!(node.wait(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "took {:?}", begin.elapsed());
}

// ---- row 25 ----

fn assert_refuses(args: &[&str], code: i32, says: &str) {
    let output = run_to_end(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: one line, not {stderr:?}");
    assert!(stderr.contains(says), "{args:?}: {stderr:?} names {says}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(!stdout.contains(says), "{args:?}: {stdout:?} claims nothing");
}

#[test]
fn row_25_an_address_in_use() {
    let row = Row::on(Node::start_with_api(&[]), true);
    let [taken, api] = [row.node.addr.to_string(), row.node.api.unwrap().to_string()];
    assert_refuses(&["--listen", &taken], 73, &taken);
    assert_refuses(&["--listen", "127.0.0.1:0", "--api", &api], 73, &api);
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap().to_string();
    assert_refuses(&["--listen", &taken], 73, &taken);
    row.end(&[]);
}

#[test]
fn row_25_an_unknown_flag() {
    assert_refuses(&["--listen", "127.0.0.1:0", "--no-such-flag"], 64, "no-such-flag");
    assert_refuses(&["node", "--listen", "127.0.0.1:0", "-Z"], 64, "Z");
    assert_refuses(&["--listen", "127.0.0.1:notaport"], 64, "notaport");
    assert_refuses(&["--listen", "127.0.0.1:0", "--max-connections", "many"], 64, "many");
}

#[test]
fn row_25_a_bootstrap_name_that_does_not_resolve() {
    let (fakes, addrs) = listeners(1);
    let _fake = Fake::serve(fakes, |question| polite(&question.message, &[]));
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("row_25_{}.log", std::process::id()));
    // Logging as it is by default, which the shared helper turns off.
    let script = "unset RUST_LOG; exec \"$0\" --listen 127.0.0.1:0 --bootstrap \"$1\" --bootstrap \"$2\" 2>\"$3\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_dayfly"), "no-such-host.invalid:6500", &addrs[0].to_string()]);
    let row = Row::on(Node::start_with(command.arg(&log)), true);
    assert!(row.node.started_in < Duration::from_secs(5), "names are resolved beside");
    let warnings = || -> Vec<String> {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().filter(|line| line.contains("no-such-host.invalid")).map(String::from).collect()
    };
    eventually("there is a warning", || !warnings().is_empty());
    assert_eq!(warnings().len(), 1, "one line: {:?}", warnings());
    assert!(warnings()[0].contains("WARN"), "{:?}", warnings());
    // The other bootstrap is none the worse for it.
    eventually("the other one is learnt", || row.node.counter("contacts") == 1);
    row.end(&["names_unresolved"]);
    std::fs::remove_file(log).unwrap();
}
