//! Networks of real dayfly processes and the real npm hyperdht: what either announces the other finds, where the spec
//! of its wire puts it, until it is unannounced. Without node.js and its packages these tests are skipped.
#![cfg(feature = "hyperdht")]

mod common;
#[path = "common/npm.rs"]
mod npm;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::process::Process;
use common::{alone, eventually};
use dayfly::id::{Id, Metric};
use npm::{Npm, Options};
use serde_json::Value;

/// Nodes that an announce is stored on.
const K: usize = 20;
/// Listeners of one process, so that there are several processes.
const LISTENERS: usize = 15;
/// A lookup among dead nodes has 4 s; on a busy machine five times that.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(20);

/// One node of a network, by whichever program.
#[derive(Clone, Debug)]
struct Place {
    id: Id,
    addr: SocketAddr,
    /// Its name in the npm process, if it is there.
    npm: Option<String>,
}

/// Runs one process with as many hyperdht listeners as there are `ids`; its places.
fn listeners(ids: &[Id], bootstrap: &[SocketAddr], more: &[&str]) -> (Process, Vec<Place>) {
    let mut args = words(&["--listen", "none"]);
    for id in ids {
        args.extend(words(&["--hyperdht", "127.0.0.1:0", "--hyperdht-id", &id.to_string()]));
    }
    for addr in bootstrap {
        args.extend(words(&["--hyperdht-bootstrap", &addr.to_string()]));
    }
    args.extend(words(more));
    let process = Process::start(&args);
    let places = ids.iter().map(|id| {
        let place = listener(&process);
        assert_eq!(place.id, *id, "the n-th id is that of the n-th listener");
        place
    });
    let places = places.collect();
    (process, places)
}

/// The place of the next listener that a process tells of.
fn listener(process: &Process) -> Place {
    let (addr, id) = process.listener();
    Place { id: id.parse().unwrap(), addr, npm: None }
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string()).collect()
}

/// What stands behind `name=` in a line.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{line} has no {name}"))
}

/// Runs a command of the hyperdht dialect to its end: its exit code and the lines that it printed.
fn run(command: &str, args: &[&str]) -> (Option<i32>, Vec<String>) {
    let mut all = words(&[command, "--dialect", "hyperdht"]);
    all.extend(words(args));
    let mut process = Process::start(&all);
    let code = process.wait();
    (code, process.rest())
}

/// What `dayfly lookup` found.
#[derive(Debug)]
struct Lookup {
    code: Option<i32>,
    peers: BTreeSet<SocketAddr>,
    local_peers: BTreeSet<SocketAddr>,
    answered: u64,
    nodes: Vec<Value>,
}

impl Lookup {
    /// The nodes that named peers, and whether each named a local one too.
    fn holders(&self) -> BTreeMap<Id, bool> {
        let holds = |node: &&Value| !node["peers"].as_array().unwrap().is_empty();
        let local = |node: &Value| !node["local_peers"].as_array().unwrap().is_empty();
        let id = |node: &Value| node["id"].as_str().unwrap().parse().unwrap();
        self.nodes.iter().filter(holds).map(|node| (id(node), local(node))).collect()
    }
}

