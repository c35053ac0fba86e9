//! The events to come, in the order of their time; events of the same time come in the order in which they were added.
//! Also the hash of what has happened. Never loses an event, and never depends on anything but what was added.

use std::collections::{BTreeMap, VecDeque};

use crate::time::Time;

/// The next so many milliseconds have a list each; events farther ahead wait in a map.
const NEAR: usize = 4_096;

/// The events to come. Adding or taking one costs the same however many there are, because those of one millisecond are
/// in one list.
#[derive(Debug)]
pub struct Schedule<E> {
    /// The lists, by time modulo [`NEAR`].
    near: Vec<VecDeque<E>>,
    far: BTreeMap<Time, VecDeque<E>>,
    /// Everything before this time has happened.
    now: Time,
    in_near: usize,
    len: usize,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        let near = std::iter::repeat_with(VecDeque::new).take(NEAR).collect();
        Schedule { near, far: BTreeMap::new(), now: Time::ZERO, in_near: 0, len: 0 }
    }
}

impl<E> Schedule<E> {
    /// Adds an event that happens at `at`, or now if that has passed.
    pub fn add(&mut self, at: Time, event: E) {
        let at = at.max(self.now);
        self.len += 1;
        if at.since(self.now) < NEAR as u64 {
            self.in_near += 1;
            self.near[slot(at)].push_back(event);
        } else {
            self.far.entry(at).or_default().push_back(event);
        }
    }

    /// Takes the next event and its time, if it is due by `until`.
    pub fn next(&mut self, until: Time) -> Option<(Time, E)> {
        loop {
            if let Some(event) = self.near[slot(self.now)].pop_front() {
                self.in_near -= 1;
                self.len -= 1;
                return Some((self.now, event));
            }
            if self.now >= until {
                return None;
            }
            let next = if self.in_near > 0 { self.now.after(1) } else { self.first_far().unwrap_or(until).min(until) };
            self.turn_to(next);
        }
    }

    /// The number of events to come.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no events to come.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn first_far(&self) -> Option<Time> {
        self.far.first_key_value().map(|(at, _)| *at)
    }

    /// Moves on to `now`, and moves the events that are near now into the lists. They were added before all others of
    /// the same time, so they come first.
    fn turn_to(&mut self, now: Time) {
        self.now = now;
        while let Some(at) = self.first_far().filter(|at| at.since(now) < NEAR as u64) {
            let events = self.far.remove(&at).unwrap_or_default();
            self.in_near += events.len();
            self.near[slot(at)].extend(events);
        }
    }
}

fn slot(at: Time) -> usize {
    (at.as_ms() % NEAR as u64) as usize
}

/// A running hash (FNV-1a over 64-bit words) of everything that has happened, by which two runs are compared.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Trace(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    /// Adds an event.
    pub fn note(&mut self, words: &[u64]) {
        for word in words {
            self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// The hash so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_time_then_of_making() {
        let mut schedule = Schedule::default();
        for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (4, 'b'), (9_000, 'e'), (9_000, 'f')] {
            schedule.add(Time::from_ms(at), event);
        }
        let until = |schedule: &mut Schedule<char>, ms| -> String {
            std::iter::from_fn(|| schedule.next(Time::from_ms(ms)).map(|(_, event)| event)).collect()
        };
        assert_eq!(until(&mut schedule, 4), "ab");
        assert_eq!(until(&mut schedule, 9), "cd");
        assert_eq!(until(&mut schedule, 8_999), "");
        schedule.add(Time::from_ms(9_000), 'g');
        schedule.add(Time::ZERO, 'p');
        assert_eq!(until(&mut schedule, 9_000), "pefg");
        assert!(schedule.is_empty());
    }

    #[test]
    fn a_trace_tells_order_and_content_apart() {
        let hash = |words: &[u64]| {
            let mut trace = Trace::default();
            trace.note(words);
            trace.value()
        };
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
        assert_ne!(hash(&[1]), hash(&[1, 0]));
    }
}
