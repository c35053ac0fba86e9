//! The listeners that speak datagrams: their nodes, and what they have to send. Part of the engine: decodes, hands to the
//! node, encodes, counts. Opens no socket; the driver sends what [`Engine::next_datagram`] shows.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::dialect::hyperdht::breach::Breach;
use crate::dialect::hyperdht::codec::{Body, Datagram};
use crate::dialect::hyperdht::identity::Identity;
use crate::dialect::hyperdht::node::{Node, Output as NodeOutput};
use crate::dialect::hyperdht::operation::Operation;
use crate::dialect::hyperdht::outbox::Outbox;
use crate::dialect::hyperdht::serve::Handler;
use crate::dialect::hyperdht::settings::Settings;
use crate::engine::guard::Counter;
use crate::engine::{CallId, Engine, Output};
use crate::time::Time;

/// A node and what it has to send.
#[derive(Debug)]
struct Listener {
    node: Node,
    outbox: Outbox,
    /// When the node is to be woken. Kept here, as there may be many and each turn asks for the first.
    due: Time,
    /// It is among those with something to send.
    is_dirty: bool,
}

/// All such listeners.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    /// Listeners with something to send, which the driver has not been told of.
    dirty: VecDeque<usize>,
}

impl Listeners {
    pub fn deadline(&self) -> Option<Time> {
        self.listeners.iter().map(|listener| listener.due).min()
    }
}

impl Engine {
    /// Adds a hyperdht node; returns the number of its listener. `secrets` make its tokens, `seed` its random choices.
    pub fn add_hyperdht(
        &mut self,
        identity: Identity,
        settings: Settings,
        secrets: [[u8; 32]; 2],
        seed: u64,
        now: Time,
    ) -> usize {
        let node = Node::new(identity, settings, secrets, seed, now);
        let due = node.next_deadline();
        self.datagrams.listeners.push(Listener { node, outbox: Outbox::default(), due, is_dirty: false });
        self.datagrams.listeners.len() - 1
    }

    /// Lets every hyperdht node of `addr`'s family bootstrap from whoever listens there; a warning if there is none.
    pub fn add_hyperdht_bootstrap(&mut self, addr: SocketAddr, now: Time) {
        let mut of_family = 0;
        for listener in &mut self.datagrams.listeners {
            if listener.node.overlay().own().addr.is_ipv4() == addr.is_ipv4() {
                listener.node.add_bootstrap(addr, now);
                listener.due = listener.node.next_deadline();
                of_family += 1;
            }
        }
        if of_family == 0 {
            log::warn!("bootstrap_of_another_family address={addr}");
        }
    }

    /// Lets a hyperdht node's lookups begin at `addr`, without bootstrapping from it.
    pub fn add_hyperdht_seed(&mut self, listener: usize, addr: SocketAddr) {
        if let Some(listener) = self.datagrams.listeners.get_mut(listener) {
            listener.node.add_seed(addr);
        }
    }

    /// Answers requests with a user's command at a listener by `handler`; see [`Node::handle`].
    pub fn handle(&mut self, listener: usize, name: &str, handler: Handler) {
        if let Some(listener) = self.datagrams.listeners.get_mut(listener) {
            listener.node.handle(name, handler);
        }
    }

    /// The hyperdht nodes, by the number of their listeners.
    pub fn hyperdht_nodes(&self) -> impl Iterator<Item = &Node> {
        self.datagrams.listeners.iter().map(|listener| &listener.node)
    }

    /// A datagram came from `from`.
    pub fn datagram(&mut self, listener: usize, from: SocketAddr, bytes: &[u8], now: Time) {
        self.guard.count(Counter::DatagramsRead);
        let Some(Listener { node, .. }) = self.datagrams.listeners.get_mut(listener) else {
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
            Err(fault) => Some(counter_of(fault.into())),
        };
        if let Some(counter) = breach {
            self.guard.fault(counter, from, now);
        }
        self.settle_listener(listener, now);
    }

    /// Has the hyperdht node behind a listener do something; its [`Output::Event`] come with the number returned. `None` if
    /// it has too much to do already, or there is no such listener.
    pub fn start(&mut self, listener: usize, operation: Operation, now: Time) -> Option<CallId> {
        self.next_call += 1;
        let started = self.datagrams.listeners.get_mut(listener)?.node.start(self.next_call, operation, now);
        self.settle_listener(listener, now);
        started.then_some(self.next_call)
    }

    /// Ends an operation early; nothing more comes of it.
    pub fn cancel(&mut self, listener: usize, call: CallId, now: Time) {
        if let Some(Listener { node, .. }) = self.datagrams.listeners.get_mut(listener) {
            node.cancel(call, now);
            self.settle_listener(listener, now);
        }
    }

