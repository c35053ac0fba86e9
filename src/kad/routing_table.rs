//! The routing table: k-buckets along the own id (Kademlia paper, section 2.4). Holds only contacts that answered; the
//! caller says who did. Never holds the own id.

use crate::contact::{Contact, network};
use crate::id::{ID_BITS, Id};
use crate::kad::bucket::{Bucket, Entry, Insert};
use crate::limits::{BUCKET_PARTS_BITS, NETWORK_PER_TABLE, UNDIVIDED_BUCKETS};
use crate::time::Time;

/// What became of a contact that answered.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Added {
    /// It is in the table, anew or still, or waits in a replacement cache.
    Kept,
    /// The bucket or the table has enough contacts of its network.
    TooManyOfNetwork,
    /// It carries our own id.
    OwnId,
}

/// Bucket `i` holds ids that share exactly `i` leading bits with the own id; the last one holds all that share more and
/// is the only one that splits.
#[derive(Clone, Debug)]
pub struct RoutingTable {
    own: Id,
    k: usize,
    buckets: Vec<Bucket>,
}

impl RoutingTable {
    /// An empty table around `own` with `k` places per bucket.
    pub fn new(own: Id, k: usize) -> RoutingTable {
        RoutingTable { own, k, buckets: vec![Bucket::default()] }
    }

