//! What others have announced: which peers are to be found under which key (docs/protocol-hyperdht.md). Never keeps a
//! record that has expired, and never lets one source fill the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::contact::source;
use crate::id::Id;
use crate::limits::{RECORD_AGE_MS, RECORDS, RECORDS_OF_SOURCE, RECORDS_OF_SOURCE_PER_KEY, RECORDS_PER_KEY};
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

/// There is no room for a record, or none for its source.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Full;

/// All records of one node.
#[derive(Clone, Debug, Default)]
pub struct Records {
    by_key: BTreeMap<Id, Vec<Record>>,
    by_age: BTreeSet<(Time, Id, SocketAddr)>,
    /// How many records each source has. Loopback is not counted, because many share its address.
    of_source: BTreeMap<IpAddr, usize>,
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

    /// Stores a record. Announcing it again refreshes it and replaces its local address.
    pub fn put(&mut self, key: Id, addr: SocketAddr, local: Option<[u8; 6]>, now: Time) -> Result<(), Full> {
        self.expire(now);
        let fresh = Record { addr, local, announced_at: now };
        let of_key = self.by_key.get_mut(&key);
        if let Some(known) = of_key.and_then(|records| records.iter_mut().find(|record| record.addr == addr)) {
            let before = std::mem::replace(known, fresh);
            self.by_age.remove(&(before.announced_at, key, addr));
            self.by_age.insert((now, key, addr));
            return Ok(());
        }
        if !self.has_room(&key, addr.ip()) {
            return Err(Full);
        }
        self.by_key.entry(key).or_default().push(fresh);
        self.by_age.insert((now, key, addr));
        if let Some(source) = source(addr.ip()) {
            *self.of_source.entry(source).or_default() += 1;
        }
        self.debug_check();
        Ok(())
    }

    /// Removes a record; returns whether there was one.
    pub fn remove(&mut self, key: &Id, addr: SocketAddr) -> bool {
        let Some(records) = self.by_key.get_mut(key) else {
            return false;
        };
        let Some(at) = records.iter().position(|record| record.addr == addr) else {
            return false;
        };
        let record = records.swap_remove(at);
        if records.is_empty() {
            self.by_key.remove(key);
        }
        self.by_age.remove(&(record.announced_at, *key, addr));
        if let Some(source) = source(addr.ip()) {
            if let Some(count) = self.of_source.get_mut(&source) {
                *count -= 1;
                if *count == 0 {
                    self.of_source.remove(&source);
                }
            }
        }
        self.debug_check();
        true
    }

    /// Visits the records of `key` in random order until `visit` returns `false`.
    pub fn sample(&mut self, key: &Id, random: &mut fastrand::Rng, now: Time, mut visit: impl FnMut(&Record) -> bool) {
        self.expire(now);
        let Some(records) = self.by_key.get_mut(key) else {
            return;
        };
        for at in 0..records.len() {
            let other = random.usize(at..records.len());
            records.swap(at, other);
            if !visit(&records[at]) {
                return;
            }
        }
    }

    /// When the oldest record expires.
    pub fn next_deadline(&self) -> Option<Time> {
        self.by_age.first().map(|(announced_at, _, _)| announced_at.after(RECORD_AGE_MS))
    }

    /// Removes the records that have expired at `now`.
    pub fn expire(&mut self, now: Time) {
        while let Some(&(announced_at, key, addr)) = self.by_age.first() {
            if now < announced_at.after(RECORD_AGE_MS) {
                return;
            }
            self.remove(&key, addr);
        }
    }

    fn has_room(&self, key: &Id, host: IpAddr) -> bool {
        let of_key = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        if self.len() >= RECORDS || of_key.len() >= RECORDS_PER_KEY {
            return false;
        }
        let Some(of_host) = source(host) else {
            return true;
        };
        let here = of_key.iter().filter(|record| source(record.addr.ip()) == Some(of_host)).count();
        here < RECORDS_OF_SOURCE_PER_KEY && self.of_source.get(&of_host).is_none_or(|count| *count < RECORDS_OF_SOURCE)
    }

