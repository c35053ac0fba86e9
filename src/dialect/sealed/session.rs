//! The session of one connection of the sealed dialect or of its API: cuts frames and checks them, keeps answers in the
//! order of the requests, and matches answers with our requests. Never touches a socket or a buffer's memory; never
//! decides what a request means.

use std::collections::VecDeque;

use crate::dialect::Codec;
use crate::dialect::sealed::answers::{DeferredRequest, Expects, OwedAnswers};
use crate::dialect::sealed::api::VoidPhone;
use crate::dialect::sealed::codec::{
    ErrorCode, FrameError, HEADER, Message, Sealed, TRAILER, checksum_matches, decode_body, is_answer, kind, kind_of,
};
use crate::dialect::sealed::key_locks::Access;
pub use crate::dialect::sealed::key_locks::Place;
use crate::dialect::sealed::request::Request;
use crate::dialect::stream::{self, Session as _};
use crate::guard::Counter;
use crate::limits::{ASKED, ASKED_BYTES, STALL_MS};
use crate::time::Time;

/// Which of the dialect's two wire formats a connection carries.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Wire {
    /// The sealed protocol: with checksums, requests in both directions, and error messages.
    Sealed,
    /// The VoidPhone API: without checksums; only the peer sends requests; a PUT has no answer.
    Api,
}

/// A protocol violation of a peer. Each one has a counter and a log line (docs/faults.md).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Breach {
    /// A size that no frame can have, so that the start of the next frame is unknown.
    BadSize,
    /// The checksum does not match.
    BadChecksum,
    /// A type that this listener does not know.
    UnknownType,
    /// A body that does not fit its type.
    Malformed,
    /// An answer although we sent no request.
    UnaskedAnswer,
    /// An ERROR although we sent no request.
    UnaskedError,
    /// An answer that does not fit our request.
    WrongAnswer,
    /// Bytes of another protocol.
    ForeignProtocol,
}

impl From<Breach> for Counter {
    fn from(breach: Breach) -> Counter {
        match breach {
            Breach::BadSize => Counter::BadSizes,
            Breach::BadChecksum => Counter::BadChecksums,
            Breach::UnknownType => Counter::UnknownTypes,
            Breach::Malformed => Counter::Malformed,
            Breach::UnaskedAnswer => Counter::UnaskedAnswers,
            Breach::UnaskedError => Counter::UnaskedErrors,
            Breach::WrongAnswer => Counter::WrongAnswers,
            Breach::ForeignProtocol => Counter::ForeignProtocols,
        }
    }
}

/// What was found at the start of an inbox. `len` is the number of bytes to consume.
#[derive(Debug)]
pub enum Parsed<'a, A> {
    /// No complete frame yet.
    Incomplete,
    /// A request of the peer.
    Request {
        /// Bytes of the frame.
        len: usize,
        /// The request.
        message: Message<'a>,
    },
    /// An answer to our oldest pending request.
    Answer {
        /// Bytes of the frame.
        len: usize,
        /// The request that it answers; it is no longer pending.
        request: PendingRequest<A>,
        /// The answer.
        message: Message<'a>,
    },
    /// A frame to count and otherwise ignore.
    Dropped {
        /// Bytes of the frame.
        len: usize,
        /// The violation.
        breach: Breach,
    },
    /// A frame to answer with an error and to count as a strike. The next frame can still be found.
    Violation {
        /// Bytes of the frame.
        len: usize,
        /// The violation.
        breach: Breach,
        /// The error to answer with.
        code: ErrorCode,
    },
    /// A fault after which the connection must close.
    Fatal {
        /// The violation.
        breach: Breach,
        /// The error to send before that, if any.
        code: Option<ErrorCode>,
    },
}

/// A request that we sent and that has not been answered. `A` tells on whose behalf it was sent.
#[derive(Clone, Debug)]
pub struct PendingRequest<A> {
    /// Who gets the answer.
    pub requester: A,
    /// The request, kept to send it again if the connection turns out to be dead.
    pub request: Request,
    /// When it was made.
    pub at: Time,
    /// Whether the connection had been in use before. Then its death says nothing about the contact.
    pub on_reused: bool,
}

impl<A> PendingRequest<A> {
    /// A request that is made at `now` and has not been sent.
    pub fn new(requester: A, request: Request, now: Time) -> PendingRequest<A> {
        PendingRequest { requester, request, at: now, on_reused: false }
    }
}

