//! What others have announced: which peers are to be found under which key (docs/protocol-hyperdht.md). Never keeps a
//! record that has expired, never lets one source fill the store, and finds each record without a search.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::contact::source;
use crate::id::Id;
use crate::limits::{RECORD_AGE_MS, RECORDS, RECORDS_OF_SOURCE_PER_KEY, RECORDS_PER_KEY};
use crate::sources::Sources;
use crate::time::Time;

/// An announcement.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The peer's address. Key and address together identify a record.
    pub addr: SocketAddr,
    /// The peer's address in its local network: IPv4 and port.
    pub local: Option<[u8; 6]>,
    announced_at: Time,
}

impl Record {
    fn expires_at(&self) -> Time {
        self.announced_at.after(RECORD_AGE_MS)
    }
}

/// There is no room for a record, or none for its source.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Full;

/// All records of one node. How many each source has is counted in the [`Sources`] of the process, which must be the
/// same in all calls.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Those of each key in random order: each one came to a random place.
    by_key: BTreeMap<Id, Vec<Record>>,
    /// The place of each among those of its key. Those of one key and source are next to each other.
    places: BTreeMap<(Id, SocketAddr), usize>,
    by_age: BTreeSet<(Time, Id, SocketAddr)>,
}

impl Records {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// Whether any peer is announced under `key`.
    pub fn has(&self, key: &Id) -> bool {
        self.by_key.contains_key(key)
    }

    /// Stores a record. Announcing it again refreshes it and replaces its local address. `random` decides where among
    /// those of its key it is shown.
    pub fn put(
        &mut self,
        key: Id,
        addr: SocketAddr,
        local: Option<[u8; 6]>,
        random: &mut fastrand::Rng,
        sources: &mut Sources,
        now: Time,
    ) -> Result<(), Full> {
        self.expire(sources, now);
        let fresh = Record { addr, local, announced_at: now };
        if let Some(known) = self.find(&key, addr) {
            let before = std::mem::replace(known, fresh);
            self.by_age.remove(&(before.announced_at, key, addr));
            self.by_age.insert((now, key, addr));
            return Ok(());
        }
        if !self.has_room(&key, addr.ip(), sources) {
            return Err(Full);
        }
        let records = self.by_key.entry(key).or_default();
        let (last, place) = (records.len(), random.usize(..=records.len()));
        records.push(fresh);
        records.swap(place, last);
        self.places.insert((key, records[last].addr), last);
        self.places.insert((key, addr), place);
        self.by_age.insert((now, key, addr));
        sources.records.charge(sources.of(addr.ip()), 1);
        self.debug_check();
        Ok(())
    }

    /// Removes a record; returns whether there was one.
    pub fn remove(&mut self, key: &Id, addr: SocketAddr, sources: &mut Sources) -> bool {
        let (Some(place), Some(records)) = (self.places.remove(&(*key, addr)), self.by_key.get_mut(key)) else {
            return false;
        };
        let record = records.swap_remove(place);
        if let Some(moved) = records.get(place) {
            self.places.insert((*key, moved.addr), place);
        }
        if records.is_empty() {
            self.by_key.remove(key);
        }
        self.by_age.remove(&(record.announced_at, *key, addr));
        sources.records.release(sources.of(addr.ip()), 1);
        self.debug_check();
        true
    }

    /// Visits the records of `key`, in random order as far as nobody can tell which come first, until `visit` returns
    /// `false`. Begins at a random one.
    pub fn sample(&self, key: &Id, random: &mut fastrand::Rng, now: Time, mut visit: impl FnMut(&Record) -> bool) {
        let Some(records) = self.by_key.get(key) else {
            return;
        };
        let (behind, from) = records.split_at(random.usize(..records.len()));
        let living = from.iter().chain(behind).filter(|record| now < record.expires_at());
        for record in living {
            if !visit(record) {
                return;
            }
        }
    }

    /// When the oldest record expires.
    pub fn next_deadline(&self) -> Option<Time> {
        self.by_age.first().map(|(announced_at, _, _)| announced_at.after(RECORD_AGE_MS))
    }

    /// Removes the records that have expired at `now`.
    pub fn expire(&mut self, sources: &mut Sources, now: Time) {
        while let Some(&(announced_at, key, addr)) = self.by_age.first() {
            if now < announced_at.after(RECORD_AGE_MS) {
                return;
            }
            self.remove(&key, addr, sources);
        }
    }

