//! The clock of the process: milliseconds since it started. It counts time in which the host was suspended, so that a
//! value's age is its true age. Never goes back, and never follows the wall clock.

use rustix::time::{ClockId, clock_gettime};

use crate::time::Time;

/// On Linux: the clock that counts while the host is suspended.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// Elsewhere: CLOCK_MONOTONIC. On macOS it counts while the host is suspended. On FreeBSD no clock does; if one ever
/// will, it is this one (until then, a value lives longer by the time of the suspension).
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// A clock that counts from its creation.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    start_ms: u64,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { start_ms: clock_ms() }
    }

    /// The time since the start.
    pub fn now(&self) -> Time {
        Time::from_ms(clock_ms().saturating_sub(self.start_ms))
    }
}

fn clock_ms() -> u64 {
    let time = clock_gettime(CLOCK);
    (time.tv_sec as u64).saturating_mul(1000).saturating_add(time.tv_nsec as u64 / 1_000_000)
}
