//! Connections that we use: sending messages on them, dials and their races, and room for new ones. Part of the engine;
//! knows nothing about the messages, and opens no socket: it only says from where to dial.

use std::net::SocketAddr;

use crate::dialect::stream::{Action, Close, CloseReason, Failure, Listener, Origin, State, To, Via};
use crate::engine::conn::Conn;
use crate::engine::dialects::StreamDialect;
use crate::engine::{ConnId, DialError, Engine, Output};
use crate::guard::Counter;
use crate::limits::{DIAL_LEAST_MS, DIALS, NODE_CONNECTIONS, REDIAL_MS};
use crate::time::Time;

impl Engine {
    /// Performs the actions of the service of dialect `D` until there are none.
    pub(super) fn pump<D: StreamDialect>(&mut self, now: Time) {
        // Handles each changed connection once, however many messages go out on it, so that they leave in one write.
        let mut changed: Vec<ConnId> = Vec::new();
        while self.take_touched::<D>() {
            while let Some(action) = D::service_mut(&mut self.services).poll(&mut self.shared, now) {
                match action {
                    Action::Send { to, message } => {
                        let id = self.send::<D>(to, message, now);
                        changed.extend(id.filter(|id| changed.last() != Some(id)));
                    }
                    Action::Close(id) => self.end(id, Close::Flushed, CloseReason::Closed, now),
                }
            }
            changed.drain(..).for_each(|id| self.after_change(id, now));
        }
    }

    /// Sends a message on an existing connection, or on one that it dials. Returns the connection, for the caller to
    /// pass to [`Engine::after_change`].
    pub(super) fn send<D: StreamDialect>(&mut self, to: To, message: D::Outgoing, now: Time) -> Option<ConnId> {
        let (id, why) = match to {
            To::Conn(id) => (Some(id), Failure::Contact),
            To::Peer { listener, addr, via } => (self.reach::<D>(listener, addr, via, now), Failure::Busy),
        };
        self.touch::<D>();
        let Engine { conns, services, shared, pool, .. } = self;
        let conn = id.and_then(|id| conns.get_mut(id)).filter(|conn| conn.info.state != State::Closed);
        let service = D::service_mut(services);
        let (Some(conn), Some(id)) = (conn, id) else {
            service.on_unsent(message, why, shared, now);
            return None;
        };
        let (session, mut cx, _) = conn.show(id, shared);
        match D::session(session) {
            Some(session) => service.send(message, session, &mut cx, now),
            None => service.on_unsent(message, Failure::Contact, shared, now),
        }
        conn.used_at = now;
        if !conn.is_link && conn.info.origin != Origin::Single && conn.session.awaits() {
            conn.is_link = true;
            pool.add_link(id);
        }
        Some(id)
    }

    /// The connection for a message to `addr`, which is dialled if necessary; `None` if there is no room for one.
    fn reach<D: StreamDialect>(
        &mut self,
        listener: Option<u16>,
        addr: SocketAddr,
        via: Via,
        now: Time,
    ) -> Option<ConnId> {
        let listener = listener.map(D::listener);
        let known = listener.and_then(|listener| self.pool.find(&self.conns, listener, addr));
        let usable = known.filter(|id| match via {
            Via::Shared => self.is_usable(*id, now),
            Via::Fresh => self.conns.get(*id).is_some_and(|conn| conn.info.state == State::Dialling),
            Via::Single => false,
        });
        if usable.is_some() || !self.make_room_for_dial(now) || !self.make_room(now) {
            return usable;
        }
        let origin = match via {
            Via::Single => Origin::Single,
            Via::Shared | Via::Fresh if D::KNOWN_BY_ADDRESS && listener.is_some() => Origin::Listening,
            Via::Shared | Via::Fresh => Origin::Ephemeral,
        };
        let session = D::wrap(D::service_mut(&mut self.services).dialled());
        let id = self.conns.insert(Conn::new(addr, listener, origin, session, now));
        self.dials.push_back(id);
        if let Some(listener) = listener.filter(|_| via != Via::Single) {
            self.share(listener, addr, id, now);
        }
        let from = listener.filter(|_| origin == Origin::Listening);
        self.outputs.push_back(Output::Dial { conn: id, from, to: addr });
        Some(id)
    }

    /// Whether a connection of the pool can carry our requests. One from an ephemeral port that is due to be replaced
    /// can't.
    fn is_usable(&self, id: ConnId, now: Time) -> bool {
        self.conns.get(id).is_some_and(|conn| {
            let is_stopgap = conn.info.origin == Origin::Fallback && now.since(conn.since) >= REDIAL_MS;
            conn.info.may_ask() && !is_stopgap
        })
    }

