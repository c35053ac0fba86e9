//! Hole punches between dayfly and the npm peer, each as the punching side, the target and the relay, behind every pair
//! of simulated NATs. The npm nodes send through a gateway, dayfly's run in this process; all in real time, at once.
#![cfg(feature = "sim")]

mod common;
#[path = "common/npm.rs"]
mod npm;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::eventually;
use dayfly::dialect::hyperdht::codec::Datagram;
use dayfly::dialect::hyperdht::identity::Identity;
use dayfly::dialect::hyperdht::node::{Node, Output};
use dayfly::dialect::hyperdht::operation::{Event, Operation, Outcome};
use dayfly::dialect::hyperdht::settings::Settings;
use dayfly::id::Id;
use dayfly::sim::nat::{Kind, Nat};
use dayfly::sources::Sources;
use dayfly::time::Time;
use npm::{Call, Npm, Options};

/// Who made a node.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Make {
    Dayfly,
    Npm,
}

const MAKES: [Make; 2] = [Make::Dayfly, Make::Npm];

enum Body {
    Dayfly(Box<Node>),
    /// The npm node's tunnel, once it has said where it is.
    Npm(Option<SocketAddr>),
}

struct Host {
    nat: Nat,
    public: SocketAddr,
    body: Body,
    sources: Sources,
    /// How operations of a dayfly node ended.
    ended: BTreeMap<u64, Outcome>,
}

/// All hosts and the socket to which the npm nodes' tunnels lead.
struct World {
    socket: UdpSocket,
    began: Instant,
    hosts: Vec<Host>,
}

fn public(host: usize) -> SocketAddr {
    ([20, (host >> 8) as u8, host as u8, 1], 5_000).into()
}

fn inside(host: usize) -> SocketAddr {
    ([10, (host >> 8) as u8, host as u8, 1], 5_000).into()
}

fn host_of(ip: IpAddr) -> Option<usize> {
    let IpAddr::V4(v4) = ip else { return None };
    let [_, high, low, _] = v4.octets();
    Some(usize::from(high) << 8 | usize::from(low))
}

fn id(host: usize) -> Id {
    Id::of(&(host as u64).to_be_bytes())
}

/// Six bytes of address before a tunnelled payload.
fn read_address(bytes: &[u8]) -> SocketAddr {
    let ip: [u8; 4] = bytes[..4].try_into().unwrap();
    (ip, u16::from_be_bytes([bytes[4], bytes[5]])).into()
}

fn write_address(addr: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = addr.ip() else { panic!("{addr}") };
    [&ip.octets()[..], &addr.port().to_be_bytes()].concat()
}

impl World {
    fn now(&self) -> Time {
        Time::from_ms(self.began.elapsed().as_millis() as u64)
    }

    fn add(&mut self, kind: Kind, make: Make) -> usize {
        let number = self.hosts.len();
        let body = match make {
            Make::Npm => Body::Npm(None),
            Make::Dayfly => {
                let addr = if kind == Kind::Open { public(number) } else { inside(number) };
                let identity = Identity { id: id(number), addr, is_ephemeral: false };
                Body::Dayfly(Box::new(Node::new(
                    identity,
                    Settings::default(),
                    [[1; 32], [2; 32]],
                    number as u64,
                    self.now(),
                )))
            }
        };
        let nat = Nat::new(kind, public(number));
        let (sources, ended) = (Sources::default(), BTreeMap::new());
        self.hosts.push(Host { nat, public: public(number), body, sources, ended });
        number
    }

    /// Takes what an npm node's tunnel sent.
    fn on_tunnelled(&mut self, bytes: &[u8], from: SocketAddr) {
        if bytes.len() == 18 && bytes.starts_with(b"\0\0\0\0\0\0attach") {
            let host = host_of(read_address(&bytes[12..]).ip()).unwrap();
            self.hosts[host].body = Body::Npm(Some(from));
            self.socket.send_to(b"\0\0\0\0\0\0attached", from).unwrap();
            return;
        }
        let is_its = |host: &Host| matches!(host.body, Body::Npm(Some(tunnel)) if tunnel == from);
        let host = self.hosts.iter().position(is_its).expect("who sends is attached");
        self.route(host, read_address(bytes), &bytes[6..]);
        self.settle();
    }