/// The requests that we sent on one connection and that have not been answered.
#[derive(Debug)]
struct PendingRequests<A> {
    /// Oldest first, each with its bytes on the wire.
    requests: VecDeque<(PendingRequest<A>, usize)>,
    bytes: usize,
}

/// The state of one connection's conversation. It is small while nothing is in progress, because most connections are
/// idle.
#[derive(Debug)]
pub struct Session<A> {
    wire: Wire,
    saw_frame: bool,
    /// The answers that we owe the peer; `None` most of the time.
    owed_answers: Option<Box<OwedAnswers>>,
    /// `None` until we send the first request.
    pending: Option<Box<PendingRequests<A>>>,
    /// When the peer was last considered as a candidate for the routing table.
    pub(super) candidate_at: Option<Time>,
}

impl<A> Session<A> {
    /// The session of a new connection.
    pub fn new(wire: Wire) -> Session<A> {
        Session { wire, saw_frame: false, owed_answers: None, pending: None, candidate_at: None }
    }

    /// The wire format of the connection.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Whether we may send another request.
    pub fn may_ask(&self) -> bool {
        self.pending.as_ref().is_none_or(|pending| pending.requests.len() < ASKED && pending.bytes < ASKED_BYTES)
    }

    /// Whether requests of the peer wait to be started. For tests: searches all of them.
    pub fn has_waiting(&self) -> bool {
        self.owed_answers.as_ref().is_some_and(|owed| owed.has_waiting())
    }

