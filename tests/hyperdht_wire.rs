//! The hyperdht listener from outside: datagrams built by hand, over real sockets on loopback, against a real process.
#![cfg(feature = "hyperdht")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::process::{Process, run_to_end};
use common::{PATIENCE, eventually};
use dayfly::id::{from_hex, to_hex};
use dayfly::limits::{FORWARDS_AT_ONCE, FORWARDS_PER_S};
use serde_json::Value;
use socket2::SockRef;

/// Fields of a request; `command` is 1.
const ID: u8 = 2;
const TARGET: u8 = 3;
const FORWARD_REQUEST: u8 = 4;
const FORWARD_RESPONSE: u8 = 5;
const TOKEN: u8 = 6;
const VALUE: u8 = 7;

/// What a `peers` request wants.
const LOOKUP: u8 = 0;
const ANNOUNCE: u8 = 1;
const UNANNOUNCE: u8 = 2;

/// A datagram that isn't cut into pieces on its way.
const UNCUT: usize = 1_400;

type NodeId = [u8; 32];
type Fields = BTreeMap<u8, Vec<u8>>;

const KEY: NodeId = *b"01234567012345670123456701234567";

// Protobuf, as much of it as the wire needs.

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 127 {
        bytes.push(n as u8 | 128);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
}

fn message(fields: &Fields) -> Vec<u8> {
    fields.iter().flat_map(|(number, bytes)| field(*number, bytes)).collect()
}

/// The fields of a message that has bytes only, each at most once and in ascending order, written as `message` does.
fn fields(body: &[u8]) -> Option<Fields> {
    let mut found = Fields::new();
    let mut rest = body;
    while let [tag, tail @ ..] = rest {
        let ends = tail.iter().position(|byte| byte & 128 == 0)?;
        let size = tail[..=ends].iter().rev().fold(0, |n, byte| n << 7 | usize::from(byte & 127));
        let bytes = tail[ends + 1..].get(..size)?;
        found.insert(tag >> 3, bytes.to_vec());
        rest = &tail[ends + 1 + size..];
    }
    (message(&found) == body).then_some(found)
}

/// An address as the wire has it: 6 bytes, or 18 for IPv6.
fn compact(addr: SocketAddr) -> Vec<u8> {
    let mut bytes = match addr.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend(addr.port().to_be_bytes());
    bytes
}

fn address(bytes: &[u8]) -> SocketAddr {
    let (ip, port) = bytes.split_at(bytes.len() - 2);
    let port = u16::from_be_bytes(port.try_into().unwrap());
    match <[u8; 4]>::try_from(ip) {
        Ok(ip) => (ip, port).into(),
        Err(_) => (<[u8; 16]>::try_from(ip).unwrap(), port).into(),
    }
}

fn entry(id: NodeId, addr: SocketAddr) -> Vec<u8> {
    [&id[..], &compact(addr)].concat()
}

#[derive(Clone)]
struct Request(Fields);

fn request(command: &str) -> Request {
    Request([(1, command.as_bytes().to_vec())].into())
}

fn ping() -> Request {
    request("_ping")
}

fn find_node(target: NodeId) -> Request {
    request("_find_node").with(TARGET, target)
}

fn peers(key: NodeId, value: Vec<u8>) -> Request {
    request("peers").with(TARGET, key).with(VALUE, value)
}

/// The value of a `peers` request.
fn want(kind: u8, port: Option<u64>, local: Option<&[u8]>) -> Vec<u8> {
    let port = port.map(|port| [vec![0x10], varint(port)].concat());
    let local = local.map(|local| field(3, local));
    [vec![8, kind], port.unwrap_or_default(), local.unwrap_or_default()].concat()
}

impl Request {
    fn with(mut self, number: u8, bytes: impl AsRef<[u8]>) -> Request {
        self.0.insert(number, bytes.as_ref().to_vec());
        self
    }

    fn datagram(&self, tid: u16) -> Vec<u8> {
        [&(0x8000 | tid).to_be_bytes()[..], &message(&self.0)].concat()
    }
}

/// An answer by its fields: 1 id, 2 nodes, 3 value, 4 token.
fn answer_datagram(tid: u16, fields: &[(u8, &[u8])]) -> Vec<u8> {
    let fields: Fields = fields.iter().map(|(number, bytes)| (*number, bytes.to_vec())).collect();
    [&tid.to_be_bytes()[..], &message(&fields)].concat()
}

