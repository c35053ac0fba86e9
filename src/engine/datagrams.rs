//! The part of the engine that speaks datagrams: hyperdht's service, whose faults it counts. Opens no socket and reads
//! no message; the driver sends what [`Engine::next_datagram`] returns.

use std::net::SocketAddr;

use crate::dialect::hyperdht::breach::Breach;
use crate::dialect::hyperdht::identity::Identity;
use crate::dialect::hyperdht::node::Node;
use crate::dialect::hyperdht::operation::{Event, Operation};
use crate::dialect::hyperdht::serve::Handler;
use crate::dialect::hyperdht::service::Kind;
use crate::dialect::hyperdht::settings::Settings;
use crate::engine::guard::Counter;
use crate::engine::{CallId, Engine};
use crate::time::Time;

impl Engine {
    /// Adds a hyperdht node; returns the number of its listener. `secrets` make its tokens, `seed` its random choices.
    pub fn add_hyperdht(
        &mut self,
        identity: Identity,
        settings: Settings,
        secrets: [[u8; 32]; 2],
        seed: u64,
        now: Time,
    ) -> u16 {
        self.hyperdht.add(Node::new(identity, settings, secrets, seed, now))
    }

    /// Lets every hyperdht node of `addr`'s family bootstrap from the node there; logs a warning if there is none.
    pub fn add_hyperdht_bootstrap(&mut self, addr: SocketAddr, now: Time) {
        self.hyperdht.add_bootstrap(addr, now);
    }

    /// Lets the lookups of a hyperdht node start at `addr`, without bootstrapping from it.
    pub fn add_hyperdht_seed(&mut self, listener: u16, addr: SocketAddr) {
        self.hyperdht.add_seed(listener, addr);
    }

    /// Answers a user's command at a listener by `handler`; see [`Node::handle`].
    pub fn handle(&mut self, listener: u16, name: &str, handler: Handler) {
        self.hyperdht.handle(listener, name, handler);
    }

    /// The hyperdht nodes, by the numbers of their listeners.
    pub fn hyperdht_nodes(&self) -> impl Iterator<Item = &Node> {
        self.hyperdht.nodes()
    }

    /// A datagram came from `from`.
    pub fn datagram(&mut self, listener: u16, from: SocketAddr, bytes: &[u8], now: Time) {
        self.guard.count(Counter::DatagramsRead);
        let received = self.hyperdht.on_datagram(listener, from, bytes, now);
        match received.kind {
            Some(Kind::Request) => self.guard.count(Counter::Requests),
            Some(Kind::Answer) => self.guard.count(Counter::Answers),
            None => {}
        }
        if let Some(breach) = received.breach {
            self.guard.fault(counter_of(breach), from, now);
        }
        self.count_unsent();
    }

    /// Has the hyperdht node behind a listener do something; [`Engine::next_hyperdht_event`] returns what comes of it.
    /// `None` if there is too much to do already, or no such listener.
    pub fn start(&mut self, listener: u16, operation: Operation, now: Time) -> Option<CallId> {
        self.next_call += 1;
        let is_started = self.hyperdht.start(listener, self.next_call, operation, now);
        self.count_unsent();
        is_started.then_some(self.next_call)
    }

    /// Ends an operation early and forgets it; no more events come of it.
    pub fn cancel(&mut self, call: CallId, now: Time) {
        self.hyperdht.cancel(call, now);
        self.count_unsent();
    }

    /// The next event of a hyperdht operation. The last one is [`Event::Done`], after which it is forgotten; an
    /// operation whose events are not pulled must be cancelled.
    pub fn next_hyperdht_event(&mut self, call: CallId) -> Option<Event> {
        self.hyperdht.next_event(call)
    }

    /// The next listener with datagrams to send; call until `None`. It is not named again until
    /// [`Engine::next_datagram`] has returned `None` or more has been queued: what its socket does not take is to be
    /// sent once the socket takes it.
    pub fn next_dirty_listener(&mut self) -> Option<u16> {
        self.hyperdht.next_dirty()
    }

    /// The next datagram to send at a listener, and its destination; [`Engine::datagram_sent`] removes it.
    pub fn next_datagram(&self, listener: u16) -> Option<(SocketAddr, &[u8])> {
        self.hyperdht.next_datagram(listener)
    }

    /// What [`Engine::next_datagram`] returned was sent, or could not be.
    pub fn datagram_sent(&mut self, listener: u16, failed: bool) {
        self.hyperdht.datagram_sent(listener);
        self.guard.count(if failed { Counter::DatagramsUnsent } else { Counter::DatagramsSent });
    }

    /// Wakes the hyperdht nodes that are due.
    pub(super) fn wake_listeners(&mut self, now: Time) {
        self.hyperdht.on_timeout(now);
        self.count_unsent();
    }

    fn count_unsent(&mut self) {
        self.guard.add(Counter::DatagramsUnsent, self.hyperdht.take_unsent());
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
    use crate::dialect::hyperdht::codec::{Body, Datagram, Request, Tid};
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