    /// Reads the frame at the start of `bytes` and checks its size, checksum, type and body, in this order.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Parsed<'a, A> {
        let frame = match self.frame_len(bytes) {
            Err(_) => return self.fatal(Breach::BadSize, ErrorCode::Malformed),
            Ok(None) => return Parsed::Incomplete,
            Ok(Some(len)) => match bytes.get(..len) {
                None => return Parsed::Incomplete,
                Some(frame) => frame,
            },
        };
        let is_first = !std::mem::replace(&mut self.saw_frame, true);
        match self.wire {
            Wire::Sealed => self.judge(frame, is_first),
            Wire::Api => judge_api(frame),
        }
    }

    fn judge<'a>(&mut self, frame: &'a [u8], is_first: bool) -> Parsed<'a, A> {
        let (len, kind) = (frame.len(), kind_of(frame));
        if !checksum_matches(frame) {
            if is_first && is_foreign(frame) {
                return Parsed::Fatal { breach: Breach::ForeignProtocol, code: None };
            }
            if self.awaits() {
                // It may have been an answer, so we can no longer match answers with requests.
                return Parsed::Fatal { breach: Breach::BadChecksum, code: None };
            }
            return Parsed::Violation { len, breach: Breach::BadChecksum, code: ErrorCode::Checksum };
        }
        let body = &frame[HEADER..len - TRAILER];
        if is_answer(kind) {
            return self.judge_answer(len, kind, body);
        }
        match decode_body(kind, body) {
            Ok(message) => Parsed::Request { len, message },
            Err(FrameError::UnknownType(_)) => {
                Parsed::Violation { len, breach: Breach::UnknownType, code: ErrorCode::UnknownType }
            }
            Err(FrameError::Malformed(_) | FrameError::Checksum | FrameError::Size(_)) => {
                Parsed::Violation { len, breach: Breach::Malformed, code: ErrorCode::Malformed }
            }
        }
    }

    fn judge_answer<'a>(&mut self, len: usize, kind: u16, body: &'a [u8]) -> Parsed<'a, A> {
        let pending = self.pending.as_mut().and_then(|pending| Some((pending.requests.pop_front()?, pending)));
        let Some(((request, bytes), pending)) = pending else {
            return if kind == kind::ERROR {
                Parsed::Dropped { len, breach: Breach::UnaskedError }
            } else {
                Parsed::Violation { len, breach: Breach::UnaskedAnswer, code: ErrorCode::UnknownType }
            };
        };
        match decode_body(kind, body) {
            Ok(message) if answers(&request.request, &message) => {
                pending.bytes -= bytes;
                Parsed::Answer { len, request, message }
            }
            _ => {
                pending.requests.push_front((request, bytes));
                Parsed::Fatal { breach: Breach::WrongAnswer, code: None }
            }
        }
    }

    fn fatal(&self, breach: Breach, code: ErrorCode) -> Parsed<'static, A> {
        let speaks = self.wire == Wire::Sealed && !self.awaits();
        Parsed::Fatal { breach, code: speaks.then_some(code) }
    }

    fn frame_len(&self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        match self.wire {
            Wire::Sealed => Sealed::frame_len(bytes),
            Wire::Api => VoidPhone::frame_len(bytes),
        }
    }

    // ---- answers that we owe ----

    /// Whether `request` must wait: too many jobs are in progress, or an earlier request of the same key is not done
    /// and one of the two is a PUT. (A PUT behind a GET waits too, or else the GET could find what was put after it:
    /// docs/protocol-sealed.md, "Order of answers".)
    pub fn must_wait(&self, request: &Message<'_>) -> bool {
        self.owed_answers.as_ref().is_some_and(|owed| owed.must_wait(request))
    }

    /// Defers a request that came at `now` and must wait: keeps its frame until it may start.
    pub fn defer(&mut self, request: &Message<'_>, frame: &[u8], now: Time) {
        let expects = self.expects(request);
        self.owed_answers.get_or_insert_default().defer(frame, Access::of(request), expects, now);
    }

    /// The next waiting request that may start. The caller starts it, and settles it with [`Session::settle`] now or
    /// later.
    pub fn next_startable(&mut self) -> Option<DeferredRequest> {
        self.owed_answers.as_mut()?.next_startable()
    }

    /// Answers a request that just came. The answer goes into `outbox`, or waits behind the answers that are owed.
    pub fn answer(&mut self, message: &Message<'_>, outbox: &mut Vec<u8>) {
        match &mut self.owed_answers {
            None => encode(self.wire, message, outbox),
            Some(owed) => owed.queue(frame(self.wire, message)),
        }
    }

    /// Promises an answer to the request that just came. Returns its place for [`Session::settle`].
    pub fn owe(&mut self, request: &Message<'_>) -> Place {
        let expects = self.expects(request);
        self.owed_answers.get_or_insert_default().owe(Access::of(request), expects)
    }

    /// The value that the job at `place` writes can be read from now on, although the job is not done.
    pub fn unblock(&mut self, place: Place) {
        self.owed_answers.iter_mut().for_each(|owed| owed.unblock(place));
    }

    /// Answers the request at `place`; with `None` it gets no answer. [`Session::release`] sends the answer.
    pub fn settle(&mut self, place: Place, message: Option<&Message<'_>>) {
        if let Some(owed) = &mut self.owed_answers {
            owed.settle(place, message.map_or(Vec::new(), |message| frame(self.wire, message)));
        }
    }

    /// Moves settled answers that no earlier request holds back into `outbox`, until it has grown by `room` bytes or a
    /// little more.
    pub fn release(&mut self, outbox: &mut Vec<u8>, room: usize) {
        self.owed_answers.iter_mut().for_each(|owed| owed.release(outbox, room));
        self.owed_answers.take_if(|owed| owed.is_empty());
    }

    /// The API never answers a PUT.
    fn expects(&self, request: &Message<'_>) -> Expects {
        match (self.wire, request) {
            (Wire::Api, Message::Put { .. }) => Expects::Silence,
            _ => Expects::Answer,
        }
    }

    // ---- our own requests ----

    /// Sends a request to the peer; it is pending from now on.
    pub fn ask(&mut self, request: PendingRequest<A>, outbox: &mut Vec<u8>) {
        let before = outbox.len();
        encode(self.wire, &request.request.message(), outbox);
        let bytes = outbox.len() - before;
        let pending =
            self.pending.get_or_insert_with(|| Box::new(PendingRequests { requests: VecDeque::new(), bytes: 0 }));
        pending.bytes += bytes;
        pending.requests.push_back((request, bytes));
    }

    /// Removes all pending requests, because no answer will come, and returns them.
    pub fn take_pending(&mut self) -> Vec<PendingRequest<A>> {
        let pending = self.pending.take().map(|pending| pending.requests);
        pending.into_iter().flatten().map(|(request, _)| request).collect()
    }
}

impl<A> stream::Session for Session<A> {
    fn is_silent(&self) -> bool {
        !self.saw_frame
    }

    fn can_judge(&self, bytes: &[u8]) -> bool {
        match self.frame_len(bytes) {
            Ok(len) => len.is_some_and(|len| len <= bytes.len()),
            Err(_) => true,
        }
    }