    fn find(&mut self, key: &Id, addr: SocketAddr) -> Option<&mut Record> {
        let place = *self.places.get(&(*key, addr))?;
        self.by_key.get_mut(key)?.get_mut(place)
    }

    fn has_room(&self, key: &Id, host: IpAddr, sources: &Sources) -> bool {
        let free = (RECORDS as u64).saturating_sub(sources.records.all());
        self.by_key.get(key).map_or(0, Vec::len) < RECORDS_PER_KEY
            && self.has_room_under(key, host)
            && sources.records.admits(sources.of(host), 1, free)
    }

    /// Whether the source of `host` may have one more record under `key`. Looks at no more than it may have.
    fn has_room_under(&self, key: &Id, host: IpAddr) -> bool {
        let (first, last): (IpAddr, IpAddr) = match source(host) {
            None => return true,
            Some(IpAddr::V4(ip)) => (ip.into(), ip.into()),
            Some(IpAddr::V6(ip)) => (ip.into(), Ipv6Addr::from(u128::from(ip) | u128::from(u64::MAX)).into()),
        };
        let of_source = (*key, SocketAddr::new(first, 0))..=(*key, SocketAddr::new(last, u16::MAX));
        self.places.range(of_source).take(RECORDS_OF_SOURCE_PER_KEY).count() < RECORDS_OF_SOURCE_PER_KEY
    }

    fn debug_check(&self) {
        if cfg!(debug_assertions) && self.len() < 64 {
            self.check_invariants();
        }
    }