/// A datagram that came.
#[derive(Clone, Debug)]
struct Seen {
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl Seen {
    /// The transaction id, and bit 15 if it is a request.
    fn header(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    fn is_request(&self) -> bool {
        self.header() & 0x8000 != 0
    }

    fn asks_for(&self, command: &str) -> bool {
        self.is_request() && self.field(1).as_deref() == Some(command.as_bytes())
    }

    fn field(&self, number: u8) -> Option<Vec<u8>> {
        let fields = fields(&self.bytes[2..]).unwrap_or_else(|| panic!("out of form: {}", to_hex(&self.bytes)));
        fields.get(&number).cloned()
    }
}

#[derive(Debug)]
struct Answer {
    id: Option<Vec<u8>>,
    nodes: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    token: Option<Vec<u8>>,
    /// Bytes of an address.
    width: usize,
    size: usize,
}

impl Answer {
    fn of(seen: &Seen) -> Answer {
        Answer {
            id: seen.field(1),
            nodes: seen.field(2),
            value: seen.field(3),
            token: seen.field(4),
            width: if seen.from.is_ipv4() { 6 } else { 18 },
            size: seen.bytes.len(),
        }
    }

    fn token(&self) -> &[u8] {
        self.token.as_deref().expect("an answer has a token")
    }

    fn nodes(&self) -> Vec<(NodeId, SocketAddr)> {
        let bytes = self.nodes.as_deref().expect("an answer with nodes");
        assert_eq!(bytes.len() % (32 + self.width), 0, "whole entries");
        let entries = bytes.chunks(32 + self.width).map(|entry| entry.split_at(32));
        entries.map(|(id, addr)| (id.try_into().unwrap(), address(addr))).collect()
    }

    fn peers_and_local(&self) -> (Vec<SocketAddr>, Vec<Vec<u8>>) {
        let Some(value) = &self.value else { return (Vec::new(), Vec::new()) };
        let lists = fields(value).expect("a value of a peers answer");
        let (peers, local) = (lists.get(&1).cloned().unwrap_or_default(), lists.get(&2).cloned().unwrap_or_default());
        assert_eq!((peers.len() % self.width, local.len() % 4), (0, 0), "whole entries");
        assert!(!peers.is_empty(), "without records there is no value");
        (peers.chunks(self.width).map(address).collect(), local.chunks(4).map(<[u8]>::to_vec).collect())
    }

    fn peers(&self) -> BTreeSet<SocketAddr> {
        let (peers, _) = self.peers_and_local();
        let distinct: BTreeSet<SocketAddr> = peers.iter().copied().collect();
        assert_eq!(distinct.len(), peers.len(), "nobody is named twice");
        distinct
    }

    fn local(&self) -> Vec<Vec<u8>> {
        self.peers_and_local().1
    }
}

/// A node process with a hyperdht listener; killed when dropped.
struct Listener {
    process: Process,
    addr: SocketAddr,
    /// All its hyperdht listeners: address and id.
    listeners: Vec<(SocketAddr, String)>,
}

impl Listener {
    fn start(args: &[&str]) -> Listener {
        Listener::on(&["127.0.0.1:0"], args)
    }

    fn on(addrs: &[&str], args: &[&str]) -> Listener {
        let listeners = addrs.iter().flat_map(|addr| ["--hyperdht", addr]);
        let all: Vec<&str> = ["--listen", "none"].into_iter().chain(listeners).chain(args.iter().copied()).collect();
        let process = Process::start(&all);
        let listeners: Vec<_> = addrs.iter().map(|_| process.listener()).collect();
        Listener { process, addr: listeners[0].0, listeners }
    }

    fn with_id(byte: u8, args: &[&str]) -> Listener {
        let id = to_hex(&[byte; 32]);
        Listener::start(&[&["--hyperdht-id", &id], args].concat())
    }
}

/// A socket that speaks raw datagrams.
struct Raw {
    socket: UdpSocket,
    addr: SocketAddr,
    inbox: Receiver<Seen>,
    /// What came while something else was waited for.
    heard: RefCell<Vec<Seen>>,
    next_tid: Cell<u16>,
    open: Arc<AtomicBool>,
    answers: Arc<AtomicBool>,
}

impl Raw {
    /// One that answers nothing by itself.
    fn new() -> Raw {
        Raw::bind("127.0.0.1", None)
    }

    /// A node with this id, that answers whoever asks and knows nobody.
    fn node(id: NodeId) -> Raw {
        Raw::bind("127.0.0.1", Some(id))
    }

    fn bind(ip: &str, id: Option<NodeId>) -> Raw {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let _ = SockRef::from(&socket).set_recv_buffer_size(4 << 20);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (open, answers) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let (reader, addr) = (socket.try_clone().unwrap(), socket.local_addr().unwrap());
        let (sender, inbox) = channel();
        let (is_open, does_answer) = (open.clone(), answers.clone());
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while is_open.load(Ordering::Relaxed) {
                let Ok((size, from)) = reader.recv_from(&mut buffer) else { continue };
                let seen = Seen { from, bytes: buffer[..size].to_vec() };
                if seen.is_request() && does_answer.load(Ordering::Relaxed) {
                    let tid = seen.header() & 0x7fff;
                    let reply = id.map(|id| match seen.asks_for("_ping") {
                        true => answer_datagram(tid, &[(1, &id), (3, &compact(from)), (4, b"token")]),
                        false => answer_datagram(tid, &[(1, &id), (2, b""), (4, b"token")]),
                    });
                    let _ = reply.map(|reply| reader.send_to(&reply, from));
                }
                let _ = sender.send(seen);
            }
        });
        Raw { socket, addr, inbox, heard: RefCell::default(), next_tid: Cell::new(0x4000), open, answers }
    }

    /// Answers nobody from now on.
    fn fall_silent(&self) {
        self.answers.store(false, Ordering::Relaxed);
    }

    fn send_bytes(&self, listener: &Listener, bytes: &[u8]) {
        self.socket.send_to(bytes, listener.addr).unwrap();
    }

    fn send(&self, listener: &Listener, request: &Request) -> u16 {
        let tid = self.next_tid.get();
        self.next_tid.set((tid + 1) & 0x7fff);
        self.send_bytes(listener, &request.datagram(tid));
        tid
    }

    /// The first datagram of this kind, whether it has come already or comes soon.
    fn wait(&self, what: &str, is_it: impl Fn(&Seen) -> bool) -> Seen {
        let mut heard = self.heard.borrow_mut();
        if let Some(at) = heard.iter().position(&is_it) {
            return heard.remove(at);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let seen = self.inbox.recv_timeout(left).unwrap_or_else(|_| panic!("not in time: {what}"));
            if is_it(&seen) {
                return seen;
            }
            heard.push(seen);
        }
    }

    fn ask(&self, listener: &Listener, request: &Request) -> Answer {
        let tid = self.send(listener, request);
        Answer::of(&self.wait("the answer", |seen| seen.header() == tid))
    }

    /// Everything that came until the listener had dealt with all that this socket sent it.
    fn settle(&self, listener: &Listener) -> Vec<Seen> {
        self.ask(listener, &ping());
        self.heard.take()
    }

    fn is_not_answered(&self, listener: &Listener, request: &Request, why: &str) {
        let tid = self.send(listener, request);
        assert!(self.settle(listener).iter().all(|seen| seen.header() != tid), "{why}");
    }

    fn token(&self, listener: &Listener) -> Vec<u8> {
        self.ask(listener, &ping()).token().to_vec()
    }

    fn listed(&self, listener: &Listener, target: NodeId) -> Vec<(NodeId, SocketAddr)> {
        self.ask(listener, &find_node(target)).nodes()
    }

    fn lists(&self, listener: &Listener, id: NodeId) -> bool {
        self.listed(listener, id).iter().any(|(known, _)| *known == id)
    }

    fn lookup(&self, listener: &Listener, key: NodeId) -> Answer {
        self.ask(listener, &peers(key, want(LOOKUP, None, None)))
    }

    fn announce(&self, listener: &Listener, key: NodeId, port: Option<u64>, local: Option<&[u8]>) -> Answer {
        self.commit(listener, key, want(ANNOUNCE, port, local))
    }

    /// A `peers` request with a good token.
    fn commit(&self, listener: &Listener, key: NodeId, value: Vec<u8>) -> Answer {
        self.ask(listener, &peers(key, value).with(TOKEN, self.token(listener)))
    }

    /// This socket's host with another port.
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addr.ip(), port)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.open.store(false, Ordering::Relaxed);
    }
}

fn distance(a: NodeId, b: NodeId) -> NodeId {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Ids spread evenly, so that no bucket of a table overflows.
fn spread(n: u8) -> NodeId {
    let mut random = fastrand::Rng::with_seed(u64::from(n));
    std::array::from_fn(|i| if i == 0 { n.wrapping_mul(8) } else { random.u8(..) })
}

/// Nodes that answer and that the listener has heard of.
fn neighbours(listener: &Listener, n: u8) -> Vec<(NodeId, Raw)> {
    let nodes: Vec<_> = (0..n).map(|n| (spread(n), Raw::node(spread(n)))).collect();
    for (id, node) in &nodes {
        node.ask(listener, &ping().with(ID, id));
    }
    nodes
}

fn set<const N: usize>(addrs: [SocketAddr; N]) -> BTreeSet<SocketAddr> {
    addrs.into()
}

// What the real peers were sent and said.

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let from = to_hex(from);
    from_hex(&to_hex(bytes).replace(&from, &to_hex(to))).unwrap()
}