    /// Recognizes another protocol (docs/faults.md, row 5).
    fn looks_foreign(&self, bytes: &[u8]) -> bool {
        self.wire == Wire::Sealed && !self.saw_frame && bytes.len() >= HEADER && is_foreign(bytes)
    }

    fn has_room(&self) -> bool {
        self.owed_answers.as_ref().is_none_or(|owed| owed.has_room())
    }

    fn owes(&self) -> bool {
        self.owed_answers.is_some()
    }

    fn awaits(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| !pending.requests.is_empty())
    }

    /// Memory of owed answers and waiting requests.
    fn bytes(&self) -> usize {
        self.owed_answers.as_ref().map_or(0, |owed| owed.bytes())
    }

    /// When the oldest pending request has stalled.
    fn deadline(&self) -> Option<Time> {
        self.pending.as_ref()?.requests.front().map(|(request, _)| request.at.after(STALL_MS))
    }

    fn drop_pending(&mut self) {
        self.owed_answers.iter_mut().for_each(|owed| owed.drop_waiting());
    }

    fn check_invariants(&self) {
        if let Some(owed) = &self.owed_answers {
            assert!(!owed.is_empty(), "answers that are no longer owed take no memory");
            owed.check_invariants();
        }
        if let Some(pending) = &self.pending {
            assert_eq!(pending.bytes, pending.requests.iter().map(|(_, bytes)| bytes).sum::<usize>());
            assert!(pending.requests.len() <= ASKED);
        }
    }
}

fn frame(wire: Wire, message: &Message<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(wire, message, &mut frame);
    frame
}

fn encode(wire: Wire, message: &Message<'_>, out: &mut Vec<u8>) {
    match wire {
        Wire::Sealed => Sealed::encode(message, out),
        Wire::Api => VoidPhone::encode(message, out),
    }
}

/// The API has no error message, so any fault closes the connection (docs/protocol-sealed.md, "The VoidPhone API").
fn judge_api<A>(frame: &[u8]) -> Parsed<'_, A> {
    let len = frame.len();
    match VoidPhone::decode(frame) {
        Ok(message @ (Message::Put { .. } | Message::Get { .. })) => Parsed::Request { len, message },
        Ok(_) | Err(FrameError::UnknownType(_)) => Parsed::Fatal { breach: Breach::UnknownType, code: None },
        Err(FrameError::Malformed(_) | FrameError::Checksum | FrameError::Size(_)) => {
            Parsed::Fatal { breach: Breach::Malformed, code: None }
        }
    }
}

/// Our types are 650 to 660, so the first byte of each is 0x02.
fn is_foreign(frame: &[u8]) -> bool {
    kind_of(frame) >> 8 != 2
}

/// Whether `answer` is a possible answer to `request`. ERROR is one to every request.
fn answers(request: &Request, answer: &Message<'_>) -> bool {
    match (request, answer) {
        (_, Message::Error { .. }) => true,
        (Request::Ping(nonce), Message::Pong { nonce: got }) => nonce == got,
        (Request::FindNode(_), Message::Node(_)) => true,
        (Request::FindValue(_), Message::Node(_) | Message::Value { .. }) => true,
        (Request::Get(key), Message::Success { key: got, .. } | Message::Failure { key: got }) => key == got,
        (Request::Put { key, replication, .. }, Message::Success { key: got, value }) => {
            // One byte says how many copies there are, if those are fewer than were asked for.
            let fits =
                |copies: &[u8]| copies.len() <= 1 && copies != [0] && copies.first().is_none_or(|n| n < replication);
            key == got && fits(value)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    /// Regression: a client took the number of copies for the answer to another request.
    #[test]
    fn a_put_is_answered_by_nothing_or_by_a_number_of_copies_that_is_too_small() {
        let key = Id::of(b"key");
        let fits = |replication, value: &[u8]| {
            let put = Request::Put { ttl_s: 1, replication, key, value: (*b"v").into() };
            answers(&put, &Message::Success { key, value })
        };
        assert!(fits(1, &[]) && fits(3, &[]) && fits(3, &[1]) && fits(3, &[2]));
        assert!(!fits(3, &[0]) && !fits(3, &[3]) && !fits(3, &[1, 1]) && !fits(1, &[1]) && !fits(0, &[1]));
        let put = Request::Put { ttl_s: 1, replication: 3, key, value: (*b"v").into() };
        assert!(!answers(&put, &Message::Success { key: Id::default(), value: &[] }));
    }
}
