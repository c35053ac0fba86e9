//! What is remembered of strangers for a while, in a table of bounded size. A full table forgets early rather than grow
//! or search: whoever fills it makes it forget, and never makes it refuse or slow down.

use crate::limits::{RECENT_SLOTS_AT_FIRST as SLOTS_AT_FIRST, RECENT_WAYS as WAYS};
use crate::time::Time;

/// Small values by the hash of what they belong to. The hash must be [`seeded`](crate::hash::seeded), so that nobody
/// can choose two that collide.
#[derive(Clone, Debug)]
pub struct Recent<V> {
    /// None, or a power of two.
    slots: Vec<Slot<V>>,
    most: usize,
}

#[derive(Copy, Clone, Debug)]
struct Slot<V> {
    hash: u64,
    /// The entry counts until then.
    until: Time,
    value: V,
}

impl<V: Default> Slot<V> {
    /// A slot in which nothing is remembered.
    fn empty() -> Slot<V> {
        Slot { hash: 0, until: Time::ZERO, value: V::default() }
    }
}

impl<V: Copy + Default> Recent<V> {
    /// An empty table for at most `most` entries, a power of two from 16 on.
    pub fn new(most: usize) -> Recent<V> {
        debug_assert!(most.is_power_of_two() && most >= SLOTS_AT_FIRST);
        Recent { slots: Vec::new(), most }
    }

    /// The value of `hash`, if it is remembered at `now`.
    pub fn get(&self, hash: u64, now: Time) -> Option<V> {
        let ways = self.slots.get(self.ways_of(hash))?;
        ways.iter().find(|slot| slot.hash == hash && now < slot.until).map(|slot| slot.value)
    }

    /// Remembers `value` for `hash` until `until`, instead of the value it may have. If there is no room, an entry that
    /// would be forgotten sooner than another is forgotten now.
    pub fn set(&mut self, hash: u64, value: V, until: Time, now: Time) {
        let fresh = Slot { hash, until, value };
        if self.slots.is_empty() {
            self.slots = vec![Slot::empty(); SLOTS_AT_FIRST];
        }
        while !self.place(fresh, now) {
            let is_full = self.slots.len() >= self.most;
            if is_full {
                let ways = self.ways_of(hash);
                if let Some(soonest) = self.slots[ways].iter_mut().min_by_key(|slot| slot.until) {
                    *soonest = fresh;
                }
                return;
            }
            let larger = vec![Slot::empty(); 2 * self.slots.len()];
            for slot in std::mem::replace(&mut self.slots, larger) {
                // There is room: those that shared two slots share four now.
                self.place(slot, now);
            }
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<V>>()
    }

    /// Forgets the value of `hash`.
    pub fn forget(&mut self, hash: u64) {
        let ways = self.ways_of(hash);
        let ways = self.slots.get_mut(ways).unwrap_or_default();
        ways.iter_mut().filter(|slot| slot.hash == hash).for_each(|slot| *slot = Slot::empty());
    }

    /// Puts an entry into a slot that is its own or that nothing is remembered in; whether there was one.
    fn place(&mut self, fresh: Slot<V>, now: Time) -> bool {
        let ways = self.ways_of(fresh.hash);
        let ways = &mut self.slots[ways];
        let own = ways.iter().position(|slot| slot.hash == fresh.hash);
        let Some(at) = own.or_else(|| ways.iter().position(|slot| slot.until <= now)) else {
            return false;
        };
        ways[at] = fresh;
        true
    }

    /// The slots that may hold `hash`: they exist unless there are none at all.
    fn ways_of(&self, hash: u64) -> std::ops::Range<usize> {
        let first = (hash as usize & self.slots.len().saturating_sub(1)) / WAYS * WAYS;
        first..first + WAYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::seeded;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::hash::Hasher;

    fn hash(n: u32) -> u64 {
        seeded(7, |h| h.write_u32(n))
    }

    #[test]
    fn a_value_is_remembered_until_its_time_and_can_be_replaced_and_forgotten() {
        let mut recent = Recent::new(64);
        assert_eq!(recent.get(hash(1), Time::ZERO), None);
        recent.set(hash(1), 5, Time::from_ms(10), Time::ZERO);
        assert_eq!((recent.get(hash(1), Time::from_ms(9)), recent.get(hash(1), Time::from_ms(10))), (Some(5), None));
        recent.set(hash(1), 6, Time::from_ms(20), Time::from_ms(9));
        assert_eq!(recent.get(hash(1), Time::from_ms(10)), Some(6));
        recent.forget(hash(1));
        recent.forget(hash(2));
        assert_eq!(recent.get(hash(1), Time::from_ms(10)), None);
    }

    #[test]
    fn a_flood_is_forgotten_early_and_the_table_keeps_its_bound() {
        let mut recent = Recent::new(256);
        for n in 0..10_000 {
            recent.set(hash(n), n, Time::from_ms(1_000), Time::ZERO);
            assert_eq!(recent.get(hash(n), Time::ZERO), Some(n), "the newest is remembered");
        }
        assert_eq!(recent.slots.len(), 256);
        let known = (0..10_000).filter(|n| recent.get(hash(*n), Time::ZERO).is_some()).count();
        assert!(known > 250, "{known}");
    }

    #[test]
    fn what_would_be_forgotten_sooner_gives_way() {
        let mut recent = Recent::new(16);
        recent.set(hash(1), 1, Time::from_ms(10_000), Time::ZERO);
        (2..1_000).for_each(|n| recent.set(hash(n), n, Time::from_ms(100), Time::ZERO));
        assert_eq!(recent.get(hash(1), Time::ZERO), Some(1));
    }

    #[test]
    fn it_grows_with_what_it_remembers_and_not_with_what_it_has_forgotten() {
        let mut recent = Recent::new(1_024);
        assert_eq!(recent.slots.capacity(), 0);
        for n in 0..10_000 {
            let now = Time::from_ms(u64::from(n) * 10);
            recent.set(hash(n), n, now.after(10), now);
        }
        assert_eq!(recent.slots.len(), SLOTS_AT_FIRST);
    }

    proptest! {
        /// It never makes anything up, and forgets nothing while there is room.
        #[test]
        fn agrees_with_a_map_until_it_is_full(steps in prop::collection::vec((0u32..40, 0u64..50, any::<u8>()), 1..200)) {
            let (mut recent, mut map, mut now) = (Recent::new(1 << 14), BTreeMap::new(), Time::ZERO);
            for (n, ms, value) in steps {
                now = now.after(ms / 10);
                recent.set(hash(n), value, now.after(ms), now);
                map.insert(n, (value, now.after(ms)));
                for n in 0..40 {
                    let want = map.get(&n).filter(|(_, until)| now < *until).map(|(value, _)| *value);
                    prop_assert_eq!(recent.get(hash(n), now), want);
                }
            }
        }
    }
}