/// An answer with its token blotted out and its peers sorted; a request as it is.
fn comparable(bytes: &[u8]) -> String {
    let mut known = match fields(&bytes[2..]) {
        Some(fields) if bytes[0] & 128 == 0 => fields,
        _ => return to_hex(bytes),
    };
    if let Some(mut lists) = known.get(&3).and_then(|value| fields(value)) {
        for (number, list) in &mut lists {
            let mut entries: Vec<&[u8]> = list.chunks(if *number == 1 { 6 } else { 4 }).collect();
            entries.sort();
            *list = entries.concat();
        }
        known.insert(3, message(&lists));
    }
    if known.contains_key(&4) {
        known.insert(4, b"token".to_vec());
    }
    to_hex(&[&bytes[..2], &message(&known)].concat())
}

#[test]
fn every_replayed_request_gets_the_replies_of_the_real_peers() {
    let listener = Listener::with_id(0x55, &[]);
    let (first, second) = (Raw::new(), Raw::new());
    let token = first.token(&listener);
    let old_tokens: Vec<Vec<u8>> = [
        "2e664ebd63218c6c7ec96d26381cfd8bb3cc1ff4f4eb9221e5d2c6856f5465fb",
        "d78cebde698183260905e198aae5bb11d6aaf8c97d9bbd31a8a38373f69bb36b",
    ]
    .map(|token| from_hex(token).unwrap())
    .into();
    let ours = |bytes: Vec<u8>| {
        let bytes = replace(&bytes, &[127, 0, 0, 1, 0x52, 0x6d], &compact(first.addr));
        let bytes = replace(&bytes, &[127, 0, 0, 1, 0x52, 0x6e], &compact(second.addr));
        let tokens = old_tokens.iter().map(|old| field(TOKEN, old));
        tokens.fold(bytes, |bytes, old| replace(&bytes, &old, &field(TOKEN, &token)))
    };
    let vectors: Value = serde_json::from_str(include_str!("data/hyperdht-vectors.json")).unwrap();
    let hex = |value: &Value| from_hex(value.as_str().unwrap()).unwrap();
    let mut replayed = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let Some(name) = vector["name"].as_str().unwrap().strip_prefix("replay.") else { continue };
        let request = hex(&vector["hex"]);
        if request.starts_with(&[0x80, 0x15]) {
            // The recording left out request 0014, whose effect this one shows.
            first.commit(&listener, KEY, want(UNANNOUNCE, Some(0), None));
        }
        first.send_bytes(&listener, &ours(request));
        for (port, socket) in [(21_101, &first), (21_102, &second)] {
            let replies = vector["expect"].as_array().unwrap().iter().filter(|reply| reply["arrives_at_port"] == port);
            let mut expected: Vec<String> = replies.map(|reply| comparable(&ours(hex(&reply["hex"])))).collect();
            // What the node asks on its own account is its own business.
            let heard = socket.settle(&listener).into_iter();
            let heard = heard.map(|seen| (seen.is_request(), comparable(&seen.bytes)));
            let heard = heard.filter(|(is_request, datagram)| !is_request || expected.contains(datagram));
            let mut heard: Vec<String> = heard.map(|(_, datagram)| datagram).collect();
            expected.sort();
            heard.sort();
            assert_eq!(heard, expected, "{name}, at port {port}");
        }
        replayed += 1;
    }
    assert_eq!(replayed, 28);
}

#[test]
fn an_answer_repeats_the_transaction_id_without_the_request_bit() {
    let listener = Listener::start(&[]);
    let socket = Raw::new();
    for tid in [0, 1, 0x1234, 0x7ffe, 0x7fff] {
        socket.send_bytes(&listener, &ping().datagram(tid));
        let pong = socket.wait("the pong", |seen| seen.header() == tid);
        assert_eq!(pong.from, listener.addr);
        assert_eq!(to_hex(&pong.field(1).unwrap()), listener.listeners[0].1, "the id that it printed");
        assert_eq!(pong.field(3), Some(compact(socket.addr)));
    }
}

#[test]
fn an_asker_with_an_id_is_pinged_and_finds_itself_in_answers_once_it_has_answered() {
    let listener = Listener::start(&[]);
    let asker = Raw::node([0x11; 32]);
    let answer = asker.ask(&listener, &find_node([0x22; 32]).with(ID, [0x11; 32]));
    assert_eq!(answer.nodes(), []);
    asker.wait("it is pinged", |seen| seen.asks_for("_ping"));
    eventually("it is listed", || asker.listed(&listener, KEY) == [([0x11; 32], asker.addr)]);
    let answer = asker.ask(&listener, &request("anything").with(TARGET, KEY));
    assert_eq!(answer.nodes(), [([0x11; 32], asker.addr)], "to every command that has a target");
}

#[test]
fn the_twenty_nearest_are_listed_in_order_of_distance() {
    let listener = Listener::with_id(0x55, &[]);
    let nodes = neighbours(&listener, 30);
    let asker = Raw::new();
    for target in [[0; 32], [0xff; 32], [0x55; 32], KEY, spread(7)] {
        let mut expected: Vec<_> = nodes.iter().map(|(id, node)| (*id, node.addr)).collect();
        expected.sort_by_key(|(id, _)| distance(*id, target));
        expected.truncate(20);
        eventually("the nearest are listed", || asker.listed(&listener, target) == expected);
        assert_eq!(asker.lookup(&listener, target).nodes(), expected, "a peers answer lists the same");
    }
}

#[test]
fn neither_the_node_itself_nor_who_has_no_id_is_listed() {
    let listener = Listener::with_id(0x55, &[]);
    let asker = Raw::new();
    assert_eq!(asker.listed(&listener, [0x55; 32]), []);
    for id in [&[0x55; 32][..], &[0x66; 31], &[0x66; 33], &[0x66; 0], &[0x66; 64]] {
        let answer = asker.ask(&listener, &find_node([0x55; 32]).with(ID, id));
        assert_eq!(answer.nodes(), [], "an id of {} bytes is answered all the same", id.len());
        assert_eq!(answer.nodes.unwrap().len(), 0);
    }
}

#[test]
fn an_ephemeral_node_has_no_id_on_the_wire() {
    let boot = Raw::node([0x22; 32]);
    let listener = Listener::start(&["--ephemeral", "--hyperdht-bootstrap", &boot.addr.to_string()]);
    let asker = Raw::node([0x11; 32]);
    let pong = asker.ask(&listener, &ping().with(ID, [0x11; 32]));
    assert_eq!((pong.id, pong.value), (None, Some(compact(asker.addr))));
    eventually("it is listed", || !asker.listed(&listener, KEY).is_empty());
    assert!(asker.ask(&listener, &find_node(KEY)).id.is_none());
    assert!(asker.announce(&listener, KEY, None, None).id.is_none());
    assert_eq!(Raw::new().lookup(&listener, KEY).peers(), set([asker.addr]), "it stores like any other");
    let asked = boot.wait("it asks its bootstrap node", |seen| seen.asks_for("_find_node"));
    assert_eq!((asked.field(ID), asked.field(TARGET).unwrap().len()), (None, 32));
}

