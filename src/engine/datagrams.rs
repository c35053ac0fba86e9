//! The doors that speak datagrams: their nodes, and what they have to send. Part of the engine: decodes, hands to the node,
//! encodes, counts. Opens no socket; the driver sends what [`Engine::next_datagram`] shows.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::dialect::hyperdht::codec::{Body, Datagram, Fault};
use crate::dialect::hyperdht::errand::Errand;
use crate::dialect::hyperdht::node::{Breach, Identity, Node, Output as NodeOutput, PARAMETERS};
use crate::engine::guard::Counter;
use crate::engine::{CallId, Engine, Output};
use crate::kad::Parameters;
use crate::limits::DATAGRAM_OUTBOX_BYTES;
use crate::time::Time;

/// A node and what it has to send.
#[derive(Debug)]
pub(super) struct DatagramDoor {
    pub node: Node,
    outbox: Outbox,
}

/// Datagrams that wait to be sent, one after the other in one buffer.
#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Where the first one begins.
    start: usize,
    /// Whom each is for, and its length.
    waiting: VecDeque<(SocketAddr, usize)>,
}

impl Outbox {
    /// Appends a datagram; whether there was room.
    fn push(&mut self, to: SocketAddr, datagram: &Datagram) -> bool {
        if self.bytes.len() >= DATAGRAM_OUTBOX_BYTES {
            return false;
        }
        let before = self.bytes.len();
        datagram.encode(&mut self.bytes);
        self.waiting.push_back((to, self.bytes.len() - before));
        true
    }

    fn first(&self) -> Option<(SocketAddr, &[u8])> {
        let (to, len) = *self.waiting.front()?;
        Some((to, &self.bytes[self.start..self.start + len]))
    }

    fn drop_first(&mut self) {
        if let Some((_, len)) = self.waiting.pop_front() {
            self.start += len;
        }
        if self.waiting.is_empty() {
            // A burst's memory is not kept.
            self.bytes.clear();
            self.bytes.shrink_to(DATAGRAM_OUTBOX_BYTES / 64);
            self.start = 0;
        }
    }
}

impl Engine {
    /// Adds a hyperdht node; returns the number of its door. `secrets` make its tokens, `seed` its random choices.
    pub fn add_hyperdht(&mut self, identity: Identity, secrets: [[u8; 32]; 2], seed: u64, now: Time) -> usize {
        let counts_networks = self.settings.node.kademlia.counts_networks;
        let node = Node::new(identity, Parameters { counts_networks, ..PARAMETERS }, secrets, seed, now);
        self.datagram_doors.push(DatagramDoor { node, outbox: Outbox::default() });
        self.datagram_doors.len() - 1
    }

    /// Lets every hyperdht node of `addr`'s family bootstrap from whoever listens there.
    pub fn add_hyperdht_bootstrap(&mut self, addr: SocketAddr, now: Time) {
        for door in &mut self.datagram_doors {
            if door.node.overlay().own().addr.is_ipv4() == addr.is_ipv4() {
                door.node.add_bootstrap(addr, now);
            }
        }
    }

    /// Lets a hyperdht node's lookups begin at `addr`, without bootstrapping from it.
    pub fn add_hyperdht_seed(&mut self, door: usize, addr: SocketAddr) {
        if let Some(door) = self.datagram_doors.get_mut(door) {
            door.node.add_seed(addr);
        }
    }

    /// The hyperdht nodes, by the number of their doors.
    pub fn hyperdht_nodes(&self) -> impl Iterator<Item = &Node> {
        self.datagram_doors.iter().map(|door| &door.node)
    }

    /// A datagram came from `from`.
    pub fn datagram(&mut self, door: usize, from: SocketAddr, bytes: &[u8], now: Time) {
        self.guard.count(Counter::DatagramsRead);
        let Some(DatagramDoor { node, .. }) = self.datagram_doors.get_mut(door) else {
            return;
        };
        let breach = match Datagram::decode(bytes) {
            Ok(datagram) => {
                self.guard.count(match datagram.body {
                    Body::Request(_) => Counter::Requests,
                    Body::Response(_) => Counter::Answers,
                });
                node.on_datagram(from, &datagram, now).map(counter_of)
            }
            Err(Fault::Size) => Some(Counter::BadSizes),
            Err(Fault::Malformed) => Some(Counter::Malformed),
        };
        if let Some(counter) = breach {
            self.guard.fault(counter, from, now);
        }
        self.pump_door(door, now);
    }

    /// Has the hyperdht node behind a door do something; its [`Output::News`] come with the number returned. `None` if it has too
    /// much to do already, or there is no such door.
    pub fn start(&mut self, door: usize, errand: Errand, now: Time) -> Option<CallId> {
        self.next_call += 1;
        let started = self.datagram_doors.get_mut(door)?.node.start(self.next_call, errand, now);
        self.pump_door(door, now);
        started.then_some(self.next_call)
    }

    /// Ends an errand early; nothing more comes of it.
    pub fn cancel(&mut self, door: usize, call: CallId, now: Time) {
        if let Some(door) = self.datagram_doors.get_mut(door) {
            door.node.cancel(call, now);
        }
    }

    /// The next datagram to be sent at a door, and where to; [`Engine::datagram_sent`] takes it away.
    pub fn next_datagram(&self, door: usize) -> Option<(SocketAddr, &[u8])> {
        self.datagram_doors.get(door)?.outbox.first()
    }

    /// What [`Engine::next_datagram`] showed was sent, or could not be.
    pub fn datagram_sent(&mut self, door: usize, failed: bool) {
        if let Some(door) = self.datagram_doors.get_mut(door) {
            door.outbox.drop_first();
            self.guard.count(if failed { Counter::DatagramsUnsent } else { Counter::DatagramsSent });
        }
    }

    /// Does what all nodes behind datagram doors want done.
    pub(super) fn pump_doors(&mut self, now: Time) {
        (0..self.datagram_doors.len()).for_each(|door| self.pump_door(door, now));
    }

    fn pump_door(&mut self, door: usize, now: Time) {
        let Some(DatagramDoor { node, outbox }) = self.datagram_doors.get_mut(door) else {
            return;
        };
        while let Some(output) = node.poll_output(now) {
            match output {
                NodeOutput::Send { to, datagram } => {
                    if !outbox.push(to, &datagram) {
                        self.guard.count(Counter::DatagramsUnsent);
                    }
                }
                NodeOutput::News { ticket, news } => self.outputs.push_back(Output::News(ticket, news)),
            }
        }
    }

    pub(super) fn doors_deadline(&self) -> Option<Time> {
        self.datagram_doors.iter().map(|door| door.node.next_deadline()).min()
    }

    pub(super) fn doors_timeout(&mut self, now: Time) {
        for door in &mut self.datagram_doors {
            if door.node.next_deadline() <= now {
                door.node.on_timeout(now);
            }
        }
    }
}

fn counter_of(breach: Breach) -> Counter {
    match breach {
        Breach::UnaskedAnswer => Counter::UnaskedAnswers,
        Breach::WrongSource => Counter::WrongSources,
        Breach::LongList => Counter::LongLists,
        Breach::Malformed => Counter::Malformed,
        Breach::BadToken => Counter::BadTokens,
        Breach::TooManyForwards => Counter::ForwardsRefused,
        Breach::RecordsFull => Counter::RecordsFull,
    }
}
