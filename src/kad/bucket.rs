//! One k-bucket: contacts that have answered, in dialects that list them at once also such as only asked, and a few
//! more that wait for one of them to fail. Never displaces a contact that is known good.

use crate::contact::{Contact, Network, network};
use crate::id::{Id, Metric};
use crate::limits::{CONTACT_FAILURES, NETWORK_PER_BUCKET, REPLACEMENT_CACHE};
use crate::time::Time;

/// Entries for which memory is taken at once.
const ENTRIES_AT_ONCE: usize = 10;

/// A contact and what is known of its health.
#[derive(Copy, Clone, Debug)]
pub struct Entry<I = Id> {
    /// The contact.
    pub contact: Contact<I>,
    /// When it last answered; of one that never did, when it was heard of.
    pub answered_at: Time,
    /// Requests in a row that it did not answer.
    pub failures: u8,
    /// It has answered: nothing is believed of others.
    pub is_confirmed: bool,
}

/// What became of a contact that answered.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Insert {
    /// It is an entry now.
    Added,
    /// The bucket is full of others; it waits in the replacement cache.
    Cached,
    /// The bucket has enough of its network (/24 or /64).
    TooManyOfNetwork,
}

/// At most `k` entries and [`REPLACEMENT_CACHE`] waiting contacts.
#[derive(Clone, Debug)]
pub struct Bucket<I = Id> {
    entries: Vec<Entry<I>>,
    /// Oldest answer first.
    cache: Vec<Entry<I>>,
    /// When a lookup last ended in this bucket's range.
    pub looked_up_at: Time,
}

impl<I> Default for Bucket<I> {
    fn default() -> Self {
        Bucket { entries: Vec::new(), cache: Vec::new(), looked_up_at: Time::ZERO }
    }
}

impl<I: Metric> Bucket<I> {
    /// The entries, in no order that matters.
    pub fn entries(&self) -> &[Entry<I>] {
        &self.entries
    }

    /// The waiting contacts.
    pub fn cache(&self) -> &[Entry<I>] {
        &self.cache
    }

    /// Takes both lists out, to be dealt anew over a split.
    pub fn take(&mut self) -> (Vec<Entry<I>>, Vec<Entry<I>>) {
        (std::mem::take(&mut self.entries), std::mem::take(&mut self.cache))
    }

    /// Puts back an entry that [`Bucket::take`] took; there is room, as a split never adds.
    pub fn put_back(&mut self, entry: Entry<I>) {
        self.entries.push(entry);
    }

    /// Whether the entries are full.
    pub fn is_full(&self, k: usize) -> bool {
        self.entries.len() >= k
    }

    /// The entry of `id`.
    pub fn get(&self, id: &I) -> Option<&Entry<I>> {
        self.entries.iter().find(|entry| entry.contact.id == *id)
    }

    /// Whether `net` has all the places here that one network gets, those in the cache included. Loopback (`None`)
    /// never has. Who never answered counts only against others of the kind.
    pub fn has_enough_of(&self, net: Option<Network>, among_unconfirmed: bool) -> bool {
        let all = self.entries.iter().chain(&self.cache).filter(|e| e.is_confirmed || among_unconfirmed);
        net.is_some() && all.filter(|e| network(e.contact.addr.ip()) == net).count() >= NETWORK_PER_BUCKET
    }

