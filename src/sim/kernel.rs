//! TCP as the kernels of the swarm's machines do it: handshakes, simultaneous opens, windows, FIN and RST. Follows what
//! Linux does, and decides nothing that a program decides.

use std::net::SocketAddr;

use crate::engine::{ConnId, DialError};
use crate::limits::TURN_BYTES;
use crate::sim::address::{address_of, host_of, number_of};
use crate::sim::dialect::{Canary, SimDialect};
use crate::sim::swarm::{Event, Owner, Swarm, WireId};
use crate::sim::wire::{Phase, Side, Wire};

/// The delay after which a lost packet is sent again.
const RESEND_MS: u64 = 1_000;
/// The largest number of small packets that one write becomes; the rest leaves as one, or tiny packets would take all
/// of the simulator's time.
const PACKETS_PER_WRITE: usize = 12;

impl<D: SimDialect> Swarm<D> {
    pub(super) fn dial(&mut self, number: usize, conn: ConnId, listening: bool, to: SocketAddr) {
        let now = self.now();
        let machine = &mut self.machines[number];
        let mut from = address_of(number);
        if !listening {
            from.set_port(machine.next_port);
            machine.next_port = machine.next_port.checked_add(1).unwrap_or(40_000);
        }
        let why = if machine.pairs.contains_key(&(from, to)) {
            Some(DialError::AddressTaken)
        } else if from == to {
            Some(DialError::ToItself)
        } else {
            None
        };
        if let Some(why) = why {
            if let Some(engine) = &mut machine.engine {
                engine.dial_failed(conn, why, now);
            }
            return;
        }
        let id = self.wires.insert(Wire::dialled(Owner::Engine(number, conn), from, to, self.weather.window));
        machine.pairs.insert((from, to), (id, 0));
        machine.wires.insert(conn.to_bits(), (id, 0));
        let lost = self.random.f64() < self.weather.lost_connects;
        let delay = self.delay(id) + if lost { RESEND_MS } else { 0 };
        self.schedule.add(now.after(delay), Event::Syn(id));
    }

    pub(super) fn on_syn(&mut self, id: WireId) {
        let Some([from, to]) = self.wires.get(id).map(|wire| wire.addrs) else {
            return;
        };
        // A machine's own clients are on its side of the NAT.
        let crosses = host_of(from).is_some();
        let is_reachable = |number: &usize| self.machines.get(*number).is_some_and(|m| !(m.behind_nat && crosses));
        let target = number_of(to).filter(is_reachable);
        // There is no such machine, or a NAT is in the way: silence.
        let Some(number) = target else {
            return;
        };
        let answers = self.now().after(self.delay(id));
        if self.machines[number].engine.is_none() {
            if self.random.bool() {
                self.schedule.add(answers, Event::Refused(id));
            }
            return;
        }
        if let Some(&(theirs, side)) = self.machines[number].pairs.get(&(to, from)) {
            if self.wires.get(theirs).is_some_and(|wire| wire.phase == Phase::Dialling) && side == 0 {
                return self.open_simultaneously(id, theirs, number);
            }
            if self.wires.get(theirs).is_some_and(|wire| wire.ends[1 - side].owner.is_some()) {
                return self.schedule.add(answers, Event::Refused(id));
            }
            // The other end has forgotten that connection: the first packet of the new one ends it.
            self.on_reset(theirs, side);
        }
        let now = self.now();
        let Some(engine) = &mut self.machines[number].engine else {
            return;
        };
        match engine.accepted(D::LISTENER, from, now) {
            None => self.schedule.add(answers, Event::Refused(id)),
            Some(conn) => {
                self.attach(id, 1, number, conn);
                self.schedule.add(answers, Event::Connected(id, 0));
            }
        }
        self.turn(number);
    }