#[test]
fn a_node_asks_its_bootstrap_node_for_its_own_id() {
    let boot = Raw::node([0x22; 32]);
    let listener = Listener::with_id(0x55, &["--hyperdht-bootstrap", &boot.addr.to_string()]);
    let asked = boot.wait("it asks its bootstrap node", |seen| seen.asks_for("_find_node"));
    let expected = find_node([0x55; 32]).with(ID, [0x55; 32]).datagram(asked.header());
    assert_eq!((to_hex(&asked.bytes), asked.from), (to_hex(&expected), listener.addr));
    let asker = Raw::new();
    eventually("who answers is listed", || asker.listed(&listener, KEY) == [([0x22; 32], boot.addr)]);
}

#[test]
fn each_listener_of_a_process_is_a_node_of_its_own() {
    let id = to_hex(&[0x11; 32]);
    let listener = Listener::on(&["127.0.0.1:0", "127.0.0.1:0"], &["--hyperdht-id", &id]);
    assert_eq!((listener.listeners[0].1.as_str(), listener.listeners[1].1.len()), (id.as_str(), 64));
    assert_ne!(listener.listeners[1].1, id);
    let (asker, node) = (Raw::new(), Raw::node([0x33; 32]));
    node.ask(&listener, &ping().with(ID, [0x33; 32]));
    asker.socket.send_to(&find_node(KEY).datagram(7), listener.listeners[1].0).unwrap();
    let answer = asker.wait("the other listener answers", |seen| seen.header() == 7);
    assert_eq!(to_hex(&answer.field(1).unwrap()), listener.listeners[1].1);
    assert_eq!(answer.field(2), Some(vec![]), "what one listener hears the other doesn't know");
}

// Tokens.

#[test]
fn the_token_of_any_answer_is_good_for_an_announcement() {
    let listener = Listener::start(&[]);
    let asker = Raw::new();
    let askers = [Raw::new(), Raw::new(), Raw::new(), Raw::new()];
    let requests = [ping(), find_node(KEY), peers(KEY, want(LOOKUP, None, None)), peers([7; 32], want(9, None, None))];
    for (n, (announcer, request)) in askers.iter().zip(requests).enumerate() {
        let token = announcer.ask(&listener, &request).token().to_vec();
        announcer.ask(&listener, &peers(KEY, want(ANNOUNCE, None, None)).with(TOKEN, token));
        let stored = askers[..=n].iter().map(|announcer| announcer.addr).collect();
        assert_eq!(asker.lookup(&listener, KEY).peers(), stored, "request {n}");
    }
}

#[test]
fn an_announcement_without_a_good_token_is_a_mere_lookup() {
    let (listener, other) = (Listener::start(&[]), Listener::start(&[]));
    let (known, asker) = (Raw::new(), Raw::new());
    known.announce(&listener, KEY, None, None);
    let elsewhere = Raw::bind("127.0.0.2", None);
    let mut good_but_long = asker.token(&listener);
    good_but_long.push(0);
    let mut flipped = asker.token(&listener);
    flipped[0] ^= 1;
    let of_another_host = elsewhere.token(&listener);
    let tokens = [vec![], vec![0; 32], b"x".to_vec(), vec![7; 1_000], good_but_long, flipped];
    for token in tokens.into_iter().chain([asker.token(&other), of_another_host]) {
        for kind in [ANNOUNCE, UNANNOUNCE] {
            let answer = asker.ask(&listener, &peers(KEY, want(kind, None, None)).with(TOKEN, &token));
            assert_eq!(answer.peers(), set([known.addr]), "token {}", to_hex(&token));
            assert!(!answer.token().is_empty());
        }
        let answer = asker.ask(&listener, &peers(KEY, want(UNANNOUNCE, Some(known.addr.port().into()), None)));
        assert_eq!(answer.peers(), set([]), "its own address is left out");
        assert_eq!(elsewhere.lookup(&listener, KEY).peers(), set([known.addr]), "token {}", to_hex(&token));
    }
}

// Announcements.

#[test]
fn port_zero_is_the_source_port_written_or_left_out() {
    let listener = Listener::start(&[]);
    let (announcer, asker) = (Raw::new(), Raw::new());
    for port in [None, Some(0), None] {
        let answer = announcer.announce(&listener, KEY, port, None);
        assert_eq!(answer.value, None, "its own address is left out, and nothing remains");
        assert_eq!(asker.lookup(&listener, KEY).peers(), set([announcer.addr]), "the same record again, not a second");
    }
    for value in [want(LOOKUP, None, None), want(LOOKUP, Some(0), None)] {
        assert_eq!(asker.ask(&listener, &peers(KEY, value)).peers(), set([announcer.addr]));
    }
    assert_eq!(asker.lookup(&listener, [9; 32]).value, None, "another key has nothing");
}

#[test]
fn another_port_is_another_record() {
    let listener = Listener::start(&[]);
    let (announcer, asker) = (Raw::new(), Raw::new());
    announcer.announce(&listener, KEY, Some(7_777), None);
    assert_eq!(asker.lookup(&listener, KEY).peers(), set([announcer.at(7_777)]));
    let answer = announcer.announce(&listener, KEY, None, None);
    assert_eq!(answer.peers(), set([announcer.at(7_777)]), "an announcement is answered like a lookup");
    announcer.announce(&listener, KEY, Some(65_535), None);
    announcer.announce(&listener, KEY, Some(7_777), None);
    let all = set([announcer.addr, announcer.at(7_777), announcer.at(65_535)]);
    assert_eq!(asker.lookup(&listener, KEY).peers(), all);
    let pretending = asker.ask(&listener, &peers(KEY, want(LOOKUP, Some(7_777), None)));
    assert_eq!(pretending.peers(), set([announcer.addr, announcer.at(65_535)]));
}

#[test]
fn a_record_goes_with_the_port_it_came_with() {
    let listener = Listener::start(&[]);
    let (announcer, asker) = (Raw::new(), Raw::new());
    announcer.announce(&listener, KEY, None, None);
    announcer.announce(&listener, KEY, Some(7_777), None);
    let answer = announcer.commit(&listener, KEY, want(UNANNOUNCE, Some(7_778), None));
    assert_eq!(answer.value, None, "an unannouncement is answered without a value");
    assert!(answer.nodes.is_some() && answer.token.is_some());
    assert_eq!(asker.lookup(&listener, KEY).peers(), set([announcer.addr, announcer.at(7_777)]));
    assert_eq!(announcer.commit(&listener, KEY, want(UNANNOUNCE, Some(7_777), None)).value, None);
    assert_eq!(asker.lookup(&listener, KEY).peers(), set([announcer.addr]));
    announcer.commit(&listener, [9; 32], want(UNANNOUNCE, None, None));
    asker.commit(&listener, KEY, want(UNANNOUNCE, None, None));
    assert_eq!(asker.lookup(&listener, KEY).peers(), set([announcer.addr]), "of another key, by another socket");
    announcer.commit(&listener, KEY, want(UNANNOUNCE, None, None));
    assert_eq!(asker.lookup(&listener, KEY).value, None);
}

