//! One connection of the sealed dialect or of its API: cuts and judges frames, keeps answers in the order of the
//! requests, and matches answers with what was asked. Never touches a socket or a buffer's memory; never decides what a
//! request means.

use std::collections::VecDeque;

use crate::dialect::Codec;
use crate::dialect::sealed::api::VoidPhone;
use crate::dialect::sealed::codec::{
    ErrorCode, FrameError, HEADER, Message, Sealed, TRAILER, checksum_matches, decode_body, is_answer, kind, kind_of,
};
use crate::dialect::sealed::request::Request;
use crate::id::Id;
use crate::limits::{ASKED, ASKED_BYTES, OWED_ANSWERS, OWED_BYTES, OWED_JOBS, STRIKE_WINDOW_MS, STRIKES};
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
    /// A type that is none of this door's.
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

/// What the bytes of an inbox begin with. `len` is what to consume.
#[derive(Debug)]
pub enum Cut<'a, A> {
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
        asked: Asked<A>,
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
pub struct Asked<A> {
    /// Who gets the answer.
    pub asker: A,
    /// What was asked, to be sent again if the connection turns out to be dead.
    pub request: Request,
    /// When.
    pub at: Time,
    /// The connection was in use before, so its death says nothing about the contact.
    pub on_reused: bool,
}

/// A request that could not be started yet, taken out to be started now.
#[derive(Debug)]
pub struct Held {
    /// Its place in the order of answers.
    pub place: u64,
    /// Its frame.
    pub frame: Vec<u8>,
    /// When it came.
    pub since: Time,
}

/// One place in the order of answers. `silent`: it will be settled by saying nothing, so later answers need not wait.
#[derive(Debug)]
enum Owed {
    /// Settled: the answer's frame, empty once it has left or where silence settles it.
    Settled(Vec<u8>),
    /// A job is under way.
    Running { access: Option<Access>, silent: bool },
    /// A request that may not start yet.
    Waiting { frame: Vec<u8>, access: Option<Access>, silent: bool, since: Time },
}

impl Owed {
    /// The key that is still to be read or written.
    fn access(&self) -> Option<Access> {
        match self {
            Owed::Settled(_) => None,
            Owed::Running { access, .. } | Owed::Waiting { access, .. } => *access,
        }
    }
}

/// What a request does to a key.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Access {
    key: Id,
    writes: bool,
}

impl Access {
    fn of(request: &Message<'_>) -> Option<Access> {
        match request {
            Message::Get { key } | Message::FindValue { key } => Some(Access { key: *key, writes: false }),
            Message::Put { key, .. } => Some(Access { key: *key, writes: true }),
            _ => None,
        }
    }

    /// Whether the two must happen one after the other.
    fn conflicts_with(&self, other: &Access) -> bool {
        self.key == other.key && (self.writes || other.writes)
    }
}

/// The state of one connection's conversation.
#[derive(Debug)]
pub struct Session<A> {
    wire: Wire,
    saw_frame: bool,
    /// Answers owed, oldest first; empty most of the time, when answers go out at once.
    owed: VecDeque<Owed>,
    /// Bytes of settled answers that could not leave yet.
    settled_bytes: usize,
    /// Bytes of requests that wait.
    waiting_bytes: usize,
    /// The place that the next request will take.
    next_place: u64,
    running: usize,
    waiting: usize,
    /// With the bytes of each.
    asked: VecDeque<(Asked<A>, usize)>,
    asked_bytes: usize,
    strikes: VecDeque<Time>,
}

impl<A> Session<A> {
    /// A conversation that has not begun.
    pub fn new(wire: Wire) -> Session<A> {
        Session {
            wire,
            saw_frame: false,
            owed: VecDeque::new(),
            settled_bytes: 0,
            waiting_bytes: 0,
            next_place: 0,
            running: 0,
            waiting: 0,
            asked: VecDeque::new(),
            asked_bytes: 0,
            strikes: VecDeque::new(),
        }
    }

    /// Which wire it is.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Whether a whole frame has come.
    pub fn saw_frame(&self) -> bool {
        self.saw_frame
    }

    /// Bytes queued behind owed answers.
    pub fn owed_bytes(&self) -> usize {
        self.settled_bytes + self.waiting_bytes
    }

    /// Whether any answer is owed.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Whether more requests may be taken in.
    pub fn has_room(&self) -> bool {
        self.owed.len() < OWED_ANSWERS && self.owed_bytes() < OWED_BYTES
    }

