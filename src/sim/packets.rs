//! The datagram level: real hyperdht nodes behind NATs, and packets that are delayed, lost, doubled or overtaken. Holds
//! every host and the schedule. Never looks into a node but through what any caller can see.

use std::net::{Ipv4Addr, SocketAddr};

use crate::dialect::hyperdht::codec::Datagram;
use crate::dialect::hyperdht::identity::Identity;
use crate::dialect::hyperdht::node::{Node, Output};
use crate::dialect::hyperdht::operation::{Event, Operation, Ticket};
use crate::dialect::hyperdht::settings::Settings;
use crate::id::Id;
use crate::sim::address::{address_of, host_of};
use crate::sim::delay::Delays;
use crate::sim::nat::{Kind, Nat};
use crate::sim::schedule::{Schedule, Trace};
use crate::sources::Sources;
use crate::time::Time;

/// What happens to packets. Shares are chances per packet, from 0 to 1.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Air {
    /// The distribution of round trips.
    pub delays: Delays,
    /// Share of packets that never arrive.
    pub lost: f64,
    /// Share of packets that arrive twice.
    pub doubled: f64,
    /// Each packet is held up for up to this many milliseconds, so that others overtake it.
    pub held_up_ms: u64,
}

impl Air {
    /// Air in which nothing goes wrong.
    pub fn clear() -> Air {
        Air { delays: Delays::WideArea, lost: 0.0, doubled: 0.0, held_up_ms: 0 }
    }
}

/// A host of the datagram level.
#[derive(Debug)]
pub struct Host {
    /// The node; `None` once the host has died, which nobody is told.
    pub node: Option<Box<Node>>,
    /// The id of the node.
    pub id: Id,
    /// The translator between the host and the world.
    pub nat: Nat,
    wake_at: Option<Time>,
    /// Counts nothing by source: a world of many thousand hosts would need too much memory for it.
    sources: Sources,
}

#[derive(Debug)]
enum Happening {
    Packet { from: SocketAddr, to: SocketAddr, datagram: Box<Datagram> },
    Wake(u32),
}

/// An event of an operation: the host, the operation's ticket, the event, and when it came.
pub type Told = (usize, Ticket, Event, Time);

/// All hosts, and all packets under way.
#[derive(Debug)]
pub struct Packets {
    /// The hosts, by number.
    pub hosts: Vec<Host>,
    /// What happens to packets.
    pub air: Air,
    /// The source of every choice that the world makes.
    pub random: fastrand::Rng,
    seed: u64,
    now: Time,
    schedule: Schedule<Happening>,
    told: Vec<Told>,
    sent: u64,
    trace: Trace,
}

