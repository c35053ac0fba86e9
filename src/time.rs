//! Time as the pure modules see it: a number that the caller passes in. Never reads a clock; only `net/` does.

use std::fmt;
use std::num::NonZeroU64;

/// A moment, in milliseconds since the process (or the simulated world) started. All arithmetic saturates, so no ttl
/// and no jump of the clock can wrap it. Stored as that number plus one, so that an `Option<Time>` is no larger: a
/// connection has many of them.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(NonZeroU64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(NonZeroU64::MIN);

    /// The moment `ms` milliseconds after the start.
    pub const fn from_ms(ms: u64) -> Time {
        Time(NonZeroU64::MIN.saturating_add(ms))
    }

    /// Milliseconds since the start.
    pub const fn as_ms(self) -> u64 {
        self.0.get() - 1
    }

    /// The moment `ms` milliseconds after this one.
    #[must_use]
    pub const fn after(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }

    /// The earlier of two deadlines, either of which may be missing.
    pub fn earliest(a: Option<Time>, b: Option<Time>) -> Option<Time> {
        match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (only, None) | (None, only) => only,
        }
    }

    /// Milliseconds from `earlier` to this moment; 0 if `earlier` is in fact later.
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }
}

impl Default for Time {
    fn default() -> Time {
        Time::ZERO
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.as_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let end = Time::from_ms(u64::MAX);
        assert_eq!(end.after(10), end);
        assert_eq!(Time::ZERO.since(end), 0);
        assert_eq!(Time::from_ms(7).after(3).since(Time::from_ms(4)), 6);
    }

    #[test]
    fn the_earlier_deadline_wins_over_a_later_and_over_none() {
        let [early, late] = [3, 5].map(|ms| Some(Time::from_ms(ms)));
        for (a, b, first) in [(early, late, early), (late, early, early), (late, None, late), (None, late, late)] {
            assert_eq!(Time::earliest(a, b), first);
        }
        assert_eq!(Time::earliest(None, None), None);
    }
}