    /// Records that `contact` answered at `now`, if it is an entry; whether it is. `id` and address belong together by
    /// the dialect's rules, so an entry that has answered from another address keeps its own.
    pub fn refresh(&mut self, contact: &Contact<I>, now: Time) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|e| e.contact.id == contact.id) else {
            return false;
        };
        if entry.contact.addr == contact.addr || !entry.is_confirmed {
            *entry = Entry { contact: *contact, answered_at: now, failures: 0, is_confirmed: true };
        }
        true
    }

    /// Takes in a contact that is no entry and was only heard of: as an entry if there is room, else it waits, if there
    /// is room for that. Returns whether it is an entry now. `net` is its network, if those are counted.
    pub fn hear(&mut self, contact: Contact<I>, net: Option<Network>, k: usize, now: Time) -> bool {
        let is_waiting = self.cache.iter().any(|e| e.contact.id == contact.id);
        if is_waiting || self.has_enough_of(net, true) {
            return false;
        }
        let entry = Entry { contact, answered_at: now, failures: 0, is_confirmed: false };
        if !self.is_full(k) {
            self.push(entry, k);
            return true;
        }
        if self.cache.len() < REPLACEMENT_CACHE {
            self.cache.push(entry);
        }
        false
    }

    /// Takes in a contact that answered at `now` and is no entry; `net` is its network, if those are counted. One that
    /// is `barred` waits in the cache even if there is room.
    pub fn add(&mut self, contact: Contact<I>, net: Option<Network>, barred: bool, k: usize, now: Time) -> Insert {
        self.cache.retain(|e| e.contact.id != contact.id);
        if self.has_enough_of(net, false) {
            return Insert::TooManyOfNetwork;
        }
        if self.has_enough_of(net, true) {
            // One that answers takes the place of its neighbours that never did.
            let is_unproven = |e: &Entry<I>| !e.is_confirmed && network(e.contact.addr.ip()) == net;
            self.entries.retain(|e| !is_unproven(e));
            self.cache.retain(|e| !is_unproven(e));
        }
        let fresh = Entry { contact, answered_at: now, failures: 0, is_confirmed: true };
        if !barred && !self.is_full(k) {
            self.push(fresh, k);
            return Insert::Added;
        }
        if let Some(worst) = self.displaceable().filter(|_| !barred) {
            self.entries[worst] = fresh;
            return Insert::Added;
        }
        if self.cache.len() == REPLACEMENT_CACHE {
            self.cache.remove(0);
        }
        self.cache.push(fresh);
        Insert::Cached
    }

    fn push(&mut self, entry: Entry<I>, k: usize) {
        if self.entries.len() == self.entries.capacity() {
            // Not doubled, as a bucket is often full and never more than that.
            self.entries.reserve_exact(ENTRIES_AT_ONCE.min(k - self.entries.len()));
        }
        self.entries.push(entry);
    }

    /// Records that the entry of `id` did not answer. It leaves when a waiting contact that has answered, and that
    /// `admit` lets through, can take its place, or at the second failure in a row, or at the first if it never
    /// answered. Returns whether it left.
    pub fn failed(&mut self, id: &I, admit: impl Fn(&Contact<I>) -> bool) -> bool {
        self.cache.retain(|e| e.contact.id != *id);
        let Some(at) = self.entries.iter().position(|e| e.contact.id == *id) else {
            return false;
        };
        self.entries[at].failures = self.entries[at].failures.saturating_add(1);
        let left = self.entries[at];
        let leaves = left.failures >= CONTACT_FAILURES || !left.is_confirmed;
        let may_follow = |e: &Entry<I>| (e.is_confirmed || leaves) && admit(&e.contact);
        // The newest that has answered, or else the newest.
        let waiting = self.cache.iter().enumerate().filter(|(_, e)| may_follow(e));
        match waiting.max_by_key(|(at, e)| (e.is_confirmed, *at)).map(|(at, _)| at) {
            Some(newest) => self.entries[at] = self.cache.remove(newest),
            None if leaves => {
                self.entries.swap_remove(at);
            }
            None => return false,
        }
        true
    }

    /// Whether a contact that answers would become an entry at once.
    pub fn has_place(&self, k: usize) -> bool {
        !self.is_full(k) || self.displaceable().is_some()
    }

    /// The entry that gives way to one that answers, if any: one that fails, or else one that never answered.
    fn displaceable(&self) -> Option<usize> {
        let weak = self.entries.iter().enumerate().filter(|(_, e)| e.failures > 0 || !e.is_confirmed);
        weak.max_by_key(|(_, e)| e.failures).map(|(i, _)| i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: usize = 4;

    fn contact(n: u8, ip: [u8; 4]) -> Contact {
        Contact { id: Id([n; 32]), addr: (ip, 1000 + u16::from(n)).into() }
    }

    /// What the table does with one that answered.
    fn answer(bucket: &mut Bucket, contact: Contact, now: Time) -> Option<Insert> {
        (!bucket.refresh(&contact, now)).then(|| bucket.add(contact, network(contact.addr.ip()), false, K, now))
    }

    fn full() -> Bucket {
        let mut bucket = Bucket::default();
        for n in 0..K as u8 {
            assert_eq!(answer(&mut bucket, contact(n, [127, 0, 0, 1]), Time::ZERO), Some(Insert::Added));
        }
        bucket
    }

    #[test]
    fn a_good_contact_is_never_displaced() {
        let mut bucket = full();
        assert_eq!(answer(&mut bucket, contact(9, [127, 0, 0, 1]), Time::from_ms(5)), Some(Insert::Cached));
        assert!(bucket.get(&Id([9; 32])).is_none());
        assert!(bucket.failed(&Id([1; 32]), |_| true), "a waiting contact takes the place of the one that failed");
        assert!(bucket.get(&Id([9; 32])).is_some());
    }

    #[test]
    fn the_cache_keeps_the_newest_four() {
        let mut bucket = full();
        for n in 10..20 {
            answer(&mut bucket, contact(n, [127, 0, 0, 1]), Time::from_ms(u64::from(n)));
        }
        let waiting: Vec<u8> = bucket.cache().iter().map(|e| e.contact.id.0[0]).collect();
        assert_eq!(waiting, [16, 17, 18, 19]);
    }

    #[test]
    fn one_failure_is_forgiven_two_are_not() {
        let mut bucket = full();
        assert!(!bucket.failed(&Id([2; 32]), |_| true));
        answer(&mut bucket, contact(2, [127, 0, 0, 1]), Time::from_ms(1));
        assert!(!bucket.failed(&Id([2; 32]), |_| true));
        assert!(bucket.failed(&Id([2; 32]), |_| true));
        assert_eq!(bucket.entries().len(), K - 1);
    }

    #[test]
    fn a_network_gets_two_places_and_loopback_all() {
        let mut bucket = Bucket::default();
        assert_eq!(answer(&mut bucket, contact(1, [9, 9, 9, 1]), Time::ZERO), Some(Insert::Added));
        assert_eq!(answer(&mut bucket, contact(2, [9, 9, 9, 2]), Time::ZERO), Some(Insert::Added));
        assert_eq!(answer(&mut bucket, contact(3, [9, 9, 9, 3]), Time::ZERO), Some(Insert::TooManyOfNetwork));
        assert_eq!(answer(&mut bucket, contact(4, [9, 9, 8, 3]), Time::ZERO), Some(Insert::Added));
    }

    #[test]
    fn spoofed_neighbours_keep_nobody_out_who_answers() {
        let mut bucket = Bucket::default();
        let flood = (10..14)
            .filter(|n| bucket.hear(contact(*n, [9, 9, 9, *n]), network([9, 9, 9, *n].into()), K, Time::ZERO))
            .count();
        assert_eq!(flood, 2, "of one network");
        assert_eq!(answer(&mut bucket, contact(1, [9, 9, 9, 1]), Time::ZERO), Some(Insert::Added));
        assert_eq!(answer(&mut bucket, contact(2, [9, 9, 9, 2]), Time::ZERO), Some(Insert::Added));
        assert!(bucket.entries().iter().all(|e| e.is_confirmed));
    }

    #[test]
    fn one_failure_gives_no_place_to_one_that_was_only_heard_of() {
        let mut bucket = full();
        bucket.hear(contact(9, [127, 0, 0, 1]), None, K, Time::ZERO);
        assert!(!bucket.failed(&Id([1; 32]), |_| true));
        assert!(bucket.failed(&Id([1; 32]), |_| true));
        assert!(bucket.get(&Id([9; 32])).is_some(), "the second does");
    }

    #[test]
    fn a_known_id_from_another_address_changes_nothing() {
        let mut bucket = full();
        answer(&mut bucket, contact(1, [127, 0, 0, 9]), Time::from_ms(9));
        let entry = bucket.get(&Id([1; 32])).unwrap();
        assert_eq!((entry.contact.addr.ip().to_string().as_str(), entry.answered_at), ("127.0.0.1", Time::ZERO));
    }
}