    /// Whether an answer of the peer is awaited.
    pub fn awaits(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Whether more requests of ours may be sent.
    pub fn may_ask(&self) -> bool {
        self.asked.len() < ASKED && self.asked_bytes < ASKED_BYTES
    }

    /// Whether requests wait to be started.
    pub fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// How many bytes the frame that `bytes` begin with has; `None` while that cannot be told, or if none can begin so.
    pub fn frame_len(&self, bytes: &[u8]) -> Option<usize> {
        self.measure(bytes).ok().flatten()
    }

    /// Whether `bytes` begin with a whole frame, or with what no frame can begin with: there is something to be said of them.
    pub fn can_judge(&self, bytes: &[u8]) -> bool {
        match self.measure(bytes) {
            Ok(len) => len.is_some_and(|len| len <= bytes.len()),
            Err(_) => true,
        }
    }

    /// Whether `bytes`, an incomplete first frame, look like another protocol (faults.md, row 5).
    pub fn looks_foreign(&self, bytes: &[u8]) -> bool {
        self.wire == Wire::Sealed && !self.saw_frame && bytes.len() >= HEADER && is_foreign(bytes)
    }

    /// Judges what `bytes` begin with, in the order size, checksum, type, body.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Cut<'a, A> {
        let frame = match self.measure(bytes) {
            Err(_) => return self.fatal(Breach::BadSize, ErrorCode::Malformed),
            Ok(None) => return Cut::Incomplete,
            Ok(Some(len)) => match bytes.get(..len) {
                None => return Cut::Incomplete,
                Some(frame) => frame,
            },
        };
        let is_first = !std::mem::replace(&mut self.saw_frame, true);
        match self.wire {
            Wire::Sealed => self.judge(frame, is_first),
            Wire::Api => judge_api(frame),
        }
    }

