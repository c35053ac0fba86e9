//! The soak: thirty node processes on loopback, of which twenty are killed, stopped and started again at random, while
//! values are put and got all the time. Nothing may leak, nothing may be served past its time, and whatever a living node
//! holds must be found. `scripts/soak MINUTES` runs it; SOAK_SEED repeats its choices, though not their timing.

mod common;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use common::{Node, Peer, eventually};
use dayfly::dialect::Codec;
use dayfly::dialect::sealed::codec::{Message, Sealed};
use dayfly::id::Id;
use fastrand::Rng;

const NODES: usize = 30;
/// The first ones are left alone. They are those that are asked, and whose memory is looked at.
const SURVIVORS: usize = 10;
/// Of the others, so many may be down or stopped at a time.
const DOWN: usize = 12;
/// A process is stopped for at most this long.
const STOPPED: Duration = Duration::from_secs(3);
/// Clients that put, get and check.
const CLIENTS: u64 = 8;
/// By how much clocks of milliseconds, the ticks of the timers and a loaded machine may be late.
const SLACK: Duration = Duration::from_millis(100);
/// By how much a survivor's memory may grow after the first quarter of the time.
const GROWTH_KIB: u64 = 8 * 1024;
/// Descriptors that a node may have beside its connections to the other nodes and those of the clients.
const OWN_DESCRIPTORS: usize = 24;

#[test]
#[ignore = "takes minutes: scripts/soak MINUTES"]
fn soak() {
    let minutes: f64 = std::env::var("SOAK_MINUTES").map_or(1.0, |text| text.parse().expect("SOAK_MINUTES"));
    let seed = std::env::var("SOAK_SEED").map_or_else(|_| fastrand_seed(), |text| text.parse().expect("SOAK_SEED"));
    println!("soak: {minutes} minutes, SOAK_SEED={seed}");
    let world = World::start(seed);
    let length = Duration::from_secs_f64(60.0 * minutes);
    let mut memory = Vec::new();
    thread::scope(|s| {
        s.spawn(|| world.churn(Rng::with_seed(seed)));
        for n in 0..CLIENTS {
            let world = &world;
            s.spawn(move || Client::new(world, seed ^ (n + 1)).run());
        }
        let begin = Instant::now();
        while begin.elapsed() < length && !world.is_over() {
            sleep(length / 8);
            memory.push(world.survivors().iter().map(Node::resident_kib).max().unwrap());
        }
        world.stop.store(true, Ordering::Relaxed);
    });
    world.judge_memory(&memory);
    world.judge_rest();
    world.summary();
    let violations = world.violations.lock().unwrap();
    assert!(violations.is_empty(), "SOAK_SEED={seed}: {} violations: {violations:#?}", violations.len());
}

fn fastrand_seed() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64 % 1_000_000
}

/// What a process that is not left alone is doing, and since when.
struct Churned {
    node: Option<Node>,
    addr: SocketAddr,
    is_stopped: bool,
    since: Instant,
}

struct World {
    survivors: Vec<Node>,
    churned: Vec<Mutex<Churned>>,
    /// When a process was stopped and when it went on.
    stops: Mutex<Vec<(Instant, Instant)>>,
    stop: AtomicBool,
    violations: Mutex<Vec<String>>,
    counts: [AtomicU64; Count::ALL.len()],
}

#[derive(Copy, Clone, Debug)]
enum Count {
    Put,
    PutRefused,
    Got,
    GotNothing,
    CheckedAndFound,
    NobodyHolds,
    HolderLeft,
    AskedAfterItsTime,
    LateByAStoppedNode,
    Killed,
    Stopped,
    Started,
}

impl Count {
    const ALL: [Count; 12] = [
        Count::Put,
        Count::PutRefused,
        Count::Got,
        Count::GotNothing,
        Count::CheckedAndFound,
        Count::NobodyHolds,
        Count::HolderLeft,
        Count::AskedAfterItsTime,
        Count::LateByAStoppedNode,
        Count::Killed,
        Count::Stopped,
        Count::Started,
    ];
}