    /// A packet leaves a host, through its NAT and that of whom it is for.
    fn route(&mut self, from: usize, to: SocketAddr, bytes: &[u8]) {
        let now = self.now();
        let source = self.hosts[from].nat.outbound(to, now);
        let Some(target) = host_of(to.ip()).filter(|n| *n < self.hosts.len() && to.ip() == public(*n).ip()) else {
            return;
        };
        let host = &mut self.hosts[target];
        if !host.nat.inbound(to.port(), source, now) {
            return;
        }
        match &mut host.body {
            Body::Npm(tunnel) => {
                let bytes = [&write_address(source)[..], bytes].concat();
                tunnel.map(|tunnel| self.socket.send_to(&bytes, tunnel).unwrap());
            }
            Body::Dayfly(node) => {
                let datagram = Datagram::decode(bytes).unwrap();
                let breach = node.on_datagram(source, &datagram, &mut host.sources, now);
                assert_eq!(breach, None, "from {source}");
            }
        }
    }

    /// Lets the nodes of this process do what they want to.
    fn settle(&mut self) {
        let now = self.now();
        loop {
            let mut sent = Vec::new();
            for (number, host) in self.hosts.iter_mut().enumerate() {
                let Body::Dayfly(node) = &mut host.body else { continue };
                if node.next_deadline() <= now {
                    node.on_timeout(&mut host.sources, now);
                }
                while let Some(output) = node.poll_output(now) {
                    match output {
                        Output::Send { to, datagram } => sent.push((number, to, datagram)),
                        Output::Event { ticket, event: Event::Done(outcome) } => {
                            host.ended.insert(ticket, outcome);
                        }
                        Output::Event { .. } => {}
                    }
                }
            }
            if sent.is_empty() {
                return;
            }
            for (number, to, datagram) in sent {
                let mut bytes = Vec::new();
                datagram.encode(&mut bytes);
                self.route(number, to, &bytes);
            }
        }
    }

    fn dayfly(&mut self, host: usize) -> Option<&mut Node> {
        match &mut self.hosts[host].body {
            Body::Dayfly(node) => Some(node),
            Body::Npm(_) => None,
        }
    }
}

