//! The answers that a connection is owed while jobs are under way or requests wait, in the order of the requests. Part of
//! the session; holds frames and places, and decides nothing about what a request means. Most connections never need one.

use std::collections::VecDeque;

use crate::dialect::sealed::codec::Message;
use crate::id::Id;
use crate::limits::{OWED_ANSWERS, OWED_BYTES, OWED_JOBS};
use crate::time::Time;

/// A request that could not be started yet, taken out to be started now.
#[derive(Debug)]
pub struct DeferredRequest {
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
pub struct Access {
    key: Id,
    writes: bool,
}

impl Access {
    /// What `request` does, if it is to a key.
    pub fn of(request: &Message<'_>) -> Option<Access> {
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

/// The answers owed, oldest first; empty most of the time, when answers go out at once.
#[derive(Debug, Default)]
pub struct Owing {
    owed: VecDeque<Owed>,
    /// Bytes of settled answers that could not leave yet.
    settled_bytes: usize,
    /// Bytes of requests that wait.
    waiting_bytes: usize,
    /// The place that the next request will take.
    next_place: u64,
    running: usize,
    waiting: usize,
}

impl Owing {
    /// Whether nothing is owed. Places may begin anew then: nobody knows any.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.settled_bytes + self.waiting_bytes
    }

    /// Whether more requests may be taken in.
    pub fn has_room(&self) -> bool {
        self.owed.len() < OWED_ANSWERS && self.bytes() < OWED_BYTES
    }

    /// Whether requests wait to be started.
    pub fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Whether `request` must wait: too many jobs are owed already, or an earlier request of the same key is not done.
    pub fn must_wait(&self, request: &Message<'_>) -> bool {
        self.running >= OWED_JOBS || self.is_blocked(Access::of(request), self.owed.len())
    }

    /// Takes in the frame of a request that must wait.
    pub fn wait(&mut self, frame: &[u8], access: Option<Access>, silent: bool, since: Time) {
        self.waiting_bytes += frame.len();
        self.waiting += 1;
        self.push(Owed::Waiting { frame: frame.to_vec(), access, silent, since });
    }

    /// The next waiting request that may start now.
    pub fn next_startable(&mut self) -> Option<DeferredRequest> {
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
        let held = DeferredRequest { place, frame: std::mem::take(frame), since: *since };
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

    /// Queues an answer that must not overtake those owed before it.
    pub fn queue(&mut self, frame: Vec<u8>) {
        self.settled_bytes += frame.len();
        self.push(Owed::Settled(frame));
    }

    /// Owes the outcome of a job; returns its place.
    pub fn owe(&mut self, access: Option<Access>, silent: bool) -> u64 {
        self.running += 1;
        self.push(Owed::Running { access, silent })
    }

    /// What the job at `place` writes can be read from now on, although it is not done yet.
    pub fn unblock(&mut self, place: u64) {
        if let Some(Owed::Running { access, .. }) = self.at(place) {
            *access = None;
        }
    }

    /// Settles what is owed at `place` with the answer in `frame`, which is empty for silence.
    pub fn settle(&mut self, place: u64, frame: Vec<u8>) {
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

    /// Panics unless the sums are right. For debug builds and tests.
    pub fn check_invariants(&self) {
        let settled = self.owed.iter().map(|o| if let Owed::Settled(frame) = o { frame.len() } else { 0 });
        assert_eq!(self.settled_bytes, settled.sum::<usize>());
        let waiting = self.owed.iter().map(|o| if let Owed::Waiting { frame, .. } = o { frame.len() } else { 0 });
        assert_eq!(self.waiting_bytes, waiting.sum::<usize>());
        assert_eq!(self.running, self.owed.iter().filter(|o| matches!(o, Owed::Running { .. })).count());
        assert_eq!(self.waiting, self.owed.iter().filter(|o| matches!(o, Owed::Waiting { .. })).count());
        assert!(self.running <= OWED_JOBS);
    }
}