#[test]
fn a_port_beyond_all_ports_is_no_announcement() {
    let listener = Listener::start(&[]);
    let (announcer, asker) = (Raw::new(), Raw::new());
    for port in [65_536, 70_000, u64::from(u32::MAX), u64::MAX] {
        for kind in [LOOKUP, ANNOUNCE, UNANNOUNCE] {
            announcer.send(&listener, &peers(KEY, want(kind, Some(port), None)));
            let with_token = peers(KEY, want(kind, Some(port), None)).with(TOKEN, announcer.token(&listener));
            announcer.send(&listener, &with_token);
            announcer.settle(&listener);
        }
        assert_eq!(asker.lookup(&listener, KEY).peers(), set([]), "port {port}");
    }
}

#[test]
fn values_out_of_form_are_answered_with_nodes_and_store_nothing() {
    let listener = Listener::start(&[]);
    let (announcer, asker) = (Raw::new(), Raw::new());
    let values = [&b""[..], b"\xff\xff", b"\x08", b"\x10\x01", b"\x08\x01\x1a\x06\x01", b"\x0a\x01\x01", b"\x08\x09"];
    for value in values {
        let answer = announcer.commit(&listener, KEY, value.to_vec());
        assert_eq!((answer.value, answer.nodes, answer.token.is_some()), (None, Some(vec![]), true), "{value:?}");
    }
    let no_value = request("peers").with(TARGET, KEY).with(TOKEN, announcer.token(&listener));
    assert_eq!(announcer.ask(&listener, &no_value).value, None);
    assert_eq!(asker.lookup(&listener, KEY).value, None);
}

#[test]
fn every_command_but_ping_needs_a_target_of_32_bytes() {
    let listener = Listener::start(&[]);
    let asker = Raw::new();
    for command in ["_find_node", "peers", "anything", ""] {
        asker.is_not_answered(&listener, &request(command), command);
        for target in [&[7; 31][..], &[7; 33], &[]] {
            asker.is_not_answered(&listener, &request(command).with(TARGET, target), command);
        }
        assert!(asker.ask(&listener, &request(command).with(TARGET, KEY)).nodes.is_some());
    }
    assert!(asker.ask(&listener, &ping().with(TARGET, [7; 5])).value.is_some());
}

#[test]
fn unknown_fields_are_skipped_and_the_last_of_a_field_counts() {
    let listener = Listener::start(&[]);
    let asker = Raw::new();
    let twice = [field(1, b"peers"), field(TARGET, &[7; 3]), field(15, b"?"), field(TARGET, &KEY), field(1, b"_ping")];
    let unknown = [vec![0x78, 0x81, 1], vec![0x7d, 1, 2, 3, 4], vec![0x79, 1, 2, 3, 4, 5, 6, 7, 8]];
    asker.send_bytes(&listener, &[vec![0x80, 5], twice.concat(), unknown.concat()].concat());
    let pong = asker.wait("the pong", |seen| seen.header() == 5);
    assert_eq!(pong.field(3), Some(compact(asker.addr)));
}

// Local addresses.

#[test]
fn local_peers_are_for_askers_of_the_same_network() {
    let listener = Listener::start(&[]);
    let (announcer, bare, asker) = (Raw::new(), Raw::new(), Raw::new());
    announcer.announce(&listener, KEY, Some(7_777), Some(&[192, 168, 1, 123, 0x04, 0xd2]));
    bare.announce(&listener, KEY, None, None);
    let both = set([announcer.at(7_777), bare.addr]);
    let ask = |local: Option<&[u8]>| asker.ask(&listener, &peers(KEY, want(LOOKUP, Some(0), local)));
    let here = ask(Some(&[192, 168, 77, 5, 0, 0]));
    assert_eq!((here.peers(), here.local()), (both.clone(), vec![vec![1, 123, 0x04, 0xd2]]));
    let here = ask(Some(&[192, 168, 77, 5, 9, 9]));
    assert_eq!((here.peers(), here.local()), (both.clone(), vec![vec![1, 123, 0x04, 0xd2]]));
    for elsewhere in [Some(&[192, 169, 1, 123, 0x04, 0xd2][..]), Some(&[10, 168, 1, 1, 0, 0]), None] {
        let answer = ask(elsewhere);
        assert_eq!((answer.peers(), answer.local()), (both.clone(), vec![]), "{elsewhere:?}");
        assert!(!fields(&answer.value.unwrap()).unwrap().contains_key(&2), "the field is left out");
    }
    for out_of_form in [&[192, 168, 1, 2, 3][..], &[192, 168, 1, 2, 3, 4, 5], &[]] {
        let answer = ask(Some(out_of_form));
        assert_eq!((answer.peers(), answer.local()), (both.clone(), vec![]), "{out_of_form:?}");
    }
}

#[test]
fn a_local_address_without_a_port_is_not_stored() {
    let listener = Listener::start(&[]);
    let (announcer, asker) = (Raw::new(), Raw::new());
    let ask = || asker.ask(&listener, &peers(KEY, want(LOOKUP, None, Some(&[10, 1, 9, 9, 0, 0]))));
    for bad in [&[10, 1, 2, 3, 0, 0][..], &[10, 1, 2, 3, 4], &[10, 1, 2, 3, 4, 5, 6], &[]] {
        announcer.announce(&listener, KEY, None, Some(bad));
        let answer = ask();
        assert_eq!((answer.peers(), answer.local()), (set([announcer.addr]), vec![]), "{bad:?}");
    }
    announcer.announce(&listener, KEY, None, Some(&[10, 1, 2, 3, 4, 5]));
    assert_eq!(ask().local(), [[2, 3, 4, 5]]);
    announcer.announce(&listener, KEY, None, Some(&[10, 1, 2, 3, 4, 6]));
    assert_eq!(ask().local(), [[2, 3, 4, 6]], "announcing again refreshes");
}

#[test]
fn the_own_local_address_is_left_out() {
    let listener = Listener::start(&[]);
    let (announcer, asker) = (Raw::new(), Raw::new());
    announcer.announce(&listener, KEY, None, Some(&[10, 1, 2, 3, 4, 5]));
    let answer = asker.ask(&listener, &peers(KEY, want(LOOKUP, None, Some(&[10, 1, 2, 3, 4, 5]))));
    assert_eq!((answer.peers(), answer.local()), (set([announcer.addr]), vec![]));
    let answer = asker.ask(&listener, &peers(KEY, want(LOOKUP, None, Some(&[10, 1, 2, 3, 4, 6]))));
    assert_eq!(answer.local(), [[2, 3, 4, 5]], "another port is somebody else");
}

