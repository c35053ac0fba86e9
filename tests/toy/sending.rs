//! What is to leave on one connection, and in which order: the rest of a large message, as nothing can stand between its
//! pieces; then answers, each when its time has come; then requests and shouts, once the peer has said HELLO; then BYE.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::codec::{LARGE_HEAD, Message, Toy, large_head};
use super::{ASK_MS, ASKED, ENTRY_BYTES, OWED, PIECE, WAITING_BYTES};
use crate::dialect::stream::Context;
use crate::dialect::{CallId, Codec};
use crate::limits::OUTBOX_SOFT_BYTES;
use crate::time::Time;

/// What an answer carries.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// So many bytes, each the lowest of the request's number.
    Bytes(u16),
    /// The hash of what came.
    Hash([u8; 32]),
}

impl Reply {
    fn encode(self, id: u32, out: &mut Vec<u8>) {
        match self {
            Reply::Bytes(size) => Toy::encode(&Message::Answer { id, bytes: &vec![id as u8; size.into()] }, out),
            Reply::Hash(hash) => Toy::encode(&Message::Answer { id, bytes: &hash }, out),
        }
    }

    /// Whether the answer `bytes` to the request `id` are these.
    fn is(self, id: u32, bytes: &[u8]) -> bool {
        match self {
            Reply::Bytes(size) => bytes.len() == usize::from(size) && bytes.iter().all(|byte| *byte == id as u8),
            Reply::Hash(hash) => bytes == hash,
        }
    }
}

/// A request of ours.
#[derive(Copy, Clone, Debug)]
pub struct Asked {
    /// Who waits for the answer.
    pub call: CallId,
    /// What it must be.
    pub expects: Reply,
}

/// What waits to leave.
#[derive(Debug)]
pub enum Waiting {
    /// ASK.
    Ask(Asked, u16, u16),
    /// LARGE.
    Large(Asked, Arc<[u8]>),
    /// SHOUT.
    Shout(u64, Arc<[u8]>),
}

impl Waiting {
    fn bytes(&self) -> usize {
        match self {
            Waiting::Ask(..) => 0,
            Waiting::Large(_, bytes) | Waiting::Shout(_, bytes) => bytes.len(),
        }
    }

    fn asked(&self) -> Option<Asked> {
        match self {
            Waiting::Ask(asked, ..) | Waiting::Large(asked, _) => Some(*asked),
            Waiting::Shout(..) => None,
        }
    }
}

/// Whether BYE is to be said.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
enum Farewell {
    #[default]
    No,
    Due,
    Said,
}

/// What one side of a connection has to say.
#[derive(Debug, Default)]
pub struct Sending {
    /// With when each came.
    waiting: VecDeque<(Time, Waiting)>,
    waiting_bytes: usize,
    /// Requests that wait for their answers, in the order they were sent.
    asked: BTreeMap<u32, (Time, Asked)>,
    next_id: u32,
    /// Answers whose time has not come, by when it does.
    later: BTreeMap<(Time, u32), Reply>,
    /// Those that may leave.
    due: VecDeque<(u32, Reply)>,
    /// A large message that is leaving, and how far it is.
    large: Option<(Arc<[u8]>, usize)>,
    farewell: Farewell,
}