fn lookup(through: SocketAddr, key: Id, more: &[&str]) -> Result<Lookup, String> {
    let (node, key) = (through.to_string(), key.to_string());
    let (code, lines) = run("lookup", &[&["--json", "--node", &node], more, &[&key]].concat());
    if !matches!(code, Some(0 | 1)) {
        return Err(format!("dayfly lookup ends with {code:?}"));
    }
    let answer: Value = serde_json::from_str(&lines.concat()).map_err(|e| format!("{lines:?}: {e}"))?;
    let addresses = |name: &str| -> BTreeSet<SocketAddr> {
        answer[name].as_array().unwrap().iter().map(|peer| peer.as_str().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(answer["key"], key);
    assert_eq!(answer["found"], code == Some(0));
    Ok(Lookup {
        code,
        peers: addresses("peers"),
        local_peers: addresses("local_peers"),
        answered: answer["answered"].as_u64().unwrap(),
        nodes: answer["nodes"].as_array().unwrap().clone(),
    })
}

/// A `dayfly announce` that has announced, and still runs unless it was to do so once.
struct Announced {
    process: Process,
    nodes: usize,
    address: SocketAddr,
}

fn announce(through: SocketAddr, key: Id, more: &[&str]) -> Announced {
    let mut args = words(&["announce", "--dialect", "hyperdht", "--node", &through.to_string()]);
    args.extend(words(more));
    args.push(key.to_string());
    let process = Process::start(&args);
    let line = process.line();
    assert!(line.starts_with(&format!("announced {key} ")), "{line}");
    Announced {
        process,
        nodes: field(&line, "nodes").parse().unwrap(),
        address: field(&line, "address").parse().unwrap(),
    }
}

/// Announces with this port and leaves the record.
fn announce_once(through: SocketAddr, key: Id, port: u16, more: &[&str]) -> Announced {
    let port = port.to_string();
    let mut announced = announce(through, key, &[&["--once", "--port", &port], more].concat());
    assert_eq!(announced.process.wait(), Some(0));
    announced
}

fn unannounce(through: SocketAddr, key: Id, port: u16) -> Result<(), String> {
    let (through, key, port) = (through.to_string(), key.to_string(), port.to_string());
    let (code, lines) = run("unannounce", &["--node", &through, "--port", &port, &key]);
    let said = lines.iter().any(|line| line.starts_with(&format!("unannounced {key} nodes=")));
    if code == Some(0) && said { Ok(()) } else { Err(format!("dayfly unannounce ends with {code:?}: {lines:?}")) }
}

fn on_loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Speaks the wire by itself, without an id, to one node at a time.
struct Requester {
    socket: UdpSocket,
    tid: u16,
}

/// What a node answered.
#[derive(Debug, Default)]
struct Answer {
    id: Option<Id>,
    nodes: Vec<(Id, SocketAddr)>,
    peers: Vec<SocketAddr>,
}

impl Requester {
    fn new() -> Requester {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        Requester { socket, tid: 0 }
    }

    /// The answer to one request, sent up to five times: a busy machine may lose a datagram.
    fn ask(&mut self, to: SocketAddr, command: &str, target: Id, value: &[u8]) -> Answer {
        for _ in 0..5 {
            self.tid = (self.tid + 1) & 0x7fff;
            let mut request = (0x8000 | self.tid).to_be_bytes().to_vec();
            for (tag, bytes) in [(0x0a, command.as_bytes()), (0x1a, &target.0[..]), (0x3a, value)] {
                // A value of no bytes is no value.
                if !bytes.is_empty() {
                    request.extend([tag, u8::try_from(bytes.len()).unwrap()]);
                    request.extend(bytes);
                }
            }
            self.socket.send_to(&request, to).unwrap();
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                if from == to && len >= 2 && buffer[..2] == self.tid.to_be_bytes() {
                    return answer(&buffer[2..len]);
                }
            }
        }
        panic!("{to} does not answer {command}");
    }

    /// The nodes that `to` knows nearest to `target`.
    fn find_node(&mut self, to: SocketAddr, target: Id) -> Vec<(Id, SocketAddr)> {
        self.ask(to, "_find_node", target, &[]).nodes
    }

    /// The peers that `to` itself holds.
    fn peers(&mut self, to: SocketAddr, key: Id) -> Vec<SocketAddr> {
        self.ask(to, "peers", key, &[0x08, 0, 0x10, 0]).peers
    }
}

fn answer(body: &[u8]) -> Answer {
    let mut answer = Answer::default();
    for (tag, bytes) in fields(body) {
        match tag {
            0x0a => answer.id = Id::from_slice(bytes),
            0x12 => {
                answer.nodes = bytes.chunks(38).map(|e| (Id::from_slice(&e[..32]).unwrap(), ipv4(&e[32..]))).collect()
            }
            0x1a => {
                let peers = fields(bytes).into_iter().filter(|(tag, _)| *tag == 0x0a);
                answer.peers = peers.flat_map(|(_, list)| list.chunks(6).map(ipv4)).collect();
            }
            _ => {}
        }
    }
    answer
}

/// The fields of a protobuf message whose fields all are bytes.
fn fields(mut message: &[u8]) -> Vec<(u8, &[u8])> {
    let mut fields = Vec::new();
    while let [tag, rest @ ..] = message {
        let (mut len, mut size) = (0, 0);
        loop {
            len |= usize::from(rest[size] & 0x7f) << (7 * size);
            size += 1;
            if rest[size - 1] < 0x80 {
                break;
            }
        }
        fields.push((*tag, &rest[size..size + len]));
        message = &rest[size + len..];
    }
    fields
}

fn ipv4(six: &[u8]) -> SocketAddr {
    let host = Ipv4Addr::new(six[0], six[1], six[2], six[3]);
    (host, u16::from_be_bytes([six[4], six[5]])).into()
}

/// A network of both programs on loopback.
struct Network {
    npm: Npm,
    places: Vec<Place>,
    _processes: Vec<Process>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum First {
    Npm,
    Dayfly,
}

impl Network {
    /// `half` nodes of each program, in turn, with ids that are the same in each run; all join through the first.
    fn start(half: usize, first: First) -> Option<Network> {
        let npm = Npm::start()?;
        let ids: Vec<Id> = (0..2 * half).map(|n| Id::of(format!("node{n}").as_bytes())).collect();
        let is_npm = |n: usize| (n % 2 == 0) == (first == First::Npm);
        let mut processes = Vec::new();
        let mut places = BTreeMap::new();
        let mut bootstrap = Vec::new();
        // The first node, and then all others at once. Two dayfly nodes have a process of their own, if not three.
        if first == First::Dayfly {
            let (process, started) = listeners(&ids[..1], &[], &[]);
            bootstrap.push(started[0].addr);
            processes.push(process);
            places.insert(0, started[0].clone());
        }
        let mut calls = Vec::new();
        for n in (0..ids.len()).filter(|n| is_npm(*n)) {
            let options = Options { id: Some(ids[n]), bootstrap: bootstrap.clone(), ..Options::default() };
            let name = format!("node{n}");
            let call = npm.start_node(&name, &options);
            if bootstrap.is_empty() {
                let entry = call.node();
                bootstrap.push(entry.addr);
                places.insert(n, Place { id: ids[n], addr: entry.addr, npm: Some(name) });
            } else {
                calls.push((n, name, call));
            }
        }
        let mut rest: Vec<usize> = (0..ids.len()).filter(|n| !is_npm(*n) && !places.contains_key(n)).collect();
        while !rest.is_empty() {
            let size = if processes.len() < 2 { 1 } else { LISTENERS.min(rest.len()) };
            let group: Vec<usize> = rest.drain(..size).collect();
            let group_ids: Vec<Id> = group.iter().map(|n| ids[*n]).collect();
            let (process, started) = listeners(&group_ids, &bootstrap, &[]);
            processes.push(process);
            places.extend(group.into_iter().zip(started));
        }
        for (n, name, call) in calls {
            places.insert(n, Place { id: ids[n], addr: call.node().addr, npm: Some(name) });
        }
        Some(Network { npm, places: places.into_values().collect(), _processes: processes })
    }

    fn npm_places(&self) -> impl Iterator<Item = (&Place, &str)> {
        self.places.iter().filter_map(|place| Some((place, place.npm.as_deref()?)))
    }

    fn dayfly_places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.npm.is_none())
    }

    /// The places nearest to `key`, nearest first, as all but `asker` see it.
    fn closest(&self, key: Id, asker: Option<Id>) -> Vec<Id> {
        let mut ids: Vec<Id> = self.places.iter().map(|place| place.id).filter(|id| Some(*id) != asker).collect();
        ids.sort_by(|a, b| key.compare(a, b));
        ids.truncate(K);
        ids
    }

    /// Waits until a walk to any of the keys ends at the nearest nodes wherever it begins. Nodes of npm, which look for
    /// their neighbours only once, are told to look again.
    fn settle(&self, keys: &[Id]) -> Duration {
        let begin = Instant::now();
        let mut asker = Requester::new();
        let mut keys = keys.iter().peekable();
        eventually("every walk ends at the nearest nodes", || {
            while let Some(key) = keys.peek() {
                let known = self.places.iter().map(|place| {
                    let nodes = asker.find_node(place.addr, **key);
                    (place.id, nodes.into_iter().map(|(id, _)| id).collect())
                });
                let known: BTreeMap<Id, Vec<Id>> = known.collect();
                if !self.places.iter().all(|place| walk(&known, place.id, **key) == self.closest(**key, Some(place.id)))
                {
                    // A bootstrap that nobody answers ends with an error, and so does not help; the next may.
                    self.npm_places().for_each(|(_, name)| drop(self.npm.bootstrap(name)));
                    return false;
                }
                keys.next();
            }
            true
        });
        begin.elapsed()
    }
}

