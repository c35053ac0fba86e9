//! What peers ask: frames from an inbox to the node, answers into the outbox, jobs owed and paid. Part of the engine;
//! decides nothing about what a request means.

use std::net::SocketAddr;

use crate::arena::Arena;
use crate::dialect::sealed::codec::{ErrorCode, HEADER, Message, TRAILER, decode_body, kind_of};
use crate::dialect::sealed::job::{Outcome, Put, Ticket};
use crate::dialect::sealed::node::{Answer, Failure, Node};
use crate::dialect::sealed::session::{Parsed, Place, Session, Wire};
use crate::dialect::sealed::store::Store;
use crate::engine::buffer::{BufferPool, Outbox};
use crate::engine::conn::{Conn, Origin};
use crate::engine::guard::{Counter, Guard, counter_of};
use crate::engine::{ConnId, Engine, Output, Requester, Waiter};
use crate::id::Id;
use crate::limits::{CANDIDATE_MS, NODE_ENTRIES_STRIKE, TURN_MESSAGES};
use crate::time::Time;

impl Engine {
    /// Handles the messages in an inbox, at most a turn's worth. The caller settles the connection afterwards.
    pub(super) fn handle_inbox(&mut self, id: ConnId, now: Time) {
        for handled in 0.. {
            let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.may_handle() && !conn.is_ready) else {
                break;
            };
            if handled == TURN_MESSAGES {
                if conn.has_frame() {
                    conn.is_ready = true;
                    self.ready.push_back(id);
                    self.guard.count(Counter::TurnsUsedUp);
                }
                break;
            }
            if !self.handle_frame(id, now) {
                break;
            }
            if let Some(conn) = self.conns.get_mut(id) {
                conn.frame_since = None;
            }
        }
        if let Some(conn) = self.conns.get_mut(id) {
            // A frame that began to come while others were handled has its time counted from now.
            let is_partial = !conn.inbox.is_empty() && !conn.has_frame();
            conn.frame_since = if is_partial { conn.frame_since.or(Some(now)) } else { None };
        }
    }

    /// Handles the first frame of an inbox; whether there was one.
    fn handle_frame(&mut self, id: ConnId, now: Time) -> bool {
        let Engine { conns, nodes, store, guard, buffers, waiters, outputs, wheel, .. } = self;
        let Some(conn) = conns.get_mut(id) else {
            return false;
        };
        let (peer, node, is_held_back) = (conn.peer, conn.node(), conn.is_held_back());
        if !conn.session.saw_frame() && conn.has_frame() {
            // What it had to say in time is here: most connections need no timer from now on.
            conn.timer.take().and_then(|timer| wheel.cancel(timer));
        }
        let Conn { session, inbox, outbox, .. } = conn;
        match session.read(inbox.unread()) {
            Parsed::Incomplete => return false,
            Parsed::Request { len, message } => {
                guard.count(Counter::Requests);
                let asking = Asking { conn: id, node, peer, place: None, since: now };
                let mut desk = Desk { nodes, store, guard, waiters, buffers };
                if desk.is_from_ourselves(asking, &message, now) {
                    self.close(id, now);
                    return false;
                }
                let is_due = conn.candidate_at.is_none_or(|at| now.since(at) >= CANDIDATE_MS);
                if is_due && conn.origin == Origin::Inbound && desk.note_candidate(asking, &message, now) {
                    conn.candidate_at = Some(now);
                }
                if is_held_back || session.must_wait(&message) {
                    session.wait(&message, &inbox.unread()[..len], now);
                } else {
                    desk.serve(asking, session, outbox, &message, now);
                }
                guard.add(Counter::BytesHandled, inbox.consume(len));
                conn.used_at = now;
            }
            Parsed::Answer { len, asked, message } => {
                guard.count(Counter::Answers);
                let is_long =
                    matches!(&message, Message::Node(nodes) if nodes.iter().nth(NODE_ENTRIES_STRIKE).is_some());
                match asked.requester {
                    Requester::Node(node, request) => nodes[node].on_answer(request, &message, now),
                    Requester::Caller(call) => outputs.push_back(Output::Replied(call, super::ask::reply(&message))),
                }
                guard.add(Counter::BytesHandled, inbox.consume(len));
                conn.used_at = now;
                if conn.origin == Origin::Single {
                    self.close(id, now);
                } else if is_long {
                    guard.fault(Counter::LongLists, peer, now);
                    self.strike(id, now);
                }
            }
            Parsed::Dropped { len, breach } => {
                guard.fault(counter_of(breach), peer, now);
                guard.add(Counter::BytesRefused, inbox.consume(len));
            }
            Parsed::Violation { len, breach, code } => {
                guard.fault(counter_of(breach), peer, now);
                guard.add(Counter::BytesRefused, inbox.consume(len));
                outbox.answers(buffers, now, |out| session.answer(&code.message(), out));
                self.strike(id, now);
            }
            Parsed::Fatal { breach, code } => {
                guard.fault(counter_of(breach), peer, now);
                if let Some(code) = code {
                    outbox.answers(buffers, now, |out| session.answer(&code.message(), out));
                }
                self.end_conversation(id, code.is_some(), now);
            }
        }
        true
    }

    /// Counts a strike; the third closes the connection once its answers are sent, and counts against the address.
    fn strike(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get_mut(id) {
            if conn.session.strike(now) {
                let peer = conn.peer;
                self.guard.fault(Counter::StruckOut, peer, now);
                self.guard.offence(peer.ip(), now);
                self.close_after_flush(id, now);
            }
        }
    }

    /// Ends a connection whose framing or order is lost. What was outstanding has failed and is not sent again.
    fn end_conversation(&mut self, id: ConnId, flush: bool, now: Time) {
        self.fail_pending(id, Failure::Contact, now);
        if flush {
            self.close_after_flush(id, now);
        } else {
            self.close(id, now);
        }
    }

    /// A job has ended: its answer takes its place, and requests that waited for it may start.
    pub(super) fn pay(&mut self, ticket: Ticket, outcome: &Outcome, now: Time) {
        let Some(Waiter { conn: id, place, key }) = self.waiters.remove(ticket.waiter) else {
            return;
        };
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let session = &mut conn.session;
        let answer = match (outcome, session.wire()) {
            (Outcome::Stored | Outcome::Unreachable, Wire::Api) => None,
            (Outcome::Busy, Wire::Sealed) => Some(ErrorCode::Busy.message()),
            (Outcome::Busy, Wire::Api) => Some(Message::Failure { key }),
            (Outcome::Stored, Wire::Sealed) => Some(Message::Success { key, value: &[] }),
            (Outcome::Unreachable, Wire::Sealed) => Some(ErrorCode::Unreachable.message()),
            (Outcome::Found(value), _) => Some(Message::Success { key, value }),
            (Outcome::Missing, _) => Some(Message::Failure { key }),
        };
        session.settle(place, answer.as_ref());
        conn.used_at = now;
        self.settle(id, now);
    }

    /// The value of a PUT that is not done yet can be found: requests that waited for it may start.
    pub(super) fn unblock(&mut self, ticket: Ticket, now: Time) {
        let Some(&Waiter { conn: id, place, .. }) = self.waiters.get(ticket.waiter) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(id) {
            conn.session.unblock(place);
            self.settle(id, now);
        }
    }

    /// Starts the requests that waited and need not any more, as long as the peer reads its answers.
    pub(super) fn start_waiting(&mut self, id: ConnId, now: Time) {
        let Engine { conns, nodes, store, guard, buffers, waiters, .. } = self;
        let Some(conn) = conns.get_mut(id) else {
            return;
        };
        while !conn.is_held_back() {
            let Some(held) = conn.session.next_startable() else {
                return;
            };
            let place = Some(held.place);
            let asking = Asking { conn: id, node: conn.node(), peer: conn.peer, place, since: held.since };
            if let Some(message) = message_in(&held.frame, conn.session.wire()) {
                let mut desk = Desk { nodes, store, guard, waiters, buffers };
                desk.serve(asking, &mut conn.session, &mut conn.outbox, &message, now);
            }
            conn.release_answers(buffers, now);
        }
    }
}

