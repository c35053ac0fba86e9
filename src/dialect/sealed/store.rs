//! The values that a process holds for the sealed dialect, each for less than ten seconds. Never serves an expired
//! value, never exceeds its limits, and never writes to disk.

use std::hash::Hasher;
use std::net::IpAddr;

use hashbrown::HashTable;

use crate::arena::can_allocate;
use crate::contact;
use crate::dialect::sealed::codec::{ErrorCode, Seal, seal_of_value};
use crate::hash::seeded;
use crate::id::Id;
use crate::limits::{
    LIFETIME_MAX_MS, MEMORY_HEADROOM_BYTES, MEMORY_PROBED_EACH_BYTES, SEAL_KEPT_BYTES, SEAL_KEPT_FROM, STORE_BYTES,
    STORE_ENTRIES, STORE_ENTRY_BYTES, VALUE_MAX,
};
use crate::sources::{Source, Sources};
use crate::time::Time;
use crate::wheel::{TimerKey, Wheel};

/// Limits of a store.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Total bytes, including [`STORE_ENTRY_BYTES`] per value.
    pub bytes: usize,
    /// Total number of values.
    pub entries: usize,
    /// Bytes of one value.
    pub value_bytes: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        StoreLimits { bytes: STORE_BYTES, entries: STORE_ENTRIES, value_bytes: VALUE_MAX }
    }
}

/// A map from keys to values. Each value is an item of the timer that ends its life, and an index finds the timer of a
/// key.
#[derive(Debug)]
pub struct Store {
    limits: StoreLimits,
    values: Wheel<Entry>,
    index: HashTable<TimerKey>,
    /// Mixed into the hash, because strangers choose the keys.
    seed: u64,
    bytes: usize,
    /// Bytes that may still be stored before the memory that is left is looked at again.
    unprobed_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    key: Id,
    value: Box<[u8]>,
    /// The checksum of the VALUE that carries a large value, once somebody has asked for it.
    seal: Option<Box<Seal>>,
    /// Whether the key certifies the value, once somebody has asked: that takes a hash of the whole value.
    is_certified: Option<bool>,
    /// Who pays for it; `None` for loopback.
    source: Option<IpAddr>,
}

impl Entry {
    fn is_certified(&mut self) -> bool {
        let Entry { key, value, .. } = self;
        *self.is_certified.get_or_insert_with(|| is_certified(key, value))
    }
}

impl Store {
    /// An empty store. `seed` must be secret, so that nobody can choose keys that collide in the index.
    pub fn new(limits: StoreLimits, seed: u64) -> Store {
        Store { limits, values: Wheel::new(), index: HashTable::new(), seed, bytes: 0, unprobed_bytes: 0 }
    }

    /// The lifetime in milliseconds for a ttl in seconds: min(ttl, 10) seconds, and 10 seconds for a ttl of 0 (seed:
    /// "less than 10 seconds"; docs/protocol-sealed.md, "Lifetimes").
    pub fn lifetime_ms(ttl_s: u16) -> u64 {
        match ttl_s {
            0 => LIFETIME_MAX_MS,
            ttl_s => (u64::from(ttl_s) * 1000).min(LIFETIME_MAX_MS),
        }
    }

    /// Whether `value` is within the limit for one value.
    pub fn admits(&self, value: &[u8]) -> bool {
        value.len() <= self.limits.value_bytes
    }