#[test]
fn an_answer_fits_into_a_datagram_however_many_announced() {
    let listener = Listener::with_id(0x55, &[]);
    let nodes = neighbours(&listener, 25);
    let announcers: Vec<Raw> = (1..=7).map(|n| Raw::bind(&format!("127.{n}.{}.{n}", n * 30), None)).collect();
    let mut announced = BTreeSet::new();
    let mut locals = BTreeSet::new();
    for (n, announcer) in announcers.iter().enumerate() {
        let token = announcer.token(&listener);
        for port in 20_000..if n == 0 { 20_300_u16 } else { 20_050 } {
            let local = [&[10, 1, n as u8, 1][..], &port.to_be_bytes()].concat();
            let value = want(ANNOUNCE, Some(port.into()), Some(&local));
            let answer = announcer.ask(&listener, &peers(KEY, value).with(TOKEN, &token));
            announced.insert(announcer.at(port));
            locals.insert(local[2..].to_vec());
            assert!(answer.size < UNCUT, "{} bytes", answer.size);
            assert!(answer.peers().is_subset(&announced));
        }
    }
    let asker = Raw::new();
    let mut named = BTreeSet::new();
    let mut most = 0;
    for n in 0..60 {
        let local = (n % 2 == 0).then_some(&[10, 1, 200, 200, 0, 0][..]);
        let answer = asker.ask(&listener, &peers(KEY, want(LOOKUP, None, local)));
        assert!(answer.size < UNCUT, "{} bytes", answer.size);
        assert_eq!(answer.nodes().len(), 20);
        let (some, local) = (answer.peers(), answer.local());
        assert!(some.is_subset(&announced), "whole entries of what was announced");
        let distinct: BTreeSet<_> = local.iter().cloned().collect();
        assert!(distinct.is_subset(&locals) && distinct.len() == local.len() && local.len() <= some.len());
        assert_eq!(n % 2 == 0, !local.is_empty());
        most = most.max(some.len());
        named.extend(some);
    }
    println!("{} announced, {most} at most in one answer, {} in all of them", announced.len(), named.len());
    assert!(most >= 20, "{most}");
    assert!(named.len() > most, "each answer is another choice");
    drop(nodes);
}

// Forwards.

#[test]
fn a_ping_is_forwarded_with_the_askers_address() {
    let listener = Listener::start(&[]);
    let (asker, target, third) = (Raw::new(), Raw::new(), Raw::new());
    let forward = ping().with(FORWARD_REQUEST, compact(target.addr));
    let lying = forward.clone().with(FORWARD_RESPONSE, compact(third.addr));
    for (n, sent) in [forward.clone().with(ID, [0x77; 32]), forward, lying].into_iter().enumerate() {
        let tid = asker.send(&listener, &sent);
        let come = target.wait("the forwarded ping", |seen| seen.header() == 0x8000 | tid);
        let expected = ping().with(FORWARD_RESPONSE, compact(asker.addr));
        let expected = if n == 0 { expected.with(ID, [0x77; 32]) } else { expected };
        assert_eq!((to_hex(&come.bytes), come.from), (to_hex(&expected.datagram(tid)), listener.addr));
        assert!(
            asker.settle(&listener).iter().all(|seen| seen.header() != tid),
            "the asker hears nothing from the relay"
        );
    }
    assert!(third.settle(&listener).iter().all(Seen::is_request), "who forwards doesn't answer");
}

#[test]
fn nothing_but_a_ping_is_forwarded() {
    let listener = Listener::start(&[]);
    let (asker, target) = (Raw::new(), Raw::new());
    for request in [find_node(KEY), peers(KEY, want(LOOKUP, None, None)), request("anything").with(TARGET, KEY)] {
        let forward = request.with(FORWARD_REQUEST, compact(target.addr));
        asker.is_not_answered(&listener, &forward, "a forward is dropped silently");
    }
    for bad in [&[][..], &[127, 0, 0, 1, 0], &[127, 0, 0, 1, 0, 0], &[224, 0, 0, 1, 0, 80], &[255; 6], &[0; 6]] {
        asker.is_not_answered(&listener, &ping().with(FORWARD_REQUEST, bad), "and so is one to nowhere");
    }
    let itself = ping().with(FORWARD_REQUEST, compact(listener.addr));
    asker.send(&listener, &itself);
    asker.settle(&listener);
    assert!(target.settle(&listener).is_empty());
}

#[test]
fn a_flood_of_forwards_is_held_back_and_others_are_served() {
    let listener = Listener::start(&[]);
    let (asker, target, bystander) = (Raw::new(), Raw::new(), Raw::new());
    let forward = ping().with(ID, [0x77; 32]).with(FORWARD_REQUEST, compact(target.addr));
    let begin = Instant::now();
    for n in 0..10_000_u16 {
        asker.send_bytes(&listener, &forward.datagram(n));
        if n % 50 == 49 {
            // So that none is lost on the way.
            bystander.settle(&listener);
        }
    }
    let come = target.settle(&listener).iter().filter(|seen| seen.asks_for("_ping")).count() as u64;
    let took = begin.elapsed();
    println!("{come} of 10,000 forwards came through in {took:?}");
    let most = FORWARDS_AT_ONCE + FORWARDS_PER_S * (took.as_secs() + 1);
    assert!((1..=most).contains(&come), "{come} came through in {took:?}");
    assert!(bystander.lookup(&listener, KEY).nodes.is_some());
}

#[test]
fn a_pong_goes_to_the_address_that_a_forwarded_ping_names() {
    let listener = Listener::start(&[]);
    let (relay, asker) = (Raw::new(), Raw::new());
    let tid = relay.send(&listener, &ping().with(FORWARD_RESPONSE, compact(asker.addr)));
    let pong = asker.wait("the pong", |seen| seen.header() == tid);
    assert_eq!((pong.field(3), pong.from), (Some(compact(asker.addr)), listener.addr));
    assert!(relay.settle(&listener).iter().all(|seen| seen.header() != tid));
    for bad in [&[][..], &[127, 0, 0, 1, 0], &[127, 0, 0, 1, 0, 0], &[224, 0, 0, 1, 0, 80], &[255; 6], &[0; 6]] {
        relay.is_not_answered(&listener, &ping().with(FORWARD_RESPONSE, bad), "an address that is none");
    }
    for request in [find_node(KEY), peers(KEY, want(ANNOUNCE, None, None)), request("anything").with(TARGET, KEY)] {
        let forwarded = request.with(FORWARD_RESPONSE, compact(asker.addr));
        relay.is_not_answered(&listener, &forwarded, "only a ping is answered so");
    }
    assert!(asker.settle(&listener).is_empty());
}