    /// Panics unless the three views agree. For debug builds and tests.
    pub fn check_invariants(&self) {
        assert_eq!(self.by_key.values().map(Vec::len).sum::<usize>(), self.by_age.len());
        assert_eq!(self.places.len(), self.by_age.len());
        assert!(self.by_key.values().all(|records| !records.is_empty()));
        for (key, records) in &self.by_key {
            for (place, record) in records.iter().enumerate() {
                assert_eq!(self.places.get(&(*key, record.addr)), Some(&place));
                assert!(self.by_age.contains(&(record.announced_at, *key, record.addr)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(host: u8, port: u16) -> SocketAddr {
        ([9, 9, 9, host], port).into()
    }

    /// Records with what their calls need.
    struct Store {
        records: Records,
        random: fastrand::Rng,
        sources: Sources,
    }

    impl Store {
        fn new() -> Store {
            let (random, sources) = (fastrand::Rng::with_seed(7), Sources::new(7));
            Store { records: Records::default(), random, sources }
        }

        fn put(&mut self, key: Id, addr: SocketAddr, ms: u64) -> bool {
            self.records.put(key, addr, None, &mut self.random, &mut self.sources, Time::from_ms(ms)).is_ok()
        }

        fn remove(&mut self, key: &Id, addr: SocketAddr) -> bool {
            self.records.remove(key, addr, &mut self.sources)
        }

        fn held(&mut self, key: &Id, ms: u64) -> Vec<SocketAddr> {
            let mut found = Vec::new();
            self.records.sample(key, &mut self.random, Time::from_ms(ms), |record| {
                found.push(record.addr);
                true
            });
            found.sort();
            found
        }
    }

    const KEY: Id = Id([1; 32]);

    #[test]
    fn announcing_again_refreshes_and_another_port_is_another_record() {
        let mut store = Store::new();
        for (port, at) in [(1, 0), (2, 10), (1, 500_000)] {
            assert!(store.put(KEY, addr(1, port), at));
        }
        assert_eq!(store.held(&KEY, RECORD_AGE_MS + 9), [addr(1, 1), addr(1, 2)]);
        assert_eq!(store.held(&KEY, RECORD_AGE_MS + 10), [addr(1, 1)]);
        store.records.expire(&mut store.sources, Time::from_ms(RECORD_AGE_MS + 10));
        assert_eq!(store.records.len(), 1);
        assert!(store.remove(&KEY, addr(1, 1)) && !store.remove(&KEY, addr(1, 1)));
        assert!(store.records.is_empty() && store.records.next_deadline().is_none());
        assert_eq!(store.sources.records.all(), 0);
    }

    #[test]
    fn no_source_fills_a_key_or_the_store() {
        let mut store = Store::new();
        let of_one = (1..=1_000).filter(|n| store.put(KEY, addr(1, *n), 0)).count();
        assert_eq!(of_one, RECORDS_OF_SOURCE_PER_KEY);
        let key = |n: u32| Id::of(&n.to_be_bytes());
        let over_keys = (0..RECORDS as u32).filter(|n| store.put(key(*n), addr(1, 1), 0)).count();
        assert_eq!(of_one + over_keys, RECORDS / 4, "as of every resource");
        assert!(store.put(KEY, addr(2, 1), 0), "others have their room");
        assert!(store.put(KEY, addr(1, 1), 0), "and what is held is refreshed");
        store.records.check_invariants();
    }

    #[test]
    fn a_slash_64_is_one_source_under_a_key() {
        let mut store = Store::new();
        let of = |net: u16, n: u16| SocketAddr::new([0x2001, 0xdb8, 0, net, n, 0, 0, n].into(), n);
        assert!(store.put(KEY, of(6, 1), 0) && store.put(KEY, of(8, 1), 0));
        let taken = (1..=200).filter(|n| store.put(KEY, of(7, *n), 0)).count();
        assert_eq!(taken, RECORDS_OF_SOURCE_PER_KEY);
        assert!(store.put(KEY, of(8, 2), 0) && store.put(Id([2; 32]), of(7, 1), 0));
        store.records.check_invariants();
    }

    #[test]
    fn a_store_that_is_full_keeps_what_it_has_until_its_time() {
        let mut store = Store::new();
        let put = |store: &mut Store, n: u32, ms| {
            let addr = ([127, 0, 0, 1], (n % 1_000) as u16 + 1).into();
            store.put(Id::of(&(n / 1_000).to_be_bytes()), addr, ms)
        };
        let taken = (0..=RECORDS as u32).filter(|n| put(&mut store, *n, 0)).count();
        assert_eq!((taken, store.records.len()), (RECORDS, RECORDS));
        assert!(put(&mut store, 99_000, RECORD_AGE_MS), "there is room again");
        assert_eq!(store.records.len(), 1);
    }

    #[test]
    fn samples_differ_and_show_everybody_in_the_end() {
        let mut store = Store::new();
        (1..=60).for_each(|port| assert!(store.put(KEY, addr(1, port), 0)));
        let mut seen = BTreeMap::<SocketAddr, u32>::new();
        for _ in 0..600 {
            let mut count = 0;
            store.records.sample(&KEY, &mut store.random, Time::ZERO, |record| {
                *seen.entry(record.addr).or_default() += 1;
                count += 1;
                count < 10
            });
            assert_eq!(count, 10);
        }
        assert_eq!(seen.len(), 60);
        assert!(seen.values().all(|times| (50..=170).contains(times)), "as often as others: {seen:?}");
        let in_order: Vec<u16> = store.records.by_key[&KEY].iter().map(|record| record.addr.port()).collect();
        assert!(!in_order.is_sorted(), "who comes after whom is random");
    }

    /// Regression: under a key with 4,096 records, each announcement walked them all twice.
    #[test]
    fn an_announcement_under_a_full_key_costs_no_walk() {
        let mut store = Store::new();
        let mut full = Store::new();
        let at = |n: u32| SocketAddr::new(IpAddr::from((0x0909_0000 + n * 7).to_be_bytes()), 1);
        (0..RECORDS_PER_KEY as u32).for_each(|n| assert!(full.put(KEY, at(n), 0)));
        assert!(!full.put(KEY, addr(250, 9), 0));
        assert!(store.put(KEY, at(0), 0));
        // The shortest of many: a busy machine interrupts some.
        let time = |store: &mut Store| {
            let rounds = (0..50).map(|_| {
                let started = std::time::Instant::now();
                (0..200).for_each(|_| assert!(store.put(KEY, at(0), 1)));
                started.elapsed()
            });
            rounds.min().unwrap()
        };
        let (few, many) = (time(&mut store), time(&mut full));
        assert!(many < 40 * few, "{many:?} for one of 4,096, {few:?} for one of one");
    }

    proptest! {
        #[test]
        fn the_views_agree_whatever_comes(steps in prop::collection::vec((0u8..3, 1u8..6, 1u16..6, 0u8..4), 1..120)) {
            let mut store = Store::new();
            let mut now = 0;
            for (key, host, port, what) in steps {
                let key = Id([key; 32]);
                match what {
                    0 => drop(store.remove(&key, addr(host, port))),
                    1 => now += u64::from(port) * 100_000,
                    _ => prop_assert!(store.put(key, addr(host, port), now)),
                }
                store.records.check_invariants();
                prop_assert_eq!(store.sources.records.all(), store.records.len() as u64);
            }
        }
    }
}
