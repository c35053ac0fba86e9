//! Requests of peers to the nodes of the sealed dialect, which are answered now, answered when a job ends, or deferred.
//! Part of the service; never decides what a request means.

use crate::dialect::sealed::codec::{ErrorCode, HEADER, Message, TRAILER, decode_body, kind_of};
use crate::dialect::sealed::job::{Outcome, Put, Ticket};
use crate::dialect::sealed::node::Answer;
use crate::dialect::sealed::service::{Requester, Service, Waiter, node_of};
use crate::dialect::sealed::session::{Place, Session, Wire};
use crate::dialect::stream::{Close, Context, Origin, Session as _, State, Verdict};
use crate::guard::Counter;
use crate::id::Id;
use crate::limits::{CANDIDATE_MS, OUTBOX_SOFT_BYTES};
use crate::time::Time;

impl Service {
    /// Handles a request: `message` is the content of the whole `frame`.
    pub(super) fn on_request(
        &mut self,
        session: &mut Session<Requester>,
        cx: &mut Context<'_>,
        frame: &[u8],
        message: &Message<'_>,
        now: Time,
    ) -> Verdict {
        cx.shared.guard.count(Counter::Requests);
        if self.is_from_ourselves(cx, message) {
            cx.shared.guard.fault(Counter::SelfConnections, cx.info.peer, now);
            return Verdict::Close(Close::Now);
        }
        self.note_candidate(session, cx, message, now);
        if cx.is_held_back() || session.must_wait(message) {
            session.defer(message, frame, now);
        } else {
            self.serve(session, cx, Incoming { place: None, since: now }, message, now);
        }
        Verdict::Handled(frame.len())
    }

    /// Whether the request is our own PING, so that the connection leads to ourselves.
    fn is_from_ourselves(&self, cx: &Context<'_>, message: &Message<'_>) -> bool {
        match (message, node_of(cx.info.listener)) {
            (Message::Ping { nonce }, Some(node)) => self.nodes[usize::from(node)].is_own_ping(*nonce),
            _ => false,
        }
    }

    /// Lets the node consider the peer as a candidate for its routing table, if the request is one that only nodes
    /// send.
    fn note_candidate(&mut self, session: &mut Session<Requester>, cx: &Context<'_>, message: &Message<'_>, now: Time) {
        let is_due = session.candidate_at.is_none_or(|at| now.since(at) >= CANDIDATE_MS);
        if !is_due || cx.info.origin != Origin::Inbound {
            return;
        }
        let (Message::FindNode { .. } | Message::FindValue { .. }, Some(node)) = (message, node_of(cx.info.listener))
        else {
            return;
        };
        session.candidate_at = Some(now);
        self.nodes[usize::from(node)].on_candidate(cx.info.peer, now);
        self.mark_changed(node);
    }

    /// Answers a request now, or owes the answer.
    fn serve(
        &mut self,
        session: &mut Session<Requester>,
        cx: &mut Context<'_>,
        incoming: Incoming,
        message: &Message<'_>,
        now: Time,
    ) {
        let peer = cx.info.peer;
        let Some(number) = node_of(cx.info.listener) else {
            // This process is a client: it has no node, so it serves nothing.
            let answer = ErrorCode::Busy.message();
            return cx.answer(now, |out| incoming.answer(session, Some(&answer), out));
        };
        // These requests change nothing in the node.
        if !matches!(message, Message::Ping { .. } | Message::FindNode { .. } | Message::FindValue { .. }) {
            self.mark_changed(number);
        }
        let node = &mut self.nodes[usize::from(number)];
        let ticket = Ticket { waiter: self.waiters.vacant_key(), since: incoming.since };
        let answer = match (session.wire(), message) {
            (Wire::Api, Message::Put { ttl_s, replication, key, value }) => {
                // A PUT of the API always goes through the network, and gets no answer.
                let (replication, source) = (usize::from(*replication), peer.ip());
                let put = Put { key: *key, value, ttl_s: *ttl_s, replication, source };
                node.start_put(put, ticket, now).then_some(Answer::Later)
            }
            _ => Some(node.on_request(peer, message, &mut self.store, ticket, now)),
        };
        let key = request_key(message);
        let answer = match answer {
            Some(Answer::Later) => {
                let place = incoming.place.unwrap_or_else(|| session.owe(message));
                self.waiters.insert(Waiter::Peer { conn: cx.id, place, key });
                return;
            }
            Some(Answer::Now(answer)) => {
                if let Some(counter) = refusal(&answer) {
                    cx.shared.guard.fault(counter, peer, now);
                }
                match (session.wire(), answer) {
                    (Wire::Api, Message::Error { .. }) => Some(Message::Failure { key }),
                    (_, answer) => Some(answer),
                }
            }
            None => {
                cx.shared.guard.fault(Counter::Busy, peer, now);
                None
            }
        };
        cx.answer(now, |out| incoming.answer(session, answer.as_ref(), out));
    }

