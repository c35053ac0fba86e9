//! The part of the engine that handles datagrams: the driver's calls to hyperdht's service. Opens no socket and reads
//! no message; the driver sends what [`Engine::next_datagram`] returns. A build without datagrams uses
//! `no_datagrams.rs` instead.

use std::net::SocketAddr;

use crate::dialect::Shared;
pub(super) use crate::dialect::hyperdht::service::Service;
use crate::engine::Engine;
use crate::engine::dialects::InEngine;
use crate::time::Time;

impl InEngine for Service {
    fn of(engine: &Engine) -> &Service {
        &engine.datagrams
    }

    fn of_mut(engine: &mut Engine) -> (&mut Service, &mut Shared) {
        (&mut engine.datagrams, &mut engine.shared)
    }
}

impl Engine {
    /// Listener `listener` received a datagram from `from`.
    pub fn datagram(&mut self, listener: u16, from: SocketAddr, bytes: &[u8], now: Time) {
        self.datagrams.on_datagram(listener, from, bytes, &mut self.shared, now);
    }

    /// The next listener with datagrams to send; call it until it returns `None`. A listener is not returned again
    /// until [`Engine::next_datagram`] has returned `None` or more has been queued. What its socket does not take must
    /// be sent once it does.
    pub fn next_dirty_listener(&mut self) -> Option<u16> {
        self.datagrams.next_dirty()
    }

    /// The next datagram to send at a listener, and its destination. [`Engine::datagram_sent`] removes it.
    pub fn next_datagram(&self, listener: u16) -> Option<(SocketAddr, &[u8])> {
        self.datagrams.next_datagram(listener)
    }

    /// The datagram that [`Engine::next_datagram`] returned was sent, or sending it `failed`.
    pub fn datagram_sent(&mut self, listener: u16, failed: bool) {
        self.datagrams.datagram_sent(listener, failed, &mut self.shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::hyperdht::codec::{Body, Datagram, Request, Response, Tid};
    use crate::dialect::hyperdht::identity::Identity;
    use crate::dialect::hyperdht::node::Node;
    use crate::dialect::hyperdht::settings::Settings;
    use crate::engine::EngineSettings;
    use crate::id::Id;
    use crate::limits::NETWORK_PER_TABLE;

    fn engine(counts_networks: bool, sealed_counts_networks: bool) -> Engine {
        let mut settings = EngineSettings::default();
        settings.dialects.sealed.node.kademlia.counts_networks = sealed_counts_networks;
        let mut engine = Engine::new(settings, 1);
        let identity = Identity { id: Id([0x55; 32]), addr: ([30, 0, 0, 1], 9).into(), is_ephemeral: false };
        let node = Node::new(identity, Settings { counts_networks }, [[1; 32], [2; 32]], 1, Time::ZERO);
        engine.service_mut::<Service>().add(node);
        engine
    }

    fn ping_from(id: Id) -> Vec<u8> {
        let request = Request { command: Some("_ping".into()), id: Some(id.0.to_vec()), ..Request::default() };
        let mut bytes = Vec::new();
        Datagram { tid: Tid::new(1), body: Body::Request(request) }.encode(&mut bytes);
        bytes
    }

    /// Answers the pings that the node sends, as the node `id`.
    fn answer_pings(engine: &mut Engine, id: Id) {
        while let Some((to, bytes)) = engine.next_datagram(0) {
            let Ok(Datagram { tid, body }) = Datagram::decode(bytes) else { panic!() };
            engine.datagram_sent(0, false);
            if let Body::Request(_) = body {
                let body = Body::Response(Response { id: Some(id.0.to_vec()), ..Response::default() });
                let mut bytes = Vec::new();
                Datagram { tid, body }.encode(&mut bytes);
                engine.datagram(0, to, &bytes, Time::ZERO);
            }
        }
    }

    /// Regression: a hyperdht node took the setting of the sealed nodes.
    #[test]
    fn a_hyperdht_node_counts_networks_by_its_own_settings() {
        let contacts = |counts, sealed_counts| {
            let mut engine = engine(counts, sealed_counts);
            for n in 1..=2 * NETWORK_PER_TABLE as u8 {
                engine.datagram(0, ([9, 9, 9, n], 5).into(), &ping_from(Id::of(&[n])), Time::ZERO);
                answer_pings(&mut engine, Id::of(&[n]));
            }
            engine.service::<Service>().nodes().map(|node| node.overlay().table().len()).sum::<usize>()
        };
        assert!(contacts(true, false) <= NETWORK_PER_TABLE);
        assert_eq!(contacts(false, true), 2 * NETWORK_PER_TABLE);
    }
}