    /// Stores `value` under `key` from `now` on, for the lifetime that `ttl_s` (in seconds) asks for. The last writer
    /// wins, except that a value whose SHA-256 is the key can only be replaced by itself. `source` is the address that
    /// pays for it; `None` and loopback are exempt.
    ///
    /// Errors: `TooLarge` above the limit for one value; `Full` if the store or the source's share of it is full, or if
    /// there is no memory; `Refused` if the stored value is certified by its key and the new one is not. After an error,
    /// the store is unchanged.
    pub fn put(
        &mut self,
        key: Id,
        value: &[u8],
        ttl_s: u16,
        source: Option<IpAddr>,
        sources: &mut Sources,
        now: Time,
    ) -> Result<(), ErrorCode> {
        self.expire(sources, now);
        if !self.admits(value) {
            return Err(ErrorCode::TooLarge);
        }
        let source = source.and_then(contact::source);
        // An expired value stays in memory for up to a tick; anything may replace it.
        let hash = hash_of(self.seed, &key);
        let found = self.find(hash, &key);
        if found.is_some_and(|timer| self.is_protected(timer, value, now)) {
            return Err(ErrorCode::Refused);
        }
        let replaced = found.and_then(|timer| self.values.get(timer));
        let payer = source.map(|source| sources.of(source));
        if !self.has_room(value, replaced, source, payer, sources) {
            return Err(ErrorCode::Full);
        }
        let expires_at = now.after(Self::lifetime_ms(ttl_s));
        match found.and_then(|timer| Some((timer, self.values.get_mut(timer)?))) {
            Some((timer, held)) if held.value.len() == value.len() => {
                forget(&mut self.bytes, sources, held);
                held.value.copy_from_slice(value);
                (held.seal, held.is_certified, held.source) = (None, None, source);
                self.values.rearm(timer, expires_at);
            }
            Some((timer, _)) => {
                let copy = self.copy(value).ok_or(ErrorCode::Full)?;
                if let Some(held) = self.values.get_mut(timer) {
                    forget(&mut self.bytes, sources, held);
                    *held = Entry { key, value: copy, seal: None, is_certified: None, source };
                    self.values.rearm(timer, expires_at);
                }
            }
            None => {
                let copy = self.copy(value).ok_or(ErrorCode::Full)?;
                let entry = Entry { key, value: copy, seal: None, is_certified: None, source };
                let timer = self.values.arm(now, expires_at, entry);
                let Store { values, index, seed, .. } = self;
                index.insert_unique(hash, timer, rehasher(values, *seed));
            }
        }
        self.bytes += cost(value);
        if let Some(payer) = payer {
            sources.store_bytes.charge(payer, cost(value) as u64);
            sources.store_entries.charge(payer, 1);
        }
        self.debug_check();
        Ok(())
    }

    /// Whether the value of `timer` is alive, certified by its key, and another than `value`, which is not.
    fn is_protected(&mut self, timer: TimerKey, value: &[u8], now: Time) -> bool {
        let is_alive = self.values.due_at(timer).is_some_and(|expires_at| now < expires_at);
        let Some(entry) = self.values.get_mut(timer).filter(|entry| is_alive && *entry.value != *value) else {
            return false;
        };
        entry.is_certified() && !is_certified(&entry.key, value)
    }

    /// Whether the store has room for `value`, which replaces `replaced`, and so has the share of its source, which is
    /// counted as `payer`.
    fn has_room(
        &self,
        value: &[u8],
        replaced: Option<&Entry>,
        source: Option<IpAddr>,
        payer: Option<Source>,
        sources: &mut Sources,
    ) -> bool {
        let (freed, freed_entries) = replaced.map_or((0, 0), |entry| (cost(&entry.value), 1));
        let free_bytes = (self.limits.bytes + freed).saturating_sub(self.bytes);
        let free_entries = (self.limits.entries + freed_entries).saturating_sub(self.values.len());
        if cost(value) > free_bytes || free_entries == 0 {
            return false;
        }
        let Some(payer) = payer else {
            return true;
        };
        // What a source replaces of its own, it no longer holds.
        let own = replaced.filter(|entry| entry.source == source).map(|entry| cost(&entry.value) as u64);
        let Sources { store_bytes, store_entries, .. } = sources;
        if let Some(bytes) = own {
            store_bytes.release(payer, bytes);
            store_entries.release(payer, 1);
        }
        let may = store_bytes.admits(payer, cost(value) as u64, free_bytes as u64)
            && store_entries.admits(payer, 1, free_entries as u64);
        if let Some(bytes) = own {
            store_bytes.charge(payer, bytes);
            store_entries.charge(payer, 1);
        }
        may
    }

