//! The timer wheel: a hashed wheel that arms and cancels a timer in O(1). Each owner of timers has a wheel of its own.
//! Never reads a clock, never fires early, and holds no memory while it is empty.

use std::num::NonZeroU32;

use slab::Slab;

use crate::arena::can_allocate;
use crate::limits::{WHEEL_SLOTS as SLOTS, WHEEL_TICK_MS as TICK_MS};
use crate::time::Time;

const WORDS: usize = SLOTS / u64::BITS as usize;
const NONE: u32 = u32::MAX;

/// A set of timers, each with an item of type `T`.
#[derive(Debug)]
pub struct Wheel<T> {
    timers: Slab<Timer<T>>,
    /// The first timer of each slot; empty while no timer is armed.
    heads: Vec<u32>,
    occupied: [u64; WORDS],
    /// All ticks up to this one have fired.
    done: u64,
    armed: u32,
}

#[derive(Debug)]
struct Timer<T> {
    item: T,
    at: Time,
    prev: u32,
    next: u32,
    serial: NonZeroU32,
}

impl<T> Timer<T> {
    /// The tick in which the timer fires, never before its time.
    fn tick(&self) -> u64 {
        self.at.as_ms().div_ceil(TICK_MS)
    }

    fn slot(&self) -> usize {
        (self.tick() % SLOTS as u64) as usize
    }
}

/// Names one armed timer. Once the timer has fired or was cancelled, the key finds nothing.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct TimerKey {
    index: u32,
    /// Never 0, so that an `Option<TimerKey>` is no larger.
    serial: NonZeroU32,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Wheel { timers: Slab::new(), heads: Vec::new(), occupied: [0; WORDS], done: 0, armed: 0 }
    }
}

impl<T> Wheel<T> {
    /// A wheel without timers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of armed timers.
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    /// Whether there is memory for another timer.
    pub fn can_grow(&self) -> bool {
        let (len, capacity) = (self.timers.len(), self.timers.capacity());
        len < capacity || can_allocate((2 * capacity).max(4) * size_of::<(u32, Timer<T>)>())
    }

    /// Arms a timer for `at`. If `at` is not after `now`, it fires at the next tick.
    pub fn arm(&mut self, now: Time, at: Time, item: T) -> TimerKey {
        if self.timers.is_empty() {
            self.done = self.done.max(now.as_ms() / TICK_MS);
            self.heads.resize(SLOTS, NONE);
        }
        let serial = NonZeroU32::new(self.armed.wrapping_add(1)).unwrap_or(NonZeroU32::MIN);
        self.armed = serial.get();
        let at = self.ahead(at);
        let index = self.timers.insert(Timer { item, at, prev: NONE, next: NONE, serial }) as u32;
        self.link(index);
        TimerKey { index, serial }
    }

    /// Moves a timer to `at`. Returns whether it was still armed.
    pub fn rearm(&mut self, key: TimerKey, at: Time) -> bool {
        if self.get(key).is_none() {
            return false;
        }
        self.unlink(key.index);
        self.timers[key.index as usize].at = self.ahead(at);
        self.link(key.index);
        true
    }

