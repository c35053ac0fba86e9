//! One k-bucket: contacts that have responded, plus a small replacement cache of others that have. Never displaces a
//! contact that is known good.

use crate::contact::{Contact, Network, network};
use crate::id::{Id, Metric};
use crate::limits::{BUCKET_ENTRIES_AT_ONCE, CONTACT_FAILURES, NETWORK_PER_BUCKET, REPLACEMENT_CACHE};
use crate::time::Time;

/// A contact that has responded, and what is known of its health.
#[derive(Copy, Clone, Debug)]
pub struct Entry<I = Id> {
    /// The contact.
    pub contact: Contact<I>,
    /// When it last answered.
    pub answered_at: Time,
    /// Requests in a row that it has not answered.
    pub failures: u8,
}

/// What [`Bucket::add`] did with a contact that answered.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Insert<I = Id> {
    /// It is an entry now, in the place of this contact if there is one.
    Added(Option<Contact<I>>),
    /// The bucket is full of others; it waits in the replacement cache.
    Cached,
    /// It was turned away: the bucket has enough contacts of its network.
    TooManyOfNetwork,
}

/// The contact that left the entries of a bucket, and the one that took its place.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Left<I = Id> {
    /// The contact that left.
    pub contact: Contact<I>,
    /// The contact of the replacement cache that is an entry instead.
    pub successor: Option<Contact<I>>,
}