/// Where a walk from `start` to `key` ends among nodes that name those of `known`.
fn walk(known: &BTreeMap<Id, Vec<Id>>, start: Id, key: Id) -> Vec<Id> {
    let mut candidates: Vec<Id> = Vec::new();
    let mut asked = BTreeSet::new();
    let mut next = Some(start);
    while let Some(node) = next {
        asked.insert(node);
        for id in known.get(&node).into_iter().flatten() {
            if *id != start && !candidates.contains(id) {
                candidates.push(*id);
            }
        }
        candidates.sort_by(|a, b| key.compare(a, b));
        candidates.truncate(K);
        next = candidates.iter().find(|id| !asked.contains(*id)).copied();
    }
    candidates
}

/// Announces at `a`, looks up at `b`, unannounces, looks up at `b`. What went wrong.
fn round(net: &Network, n: usize, a: &Place, b: &Place, dice: &mut fastrand::Rng) -> Result<(), String> {
    let key = round_key(n);
    let port = 7_000 + u16::try_from(n).unwrap();
    let small = net.places.len() <= K;
    let anywhere = net.places[dice.usize(..net.places.len())].addr;
    let is_there = |record| seen(net, b, key, record, true);
    let is_gone = |record| seen(net, b, key, record, false).map_err(|e| format!("after its end: {e}"));
    match &a.npm {
        // A real node does not store what it announces itself. So whoever else unannounces in a large network would
        // ask it instead of the last of those that do.
        Some(name) if n % 3 != 0 => {
            let given = (n % 2 == 0).then_some(port);
            let record = given.map_or(a.addr, on_loopback);
            let announced = net.npm.announce(name, key, given, None);
            if announced.error.is_some() || announced.commits == 0 {
                return Err(format!("npm announce: {:?}, {} nodes", announced.error, announced.commits));
            }
            is_there(record)?;
            match given {
                Some(port) if small => unannounce(anywhere, key, port)?,
                _ => drop(net.npm.unannounce(name, key, given).map_err(|e| format!("npm unannounce: {e}"))?),
            }
            is_gone(record)
        }
        _ if n % 2 == 0 => {
            let mut announced = announce(a.addr, key, &[]);
            is_there(announced.address)?;
            announced.process.signal("INT");
            let code = announced.process.wait();
            if code != Some(0) {
                return Err(format!("dayfly announce ends with {code:?}"));
            }
            is_gone(announced.address)
        }
        _ => {
            let announced = announce_once(a.addr, key, port, &[]);
            if announced.address != on_loopback(port) {
                return Err(format!("announced as {}, not with port {port}", announced.address));
            }
            is_there(announced.address)?;
            // A real node that holds the record itself does not forget it when it unannounces.
            let closest = net.closest(key, None);
            match net.npm_places().find(|(place, _)| !closest.contains(&place.id)) {
                Some((_, name)) => drop(net.npm.unannounce(name, key, Some(port))?),
                None => unannounce(anywhere, key, port)?,
            }
            is_gone(announced.address)
        }
    }
}

