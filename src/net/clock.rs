//! The clock of the process: milliseconds since it started, counting time in which the host was suspended, so that a
//! value's age is its true age. Never goes back, and never follows the wall clock.

use rustix::time::{ClockId, clock_gettime};

use crate::time::Time;

/// Of Linux, the clock that counts while the host is suspended.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// Elsewhere that is CLOCK_MONOTONIC's task: of macOS it counts; of FreeBSD no clock does, but if one ever will, it is
/// this one (until then a value lives on for as long as the host was suspended).
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// Counts from the moment it was made.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    start_ms: u64,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { start_ms: clock_ms() }
    }

    /// The time.
    pub fn now(&self) -> Time {
        Time::from_ms(clock_ms().saturating_sub(self.start_ms))
    }
}

fn clock_ms() -> u64 {
    let time = clock_gettime(CLOCK);
    (time.tv_sec as u64).saturating_mul(1000).saturating_add(time.tv_nsec as u64 / 1_000_000)
}