    fn judge<'a>(&mut self, frame: &'a [u8], is_first: bool) -> Cut<'a, A> {
        let (len, kind) = (frame.len(), kind_of(frame));
        if !checksum_matches(frame) {
            if is_first && is_foreign(frame) {
                return Cut::Fatal { breach: Breach::ForeignProtocol, code: None };
            }
            if self.awaits() {
                // It may have been the answer: the order is in doubt.
                return Cut::Fatal { breach: Breach::BadChecksum, code: None };
            }
            return Cut::Violation { len, breach: Breach::BadChecksum, code: ErrorCode::Checksum };
        }
        let body = &frame[HEADER..len - TRAILER];
        if is_answer(kind) {
            return self.judge_answer(len, kind, body);
        }
        match decode_body(kind, body) {
            Ok(message) => Cut::Request { len, message },
            Err(FrameError::UnknownType(_)) => {
                Cut::Violation { len, breach: Breach::UnknownType, code: ErrorCode::UnknownType }
            }
            Err(FrameError::Malformed(_) | FrameError::Checksum | FrameError::Size(_)) => {
                Cut::Violation { len, breach: Breach::Malformed, code: ErrorCode::Malformed }
            }
        }
    }

    fn judge_answer<'a>(&mut self, len: usize, kind: u16, body: &'a [u8]) -> Cut<'a, A> {
        let Some((asked, bytes)) = self.asked.pop_front() else {
            return if kind == kind::ERROR {
                Cut::Dropped { len, breach: Breach::UnaskedError }
            } else {
                Cut::Violation { len, breach: Breach::UnaskedAnswer, code: ErrorCode::UnknownType }
            };
        };
        match decode_body(kind, body) {
            Ok(message) if answers(&asked.request, &message) => {
                self.asked_bytes -= bytes;
                Cut::Answer { len, asked, message }
            }
            _ => {
                self.asked.push_front((asked, bytes));
                Cut::Fatal { breach: Breach::WrongAnswer, code: None }
            }
        }
    }

    fn fatal(&self, breach: Breach, code: ErrorCode) -> Cut<'static, A> {
        let speaks = self.wire == Wire::Sealed && !self.awaits();
        Cut::Fatal { breach, code: speaks.then_some(code) }
    }

    fn measure(&self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        match self.wire {
            Wire::Sealed => Sealed::frame_len(bytes),
            Wire::Api => VoidPhone::frame_len(bytes),
        }
    }

    /// Counts a strike; whether it is one too many.
    pub fn strike(&mut self, now: Time) -> bool {
        self.strikes.retain(|at| now.since(*at) < STRIKE_WINDOW_MS);
        self.strikes.push_back(now);
        self.strikes.len() >= STRIKES
    }

    // ---- answers we owe ----

    /// Whether `request` must wait: too many jobs are owed already, or an earlier request of the same key is not done
    /// and one of the two is a PUT. (The page asks it of a GET behind a PUT; a PUT behind a GET waits too, or else the
    /// GET could find what was put after it.)
    pub fn must_wait(&self, request: &Message<'_>) -> bool {
        self.running >= OWED_JOBS || self.is_blocked(Access::of(request), self.owed.len())
    }

    /// Takes in the frame of a request that came at `now` and must wait.
    pub fn wait(&mut self, request: &Message<'_>, frame: &[u8], now: Time) {
        self.waiting_bytes += frame.len();
        self.waiting += 1;
        let (access, silent) = (Access::of(request), self.is_silent(request));
        self.push(Owed::Waiting { frame: frame.to_vec(), access, silent, since: now });
    }

    /// The next waiting request that may start now, to be settled with [`Session::settle`] now or later.
    pub fn next_startable(&mut self) -> Option<Held> {
        if self.waiting == 0 || self.running >= OWED_JOBS {
            return None;
        }
        let at = (0..self.owed.len()).find(|&at| match &self.owed[at] {
            Owed::Waiting { access, .. } => !self.is_blocked(*access, at),
            Owed::Settled(_) | Owed::Running { .. } => false,
        })?;
        // Where much is to be sent already, only what holds it back may start, or nothing would ever be sent.
        let holds_back =
            |owed: &Owed| matches!(owed, Owed::Running { silent: false, .. } | Owed::Waiting { silent: false, .. });
        if self.settled_bytes >= OWED_BYTES && self.owed.iter().take(at).any(holds_back) {
            return None;
        }
        let place = self.first_place() + at as u64;
        let Owed::Waiting { frame, access, silent, since } = &mut self.owed[at] else {
            return None;
        };
        let held = Held { place, frame: std::mem::take(frame), since: *since };
        self.owed[at] = Owed::Running { access: *access, silent: *silent };
        self.waiting_bytes -= held.frame.len();
        self.waiting -= 1;
        self.running += 1;
        Some(held)
    }

    /// Forgets the requests that wait: they will not be started any more.
    pub fn drop_waiting(&mut self) {
        for owed in &mut self.owed {
            if matches!(owed, Owed::Waiting { .. }) {
                *owed = Owed::Settled(Vec::new());
            }
        }
        (self.waiting, self.waiting_bytes) = (0, 0);
    }

    /// Whether something among the first `before` owed must be done before `access` may happen.
    fn is_blocked(&self, access: Option<Access>, before: usize) -> bool {
        let conflicts = |access: Access| {
            self.owed.range(..before).filter_map(Owed::access).any(|earlier| earlier.conflicts_with(&access))
        };
        access.is_some_and(conflicts)
    }

    /// Answers a request that just came: into `outbox` at once, or behind the answers that are owed.
    pub fn answer(&mut self, message: &Message<'_>, outbox: &mut Vec<u8>) {
        if self.owed.is_empty() {
            self.encode(message, outbox);
        } else {
            let frame = self.frame(message);
            self.settled_bytes += frame.len();
            self.push(Owed::Settled(frame));
        }
    }

    /// Owes the answer to the request that just came; returns its place.
    pub fn owe(&mut self, request: &Message<'_>) -> u64 {
        self.running += 1;
        self.push(Owed::Running { access: Access::of(request), silent: self.is_silent(request) })
    }

    /// What the job at `place` writes can be read from now on, although it is not done yet.
    pub fn unblock(&mut self, place: u64) {
        if let Some(Owed::Running { access, .. }) = self.at(place) {
            *access = None;
        }
    }

    /// Settles the answer owed at `place`; `None`: with silence. It leaves by [`Session::release`].
    pub fn settle(&mut self, place: u64, message: Option<&Message<'_>>) {
        let frame = message.map_or(Vec::new(), |message| self.frame(message));
        let len = frame.len();
        if let Some(owed @ Owed::Running { .. }) = self.at(place) {
            *owed = Owed::Settled(frame);
            self.settled_bytes += len;
            self.running -= 1;
        }
    }

    /// Moves settled answers whose turn it is into `outbox`, until that has grown by `room` bytes or a little more.
    pub fn release(&mut self, outbox: &mut Vec<u8>, room: usize) {
        let full_at = outbox.len() + room;
        for owed in &mut self.owed {
            match owed {
                Owed::Settled(_) if outbox.len() >= full_at => break,
                Owed::Settled(frame) => {
                    self.settled_bytes -= frame.len();
                    outbox.append(frame);
                    *frame = Vec::new();
                }
                Owed::Running { silent: true, .. } | Owed::Waiting { silent: true, .. } => {}
                Owed::Running { .. } | Owed::Waiting { .. } => break,
            }
        }
        while matches!(self.owed.front(), Some(Owed::Settled(frame)) if frame.is_empty()) {
            self.owed.pop_front();
        }
        if self.owed.is_empty() {
            self.owed = VecDeque::new();
        }
    }

    /// The API's PUT is never answered.
    fn is_silent(&self, request: &Message<'_>) -> bool {
        self.wire == Wire::Api && matches!(request, Message::Put { .. })
    }

    fn at(&mut self, place: u64) -> Option<&mut Owed> {
        let index = place.checked_sub(self.first_place())?;
        self.owed.get_mut(index as usize)
    }

    fn first_place(&self) -> u64 {
        self.next_place - self.owed.len() as u64
    }

    fn push(&mut self, owed: Owed) -> u64 {
        self.owed.push_back(owed);
        self.next_place += 1;
        self.next_place - 1
    }

    fn frame(&self, message: &Message<'_>) -> Vec<u8> {
        let mut frame = Vec::new();
        self.encode(message, &mut frame);
        frame
    }

    fn encode(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        match self.wire {
            Wire::Sealed => Sealed::encode(message, out),
            Wire::Api => VoidPhone::encode(message, out),
        }
    }

    // ---- requests of ours ----

    /// Sends a request of ours.
    pub fn ask(&mut self, asked: Asked<A>, outbox: &mut Vec<u8>) {
        let before = outbox.len();
        self.encode(&asked.request.message(), outbox);
        let bytes = outbox.len() - before;
        self.asked_bytes += bytes;
        self.asked.push_back((asked, bytes));
    }

    /// When the oldest request that awaits its answer was sent.
    pub fn oldest_asked(&self) -> Option<Time> {
        self.asked.front().map(|(asked, _)| asked.at)
    }

    /// Takes all requests that await an answer, because none will come.
    pub fn take_asked(&mut self) -> Vec<Asked<A>> {
        self.asked_bytes = 0;
        std::mem::take(&mut self.asked).into_iter().map(|(asked, _)| asked).collect()
    }

    /// Panics unless the sums are right. For debug builds and tests.
    pub fn check_invariants(&self) {
        let settled = self.owed.iter().map(|o| if let Owed::Settled(frame) = o { frame.len() } else { 0 });
        assert_eq!(self.settled_bytes, settled.sum::<usize>());
        let waiting = self.owed.iter().map(|o| if let Owed::Waiting { frame, .. } = o { frame.len() } else { 0 });
        assert_eq!(self.waiting_bytes, waiting.sum::<usize>());
        assert_eq!(self.running, self.owed.iter().filter(|o| matches!(o, Owed::Running { .. })).count());
        assert_eq!(self.waiting, self.owed.iter().filter(|o| matches!(o, Owed::Waiting { .. })).count());
        assert_eq!(self.asked_bytes, self.asked.iter().map(|(_, bytes)| bytes).sum::<usize>());
        assert!(self.running <= OWED_JOBS && self.asked.len() <= ASKED);
    }
}

/// The API has no error message: whatever is wrong closes (sealed.md, "The VoidPhone API").
fn judge_api<A>(frame: &[u8]) -> Cut<'_, A> {
    let len = frame.len();
    match VoidPhone::decode(frame) {
        Ok(message @ (Message::Put { .. } | Message::Get { .. })) => Cut::Request { len, message },
        Ok(_) | Err(FrameError::UnknownType(_)) => Cut::Fatal { breach: Breach::UnknownType, code: None },
        Err(FrameError::Malformed(_) | FrameError::Checksum | FrameError::Size(_)) => {
            Cut::Fatal { breach: Breach::Malformed, code: None }
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