/// Looks up at a place, by dayfly and, if it is one of npm's, by itself: each must find the record, or each must not.
fn seen(net: &Network, at: &Place, key: Id, record: SocketAddr, wanted: bool) -> Result<(), String> {
    let found = lookup(at.addr, key, &[])?;
    if found.peers.contains(&record) != wanted {
        return Err(format!("dayfly lookup of {record}: {:?} from {} nodes", found.peers, found.answered));
    }
    let Some(name) = &at.npm else { return Ok(()) };
    let found = net.npm.lookup(name, key);
    if found.error.is_some() || found.peers().contains(&record) != wanted {
        return Err(format!("npm lookup of {record}: {:?} from {} nodes", found.peers(), found.answered));
    }
    Ok(())
}

fn round_key(n: usize) -> Id {
    Id::of(format!("round{n}").as_bytes())
}

/// The rounds of one network, for the places by number; those that failed.
fn rounds(net: &Network, from: usize, pairs: &[(usize, usize)]) -> Vec<String> {
    let keys: Vec<Id> = (from..from + pairs.len()).map(round_key).collect();
    let settled = net.settle(&keys);
    let mut dice = fastrand::Rng::with_seed(from as u64);
    let begin = Instant::now();
    let mut failed = Vec::new();
    for (n, (a, b)) in (from..).zip(pairs) {
        let (a, b) = (&net.places[*a], &net.places[*b]);
        if let Err(what) = round(net, n, a, b, &mut dice) {
            failed.push(format!("round {n}, announced at {a:?}, looked up at {b:?}: {what}"));
        }
    }
    let (of, nodes, took) = (pairs.len(), net.places.len(), begin.elapsed());
    eprintln!("{nodes} nodes, settled in {settled:?}: {} of {of} found and then gone in {took:?}", of - failed.len());
    failed
}