    /// Contacts in the table, the waiting ones not counted.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|b| b.entries().len()).sum()
    }

    /// Whether no contact is in the table.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|b| b.entries().is_empty())
    }

    /// Buckets, at least one.
    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// All entries, bucket by bucket from the farthest.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|b| b.entries())
    }

    /// The entry of `id`.
    pub fn get(&self, id: &Id) -> Option<&Entry> {
        self.buckets[self.bucket_of(id)].get(id)
    }

    /// Records that `contact` answered at `now`.
    pub fn answered(&mut self, contact: Contact, now: Time) -> Added {
        if contact.id == self.own {
            return Added::OwnId;
        }
        let index = self.bucket_of(&contact.id);
        if self.buckets[index].refresh(&contact, now) {
            return Added::Kept;
        }
        // One that will wait in the cache is judged when it is let in.
        let may_enter = self.buckets[index].has_place(self.k) || self.splits(&contact.id);
        if may_enter && self.has_enough_of_network(&contact) {
            return Added::TooManyOfNetwork;
        }
        self.split_for(&contact.id);
        let barred = may_enter && self.is_crowded(&contact.id);
        let bucket = self.bucket_of(&contact.id);
        let insert = self.buckets[bucket].add(contact, barred, self.k, now);
        self.debug_check();
        if insert == Insert::TooManyOfNetwork { Added::TooManyOfNetwork } else { Added::Kept }
    }

    /// Records that the contact `id` did not answer. Returns whether it left the table.
    pub fn failed(&mut self, id: &Id) -> bool {
        let index = self.bucket_of(id);
        // Those who wait have passed the limit on their network in the bucket, not the one in the table, nor the one on
        // their part of the bucket's range.
        let waiting = self.buckets[index].cache().iter().map(|e| e.contact);
        let is_barred = |contact: &Contact| self.has_enough_of_network(contact) || self.is_crowded(&contact.id);
        let barred: Vec<Contact> = waiting.filter(is_barred).collect();
        let left = self.buckets[index].failed(id, |contact| !barred.contains(contact));
        self.debug_check();
        left
    }

    /// Whether `contact`, of which nothing is known yet, would find or make a place if it answered.
    pub fn wants(&self, contact: &Contact) -> bool {
        let bucket = &self.buckets[self.bucket_of(&contact.id)];
        let net = network(contact.addr.ip());
        contact.id != self.own
            && bucket.get(&contact.id).is_none()
            && (bucket.has_place(self.k) || self.splits(&contact.id))
            && !bucket.has_enough_of(net)
            && !self.is_crowded(&contact.id)
            && !self.has_enough_of_network(contact)
    }

    /// Appends to `out` the up to `n` contacts nearest to `target` that `admit` lets through, nearest first.
    pub fn closest(&self, target: &Id, n: usize, admit: impl Fn(&Entry) -> bool, out: &mut Vec<Contact>) {
        // Seen from the target, ids of its own bucket are nearest; those of all deeper buckets differ from it first at
        // this bucket's bit and come next; then the shallower buckets follow one by one.
        let home = self.bucket_of(target);
        let end = out.len() + n;
        let shallower = (0..home).rev().map(|i| i..i + 1);
        // What is sorted is small: how far each is, as far as eight bytes tell, and where it stands.
        let mut near: Vec<(u64, &Contact)> = Vec::with_capacity(self.k);
        for range in [home..home + 1, home + 1..self.buckets.len()].into_iter().chain(shallower) {
            if out.len() >= end {
                break;
            }
            let entries = self.buckets[range].iter().flat_map(|b| b.entries()).filter(|e| admit(e));
            near.extend(entries.map(|e| (target.leading_distance(&e.contact.id), &e.contact)));
            near.sort_unstable_by(|(a, x), (b, y)| a.cmp(b).then_with(|| target.compare(&x.id, &y.id)));
            let room = end - out.len();
            out.extend(near.drain(..).take(room).map(|(_, contact)| *contact));
        }
    }

    /// The entries that have been silent since before `since`, longest first.
    pub fn silent_since(&self, since: Time) -> Vec<Contact> {
        let mut silent: Vec<&Entry> = self.entries().filter(|e| e.answered_at < since).collect();
        silent.sort_unstable_by_key(|e| (e.answered_at, e.contact.id));
        silent.into_iter().map(|e| e.contact).collect()
    }

    /// Records that a lookup for `target` ended, so that its bucket needs no refresh for a while.
    pub fn looked_up(&mut self, target: &Id, now: Time) {
        let bucket = self.bucket_of(target);
        self.buckets[bucket].looked_up_at = now;
    }

    /// The bucket whose last lookup lies farthest back, if that is before `since`.
    pub fn stale_bucket(&self, since: Time) -> Option<usize> {
        let ages = self.buckets.iter().map(|b| b.looked_up_at).enumerate();
        ages.filter(|&(_, at)| at < since).min_by_key(|&(_, at)| at).map(|(i, _)| i)
    }

    /// The id in bucket `index`'s range that `random` chooses.
    pub fn id_in_bucket(&self, index: usize, random: Id) -> Id {
        let mut id = random;
        for bit in 0..index {
            if id.bit(bit) != self.own.bit(bit) {
                id = id.with_bit_flipped(bit);
            }
        }
        // The last bucket takes all that share `index` bits, so its next bit is free.
        if index + 1 < self.buckets.len() && id.bit(index) == self.own.bit(index) {
            id = id.with_bit_flipped(index);
        }
        id
    }

    fn bucket_of(&self, id: &Id) -> usize {
        self.own.common_prefix(id).min(self.buckets.len() - 1)
    }

    /// Whether the part of its bucket's range in which `id` lies has its share of the places. A lookup hears from contacts
    /// that are close to each other; a bucket that took them all would know one corner of its range and lead lookups into
    /// the others no further. The last few buckets, whose ranges hold few nodes, take all.
    fn is_crowded(&self, id: &Id) -> bool {
        let index = self.bucket_of(id);
        if index + UNDIVIDED_BUCKETS >= self.buckets.len() {
            return false;
        }
        let shared = index + 1 + BUCKET_PARTS_BITS;
        let entries = self.buckets[index].entries();
        let in_part = entries.iter().filter(|e| e.contact.id.common_prefix(id) >= shared).count();
        in_part >= self.k.div_ceil(1 << BUCKET_PARTS_BITS)
    }

    /// Whether the bucket of `id` is the one that splits.
    fn splits(&self, id: &Id) -> bool {
        let last = self.buckets.len() - 1;
        self.bucket_of(id) == last && last + 1 < ID_BITS
    }

    fn has_enough_of_network(&self, contact: &Contact) -> bool {
        let net = network(contact.addr.ip());
        net.is_some() && self.entries().filter(|e| network(e.contact.addr.ip()) == net).count() >= NETWORK_PER_TABLE
    }

    /// Splits the last bucket until `id` has room or falls into a bucket that does not split.
    fn split_for(&mut self, id: &Id) {
        loop {
            let last = self.buckets.len() - 1;
            let bucket = &self.buckets[last];
            if self.bucket_of(id) != last || !bucket.is_full(self.k) || bucket.get(id).is_some() || last + 1 >= ID_BITS
            {
                return;
            }
            let (entries, waiting) = self.buckets[last].take();
            let looked_up_at = self.buckets[last].looked_up_at;
            let mut deeper = Bucket::default();
            deeper.looked_up_at = looked_up_at;
            self.buckets.push(deeper);
            for entry in entries {
                let home = self.bucket_of(&entry.contact.id);
                self.buckets[home].put_back(entry);
            }
            for entry in waiting {
                let home = self.bucket_of(&entry.contact.id);
                self.buckets[home].add(entry.contact, false, self.k, entry.answered_at);
            }
        }
    }

    fn debug_check(&self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Panics unless every contact is in its bucket, once, and no list is over its bound. For debug builds and tests.
    pub fn check_invariants(&self) {
        for (index, bucket) in self.buckets.iter().enumerate() {
            assert!(bucket.entries().len() <= self.k);
            assert!(bucket.cache().len() <= crate::limits::REPLACEMENT_CACHE);
            for (at, entry) in bucket.entries().iter().enumerate() {
                let id = entry.contact.id;
                assert_ne!(id, self.own);
                assert_eq!(self.bucket_of(&id), index);
                assert!(bucket.entries()[..at].iter().all(|e| e.contact.id != id), "an id stands once");
                assert!(bucket.cache().iter().all(|e| e.contact.id != id), "no entry waits as well");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::K;
    use proptest::prelude::*;

    fn contact(seed: u64) -> Contact {
        Contact { id: Id::hash_of(&[&seed.to_be_bytes()]), addr: ([127, 0, 0, 1], 1 + (seed % 60_000) as u16).into() }
    }

    fn filled(n: u64) -> RoutingTable {
        let mut table = RoutingTable::new(Id::default(), K);
        for seed in 0..n {
            table.answered(contact(seed), Time::from_ms(seed));
        }
        table
    }

    #[test]
    fn splits_only_along_the_own_id() {
        let table = filled(5_000);
        assert!((8..=14).contains(&table.bucket_count()), "{} buckets for 5,000 contacts", table.bucket_count());
        assert!(table.len() > 7 * K && table.len() <= table.bucket_count() * K);
    }

    #[test]
    fn a_flood_from_one_network_gets_ten_places() {
        let mut table = RoutingTable::new(Id::default(), K);
        for seed in 0..5_000 {
            let addr = ([66, 66, 66, (seed % 250) as u8], 1 + seed as u16).into();
            table.answered(Contact { addr, ..contact(seed) }, Time::ZERO);
        }
        assert!(table.len() <= NETWORK_PER_TABLE, "{} of one /24", table.len());
    }

    #[test]
    fn the_cache_is_no_way_round_the_limits_on_a_network() {
        let mut table = filled(5_000);
        for seed in 5_000..9_000 {
            let addr = ([66, 66, 66, (seed % 250) as u8], 1 + seed as u16).into();
            table.answered(Contact { addr, ..contact(seed) }, Time::ZERO);
        }
        let honest: Vec<Id> = table.entries().map(|e| e.contact.id).collect();
        for id in honest {
            table.failed(&id);
        }
        let of_flood = table.entries().filter(|e| e.contact.addr.ip().to_string().starts_with("66.")).count();
        assert!((1..=NETWORK_PER_TABLE).contains(&of_flood), "{of_flood} of one /24");
    }

    #[test]
    fn a_bucket_knows_all_corners_of_its_range() {
        let mut table = filled(2_000);
        let own = Id::default();
        // A thousand close to each other, as one lookup hears of them, for an early bucket that has lost its own.
        let emptied: Vec<Id> = table.entries().map(|e| e.contact.id).filter(|id| id.common_prefix(&own) == 0).collect();
        for id in emptied.iter().chain(&emptied) {
            table.failed(id);
        }
        let corner = (10_000..40_000).map(contact).filter(|c| c.id.0[0] >> 3 == 0b10101);
        corner.take(1_000).for_each(|c| {
            table.answered(c, Time::ZERO);
        });
        let inside = table.entries().filter(|e| e.contact.id.0[0] >> 3 == 0b10101).count();
        assert!((1..=20usize.div_ceil(1 << BUCKET_PARTS_BITS)).contains(&inside), "{inside} of one corner");
        let before = table.len();
        let others = (50_000..60_000).map(contact).filter(|c| c.id.0[0] >> 7 == 1);
        others.take(1_000).for_each(|c| {
            table.answered(c, Time::ZERO);
        });
        assert!(table.len() > before + 10, "there is room for the other corners");
    }

    #[test]
    fn the_own_id_never_enters() {
        let mut table = filled(3);
        let own = Contact { id: Id::default(), ..contact(1) };
        assert_eq!(table.answered(own, Time::ZERO), Added::OwnId);
        assert!(!table.wants(&own));
    }

    #[test]
    fn only_a_stale_bucket_is_named_for_refresh() {
        let mut table = filled(200);
        assert_eq!(table.stale_bucket(Time::ZERO), None);
        table.looked_up(&Id([255; 32]), Time::from_ms(50));
        assert_eq!(table.stale_bucket(Time::from_ms(10)), Some(1));
    }

    proptest! {
        #[test]
        fn closest_agrees_with_sorting_everything(n in 0u64..800, target: [u8; 32], near in 0u64..800, count in 1usize..30) {
            let table = filled(n);
            for target in [Id(target), contact(near).id, Id::default()] {
                let mut want: Vec<Contact> = table.entries().map(|e| e.contact).filter(|c| c.addr.port() % 5 != 0).collect();
                want.sort_by_key(|c| c.id.distance(&target));
                want.truncate(count);
                let mut got = Vec::new();
                table.closest(&target, count, |e| e.contact.addr.port() % 5 != 0, &mut got);
                prop_assert_eq!(got, want);
            }
        }

        #[test]
        fn random_ids_fall_into_the_bucket_asked_for(random: [u8; 32], n in 0u64..2_000) {
            let table = filled(n);
            for index in 0..table.bucket_count() {
                prop_assert_eq!(table.bucket_of(&table.id_in_bucket(index, Id(random))), index);
            }
        }
    }
}
