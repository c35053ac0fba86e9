//! The answers owed on one connection, in the order of the requests, while jobs are in progress or requests wait. Part
//! of the session; holds frames and places, and never decides what a request means. Most connections never need one.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use crate::dialect::sealed::codec::Message;
use crate::dialect::sealed::key_locks::{Access, KeyLocks, Place};
use crate::limits::{OWED_ANSWER_BYTES, OWED_ANSWERS, OWED_ANSWERS_BYTES, OWED_BYTES, OWED_JOBS};
use crate::time::Time;

/// A request that had to wait and can start now.
#[derive(PartialEq, Eq, Debug)]
pub struct DeferredRequest {
    /// Its place in the order of answers.
    pub place: Place,
    /// Its frame.
    pub frame: Vec<u8>,
    /// When it came.
    pub since: Time,
}

/// What the peer expects in return for its request.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Expects {
    /// An answer. Later answers must not overtake it.
    Answer,
    /// Nothing, whatever the outcome. Later answers need not wait for it.
    Silence,
}

/// The state of one request.
#[derive(Debug)]
enum Owed {
    /// Not started. The request holds the lock for `access` if it is in `startable`.
    Waiting { frame: Vec<u8>, access: Option<Access>, expects: Expects, since: Time },
    /// A job is in progress. It holds the lock for `access`, and other requests of the key wait for it.
    Running { access: Option<Access>, expects: Expects },
    /// Answered by this frame, which is empty if the peer expects nothing, and once it has been sent.
    Settled(Vec<u8>),
}

impl Owed {
    fn holds_back_later_answers(&self) -> bool {
        match self {
            Owed::Waiting { expects, .. } | Owed::Running { expects, .. } => *expects == Expects::Answer,
            Owed::Settled(_) => false,
        }
    }
}

/// The answers owed, in the order of the requests. No event searches them: a heap holds what may start, and what may be
/// sent lies between two places that only move forward.
#[derive(Debug, Default)]
pub struct OwedAnswers {
    /// By place, oldest first.
    owed: VecDeque<Owed>,
    /// The place of the first entry of `owed`.
    first: Place,
    /// The first place whose answer may not have been sent yet.
    unsent: Place,
    /// No place before this one holds back later answers. Only moved forward when somebody needs to know.
    barrier: Place,
    /// The locks of the keys, for all requests that are neither settled nor unblocked.
    locks: KeyLocks,
    /// Places of the waiting requests that hold their lock or need none. The first one is on top.
    startable: BinaryHeap<Reverse<Place>>,
    running: usize,
    /// Bytes of the frames of waiting requests.
    waiting_bytes: usize,
    /// Bytes of the settled answers that have not been sent.
    settled_bytes: usize,
    /// How often an entry was accessed.
    #[cfg(test)]
    looks: usize,
}

impl OwedAnswers {
    /// Whether nothing is owed. Then no place is in use, so they may start from 0 again.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Memory in bytes that the owed answers take, roughly.
    pub fn bytes(&self) -> usize {
        self.frame_bytes() + self.owed.len() * OWED_ANSWER_BYTES + OWED_ANSWERS_BYTES
    }

    fn frame_bytes(&self) -> usize {
        self.settled_bytes + self.waiting_bytes
    }

    /// Whether there is room for more requests.
    pub fn has_room(&self) -> bool {
        self.owed.len() < OWED_ANSWERS && self.frame_bytes() < OWED_BYTES
    }