#[test]
fn what_is_announced_anywhere_is_found_everywhere_until_it_is_unannounced() {
    let _alone = alone();
    let mut failed = Vec::new();
    let mut done = 0;
    let pairs: Vec<(usize, usize)> = (0..6).flat_map(|a| (0..6).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
    for first in [First::Npm, First::Dayfly] {
        let Some(net) = Network::start(3, first) else { return };
        failed.extend(rounds(&net, done, &pairs));
        done += pairs.len();
    }
    for (half, first) in [(10, First::Npm), (25, First::Dayfly)] {
        let Some(net) = Network::start(half, first) else { return };
        let mut dice = fastrand::Rng::with_seed(half as u64);
        let pairs: Vec<(usize, usize)> = (0..70)
            .map(|_| {
                let a = dice.usize(..2 * half);
                (a, (a + dice.usize(1..2 * half)) % (2 * half))
            })
            .collect();
        failed.extend(rounds(&net, done, &pairs));
        done += pairs.len();
    }
    assert_eq!(failed, Vec::<String>::new());
    assert_eq!(done, 200);
}

#[test]
fn a_record_is_on_exactly_the_twenty_nearest_of_sixty_nodes() {
    let _alone = alone();
    let Some(net) = Network::start(30, First::Npm) else { return };
    let keys: Vec<Id> = (0..8).map(|n| Id::of(format!("placed{n}").as_bytes())).collect();
    let settled = net.settle(&keys);
    let mut asker = Requester::new();
    let mut holders = |key: Id, record: SocketAddr| -> BTreeSet<Id> {
        let holds = |place: &&Place| asker.peers(place.addr, key).contains(&record);
        net.places.iter().filter(holds).map(|place| place.id).collect()
    };
    for (n, key) in keys.iter().enumerate() {
        let key = *key;
        let through = &net.places[n * 7];
        // The record of the command.
        let announced = announce_once(through.addr, key, 7_100, &[]);
        assert_eq!(announced.nodes, K);
        assert_eq!(holders(key, announced.address), net.closest(key, None).into_iter().collect(), "dayfly announced");
        // That of a real node, which is once in two times among the nearest itself.
        let closest = net.closest(key, None);
        let is_near = n % 2 == 0;
        let (place, name) = net.npm_places().find(|(place, _)| closest.contains(&place.id) == is_near).unwrap();
        let announced = net.npm.announce(name, key, None, None);
        assert_eq!((announced.error, announced.commits), (None, K as u64));
        let expected = net.closest(key, Some(place.id)).into_iter().collect();
        assert_eq!(holders(key, place.addr), expected, "npm announced");
    }
    eprintln!("60 nodes settled in {settled:?}; {} records, each on exactly the nearest {K}", 2 * keys.len());
}

#[test]
fn lookups_end_in_time_when_half_the_network_is_killed_under_them() {
    let _alone = alone();
    let Some(net) = Network::start(12, First::Dayfly) else { return };
    let key = Id::of(b"half of its holders die");
    net.settle(&[key]);
    let through: Vec<SocketAddr> = net.dayfly_places().map(|place| place.addr).collect();
    let record = announce_once(through[3], key, 7_200, &[]).address;
    let living: BTreeSet<Id> = net.dayfly_places().map(|place| place.id).collect();
    let living = net.closest(key, None).into_iter().filter(|id| living.contains(id)).count();
    let Network { mut npm, _processes, .. } = net;
    let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let killed = Mutex::new(None::<Instant>);
    let took = Mutex::new((Vec::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let n = begun.fetch_add(1, Ordering::Relaxed);
                    if n >= 100 {
                        break;
                    }
                    let begin = Instant::now();
                    let found = lookup(through[n % through.len()], key, &[]);
                    let time = begin.elapsed();
                    ended.fetch_add(1, Ordering::Relaxed);
                    let found = found.unwrap_or_else(|error| panic!("lookup {n} after {time:?}: {error}"));
                    assert!(found.peers.contains(&record), "lookup {n} after {time:?}: {found:?}");
                    let holders = found.holders().len();
                    assert!(holders >= living, "lookup {n} heard {holders} of {living} living holders");
                    // Those that ended before it know nothing of it.
                    let after = killed.lock().unwrap().is_some_and(|killed| begin + time > killed);
                    let mut took = took.lock().unwrap();
                    if after { took.1.push(time) } else { took.0.push(time) }
                }
            });
        }
        eventually("thirty lookups have ended", || ended.load(Ordering::Relaxed) >= 30);
        npm.kill();
        *killed.lock().unwrap() = Some(Instant::now());
    });
    let (mut before, mut after) = took.into_inner().unwrap();
    before.sort();
    after.sort();
    for (when, times) in [("before", &before), ("after", &after)] {
        let (median, worst) = (times.get(times.len() / 2), times.last());
        eprintln!("{} lookups ended {when} half of the nodes died: median {median:?}, worst {worst:?}", times.len());
    }
    assert_eq!(before.len() + after.len(), 100);
    assert!(after.len() >= 50, "most ended among the dead");
    assert!(before.iter().chain(&after).all(|time| *time < LOOKUP_PATIENCE), "each takes 4 s at most");
}