    /// A copy of `value`, if there is memory for it, its timer and its place in the index.
    fn copy(&mut self, value: &[u8]) -> Option<Box<[u8]>> {
        if self.unprobed_bytes < cost(value) {
            // Something must be left for the buffers of those who want to read.
            if !can_allocate(MEMORY_HEADROOM_BYTES + value.len()) {
                return None;
            }
            self.unprobed_bytes = MEMORY_PROBED_EACH_BYTES + cost(value);
        }
        self.unprobed_bytes -= cost(value);
        let Store { values, index, seed, .. } = self;
        if !values.can_grow() || index.try_reserve(1, rehasher(values, *seed)).is_err() {
            return None;
        }
        let mut copy = Vec::new();
        copy.try_reserve_exact(value.len()).ok()?;
        copy.extend_from_slice(value);
        Some(copy.into())
    }

    fn find(&self, hash: u64, key: &Id) -> Option<TimerKey> {
        let is_it = |timer: &TimerKey| self.values.get(*timer).is_some_and(|entry| entry.key == *key);
        self.index.find(hash, is_it).copied()
    }

    fn find_living(&self, key: &Id, now: Time) -> Option<TimerKey> {
        self.find(hash_of(self.seed, key), key)
            .filter(|timer| self.values.due_at(*timer).is_some_and(|expires_at| now < expires_at))
    }

    /// The value of `key`, unless there is none or it has expired.
    pub fn get(&self, key: &Id, now: Time) -> Option<&[u8]> {
        self.values.get(self.find_living(key, now)?).map(|entry| &*entry.value)
    }

    /// Like [`Store::get`], but only if the key certifies the value.
    pub fn get_certified(&mut self, key: &Id, now: Time) -> Option<&[u8]> {
        let timer = self.find_living(key, now)?;
        let entry = self.values.get_mut(timer)?;
        entry.is_certified().then_some(&*entry.value)
    }

    /// Like [`Store::get`]. For a large value, also returns the checksum of the VALUE that carries it, which is
    /// computed once and not for each reader.
    pub fn get_sealed(&mut self, key: &Id, now: Time) -> Option<(&[u8], Option<&Seal>)> {
        let timer = self.find_living(key, now)?;
        let entry = self.values.get_mut(timer)?;
        if entry.value.len() >= SEAL_KEPT_FROM {
            let value = &entry.value;
            entry.seal.get_or_insert_with(|| Box::new(seal_of_value(value)));
        }
        Some((&entry.value, entry.seal.as_deref()))
    }

    /// Frees expired values. Due at [`Store::next_deadline`].
    pub fn expire(&mut self, sources: &mut Sources, now: Time) {
        let Store { values, index, seed, bytes, .. } = self;
        let mut any = false;
        values.expire_each(now, |timer, entry| {
            any = true;
            if let Ok(entry) = index.find_entry(hash_of(*seed, &entry.key), |found| *found == timer) {
                entry.remove();
            }
            forget(bytes, sources, &entry);
        });
        if any && index.len() * 8 < index.capacity() {
            // Shrinks the index when that is cheap.
            index.shrink_to(index.len() * 2, rehasher(values, *seed));
        }
        self.debug_check();
    }

    /// When [`Store::expire`] next has something to free.
    pub fn next_deadline(&self) -> Option<Time> {
        self.values.next_deadline()
    }

    /// The number of values held, including expired ones whose memory is freed within a tick.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether the store holds no value.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Bytes held, including [`STORE_ENTRY_BYTES`] per value.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn debug_check(&self) {
        // The check is O(n), so debug builds make it only while it is cheap.
        if cfg!(debug_assertions) && self.values.len() < 64 {
            self.check_invariants();
        }
    }

    /// Panics unless the sums are correct and every value is in the index. For debug builds and tests.
    pub fn check_invariants(&self) {
        assert_eq!(self.bytes, self.values.items().map(|entry| cost(&entry.value)).sum::<usize>());
        assert_eq!(self.index.len(), self.values.len());
        assert!(
            self.values.items().all(|entry| self.find(hash_of(self.seed, &entry.key), &entry.key).is_some()),
            "every value is in the index"
        );
        assert!(self.bytes <= self.limits.bytes && self.values.len() <= self.limits.entries);
        self.values.check_invariants();
    }
}

