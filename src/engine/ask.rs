//! What we ask: requests of nodes and of clients onto connections, dials and their races, and what becomes of a request
//! whose connection dies. Part of the engine; opens no socket, it only says where to dial from.

use std::net::SocketAddr;

use crate::arena::Key;
use crate::dialect::sealed::codec::Message;
use crate::dialect::sealed::is_genuine;
use crate::dialect::sealed::node::{Failure, Output as NodeOutput};
use crate::dialect::sealed::request::{Request, Via};
use crate::dialect::sealed::session::{PendingRequest, Wire};
use crate::engine::conn::{Conn, Origin, State};
use crate::engine::{CallId, ConnId, DialError, Engine, Output, Reply, Requester};
use crate::guard::Counter;
use crate::limits::{ERROR_TEXT, LONG_TIMEOUT_MS, NODE_CONNECTIONS, NODE_ENTRIES, REDIAL_MS};
use crate::time::Time;

impl Engine {
    /// Asks `to` on behalf of a client: over the connection that our node `from` shares with it, or without a node over
    /// a new one. Answered by [`Output::Replied`].
    pub fn call(&mut self, from: Option<usize>, to: SocketAddr, request: Request, now: Time) -> CallId {
        self.next_call += 1;
        let requester = Requester::Caller(self.next_call);
        let via = if from.is_some() { Via::Shared } else { Via::Ephemeral };
        self.send(PendingRequest { requester, request, at: now, on_reused: false }, from, to, via, now);
        self.next_call
    }

    /// Does what the nodes want done until they want nothing more.
    pub(super) fn pump(&mut self, now: Time) {
        for node in 0..self.nodes.len() {
            while let Some(output) = self.nodes[node].poll_output(&mut self.store, now) {
                match output {
                    NodeOutput::FirstCopy { ticket } => self.unblock(ticket, now),
                    NodeOutput::Done { ticket, outcome } => self.pay(ticket, &outcome, now),
                    NodeOutput::Send { request, to, message, via } => {
                        let requester = Requester::Node(node, request);
                        let asked = PendingRequest { requester, request: message, at: now, on_reused: false };
                        self.send(asked, Some(node), to, via, now);
                    }
                }
            }
        }
    }

    fn send(&mut self, asked: PendingRequest<Requester>, node: Option<usize>, to: SocketAddr, via: Via, now: Time) {
        let shared = match (via, node) {
            (Via::Shared, Some(node)) => self.pool.find(&self.conns, node, to).filter(|&id| self.is_usable(id, now)),
            (Via::Shared, None) | (Via::Ephemeral, _) => None,
        };
        match shared {
            Some(id) => self.send_on(id, asked, now),
            None => self.send_dialling(asked, node, to, via, now),
        }
    }

    /// Sends a request over a connection that is dialled now.
    fn send_dialling(
        &mut self,
        asked: PendingRequest<Requester>,
        node: Option<usize>,
        to: SocketAddr,
        via: Via,
        now: Time,
    ) {
        if !self.make_room(now) {
            return self.fail(asked.requester, Failure::Busy, now);
        }
        let id = self.dial(node, to, via, now);
        self.send_on(id, asked, now);
    }

    /// Whether a connection of the pool is alive, and not a stopgap that is due to be replaced.
    fn is_usable(&self, id: ConnId, now: Time) -> bool {
        self.conns.get(id).is_some_and(|conn| {
            let is_stopgap = conn.origin == Origin::Fallback && now.since(conn.since) >= REDIAL_MS;
            matches!(conn.state, State::Open | State::Dialling) && !conn.eof && !is_stopgap
        })
    }