    /// Disarms a timer and returns its item; `None` if it has fired or was cancelled.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.get(key)?;
        let item = self.remove(key.index);
        self.release_if_empty();
        Some(item)
    }

    /// The item of an armed timer.
    pub fn get(&self, key: TimerKey) -> Option<&T> {
        self.timer(key).map(|timer| &timer.item)
    }

    /// The item of an armed timer.
    pub fn get_mut(&mut self, key: TimerKey) -> Option<&mut T> {
        let timer = self.timers.get_mut(key.index as usize)?;
        Some(&mut timer.item).filter(|_| timer.serial == key.serial)
    }

    /// The items of all armed timers, in no particular order.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.timers.iter().map(|(_, timer)| &timer.item)
    }

    /// When an armed timer is due.
    pub fn due_at(&self, key: TimerKey) -> Option<Time> {
        self.timer(key).map(|timer| timer.at)
    }

    fn timer(&self, key: TimerKey) -> Option<&Timer<T>> {
        self.timers.get(key.index as usize).filter(|timer| timer.serial == key.serial)
    }

    /// When [`Wheel::expire`] next has something to do; `None` while the wheel is empty. Never earlier than the tick
    /// after the last `expire`. For timers that are more than one turn of the wheel ahead, it may be early.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.timers.is_empty() {
            return None;
        }
        Some(Time::from_ms(self.next_occupied(self.done).saturating_mul(TICK_MS)))
    }

    /// Disarms the timers that are due at `now`, and appends their items to `due`.
    pub fn expire(&mut self, now: Time, due: &mut Vec<T>) {
        self.expire_each(now, |_, item| due.push(item));
    }

    /// Disarms the timers that are due at `now`, and passes their items to `fired`, with the keys that named them.
    pub fn expire_each(&mut self, now: Time, mut fired: impl FnMut(TimerKey, T)) {
        let now_tick = now.as_ms() / TICK_MS;
        let last_slot = self.done + SLOTS as u64;
        while !self.timers.is_empty() && self.done < now_tick {
            let tick = self.next_occupied(self.done);
            if tick > now_tick || tick > last_slot {
                break;
            }
            let mut index = self.heads[(tick % SLOTS as u64) as usize];
            while index != NONE {
                let timer = &self.timers[index as usize];
                let next = timer.next;
                if timer.tick() <= now_tick {
                    let key = TimerKey { index, serial: timer.serial };
                    fired(key, self.remove(index));
                }
                index = next;
            }
            self.done = tick;
        }
        self.done = self.done.max(now_tick);
        self.release_if_empty();
    }

    /// The first tick after `tick` whose slot holds a timer. The wheel must not be empty.
    fn next_occupied(&self, tick: u64) -> u64 {
        let first = ((tick + 1) % SLOTS as u64) as usize;
        // Looks at the first word twice: from `first` on, and after a whole turn up to it.
        for step in 0..=WORDS {
            let word = (first / 64 + step) % WORDS;
            let mask = match step {
                0 => !0 << (first % 64),
                WORDS => !(!0 << (first % 64)),
                _ => !0,
            };
            let bits = self.occupied[word] & mask;
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                return tick + 1 + ((slot + SLOTS - first) % SLOTS) as u64;
            }
        }
        debug_assert!(false, "a wheel with timers has an occupied slot");
        tick + 1
    }

    /// When a timer armed for `at` would fire: not before the next tick that has not fired.
    pub fn ahead(&self, at: Time) -> Time {
        at.max(Time::from_ms(self.done.saturating_mul(TICK_MS).saturating_add(1)))
    }

    fn link(&mut self, index: u32) {
        let slot = self.timers[index as usize].slot();
        let next = std::mem::replace(&mut self.heads[slot], index);
        let timer = &mut self.timers[index as usize];
        (timer.prev, timer.next) = (NONE, next);
        if next != NONE {
            self.timers[next as usize].prev = index;
        }
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    fn unlink(&mut self, index: u32) {
        let timer = &self.timers[index as usize];
        let (slot, prev, next) = (timer.slot(), timer.prev, timer.next);
        if prev == NONE {
            self.heads[slot] = next;
        } else {
            self.timers[prev as usize].next = next;
        }
        if next != NONE {
            self.timers[next as usize].prev = prev;
        }
        if self.heads[slot] == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
    }

    fn remove(&mut self, index: u32) -> T {
        self.unlink(index);
        self.timers.remove(index as usize).item
    }

    fn release_if_empty(&mut self) {
        if self.timers.is_empty() {
            self.timers = Slab::new();
            self.heads = Vec::new();
        }
    }

    /// Panics unless every timer is linked in its slot and lies in the future. For debug builds and tests.
    pub fn check_invariants(&self) {
        let mut linked = 0;
        for (slot, &head) in self.heads.iter().enumerate() {
            assert_eq!(
                head != NONE,
                self.occupied[slot / 64] >> (slot % 64) & 1 == 1,
                "bitmap agrees with slot {slot}"
            );
            let (mut prev, mut index) = (NONE, head);
            while index != NONE {
                let timer = &self.timers[index as usize];
                assert_eq!((timer.prev, timer.slot()), (prev, slot));
                assert!(timer.tick() > self.done, "no armed timer is due");
                linked += 1;
                (prev, index) = (index, timer.next);
            }
        }
        assert_eq!(linked, self.timers.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn due(wheel: &mut Wheel<u32>, ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(Time::from_ms(ms), &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn an_empty_wheel_holds_no_memory() {
        let mut wheel = Wheel::new();
        let key = wheel.arm(Time::ZERO, Time::from_ms(5), 1);
        assert_eq!(wheel.cancel(key), Some(1));
        assert_eq!(wheel.cancel(key), None, "a key outlives its timer");
        assert_eq!((wheel.heads.capacity(), wheel.timers.capacity()), (0, 0));
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn a_gap_of_many_turns_fires_everything_once() {
        let mut wheel = Wheel::new();
        for i in 0..100 {
            wheel.arm(Time::ZERO, Time::from_ms(u64::from(i) * 700), i);
        }
        assert_eq!(due(&mut wheel, 1_000_000).len(), 100);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_time_at_the_end_of_the_clock_does_not_overflow() {
        let mut wheel = Wheel::new();
        wheel.arm(Time::ZERO, Time::from_ms(u64::MAX), 1);
        assert!(due(&mut wheel, 40_000).is_empty());
        assert!(wheel.next_deadline() > Some(Time::from_ms(40_000)));
    }

    proptest! {
        #[test]
        fn fires_what_a_sorted_list_would(ops in prop::collection::vec((0u8..4, 0u64..70_000), 1..200)) {
            let mut wheel = Wheel::new();
            let mut model: Vec<(u64, u32, TimerKey)> = Vec::new();
            let mut now = 0;
            for (i, (op, value)) in ops.into_iter().enumerate() {
                let i = i as u32;
                match op {
                    0 | 1 => {
                        let key = wheel.arm(Time::from_ms(now), Time::from_ms(now + value), i);
                        model.push((now + value, i, key));
                    }
                    2 if !model.is_empty() && value % 2 == 0 => {
                        let at = value as usize % model.len();
                        let (due, item, key) = model[at];
                        prop_assert_eq!(wheel.get(key), Some(&item));
                        prop_assert!(wheel.due_at(key).is_some_and(|at| at.as_ms() >= due));
                        prop_assert!(wheel.rearm(key, Time::from_ms(now + 1 + value)));
                        model[at].0 = now + 1 + value;
                    }
                    2 if !model.is_empty() => {
                        let (_, item, key) = model.swap_remove(value as usize % model.len());
                        prop_assert_eq!(wheel.cancel(key), Some(item));
                    }
                    _ => {
                        now += value / 8;
                        let fired = due(&mut wheel, now);
                        for (at, item, _) in &model {
                            let must = at + 2 * TICK_MS <= now;
                            prop_assert!(fired.contains(item) || !must, "{} missed at {}", at, now);
                            prop_assert!(*at <= now || !fired.contains(item), "{} early at {}", at, now);
                        }
                        model.retain(|(_, item, _)| !fired.contains(item));
                        prop_assert!(wheel.next_deadline().is_none_or(|at| at > Time::from_ms(now)));
                    }
                }
                wheel.check_invariants();
                prop_assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
