//! Limits how often strangers can make us send a datagram to an address of their choice (docs/protocol-hyperdht.md).
//! One token bucket for each source and one for all together; never sends anything itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::contact::source;
use crate::limits::{
    FORWARD_SOURCES, FORWARDS_AT_ONCE, FORWARDS_OF_SOURCE_AT_ONCE, FORWARDS_OF_SOURCE_PER_S, FORWARDS_PER_S,
};
use crate::time::Time;

/// A token bucket: how many thousandths of a forward are allowed, as of a time.
#[derive(Copy, Clone, Debug)]
struct Allowance {
    thousandths: u64,
    at: Time,
}

impl Allowance {
    fn full(most: u64, now: Time) -> Allowance {
        Allowance { thousandths: most * 1_000, at: now }
    }

    /// Takes one forward; returns `false` if none is allowed.
    fn take(&mut self, per_s: u64, most: u64, now: Time) -> bool {
        let gained = now.since(self.at).saturating_mul(per_s);
        *self = Allowance { thousandths: self.thousandths.saturating_add(gained).min(most * 1_000), at: now };
        match self.thousandths.checked_sub(1_000) {
            Some(left) => {
                self.thousandths = left;
                true
            }
            None => false,
        }
    }
}

/// How much may still be forwarded.
#[derive(Clone, Debug)]
pub struct Forwards {
    all: Allowance,
    /// Sources of recent forwards. Loopback is not counted, because many share its address.
    of_source: BTreeMap<IpAddr, Allowance>,
    /// Until then, no source can be forgotten.
    sweep_at: Time,
}

impl Forwards {
    /// All buckets are full.
    pub fn new(now: Time) -> Forwards {
        Forwards { all: Allowance::full(FORWARDS_AT_ONCE, now), of_source: BTreeMap::new(), sweep_at: now }
    }

    /// Whether one more forward is allowed for `host`. If it is, it counts as made.
    pub fn admit(&mut self, host: IpAddr, now: Time) -> bool {
        if let Some(source) = source(host) {
            if self.of_source.len() >= FORWARD_SOURCES && !self.of_source.contains_key(&source) {
                self.forget_idle(now);
                if self.of_source.len() >= FORWARD_SOURCES {
                    return false;
                }
            }
            let full = Allowance::full(FORWARDS_OF_SOURCE_AT_ONCE, now);
            let allowance = self.of_source.entry(source).or_insert(full);
            if !allowance.take(FORWARDS_OF_SOURCE_PER_S, FORWARDS_OF_SOURCE_AT_ONCE, now) {
                return false;
            }
        }
        self.all.take(FORWARDS_PER_S, FORWARDS_AT_ONCE, now)
    }

    /// Forgets sources whose bucket is full again.
    fn forget_idle(&mut self, now: Time) {
        if now < self.sweep_at {
            return;
        }
        let refill_ms = FORWARDS_OF_SOURCE_AT_ONCE * 1_000 / FORWARDS_OF_SOURCE_PER_S;
        self.of_source.retain(|_, allowance| now.since(allowance.at) < refill_ms);
        self.sweep_at = now.after(refill_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_allowance_and_all_have_one_together() {
        let mut forwards = Forwards::new(Time::ZERO);
        let (a, b) = ([9, 9, 9, 9].into(), [9, 9, 9, 8].into());
        let made = (0..1_000).filter(|_| forwards.admit(a, Time::ZERO)).count() as u64;
        assert_eq!(made, FORWARDS_OF_SOURCE_AT_ONCE);
        assert!(forwards.admit(b, Time::ZERO));
        let later = Time::from_ms(1_000);
        assert_eq!((0..1_000).filter(|_| forwards.admit(a, later)).count() as u64, FORWARDS_OF_SOURCE_PER_S);
        let mut forwards = Forwards::new(Time::ZERO);
        let made = (0..10_000).filter(|_| forwards.admit([127, 0, 0, 1].into(), Time::ZERO)).count() as u64;
        assert_eq!(made, FORWARDS_AT_ONCE, "loopback too");
    }

    #[test]
    fn the_memory_of_sources_is_bounded() {
        let mut forwards = Forwards::new(Time::ZERO);
        for n in 0..3 * FORWARD_SOURCES as u32 {
            forwards.admit(IpAddr::from((0x0909_0000 + n).to_be_bytes()), Time::from_ms(u64::from(n)));
            assert!(forwards.of_source.len() <= FORWARD_SOURCES);
        }
    }
}