/// Who asks, and where the answer goes.
#[derive(Copy, Clone)]
struct Asking {
    conn: ConnId,
    node: Option<usize>,
    peer: SocketAddr,
    /// The place it was given when it had to wait; `None` for a request that just came.
    place: Option<Place>,
    /// When the request came.
    since: Time,
}

/// What it takes to serve a request, apart from its connection.
struct Desk<'a> {
    nodes: &'a mut [Node],
    store: &'a mut Store,
    guard: &'a mut Guard,
    waiters: &'a mut Arena<Waiter>,
    buffers: &'a mut BufferPool,
}

impl Desk<'_> {
    /// Whether the request is a PING of our own that came back: the connection leads to ourselves.
    fn is_from_ourselves(&mut self, asking: Asking, message: &Message<'_>, now: Time) -> bool {
        let (Message::Ping { nonce }, Some(node)) = (message, asking.node) else {
            return false;
        };
        let is_own = self.nodes[node].is_own_ping(*nonce);
        if is_own {
            self.guard.fault(Counter::SelfConnections, asking.peer, now);
        }
        is_own
    }

    /// Has the node look at the source of a request that only nodes send; whether this was one.
    fn note_candidate(&mut self, asking: Asking, message: &Message<'_>, now: Time) -> bool {
        let (Message::FindNode { .. } | Message::FindValue { .. }, Some(node)) = (message, asking.node) else {
            return false;
        };
        self.nodes[node].on_candidate(asking.peer, now);
        true
    }

    /// Answers a request, or owes the answer.
    fn serve(
        &mut self,
        asking: Asking,
        session: &mut Session<Requester>,
        outbox: &mut Outbox,
        message: &Message<'_>,
        now: Time,
    ) {
        let Some(number) = asking.node else {
            // A client has nothing to offer.
            let answer = ErrorCode::Busy.message();
            return outbox.answers(self.buffers, now, |out| put_in_place(session, asking.place, Some(&answer), out));
        };
        let node = &mut self.nodes[number];
        let ticket = Ticket { waiter: self.waiters.vacant_key(), since: asking.since };
        let answer = match (session.wire(), message) {
            (Wire::Api, Message::Put { ttl_s, replication, key, value }) => {
                // The API's PUT always goes through the network, and is never answered.
                let (replication, source) = (usize::from(*replication), asking.peer.ip());
                let put = Put { key: *key, value, ttl_s: *ttl_s, replication, source };
                node.start_put(put, ticket, now).then_some(Answer::Later)
            }
            _ => Some(node.on_request(asking.peer, message, self.store, ticket, now)),
        };
        let key = key_of(message);
        let answer = match answer {
            Some(Answer::Later) => {
                let place = asking.place.unwrap_or_else(|| session.owe(message));
                self.waiters.insert(Waiter { conn: asking.conn, place, key });
                return;
            }
            Some(Answer::Now(answer)) => {
                count_refusal(self.guard, &answer, asking.peer, now);
                match (session.wire(), answer) {
                    (Wire::Api, Message::Error { .. }) => Some(Message::Failure { key }),
                    (_, answer) => Some(answer),
                }
            }
            None => {
                self.guard.fault(Counter::Busy, asking.peer, now);
                None
            }
        };
        outbox.answers(self.buffers, now, |out| put_in_place(session, asking.place, answer.as_ref(), out));
    }
}