#[test]
fn a_relayed_id_is_not_taken_for_the_relays() {
    let listener = Listener::start(&[]);
    let (relay, known, unknown, asker) = (Raw::new(), Raw::node([0x11; 32]), Raw::node([0x22; 32]), Raw::new());
    known.ask(&listener, &ping().with(ID, [0x11; 32]));
    for (id, node) in [([0x11; 32], &known), ([0x22; 32], &unknown)] {
        let tid = relay.send(&listener, &ping().with(ID, id).with(FORWARD_RESPONSE, compact(node.addr)));
        node.wait("the pong", |seen| seen.header() == tid);
    }
    let listed = asker.listed(&listener, [0x11; 32]);
    assert!(listed.contains(&([0x11; 32], known.addr)), "{listed:?}");
    assert!(listed.iter().all(|(_, addr)| *addr != relay.addr), "{listed:?}");
    let second = listed.iter().find(|(id, _)| *id == [0x22; 32]);
    assert!(second.is_none_or(|(_, addr)| *addr == unknown.addr), "{listed:?}");
    let last = relay.send(&listener, &ping().with(ID, [0x33; 32]).with(FORWARD_RESPONSE, [127, 0, 0, 1, 0, 0]));
    assert!(relay.settle(&listener).iter().all(|seen| seen.header() != last));
    assert!(asker.listed(&listener, [0x33; 32]).iter().all(|(_, addr)| *addr != relay.addr));
}

// Lies and faults.

#[test]
fn answers_nobody_asked_for_change_nothing() {
    let (boot, stranger, bystander) = (Raw::new(), Raw::new(), Raw::new());
    let (silent, late) = (Raw::new(), [0x44; 32]);
    let listener = Listener::with_id(0x55, &["--hyperdht-bootstrap", &boot.addr.to_string()]);
    let asked = boot.wait("it asks its bootstrap node", |seen| seen.asks_for("_find_node"));
    let (tid, stranger_id, boot_id) = (asked.header() & 0x7fff, [0x54; 32], [0x22; 32]);
    let lies = entry(stranger_id, stranger.addr);
    let lie = |tid| answer_datagram(tid, &[(1, &stranger_id), (2, &lies), (4, &[7; 32])]);
    // Even the right transaction id is of no use to who wasn't asked, and doesn't keep the true answer out.
    stranger.send_bytes(&listener, &lie(tid));
    let named = entry(late, silent.addr);
    boot.send_bytes(&listener, &answer_datagram(tid, &[(1, &boot_id), (2, &named), (4, &[8; 32])]));
    eventually("the true answer counts", || bystander.lists(&listener, boot_id));
    silent.wait("it goes on to whom the answer named", Seen::is_request);
    for tid in 0..0x8000 {
        stranger.send_bytes(&listener, &lie(tid));
        if tid % 64 == 63 {
            bystander.settle(&listener);
        }
    }
    for target in [stranger_id, boot_id, KEY] {
        assert!(bystander.listed(&listener, target).iter().all(|(id, _)| *id != stranger_id));
    }
    // Twice is once too often, even from who was asked.
    boot.send_bytes(&listener, &answer_datagram(tid, &[(1, &[0x99; 32]), (2, &lies)]));
    boot.settle(&listener);
    assert!(!bystander.lists(&listener, [0x99; 32]));
    assert!(stranger.settle(&listener).is_empty(), "and the stranger is never asked");
}

#[test]
fn answers_out_of_form_do_no_harm() {
    let id = [0x22; 32];
    let port_zero = [&id[..], &[127, 0, 0, 1, 0, 0]].concat();
    let itself = entry([0x55; 32], "127.0.0.1:9".parse().unwrap());
    let bodies = [
        vec![],
        vec![0xff; 40],
        answer_datagram(0, &[(1, b"short"), (2, b""), (4, b"token")])[2..].to_vec(),
        answer_datagram(0, &[(1, &[7; 33]), (4, &[7; 1_000])])[2..].to_vec(),
        answer_datagram(0, &[(1, &id), (2, &port_zero), (4, b"token")])[2..].to_vec(),
        answer_datagram(0, &[(1, &id), (2, &itself), (3, &[9; 500]), (4, b"")])[2..].to_vec(),
        answer_datagram(0, &[(1, &id), (2, &[7; 20_000]), (4, b"token")])[2..].to_vec(),
        answer_datagram(0, &[(1, &[0x55; 32]), (2, &[7; 37]), (4, b"token")])[2..].to_vec(),
    ];
    for body in bodies {
        let (boot, asker) = (Raw::new(), Raw::new());
        let listener = Listener::with_id(0x55, &["--hyperdht-bootstrap", &boot.addr.to_string()]);
        let asked = boot.wait("it asks its bootstrap node", Seen::is_request);
        boot.send_bytes(&listener, &[&(asked.header() & 0x7fff).to_be_bytes()[..], &body].concat());
        boot.settle(&listener);
        let listed = asker.listed(&listener, id);
        assert!(listed.iter().all(|(id, addr)| *id != [0x55; 32] && addr.port() != 0), "{listed:?}");
    }
}

/// Sends these datagrams at a pace that loses none.
fn pelt(listener: &Listener, socket: &Raw, datagrams: impl Iterator<Item = Vec<u8>>) {
    for (n, datagram) in datagrams.enumerate() {
        socket.send_bytes(listener, &datagram);
        if n % 32 == 31 {
            socket.settle(listener);
        }
    }
    socket.settle(listener);
}

#[test]
fn no_datagram_kills_it_or_makes_it_grow() {
    let mut listener = Listener::start(&[]);
    let (socket, other) = (Raw::new(), Raw::new());
    let token = socket.token(&listener);
    let valid: Vec<Vec<u8>> = [
        ping().with(ID, [0x77; 32]),
        find_node(KEY).with(ID, [0x77; 32]),
        peers(KEY, want(LOOKUP, Some(0), Some(&[10, 1, 2, 3, 4, 5]))),
        peers(KEY, want(ANNOUNCE, Some(7_777), Some(&[10, 1, 2, 3, 4, 5]))).with(TOKEN, &token).with(ID, [0x77; 32]),
        peers(KEY, want(UNANNOUNCE, Some(7_777), None)).with(TOKEN, &token),
        ping().with(ID, [0x77; 32]).with(FORWARD_REQUEST, compact(other.addr)),
        ping().with(ID, [0x77; 32]).with(FORWARD_RESPONSE, compact(other.addr)),
    ]
    .iter()
    .enumerate()
    .map(|(n, request)| request.datagram(n as u16))
    .collect();
    pelt(&listener, &socket, valid.iter().cloned());
    let before = listener.process.resident_kib();

    for short in [&[][..], &[0x80], &[0], &[0x80, 0], &[0, 0], &[0xff, 0xff]] {
        socket.send_bytes(&listener, short);
        socket.settle(&listener);
    }
    for byte in [0, 0x0a, 0x80, 0xff] {
        socket.send_bytes(&listener, &vec![byte; 65_507]);
        socket.settle(&listener);
    }
    socket.send_bytes(&listener, &ping().with(VALUE, vec![7; 65_490]).datagram(1));
    socket.settle(&listener);
    pelt(
        &listener,
        &socket,
        valid.iter().flat_map(|datagram| (0..datagram.len()).map(|size| datagram[..size].to_vec())),
    );
    let flip = |datagram: &[u8], bit: usize| {
        let mut flipped = datagram.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    };
    pelt(&listener, &socket, valid.iter().flat_map(|whole| (0..whole.len() * 8).map(move |bit| flip(whole, bit))));
    let mut random = fastrand::Rng::with_seed(4);
    let garbage = (0..20_000).map(|n| {
        let tail: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(n % 300).collect();
        match n % 3 {
            0 => tail,
            1 => [&[0x80, 1][..], &field(1, b"peers"), &tail].concat(),
            _ => [&[0, 1][..], &field(1, &KEY), &tail].concat(),
        }
    });
    pelt(&listener, &socket, garbage);

    let after = listener.process.resident_kib();
    println!("{before} KiB resident before, {after} after");
    assert!(after < before + 4 * 1024, "from {before} KiB to {after}");
    assert!(listener.process.is_running());
    assert!(other.lookup(&listener, [9; 32]).nodes.is_some());
}