impl Sending {
    /// Takes in what is to leave, or hands it back: there is too much already.
    pub fn wait(&mut self, what: Waiting, now: Time) -> Result<(), Waiting> {
        let bytes = self.waiting_bytes + what.bytes();
        if self.waiting.len() + self.asked.len() >= ASKED || bytes > WAITING_BYTES || self.farewell != Farewell::No {
            return Err(what);
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back((now, what));
        Ok(())
    }

    /// Owes an answer, not before `at`.
    pub fn owe(&mut self, id: u32, reply: Reply, at: Time, now: Time) {
        if at <= now {
            self.due.push_back((id, reply));
        } else {
            self.later.insert((at, id), reply);
        }
    }

    /// Says BYE once nothing is owed.
    pub fn say_bye(&mut self) {
        if self.farewell == Farewell::No {
            self.farewell = Farewell::Due;
        }
    }

    /// Moves into the outbox what may leave, as long as that is not too full; whether anything did.
    pub fn flush(&mut self, cx: &mut Context<'_>, is_greeted: bool, now: Time) -> bool {
        let mut has_moved = false;
        while cx.outbox.len() < OUTBOX_SOFT_BYTES && self.flush_one(cx, is_greeted, now) {
            has_moved = true;
        }
        self.release();
        has_moved
    }

    fn flush_one(&mut self, cx: &mut Context<'_>, is_greeted: bool, now: Time) -> bool {
        if let Some((bytes, sent)) = &mut self.large {
            let piece = &bytes[*sent..bytes.len().min(*sent + PIECE)];
            cx.request(now, |out| out.extend_from_slice(piece));
            *sent += piece.len();
            self.large.take_if(|(bytes, sent)| *sent == bytes.len());
            return true;
        }
        if let Some((id, reply)) = self.due.pop_front() {
            cx.answer(now, |out| reply.encode(id, out));
            return true;
        }
        if let Some((at, waiting)) = is_greeted.then(|| self.pop_waiting()).flatten() {
            self.begin(cx, at, waiting, now);
            return true;
        }
        let says_bye = self.farewell == Farewell::Due && self.later.is_empty() && self.waiting.is_empty();
        if says_bye {
            self.farewell = Farewell::Said;
            cx.request(now, |out| Toy::encode(&Message::Bye, out));
        }
        says_bye
    }

    fn pop_waiting(&mut self) -> Option<(Time, Waiting)> {
        let (at, waiting) = self.waiting.pop_front()?;
        self.waiting_bytes -= waiting.bytes();
        Some((at, waiting))
    }

    fn begin(&mut self, cx: &mut Context<'_>, at: Time, waiting: Waiting, now: Time) {
        let id = self.next_id;
        match waiting {
            Waiting::Ask(_, after_ms, size) => {
                cx.request(now, |out| Toy::encode(&Message::Ask { id, after_ms, size }, out));
            }
            Waiting::Large(_, ref bytes) => {
                cx.request(now, |out| out.extend_from_slice(&large_head(id, bytes.len())));
                self.large = Some((bytes.clone(), 0)).filter(|(bytes, _)| !bytes.is_empty());
            }
            Waiting::Shout(id, ref text) => cx.request(now, |out| Toy::encode(&Message::Shout { id, text }, out)),
        }
        if let Some(asked) = waiting.asked() {
            self.next_id = self.next_id.wrapping_add(1);
            self.asked.insert(id, (at, asked));
        }
    }

    /// An answer came: who waits for it, and whether it is right. `None`: nobody does.
    pub fn answered(&mut self, id: u32, bytes: &[u8]) -> Option<(CallId, bool)> {
        let (_, asked) = self.asked.remove(&id)?;
        Some((asked.call, asked.expects.is(id, bytes)))
    }

    /// No answer will come: who waited for one. What is owed stays, and the rest of a large message, without which
    /// nothing else could leave.
    pub fn lose(&mut self) -> Vec<CallId> {
        let mut lost: Vec<CallId> = self.asked.values().map(|(_, asked)| asked.call).collect();
        lost.extend(self.waiting.iter().filter_map(|(_, waiting)| Some(waiting.asked()?.call)));
        self.asked.clear();
        self.drop_waiting();
        lost
    }

    /// What waits to be begun is forgotten.
    pub fn drop_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.release();
    }

    /// Gives up what was asked too long ago: who waited for it.
    pub fn expire(&mut self, now: Time) -> Vec<CallId> {
        let mut expired = Vec::new();
        while self.asked.first_key_value().is_some_and(|(_, (at, _))| at.after(ASK_MS) <= now) {
            expired.extend(self.asked.pop_first().map(|(_, (_, asked))| asked.call));
        }
        while self.waiting.front().is_some_and(|(at, _)| at.after(ASK_MS) <= now) {
            expired.extend(self.pop_waiting().and_then(|(_, waiting)| Some(waiting.asked()?.call)));
        }
        self.release();
        expired
    }

    /// Answers whose time has come may leave.
    pub fn ripen(&mut self, now: Time) {
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, id), reply) = entry.remove_entry();
            self.due.push_back((id, reply));
        }
    }

    /// When [`Sending::expire`] or [`Sending::ripen`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let asked = self.asked.first_key_value().map(|(_, (at, _))| at.after(ASK_MS));
        let waiting = self.waiting.front().map(|(at, _)| at.after(ASK_MS));
        let later = self.later.first_key_value().map(|((at, _), _)| *at);
        [asked, waiting, later].into_iter().flatten().min()
    }

    /// Whether more answers may be owed.
    pub fn has_room(&self) -> bool {
        self.later.len() + self.due.len() < OWED
    }

    /// Whether something is to leave without another word of the peer, HELLO aside.
    pub fn owes(&self, is_greeted: bool) -> bool {
        let may_leave = is_greeted && !self.waiting.is_empty();
        let owes = self.large.is_some() || !self.due.is_empty() || !self.later.is_empty();
        owes || may_leave || self.farewell == Farewell::Due
    }

    /// Whether somebody waits for an answer.
    pub fn awaits(&self) -> bool {
        !self.asked.is_empty() || self.waiting.iter().any(|(_, waiting)| waiting.asked().is_some())
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let entries = self.waiting.capacity() + self.due.capacity() + self.asked.len() + self.later.len();
        let large = self.large.as_ref().map_or(0, |(bytes, _)| bytes.len());
        entries * ENTRY_BYTES + self.waiting_bytes + large
    }

    /// Gives back the memory of what is empty.
    fn release(&mut self) {
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        if self.due.is_empty() {
            self.due = VecDeque::new();
        }
    }

    /// Panics unless the sums are right.
    pub fn check_invariants(&self) {
        assert_eq!(self.waiting_bytes, self.waiting.iter().map(|(_, waiting)| waiting.bytes()).sum::<usize>());
        assert!(self.waiting.len() + self.asked.len() <= ASKED && self.waiting_bytes <= WAITING_BYTES);
        assert!(self.later.len() + self.due.len() <= OWED, "has_room() was asked before");
        assert!(self.large.as_ref().is_none_or(|(bytes, sent)| *sent < bytes.len()));
    }
}

const _: () = assert!(LARGE_HEAD + OUTBOX_SOFT_BYTES + PIECE < crate::limits::OUTBOX_HARD_BYTES);
const _: () = assert!(size_of::<(Time, Waiting)>() <= ENTRY_BYTES);
