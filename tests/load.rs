//! `dayfly bench` from outside: every kind of request is judged, and what is not right fails the run. No speed is asserted.
#![cfg(feature = "bench")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use common::{Node, alone, dayfly, frame};
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{ErrorCode, Message, Sealed};
use serde_json::Value;

fn bench(node: SocketAddr, args: &[&str]) -> Output {
    let node = node.to_string();
    let mut all = vec!["bench", "--node", &node];
    for default in [["--connections", "4"], ["--warmup", "10ms"]] {
        all.extend(if args.contains(&default[0]) { &[][..] } else { &default[..] });
    }
    all.extend(args);
    dayfly(&all)
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {}", stderr(output)))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server that gives every request this answer.
fn impostor(answer: impl Fn(&Message<'_>) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        let mut piece = [0; 4_096];
        // Until the other side has enough.
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            bytes.extend_from_slice(&piece[..n]);
            while let Some(len) = Sealed::frame_len(&bytes).unwrap().filter(|len| *len <= bytes.len()) {
                let frame: Vec<u8> = bytes.drain(..len).collect();
                if stream.write_all(&answer(&Sealed::decode(&frame).unwrap())).is_err() {
                    return;
                }
            }
        }
    });
    addr
}

#[test]
fn every_operation_is_answered_right_pipelined_or_not() {
    let node = Node::start(&[]);
    for op in ["ping", "find-node", "find-value", "put", "get", "mix"] {
        for pipeline in ["1", "16"] {
            let output = bench(node.addr, &["--op", op, "--pipeline", pipeline, "--requests", "2000", "--json"]);
            assert_eq!(output.status.code(), Some(0), "{op}: {}", stderr(&output));
            let report = json(&output);
            assert_eq!((&report["op"], &report["failures"]), (&op.into(), &0.into()));
            assert!(report["answers"].as_u64().unwrap() >= 2_000, "{report}");
            let times: Vec<f64> =
                ["p50_us", "p99_us", "p99_9_us", "max_us"].map(|name| report[name].as_f64().unwrap()).into();
            assert!(times[0] > 0.0 && times.is_sorted(), "{report}");
        }
    }
}

#[test]
fn values_outlive_their_lifetime_because_they_are_put_again() {
    let node = Node::start(&[]);
    let args = ["--op", "find-value", "--rate", "200", "--seconds", "12", "--keys", "50", "--size", "3000", "--json"];
    let report = json(&bench(node.addr, &args));
    assert_eq!(report["failures"], 0, "{report}");
}

#[test]
fn a_network_of_several_nodes_is_asked_by_turns() {
    let first = Node::start(&[]);
    let others: Vec<Node> = (0..3).map(|_| Node::start(&["--bootstrap", &first.addr.to_string()])).collect();
    let addresses: Vec<String> = others.iter().map(|node| node.addr.to_string()).collect();
    let mut args: Vec<&str> = addresses.iter().flat_map(|address| ["--node", address]).collect();
    args.extend(["--op", "get", "--replication", "3", "--certified", "--requests", "500", "--keys", "20", "--json"]);
    let output = bench(first.addr, &args);
    assert_eq!(json(&output)["failures"], 0, "{}", stderr(&output));
}

#[test]
fn what_is_wrong_missing_or_refused_fails_the_run_by_name() {
    let wrong = |message: &Message<'_>| match message {
        Message::Ping { nonce } => frame(&Message::Pong { nonce: nonce ^ 1 }),
        _ => Vec::new(),
    };
    let damaged = |message: &Message<'_>| {
        let Message::Ping { nonce } = message else { return Vec::new() };
        let mut pong = frame(&Message::Pong { nonce: *nonce });
        pong[20] ^= 1;
        pong
    };
    let missing = |message: &Message<'_>| match message {
        Message::Put { key, .. } => frame(&Message::Success { key: *key, value: &[] }),
        Message::Get { key } => frame(&Message::Failure { key: *key }),
        _ => Vec::new(),
    };
    let full = |_: &Message<'_>| frame(&ErrorCode::Full.message());
    for (addr, op, says) in [
        (impostor(wrong), "ping", " wrong"),
        (impostor(damaged), "ping", " wrong"),
        (impostor(missing), "get", " missing"),
        (impostor(full), "put", " store full"),
    ] {
        let output =
            bench(addr, &["--op", op, "--connections", "1", "--requests", "10", "--warmup", "0", "--keys", "2"]);
        assert_eq!(output.status.code(), Some(69), "{op}");
        assert!(stderr(&output).contains(says), "{op}: {}", stderr(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("requests/s"), "the table is printed all the same");
    }
}

/// Named for what it was: a run whose time was up before the server was found to be stuck ended well.
#[test]
fn a_mute_server_fails_the_run_however_short() {
    let mute = impostor(|_| Vec::new());
    let output = bench(mute, &["--connections", "1", "--seconds", "0.2"]);
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    assert!(stderr(&output).contains("no answer for 15 seconds"), "{}", stderr(&output));
}

#[test]
fn a_server_that_is_not_there_or_closes_is_told_from_one_that_is() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = bench(nobody, &["--requests", "10"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
    let closes = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = closes.local_addr().unwrap();
    thread::spawn(move || closes.incoming().for_each(drop));
    let output = bench(addr, &["--requests", "10"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    for (args, says) in [
        (&["--op", "dance"][..], "--op takes one of ping, find-node"),
        (&["--pipeline", "0"], "--pipeline takes a number from 1"),
        (&["--seconds", "1", "--requests", "1"], "can't be combined"),
        (&["--size", "70000"], "--size takes a number from 0 to 65463"),
        (&["--pid", "4000000000"], "--pid: can't read the CPU time"),
        (&["word"], "unexpected argument 'word'"),
    ] {
        let output = bench(addr, args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(stderr(&output).contains(says) && stderr(&output).lines().count() == 1, "{}", stderr(&output));
    }
}

/// A closed loop would send nothing while the server is stopped, and count one slow answer a connection. An open one
/// counts all that were due meanwhile.
#[test]
fn an_open_loop_counts_from_when_a_request_was_due() {
    let _alone = alone();
    let node = Node::start(&[]);
    let pid = node.pid().to_string();
    let signal = move |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    let stopper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1_500));
        signal("-STOP");
        thread::sleep(Duration::from_millis(600));
        signal("-CONT");
    });
    let args = ["--rate", "500", "--seconds", "4", "--pipeline", "1000", "--json"];
    let report = json(&bench(node.addr, &args));
    stopper.join().unwrap();
    assert_eq!(report["failures"], 0, "{report}");
    // 600 ms of 4 s: every seventh request waited, 300 ms on average.
    assert!(report["max_us"].as_f64().unwrap() > 400_000.0, "{report}");
    assert!(report["p99_us"].as_f64().unwrap() > 300_000.0, "{report}");
    let answers = report["answers"].as_u64().unwrap();
    assert!((1_900..=2_100).contains(&answers), "{answers} of 2000 that were due");
}
