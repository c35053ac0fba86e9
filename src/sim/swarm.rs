//! The byte level: machines with whole engines, clients, and the pretend TCP connections between them. Drives each
//! engine as the poll loop does and checks it after every turn. Never gives an engine anything that a socket could not,
//! and never looks at what the bytes mean.

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::net::SocketAddr;

use crate::arena::{Arena, Key};
use crate::engine::{ConnId, Engine, EngineSettings, Output};
use crate::guard::Counter;
use crate::limits::BUFFERED_BYTES;
use crate::sim::address::{address_of, host_of, number_of};
use crate::sim::dialect::{Canary, SimDialect};
use crate::sim::schedule::{Schedule, Trace};
use crate::sim::weather::Weather;
use crate::sim::wire::{Side, Wire};
use crate::time::Time;

/// The first ephemeral port of a machine.
const FIRST_EPHEMERAL: u16 = 32_768;
/// An engine with more outputs than this in one turn is in a loop.
const OUTPUTS_PER_TURN: usize = 100_000;

/// The owner of one end of a wire.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A connection of a machine's engine.
    Engine(usize, ConnId),
    /// A client of the test, by its number.
    Client(usize),
}

/// The key of a wire; a key whose wire is gone names none.
pub(super) type WireId = Key;

#[derive(Debug)]
pub(super) enum Event {
    /// The first packet of a dial arrives.
    Syn(WireId),
    /// The side that dialled learns that it is connected.
    Connected(WireId, Side),
    /// The side that dialled learns that it was refused.
    Refused(WireId),
    Bytes(WireId, Side, Vec<u8>),
    Fin(WireId, Side),
    Reset(WireId, Side),
    /// `Side` may write again.
    Room(WireId, Side),
    /// A machine's timer fires; the time is the one that it was set for.
    Wake(usize, Time),
    /// A frozen machine goes on.
    Thaw(usize),
}

/// A machine: an address with an engine, and the kernel's side of its connections.
#[derive(Debug)]
pub struct Machine {
    /// The settings of the machine's engine.
    pub settings: EngineSettings,
    /// The engine; `None` while the machine is down.
    pub engine: Option<Engine>,
    /// The machine can dial others and cannot be dialled.
    pub behind_nat: bool,
    /// The machine does nothing until then.
    pub frozen_until: Time,
    /// The part of the network that the machine is in while there are two.
    pub part: u8,
    /// Events that wait until the machine is no longer frozen, in their order.
    postponed: VecDeque<Event>,
    pub(super) wake_at: Option<Time>,
    /// The wire of each connection, by the connection's bits.
    pub(super) wires: BTreeMap<u64, (WireId, Side)>,
    /// The wire of each pair of addresses in use; the machine's own address comes first.
    pub(super) pairs: BTreeMap<(SocketAddr, SocketAddr), (WireId, Side)>,
    pub(super) next_port: u16,
    /// The number of bytes that the engine was given.
    pub bytes_read: u64,
}

/// A client: a connection that the test holds.
#[derive(Debug, Default)]
pub struct Client {
    pub(super) wire: Option<(WireId, Side)>,
    /// Bytes that wait for room to be sent.
    pub to_say: Vec<u8>,
    /// Every byte that the client has read.
    pub received: Vec<u8>,
    /// The connection was accepted.
    pub is_connected: bool,
    /// The machine refused, reset or ended the connection.
    pub is_over: bool,
    /// The client reads nothing.
    pub is_deaf: bool,
}

/// All machines and all wires.
#[derive(Debug)]
pub struct Swarm<D: SimDialect> {
    /// The machines, by number.
    pub machines: Vec<Machine>,
    /// The clients, by number; none is ever taken out.
    pub clients: Vec<Client>,
    /// What goes wrong.
    pub weather: Weather,
    /// The source of every choice that the world makes.
    pub random: fastrand::Rng,
    /// Whether every engine is checked after every turn. Turn it off in large swarms: a check costs as much as the
    /// engine is large.
    pub is_checked: bool,
    /// A fault of the test's own making.
    pub(super) canary: Canary<D::Canary>,
    pub(super) settings: EngineSettings,
    pub(super) seed: u64,
    pub(super) now: Time,
    pub(super) schedule: Schedule<Event>,
    pub(super) wires: Arena<Wire<Owner>>,
    /// The network is in two parts until then.
    pub(super) parted_until: Time,
    trace: Trace,
    dialect: PhantomData<D>,
}

