//! A readers-writer lock for each key, over the requests of one connection: requests that touch the same key run in the
//! order in which they came; reads run together, and each write runs alone. Part of the session; never holds a frame,
//! and never starts a request.

use std::collections::{BTreeMap, VecDeque};

use crate::dialect::sealed::codec::Message;
use crate::id::Id;

/// The place of a request in the order of its connection's requests. Counts up from 0 while any answer is owed.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Place(pub u64);

impl Place {
    /// The place that is `n` places after this one.
    #[must_use]
    pub fn plus(self, n: usize) -> Place {
        Place(self.0 + n as u64)
    }
}

/// How a request touches a key.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// The key.
    pub key: Id,
    /// Whether the request changes the value of the key.
    pub writes: bool,
}

impl Access {
    /// The access of `request`; `None` if it touches no key.
    pub fn of(request: &Message<'_>) -> Option<Access> {
        match request {
            Message::Get { key } | Message::FindValue { key } => Some(Access { key: *key, writes: false }),
            Message::Put { key, .. } => Some(Access { key: *key, writes: true }),
            _ => None,
        }
    }
}

/// Fair readers-writer locks: which requests hold the lock of a key, and which wait for it.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct KeyLocks {
    /// Sorted by key. There are at most as many as a connection may be owed answers, so an insertion costs a fraction
    /// of a microsecond at worst. A tree would add 8 KB to the program.
    keys: Vec<KeyQueue>,
}

/// The requests of one key, of which at least one holds the lock.
#[derive(PartialEq, Eq, Debug)]
struct KeyQueue {
    key: Id,
    /// How many hold the lock: any number of reads, or one write.
    active: u32,
    /// Whether one of them writes.
    is_written: bool,
    /// The requests that wait for the lock, oldest first.
    blocked: VecDeque<Blocked>,
}

#[derive(PartialEq, Eq, Debug)]
struct Blocked {
    place: Place,
    writes: bool,
}

impl KeyQueue {
    /// Whether another request may hold the lock beside those that do.
    fn admits(&self, writes: bool) -> bool {
        self.active == 0 || !(writes || self.is_written)
    }

    fn activate(&mut self, writes: bool) {
        self.active += 1;
        self.is_written |= writes;
    }

    /// One request releases the lock. Calls `grant` with the place of each waiting request that holds it then.
    fn deactivate(&mut self, grant: &mut impl FnMut(Place)) {
        self.active -= 1;
        self.is_written &= self.active > 0;
        while let Some(&Blocked { place, writes }) = self.blocked.front().filter(|next| self.admits(next.writes)) {
            self.blocked.pop_front();
            self.activate(writes);
            grant(place);
        }
    }
}

impl KeyLocks {
    /// Whether a new request with this access would get the lock at once: no earlier request of its key stands in the
    /// way.
    pub fn is_free(&self, access: Access) -> bool {
        match self.find(access.key) {
            Ok(at) => self.keys[at].blocked.is_empty() && self.keys[at].admits(access.writes),
            Err(_) => true,
        }
    }

    /// Adds the newest request. Returns whether it has the lock; if not, [`KeyLocks::unlock`] grants it later.
    pub fn lock_or_queue(&mut self, place: Place, access: Access) -> bool {
        let is_admitted = self.is_free(access);
        let queue = self.queue_of(access.key);
        if is_admitted {
            queue.activate(access.writes);
        } else {
            queue.blocked.push_back(Blocked { place, writes: access.writes });
        }
        is_admitted
    }

    /// Adds the newest request as one that has the lock, which [`KeyLocks::is_free`] must allow.
    pub fn lock(&mut self, access: Access) {
        debug_assert!(self.is_free(access), "a request was started without its lock");
        self.queue_of(access.key).activate(access.writes);
    }