/// The world, and the thread that moves its packets.
struct Gateway {
    world: Arc<Mutex<World>>,
    addr: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    fn open() -> Gateway {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // What a few hundred nodes say in a moment has room.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 * 1024 * 1024);
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let reader = socket.try_clone().unwrap();
        let addr = socket.local_addr().unwrap();
        let world = Arc::new(Mutex::new(World { socket, began: Instant::now(), hosts: Vec::new() }));
        let is_over = Arc::new(AtomicBool::new(false));
        let (moved, over) = (world.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while !over.load(Ordering::Relaxed) {
                let read = reader.recv_from(&mut buffer);
                let mut world = moved.lock().unwrap();
                match read {
                    Ok((len, from)) => world.on_tunnelled(&buffer[..len], from),
                    Err(_) => world.settle(),
                }
            }
        });
        Gateway { world, addr, is_over, thread: Some(thread) }
    }

    /// Starts a host's node, which joins through `known`; the call to wait for if it is the npm peer's.
    fn start(&self, npm: &Npm, host: usize, known: Option<usize>) -> Option<Call> {
        let mut world = self.world.lock().unwrap();
        let now = world.now();
        if let Some(node) = world.dayfly(host) {
            known.into_iter().for_each(|known| assert!(node.add_bootstrap(public(known), now)));
            world.settle();
            return None;
        }
        let bootstrap = known.map(public).into_iter().collect();
        let tunnel = Some((self.addr, inside(host)));
        Some(
            npm.start_node(
                &format!("h{host}"),
                &Options { id: Some(id(host)), bootstrap, tunnel, ..Options::default() },
            ),
        )
    }

    /// Starts many, and waits until all are ready.
    fn start_all(&self, npm: &Npm, hosts: impl Iterator<Item = (usize, Option<usize>)>) {
        let (mut calls, mut ours) = (Vec::new(), Vec::new());
        for (host, known) in hosts {
            match self.start(npm, host, known) {
                Some(call) => calls.push(call),
                None => ours.push(host),
            }
        }
        calls.into_iter().for_each(|call| {
            call.node();
        });
        eventually("all have joined", || {
            let mut world = self.world.lock().unwrap();
            ours.iter().all(|host| world.dayfly(*host).unwrap().overlay().lookups_in_flight() == 0)
        });
    }

    /// At which address a host's node lists the node `id`.
    fn listed(&self, npm: &Npm, host: usize, id: Id) -> Option<SocketAddr> {
        if let Some(node) = self.world.lock().unwrap().dayfly(host) {
            return node.overlay().table().get(&id).map(|entry| entry.contact.addr);
        }
        npm.table(&format!("h{host}")).iter().find(|entry| entry.id == Some(id)).map(|entry| entry.addr)
    }

    /// Dayfly nodes that tables of npm nodes list at addresses of others.
    fn wrong_in_npm(&self, npm: &Npm) -> Vec<String> {
        let mut makes = Vec::new();
        for host in &self.world.lock().unwrap().hosts {
            makes.push(if matches!(host.body, Body::Npm(_)) { Make::Npm } else { Make::Dayfly });
        }
        let ours: BTreeMap<Id, usize> =
            (0..makes.len()).filter(|n| makes[*n] == Make::Dayfly).map(|n| (id(n), n)).collect();
        let mut wrong = Vec::new();
        for host in (0..makes.len()).filter(|n| makes[*n] == Make::Npm) {
            for entry in npm.table(&format!("h{host}")) {
                let real = entry.id.and_then(|id| ours.get(&id));
                if let Some(real) = real.filter(|real| entry.addr.ip() != public(**real).ip()) {
                    wrong.push(format!("{host} lists {} at {}", public(*real), entry.addr));
                }
            }
        }
        wrong
    }

    /// Entries in tables of dayfly nodes whose address is not their node's, as who listens there would see it.
    fn wrong_entries(&self) -> Vec<String> {
        let world = self.world.lock().unwrap();
        let owner: BTreeMap<Id, usize> = (0..world.hosts.len()).map(|host| (id(host), host)).collect();
        let mut wrong = Vec::new();
        for (number, host) in world.hosts.iter().enumerate() {
            let Body::Dayfly(node) = &host.body else { continue };
            for entry in node.overlay().table().entries() {
                let real = &world.hosts[owner[&entry.contact.id]];
                let addr = entry.contact.addr;
                let is_right = match real.nat.kind() {
                    Kind::Symmetric => addr.ip() == real.public.ip(),
                    Kind::Open | Kind::AddressRestricted | Kind::PortRestricted => addr == real.public,
                };
                if !is_right {
                    wrong.push(format!("{number} lists {} at {addr}", real.public));
                }
            }
        }
        wrong
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// One case: who punches, who is punched, who relays, and what stands before the first two.
#[derive(Copy, Clone, Debug)]
struct Case {
    makes: [Make; 3],
    kinds: [Kind; 2],
    puncher: usize,
    target: usize,
    relay: usize,
}

fn cases(world: &mut World) -> Vec<Case> {
    let mut cases = Vec::new();
    for kinds in Kind::ALL.into_iter().flat_map(|a| Kind::ALL.map(|b| [a, b])) {
        for makes in MAKES.into_iter().flat_map(|a| MAKES.into_iter().flat_map(move |b| MAKES.map(|r| [a, b, r]))) {
            let puncher = world.add(kinds[0], makes[0]);
            let target = world.add(kinds[1], makes[1]);
            let relay = world.add(Kind::Open, makes[2]);
            cases.push(Case { makes, kinds, puncher, target, relay });
        }
    }
    cases
}

/// Whoever connects where all three are the npm peer's must connect with dayfly in any place.
fn judge(what: &str, results: &[(Case, bool)]) {
    let mut lines = Vec::new();
    for kinds in Kind::ALL.into_iter().flat_map(|a| Kind::ALL.map(|b| [a, b])) {
        let of_pair: Vec<_> = results.iter().filter(|(case, _)| case.kinds == kinds).collect();
        let with = |makes: [Make; 3]| of_pair.iter().find(|(case, _)| case.makes == makes).unwrap().1;
        let original = with([Make::Npm; 3]);
        let connected = of_pair.iter().filter(|(_, connected)| *connected).count();
        lines.push(format!(
            "{what}: {:?} -> {:?}: npm alone {original}, dayfly alone {}, {connected} of 8",
            kinds[0],
            kinds[1],
            with([Make::Dayfly; 3])
        ));
        for (case, connected) in of_pair {
            assert!(*connected || !original, "{what}: the npm peer alone connects, not {case:?}");
        }
    }
    eprintln!("{}", lines.join("\n"));
}

#[test]
fn holes_are_punched_wherever_the_original_would_and_no_table_is_poisoned() {
    let _alone = common::alone();
    let Some(npm) = Npm::start() else { return };
    let gateway = Gateway::open();
    let automatic = cases(&mut gateway.world.lock().unwrap());
    let explicit = cases(&mut gateway.world.lock().unwrap());
    let all = || automatic.iter().chain(&explicit);
    gateway.start_all(&npm, all().map(|case| (case.relay, None)));
    gateway.start_all(&npm, all().map(|case| (case.target, Some(case.relay))));
    let targets: Vec<SocketAddr> = explicit
        .iter()
        .map(|case| gateway.listed(&npm, case.relay, id(case.target)).expect("the relay lists who joined through it"))
        .collect();

    // In the course of a lookup, here the one with which a node joins.
    gateway.start_all(&npm, automatic.iter().map(|case| (case.puncher, Some(case.relay))));
    // The npm peer also lists who was relayed to it, at the relay's address.
    let connected = |case: &Case| {
        let listed = gateway.listed(&npm, case.puncher, id(case.target));
        listed.is_some_and(|addr| addr.ip() == public(case.target).ip())
    };
    judge("in a lookup", &automatic.iter().map(|case| (*case, connected(case))).collect::<Vec<_>>());

    // On demand, by a node that has never talked to the target.
    gateway.start_all(&npm, explicit.iter().map(|case| (case.puncher, None)));
    let mut calls = Vec::new();
    for (case, peer) in explicit.iter().zip(&targets) {
        let referrer = public(case.relay);
        let mut world = gateway.world.lock().unwrap();
        let now = world.now();
        match world.dayfly(case.puncher) {
            Some(node) => {
                assert!(node.start(1, Operation::HolePunch { peer: *peer, referrer }, now));
                world.settle();
                calls.push(None);
            }
            None => {
                let fields =
                    serde_json::json!({ "name": format!("h{}", case.puncher), "peer": peer, "referrer": referrer });
                calls.push(Some(npm.send("holepunch", fields)));
            }
        }
    }
    let mut results = Vec::new();
    for (case, call) in explicit.iter().zip(calls) {
        let connected = match call {
            Some(call) => call.value().is_ok(),
            None => {
                let ended = || gateway.world.lock().unwrap().hosts[case.puncher].ended.get(&1).copied();
                eventually("the punch ends", || ended().is_some());
                matches!(ended(), Some(Outcome::Done { .. }))
            }
        };
        results.push((*case, connected));
    }
    judge("on demand", &results);
    assert_eq!(gateway.wrong_entries(), [""; 0], "no table of ours holds a wrong address");
    assert_eq!(gateway.wrong_in_npm(&npm), [""; 0], "and no other one of ours");
}