    /// Whether requests wait to be started. For tests: searches all entries.
    pub fn has_waiting(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::Waiting { .. }))
    }

    // ---- requests come ----

    /// Whether `request` must wait: too many jobs are in progress, or an earlier request of the same key is not done
    /// and one of the two writes.
    pub fn must_wait(&self, request: &Message<'_>) -> bool {
        self.running >= OWED_JOBS || Access::of(request).is_some_and(|access| !self.locks.is_free(access))
    }

    /// Defers a request that came at `since`: keeps its frame until it may start. The request waits even if it need
    /// not.
    pub fn defer(&mut self, frame: &[u8], access: Option<Access>, expects: Expects, since: Time) {
        let place = self.push(Owed::Waiting { frame: frame.to_vec(), access, expects, since });
        self.waiting_bytes += frame.len();
        if access.is_none_or(|access| self.locks.lock_or_queue(place, access)) {
            self.startable.push(Reverse(place));
        }
    }

    /// Adds a request that a job answers, and that need not wait. Returns its place.
    pub fn owe(&mut self, access: Option<Access>, expects: Expects) -> Place {
        let place = self.push(Owed::Running { access, expects });
        self.running += 1;
        if let Some(access) = access {
            self.locks.lock(access);
        }
        place
    }

    /// Adds the answer to a request that needs no job. It must not overtake the answers owed before it.
    pub fn queue(&mut self, frame: Vec<u8>) {
        self.settled_bytes += frame.len();
        self.push(Owed::Settled(frame));
    }

    // ---- they are started and done ----

    /// The frame of the request that [`OwedAnswers::next_startable`] would start, if no bound held it back.
    pub fn peek_startable(&self) -> Option<&[u8]> {
        let Reverse(place) = self.startable.peek()?;
        match self.owed.get(place.0.checked_sub(self.first.0)? as usize)? {
            Owed::Waiting { frame, .. } => Some(frame),
            Owed::Running { .. } | Owed::Settled(_) => None,
        }
    }

    /// The first waiting request that may start. From now on it counts as a running job.
    pub fn next_startable(&mut self) -> Option<DeferredRequest> {
        let Reverse(place) = *self.startable.peek().filter(|_| self.running < OWED_JOBS)?;
        if self.settled_bytes >= OWED_BYTES {
            // Many bytes wait to be sent. Only a request that holds them back may start, or else they could never be
            // sent.
            self.advance_barrier();
            if self.barrier < place {
                return None;
            }
        }
        self.startable.pop();
        let owed = self.at(place)?;
        let Owed::Waiting { frame, access, expects, since } = owed else {
            return None;
        };
        let started = DeferredRequest { place, frame: std::mem::take(frame), since: *since };
        *owed = Owed::Running { access: *access, expects: *expects };
        self.waiting_bytes -= started.frame.len();
        self.running += 1;
        Some(started)
    }

    /// The value that the job at `place` writes can be read from now on, although the job is not done.
    pub fn unblock(&mut self, place: Place) {
        if let Some(Owed::Running { access, .. }) = self.at(place) {
            let access = access.take();
            self.release_lock(access);
        }
    }

    /// Answers the request at `place` by `frame`; an empty one means that it gets no answer. Does nothing if no job is
    /// in progress there.
    pub fn settle(&mut self, place: Place, frame: Vec<u8>) {
        let Some(owed) = self.at(place) else {
            return;
        };
        let Owed::Running { access, expects } = *owed else {
            return;
        };
        let frame = if expects == Expects::Answer { frame } else { Vec::new() };
        let len = frame.len();
        *owed = Owed::Settled(frame);
        self.settled_bytes += len;
        self.running -= 1;
        self.release_lock(access);
    }

    /// Forgets the waiting requests: they will not start, and get no answer. Looks at every entry, which each
    /// connection does once, at its end.
    pub fn drop_waiting(&mut self) {
        (self.locks, self.startable) = Default::default();
        for owed in &mut self.owed {
            match owed {
                Owed::Waiting { .. } => *owed = Owed::Settled(Vec::new()),
                Owed::Running { access: Some(access), .. } => self.locks.lock(*access),
                Owed::Running { access: None, .. } | Owed::Settled(_) => {}
            }
        }
        self.waiting_bytes = 0;
    }

    fn release_lock(&mut self, access: Option<Access>) {
        if let Some(access) = access {
            self.locks.unlock(access, |place| self.startable.push(Reverse(place)));
        }
    }

    // ---- answers leave ----

    /// Moves settled answers that no earlier request holds back into `outbox`, until it has grown by `room` bytes or a
    /// little more.
    pub fn release(&mut self, outbox: &mut Vec<u8>, room: usize) {
        let full_at = outbox.len() + room;
        self.advance_barrier();
        while self.unsent < self.barrier && outbox.len() < full_at {
            if let Some(Owed::Settled(frame)) = self.at(self.unsent) {
                let mut frame = std::mem::take(frame);
                self.settled_bytes -= frame.len();
                outbox.append(&mut frame);
            }
            self.unsent = self.unsent.plus(1);
        }
        while matches!(self.owed.front(), Some(Owed::Settled(frame)) if frame.is_empty()) {
            self.owed.pop_front();
            self.first = self.first.plus(1);
        }
        self.unsent = self.unsent.max(self.first);
    }

    /// Moves the barrier past all requests that no longer hold back later answers.
    fn advance_barrier(&mut self) {
        while self.at(self.barrier).is_some_and(|owed| !owed.holds_back_later_answers()) {
            self.barrier = self.barrier.plus(1);
        }
    }

    fn at(&mut self, place: Place) -> Option<&mut Owed> {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        let index = place.0.checked_sub(self.first.0)?;
        self.owed.get_mut(index as usize)
    }

    fn push(&mut self, owed: Owed) -> Place {
        let place = self.first.plus(self.owed.len());
        self.owed.push_back(owed);
        place
    }

    /// Panics unless the sums are correct and each request waits for exactly those requests for which it must wait. For
    /// debug builds and tests.
    pub fn check_invariants(&self) {
        let (mut startable, mut running, mut waiting_bytes, mut settled_bytes) = (0, 0, 0, 0);
        let all_startable: BTreeSet<Place> = self.startable.iter().map(|Reverse(place)| *place).collect();
        let mut accesses = Vec::new();
        for (place, owed) in self.owed.iter().enumerate().map(|(index, owed)| (self.first.plus(index), owed)) {
            match owed {
                Owed::Waiting { frame, access, .. } => {
                    let is_startable = all_startable.contains(&place);
                    assert!(is_startable || access.is_some(), "a request without a key waits for nobody");
                    accesses.extend(access.map(|access| (place, access, is_startable)));
                    startable += usize::from(is_startable);
                    waiting_bytes += frame.len();
                }
                Owed::Running { access, .. } => {
                    accesses.extend(access.map(|access| (place, access, true)));
                    running += 1;
                }
                Owed::Settled(frame) => {
                    assert!(frame.is_empty() || place >= self.unsent, "a frame that was sent is not kept");
                    settled_bytes += frame.len();
                }
            }
            assert!(place >= self.barrier || !owed.holds_back_later_answers());
        }
        self.locks.check_invariants(accesses.into_iter());
        assert_eq!((self.startable.len(), self.running), (startable, running));
        assert_eq!((self.waiting_bytes, self.settled_bytes), (waiting_bytes, settled_bytes));
        assert!(self.first <= self.unsent && self.unsent <= self.barrier, "nothing is sent from behind the barrier");
        assert!(self.running <= OWED_JOBS);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Id;

    /// The reference: the code as it was before it had to be fast, one list that every question searches from the
    /// start.
    #[derive(Default)]
    struct Model {
        slots: Vec<Slot>,
        first: Place,
    }

    struct Slot {
        stage: Stage,
        /// The access for which other requests wait.
        access: Option<Access>,
        expects: Expects,
    }

    #[derive(PartialEq, Eq, Clone, Debug)]
    enum Stage {
        Waiting { frame: Vec<u8>, since: Time },
        Running,
        Settled(Vec<u8>),
    }

    impl Slot {
        fn holds_back(&self) -> bool {
            self.expects == Expects::Answer && !matches!(self.stage, Stage::Settled(_))
        }
    }

    impl Model {
        fn count(&self, is_counted: impl Fn(&Stage) -> bool) -> usize {
            self.slots.iter().filter(|slot| is_counted(&slot.stage)).count()
        }

        fn settled_bytes(&self) -> usize {
            self.slots.iter().map(|slot| if let Stage::Settled(frame) = &slot.stage { frame.len() } else { 0 }).sum()
        }

        fn waiting_bytes(&self) -> usize {
            let waiting = |slot: &Slot| if let Stage::Waiting { frame, .. } = &slot.stage { frame.len() } else { 0 };
            self.slots.iter().map(waiting).sum()
        }

        fn has_room(&self) -> bool {
            self.slots.len() < OWED_ANSWERS && self.settled_bytes() + self.waiting_bytes() < OWED_BYTES
        }

        fn has_waiting(&self) -> bool {
            self.count(|stage| matches!(stage, Stage::Waiting { .. })) > 0
        }

        fn running(&self) -> usize {
            self.count(|stage| *stage == Stage::Running)
        }

        fn is_blocked(&self, access: Option<Access>, before: usize) -> bool {
            let conflicts = |a: Access| {
                let mut earlier = self.slots[..before].iter().filter_map(|slot| slot.access);
                earlier.any(|b| a.key == b.key && (a.writes || b.writes))
            };
            access.is_some_and(conflicts)
        }

        fn must_wait(&self, access: Option<Access>) -> bool {
            self.running() >= OWED_JOBS || self.is_blocked(access, self.slots.len())
        }

        fn push(&mut self, stage: Stage, access: Option<Access>, expects: Expects) -> Place {
            self.slots.push(Slot { stage, access, expects });
            self.place(self.slots.len() - 1)
        }

        fn next_startable(&mut self) -> Option<DeferredRequest> {
            let is_startable = |at: usize| {
                matches!(self.slots[at].stage, Stage::Waiting { .. }) && !self.is_blocked(self.slots[at].access, at)
            };
            let at = (0..self.slots.len()).find(|at| is_startable(*at))?;
            let is_held_back = self.slots[..at].iter().any(Slot::holds_back);
            if self.running() >= OWED_JOBS || (self.settled_bytes() >= OWED_BYTES && is_held_back) {
                return None;
            }
            match std::mem::replace(&mut self.slots[at].stage, Stage::Running) {
                Stage::Waiting { frame, since } => Some(DeferredRequest { place: self.place(at), frame, since }),
                _ => unreachable!(),
            }
        }

        fn running_at(&mut self, place: Place) -> Option<&mut Slot> {
            let at = (0..self.slots.len()).find(|at| self.place(*at) == place)?;
            Some(&mut self.slots[at]).filter(|slot| slot.stage == Stage::Running)
        }

        fn unblock(&mut self, place: Place) {
            if let Some(slot) = self.running_at(place) {
                slot.access = None;
            }
        }

        fn settle(&mut self, place: Place, frame: Vec<u8>) {
            if let Some(slot) = self.running_at(place) {
                slot.access = None;
                slot.stage = Stage::Settled(if slot.expects == Expects::Answer { frame } else { Vec::new() });
            }
        }

        fn drop_waiting(&mut self) {
            for slot in self.slots.iter_mut().filter(|slot| matches!(slot.stage, Stage::Waiting { .. })) {
                slot.access = None;
                slot.stage = Stage::Settled(Vec::new());
            }
        }

        fn release(&mut self, outbox: &mut Vec<u8>, room: usize) {
            let full_at = outbox.len() + room;
            for slot in &mut self.slots {
                match &mut slot.stage {
                    Stage::Settled(frame) if outbox.len() < full_at => outbox.append(frame),
                    Stage::Settled(_) => break,
                    Stage::Waiting { .. } | Stage::Running if slot.expects == Expects::Silence => {}
                    Stage::Waiting { .. } | Stage::Running => break,
                }
            }
            while self.slots.first().is_some_and(|slot| slot.stage == Stage::Settled(Vec::new())) {
                self.slots.remove(0);
                self.first = self.first.plus(1);
            }
        }

        fn place(&self, at: usize) -> Place {
            self.first.plus(at)
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// Equal requests come: the kind of request, whether it expects silence, what happens to it, the bytes of its
        /// frame, and how many come.
        Come(u8, bool, Fate, usize, usize),
        Start(usize),
        /// The place, and the bytes of the frame.
        Settle(Pick, usize),
        Unblock(Pick),
        Release(usize),
        DropWaiting,
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Fate {
        Waits,
        Runs,
        IsAnswered,
    }

    #[derive(Clone, Copy, Debug)]
    enum Pick {
        /// One of the running requests, if there are any.
        Running(usize),
        /// Any place, even one that was never in use.
        Any(u64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let fate = prop_oneof![1 => Just(Fate::Waits), 3 => Just(Fate::Runs), 1 => Just(Fate::IsAnswered)];
        let bytes = || prop_oneof![6 => 1usize..50, 1 => Just(60_000usize)];
        let times = prop_oneof![20 => Just(1usize), 3 => 2usize..15, 1 => 60usize..80];
        let pick = || prop_oneof![6 => any::<usize>().prop_map(Pick::Running), 1 => (0u64..100).prop_map(Pick::Any)];
        let room = prop_oneof![2 => 0usize..200, 1 => Just(100_000usize), 2 => Just(usize::MAX / 2)];
        let op = prop_oneof![
            20 => (0u8..7, prop::bool::weighted(0.2), fate, bytes(), times).prop_map(|(a, b, c, d, e)| Op::Come(a, b, c, d, e)),
            8 => prop_oneof![3 => Just(1usize), 1 => 1usize..100].prop_map(Op::Start),
            12 => (pick(), bytes()).prop_map(|(pick, bytes)| Op::Settle(pick, bytes)),
            3 => pick().prop_map(Op::Unblock),
            6 => room.prop_map(Op::Release),
            1 => Just(Op::DropWaiting),
        ];
        prop::collection::vec(op, 1..120)
    }

    /// The kinds of requests: 0 touches no key, the others read or write one of three.
    fn access_of(kind: u8) -> Option<Access> {
        (kind > 0).then_some(Access { key: Id([kind / 2; 32]), writes: kind % 2 == 0 })
    }

    fn request_of(access: Option<Access>) -> Message<'static> {
        match access {
            None => Message::Ping { nonce: 1 },
            Some(Access { key, writes: false }) => Message::Get { key },
            Some(Access { key, writes: true }) => Message::Put { ttl_s: 1, replication: 1, key, value: b"" },
        }
    }

    /// The model and the tested code, side by side.
    #[derive(Default)]
    struct Pair {
        model: Model,
        owed: OwedAnswers,
        /// The bytes that each has sent.
        left: (Vec<u8>, Vec<u8>),
        /// How many frames were made. Makes each frame unique.
        frames: u64,
    }

    impl Pair {
        fn frame(&mut self, bytes: usize) -> Vec<u8> {
            self.frames += 1;
            self.frames.to_be_bytes().into_iter().cycle().take(bytes + 8).collect()
        }

        fn operate(&mut self, op: &Op) {
            match *op {
                Op::Come(kind, is_silent, fate, bytes, times) => {
                    let expects = if is_silent { Expects::Silence } else { Expects::Answer };
                    (0..times).for_each(|_| self.come(access_of(kind), expects, fate, bytes));
                }
                Op::Start(times) => drop((0..times).take_while(|_| self.start()).count()),
                Op::Settle(pick, bytes) => {
                    let (place, frame) = (self.pick(pick), self.frame(bytes));
                    self.model.settle(place, frame.clone());
                    self.owed.settle(place, frame);
                }
                Op::Unblock(pick) => {
                    let place = self.pick(pick);
                    self.model.unblock(place);
                    self.owed.unblock(place);
                }
                Op::Release(room) => self.release(room),
                Op::DropWaiting => {
                    self.model.drop_waiting();
                    self.owed.drop_waiting();
                }
            }
        }

        fn come(&mut self, access: Option<Access>, expects: Expects, fate: Fate, bytes: usize) {
            let frame = self.frame(bytes);
            if fate == Fate::IsAnswered {
                self.model.push(Stage::Settled(frame.clone()), None, expects);
                self.owed.queue(frame);
            } else if fate == Fate::Waits || self.model.must_wait(access) {
                let since = Time::from_ms(self.frames);
                self.model.push(Stage::Waiting { frame: frame.clone(), since }, access, expects);
                self.owed.defer(&frame, access, expects, since);
            } else {
                let place = self.model.push(Stage::Running, access, expects);
                assert_eq!(self.owed.owe(access, expects), place);
            }
        }

        fn start(&mut self) -> bool {
            let started = self.owed.next_startable();
            assert_eq!(started, self.model.next_startable());
            started.is_some()
        }

        fn release(&mut self, room: usize) {
            self.model.release(&mut self.left.0, room);
            self.owed.release(&mut self.left.1, room);
            assert!(self.left.0 == self.left.1, "the same answers in the same order");
        }

        fn pick(&self, pick: Pick) -> Place {
            let slots = self.model.slots.iter().enumerate();
            let running: Vec<usize> =
                slots.filter(|(_, slot)| slot.stage == Stage::Running).map(|(at, _)| at).collect();
            match pick {
                Pick::Running(n) if !running.is_empty() => self.model.place(running[n % running.len()]),
                Pick::Running(n) => self.model.first.plus(n % 3),
                Pick::Any(n) => Place((self.model.first.0 + n).saturating_sub(3)),
            }
        }

        fn check(&self) {
            self.owed.check_invariants();
            let (model, owed) = (&self.model, &self.owed);
            assert_eq!(owed.is_empty(), model.slots.is_empty());
            assert_eq!(owed.has_room(), model.has_room());
            assert_eq!(owed.has_waiting(), model.has_waiting());
            assert_eq!(owed.frame_bytes(), model.settled_bytes() + model.waiting_bytes());
            for access in (0..7).map(access_of) {
                assert_eq!(owed.must_wait(&request_of(access)), model.must_wait(access), "{access:?}");
            }
        }

        /// Ends all jobs and starts all waiting requests, until nothing is owed.
        fn finish(&mut self) {
            while !self.model.slots.is_empty() {
                while self.start() {}
                while self.model.running() > 0 {
                    self.operate(&Op::Settle(Pick::Running(self.frames as usize), 1));
                }
                self.release(usize::MAX / 2);
            }
            self.check();
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_list_does_that_is_searched_for_every_question(ops in ops()) {
            let mut pair = Pair::default();
            for op in &ops {
                pair.operate(op);
                pair.check();
            }
            pair.finish();
        }
    }

    fn read(key: u8) -> Option<Access> {
        Some(Access { key: Id([key; 32]), writes: false })
    }

    fn write(key: u8) -> Option<Access> {
        Some(Access { key: Id([key; 32]), writes: true })
    }

    fn wait(owed: &mut OwedAnswers, accesses: &[Option<Access>]) {
        for access in accesses {
            owed.defer(b"request", *access, Expects::Answer, Time::ZERO);
        }
    }

    fn start(owed: &mut OwedAnswers) -> Option<Place> {
        owed.next_startable().map(|started| started.place)
    }

    #[test]
    fn answers_leave_in_the_order_of_the_requests() {
        let (mut owed, mut left) = (OwedAnswers::default(), Vec::new());
        let places = [0, 1, 2].map(|key| owed.owe(read(key), Expects::Answer));
        owed.queue(b"3".to_vec());
        owed.settle(places[2], b"2".to_vec());
        owed.settle(places[1], b"1".to_vec());
        owed.release(&mut left, 100);
        assert_eq!(left, b"");
        owed.settle(places[0], b"0".to_vec());
        owed.release(&mut left, 2);
        assert_eq!(left, b"01", "no more than there is room for");
        owed.release(&mut left, 2);
        assert_eq!((&left[..], owed.is_empty()), (&b"0123"[..], true));
    }

    #[test]
    fn an_answer_does_not_wait_for_what_will_be_silent() {
        let (mut owed, mut left) = (OwedAnswers::default(), Vec::new());
        let put = owed.owe(write(1), Expects::Silence);
        owed.defer(b"another put", write(1), Expects::Silence, Time::ZERO);
        let get = owed.owe(read(2), Expects::Answer);
        owed.settle(get, b"value".to_vec());
        owed.release(&mut left, 100);
        assert_eq!(left, b"value");
        owed.settle(put, b"whatever came of it".to_vec());
        let put = start(&mut owed).unwrap();
        assert!(!owed.is_empty(), "the second PUT is under way");
        owed.settle(put, Vec::new());
        owed.release(&mut left, 100);
        assert_eq!((&left[..], owed.is_empty()), (&b"value"[..], true));
    }

    #[test]
    fn a_value_that_can_be_read_is_waited_for_no_longer() {
        let mut owed = OwedAnswers::default();
        let put = owed.owe(write(1), Expects::Answer);
        wait(&mut owed, &[read(1), write(1), read(1)]);
        assert_eq!(start(&mut owed), None);
        owed.unblock(put);
        assert_eq!((start(&mut owed), start(&mut owed)), (Some(put.plus(1)), None));
        // The PUT no longer holds the lock, so its end grants nobody the lock.
        owed.settle(put, b"stored".to_vec());
        assert_eq!(start(&mut owed), None);
        owed.settle(put.plus(1), b"value".to_vec());
        assert_eq!((start(&mut owed), start(&mut owed)), (Some(put.plus(2)), None));
        owed.check_invariants();
    }

    #[test]
    fn no_more_jobs_than_are_allowed_and_the_oldest_that_can_start_is_next() {
        let mut owed = OwedAnswers::default();
        let running: Vec<Place> = (0..OWED_JOBS).map(|_| owed.owe(None, Expects::Answer)).collect();
        assert!(owed.must_wait(&Message::Ping { nonce: 1 }));
        wait(&mut owed, &[write(1), write(1), read(2)]);
        assert_eq!(start(&mut owed), None);
        let first = Place(OWED_JOBS as u64);
        owed.settle(running[9], Vec::new());
        assert_eq!((start(&mut owed), start(&mut owed)), (Some(first), None));
        owed.settle(running[3], Vec::new());
        assert_eq!((start(&mut owed), start(&mut owed)), (Some(first.plus(2)), None));
        owed.settle(running[7], Vec::new());
        assert_eq!(start(&mut owed), None, "the other write is not done");
        owed.check_invariants();
    }

    #[test]
    fn where_much_is_to_be_sent_only_what_holds_it_back_may_start() {
        let (mut owed, mut left) = (OwedAnswers::default(), Vec::new());
        let put = owed.owe(write(1), Expects::Answer);
        wait(&mut owed, &[read(1)]);
        owed.queue(vec![7; OWED_BYTES]);
        wait(&mut owed, &[None]);
        assert_eq!(start(&mut owed), None, "the PUT holds the large answer back, and what waits is behind it");
        owed.unblock(put);
        assert_eq!(start(&mut owed), None, "the GET is behind the PUT");
        owed.settle(put, b"stored".to_vec());
        assert_eq!(
            (start(&mut owed), start(&mut owed)),
            (Some(put.plus(1)), None),
            "the GET is what holds it back now"
        );
        owed.settle(put.plus(1), b"value".to_vec());
        owed.release(&mut left, usize::MAX / 2);
        assert_eq!(left.len(), 11 + OWED_BYTES);
        assert_eq!(start(&mut owed), Some(put.plus(3)));
    }

    #[test]
    fn room_ends_at_so_many_answers_or_so_many_bytes_of_frames() {
        let mut owed = OwedAnswers::default();
        owed.owe(None, Expects::Answer);
        for _ in 1..OWED_ANSWERS {
            assert!(owed.has_room());
            owed.queue(b"pong".to_vec());
        }
        assert!(!owed.has_room());
        let mut owed = OwedAnswers::default();
        owed.defer(&vec![7; OWED_BYTES - 1], None, Expects::Answer, Time::ZERO);
        assert!(owed.has_room());
        owed.queue(vec![7]);
        assert!(!owed.has_room());
    }

    #[test]
    fn requests_that_are_dropped_get_no_answer_and_are_in_nobodys_way() {
        let (mut owed, mut left) = (OwedAnswers::default(), Vec::new());
        let put = owed.owe(write(1), Expects::Answer);
        wait(&mut owed, &[read(1), write(1), read(2), None]);
        owed.drop_waiting();
        owed.check_invariants();
        assert_eq!((owed.has_waiting(), start(&mut owed)), (false, None));
        assert!(!owed.must_wait(&Message::Put { ttl_s: 1, replication: 1, key: Id([2; 32]), value: b"" }));
        owed.queue(b", then an error".to_vec());
        owed.settle(put, b"stored".to_vec());
        owed.release(&mut left, 100);
        assert_eq!((&left[..], owed.is_empty()), (&b"stored, then an error"[..], true));
    }

    /// Adds and ends requests as the engine does: after every event it asks what may start and what may be sent.
    /// Returns how many events there were, and how often an entry was accessed.
    fn looks_at(requests: impl Iterator<Item = (Option<Access>, Expects)>, bytes: usize) -> (usize, usize) {
        let (mut owed, mut left, mut events) = (OwedAnswers::default(), Vec::new(), 0);
        let mut running: VecDeque<Place> = (0..OWED_JOBS).map(|_| owed.owe(None, Expects::Answer)).collect();
        let mut event = |owed: &mut OwedAnswers, running: &mut VecDeque<Place>, room: usize| {
            events += 1;
            while let Some(place) = start(owed) {
                running.push_back(place);
            }
            owed.release(&mut left, room);
        };
        for (access, expects) in requests {
            owed.defer(b"request", access, expects, Time::ZERO);
            event(&mut owed, &mut running, 100);
        }
        // The newest job ends first, and the peer reads one answer at a time.
        while let Some(place) = running.pop_back() {
            owed.settle(place, vec![7; bytes]);
            event(&mut owed, &mut running, 1);
        }
        while !owed.is_empty() {
            event(&mut owed, &mut running, 1);
        }
        (events, owed.looks)
    }

    /// Regression, found by an attack: with a thousand requests waiting, each byte that came cost a search through all
    /// of them, and for each of them a search through all before it.
    #[test]
    fn no_event_costs_a_search_however_many_requests_wait() {
        type Requests = fn(usize) -> (Option<Access>, Expects);
        let courses: [(&str, Requests); 7] = [
            ("reads of one key", |_| (read(1), Expects::Answer)),
            ("writes of one key", |_| (write(1), Expects::Answer)),
            ("of one key in turn", |n| (if n % 2 == 0 { write(1) } else { read(1) }, Expects::Answer)),
            ("many reads behind each write", |n| (if n % 100 == 0 { write(1) } else { read(1) }, Expects::Answer)),
            ("of different keys", |n| (write((n % 250) as u8), Expects::Answer)),
            ("silent ones", |n| (write((n % 250) as u8), Expects::Silence)),
            ("an answer behind silent ones", |n| {
                if n < 900 { (write(1), Expects::Silence) } else { (read(2), Expects::Answer) }
            }),
        ];
        for (name, request) in courses {
            for bytes in [10, OWED_BYTES / 100] {
                let (events, looks) = looks_at((0..1_000).map(request), bytes);
                assert!(looks <= 5 * events, "{name}, {bytes} bytes each: {looks} looks in {events} events");
            }
        }
    }

    #[test]
    fn what_has_left_past_a_silent_one_is_not_looked_at_again() {
        let (mut owed, mut left) = (OwedAnswers::default(), Vec::new());
        let put = owed.owe(write(1), Expects::Silence);
        for _ in 0..1_000 {
            let get = owed.owe(read(2), Expects::Answer);
            owed.release(&mut left, 100);
            owed.settle(get, b"value".to_vec());
            owed.release(&mut left, 100);
        }
        assert_eq!(left.len(), 5_000);
        assert!(owed.looks <= 8_000, "{} looks", owed.looks);
        owed.settle(put, Vec::new());
        owed.release(&mut left, 100);
        assert!(owed.is_empty());
    }
}