impl<D: SimDialect> Swarm<D> {
    /// A swarm without machines. All its machines will have these settings, unless [`Swarm::add_machine_with`] gives
    /// them others; `seed` decides everything that is random.
    pub fn new(settings: EngineSettings, weather: Weather, seed: u64) -> Swarm<D> {
        Swarm {
            machines: Vec::new(),
            clients: Vec::new(),
            weather,
            random: fastrand::Rng::with_seed(seed),
            is_checked: true,
            canary: Canary::None,
            settings,
            seed,
            now: Time::ZERO,
            schedule: Schedule::default(),
            wires: Arena::default(),
            parted_until: Time::ZERO,
            trace: Trace::default(),
            dialect: PhantomData,
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// A hash of everything that has happened so far.
    pub fn trace(&self) -> u64 {
        self.trace.value()
    }

    /// The number of connections in the world, half-open ones and those being dialled included.
    pub fn wires(&self) -> usize {
        self.wires.len()
    }

    // ---- machines ----

    /// Adds a machine and starts it; returns its number.
    pub fn add_machine(&mut self) -> usize {
        self.add_machine_with(self.settings)
    }

    /// Adds a machine with settings of its own and starts it; returns its number.
    pub fn add_machine_with(&mut self, settings: EngineSettings) -> usize {
        let behind_nat = self.random.f64() < self.weather.behind_nat;
        self.machines.push(Machine {
            settings,
            engine: None,
            behind_nat,
            frozen_until: Time::ZERO,
            part: 0,
            postponed: VecDeque::new(),
            wake_at: None,
            wires: BTreeMap::new(),
            pairs: BTreeMap::new(),
            next_port: FIRST_EPHEMERAL,
            bytes_read: 0,
        });
        self.start(self.machines.len() - 1);
        self.machines.len() - 1
    }

    /// Starts a machine that is down, with a new engine that knows nothing.
    pub fn start(&mut self, number: usize) {
        let mut engine = Engine::new(self.machines[number].settings, self.random.u64(..));
        D::start(&mut engine, address_of(number), self.random.u64(..), self.now);
        self.machines[number].engine = Some(engine);
        self.machines[number].bytes_read = 0;
        self.turn(number);
    }

    /// Tells a machine to bootstrap from another.
    pub fn join(&mut self, number: usize, known: usize) {
        let now = self.now;
        if let Some(engine) = &mut self.machines[number].engine {
            D::join(engine, address_of(known), now);
            self.turn(number);
        }
    }

    /// Stops a machine at once. With `tell` its connections are reset; without, the other ends learn nothing.
    pub fn kill(&mut self, number: usize, tell: bool) {
        self.machines[number].engine = None;
        self.machines[number].wake_at = None;
        self.machines[number].pairs.clear();
        for (_, (wire, side)) in std::mem::take(&mut self.machines[number].wires) {
            if let Some(wire) = self.wires.get_mut(wire) {
                wire.ends[side].owner = None;
            }
            if tell {
                self.send_reset(wire, side);
            }
        }
    }

    /// Freezes a machine until `until`, as if its process had been stopped: what happens to it meanwhile happens then.
    pub fn freeze(&mut self, number: usize, until: Time) {
        self.machines[number].frozen_until = until;
    }

    /// Divides the network into two parts until `until`. Each machine, with its clients, falls into one of them at
    /// random.
    pub fn part(&mut self, until: Time) {
        self.parted_until = until;
        for machine in &mut self.machines {
            machine.part = self.random.u8(..2);
        }
    }

    /// The number of a machine's connections to other machines, those being dialled included.
    pub fn connections_to_machines(&self, number: usize) -> usize {
        let wires = self.machines[number].wires.values().filter_map(|(wire, _)| self.wires.get(*wire));
        wires.filter(|wire| wire.addrs.iter().all(|addr| host_of(*addr).is_some())).count()
    }

    // ---- clients ----

    /// Connects a new client, from an address of its own, to the machine `to`; returns the client's number.
    pub fn connect(&mut self, to: usize) -> usize {
        let client = self.clients.len();
        let from = SocketAddr::new([8, 8, (client >> 8) as u8, client as u8].into(), 40_000);
        let wire = Wire::dialled(Owner::Client(client), from, address_of(to), self.weather.window);
        let id = self.wires.insert(wire);
        self.clients.push(Client { wire: Some((id, 0)), ..Client::default() });
        let arrives = self.now.after(self.delay(id));
        self.schedule.add(arrives, Event::Syn(id));
        client
    }

    /// Lets a client send bytes, as soon as it is connected and there is room.
    pub fn say(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].to_say.extend_from_slice(bytes);
        self.flush_client(client);
    }

    /// Whether an engine holds the other end of this client's connection, and so owes the client an answer.
    pub fn is_served(&self, client: usize) -> bool {
        let wire = self.clients[client].wire.and_then(|(wire, side)| Some((self.wires.get(wire)?, side)));
        wire.is_some_and(|(wire, side)| wire.ends[1 - side].owner.is_some())
    }

    /// The state of a client's wire, for the message of a failed run.
    pub fn describe(&self, client: usize) -> String {
        let wire = self.clients[client].wire.and_then(|(wire, _)| self.wires.get(wire));
        wire.map_or(String::from("no wire"), |wire| {
            let ends =
                wire.ends.each_ref().map(|end| (end.owner, end.arrived.len(), end.under_way, end.fin, end.is_full));
            format!("{:?} window {} ends {ends:?}", wire.phase, wire.window)
        })
    }

    /// Lets a client send its FIN: it will say no more.
    pub fn finish(&mut self, client: usize) {
        if let Some((wire, side)) = self.clients[client].wire {
            self.send_fin(wire, side);
        }
    }

    /// Resets the connection of a client that goes away without a word.
    pub fn abort(&mut self, client: usize) {
        if let Some((wire, side)) = self.clients[client].wire.take() {
            self.send_reset(wire, side);
        }
    }

    // ---- time ----

    /// Lets everything happen that is due by `until`.
    pub fn run_until(&mut self, until: Time) {
        while self.step(until) {}
    }

    /// Lets the next event happen if it is due by `until`. Returns whether there was one; if not, it is `until` now.
    pub fn step(&mut self, until: Time) -> bool {
        let Some((at, event)) = self.schedule.next(until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = at;
        match self.machine_of(&event) {
            // An event at the very moment of thawing waits for those that came before it.
            Some(number) if self.is_frozen(number) || !self.machines[number].postponed.is_empty() => {
                let machine = &mut self.machines[number];
                if machine.postponed.is_empty() {
                    self.schedule.add(machine.frozen_until, Event::Thaw(number));
                }
                machine.postponed.push_back(event);
            }
            _ => self.happen(event),
        }
        true
    }

    fn happen(&mut self, event: Event) {
        self.note(&event);
        match event {
            Event::Syn(wire) => self.on_syn(wire),
            Event::Connected(wire, side) => self.on_connected(wire, side),
            Event::Refused(wire) => self.on_refused(wire),
            Event::Bytes(wire, side, bytes) => self.on_bytes(wire, side, &bytes),
            Event::Fin(wire, side) => {
                if let Some(wire) = self.wires.get_mut(wire) {
                    wire.ends[side].fin = true;
                }
                self.read(wire, side);
            }
            Event::Reset(wire, side) => self.on_reset(wire, side),
            Event::Room(wire, side) => self.on_room(wire, side),
            Event::Wake(number, due) => self.wake(number, due),
            Event::Thaw(number) if self.is_frozen(number) => {
                self.schedule.add(self.machines[number].frozen_until, Event::Thaw(number));
            }
            Event::Thaw(number) => {
                for event in std::mem::take(&mut self.machines[number].postponed) {
                    self.happen(event);
                }
            }
        }
    }

    fn is_frozen(&self, number: usize) -> bool {
        self.machines[number].frozen_until > self.now
    }

    /// The machine that this event concerns.
    fn machine_of(&self, event: &Event) -> Option<usize> {
        match *event {
            Event::Wake(number, _) => Some(number),
            Event::Thaw(_) => None,
            Event::Syn(wire) => {
                let to = self.wires.get(wire).and_then(|wire| number_of(wire.addrs[1]));
                to.filter(|number| *number < self.machines.len())
            }
            Event::Refused(wire) => self.holder(wire, 0),
            Event::Connected(wire, side)
            | Event::Bytes(wire, side, _)
            | Event::Fin(wire, side)
            | Event::Reset(wire, side)
            | Event::Room(wire, side) => self.holder(wire, side),
        }
    }

    fn holder(&self, wire: WireId, side: Side) -> Option<usize> {
        match self.wires.get(wire)?.ends[side].owner? {
            Owner::Engine(number, _) => Some(number),
            Owner::Client(_) => None,
        }
    }

    fn note(&mut self, event: &Event) {
        let words = match event {
            Event::Syn(wire) => [1, wire.to_bits(), 0],
            Event::Connected(wire, side) => [2, wire.to_bits(), *side as u64],
            Event::Refused(wire) => [3, wire.to_bits(), 0],
            Event::Bytes(wire, _, bytes) => [4, wire.to_bits(), bytes.len() as u64],
            Event::Fin(wire, side) => [5, wire.to_bits(), *side as u64],
            Event::Reset(wire, side) => [6, wire.to_bits(), *side as u64],
            Event::Room(wire, side) => [7, wire.to_bits(), *side as u64],
            Event::Wake(number, due) => [8, *number as u64, due.as_ms()],
            Event::Thaw(number) => [9, *number as u64, 0],
        };
        self.trace.note(&[self.now.as_ms()]);
        self.trace.note(&words);
    }

    // ---- what happens to machines ----

    fn wake(&mut self, number: usize, due: Time) {
        let machine = &mut self.machines[number];
        if machine.wake_at != Some(due) {
            return;
        }
        machine.wake_at = None;
        let now = self.now;
        if let Some(engine) = &mut machine.engine {
            if engine.next_deadline().is_some_and(|due| due <= now) {
                if self.canary != Canary::Spins {
                    engine.on_timeout(now);
                }
                assert!(engine.next_deadline().is_none_or(|due| due > now), "no busy loop");
            }
            self.turn(number);
        }
    }

    /// Does what an engine wants done, as the poll loop does at the end of a turn, and sets the machine's timer.
    pub(super) fn turn(&mut self, number: usize) {
        let now = self.now;
        for count in 0.. {
            assert!(count < OUTPUTS_PER_TURN, "machine {number} never comes to rest");
            let Some(engine) = &mut self.machines[number].engine else {
                return;
            };
            if let Some(output) = engine.poll_output(now) {
                self.perform(number, output);
            } else if engine.has_work() {
                engine.work(now);
            } else if let Some(conn) = engine.next_dirty() {
                self.write(number, conn);
            } else {
                break;
            }
        }
        let Some(engine) = &mut self.machines[number].engine else {
            return;
        };
        engine.sweep();
        let due = engine.next_deadline().map(|due| due.max(now.after(1)));
        let machine = &mut self.machines[number];
        if due.is_some_and(|due| machine.wake_at.is_none_or(|at| due < at)) {
            machine.wake_at = due;
            due.into_iter().for_each(|due| self.schedule.add(due, Event::Wake(number, due)));
        }
        if self.is_checked {
            self.check(number);
        }
    }

    fn perform(&mut self, number: usize, output: Output) {
        match output {
            Output::Dial { conn, from, to } => self.dial(number, conn, from.is_some(), to),
            Output::Resume(conn) => self.read_conn(number, conn),
            Output::ShutdownWrite(conn) => {
                if let Some((wire, side)) = self.wire_of(number, conn) {
                    self.send_fin(wire, side);
                }
            }
            Output::Close(conn) => self.close(number, conn),
        }
    }

    /// Panics unless the engine is whole and within its bounds.
    fn check(&self, number: usize) {
        let machine = &self.machines[number];
        let Some(engine) = &machine.engine else {
            return;
        };
        engine.check_invariants();
        let surplus = if self.canary == Canary::Overfills { BUFFERED_BYTES + 1 } else { 0 };
        let bytes = engine.buffered_bytes() + surplus;
        let is_within = bytes <= BUFFERED_BYTES && engine.connections() <= machine.settings.max_connections;
        assert!(is_within, "machine {number} stays within its bounds");
        let read = engine.guard().get(Counter::BytesRead);
        assert_eq!(read, machine.bytes_read, "all that was sent is accounted for");
        D::check(engine, &machine.settings, self.canary);
    }
}
