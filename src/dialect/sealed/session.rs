//! One connection of the sealed dialect or of its API: cuts and judges frames, keeps answers in the order of the
//! requests, and matches answers with what was asked. Never touches a socket or a buffer's memory; never decides what a
//! request means.

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

/// Which of the dialect's two wires a connection carries.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Wire {
    /// Checksummed, symmetric, with errors.
    Sealed,
    /// The VoidPhone API: plain, the other side only asks, PUT has no answer.
    Api,
}

/// What a peer did wrong. Each is a counter and a log line of the engine's.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Breach {
    /// A size no frame can have: framing is lost.
    BadSize,
    /// The checksum does not match.
    BadChecksum,
    /// A type that is none of this listener's.
    UnknownType,
    /// A body that does not fit its type.
    Malformed,
    /// An answer, but nothing was asked.
    UnaskedAnswer,
    /// An ERROR, but nothing was asked.
    UnaskedError,
    /// An answer that does not fit what was asked.
    WrongAnswer,
    /// Some other protocol.
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

/// What the bytes of an inbox begin with. `len` is what to consume.
#[derive(Debug)]
pub enum Parsed<'a, A> {
    /// No whole frame yet.
    Incomplete,
    /// The peer asks.
    Request {
        /// Bytes of the frame.
        len: usize,
        /// What.
        message: Message<'a>,
    },
    /// The peer answers the oldest request of ours.
    Answer {
        /// Bytes of the frame.
        len: usize,
        /// What was asked, taken off the list.
        request: PendingRequest<A>,
        /// What it says.
        message: Message<'a>,
    },
    /// To be counted and otherwise ignored.
    Dropped {
        /// Bytes of the frame.
        len: usize,
        /// Why.
        breach: Breach,
    },
    /// To be answered by this error, and a strike; framing is intact.
    Violation {
        /// Bytes of the frame.
        len: usize,
        /// Why.
        breach: Breach,
        /// The answer.
        code: ErrorCode,
    },
    /// To be closed.
    Fatal {
        /// Why.
        breach: Breach,
        /// The last word, if any.
        code: Option<ErrorCode>,
    },
}

/// A request of ours that awaits its answer. `A` says on whose behalf.
#[derive(Clone, Debug)]
pub struct PendingRequest<A> {
    /// Who gets the answer.
    pub requester: A,
    /// What was asked, to be sent again if the connection turns out to be dead.
    pub request: Request,
    /// When.
    pub at: Time,
    /// The connection was in use before, so its death says nothing about the contact.
    pub on_reused: bool,
}

impl<A> PendingRequest<A> {
    /// A request made at `now`, not sent yet.
    pub fn new(requester: A, request: Request, now: Time) -> PendingRequest<A> {
        PendingRequest { requester, request, at: now, on_reused: false }
    }
}

/// Requests of ours on one connection that await their answers.
#[derive(Debug)]
struct PendingRequests<A> {
    /// With the bytes of each.
    requests: VecDeque<(PendingRequest<A>, usize)>,
    bytes: usize,
}

/// The state of one connection's conversation. Small while nothing is under way, as most connections are idle.
#[derive(Debug)]
pub struct Session<A> {
    wire: Wire,
    saw_frame: bool,
    /// Answers owed; none most of the time.
    owed_answers: Option<Box<OwedAnswers>>,
    /// None until something was asked.
    pending: Option<Box<PendingRequests<A>>>,
    /// When its peer was last looked at as a candidate for the routing table.
    pub(super) candidate_at: Option<Time>,
}

impl<A> Session<A> {
    /// A conversation that has not begun.
    pub fn new(wire: Wire) -> Session<A> {
        Session { wire, saw_frame: false, owed_answers: None, pending: None, candidate_at: None }
    }

    /// Which wire it is.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Whether more requests of ours may be sent.
    pub fn may_ask(&self) -> bool {
        self.pending.as_ref().is_none_or(|pending| pending.requests.len() < ASKED && pending.bytes < ASKED_BYTES)
    }

    /// Whether requests wait to be started.
    pub fn has_waiting(&self) -> bool {
        self.owed_answers.as_ref().is_some_and(|owed| owed.has_waiting())
    }

    /// Judges what `bytes` begin with, in the order size, checksum, type, body.
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
                // It may have been the answer: the order is in doubt.
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

    // ---- answers we owe ----

    /// Whether `request` must wait: too many jobs are owed already, or an earlier request of the same key is not done
    /// and one of the two is a PUT. (A PUT behind a GET waits too, or else the GET could find what was put after it:
    /// docs/protocol-sealed.md, "Order of answers".)
    pub fn must_wait(&self, request: &Message<'_>) -> bool {
        self.owed_answers.as_ref().is_some_and(|owed| owed.must_wait(request))
    }