#[test]
fn ports_and_local_addresses_cross_from_each_program_to_the_other() {
    let _alone = alone();
    let Some(net) = Network::start(3, First::Dayfly) else { return };
    let key = Id::of(b"a room");
    net.settle(&[key]);
    let dayfly = net.dayfly_places().next().unwrap().addr;
    let (npm_place, npm_name) = net.npm_places().next().unwrap();
    let (_, other_name) = net.npm_places().nth(1).unwrap();
    let all: BTreeSet<Id> = net.places.iter().map(|place| place.id).collect();
    // Announced by npm: another port, and an address in its own network, told to those of the same /16 alone.
    let local: SocketAddr = "192.168.1.123:1234".parse().unwrap();
    assert_eq!(net.npm.announce(npm_name, key, Some(7_777), Some(local)).error, None);
    for (place, name) in net.npm_places() {
        let expected = if name == npm_name { vec![] } else { vec![local] };
        assert_eq!(net.npm.held(name, key).1, expected, "{place:?}");
    }
    let near = lookup(dayfly, key, &["--local", "192.168.77.5"]).unwrap();
    assert_eq!((near.peers.clone(), near.local_peers.clone()), ([on_loopback(7_777)].into(), [local].into()));
    let expected = all.iter().filter(|id| **id != npm_place.id).map(|id| (*id, true)).collect();
    assert_eq!(near.holders(), expected, "each node of either program tells both");
    for more in [&["--local", "10.0.0.1:9"][..], &[]] {
        let far = lookup(dayfly, key, more).unwrap();
        assert_eq!((far.peers, far.local_peers), ([on_loopback(7_777)].into(), BTreeSet::new()), "{more:?}");
    }
    // Announced by dayfly under the text that the key is the hash of.
    let node = dayfly.to_string();
    let args = ["--once", "--port", "7778", "--local", "192.168.2.200:4321", "--node", &node, "a room"];
    let (code, lines) = run("announce", &args);
    assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
    assert_eq!(lines[0], format!("announced {key} nodes=6 address=127.0.0.1:7778"));
    let both: BTreeSet<SocketAddr> = [on_loopback(7_777), on_loopback(7_778)].into();
    let locals: BTreeSet<SocketAddr> = [local, "192.168.2.200:4321".parse().unwrap()].into();
    let near = net.npm.lookup_near(other_name, key, Some("192.168.9.9".parse().unwrap()));
    assert_eq!((near.error.clone(), near.peers(), near.local_peers()), (None, both.clone(), locals.clone()));
    assert!(near.results.iter().all(|found| found.local_peers.len() == found.peers.len()), "{near:?}");
    let far = net.npm.lookup_near(other_name, key, Some("192.169.9.9".parse().unwrap()));
    assert_eq!((far.peers(), far.local_peers()), (both.clone(), BTreeSet::new()));
    // And what people read.
    let (code, mut lines) = run("lookup", &["--node", &npm_place.addr.to_string(), "--local", "192.168.9.9", "a room"]);
    lines.sort();
    let expected =
        ["local 192.168.1.123:1234", "local 192.168.2.200:4321", "peer 127.0.0.1:7777", "peer 127.0.0.1:7778"];
    assert_eq!((code, lines), (Some(0), words(&expected)));
    // The port is part of what a record is: another port is another record, and its end not that of the others.
    assert_eq!(net.npm.announce(npm_name, key, None, None).error, None);
    unannounce(npm_place.addr, key, 7_778).unwrap();
    assert_eq!(lookup(dayfly, key, &[]).unwrap().peers, [on_loopback(7_777), npm_place.addr].into());
    net.npm.unannounce(npm_name, key, None).unwrap();
    net.npm.unannounce(npm_name, key, Some(7_777)).unwrap();
    let gone = lookup(dayfly, key, &[]).unwrap();
    assert_eq!((gone.code, gone.peers.len()), (Some(1), 0));
}