    fn debug_check(&self) {
        if cfg!(debug_assertions) && self.len() < 64 {
            self.check_invariants();
        }
    }

    /// Panics unless the three views agree. For debug builds and tests.
    pub fn check_invariants(&self) {
        assert_eq!(self.by_key.values().map(Vec::len).sum::<usize>(), self.by_age.len());
        assert!(self.by_key.values().all(|records| !records.is_empty()));
        let counted = self.by_age.iter().filter(|(_, _, addr)| source(addr.ip()).is_some()).count();
        assert_eq!(self.of_source.values().sum::<usize>(), counted);
        for (key, records) in &self.by_key {
            assert!(records.iter().all(|r| self.by_age.contains(&(r.announced_at, *key, r.addr))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(host: u8, port: u16) -> SocketAddr {
        ([9, 9, 9, host], port).into()
    }

    fn held(records: &mut Records, key: &Id, now: Time) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        records.sample(key, &mut fastrand::Rng::with_seed(1), now, |record| {
            found.push(record.addr);
            true
        });
        found.sort();
        found
    }

    #[test]
    fn announcing_again_refreshes_and_another_port_is_another_record() {
        let (mut records, key) = (Records::default(), Id([1; 32]));
        for (port, at) in [(1, 0), (2, 10), (1, 500_000)] {
            records.put(key, addr(1, port), None, Time::from_ms(at)).unwrap();
        }
        assert_eq!(held(&mut records, &key, Time::from_ms(RECORD_AGE_MS + 9)), [addr(1, 1), addr(1, 2)]);
        assert_eq!(held(&mut records, &key, Time::from_ms(RECORD_AGE_MS + 10)), [addr(1, 1)]);
        assert!(records.remove(&key, addr(1, 1)) && !records.remove(&key, addr(1, 1)));
        assert!(records.is_empty() && records.next_deadline().is_none());
    }

    #[test]
    fn no_source_fills_a_key_or_the_store() {
        let mut records = Records::default();
        let of_one = (1..=1_000).filter(|n| records.put(Id([1; 32]), addr(1, *n), None, Time::ZERO).is_ok()).count();
        assert_eq!(of_one, RECORDS_OF_SOURCE_PER_KEY);
        let key = |n: u32| Id::of(&n.to_be_bytes());
        let over_keys = (0..10_000).filter(|n| records.put(key(*n), addr(1, 1), None, Time::ZERO).is_ok()).count();
        assert_eq!(of_one + over_keys, RECORDS_OF_SOURCE);
        assert!(records.put(Id([1; 32]), addr(2, 1), None, Time::ZERO).is_ok(), "others have their room");
        assert!(records.put(Id([1; 32]), addr(1, 1), None, Time::ZERO).is_ok(), "and what is held is refreshed");
        records.check_invariants();
    }

    #[test]
    fn a_store_that_is_full_keeps_what_it_has_until_its_time() {
        let mut records = Records::default();
        let put = |records: &mut Records, n: u32, at| {
            records.put(Id::of(&(n / 1_000).to_be_bytes()), ([127, 0, 0, 1], (n % 1_000) as u16 + 1).into(), None, at)
        };
        let taken = (0..=RECORDS as u32).filter(|n| put(&mut records, *n, Time::ZERO).is_ok()).count();
        assert_eq!((taken, records.len()), (RECORDS, RECORDS));
        assert!(put(&mut records, 99_000, Time::from_ms(RECORD_AGE_MS)).is_ok(), "there is room again");
        assert_eq!(records.len(), 1);
    }

    #[test]
    fn samples_differ_and_show_everybody_in_the_end() {
        let (mut records, key) = (Records::default(), Id([1; 32]));
        (1..=60).for_each(|port| records.put(key, addr(1, port), None, Time::ZERO).unwrap());
        let mut random = fastrand::Rng::with_seed(7);
        let mut seen = BTreeSet::new();
        for _ in 0..50 {
            let mut count = 0;
            records.sample(&key, &mut random, Time::ZERO, |record| {
                seen.insert(record.addr);
                count += 1;
                count < 10
            });
            assert_eq!(count, 10);
        }
        assert_eq!(seen.len(), 60);
    }
}