    /// Takes in the frame of a request that came at `now` and must wait.
    pub fn defer(&mut self, request: &Message<'_>, frame: &[u8], now: Time) {
        let expects = self.expects(request);
        self.owed_answers.get_or_insert_default().defer(frame, Access::of(request), expects, now);
    }

    /// The next waiting request that may start now, to be settled with [`Session::settle`] now or later.
    pub fn next_startable(&mut self) -> Option<DeferredRequest> {
        self.owed_answers.as_mut()?.next_startable()
    }

    /// Answers a request that just came: into `outbox` at once, or behind the answers that are owed.
    pub fn answer(&mut self, message: &Message<'_>, outbox: &mut Vec<u8>) {
        match &mut self.owed_answers {
            None => encode(self.wire, message, outbox),
            Some(owed) => owed.queue(frame(self.wire, message)),
        }
    }

    /// Owes the answer to the request that just came; returns its place.
    pub fn owe(&mut self, request: &Message<'_>) -> Place {
        let expects = self.expects(request);
        self.owed_answers.get_or_insert_default().owe(Access::of(request), expects)
    }

    /// What the job at `place` writes can be read from now on, although it is not done yet.
    pub fn unblock(&mut self, place: Place) {
        self.owed_answers.iter_mut().for_each(|owed| owed.unblock(place));
    }

    /// Settles the answer owed at `place`; `None`: with silence. It leaves by [`Session::release`].
    pub fn settle(&mut self, place: Place, message: Option<&Message<'_>>) {
        if let Some(owed) = &mut self.owed_answers {
            owed.settle(place, message.map_or(Vec::new(), |message| frame(self.wire, message)));
        }
    }

    /// Moves settled answers whose turn it is into `outbox`, until that has grown by `room` bytes or a little more.
    pub fn release(&mut self, outbox: &mut Vec<u8>, room: usize) {
        self.owed_answers.iter_mut().for_each(|owed| owed.release(outbox, room));
        self.owed_answers.take_if(|owed| owed.is_empty());
    }

    /// The API's PUT is never answered.
    fn expects(&self, request: &Message<'_>) -> Expects {
        match (self.wire, request) {
            (Wire::Api, Message::Put { .. }) => Expects::Silence,
            _ => Expects::Answer,
        }
    }

    // ---- requests of ours ----

    /// Sends a request of ours.
    pub fn ask(&mut self, request: PendingRequest<A>, outbox: &mut Vec<u8>) {
        let before = outbox.len();
        encode(self.wire, &request.request.message(), outbox);
        let bytes = outbox.len() - before;
        let pending =
            self.pending.get_or_insert_with(|| Box::new(PendingRequests { requests: VecDeque::new(), bytes: 0 }));
        pending.bytes += bytes;
        pending.requests.push_back((request, bytes));
    }

    /// Takes all requests that await an answer, because none will come.
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

    /// docs/faults.md, row 5.
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

    /// What is queued behind owed answers.
    fn bytes(&self) -> usize {
        self.owed_answers.as_ref().map_or(0, |owed| owed.bytes())
    }

    /// When the oldest request that awaits its answer has stalled.
    fn deadline(&self) -> Option<Time> {
        self.pending.as_ref()?.requests.front().map(|(request, _)| request.at.after(STALL_MS))
    }

    fn drop_pending(&mut self) {
        self.owed_answers.iter_mut().for_each(|owed| owed.drop_waiting());
    }

    fn check_invariants(&self) {
        if let Some(owed) = &self.owed_answers {
            assert!(!owed.is_empty(), "what is no longer owed takes no memory");
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

/// The API has no error message: whatever is wrong closes (docs/protocol-sealed.md, "The VoidPhone API").
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

/// Our types are 650 to 660, so the first byte of each is 02.
fn is_foreign(frame: &[u8]) -> bool {
    kind_of(frame) >> 8 != 2
}

/// Whether `answer` is one that `request` can have. Any request may be answered by ERROR.
fn answers(request: &Request, answer: &Message<'_>) -> bool {
    match (request, answer) {
        (_, Message::Error { .. }) => true,
        (Request::Ping(nonce), Message::Pong { nonce: got }) => nonce == got,
        (Request::FindNode(_), Message::Node(_)) => true,
        (Request::FindValue(_), Message::Node(_) | Message::Value { .. }) => true,
        (Request::Get(key), Message::Success { key: got, .. } | Message::Failure { key: got }) => key == got,
        (Request::Put { key, .. }, Message::Success { key: got, value: [] }) => key == got,
        _ => false,
    }
}
