//! Requests of peers to the nodes of the sealed dialect, which are answered now, answered when a job ends, or deferred.
//! Part of the service; never decides what a request means.

use crate::dialect::sealed::codec::{ErrorCode, HEADER, Message, TRAILER, decode_body, kind_of};
use crate::dialect::sealed::job::{Outcome, Put, Ticket};
use crate::dialect::sealed::node::Answer;
use crate::dialect::sealed::service::{Requester, Service, Waiter, node_of};
use crate::dialect::sealed::session::{Place, Session, Wire};
use crate::dialect::sealed::store::cost;
use crate::dialect::stream::{Close, ConnId, Context, Origin, Session as _, State, Verdict};
use crate::guard::Counter;
use crate::id::Id;
use crate::limits::{
    CANDIDATE_MS, COORDINATED_FACTOR, COORDINATED_SHARE, JOB_MARGIN_MS, JOB_MS, LOOKUP_LEAST_MS, OUTBOX_SOFT_BYTES,
    QUEUED,
};
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
        let must_wait = cx.is_held_back() || session.must_wait(message);
        if must_wait || (may_need_job(message) && self.queue_up(session, message, cx, now)) {
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
        let Some(number) = node_of(cx.info.listener) else {
            // This process is a client: it has no node, so it serves nothing.
            let answer = ErrorCode::Busy.message();
            return cx.answer(now, |out| incoming.answer(session, Some(&answer), out));
        };
        if may_need_job(message) {
            // Other requests change nothing in the node.
            self.mark_changed(number);
            if !self.may_serve(number, session.wire(), message, incoming.since, cx, now) {
                return refuse(session, cx, incoming, message, now);
            }
        }
        let node = &mut self.nodes[usize::from(number)];
        let ticket = Ticket { waiter: self.waiters.vacant_key(), since: incoming.since };
        let answer = match (session.wire(), message) {
            (Wire::Api, Message::Put { ttl_s, replication, key, value }) => {
                // A PUT of the API always goes through the network, and gets no answer.
                let (replication, source) = (usize::from(*replication), cx.info.peer.ip());
                let put = Put { key: *key, value, ttl_s: *ttl_s, replication, source };
                node.start_put(put, ticket, now).then_some(Answer::Later)
            }
            _ => Some(node.on_request(cx.info.peer, message, (&mut self.store, &mut cx.shared.sources), ticket, now)),
        };
        let key = request_key(message);
        let answer = match answer {
            Some(Answer::Later) => {
                let place = incoming.place.unwrap_or_else(|| session.owe(message));
                let waiter = Waiter::Peer { conn: cx.id, place, key, source: cx.info.peer.ip() };
                self.add_job(waiter, &mut cx.shared.sources);
                return;
            }
            Some(Answer::Now(answer)) => {
                match &answer {
                    Message::Value { value } | Message::ValueWithChecksum { value, .. } => {
                        cx.shared.sources.turn.add(value.len() as u64);
                    }
                    Message::Error { code, .. } => {
                        refusal(*code)
                            .into_iter()
                            .for_each(|counter| cx.shared.guard.fault(counter, cx.info.peer, now));
                    }
                    _ => {}
                }
                match (session.wire(), answer) {
                    (Wire::Api, Message::Error { .. }) => Some(Message::Failure { key }),
                    (_, answer) => Some(answer),
                }
            }
            None => {
                cx.shared.guard.fault(Counter::Busy, cx.info.peer, now);
                None
            }
        };
        cx.answer(now, |out| incoming.answer(session, answer.as_ref(), out));
    }

    /// Whether the request takes a job, and its source must wait for one of its own, or of somebody else, to end.
    fn must_queue(&self, wire: Wire, message: &Message<'_>, cx: &Context<'_>, now: Time) -> bool {
        self.needs_job(wire, message, now) && !self.has_room_for_job(cx.info.peer.ip(), &cx.shared.sources)
    }

    /// Whether the request is answered by a job, and not at once.
    fn needs_job(&self, wire: Wire, message: &Message<'_>, now: Time) -> bool {
        match message {
            Message::Put { value, .. } if !self.store.admits(value) => false,
            Message::Put { replication, .. } => wire == Wire::Api || *replication > 1,
            Message::Get { key } => self.settings.node.quorum > 1 || self.store.get(key, now).is_none(),
            _ => false,
        }
    }

    /// Lets the connection wait for a job to end, if the request takes one and there is no room for it. Returns whether
    /// it waits. Not inlined, because a PING is served faster without it.
    #[inline(never)]
    fn queue_up(
        &mut self,
        session: &mut Session<Requester>,
        message: &Message<'_>,
        cx: &Context<'_>,
        now: Time,
    ) -> bool {
        self.must_queue(session.wire(), message, cx, now) && self.enqueue(session, cx.id)
    }

    /// Lets the connection wait for a job to end. Returns `false` if too many wait already.
    fn enqueue(&mut self, session: &mut Session<Requester>, id: ConnId) -> bool {
        if !session.is_queued && self.queue.len() < QUEUED {
            session.is_queued = true;
            self.queue.push_back(id);
        }
        session.is_queued
    }

    /// Whether a PUT or GET can be served: it takes no job, or may start one.
    #[inline(never)]
    fn may_serve(
        &self,
        number: u16,
        wire: Wire,
        message: &Message<'_>,
        since: Time,
        cx: &mut Context<'_>,
        now: Time,
    ) -> bool {
        !self.needs_job(wire, message, now) || self.may_start_job(number, message, since, cx, now)
    }

    /// Whether a request that takes a job may start one: there is room for it, it has not waited too long, and its source
    /// has not had other nodes store too much lately.
    fn may_start_job(&self, number: u16, message: &Message<'_>, since: Time, cx: &mut Context<'_>, now: Time) -> bool {
        // A GET that has no time to look would say that nobody has the value.
        let least = if matches!(message, Message::Get { .. }) { LOOKUP_LEAST_MS } else { 0 };
        JOB_MS.saturating_sub(now.since(since)) > JOB_MARGIN_MS + least
            && self.has_room_for_job(cx.info.peer.ip(), &cx.shared.sources)
            && self.charge_coordination(number, message, cx, now)
    }

    /// Charges the client for what the PUT puts on each other node, on average. A node takes only a share of its store
    /// from us, whoever our clients are, so that one of them could use it up at the expense of the others. Returns
    /// `false` if the client has had its part of that share. As that is an estimate, the parts are generous
    /// ([`COORDINATED_FACTOR`]).
    fn charge_coordination(&self, number: u16, message: &Message<'_>, cx: &mut Context<'_>, now: Time) -> bool {
        let Message::Put { replication, value, .. } = message else {
            return true;
        };
        let sources = &mut cx.shared.sources;
        let source = sources.of(cx.info.peer.ip());
        let others = self.nodes[usize::from(number)].overlay().table().len() as u64;
        if source.is_exempt() || others == 0 {
            return true;
        }
        let copies = match u64::from(*replication) {
            0 => self.settings.node.replication as u64,
            copies => copies,
        };
        let of_each = |amount: u64| (amount * copies.min(others)).div_ceil(others);
        let limits = self.settings.store;
        let kinds = [
            (&mut sources.coordinated_bytes, of_each(cost(value) as u64), limits.bytes as u64),
            (&mut sources.coordinated_entries, of_each(1_000), limits.entries as u64 * 1_000),
        ];
        let uses = kinds.map(|(rate, n, limit)| (rate.used(now), n, limit / COORDINATED_SHARE));
        let may = uses.iter().all(|(used, n, most)| {
            let free = most.saturating_sub(used.all());
            *n <= free && used.admits(source, *n, free * COORDINATED_FACTOR)
        });
        if may {
            uses.into_iter().for_each(|(used, n, _)| used.charge(source, n));
        }
        may
    }

    /// Starts the deferred requests that need not wait any longer, as long as the peer reads its answers.
    pub(super) fn start_deferred(&mut self, session: &mut Session<Requester>, cx: &mut Context<'_>, now: Time) {
        while cx.info.state == State::Open && !cx.is_held_back() && !session.is_queued {
            let wire = session.wire();
            let next = session.peek_startable().and_then(|frame| message_in(frame, wire));
            if next.is_some_and(|message| self.must_queue(wire, &message, cx, now)) {
                self.enqueue(session, cx.id);
                break;
            }
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

/// Tells the peer to try again.
fn refuse(
    session: &mut Session<Requester>,
    cx: &mut Context<'_>,
    incoming: Incoming,
    message: &Message<'_>,
    now: Time,
) {
    cx.shared.guard.fault(Counter::Busy, cx.info.peer, now);
    let answer = match (session.wire(), message) {
        (Wire::Sealed, _) => Some(ErrorCode::Busy.message()),
        (Wire::Api, Message::Get { key }) => Some(Message::Failure { key: *key }),
        (Wire::Api, _) => None,
    };
    cx.answer(now, |out| incoming.answer(session, answer.as_ref(), out));
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

/// Whether a job may answer the request; the others are answered at once.
fn may_need_job(message: &Message<'_>) -> bool {
    matches!(message, Message::Put { .. } | Message::Get { .. })
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

/// The counter of an ERROR with this code that refuses a request for lack of capacity or permission.
fn refusal(code: u32) -> Option<Counter> {
    match ErrorCode::from_code(code)? {
        ErrorCode::Full => Some(Counter::StoreFull),
        ErrorCode::TooLarge => Some(Counter::ValuesTooLarge),
        ErrorCode::Refused => Some(Counter::PutsRefused),
        ErrorCode::Busy => Some(Counter::Busy),
        ErrorCode::Checksum | ErrorCode::Malformed | ErrorCode::UnknownType | ErrorCode::Unreachable => None,
    }
}