    /// Joins two dials whose first packets crossed into one connection.
    fn open_simultaneously(&mut self, id: WireId, theirs: WireId, number: usize) {
        let owner = self.wires.remove(theirs).and_then(|wire| wire.ends[0].owner);
        if let Some(Owner::Engine(_, conn)) = owner {
            self.attach(id, 1, number, conn);
            let (now, delay) = (self.now(), self.delay(id));
            self.schedule.add(now, Event::Connected(id, 1));
            self.schedule.add(now.after(delay), Event::Connected(id, 0));
        }
    }

    /// Makes a connection of a machine's engine the owner of one side of a wire, which is open from now on.
    fn attach(&mut self, id: WireId, side: Side, number: usize, conn: ConnId) {
        let Some(wire) = self.wires.get_mut(id) else {
            return;
        };
        wire.phase = Phase::Open;
        wire.ends[side].owner = Some(Owner::Engine(number, conn));
        let pair = (wire.addrs[side], wire.addrs[1 - side]);
        self.machines[number].pairs.insert(pair, (id, side));
        self.machines[number].wires.insert(conn.to_bits(), (id, side));
    }

    pub(super) fn on_connected(&mut self, id: WireId, side: Side) {
        let now = self.now();
        match self.wires.get(id).and_then(|wire| wire.ends[side].owner) {
            Some(Owner::Engine(number, conn)) => {
                if let Some(engine) = &mut self.machines[number].engine {
                    engine.dialled(conn, now);
                }
                self.write(number, conn);
                self.read(id, side);
                self.turn(number);
            }
            Some(Owner::Client(client)) => {
                if let Some(wire) = self.wires.get_mut(id) {
                    wire.phase = Phase::Open;
                }
                self.clients[client].is_connected = true;
                self.flush_client(client);
            }
            None => {}
        }
    }

