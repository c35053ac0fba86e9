//! A network of dayfly processes on loopback, measured as tests/peers measures other DHTs: puts and gets of fresh values
//! through random nodes one at a time, then gets with many in flight, memory, start-up. Prints a line of JSON.
//!
//! Usage: network [--nodes N] [--pairs P] [--seconds S] [--inflight W]     (50, 200, 3, 32)
//! Build dayfly first; DAYFLY names another binary than target/release/dayfly.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::id::Id;
use dayfly::load::Op;
use dayfly::load::sealed::{Load, Request};
use dayfly::net::load::{Plan, Until, run};
use serde_json::json;

/// Contacts that each node must know before the measuring begins.
const KNOWN: usize = 16;
/// Holders of each value: dayfly's default.
const REPLICATION: u8 = 3;

/// A node and a connection to it.
struct Node {
    addr: SocketAddr,
    child: Child,
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start(bootstrap: Option<SocketAddr>) -> io::Result<Node> {
        let dayfly = std::env::var("DAYFLY").unwrap_or("target/release/dayfly".into());
        let mut command = Command::new(dayfly);
        command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(bootstrap) = bootstrap {
            command.args(["--bootstrap", &bootstrap.to_string()]);
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.split_whitespace().find_map(|word| word.parse().ok());
        let addr = address.ok_or_else(|| io::Error::other(format!("a node said '{line}'")))?;
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Node { addr, child, stream, answer: Vec::new() })
    }

    /// Asks and waits for the answer.
    fn ask(&mut self, message: &Message<'_>) -> io::Result<Message<'_>> {
        let mut frame = Vec::new();
        Sealed::encode(message, &mut frame);
        self.stream.write_all(&frame)?;
        self.answer.clear();
        let mut piece = [0; 4_096];
        loop {
            let n = self.stream.read(&mut piece)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.answer.extend_from_slice(&piece[..n]);
            if Sealed::frame_len(&self.answer) == Ok(Some(self.answer.len())) {
                return Sealed::decode(&self.answer).map_err(|e| io::Error::other(format!("{e:?}")));
            }
        }
    }

    fn knows(&mut self, target: Id) -> io::Result<usize> {
        match self.ask(&Message::FindNode { key: target })? {
            Message::Node(nodes) => Ok(nodes.iter().count()),
            _ => Ok(0),
        }
    }

    fn resident_kb(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0))
    }
}

fn option(name: &str, default: u64) -> u64 {
    let words: Vec<String> = std::env::args().collect();
    let at = words.iter().position(|word| word == name);
    at.and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(default)
}

/// Milliseconds that this share of the latencies did not exceed (nearest rank).
fn percentile(latencies: &[f64], percent: f64) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn main() -> io::Result<()> {
    let (count, pairs) = (option("--nodes", 50) as usize, option("--pairs", 200));
    let (seconds, inflight) = (option("--seconds", 3), option("--inflight", 32) as usize);
    let mut random = fastrand::Rng::new();
    let began = Instant::now();
    let mut nodes = vec![Node::start(None)?];
    for _ in 1..count {
        nodes.push(Node::start(Some(nodes[0].addr))?);
    }
    for (number, node) in nodes.iter_mut().enumerate() {
        let wanted = KNOWN.min(count - 1);
        while node.knows(Id::of(&number.to_be_bytes()))? < wanted {
            if began.elapsed() > Duration::from_secs(60) {
                return Err(io::Error::other(format!("node {number} has not joined")));
            }
            sleep(Duration::from_millis(2));
        }
    }
    let startup_s = began.elapsed().as_secs_f64();
    // The others' drivers wait until their nodes are at rest as well.
    sleep(Duration::from_secs(3));

    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    let (mut found, mut missing, mut put_failed) = (0, 0, 0);
    for _ in 0..pairs {
        let value: Vec<u8> = (0..64).map(|_| random.u8(..)).collect();
        let key = Id::of(&value);
        let putter = random.usize(..count);
        let at = Instant::now();
        let put = Message::Put { ttl_s: 9, replication: REPLICATION, key, value: &value };
        match nodes[putter].ask(&put)? {
            Message::Success { .. } => puts.push(at.elapsed().as_secs_f64() * 1e3),
            _ => put_failed += 1,
        }
        let getter = (putter + random.usize(1..count)) % count;
        let at = Instant::now();
        match nodes[getter].ask(&Message::Get { key })? {
            Message::Success { value: got, .. } if *got == value => {
                gets.push(at.elapsed().as_secs_f64() * 1e3);
                found += 1;
            }
            _ => missing += 1,
        }
    }
    let mix = &[(Op::Get, 1)];
    let request = Request { mix, keys: 200, size: 64, replication: REPLICATION, certified: true, seed: random.u64(..) };
    let plan = Plan {
        nodes: nodes.iter().map(|node| node.addr).collect(),
        // One in flight on each connection, and each to another node as far as there are so many.
        connections: inflight,
        pipeline: 1,
        until: Until::Elapsed(Duration::from_secs(seconds)),
        rate: None,
        warmup: Duration::from_millis(100),
    };
    let tally = run(&plan, &mut Load::new(request), &mut |_, _| {})?;
    let kb: u64 = nodes.iter().map(|node| node.resident_kb().unwrap_or(0)).sum();
    let line = json!({
        "peer": "dayfly",
        "nodes": count,
        "startup_s": (startup_s * 1e3).round() / 1e3,
        "put_ms": {"p50": percentile(&puts, 50.0), "p99": percentile(&puts, 99.0)},
        "get_ms": {"p50": percentile(&gets, 50.0), "p99": percentile(&gets, 99.0)},
        "found": found,
        "missing": missing,
        "put_failed": put_failed,
        "gets_per_s": tally.per_second().round(),
        "throughput_missing": tally.failures(),
        "kb_per_node": kb / count as u64,
        "note": "a process per node, TCP with checksums; keys are the values' SHA-256, replication 3; startup includes starting 50 processes",
    });
    println!("{line}");
    Ok(())
}