#[test]
fn who_falls_silent_is_forgotten_and_who_answers_is_kept() {
    let listener = Listener::start(&[]);
    let (dead, alive, asker) = (Raw::node([0x11; 32]), Raw::node([0x22; 32]), Raw::new());
    for (id, node) in [([0x11; 32], &dead), ([0x22; 32], &alive)] {
        node.ask(&listener, &ping().with(ID, id));
        eventually("it is listed", || asker.lists(&listener, id));
    }
    dead.fall_silent();
    let begin = Instant::now();
    while asker.lists(&listener, [0x11; 32]) {
        assert!(begin.elapsed() < Duration::from_secs(90), "the dead one is still listed");
        thread::sleep(Duration::from_millis(100));
    }
    println!("forgotten after {:?}", begin.elapsed());
    assert_eq!(asker.listed(&listener, KEY), [([0x22; 32], alive.addr)]);
}

// IPv6.

#[test]
fn an_ipv6_listener_speaks_in_longer_addresses() {
    if UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no ::1");
        return;
    }
    let listener = Listener::on(&["[::1]:0"], &[]);
    let (node, target, asker) = (Raw::bind("::1", Some([0x11; 32])), Raw::bind("::1", None), Raw::bind("::1", None));
    let pong = node.ask(&listener, &ping().with(ID, [0x11; 32]));
    assert_eq!((pong.value.as_ref().map(Vec::len), pong.value), (Some(18), Some(compact(node.addr))));
    // It is named once it has answered a ping.
    eventually("it is listed", || asker.ask(&listener, &find_node(KEY)).nodes.as_ref().map(Vec::len) == Some(50));
    let answer = asker.ask(&listener, &find_node(KEY));
    assert_eq!(answer.nodes(), [([0x11; 32], node.addr)]);

    node.announce(&listener, KEY, Some(7_777), Some(&[10, 1, 2, 3, 4, 5]));
    let answer = asker.ask(&listener, &peers(KEY, want(LOOKUP, None, Some(&[10, 1, 9, 9, 0, 0]))));
    assert_eq!((answer.peers(), answer.local()), (set([node.at(7_777)]), vec![vec![2, 3, 4, 5]]), "local stays IPv4");
    node.commit(&listener, KEY, want(UNANNOUNCE, Some(7_777), None));
    assert_eq!(asker.lookup(&listener, KEY).value, None);

    let tid = asker.send(&listener, &ping().with(FORWARD_REQUEST, compact(target.addr)));
    let come = target.wait("the forwarded ping", |seen| seen.header() == 0x8000 | tid);
    assert_eq!(come.field(FORWARD_RESPONSE), Some(compact(asker.addr)));
    let tid = target.send(&listener, &ping().with(FORWARD_RESPONSE, compact(asker.addr)));
    let pong = asker.wait("the pong", |seen| seen.header() == tid);
    assert_eq!(pong.field(3), Some(compact(asker.addr)));
    for number in [FORWARD_REQUEST, FORWARD_RESPONSE] {
        let ipv4 = ping().with(number, [127, 0, 0, 1, 0, 80]);
        asker.is_not_answered(&listener, &ipv4, "an IPv4 address on an IPv6 listener");
    }
}

// The process.

#[test]
fn status_is_told_at_the_hyperdht_address() {
    let listener = Listener::start(&[]);
    let output = run_to_end(&["status", "--node", &listener.addr.to_string()]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().count() > 0);
    assert!(said.lines().all(|line| line.split_once(' ').is_some()), "name and value on each line: {said}");
}

#[test]
fn sigterm_ends_it_with_zero() {
    let boot = Raw::new();
    let mut listener = Listener::start(&["--hyperdht-bootstrap", &boot.addr.to_string()]);
    boot.wait("it is in the middle of asking", Seen::is_request);
    let begin = Instant::now();
    listener.process.signal("TERM");
    assert_eq!(listener.process.wait(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(3), "2 s, and some on a busy machine");
}

#[test]
fn each_mistake_on_the_command_line_has_its_line() {
    let listener = ["--listen", "none", "--hyperdht", "127.0.0.1:0"];
    let id = to_hex(&[7; 32]);
    let with_listener =
        |args: &[&str]| -> Vec<String> { [&listener[..], args].concat().iter().map(|&a| a.into()).collect() };
    let of = |args: &[&str]| -> Vec<String> { args.iter().map(|&a| a.into()).collect() };
    for (args, says) in [
        (of(&["--listen", "none", "--hyperdht", "here"]), "--hyperdht"),
        (of(&["--listen", "none", "--hyperdht", "127.0.0.1:65536"]), "--hyperdht"),
        (of(&["--listen", "none", "--hyperdht"]), "hyperdht"),
        (with_listener(&["--hyperdht-id", &id[2..]]), "--hyperdht-id"),
        (with_listener(&["--hyperdht-id", &format!("{id}07")]), "--hyperdht-id"),
        (with_listener(&["--hyperdht-id", &id.replace('7', "g")]), "--hyperdht-id"),
        (with_listener(&["--hyperdht-id", &id, "--hyperdht-id", &id.replace('7', "8")]), "--hyperdht-id"),
        (of(&["lookup", "--dialect", "hyperdht", "--node", "127.0.0.1:9"]), "KEY"),
        (of(&["unannounce", "--dialect", "hyperdht", "--node", "127.0.0.1:9", "key"]), "--port"),
        (of(&["ping", "--dialect", "nonsense", "127.0.0.1:9"]), "nonsense"),
        (of(&["lookup", "--dialect", "nonsense", "key"]), "nonsense"),
    ] {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = run_to_end(&words);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {line}");
        assert_eq!((line.lines().count(), output.stdout.len()), (1, 0), "{args:?}: {line}");
        assert!(line.starts_with("dayfly: ") && line.contains(says), "{args:?}: {line}");
    }
}
