//! The routing table: k-buckets along the own id (Kademlia paper, section 2.4), for ids of any length. Holds contacts
//! that have responded. Never holds the own id, and never asks a contact anything.

use crate::contact::{Contact, Network, network};
use crate::id::{Id, Metric};
use crate::kad::Parameters;
use crate::kad::bucket::{Bucket, Entry, Insert, Left};
use crate::limits::{BUCKET_PARTS_BITS, NETWORK_PER_TABLE, UNDIVIDED_BUCKETS};
use crate::time::Time;

/// What [`RoutingTable::answered`] did with a contact.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Added {
    /// It is in the table, or waits in a replacement cache.
    Kept,
    /// It was turned away: its bucket or the table has enough contacts of its network.
    TooManyOfNetwork,
    /// It carries our own id.
    OwnId,
}

/// Names one bucket of a table, by the number of leading bits that its ids share with the own id. Buckets are never
/// removed, so an index stays valid.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BucketIndex(usize);

impl BucketIndex {
    /// The bucket of the ids whose first bit differs from the own id's: half of all ids. Every table has it.
    pub const FARTHEST: BucketIndex = BucketIndex(0);

    /// The bucket of the next farther ids, of which there are about twice as many; `None` for the farthest.
    pub fn farther(self) -> Option<BucketIndex> {
        self.0.checked_sub(1).map(BucketIndex)
    }
}

/// Buckets of contacts. Each bucket but the last holds the ids that share exactly as many leading bits with the own id
/// as its [`BucketIndex`] says; the last one holds those that share more as well, and is the only one that splits.
///
/// ```rust
/// use dayfly::contact::Contact;
/// use dayfly::id::Id;
/// use dayfly::kad::Parameters;
/// use dayfly::kad::routing_table::{Added, BucketPolicy, RoutingTable};
/// use dayfly::time::Time;
///
/// let contact = |n: u8| Contact { id: Id::of(&[n]), addr: ([127, 0, 0, 1], 6500 + u16::from(n)).into() };
/// let mut table = RoutingTable::new(contact(0).id, Parameters::default(), BucketPolicy::Even);
/// for n in 1..=5 {
///     assert_eq!(table.answered(contact(n), Time::from_ms(u64::from(n))), Added::Kept);
/// }
///
/// let mut closest = Vec::new();
/// table.closest(&contact(3).id, 2, |entry| entry.failures == 0, &mut closest);
/// assert_eq!((closest.len(), closest[0]), (2, contact(3)));
///
/// // One failure is forgiven, the second in a row is not.
/// assert!(!table.failed(&contact(3).id));
/// assert!(table.failed(&contact(3).id));
/// assert_eq!(table.len(), 4);
/// ```
#[derive(Clone, Debug)]
pub struct RoutingTable<I = Id> {
    own: I,
    k: usize,
    counts_networks: bool,
    policy: BucketPolicy,
    buckets: Vec<Bucket<I>>,
    /// The networks of the entries, sorted, one for each entry: as a stranger can have us count them at each request,
    /// they are not counted in the buckets.
    networks: Vec<Network>,
}

/// Which contacts get the places of a bucket.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum BucketPolicy {
    /// The bucket's range is divided into equal parts, and the contacts of each part get an equal share of the places.
    Even,
    /// Those that come first, as in Kademlia's paper and in the k-bucket that other hyperdht nodes use.
    FirstCome,
}

impl<I: Metric> RoutingTable<I> {
    /// An empty table around the id `own`. Of the `parameters`, `k` (at least 1) and `counts_networks` are used.
    pub fn new(own: I, parameters: Parameters, policy: BucketPolicy) -> RoutingTable<I> {
        let Parameters { k, counts_networks, .. } = parameters;
        RoutingTable { own, k, counts_networks, policy, buckets: vec![Bucket::default()], networks: Vec::new() }
    }

