//! The clock of the process: milliseconds since it started, counting time in which the host was suspended
//! (CLOCK_BOOTTIME), so that a value's age is its true age.

use rustix::time::{ClockId, clock_gettime};

use crate::time::Time;

/// Counts from the moment it was made.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    start_ms: u64,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { start_ms: boot_ms() }
    }

    /// The time.
    pub fn now(&self) -> Time {
        Time::from_ms(boot_ms().saturating_sub(self.start_ms))
    }
}

fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    (time.tv_sec as u64).saturating_mul(1000).saturating_add(time.tv_nsec as u64 / 1_000_000)
}