    /// Starts the deferred requests that need not wait any longer, as long as the peer reads its answers.
    pub(super) fn start_deferred(&mut self, session: &mut Session<Requester>, cx: &mut Context<'_>, now: Time) {
        while cx.info.state == State::Open && !cx.is_held_back() {
            let Some(deferred) = session.next_startable() else {
                break;
            };
            if let Some(message) = message_in(&deferred.frame, session.wire()) {
                let incoming = Incoming { place: Some(deferred.place), since: deferred.since };
                self.serve(session, cx, incoming, &message, now);
            }
            release(session, cx, now);
        }
        release(session, cx, now);
    }

    /// A job has ended. Its answer takes its place, and requests that waited for the job may start.
    pub(super) fn settle_outcome(
        session: &mut Session<Requester>,
        cx: &mut Context<'_>,
        place: Place,
        key: Id,
        outcome: &Outcome,
        now: Time,
    ) {
        if *outcome == Outcome::Busy {
            cx.shared.guard.fault(Counter::Busy, cx.info.peer, now);
        }
        // There are at most REPLICATION_MAX copies.
        let number = [if let Outcome::Stored { copies, .. } = outcome { *copies as u8 } else { 0 }];
        let answer = match (outcome, session.wire()) {
            (Outcome::Stored { .. } | Outcome::Refused(_), Wire::Api) => None,
            (Outcome::Busy, Wire::Sealed) => Some(ErrorCode::Busy.message()),
            (Outcome::Busy, Wire::Api) => Some(Message::Failure { key }),
            (Outcome::Stored { is_short: false, .. }, Wire::Sealed) => Some(Message::Success { key, value: &[] }),
            (Outcome::Stored { is_short: true, .. }, Wire::Sealed) => Some(Message::Success { key, value: &number }),
            (Outcome::Refused(reason), Wire::Sealed) => Some(reason.message()),
            (Outcome::Found(value), _) => Some(Message::Success { key, value }),
            (Outcome::Missing, _) => Some(Message::Failure { key }),
        };
        session.settle(place, answer.as_ref());
    }
}

/// A request that is being served: where its answer goes, and when it came.
#[derive(Copy, Clone)]
struct Incoming {
    /// The place of a deferred request; `None` for a request that just came.
    place: Option<Place>,
    since: Time,
}

impl Incoming {
    /// Puts the answer where it belongs. `None`: the request gets no answer.
    fn answer(self, session: &mut Session<Requester>, answer: Option<&Message<'_>>, out: &mut Vec<u8>) {
        match (self.place, answer) {
            (Some(place), answer) => session.settle(place, answer),
            (None, Some(answer)) => session.answer(answer, out),
            (None, None) => {}
        }
    }
}

/// Moves settled answers into the outbox, as long as the peer reads its answers.
fn release(session: &mut Session<Requester>, cx: &mut Context<'_>, now: Time) {
    let room = OUTBOX_SOFT_BYTES.saturating_sub(cx.outbox.answer_bytes());
    if room > 0 && session.owes() {
        cx.answer(now, |out| session.release(out, room));
    }
}

/// The message of a frame that was checked before it was deferred.
fn message_in(frame: &[u8], wire: Wire) -> Option<Message<'_>> {
    let trailer = match wire {
        Wire::Sealed => TRAILER,
        Wire::Api => 0,
    };
    decode_body(kind_of(frame), &frame[HEADER..frame.len() - trailer]).ok()
}

/// The key of a message; zero if it has none.
fn request_key(message: &Message<'_>) -> Id {
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

/// The counter of an ERROR that refuses a request for lack of capacity or permission.
fn refusal(answer: &Message<'_>) -> Option<Counter> {
    let Message::Error { code, .. } = answer else {
        return None;
    };
    match ErrorCode::from_code(*code)? {
        ErrorCode::Full => Some(Counter::StoreFull),
        ErrorCode::TooLarge => Some(Counter::ValuesTooLarge),
        ErrorCode::Refused => Some(Counter::PutsRefused),
        ErrorCode::Busy => Some(Counter::Busy),
        ErrorCode::Checksum | ErrorCode::Malformed | ErrorCode::UnknownType | ErrorCode::Unreachable => None,
    }
}