    /// The number of contacts in the table, not counting those in replacement caches.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|b| b.entries().len()).sum()
    }

    /// Whether no contact is in the table.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|b| b.entries().is_empty())
    }

    /// The number of buckets: 1 to the number of bits of an id.
    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// The last bucket: that of the ids nearest to the own one.
    pub fn nearest_bucket(&self) -> BucketIndex {
        BucketIndex(self.buckets.len() - 1)
    }

    /// All entries, bucket by bucket from the farthest.
    pub fn entries(&self) -> impl Iterator<Item = &Entry<I>> {
        self.buckets.iter().flat_map(|b| b.entries())
    }

    /// The entry of `id`.
    pub fn get(&self, id: &I) -> Option<&Entry<I>> {
        self.bucket(self.bucket_of(id)).get(id)
    }

    /// Records that `contact` answered at `now`, and adds it if there is a place for it.
    pub fn answered(&mut self, contact: Contact<I>, now: Time) -> Added {
        if contact.id == self.own {
            return Added::OwnId;
        }
        let index = self.bucket_of(&contact.id);
        if self.bucket_mut(index).refresh(&contact, now) {
            return Added::Kept;
        }
        // A contact that goes to the cache is held against the limit on its network when it leaves that for a place.
        let may_enter = self.bucket(index).has_place(self.k) || self.splits(&contact.id);
        if may_enter && self.has_enough_of_network(&contact) {
            return Added::TooManyOfNetwork;
        }
        self.split_for(&contact.id);
        let barred = may_enter && self.is_crowded(&contact.id);
        let (k, net) = (self.k, self.network(&contact));
        let insert = self.home_of(&contact.id).add(contact, net, barred, k, now);
        self.note_insert(contact, insert);
        self.debug_check();
        if insert == Insert::TooManyOfNetwork { Added::TooManyOfNetwork } else { Added::Kept }
    }

    /// The `n` entries of the bucket of `id` that have been silent longest (all of them if there are fewer), longest
    /// first. If the bucket is full, those are the ones to ask whether they are still alive.
    pub fn oldest_beside(&self, id: &I, n: usize) -> Vec<Contact<I>> {
        let mut entries: Vec<&Entry<I>> = self.bucket(self.bucket_of(id)).entries().iter().collect();
        entries.sort_by_key(|e| e.answered_at);
        entries.into_iter().take(n).map(|e| e.contact).collect()
    }

    /// Records that the contact `id` did not answer a request. Returns whether it left the table.
    pub fn failed(&mut self, id: &I) -> bool {
        let index = self.bucket_of(id);
        // The contacts in the cache are within the limit on their network in the bucket, but were not yet held against
        // the one in the table, nor against the share of their part of the bucket's range.
        let waiting = self.bucket(index).cache().iter().map(|e| e.contact);
        let is_barred = |contact: &Contact<I>| self.has_enough_of_network(contact) || self.is_crowded(&contact.id);
        let barred: Vec<Contact<I>> = waiting.filter(is_barred).collect();
        let left = self.bucket_mut(index).failed(id, |contact| !barred.contains(contact));
        if let Some(Left { contact, successor }) = left {
            self.uncount(contact);
            successor.into_iter().for_each(|successor| self.count(successor));
        }
        self.debug_check();
        left.is_some()
    }

    /// Whether `contact` is new to the table and would get a place in it if it answered.
    pub fn wants(&self, contact: &Contact<I>) -> bool {
        let bucket = self.bucket(self.bucket_of(&contact.id));
        let net = self.network(contact);
        contact.id != self.own
            && bucket.get(&contact.id).is_none()
            && (bucket.has_place(self.k) || self.splits(&contact.id))
            && !self.has_enough_of_network(contact)
            && !bucket.has_enough_of(net)
            && !self.is_crowded(&contact.id)
    }

    /// Whether `contact` could enter the table if only its bucket had a place.
    pub fn is_full_for(&self, contact: &Contact<I>) -> bool {
        let bucket = self.bucket(self.bucket_of(&contact.id));
        let has_place = bucket.has_place(self.k) || self.splits(&contact.id);
        let has_enough = || self.has_enough_of_network(contact) || bucket.has_enough_of(self.network(contact));
        contact.id != self.own && !has_place && !has_enough()
    }

    /// Appends to `out` the `n` entries nearest to `target` that `admit` accepts (fewer if there are no more), nearest
    /// first.
    pub fn closest(&self, target: &I, n: usize, admit: impl Fn(&Entry<I>) -> bool, out: &mut Vec<Contact<I>>) {
        // Seen from the target, the ids in its own bucket are nearest. Next come those in all deeper buckets, which all
        // differ from it first at this bucket's bit. Then the shallower buckets follow one by one.
        let BucketIndex(home) = self.bucket_of(target);
        let end = out.len() + n;
        let shallower = (0..home).rev().map(|i| i..i + 1);
        // What is sorted is small: the first eight bytes of each distance, and a reference.
        let mut near: Vec<(u64, &Contact<I>)> = Vec::with_capacity(self.k);
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

    /// The entries that last answered before `since`, the longest silent first.
    pub fn silent_since(&self, since: Time) -> Vec<Contact<I>> {
        let mut silent: Vec<&Entry<I>> = self.entries().filter(|e| e.answered_at < since).collect();
        silent.sort_unstable_by_key(|e| (e.answered_at, e.contact.id));
        silent.into_iter().map(|e| e.contact).collect()
    }

    /// Records that a lookup for `target` ended, so that its bucket needs no refresh for a while.
    pub fn looked_up(&mut self, target: &I, now: Time) {
        self.home_of(target).looked_up_at = now;
    }

    /// The bucket that has gone longest without a lookup, if its last one ended before `since`.
    pub fn stale_bucket(&self, since: Time) -> Option<BucketIndex> {
        let ages = self.buckets.iter().map(|b| b.looked_up_at).enumerate();
        ages.filter(|&(_, at)| at < since).min_by_key(|&(_, at)| at).map(|(i, _)| BucketIndex(i))
    }

    /// An id in the range of `bucket` of this table: `random` with as few bits changed as that takes.
    pub fn id_in_bucket(&self, bucket: BucketIndex, random: I) -> I {
        let BucketIndex(shared) = bucket;
        let mut id = random;
        for bit in 0..shared {
            if id.bit(bit) != self.own.bit(bit) {
                id = id.with_bit_flipped(bit);
            }
        }
        // The last bucket also takes ids that share more bits, so the next bit is free there.
        if bucket != self.nearest_bucket() && id.bit(shared) == self.own.bit(shared) {
            id = id.with_bit_flipped(shared);
        }
        id
    }

    fn bucket_of(&self, id: &I) -> BucketIndex {
        BucketIndex(self.own.common_prefix(id)).min(self.nearest_bucket())
    }

    fn bucket(&self, index: BucketIndex) -> &Bucket<I> {
        &self.buckets[index.0]
    }

    fn bucket_mut(&mut self, index: BucketIndex) -> &mut Bucket<I> {
        &mut self.buckets[index.0]
    }

    /// The bucket of `id`, to be changed.
    fn home_of(&mut self, id: &I) -> &mut Bucket<I> {
        let index = self.bucket_of(id);
        self.bucket_mut(index)
    }

    /// Whether the part of its bucket's range in which `id` lies has its share of the places. A lookup learns of
    /// contacts that are close to each other. A bucket that took them all would know one corner of its range, and lead
    /// lookups for ids in other corners no further. The last few buckets, whose ranges hold few nodes, take all.
    fn is_crowded(&self, id: &I) -> bool {
        let BucketIndex(index) = self.bucket_of(id);
        if self.policy == BucketPolicy::FirstCome || index + UNDIVIDED_BUCKETS >= self.buckets.len() {
            return false;
        }
        let shared = index + 1 + BUCKET_PARTS_BITS;
        let entries = self.buckets[index].entries();
        let in_part = entries.iter().filter(|e| e.contact.id.common_prefix(id) >= shared).count();
        in_part >= self.k.div_ceil(1 << BUCKET_PARTS_BITS)
    }

    /// Whether the bucket of `id` is the one that splits.
    fn splits(&self, id: &I) -> bool {
        self.bucket_of(id) == self.nearest_bucket() && self.buckets.len() < I::BITS
    }

    /// The network of `contact`; `None` if networks are not counted.
    fn network(&self, contact: &Contact<I>) -> Option<Network> {
        network(contact.addr.ip()).filter(|_| self.counts_networks)
    }

    /// Whether the network of `contact` has all the places that one gets in the table.
    fn has_enough_of_network(&self, contact: &Contact<I>) -> bool {
        self.network(contact).is_some_and(|net| {
            let first = self.networks.partition_point(|known| *known < net);
            self.networks.get(first + NETWORK_PER_TABLE - 1) == Some(&net)
        })
    }

    /// `contact` has become an entry.
    fn count(&mut self, contact: Contact<I>) {
        if let Some(net) = self.network(&contact) {
            let at = self.networks.partition_point(|known| *known < net);
            self.networks.insert(at, net);
        }
    }

    /// `contact` is an entry no longer.
    fn uncount(&mut self, contact: Contact<I>) {
        if let Some(at) = self.network(&contact).and_then(|net| self.networks.binary_search(&net).ok()) {
            self.networks.remove(at);
        }
    }

    /// [`Bucket::add`] did this with `contact`.
    fn note_insert(&mut self, contact: Contact<I>, insert: Insert<I>) {
        if let Insert::Added(displaced) = insert {
            displaced.into_iter().for_each(|displaced| self.uncount(displaced));
            self.count(contact);
        }
    }

    /// Splits the last bucket until `id` has room or falls into a bucket that does not split.
    fn split_for(&mut self, id: &I) {
        loop {
            let last = self.nearest_bucket();
            let bucket = self.bucket(last);
            if !self.splits(id) || !bucket.is_full(self.k) || bucket.get(id).is_some() {
                return;
            }
            let (entries, waiting) = self.bucket_mut(last).take();
            let looked_up_at = self.bucket(last).looked_up_at;
            let mut deeper = Bucket::default();
            deeper.looked_up_at = looked_up_at;
            self.buckets.push(deeper);
            for entry in entries {
                self.home_of(&entry.contact.id).put_back(entry);
            }
            for Entry { contact, answered_at, .. } in waiting {
                let (k, net) = (self.k, self.network(&contact));
                let barred = self.has_enough_of_network(&contact);
                let insert = self.home_of(&contact.id).add(contact, net, barred, k, answered_at);
                self.note_insert(contact, insert);
            }
        }
    }

    fn debug_check(&self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Panics unless every contact is in its bucket, once, and no list is above its bound. Called after each change in
    /// debug builds.
    pub fn check_invariants(&self) {
        let mut networks: Vec<Network> = self.entries().filter_map(|e| self.network(&e.contact)).collect();
        networks.sort_unstable();
        assert_eq!(networks, self.networks);
        for (index, bucket) in self.buckets.iter().enumerate() {
            assert!(bucket.entries().len() <= self.k);
            assert!(bucket.cache().len() <= crate::limits::REPLACEMENT_CACHE);
            for (at, entry) in bucket.entries().iter().enumerate() {
                let id = entry.contact.id;
                assert_ne!(id, self.own);
                assert_eq!(self.bucket_of(&id), BucketIndex(index));
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
        let mut table = RoutingTable::new(Id::default(), Parameters::default(), BucketPolicy::Even);
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
        let mut table = RoutingTable::new(Id::default(), Parameters::default(), BucketPolicy::Even);
        for seed in 0..5_000 {
            let addr = ([66, 66, 66, (seed % 250) as u8], 1 + seed as u16).into();
            table.answered(Contact { addr, ..contact(seed) }, Time::ZERO);
        }
        assert!(table.len() <= NETWORK_PER_TABLE, "{} of one /24", table.len());
    }

    /// Regression (A13 of the attacks report): each /64 counted as an owner of its own, so one home got 51 places.
    #[test]
    fn a_flood_from_one_v6_owner_gets_ten_places_whatever_it_owns() {
        let mut random = fastrand::Rng::with_seed(5);
        for host_bits in [64, 72, 80] {
            let mut table = RoutingTable::new(Id::default(), Parameters::default(), BucketPolicy::FirstCome);
            for seed in 0..512 {
                let ip = 0x2001_0db8_0bad_u128 << 80 | (random.u128(..) >> (128 - host_bits));
                let addr = (std::net::Ipv6Addr::from(ip), 1).into();
                table.answered(Contact { addr, ..contact(seed) }, Time::ZERO);
            }
            assert!(table.len() <= NETWORK_PER_TABLE, "{} of one /{}", table.len(), 128 - host_bits);
            let per_bucket = |b: &Bucket| b.entries().len() + b.cache().len() <= crate::limits::NETWORK_PER_BUCKET;
            assert!(table.buckets.iter().all(per_bucket));
            (512..540).for_each(|seed| {
                let addr = (std::net::Ipv6Addr::from(u128::from(0x2001_0db8_0000 + seed) << 80 | 1), 1).into();
                table.answered(Contact { addr, ..contact(seed) }, Time::ZERO);
            });
            assert!(table.len() >= NETWORK_PER_TABLE + 20, "others have their places: {}", table.len());
        }
    }

    #[test]
    fn where_networks_are_not_counted_one_may_fill_the_table() {
        let parameters = Parameters { counts_networks: false, ..Parameters::default() };
        let mut table = RoutingTable::new(Id::default(), parameters, BucketPolicy::FirstCome);
        for seed in 0..200 {
            let contact = Contact { addr: ([192, 168, 1, 1 + seed as u8], 1).into(), ..contact(seed) };
            table.answered(contact, Time::ZERO);
        }
        assert!(table.len() > 3 * K, "{}", table.len());
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
        // A thousand close to each other, as one lookup learns of them, for an early bucket that has lost its own.
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

    /// An id of 2 to 8 bytes: the table asks nothing of ids but the metric.
    #[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
    struct Short<const N: usize>([u8; N]);

    impl<const N: usize> Short<N> {
        fn number(&self) -> u64 {
            let mut bytes = [0; 8];
            bytes[..N].copy_from_slice(&self.0);
            u64::from_be_bytes(bytes)
        }
    }

    impl<const N: usize> Metric for Short<N> {
        const BITS: usize = 8 * N;

        fn common_prefix(&self, other: &Self) -> usize {
            ((self.number() ^ other.number()).leading_zeros() as usize).min(Self::BITS)
        }

        fn leading_distance(&self, other: &Self) -> u64 {
            self.number() ^ other.number()
        }

        fn compare(&self, a: &Self, b: &Self) -> std::cmp::Ordering {
            self.leading_distance(a).cmp(&self.leading_distance(b))
        }

        fn bit(&self, index: usize) -> bool {
            self.0[index / 8] & (0x80 >> (index % 8)) != 0
        }

        fn with_bit_flipped(mut self, index: usize) -> Self {
            self.0[index / 8] ^= 0x80 >> (index % 8);
            self
        }
    }

    /// All of the table's behaviour for ids of `N` bytes, which learns of `ids`.
    fn holds_ids_of<const N: usize>(own: Short<N>, ids: &[[u8; N]], target: Short<N>) {
        let mut table = RoutingTable::new(own, Parameters { k: 4, ..Parameters::default() }, BucketPolicy::FirstCome);
        for (id, n) in ids.iter().zip(1u16..) {
            let contact = Contact { id: Short(*id), addr: ([127, 0, 0, 1], n).into() };
            table.answered(contact, Time::from_ms(u64::from(n)));
            if n % 7 == 0 {
                table.failed(&Short(ids[usize::from(n) / 2]));
            }
        }
        let mut want: Vec<Short<N>> = table.entries().map(|e| e.contact.id).collect();
        want.sort_by(|a, b| target.compare(a, b));
        want.truncate(9);
        let mut got = Vec::new();
        table.closest(&target, 9, |_| true, &mut got);
        assert_eq!(got.iter().map(|c| c.id).collect::<Vec<_>>(), want);
        for index in (0..table.bucket_count()).map(BucketIndex) {
            assert_eq!(table.bucket_of(&table.id_in_bucket(index, target)), index);
        }
    }

    /// `kbucket.120_nodes` of the vectors: the contents of all leaves, the 44 times that a full one asks its oldest,
    /// and the 20 closest, as k-bucket 3.3.1 has them.
    #[test]
    fn fills_and_challenges_as_the_k_bucket_of_the_vectors() {
        let vectors = include_str!("../../tests/data/hyperdht-vectors.json");
        let all: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let vector = all["vectors"].as_array().unwrap().iter().find(|v| v["name"] == "kbucket.120_nodes").unwrap();
        let numbers =
            |v: &serde_json::Value| -> Vec<u64> { v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect() };
        let own: Id = vector["local_id"].as_str().unwrap().parse().unwrap();
        assert_eq!(own, Id::of(b"local"));
        let id = |n: u64| Id::of(format!("node{n}").as_bytes());
        let mut table = RoutingTable::new(own, Parameters::default(), BucketPolicy::FirstCome);
        let mut challenges = Vec::new();
        for n in 0..120 {
            let contact = Contact { id: id(n), addr: ([127, 0, 0, 1], 1 + n as u16).into() };
            table.answered(contact, Time::from_ms(n));
            if table.get(&contact.id).is_none() {
                assert!(table.is_full_for(&contact) && !table.wants(&contact));
                let oldest = table.oldest_beside(&contact.id, crate::limits::CHALLENGED);
                challenges.push((n, oldest.iter().map(|c| u64::from(c.addr.port()) - 1).collect::<Vec<_>>()));
            }
        }
        let events = vector["ping_events"].as_array().unwrap();
        let want: Vec<_> = events.iter().map(|e| (e["candidate"].as_u64().unwrap(), numbers(&e["ping"]))).collect();
        assert_eq!((challenges.len(), &challenges), (44, &want));
        let mut leaves: Vec<Vec<u64>> = table
            .buckets
            .iter()
            .map(|b| b.entries().iter().map(|e| u64::from(e.contact.addr.port()) - 1).collect())
            .collect();
        let mut want: Vec<Vec<u64>> =
            vector["leaves"].as_array().unwrap().iter().map(|leaf| numbers(&leaf["contacts"])).collect();
        leaves.sort();
        want.sort();
        assert_eq!(leaves, want);
        let mut closest = Vec::new();
        table.closest(&Id::of(b"target"), 20, |_| true, &mut closest);
        let closest: Vec<u64> = closest.iter().map(|c| u64::from(c.addr.port()) - 1).collect();
        assert_eq!(closest, numbers(&vector["closest20"]));
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
        assert_eq!(table.stale_bucket(Time::from_ms(10)), Some(BucketIndex(1)));
    }

    proptest! {
        #[test]
        fn ids_may_have_any_length(
            short in prop::collection::vec(any::<[u8; 2]>(), 1..200),
            long in prop::collection::vec(any::<[u8; 8]>(), 1..200),
            own: [u8; 8],
            target: [u8; 8],
        ) {
            holds_ids_of(Short([own[0], own[1]]), &short, Short([target[0], target[1]]));
            holds_ids_of(Short(own), &long, Short(target));
        }

        /// The count of networks, which the invariants compare, follows every change.
        #[test]
        fn networks_are_counted_whatever_happens(steps in prop::collection::vec((0u64..300, 0u8..4, any::<bool>()), 1..400)) {
            let parameters = Parameters { k: 4, ..Parameters::default() };
            let mut table = RoutingTable::new(Id::default(), parameters, BucketPolicy::FirstCome);
            for (n, net, answers) in steps {
                let contact = Contact { addr: ([9, 9, net, n as u8], 1 + n as u16).into(), ..contact(n) };
                if answers {
                    table.answered(contact, Time::from_ms(n));
                } else {
                    table.failed(&contact.id);
                }
                table.check_invariants();
                let of_net = table.entries().filter(|e| network(e.contact.addr.ip()) == network(contact.addr.ip()));
                prop_assert!(of_net.count() <= NETWORK_PER_TABLE);
            }
        }

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
            for index in (0..table.bucket_count()).map(BucketIndex) {
                prop_assert_eq!(table.bucket_of(&table.id_in_bucket(index, Id(random))), index);
            }
        }
    }
}