/// Puts an answer, or silence, in its place.
fn put_in_place(
    session: &mut Session<Requester>,
    place: Option<Place>,
    answer: Option<&Message<'_>>,
    out: &mut Vec<u8>,
) {
    match (place, answer) {
        (Some(place), answer) => session.settle(place, answer),
        (None, Some(answer)) => session.answer(answer, out),
        (None, None) => {}
    }
}

/// The message in a frame that was judged good before it had to wait.
fn message_in(frame: &[u8], wire: Wire) -> Option<Message<'_>> {
    let trailer = match wire {
        Wire::Sealed => TRAILER,
        Wire::Api => 0,
    };
    decode_body(kind_of(frame), &frame[HEADER..frame.len() - trailer]).ok()
}

fn key_of(message: &Message<'_>) -> Id {
    match message {
        Message::Put { key, .. }
        | Message::Get { key }
        | Message::FindNode { key }
        | Message::FindValue { key }
        | Message::Success { key, .. }
        | Message::Failure { key } => *key,
        Message::Ping { .. }
        | Message::Pong { .. }
        | Message::Error { .. }
        | Message::Node(_)
        | Message::Value { .. }
        | Message::ValueWithChecksum { .. } => Id::default(),
    }
}

fn count_refusal(guard: &mut Guard, answer: &Message<'_>, peer: SocketAddr, now: Time) {
    let Message::Error { code, .. } = answer else {
        return;
    };
    let counter = match ErrorCode::from_code(*code) {
        Some(ErrorCode::Full) => Counter::StoreFull,
        Some(ErrorCode::TooLarge) => Counter::ValuesTooLarge,
        Some(ErrorCode::Refused) => Counter::PutsRefused,
        Some(ErrorCode::Busy) => Counter::Busy,
        Some(ErrorCode::Checksum | ErrorCode::Malformed | ErrorCode::UnknownType | ErrorCode::Unreachable) | None => {
            return;
        }
    };
    guard.fault(counter, peer, now);
}