    /// Sends what a client wants to say, as far as there is room.
    pub(super) fn flush_client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some((id, side)) = client.wire.filter(|_| client.is_connected) else {
            return;
        };
        let Some(wire) = self.wires.get_mut(id) else {
            return;
        };
        let n = wire.room(side).min(client.to_say.len());
        let bytes: Vec<u8> = client.to_say.drain(..n).collect();
        wire.ends[side].is_full = !client.to_say.is_empty();
        self.send_bytes(id, side, &bytes);
    }

    pub(super) fn on_refused(&mut self, id: WireId) {
        let Some(wire) = self.wires.remove(id) else {
            return;
        };
        let now = self.now();
        match wire.ends[0].owner {
            Some(Owner::Engine(number, conn)) => {
                self.forget(number, conn, (wire.addrs[0], wire.addrs[1]));
                if let Some(engine) = &mut self.machines[number].engine {
                    engine.dial_failed(conn, DialError::Unreachable, now);
                }
                self.turn(number);
            }
            Some(Owner::Client(client)) => self.clients[client].is_over = true,
            None => {}
        }
    }

    fn forget(&mut self, number: usize, conn: ConnId, pair: (SocketAddr, SocketAddr)) {
        self.machines[number].wires.remove(&conn.to_bits());
        self.machines[number].pairs.remove(&pair);
    }

    pub(super) fn wire_of(&self, number: usize, conn: ConnId) -> Option<(WireId, Side)> {
        self.machines[number].wires.get(&conn.to_bits()).copied()
    }

    // ---- bytes ----

    /// Writes the outbox of a connection, as far as there is room.
    pub(super) fn write(&mut self, number: usize, conn: ConnId) {
        let Some((id, side)) = self.wire_of(number, conn) else {
            return;
        };
        loop {
            let now = self.now();
            let (Some(engine), Some(wire)) = (&mut self.machines[number].engine, self.wires.get_mut(id)) else {
                return;
            };
            let bytes = engine.to_write(conn);
            let n = bytes.len().min(wire.room(side));
            if n == 0 {
                wire.ends[side].is_full = !bytes.is_empty();
                if !bytes.is_empty() {
                    engine.wrote(conn, 0, now);
                }
                return;
            }
            let bytes = bytes[..n].to_vec();
            engine.wrote(conn, n, now);
            self.send_bytes(id, side, &bytes);
        }
    }

    pub(super) fn send_bytes(&mut self, id: WireId, side: Side, mut bytes: &[u8]) {
        for packet in 1.. {
            if bytes.is_empty() {
                return;
            }
            let most = if packet < PACKETS_PER_WRITE { bytes.len().min(self.weather.piece) } else { bytes.len() };
            let (head, tail) = bytes.split_at(self.random.usize(1..=most));
            bytes = tail;
            let at = self.now().after(self.delay(id));
            let Some(wire) = self.wires.get_mut(id) else {
                return;
            };
            let at = wire.arrival(side, at);
            wire.ends[1 - side].under_way += head.len();
            self.schedule.add(at, Event::Bytes(id, 1 - side, head.to_vec()));
        }
    }

    pub(super) fn on_bytes(&mut self, id: WireId, side: Side, bytes: &[u8]) {
        let Some(wire) = self.wires.get_mut(id) else {
            return;
        };
        let end = &mut wire.ends[side];
        end.under_way -= bytes.len();
        if end.owner.is_none() {
            // This end is closed, so the other end is reset if it still talks. A machine that is down resets nothing.
            let is_up = host_of(wire.addrs[side])
                .and_then(|number| self.machines.get(number))
                .is_none_or(|machine| machine.engine.is_some());
            if is_up {
                self.send_reset(id, side);
            }
            return;
        }
        end.arrived.extend(bytes);
        if self.weather.resets > 0.0 && self.random.f64() < self.weather.resets {
            self.send_reset(id, side);
            return self.on_reset(id, side);
        }
        self.read(id, side);
    }

    /// Lets the owner of an end read what has arrived there.
    pub(super) fn read(&mut self, id: WireId, side: Side) {
        match self.wires.get(id).and_then(|wire| wire.ends[side].owner) {
            Some(Owner::Engine(number, conn)) => {
                self.read_conn(number, conn);
                self.turn(number);
            }
            Some(Owner::Client(client)) => {
                let (client, Some(wire)) = (&mut self.clients[client], self.wires.get_mut(id)) else {
                    return;
                };
                if !client.is_deaf {
                    client.received.extend(wire.ends[side].arrived.drain(..));
                    client.is_over |= wire.ends[side].fin;
                    self.make_room(id, side);
                }
            }
            None => {}
        }
    }

    /// Reads a connection until no bytes are left, the engine wants no more, or the turn's budget is used up.
    pub(super) fn read_conn(&mut self, number: usize, conn: ConnId) {
        let Some((id, side)) = self.wire_of(number, conn) else {
            return;
        };
        let now = self.now();
        let mut budget = TURN_BYTES;
        let machine = &mut self.machines[number];
        loop {
            let (Some(engine), Some(wire)) = (&mut machine.engine, self.wires.get_mut(id)) else {
                return;
            };
            let end = &mut wire.ends[side];
            if end.arrived.is_empty() {
                if end.fin && !std::mem::replace(&mut end.fin_told, true) {
                    engine.eof(conn, now);
                }
                break;
            }
            if budget == 0 {
                // The poll loop would come back to it in its next turn.
                self.schedule.add(now, Event::Bytes(id, side, Vec::new()));
                break;
            }
            let Some(space) = engine.read_space(conn) else {
                break;
            };
            let n = space.len().min(end.arrived.len()).min(budget).min(self.weather.piece);
            for (to, from) in space.iter_mut().zip(end.arrived.drain(..n)) {
                *to = from;
            }
            budget -= n;
            machine.bytes_read += n as u64 + u64::from(self.canary == Canary::LosesBytes);
            engine.received(conn, n, now);
        }
        self.make_room(id, side);
    }

    /// Tells the other side that it may write again, if it waits for room and there is some.
    fn make_room(&mut self, id: WireId, side: Side) {
        let Some(wire) = self.wires.get_mut(id) else {
            return;
        };
        if wire.room(1 - side) > 0 && std::mem::take(&mut wire.ends[1 - side].is_full) {
            let at = self.now().after(self.delay(id));
            self.schedule.add(at, Event::Room(id, 1 - side));
        }
    }

    pub(super) fn on_room(&mut self, id: WireId, side: Side) {
        match self.wires.get(id).and_then(|wire| wire.ends[side].owner) {
            Some(Owner::Engine(number, conn)) => {
                self.write(number, conn);
                self.turn(number);
            }
            Some(Owner::Client(client)) => self.flush_client(client),
            None => {}
        }
    }

    // ---- ends ----

    pub(super) fn send_fin(&mut self, id: WireId, side: Side) {
        let at = self.now().after(self.delay(id));
        if let Some(wire) = self.wires.get_mut(id).filter(|wire| wire.phase == Phase::Open) {
            if !std::mem::replace(&mut wire.ends[side].fin_sent, true) {
                let at = wire.arrival(side, at);
                self.schedule.add(at, Event::Fin(id, 1 - side));
            }
        }
    }

    pub(super) fn send_reset(&mut self, id: WireId, side: Side) {
        let at = self.now().after(self.delay(id));
        if let Some(wire) = self.wires.get_mut(id) {
            let at = wire.arrival(side, at);
            self.schedule.add(at, Event::Reset(id, 1 - side));
        }
    }

    pub(super) fn on_reset(&mut self, id: WireId, side: Side) {
        let Some(wire) = self.wires.get_mut(id) else {
            return;
        };
        let pair = (wire.addrs[side], wire.addrs[1 - side]);
        let owner = wire.ends[side].owner.take();
        wire.ends[side].arrived.clear();
        let now = self.now();
        match owner {
            Some(Owner::Engine(number, conn)) => {
                self.forget(number, conn, pair);
                if let Some(engine) = &mut self.machines[number].engine {
                    engine.broken(conn, now);
                }
                self.turn(number);
            }
            Some(Owner::Client(client)) => self.clients[client].is_over = true,
            None => {}
        }
        self.drop_if_unowned(id);
    }

    /// Closes a connection for an engine. If bytes are unread the other end is reset, as in Linux.
    pub(super) fn close(&mut self, number: usize, conn: ConnId) {
        let Some((id, side)) = self.wire_of(number, conn) else {
            return;
        };
        let Some(wire) = self.wires.get_mut(id) else {
            return;
        };
        let pair = (wire.addrs[side], wire.addrs[1 - side]);
        wire.ends[side].owner = None;
        let (phase, unread) = (wire.phase, !wire.ends[side].arrived.is_empty());
        self.forget(number, conn, pair);
        match phase {
            Phase::Dialling => drop(self.wires.remove(id)),
            Phase::Open if unread => self.send_reset(id, side),
            Phase::Open => self.send_fin(id, side),
        }
        self.drop_if_unowned(id);
    }

    fn drop_if_unowned(&mut self, id: WireId) {
        if self.wires.get(id).is_some_and(|wire| wire.ends.iter().all(|end| end.owner.is_none())) {
            self.wires.remove(id);
        }
    }

    /// The milliseconds that a packet between the ends of a wire takes. A packet between the two parts of a divided
    /// network arrives once the network is whole again.
    pub(super) fn delay(&mut self, id: WireId) -> u64 {
        let Some([a, b]) = self.wires.get(id).map(|wire| wire.addrs.map(host_of)) else {
            return 1;
        };
        let part = |number: Option<usize>| number.and_then(|n| self.machines.get(n)).map(|machine| machine.part);
        let is_cut = self.now() < self.parted_until && part(a).zip(part(b)).is_some_and(|(a, b)| a != b);
        // A client is in the same part of the network as its machine, and next to it.
        let between = a.zip(b).map(|(from, to)| self.weather.delays.one_way_ms(self.seed, from, to));
        let mut delay = between.unwrap_or(0).max(1);
        if is_cut {
            delay += self.parted_until.since(self.now()) + self.random.u64(..RESEND_MS);
        }
        if self.weather.late_bytes > 0.0 && self.random.f64() < self.weather.late_bytes {
            delay += self.random.u64(..RESEND_MS);
        }
        delay
    }
}
