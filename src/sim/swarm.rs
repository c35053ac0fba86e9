//! The byte level: whole engines with real frames over pretend TCP. Drives each engine as the poll loop does, and checks
//! after every step that it is whole. Never hands an engine anything that a socket could not.

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

/// The first port that dials from no listening port get.
const FIRST_EPHEMERAL: u16 = 32_768;
/// Outputs of one engine in one turn, past which it is in a loop.
const OUTPUTS_PER_TURN: usize = 100_000;

/// Who holds an end of a wire.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A connection of a host's engine.
    Engine(usize, ConnId),
    /// A client of the test, by its number.
    Client(usize),
}

/// Names a wire; outlives it safely.
pub(super) type WireId = Key;

#[derive(Debug)]
pub(super) enum Event {
    /// A dial's first packet arrives.
    Syn(WireId),
    /// The dialling side hears that it is connected.
    Connected(WireId, Side),
    /// ... or that it is not.
    Refused(WireId),
    Bytes(WireId, Side, Vec<u8>),
    Fin(WireId, Side),
    Reset(WireId, Side),
    /// There is room again for `Side` to write.
    Room(WireId, Side),
    /// A machine's timer, which was set for then.
    Wake(usize, Time),
    /// A machine goes on after it stood still.
    Thaw(usize),
}

/// A host and its engine.
#[derive(Debug)]
pub struct Machine {
    /// `None` while it is down.
    pub engine: Option<Engine>,
    /// It can dial out and cannot be dialled.
    pub behind_nat: bool,
    /// Until when it stands still.
    pub frozen_until: Time,
    /// In which part of a partitioned network it is.
    pub part: u8,
    /// What happened to it while it stood still, in that order.
    postponed: VecDeque<Event>,
    pub(super) wake_at: Option<Time>,
    /// By connection.
    pub(super) wires: BTreeMap<u64, (WireId, Side)>,
    /// Address pairs in use, own address first.
    pub(super) pairs: BTreeMap<(SocketAddr, SocketAddr), (WireId, Side)>,
    pub(super) next_port: u16,
    /// Bytes that its engine was given.
    pub bytes_read: u64,
}

/// What a client has seen.
#[derive(Debug, Default)]
pub struct Client {
    pub(super) wire: Option<(WireId, Side)>,
    /// Bytes that it will send as soon as there is room.
    pub to_say: Vec<u8>,
    /// Bytes that came, unless it does not read.
    pub received: Vec<u8>,
    /// It was connected.
    pub is_connected: bool,
    /// The other side is done with it.
    pub is_over: bool,
    /// It leaves what comes unread.
    pub is_deaf: bool,
}

/// All machines and all wires.
#[derive(Debug)]
pub struct Swarm<D: SimDialect> {
    /// By number.
    pub machines: Vec<Machine>,
    /// By number.
    pub clients: Vec<Client>,
    /// What goes wrong.
    pub weather: Weather,
    /// Every choice that is the world's own.
    pub random: fastrand::Rng,
    /// Whether every engine is checked after every turn; large swarms do without.
    pub is_checked: bool,
    /// A fault of the test's own making.
    pub(super) canary: Canary<D::Canary>,
    pub(super) settings: EngineSettings,
    pub(super) seed: u64,
    pub(super) now: Time,
    pub(super) schedule: Schedule<Event>,
    pub(super) wires: Arena<Wire<Owner>>,
    /// Until when the network is in parts.
    pub(super) parted_until: Time,
    trace: Trace,
    dialect: PhantomData<D>,
}

impl<D: SimDialect> Swarm<D> {
    /// A world with no machine in it yet.
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

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// A hash of everything that happened.
    pub fn trace(&self) -> u64 {
        self.trace.value()
    }

    /// Connections, half-open ones included.
    pub fn wires(&self) -> usize {
        self.wires.len()
    }

    // ---- machines ----

    /// Adds a machine and starts it; returns its number.
    pub fn add_machine(&mut self) -> usize {
        let behind_nat = self.random.f64() < self.weather.behind_nat;
        self.machines.push(Machine {
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

    /// Starts a machine that is down, with nothing in its memory.
    pub fn start(&mut self, number: usize) {
        let mut engine = Engine::new(self.settings, self.random.u64(..));
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

    /// Stops a machine at once. Its connections are reset, or nobody is told.
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

    /// A machine stands still until `until`: what happens to it meanwhile happens then.
    pub fn freeze(&mut self, number: usize, until: Time) {
        self.machines[number].frozen_until = until;
    }

    /// The network is in two parts until `until`.
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

    /// A client connects to a machine from an address of its own.
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

    /// A client sends bytes, as soon as it is connected and there is room.
    pub fn say(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].to_say.extend_from_slice(bytes);
        self.flush_client(client);
    }

    /// Whether some engine has a connection with this client, and so owes it what it asked.
    pub fn is_served(&self, client: usize) -> bool {
        let wire = self.clients[client].wire.and_then(|(wire, side)| Some((self.wires.get(wire)?, side)));
        wire.is_some_and(|(wire, side)| wire.ends[1 - side].owner.is_some())
    }

    /// The wire of a client, for who reads of a failure.
    pub fn describe(&self, client: usize) -> String {
        let wire = self.clients[client].wire.and_then(|(wire, _)| self.wires.get(wire));
        wire.map_or(String::from("no wire"), |wire| {
            let ends =
                wire.ends.each_ref().map(|end| (end.owner, end.arrived.len(), end.under_way, end.fin, end.is_full));
            format!("{:?} window {} ends {ends:?}", wire.phase, wire.window)
        })
    }

    /// A client sends its FIN.
    pub fn finish(&mut self, client: usize) {
        if let Some((wire, side)) = self.clients[client].wire {
            self.send_fin(wire, side);
        }
    }

    /// A client goes away without a word.
    pub fn abort(&mut self, client: usize) {
        if let Some((wire, side)) = self.clients[client].wire.take() {
            self.send_reset(wire, side);
        }
    }

    // ---- time ----

    /// Lets time pass until `until`.
    pub fn run_until(&mut self, until: Time) {
        while self.step(until) {}
    }

    /// Lets the next thing happen, if it is not after `until`; whether there was one.
    pub fn step(&mut self, until: Time) -> bool {
        let Some((at, event)) = self.schedule.next(until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = at;
        match self.machine_of(&event) {
            // Also what comes at the moment of thawing waits for what came before.
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

    /// The machine to which this happens.
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

    /// Does what an engine wants done, as the poll loop does at the end of a turn, and sees that it is woken in time.
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
        let is_within =
            engine.buffered_bytes() <= BUFFERED_BYTES && engine.connections() <= self.settings.max_connections;
        assert!(is_within, "machine {number} stays within its bounds");
        let read = engine.guard().get(Counter::BytesRead);
        assert_eq!(read, machine.bytes_read, "all that was sent is accounted for");
        D::check(engine, &self.settings, self.canary);
    }
}