    /// A request with this access releases its lock. Calls `grant` with the place of each waiting request that has the
    /// lock then.
    pub fn unlock(&mut self, access: Access, mut grant: impl FnMut(Place)) {
        if let Ok(at) = self.find(access.key) {
            self.keys[at].deactivate(&mut grant);
            if self.keys[at].active == 0 {
                self.keys.remove(at);
            }
        }
    }

    /// The index of the key, or else (`Err`) the index where it belongs.
    fn find(&self, key: Id) -> Result<usize, usize> {
        self.keys.binary_search_by(|queue| queue.key.cmp(&key))
    }

    fn queue_of(&mut self, key: Id) -> &mut KeyQueue {
        let at = self.find(key).unwrap_or_else(|at| {
            self.keys.insert(at, KeyQueue { key, active: 0, is_written: false, blocked: VecDeque::new() });
            at
        });
        &mut self.keys[at]
    }

    /// Panics unless `requests` are exactly those that were added and have not released their lock. They come oldest
    /// first, each with whether it has its lock. For debug builds and tests.
    pub fn check_invariants(&self, requests: impl Iterator<Item = (Place, Access, bool)>) {
        let mut expected = KeyLocks::default();
        // For each key seen so far, whether one of its requests writes.
        let mut written: BTreeMap<Id, bool> = BTreeMap::new();
        for (place, Access { key, writes }, has_lock) in requests {
            let is_blocked = written.get(&key).is_some_and(|is_written| writes || *is_written);
            assert_eq!(has_lock, !is_blocked, "the lock of {place:?}");
            *written.entry(key).or_default() |= writes;
            let queue = expected.queue_of(key);
            if is_blocked {
                queue.blocked.push_back(Blocked { place, writes });
            } else {
                queue.activate(writes);
            }
        }
        assert_eq!(*self, expected);
        assert!(self.keys.is_sorted_by(|a, b| a.key < b.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Id = Id([1; 32]);
    const READ: Access = Access { key: KEY, writes: false };
    const WRITE: Access = Access { key: KEY, writes: true };

    /// Requests of one key, in order. Each step returns the places of the requests that get the lock.
    #[derive(Default)]
    struct Line {
        locks: KeyLocks,
        places: u64,
    }

    impl Line {
        fn join(&mut self, access: Access) -> bool {
            self.places += 1;
            self.locks.lock_or_queue(Place(self.places - 1), access)
        }

        fn leave(&mut self, access: Access) -> Vec<Place> {
            let mut granted = Vec::new();
            self.locks.unlock(access, |place| granted.push(place));
            granted
        }
    }

    #[test]
    fn reads_share_a_lock_and_a_write_waits_for_all_of_them() {
        let mut line = Line::default();
        assert!(line.join(READ) && line.join(READ) && !line.join(WRITE));
        assert_eq!(line.leave(READ), []);
        assert_eq!(line.leave(READ), [Place(2)]);
    }

    #[test]
    fn no_read_overtakes_a_write_that_waits() {
        let mut line = Line::default();
        assert!(line.join(READ) && !line.join(WRITE));
        assert!(!line.locks.is_free(READ) && !line.join(READ) && !line.join(READ) && !line.join(WRITE));
        assert_eq!(line.leave(READ), [Place(1)]);
        assert_eq!(line.leave(WRITE), [Place(2), Place(3)]);
        assert_eq!(line.leave(READ), []);
        assert_eq!(line.leave(READ), [Place(4)]);
        assert!(!line.locks.is_free(READ), "the last write is under way");
        assert_eq!(line.leave(WRITE), []);
        assert!(line.locks.keys.is_empty(), "a key that nobody touches takes no memory");
    }

    #[test]
    fn other_keys_are_not_in_the_way() {
        let mut line = Line::default();
        let other = Access { key: Id([2; 32]), writes: true };
        assert!(line.join(WRITE) && line.join(other));
        assert!(!line.locks.is_free(READ) && !line.locks.is_free(Access { writes: false, ..other }));
        assert_eq!(line.leave(other), []);
        assert!(line.locks.is_free(other) && !line.locks.is_free(READ));
    }
}