/// At most k entries, and at most [`REPLACEMENT_CACHE`] contacts that wait for the place of one that fails.
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
    /// The entries, in no particular order.
    pub fn entries(&self) -> &[Entry<I>] {
        &self.entries
    }

    /// The replacement cache, oldest answer first.
    pub fn cache(&self) -> &[Entry<I>] {
        &self.cache
    }

    /// Drains entries and cache so that a split can redistribute them.
    pub fn take(&mut self) -> (Vec<Entry<I>>, Vec<Entry<I>>) {
        (std::mem::take(&mut self.entries), std::mem::take(&mut self.cache))
    }

    /// Puts back an entry that [`Bucket::take`] drained. There is room for it, as a split never adds entries.
    pub fn put_back(&mut self, entry: Entry<I>) {
        self.entries.push(entry);
    }

    /// Whether there are k entries.
    pub fn is_full(&self, k: usize) -> bool {
        self.entries.len() >= k
    }

    /// The entry of `id`.
    pub fn get(&self, id: &I) -> Option<&Entry<I>> {
        self.entries.iter().find(|entry| entry.contact.id == *id)
    }

    /// Whether `net` has all the places that one network gets here, cache included; never for loopback (`None`).
    pub fn has_enough_of(&self, net: Option<Network>) -> bool {
        let all = self.entries.iter().chain(&self.cache);
        net.is_some() && all.filter(|e| network(e.contact.addr.ip()) == net).count() >= NETWORK_PER_BUCKET
    }

    /// If `contact` is an entry, records that it answered at `now`. Returns whether it is one. An entry keeps the
    /// address at which it answered first, and ignores answers from others.
    pub fn refresh(&mut self, contact: &Contact<I>, now: Time) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|e| e.contact.id == contact.id) else {
            return false;
        };
        if entry.contact.addr == contact.addr {
            (entry.answered_at, entry.failures) = (now, 0);
        }
        true
    }

    /// Adds a contact that is no entry and answered at `now`. `net` is its network, or `None` if those are not counted.
    /// One that is `barred` goes to the cache even if there is room among the entries.
    pub fn add(&mut self, contact: Contact<I>, net: Option<Network>, barred: bool, k: usize, now: Time) -> Insert<I> {
        self.cache.retain(|e| e.contact.id != contact.id);
        if self.has_enough_of(net) {
            return Insert::TooManyOfNetwork;
        }
        let fresh = Entry { contact, answered_at: now, failures: 0 };
        if !barred && !self.is_full(k) {
            self.push(fresh, k);
            return Insert::Added(None);
        }
        if let Some(worst) = self.displaceable().filter(|_| !barred) {
            let displaced = std::mem::replace(&mut self.entries[worst], fresh);
            return Insert::Added(Some(displaced.contact));
        }
        if self.cache.len() == REPLACEMENT_CACHE {
            self.cache.remove(0);
        }
        self.cache.push(fresh);
        Insert::Cached
    }

    fn push(&mut self, entry: Entry<I>, k: usize) {
        if self.entries.len() == self.entries.capacity() {
            // Not doubled, as buckets are often full and never grow beyond k.
            self.entries.reserve_exact(BUCKET_ENTRIES_AT_ONCE.min(k - self.entries.len()));
        }
        self.entries.push(entry);
    }

    /// Records that the entry of `id` did not answer. It leaves if a contact of the cache that `admit` accepts can take
    /// its place. It also leaves at its second failure in a row. Returns what changed among the entries.
    pub fn failed(&mut self, id: &I, admit: impl Fn(&Contact<I>) -> bool) -> Option<Left<I>> {
        self.cache.retain(|e| e.contact.id != *id);
        let at = self.entries.iter().position(|e| e.contact.id == *id)?;
        self.entries[at].failures = self.entries[at].failures.saturating_add(1);
        let contact = self.entries[at].contact;
        // The newest: it is the likeliest to be alive.
        let successor = match self.cache.iter().rposition(|e| admit(&e.contact)) {
            Some(newest) => {
                self.entries[at] = self.cache.remove(newest);
                Some(self.entries[at].contact)
            }
            None if self.entries[at].failures >= CONTACT_FAILURES => {
                self.entries.swap_remove(at);
                None
            }
            None => return None,
        };
        Some(Left { contact, successor })
    }

    /// Whether a contact that answers would become an entry at once: there is room, or an entry that gives way.
    pub fn has_place(&self, k: usize) -> bool {
        !self.is_full(k) || self.displaceable().is_some()
    }

    /// The entry that gives way to a contact that answers, if any: the one with the most failures.
    fn displaceable(&self) -> Option<usize> {
        let weak = self.entries.iter().enumerate().filter(|(_, e)| e.failures > 0);
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
            assert_eq!(answer(&mut bucket, contact(n, [127, 0, 0, 1]), Time::ZERO), Some(Insert::Added(None)));
        }
        bucket
    }

    #[test]
    fn a_good_contact_is_never_displaced() {
        let mut bucket = full();
        assert_eq!(answer(&mut bucket, contact(9, [127, 0, 0, 1]), Time::from_ms(5)), Some(Insert::Cached));
        assert!(bucket.get(&Id([9; 32])).is_none());
        assert!(
            bucket.failed(&Id([1; 32]), |_| true).is_some(),
            "a waiting contact takes the place of the one that failed"
        );
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
        assert_eq!(bucket.failed(&Id([2; 32]), |_| true), None);
        answer(&mut bucket, contact(2, [127, 0, 0, 1]), Time::from_ms(1));
        assert_eq!(bucket.failed(&Id([2; 32]), |_| true), None);
        let left = Left { contact: contact(2, [127, 0, 0, 1]), successor: None };
        assert_eq!(bucket.failed(&Id([2; 32]), |_| true), Some(left));
        assert_eq!(bucket.entries().len(), K - 1);
    }

    #[test]
    fn a_network_gets_two_places_and_loopback_all() {
        let mut bucket = Bucket::default();
        assert_eq!(answer(&mut bucket, contact(1, [9, 9, 9, 1]), Time::ZERO), Some(Insert::Added(None)));
        assert_eq!(answer(&mut bucket, contact(2, [9, 9, 9, 2]), Time::ZERO), Some(Insert::Added(None)));
        assert_eq!(answer(&mut bucket, contact(3, [9, 9, 9, 3]), Time::ZERO), Some(Insert::TooManyOfNetwork));
        assert_eq!(answer(&mut bucket, contact(4, [9, 9, 8, 3]), Time::ZERO), Some(Insert::Added(None)));
    }

    #[test]
    fn a_known_id_from_another_address_changes_nothing() {
        let mut bucket = full();
        answer(&mut bucket, contact(1, [127, 0, 0, 9]), Time::from_ms(9));
        let entry = bucket.get(&Id([1; 32])).unwrap();
        assert_eq!((entry.contact.addr.ip().to_string().as_str(), entry.answered_at), ("127.0.0.1", Time::ZERO));
    }
}