fn start(addr: SocketAddr, bootstraps: &[Node]) -> Node {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    command.args(["--listen", &addr.to_string()]);
    for node in bootstraps {
        command.args(["--bootstrap", &node.addr.to_string()]);
    }
    Node::start_with(&mut command)
}

impl World {
    fn start(seed: u64) -> World {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut survivors: Vec<Node> = Vec::new();
        for _ in 0..SURVIVORS {
            survivors.push(start(any, &survivors[..survivors.len().min(2)]));
        }
        let churned = |_| {
            let node = start(any, &survivors[..2]);
            Mutex::new(Churned { addr: node.addr, node: Some(node), is_stopped: false, since: Instant::now() })
        };
        let churned = (SURVIVORS..NODES).map(churned).collect();
        for node in &survivors {
            eventually("each knows most", || node.counter("contacts") >= NODES as u64 / 2);
        }
        println!("{NODES} nodes know each other, seed {seed}");
        let (stops, stop, violations, counts) = Default::default();
        World { survivors, churned, stops, stop, violations, counts }
    }

    fn survivors(&self) -> &[Node] {
        &self.survivors
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn violated(&self, what: String) {
        println!("violated: {what}");
        let mut violations = self.violations.lock().unwrap();
        violations.push(what);
        // More of the same helps nobody.
        self.stop.fetch_or(violations.len() >= 20, Ordering::Relaxed);
    }

    /// Kills, stops and starts processes, until the end; then lets all go on.
    fn churn(&self, mut rng: Rng) {
        while !self.is_over() {
            sleep(Duration::from_millis(rng.u64(50..400)));
            let down = self.churned.iter().filter(|one| is_down(&one.lock().unwrap())).count();
            let mut one = self.churned[rng.usize(0..self.churned.len())].lock().unwrap();
            let may_go_down = down < DOWN && one.since.elapsed() > Duration::from_millis(500);
            self.change(&mut one, may_go_down, rng.bool());
            drop(one);
            self.continue_stopped(STOPPED);
        }
        self.continue_stopped(Duration::ZERO);
    }

    fn change(&self, one: &mut Churned, may_go_down: bool, kills: bool) {
        match &mut one.node {
            Some(node) if !one.is_stopped => {
                if !node.is_running() {
                    self.violated(format!("the node at {} ended by itself: {:?}", one.addr, node.wait()));
                    one.node = None;
                } else if !may_go_down {
                    return;
                } else if kills {
                    node.signal("KILL");
                    node.wait();
                    one.node = None;
                    self.count(Count::Killed);
                } else {
                    node.signal("STOP");
                    one.is_stopped = true;
                    self.count(Count::Stopped);
                }
            }
            Some(_) => return,
            None => {
                one.node = Some(start(one.addr, &self.survivors[..2]));
                self.count(Count::Started);
            }
        }
        one.since = Instant::now();
    }

    fn continue_stopped(&self, after: Duration) {
        for one in &self.churned {
            let mut one = one.lock().unwrap();
            if one.is_stopped && one.since.elapsed() >= after {
                one.node.as_ref().expect("a stopped node is there").signal("CONT");
                self.stops.lock().unwrap().push((one.since, Instant::now()));
                (one.is_stopped, one.since) = (false, Instant::now());
            }
        }
    }

    /// The nodes that run now, and have since this moment.
    fn running(&self, since: Instant) -> Vec<SocketAddr> {
        let churned = self.churned.iter().filter_map(|one| {
            let one = one.lock().unwrap();
            (!is_down(&one) && one.since < since).then_some(one.addr)
        });
        self.survivors.iter().map(|node| node.addr).chain(churned).collect()
    }

    /// When the last process went on that had been stopped at some time between the two, if there was one: a PUT that
    /// waited in its socket is stored only then.
    fn woken(&self, from: Instant, to: Instant) -> Option<Instant> {
        let stops = self.stops.lock().unwrap();
        stops.iter().filter(|(stopped, woken)| *stopped < to && *woken > from).map(|(_, woken)| *woken).max()
    }

    fn judge_memory(&self, resident_kib: &[u64]) {
        println!("resident memory of the largest survivor, in eighths of the time: {resident_kib:?} KiB");
        let early = resident_kib.iter().take(2).max().copied().unwrap_or(0);
        let late = resident_kib.last().copied().unwrap_or(0);
        if late > early + GROWTH_KIB {
            self.violated(format!("memory grew from {early} to {late} KiB"));
        }
    }

    /// Once nobody asks any more and all values have ended, nothing is left of them.
    fn judge_rest(&self) {
        sleep(Duration::from_secs(11));
        for node in &self.survivors {
            for name in ["store_entries", "store_bytes", "jobs", "buffered_bytes"] {
                let begin = Instant::now();
                while node.counter(name) > 0 && begin.elapsed() < Duration::from_secs(5) {
                    sleep(Duration::from_millis(100));
                }
                let left = node.counter(name);
                if left > 0 {
                    self.violated(format!("{name} of {} is {left} at rest", node.addr));
                }
            }
            let open = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
            // Two to each other node, should both have dialled, and those of the clients, which have left.
            if open > 2 * NODES + OWN_DESCRIPTORS {
                self.violated(format!("{} has {open} descriptors", node.addr));
            }
        }
    }

    fn summary(&self) {
        for count in Count::ALL {
            println!("{count:?} {}", self.counts[count as usize].load(Ordering::Relaxed));
        }
        let most = |name: &str| self.survivors.iter().map(|node| node.counter(name)).max().unwrap();
        for name in ["accepted", "requests", "requests_failed", "connections", "contacts", "lookups"] {
            println!("most of a survivor: {name} {}", most(name));
        }
    }
}

fn is_down(one: &Churned) -> bool {
    one.node.is_none() || one.is_stopped
}

struct Value {
    key: Id,
    bytes: Vec<u8>,
    lifetime: Duration,
    /// When its PUT was sent, and when it was answered.
    put: (Instant, Instant),
}

/// What a node says to a GET or a FIND_VALUE.
#[derive(PartialEq, Eq)]
enum Said {
    TheValue,
    Nothing,
    Other(String),
}

/// A client of the survivors.
struct Client<'w> {
    world: &'w World,
    rng: Rng,
    peers: Vec<Peer>,
    values: VecDeque<Value>,
    ended: VecDeque<Value>,
}