impl Packets {
    /// A world without hosts.
    pub fn new(air: Air, seed: u64) -> Packets {
        Packets {
            hosts: Vec::new(),
            air,
            random: fastrand::Rng::with_seed(seed),
            seed,
            now: Time::ZERO,
            schedule: Schedule::default(),
            told: Vec::new(),
            sent: 0,
            trace: Trace::default(),
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The number of packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// A hash of everything that has happened so far.
    pub fn trace(&self) -> u64 {
        self.trace.value()
    }

    /// Adds a host behind a translator of this kind; returns its number. Behind a translator the host has a private
    /// address.
    pub fn add(&mut self, kind: Kind, is_ephemeral: bool) -> usize {
        let number = self.hosts.len();
        let public = address_of(number);
        let inside = Ipv4Addr::from((10 << 24) + number as u32 + 1);
        let addr = if kind == Kind::Open { public } else { (inside, public.port()).into() };
        let id = Id(std::array::from_fn(|_| self.random.u8(..)));
        let secrets = [(); 2].map(|()| std::array::from_fn(|_| self.random.u8(..)));
        let node =
            Node::new(Identity { id, addr, is_ephemeral }, Settings::default(), secrets, self.random.u64(..), self.now);
        let (node, nat, sources) = (Some(Box::new(node)), Nat::new(kind, public), Sources::default());
        self.hosts.push(Host { node, sources, id, nat, wake_at: None });
        self.settle(number);
        number
    }

    /// The public address of a host. Behind a symmetric translator it has others as well.
    pub fn address(&self, number: usize) -> SocketAddr {
        address_of(number)
    }

    /// Tells a host to bootstrap from another.
    pub fn join(&mut self, number: usize, known: usize) {
        let (addr, now) = (self.address(known), self.now);
        if let Some(node) = &mut self.hosts[number].node {
            node.add_bootstrap(addr, now);
            self.settle(number);
        }
    }

    /// Starts an operation on a host's node, unless the host has died.
    pub fn start(&mut self, number: usize, ticket: Ticket, operation: Operation) {
        let now = self.now;
        if let Some(node) = &mut self.hosts[number].node {
            node.start(ticket, operation, now);
            self.settle(number);
        }
    }

    /// The events of operations since the last call.
    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Kills a host; nobody is told.
    pub fn kill(&mut self, number: usize) {
        self.hosts[number].node = None;
    }

    /// Lets everything happen that is due by `until`.
    pub fn run_until(&mut self, until: Time) {
        while let Some((at, event)) = self.schedule.next(until) {
            self.now = at;
            match event {
                Happening::Packet { from, to, datagram } => self.arrive(from, to, &datagram),
                Happening::Wake(number) => self.wake(number as usize),
            }
        }
        self.now = self.now.max(until);
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, datagram: &Datagram) {
        let Some(number) = host_of(to).filter(|number| *number < self.hosts.len()) else {
            return;
        };
        let host = &mut self.hosts[number];
        let now = self.now;
        if let Some(node) = host.node.as_mut().filter(|_| host.nat.inbound(to.port(), from, now)) {
            self.trace.note(&[now.as_ms(), number as u64, u64::from(from.port())]);
            node.on_datagram(from, datagram, &mut host.sources, now);
            self.settle(number);
        }
    }

    fn wake(&mut self, number: usize) {
        let (host, now) = (&mut self.hosts[number], self.now);
        let Some(node) = host.node.as_mut().filter(|_| host.wake_at.is_some_and(|at| at <= now)) else {
            return;
        };
        host.wake_at = None;
        host.nat.sweep(now);
        if node.next_deadline() <= now {
            node.on_timeout(&mut host.sources, now);
            assert!(node.next_deadline() > now, "a node that was woken has something ahead of it");
        }
        self.settle(number);
    }

    /// Does what a node wants done, and sets the host's timer.
    fn settle(&mut self, number: usize) {
        loop {
            let now = self.now;
            let Some(node) = &mut self.hosts[number].node else {
                return;
            };
            match node.poll_output(now) {
                Some(Output::Send { to, datagram }) => self.send(number, to, datagram),
                Some(Output::Event { ticket, event }) => self.told.push((number, ticket, event, now)),
                None => break,
            }
        }
        let host = &mut self.hosts[number];
        let due = host.node.as_ref().map(|node| node.next_deadline());
        if let Some(due) = due.filter(|due| host.wake_at.is_none_or(|at| *due < at)) {
            host.wake_at = Some(due);
            self.schedule.add(due, Happening::Wake(number as u32));
        }
    }

    fn send(&mut self, number: usize, to: SocketAddr, datagram: Datagram) {
        self.sent += 1;
        if cfg!(debug_assertions) {
            let mut bytes = Vec::new();
            datagram.encode(&mut bytes);
            assert_eq!(Datagram::decode(&bytes).as_ref(), Ok(&datagram), "what is sent can be read");
        }
        let from = self.hosts[number].nat.outbound(to, self.now);
        let target = host_of(to).unwrap_or(number);
        let copies = if self.random.f64() < self.air.doubled { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.f64() < self.air.lost {
                continue;
            }
            let held_up = self.random.u64(0..=self.air.held_up_ms);
            let delay = self.air.delays.one_way_ms(self.seed, number, target) + held_up;
            let packet = Happening::Packet { from, to, datagram: Box::new(datagram.clone()) };
            self.schedule.add(self.now.after(delay), packet);
        }
    }
}