/// The store no longer holds `entry`.
fn forget(bytes: &mut usize, sources: &mut Sources, entry: &Entry) {
    let cost = cost(&entry.value);
    *bytes -= cost;
    if let Some(source) = entry.source.map(|source| sources.of(source)) {
        sources.store_bytes.release(source, cost as u64);
        sources.store_entries.release(source, 1);
    }
}

fn hash_of(seed: u64, key: &Id) -> u64 {
    seeded(seed, |hasher| hasher.write(&key.0))
}

/// Tells the hash of a key that is already in the index.
fn rehasher(values: &Wheel<Entry>, seed: u64) -> impl Fn(&TimerKey) -> u64 {
    move |timer| values.get(*timer).map_or(0, |entry| hash_of(seed, &entry.key))
}

/// Bytes that a store counts for a value.
pub(super) fn cost(value: &[u8]) -> usize {
    let seal = if value.len() >= SEAL_KEPT_FROM { SEAL_KEPT_BYTES } else { 0 };
    value.len() + STORE_ENTRY_BYTES + seal
}

/// Whether `key` is the SHA-256 of `value`, so that nobody can make up another value for it.
pub fn is_certified(key: &Id, value: &[u8]) -> bool {
    Id::of(value) == *key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::sealed::codec::{Message, Sealed};
    use proptest::prelude::*;

    const T0: Time = Time::ZERO;

    fn key(n: u8) -> Id {
        Id([n; 32])
    }

    /// A store and who uses how much of it.
    struct Shelf {
        store: Store,
        sources: Sources,
    }

    impl Shelf {
        fn put(
            &mut self,
            key: Id,
            value: &[u8],
            ttl_s: u16,
            source: Option<IpAddr>,
            now: Time,
        ) -> Result<(), ErrorCode> {
            self.store.put(key, value, ttl_s, source, &mut self.sources, now)
        }
    }

    impl std::ops::Deref for Shelf {
        type Target = Store;
        fn deref(&self) -> &Store {
            &self.store
        }
    }

    impl std::ops::DerefMut for Shelf {
        fn deref_mut(&mut self) -> &mut Store {
            &mut self.store
        }
    }

    fn shelf(limits: StoreLimits) -> Shelf {
        Shelf { store: Store::new(limits, 7), sources: Sources::new(7) }
    }

    fn small(bytes: usize, entries: usize) -> Shelf {
        shelf(StoreLimits { bytes, entries, value_bytes: 100 })
    }

    #[test]
    fn lifetimes_are_cut_to_ten_seconds() {
        for (ttl_s, ms) in [(0, 10_000), (1, 1_000), (9, 9_000), (10, 10_000), (11, 10_000), (65_535, 10_000)] {
            assert_eq!(Store::lifetime_ms(ttl_s), ms);
            let mut store = shelf(StoreLimits::default());
            store.put(key(1), b"v", ttl_s, None, T0).unwrap();
            assert!(store.get(&key(1), Time::from_ms(ms - 1)).is_some());
            assert!(store.get(&key(1), Time::from_ms(ms)).is_none(), "served only while age < lifetime");
            store.store.expire(&mut store.sources, Time::from_ms(ms + 16));
            assert!(store.is_empty(), "memory is freed within a tick");
        }
    }

    #[test]
    fn a_clock_at_its_end_neither_wraps_nor_serves_for_ever() {
        let mut store = shelf(StoreLimits::default());
        let end = Time::from_ms(u64::MAX - 5);
        store.put(key(1), b"v", 0, None, end).unwrap();
        assert!(store.get(&key(1), end).is_some());
        assert!(store.get(&key(1), Time::from_ms(u64::MAX)).is_none());
    }

    #[test]
    fn the_last_writer_wins_but_not_over_a_certified_value() {
        let mut store = shelf(StoreLimits::default());
        store.put(key(1), b"one", 9, None, T0).unwrap();
        store.put(key(1), b"two", 1, None, T0).unwrap();
        assert_eq!(store.get(&key(1), T0), Some(&b"two"[..]));
        assert_eq!(store.get(&key(1), Time::from_ms(1_000)), None, "the lifetime is replaced too");

        let hash = Id::hash_of(&[b"certified"]);
        store.put(hash, b"squatter", 9, None, T0).unwrap();
        store.put(hash, b"certified", 9, None, T0).unwrap();
        assert_eq!(store.put(hash, b"squatter", 9, None, T0), Err(ErrorCode::Refused));
        store.put(hash, b"certified", 9, None, Time::from_ms(5_000)).unwrap();
        assert_eq!(store.get(&hash, Time::from_ms(13_999)), Some(&b"certified"[..]), "renewed by itself");
        store.put(hash, b"squatter", 9, None, Time::from_ms(14_000)).unwrap();

        let hash = Id::hash_of(&[b"another"]);
        store.put(hash, b"another", 9, None, Time::from_ms(20_001)).unwrap();
        let end = Time::from_ms(29_001);
        store.put(hash, b"squatter", 9, None, end).unwrap();
        assert_eq!(store.get(&hash, end), Some(&b"squatter"[..]), "what has expired is not protected");
    }

    #[test]
    fn a_large_value_keeps_its_checksum_until_it_is_replaced() {
        let mut store = shelf(StoreLimits::default());
        let (small, large, other) = (vec![1; SEAL_KEPT_FROM - 1], vec![2; SEAL_KEPT_FROM], vec![3; SEAL_KEPT_FROM]);
        store.put(key(1), &small, 9, None, T0).unwrap();
        assert_eq!(store.get_sealed(&key(1), T0), Some((&small[..], None)));
        for value in [&large, &other, &large] {
            store.put(key(1), value, 9, None, T0).unwrap();
            for _ in 0..2 {
                assert_eq!(store.get_sealed(&key(1), T0), Some((&value[..], Some(&seal_of_value(value)))));
            }
        }
        assert_eq!(store.get_sealed(&key(1), Time::from_ms(9_000)), None);
        let mut sealed = Vec::new();
        let seal = &seal_of_value(&large);
        <Sealed as crate::dialect::Codec>::encode(&Message::ValueWithChecksum { value: &large, seal }, &mut sealed);
        let mut plain = Vec::new();
        <Sealed as crate::dialect::Codec>::encode(&Message::Value { value: &large }, &mut plain);
        assert_eq!(sealed, plain, "to the byte");
    }

    #[test]
    fn a_full_store_refuses_and_keeps_what_it_holds() {
        let mut store = small(3 * (STORE_ENTRY_BYTES + 10), 100);
        for n in 0..3 {
            store.put(key(n), &[n; 10], 5, None, T0).unwrap();
        }
        assert_eq!(store.put(key(9), b"", 5, None, T0), Err(ErrorCode::Full));
        store.put(key(1), &[7; 10], 5, None, T0).unwrap();
        assert_eq!(store.put(key(1), &[7; 11], 5, None, T0), Err(ErrorCode::Full));
        assert_eq!(store.get(&key(1), T0), Some(&[7; 10][..]), "a refused replacement leaves the old value");
        assert_eq!(store.put(key(1), &[7; 101], 5, None, T0), Err(ErrorCode::TooLarge));
        store.put(key(9), b"", 5, None, Time::from_ms(5_016)).unwrap();
        assert_eq!(small(1 << 20, 1).put(key(1), b"", 0, None, T0), Ok(()));
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_source_fills_a_quarter_and_loopback_all() {
        let flood =
            |store: &mut Shelf, source| (0..40).filter(|&n| store.put(key(n), b"", 5, source, T0).is_ok()).count();
        let mut store = small(40 * STORE_ENTRY_BYTES, 100);
        assert_eq!(flood(&mut store, ip("9.9.9.9")), 10);
        assert!(store.put(key(99), b"", 5, ip("8.8.8.8"), T0).is_ok(), "others are served on");
        let mut store = small(40 * STORE_ENTRY_BYTES, 100);
        assert_eq!(flood(&mut store, ip("127.0.0.1")), 40);
        let mut store = small(40 * STORE_ENTRY_BYTES, 100);
        assert_eq!(flood(&mut store, ip("2001:db8::1")), 10);
        assert_eq!(store.put(key(99), b"", 5, ip("2001:db8::2"), T0), Err(ErrorCode::Full), "a /64 is one source");
    }

    /// A4 of the attacks: the share was one of bytes only, and small values filled all entries.
    #[test]
    fn one_source_fills_a_quarter_of_the_entries_too() {
        let mut store = small(1 << 20, 40);
        let taken = (0..40).filter(|&n| store.put(key(n), b"", 5, ip("9.9.9.9"), T0).is_ok()).count();
        assert_eq!((taken, store.put(key(99), b"hello", 5, ip("8.8.8.8"), T0)), (10, Ok(())));
        store.store.expire(&mut store.sources, Time::from_ms(5_016));
        assert!((100..110).all(|n| store.put(key(n), b"", 5, ip("9.9.9.9"), Time::from_ms(5_016)).is_ok()));
        assert_eq!((store.sources.store_entries.all(), store.sources.store_bytes.all() as usize), (10, store.bytes()));
    }

    /// Found by mutation: what a source replaces of its own counted twice.
    #[test]
    fn a_source_whose_share_is_full_can_renew_its_own_values() {
        for store in [&mut small(40 * (STORE_ENTRY_BYTES + 10), 1_000), &mut small(1 << 20, 40)] {
            let taken = (0..40).filter(|&n| store.put(key(n), &[n; 10], 5, ip("9.9.9.9"), T0).is_ok()).count();
            for n in 0..taken as u8 {
                assert_eq!(store.put(key(n), &[n + 1; 10], 9, ip("9.9.9.9"), T0), Ok(()), "{n} of {taken}");
            }
            assert_eq!(store.put(key(200), &[0; 10], 9, ip("9.9.9.9"), T0), Err(ErrorCode::Full));
            assert_eq!(store.get(&key(3), Time::from_ms(8_999)), Some(&[4; 10][..]));
        }
    }

    /// A1 of the attacks: each PUT of another value hashed the one that was held.
    #[test]
    fn whether_a_value_is_certified_is_found_out_once() {
        let mut store = shelf(StoreLimits::default());
        let value = vec![7; 60_000];
        let key = Id::of(&value);
        store.put(key, &value, 9, None, T0).unwrap();
        let timer = store.find_living(&key, T0).unwrap();
        assert_eq!(store.values.get(timer).unwrap().is_certified, None, "not before somebody asks");
        assert_eq!(store.put(key, b"", 9, None, T0), Err(ErrorCode::Refused));
        assert_eq!(store.values.get(timer).unwrap().is_certified, Some(true));
        // As if it had never been true: no second look is taken.
        store.values.get_mut(timer).unwrap().is_certified = Some(false);
        store.put(key, b"", 9, None, T0).unwrap();
        store.put(key, &value, 9, None, T0).unwrap();
        assert_eq!(store.get_certified(&key, T0), Some(&value[..]), "what replaced it is looked at anew");
        // Also where it is as long, and so takes the same memory.
        let key = Id::of(b"certified");
        for squatter in [b"squatter1", b"squatter2"] {
            store.put(key, squatter, 9, None, T0).unwrap();
        }
        store.put(key, b"certified", 9, None, T0).unwrap();
        assert_eq!(store.put(key, b"squatter3", 9, None, T0), Err(ErrorCode::Refused));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_with_expiry(ops in prop::collection::vec((0u8..6, 0u8..12, 0u16..12, 0u64..3_000), 1..120)) {
            let mut store = small(12 * STORE_ENTRY_BYTES, 8);
            let mut model = std::collections::BTreeMap::<u8, (u16, u64)>::new();
            let mut now = 0;
            for (n, len, ttl_s, step) in ops {
                now += step;
                let source = (n % 2 == 0).then(|| "9.9.9.9".parse().unwrap());
                if store.put(key(n), &vec![n; usize::from(len)], ttl_s, source, Time::from_ms(now)).is_ok() {
                    model.insert(n, (u16::from(len), now + Store::lifetime_ms(ttl_s)));
                }
                store.check_invariants();
                for (n, (len, until)) in &model {
                    let want = (now < *until).then(|| vec![*n; usize::from(*len)]);
                    prop_assert_eq!(store.get(&key(*n), Time::from_ms(now)), want.as_deref());
                }
            }
        }
    }
}