impl Client<'_> {
    fn new(world: &World, seed: u64) -> Client<'_> {
        let peers = world.survivors.iter().map(|node| Peer::connect(node.addr)).collect();
        Client { world, rng: Rng::with_seed(seed), peers, values: VecDeque::new(), ended: VecDeque::new() }
    }

    fn run(mut self) {
        while !self.world.is_over() {
            self.put();
            self.retire();
            for _ in 0..3 {
                if let Some(at) = self.any(self.values.len()) {
                    self.check(at);
                }
            }
            if let Some(at) = self.any(self.ended.len()) {
                self.is_gone(at);
            }
            sleep(Duration::from_millis(self.rng.u64(0..30)));
        }
    }

    fn any(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.rng.usize(0..len))
    }

    /// Values whose time is up are asked for a while longer.
    fn retire(&mut self) {
        let (ended, living): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.values).into_iter().partition(|value| value.put.1.elapsed() > value.lifetime);
        self.values = living;
        self.ended.extend(ended);
        while self.ended.front().is_some_and(|value| value.put.1.elapsed() > value.lifetime + Duration::from_secs(10)) {
            self.ended.pop_front();
        }
    }

    fn put(&mut self) {
        let ttl_s = self.rng.u16(2..=10);
        let mut bytes = vec![0; self.rng.usize(8..2_000)];
        self.rng.fill(&mut bytes);
        let key = Id::of(&bytes[..8]);
        let peer = self.rng.usize(0..SURVIVORS);
        let sent = Instant::now();
        self.peers[peer].send(&Message::Put { ttl_s, replication: 3, key, value: &bytes });
        let answer = self.peers[peer].receive();
        match Sealed::decode(&answer) {
            Ok(Message::Success { .. }) => {
                self.world.count(Count::Put);
                let lifetime = Duration::from_secs(ttl_s.into());
                self.values.push_back(Value { key, bytes, lifetime, put: (sent, Instant::now()) });
            }
            _ => self.world.count(Count::PutRefused),
        }
    }

    /// A value within its time is found, if a living node holds it.
    fn check(&mut self, at: usize) {
        let value = self.values.remove(at).expect("there is one");
        let begin = Instant::now();
        // Stored at the earliest when the PUT was sent, so held until then at least.
        let ends = value.put.0 + value.lifetime - SLACK;
        let holds = |addr: &SocketAddr| self.find(*addr, &value) == Said::TheValue;
        let holders: Vec<SocketAddr> = self.world.running(begin).into_iter().filter(holds).collect();
        let said = self.get(&value);
        match said {
            Said::TheValue => self.world.count(Count::CheckedAndFound),
            _ if holders.is_empty() => self.world.count(Count::NobodyHolds),
            said => {
                let is_late = Instant::now() > ends;
                let running = self.world.running(begin);
                let still =
                    holders.iter().filter(|addr| running.contains(addr) && self.find(**addr, &value) == Said::TheValue);
                let still: Vec<_> = still.collect();
                if is_late || still.is_empty() {
                    self.world.count(Count::HolderLeft);
                } else {
                    let why = if let Said::Other(why) = said { why } else { "FAILURE".into() };
                    let age = value.put.0.elapsed();
                    self.world.violated(format!("{:?}, held by {still:?}, is not found at {age:?}: {why}", value.key));
                }
            }
        }
        self.values.push_back(value);
    }

    /// A value past its time is not served.
    fn is_gone(&mut self, at: usize) {
        let value = self.ended.remove(at).expect("there is one");
        self.world.count(Count::AskedAfterItsTime);
        let asked = Instant::now();
        let ended = value.put.1 + value.lifetime + SLACK;
        if asked > ended && self.get(&value) == Said::TheValue {
            // What waited in the socket of a stopped process is stored when that goes on.
            let stored = self.world.woken(value.put.0, value.put.1);
            if stored.is_some_and(|stored| asked < stored + value.lifetime + SLACK) {
                self.world.count(Count::LateByAStoppedNode);
            } else {
                self.world.violated(format!("{:?} was served {:?} past its time", value.key, asked - ended));
            }
        }
        self.ended.push_back(value);
    }

    fn get(&mut self, value: &Value) -> Said {
        let peer = self.rng.usize(0..SURVIVORS);
        self.peers[peer].send(&Message::Get { key: value.key });
        let answer = self.peers[peer].receive();
        let said = match Sealed::decode(&answer) {
            Ok(Message::Success { value: bytes, .. }) if bytes == value.bytes => Said::TheValue,
            Ok(Message::Failure { .. }) => Said::Nothing,
            other => Said::Other(format!("{other:?}")),
        };
        self.world.count(if said == Said::TheValue { Count::Got } else { Count::GotNothing });
        said
    }

    /// Whether the node there holds the value itself.
    fn find(&self, addr: SocketAddr, value: &Value) -> Said {
        let Ok(stream) = std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(300)) else {
            return Said::Nothing;
        };
        let mut peer = Peer::on(stream);
        peer.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let request = common::frame(&Message::FindValue { key: value.key });
        let mut answer = vec![0; common::frame(&Message::Value { value: &value.bytes }).len()];
        let size = (answer.len() as u16).to_be_bytes();
        let (stream, (head, body)) = (&mut peer.stream, answer.split_at_mut(2));
        // It may be stopped or killed at any time. A NODE has another size, but for a coincidence.
        let is_whole = stream.write_all(&request).is_ok()
            && stream.read_exact(head).is_ok()
            && head == size
            && stream.read_exact(body).is_ok();
        match Sealed::decode(&answer) {
            Ok(Message::Value { value: bytes }) if is_whole && bytes == value.bytes => Said::TheValue,
            _ => Said::Nothing,
        }
    }
}