    /// Makes room among the dials that are under way: if there are too many, the oldest gives way, unless it is so young
    /// that its peer may just be far away. So dials that lead nowhere, which others may name to us, keep no place from
    /// those that are answered, nor from connections that stand. Returns whether there is room.
    fn make_room_for_dial(&mut self, now: Time) -> bool {
        while let Some(oldest) = self.dials.front().copied() {
            let dialling = self.conns.get(oldest).filter(|conn| conn.info.state == State::Dialling);
            let Some(since) = dialling.map(|conn| conn.since) else {
                self.dials.pop_front();
                continue;
            };
            if self.dials.len() < DIALS {
                return true;
            }
            if now.since(since) < DIAL_LEAST_MS {
                // Those behind it that have ended make room too, but are rarely many.
                for id in std::mem::take(&mut self.dials) {
                    if self.conns.get(id).is_some_and(|conn| conn.info.state == State::Dialling) {
                        self.dials.push_back(id);
                    }
                }
                return self.dials.len() < DIALS;
            }
            self.close(oldest, CloseReason::Shortage, now);
        }
        true
    }

    /// Makes room for a connection that we dial. If there are too many connections to nodes, closes the least recently
    /// used one. If there are too many connections in total, closes a client, or else the least recently used one to a
    /// node. Returns whether there is room.
    fn make_room(&mut self, now: Time) -> bool {
        if self.pool.links().len() >= NODE_CONNECTIONS && !self.close_oldest_link(now) {
            return false;
        }
        let has_room = self.open_connections() < self.settings.max_connections;
        has_room || self.evict(None, now) || self.close_oldest_link(now)
    }

    /// Closes the connection to a node that has been idle longest, if there are more than are reserved for them.
    /// Returns whether it did.
    pub(super) fn close_spare_link(&mut self, now: Time) -> bool {
        self.links() > self.places_for_links() && self.close_oldest_link(now)
    }

    /// Closes the connection to a node that has been idle longest. Returns whether there was one.
    fn close_oldest_link(&mut self, now: Time) -> bool {
        let idle = |id: &&ConnId| self.conns.get(**id).is_some_and(|conn| conn.is_idle() && !conn.has_begun());
        let oldest = self.pool.links().iter().filter(idle).min_by_key(|id| self.conns.get(**id).map(|c| c.used_at));
        let oldest = oldest.copied();
        oldest.into_iter().for_each(|id| self.close(id, CloseReason::Shortage, now));
        oldest.is_some()
    }

    /// The dial of `id` succeeded.
    pub fn dialled(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.info.state == State::Dialling) {
            conn.info.state = State::Open;
            self.shared.guard.count(Counter::Dialled);
            self.open(id, now);
            self.after_change(id, now);
        }
    }

    /// The dial of `id` failed.
    pub fn dial_failed(&mut self, id: ConnId, why: DialError, now: Time) {
        let Some(conn) = self.conns.get(id).filter(|conn| conn.info.state == State::Dialling) else {
            return;
        };
        let peer = conn.info.peer;
        let failure = match why {
            DialError::AddressTaken if conn.info.origin == Origin::Listening => return self.yield_to_peer(id, now),
            // For an ephemeral port, this means that none are left.
            DialError::AddressTaken | DialError::Shortage => CloseReason::Shortage,
            DialError::ToItself | DialError::Unreachable => CloseReason::Failed,
        };
        if why == DialError::ToItself {
            self.shared.guard.fault(Counter::SelfConnections, peer, now);
        } else {
            self.shared.guard.count(Counter::DialsFailed);
        }
        self.close(id, failure, now);
    }

    /// The address pair of a dial is in use. If the peer's own connection has arrived, it serves us both; or it may
    /// arrive soon (docs/protocol-sealed.md, "Who is who").
    fn yield_to_peer(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.info.origin = Origin::Yielding;
        conn.since = now;
        let (listener, peer) = (conn.info.listener, conn.info.peer);
        let shared = listener.and_then(|listener| self.pool.find(&self.conns, listener, peer));
        match shared.filter(|theirs| *theirs != id) {
            Some(_) => self.supersede(id, now),
            None => self.after_change(id, now),
        }
    }

    /// The peer's own connection did not come, so we dial from an ephemeral port for a while.
    pub(super) fn fall_back(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.info.origin = Origin::Fallback;
            conn.since = now;
            self.outputs.push_back(Output::Dial { conn: id, from: None, to: conn.info.peer });
            self.after_change(id, now);
        }
    }

    /// Makes `id` the connection that our listener shares with `peer`.
    pub(super) fn share(&mut self, listener: Listener, peer: SocketAddr, id: ConnId, now: Time) {
        let older = self.pool.find(&self.conns, listener, peer);
        self.pool.set(&self.conns, listener, peer, id);
        older.into_iter().for_each(|older| self.supersede(older, now));
    }

    /// A newer connection leads to the same peer as `older`. It replaces `older` at once if that waits for the peer's
    /// own connection, or once its requests are answered if that was dialled from an ephemeral port.
    fn supersede(&mut self, older: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(older) else {
            return;
        };
        match conn.info.origin {
            Origin::Yielding => {
                self.shared.guard.count(Counter::SimultaneousOpens);
                self.close(older, CloseReason::Superseded, now);
            }
            Origin::Fallback => {
                conn.is_superseded = true;
                self.after_change(older, now);
            }
            Origin::Inbound | Origin::Listening | Origin::Ephemeral | Origin::Single => {}
        }
    }
}