#[test]
fn each_program_pings_the_other() {
    let _alone = alone();
    let Some(npm) = Npm::start() else { return };
    let ephemeral = Options { ephemeral: true, ..Options::default() };
    let theirs = npm.node("named", &Options::default());
    let theirs_nameless = npm.node("nameless", &ephemeral);
    // Without an id of our choice, the node chooses.
    let mut process = Process::start(&words(&["--listen", "none", "--hyperdht", "127.0.0.1:0"]));
    let ours = listener(&process);
    let (nameless_process, nameless) = listeners(&[Id::of(b"never told")], &[], &["--ephemeral"]);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = silent.local_addr().unwrap();

    for (to, id) in [(theirs.addr, theirs.id.unwrap().to_string()), (theirs_nameless.addr, "-".into())] {
        let (code, lines) = run("ping", &[&to.to_string()]);
        assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
        assert!(lines[0].starts_with(&format!("pong {to} id={id} seen_as=127.0.0.1:")), "{lines:?}");
        let ms: f64 = field(&lines[0], "time_ms").parse().unwrap();
        assert!(ms > 0.0 && ms < 20_000.0, "{ms} ms");
    }
    assert_eq!(run("ping", &[&nobody.to_string()]).0, Some(75));

    for from in [("named", theirs), ("nameless", theirs_nameless)] {
        for (to, id) in [(ours.addr, Some(ours.id)), (nameless[0].addr, None)] {
            let pong = npm.ping(from.0, to).unwrap();
            assert_eq!((pong.from.addr, pong.from.id, pong.seen_as), (to, id, from.1.addr));
            eprintln!("the npm peer pings dayfly in {} ms", pong.ms);
        }
    }
    assert_eq!(npm.ping("named", nobody).unwrap_err(), "Request timed out");
    // Who gave its id is known by it, who gave none is not.
    let mut asker = Requester::new();
    let known = [(theirs.id.unwrap(), theirs.addr)];
    eventually("the pinged node knows who pinged", || asker.find_node(ours.addr, ours.id) == known);
    assert!(npm.table("named").iter().all(|entry| entry.addr == ours.addr && entry.id == Some(ours.id)));

    let begin = Instant::now();
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    let took = begin.elapsed();
    eprintln!("a node with a hyperdht listener ends {took:?} after SIGTERM");
    assert!(took < Duration::from_secs(10), "2 s, on a busy machine five times that");
    drop(nameless_process);
}