    /// The next listener with datagrams to be sent; call until `None`. It is not named again before
    /// [`Engine::next_datagram`] had nothing more, or it has more: what a socket does not take is to be sent as soon as
    /// it does.
    pub fn next_dirty_listener(&mut self) -> Option<usize> {
        let listener = self.datagrams.dirty.pop_front()?;
        self.datagrams.listeners[listener].is_dirty = false;
        Some(listener)
    }

    /// The next datagram to be sent at a listener, and where to; [`Engine::datagram_sent`] takes it away.
    pub fn next_datagram(&self, listener: usize) -> Option<(SocketAddr, &[u8])> {
        self.datagrams.listeners.get(listener)?.outbox.first()
    }

    /// What [`Engine::next_datagram`] showed was sent, or could not be.
    pub fn datagram_sent(&mut self, listener: usize, failed: bool) {
        if let Some(listener) = self.datagrams.listeners.get_mut(listener) {
            listener.outbox.drop_first();
            self.guard.count(if failed { Counter::DatagramsUnsent } else { Counter::DatagramsSent });
        }
    }

    /// Wakes the nodes behind listeners that are due.
    pub(super) fn wake_listeners(&mut self, now: Time) {
        for listener in 0..self.datagrams.listeners.len() {
            if self.datagrams.listeners[listener].due <= now {
                self.datagrams.listeners[listener].node.on_timeout(now);
                self.settle_listener(listener, now);
            }
        }
    }

    /// Does what a node wants done, and sees when it is to be woken.
    fn settle_listener(&mut self, number: usize, now: Time) {
        let Listeners { listeners, dirty } = &mut self.datagrams;
        let Some(Listener { node, outbox, due, is_dirty }) = listeners.get_mut(number) else {
            return;
        };
        while let Some(output) = node.poll_output(now) {
            match output {
                NodeOutput::Send { to, datagram } => {
                    if !outbox.push(to, &datagram) {
                        self.guard.count(Counter::DatagramsUnsent);
                    }
                }
                NodeOutput::Event { ticket, event } => self.outputs.push_back(Output::Event(ticket, event)),
            }
        }
        *due = node.next_deadline();
        if !outbox.is_empty() && !std::mem::replace(is_dirty, true) {
            dirty.push_back(number);
        }
    }
}

fn counter_of(breach: Breach) -> Counter {
    match breach {
        Breach::UnaskedAnswer => Counter::UnaskedAnswers,
        Breach::WrongSource => Counter::WrongSources,
        Breach::LongList => Counter::LongLists,
        Breach::Size => Counter::BadSizes,
        Breach::Malformed => Counter::Malformed,
        Breach::BadToken => Counter::BadTokens,
        Breach::TooManyForwards => Counter::ForwardsRefused,
        Breach::RecordsFull => Counter::RecordsFull,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::hyperdht::codec::{Request, Tid};
    use crate::engine::EngineSettings;
    use crate::id::Id;
    use crate::limits::NETWORK_PER_TABLE;

    fn engine(counts_networks: bool, sealed_counts_networks: bool) -> Engine {
        let mut settings = EngineSettings::default();
        settings.node.kademlia.counts_networks = sealed_counts_networks;
        let mut engine = Engine::new(settings, 1);
        let identity = Identity { id: Id([0x55; 32]), addr: ([30, 0, 0, 1], 9).into(), is_ephemeral: false };
        engine.add_hyperdht(identity, Settings { counts_networks }, [[1; 32], [2; 32]], 1, Time::ZERO);
        engine
    }

    fn ping_from(id: Id) -> Vec<u8> {
        let request = Request { command: Some("_ping".into()), id: Some(id.0.to_vec()), ..Request::default() };
        let mut bytes = Vec::new();
        Datagram { tid: Tid::new(1), body: Body::Request(request) }.encode(&mut bytes);
        bytes
    }

    /// Regression: a hyperdht node took the setting of the sealed nodes.
    #[test]
    fn a_hyperdht_node_counts_networks_by_its_own_settings() {
        let contacts = |counts, sealed_counts| {
            let mut engine = engine(counts, sealed_counts);
            for n in 1..=2 * NETWORK_PER_TABLE as u8 {
                engine.datagram(0, ([9, 9, 9, n], 5).into(), &ping_from(Id::of(&[n])), Time::ZERO);
            }
            engine.hyperdht_nodes().map(|node| node.overlay().table().len()).sum::<usize>()
        };
        assert!(contacts(true, false) <= NETWORK_PER_TABLE);
        assert_eq!(contacts(false, true), 2 * NETWORK_PER_TABLE);
    }
}