    fn send_on(&mut self, id: ConnId, asked: PendingRequest<Requester>, now: Time) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.may_ask()) else {
            return self.fail(asked.requester, Failure::Busy, now);
        };
        let on_reused = conn.state == State::Open;
        let Conn { session, outbox, .. } = conn;
        outbox.requests(&mut self.buffers, now, |out| session.ask(PendingRequest { on_reused, ..asked }, out));
        conn.used_at = now;
        if conn.origin != Origin::Single && !conn.is_link {
            conn.is_link = true;
            self.pool.add_link(id);
        }
        self.settle(id, now);
    }

    fn dial(&mut self, node: Option<usize>, to: SocketAddr, via: Via, now: Time) -> ConnId {
        let (origin, from) = match via {
            Via::Shared => (Origin::Listening, node),
            Via::Ephemeral => (Origin::Single, None),
        };
        let id = self.conns.insert(Conn::new(to, node, origin, Wire::Sealed, now));
        if let (Via::Shared, Some(node)) = (via, node) {
            self.share(node, to, id, now);
        }
        self.outputs.push_back(Output::Dial { conn: id, from, to });
        id
    }

    /// Makes room for a connection that we dial: the least recently used one to a node goes where those are too many; where
    /// connections are, a silent client goes, or else that one.
    fn make_room(&mut self, now: Time) -> bool {
        if self.pool.links().len() >= NODE_CONNECTIONS && !self.close_oldest_link(now) {
            return false;
        }
        let has_room = self.open_connections() < self.settings.max_connections;
        has_room || self.evict_oldest_silent(now) || self.close_oldest_link(now)
    }

    /// Closes the connection to a node that was idle longest, if there are more than the places kept for them; whether it
    /// did.
    pub(super) fn close_spare_link(&mut self, now: Time) -> bool {
        self.links() > self.places_for_links() && self.close_oldest_link(now)
    }

    /// Closes the connection to a node that was idle longest; whether there was one.
    fn close_oldest_link(&mut self, now: Time) -> bool {
        let idle = |id: &&Key| self.conns.get(**id).is_some_and(|conn| conn.is_idle() && conn.inbox.is_empty());
        let oldest = self.pool.links().iter().filter(idle).min_by_key(|id| self.conns.get(**id).map(|c| c.used_at));
        let oldest = oldest.copied();
        oldest.into_iter().for_each(|id| self.close(id, now));
        oldest.is_some()
    }

    /// The dial of `id` succeeded.
    pub fn dialled(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.state == State::Dialling) {
            conn.state = State::Open;
            self.guard.count(Counter::Dialled);
            self.settle(id, now);
        }
    }

    /// The dial of `id` failed.
    pub fn dial_failed(&mut self, id: ConnId, why: DialError, now: Time) {
        let Some(conn) = self.conns.get(id).filter(|conn| conn.state == State::Dialling) else {
            return;
        };
        let peer = conn.peer;
        let failure = match why {
            DialError::AddressTaken if conn.origin == Origin::Listening => return self.yield_to_peer(id, now),
            // From an ephemeral port it means that there are none left.
            DialError::AddressTaken | DialError::Shortage => Failure::Busy,
            DialError::ToItself | DialError::Unreachable => Failure::Contact,
        };
        if why == DialError::ToItself {
            self.guard.fault(Counter::SelfConnections, peer, now);
        } else {
            self.guard.count(Counter::DialsFailed);
        }
        self.fail_pending(id, failure, now);
        self.close(id, now);
    }

    /// The pair of addresses is in use. Where the peer's own connection has arrived, that one serves us both; it may
    /// also be about to (sealed.md, "Who is who").
    fn yield_to_peer(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.origin = Origin::Yielding;
        conn.since = now;
        let (node, peer) = (conn.node(), conn.peer);
        let theirs = node.and_then(|node| self.pool.find(&self.conns, node, peer)).filter(|&theirs| theirs != id);
        match theirs {
            Some(theirs) => self.supersede(id, theirs, now),
            None => self.settle(id, now),
        }
    }

    /// The peer's own connection did not come: an ephemeral port serves for a while.
    pub(super) fn fall_back(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.origin = Origin::Fallback;
            conn.since = now;
            self.outputs.push_back(Output::Dial { conn: id, from: None, to: conn.peer });
            self.settle(id, now);
        }
    }

    /// `id` is from now on the connection that our node shares with `peer`.
    pub(super) fn share(&mut self, node: usize, peer: SocketAddr, id: ConnId, now: Time) {
        let older = self.pool.find(&self.conns, node, peer);
        self.pool.set(&self.conns, node, peer, id);
        older.into_iter().for_each(|older| self.supersede(older, id, now));
    }

    /// `newer` leads to the same peer as `older`: it takes over from one that yields, and a stopgap ends once what was
    /// asked on it is answered.
    fn supersede(&mut self, older: ConnId, newer: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(older) else {
            return;
        };
        match conn.origin {
            Origin::Yielding => {
                let asked = conn.session.take_pending();
                self.guard.count(Counter::SimultaneousOpens);
                self.close(older, now);
                for asked in asked {
                    self.send_on(newer, asked, now);
                }
            }
            Origin::Fallback => {
                conn.is_superseded = true;
                self.settle(older, now);
            }
            Origin::Inbound | Origin::Listening | Origin::Single => {}
        }
    }

    /// No answer will come on this connection any more. What was asked on it when it was in use already, so that its
    /// death says nothing about the contact, is asked once more on a fresh one; all else has failed.
    pub(super) fn drop_pending(&mut self, id: ConnId, now: Time) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let (node, peer) = (conn.node(), conn.peer);
        for asked in conn.session.take_pending() {
            if asked.on_reused && node.is_some() && now.since(asked.at) < LONG_TIMEOUT_MS {
                self.guard.count(Counter::RequestsResent);
                self.send_fresh(asked, node, peer, now);
            } else {
                self.fail(asked.requester, Failure::Contact, now);
            }
        }
    }

    /// Sends a request over a connection that is dialled now, if one to `peer` is not being dialled already.
    fn send_fresh(&mut self, asked: PendingRequest<Requester>, node: Option<usize>, peer: SocketAddr, now: Time) {
        let dialling = |id: &ConnId| self.conns.get(*id).is_some_and(|conn| conn.state == State::Dialling);
        let id = node.and_then(|node| self.pool.find(&self.conns, node, peer)).filter(dialling);
        match id {
            Some(id) => self.send_on(id, asked, now),
            None => self.send_dialling(asked, node, peer, Via::Shared, now),
        }
    }

    /// Fails all that was asked on this connection.
    pub(super) fn fail_pending(&mut self, id: ConnId, why: Failure, now: Time) {
        let asked = self.conns.get_mut(id).map(|conn| conn.session.take_pending());
        for asked in asked.into_iter().flatten() {
            self.fail(asked.requester, why, now);
        }
    }

    fn fail(&mut self, requester: Requester, why: Failure, now: Time) {
        self.guard.count(Counter::RequestsFailed);
        match requester {
            Requester::Node(node, request) => self.nodes[node].on_failure(request, why, now),
            Requester::Caller(call) => self.outputs.push_back(Output::Replied(call, Reply::Unreachable)),
        }
    }
}

/// What a client gets to see of an answer.
pub(super) fn reply(answer: &Message<'_>) -> Reply {
    match answer {
        Message::Pong { .. } => Reply::Pong,
        Message::Node(nodes) => {
            let honest = nodes.iter().take(NODE_ENTRIES).filter(is_genuine);
            Reply::Nodes(honest.collect())
        }
        Message::Value { value } | Message::ValueWithChecksum { value, .. } | Message::Success { value, .. } => {
            Reply::Success((*value).into())
        }
        Message::Failure { .. } => Reply::Missing,
        Message::Error { code, text } => {
            Reply::Error(*code, String::from_utf8_lossy(&text[..text.len().min(ERROR_TEXT)]).into_owned())
        }
        Message::Put { .. }
        | Message::Get { .. }
        | Message::Ping { .. }
        | Message::FindNode { .. }
        | Message::FindValue { .. } => Reply::Unreachable,
    }
}