#[test]
fn a_hole_is_punched_through_either_program_to_either() {
    let _alone = alone();
    let Some(npm) = Npm::start() else { return };
    let asker = npm.node("asker", &Options::default());
    let theirs: Vec<_> = ["relay", "peer"].map(|name| npm.node(name, &Options::default())).into();
    let started = ["relay", "peer"].map(|name| listeners(&[Id::of(name.as_bytes())], &[], &[]));
    let [relay, peer] = [&started[0].1[0], &started[1].1[0]];
    let (their_relay, their_peer) = (theirs[0].addr, theirs[1]);
    let targets = [
        ("dayfly to dayfly", relay.addr, peer.addr, peer.id),
        ("dayfly to npm", relay.addr, their_peer.addr, their_peer.id.unwrap()),
        ("npm to dayfly", their_relay, peer.addr, peer.id),
    ];
    for (which, relay, peer, id) in targets {
        let pong = npm.holepunch("asker", peer, relay).unwrap_or_else(|error| panic!("{which}: {error}"));
        assert_eq!((pong.from.addr, pong.from.id, pong.seen_as), (peer, Some(id), asker.addr), "{which}");
        eprintln!("a hole is punched by {which} in {} ms", pong.ms);
    }
    // The real peer takes a forwarded request for one from its relay, and so puts the asker at the relay's address.
    let mut raw = Requester::new();
    for place in [relay, peer] {
        for (id, addr) in raw.find_node(place.addr, asker.id.unwrap()) {
            assert!(Some(id) != asker.id || addr == asker.addr, "{place:?} thinks that the asker is at {addr}");
        }
    }
    assert!(npm.table("asker").iter().any(|entry| entry.addr == peer.addr && entry.id == Some(peer.id)));
}

#[test]
fn a_command_of_which_dayfly_knows_nothing_gets_nodes_and_a_token() {
    let _alone = alone();
    let Some(net) = Network::start(3, First::Npm) else { return };
    let target = Id::of(b"hello");
    net.settle(&[target]);
    let (asker, name) = net.npm_places().next().unwrap();
    for place in net.dayfly_places() {
        let answer = net.npm.request(name, place.addr, "hello", target, "6869").unwrap();
        assert_eq!((answer.from.addr, answer.from.id), (place.addr, Some(place.id)));
        // Nearest first, the asker among them, the node itself not.
        let ids: Vec<Id> = answer.nodes.unwrap().iter().map(|node| node.id.unwrap()).collect();
        assert!(ids.contains(&asker.id));
        assert_eq!(ids, net.closest(target, Some(place.id)));
        assert_eq!(answer.value, None);
        assert!(!answer.token.unwrap().is_empty());
    }
    let (nodes, tokens) = net.npm.query(name, "hello", target, "6869").unwrap();
    let answered: BTreeSet<Id> = nodes.iter().map(|node| node.id.unwrap()).collect();
    assert_eq!(answered, net.closest(target, Some(asker.id)).into_iter().collect());
    assert_eq!(tokens, 5);
}

#[test]
fn find_node_prints_what_one_node_of_either_program_knows() {
    let _alone = alone();
    let Some(net) = Network::start(3, First::Dayfly) else { return };
    let target = Id::of(b"somewhere");
    net.settle(&[target]);
    for place in &net.places {
        let (code, lines) = run("find-node", &["--node", &place.addr.to_string(), &target.to_string()]);
        let near = net.closest(target, Some(place.id));
        let at = |id: &Id| net.places.iter().find(|place| place.id == *id).unwrap().addr;
        let expected: Vec<String> = near.iter().map(|id| format!("{id} {}", at(id))).collect();
        assert_eq!((code, lines), (Some(0), expected), "{place:?}");
    }
}

#[test]
fn an_ephemeral_node_of_either_program_is_in_no_table_and_still_finds() {
    let _alone = alone();
    let Some(net) = Network::start(3, First::Npm) else { return };
    let key = Id::of(b"found by who does not stay");
    net.settle(&[key]);
    let first = net.places[0].addr;
    let options = Options { ephemeral: true, bootstrap: vec![net.places[1].addr], ..Options::default() };
    let theirs = net.npm.node("guest", &options);
    let (_process, ours) = listeners(&[Id::of(b"guest")], &[first], &["--ephemeral"]);
    assert_eq!(net.npm.announce("guest", key, None, None).error, None);
    let through_guest = || lookup(ours[0].addr, key, &[]).is_ok_and(|found| found.peers.contains(&theirs.addr));
    eventually("the ephemeral node has joined", through_guest);
    assert!(net.npm.lookup_near("guest", key, None::<IpAddr>).answered >= 6);
    let ids: BTreeSet<Id> = net.places.iter().map(|place| place.id).collect();
    let mut asker = Requester::new();
    for place in &net.places {
        assert!(asker.find_node(place.addr, key).iter().all(|(id, _)| ids.contains(id)), "{place:?}");
    }
}
