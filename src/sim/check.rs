//! The checker of the message level, called on every message. Panics if a holder serves a value past its time or under
//! another key, if it no longer has one in whose lifetime it is asked, if a lookup sends more requests than it may, or
//! if it asks a contact twice; the caller names the seed. Changes nothing in the world.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dialect::sealed::store::Store;
use crate::id::Id;
use crate::limits::{GET_TRIES, LIFETIME_MAX_MS, LOOKUP_BUDGET, LOOKUP_BUDGET_ALL_PATHS};
use crate::time::Time;

/// By how much a broken holder misses the end of a value's lifetime: one tick of the timer wheel, in milliseconds.
pub(super) const MISS_MS: u64 = 16;

/// The lifetime in milliseconds of a value that was put with this ttl in seconds, as docs/protocol-sealed.md has it.
/// The store computes it for itself.
pub(super) fn lifetime_ms(ttl_s: u16) -> u64 {
    if ttl_s == 0 { LIFETIME_MAX_MS } else { LIFETIME_MAX_MS.min(1_000 * u64::from(ttl_s)) }
}

/// A fault of a test's own making, one for each check, to show that the check catches it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Canary {
    /// Nothing is broken.
    None,
    /// Holders serve values for one tick too long.
    ServesStale,
    /// Holders forget values one tick too early.
    ForgetsEarly,
    /// Coordinators ask holders for the longest lifetime, whatever their client asked for.
    ForwardsNoTtl,
    /// Holders serve the value of another key.
    WrongValue,
    /// Every request of a lookup is sent twice.
    AsksTwice,
    /// A lookup asks everybody.
    AsksForEver,
    /// The end of a job is not reported.
    LosesJobs,
}

/// A copy of a value at one host.
#[derive(Clone, Debug)]
struct StoredCopy {
    value: Arc<[u8]>,
    /// The copy is served before this time and not from then on.
    until: Time,
}

/// A value that a client put, and the lifetime that it asked for.
#[derive(Clone, Debug)]
struct Wanted {
    value: Arc<[u8]>,
    ttl_s: u16,
    /// The host that coordinates the PUT, until it holds a copy itself; most never do.
    host: Option<u32>,
}

/// The requests of one host's lookups of one target.
#[derive(Default, Debug)]
struct LookupRequests {
    /// The number of jobs that the host was given for this target.
    jobs: usize,
    /// The hosts that were asked, one entry per request.
    asked: Vec<u32>,
}

/// Everything that the checks remember.
#[derive(Default, Debug)]
pub struct Checks {
    copies: BTreeMap<(u32, Id), Vec<StoredCopy>>,
    wanted: BTreeMap<Id, Vec<Wanted>>,
    /// The keys whose values a host may come to hold as their coordinator.
    coordinated: BTreeMap<u32, Vec<Id>>,
    asking: BTreeMap<(u32, Id), LookupRequests>,
}

impl Checks {
    /// Notes that `host` holds `value` under `key` from now on, for the lifetime that its client asked for or, if no
    /// client did, `ttl_s`. Returns the end of that lifetime.
    pub fn stored(&mut self, host: u32, key: Id, value: &[u8], ttl_s: u16, now: Time) -> Time {
        let wanted = self.wanted.get(&key).and_then(|all| all.iter().rev().find(|wanted| *wanted.value == *value));
        let until = now.after(lifetime_ms(wanted.map_or(ttl_s, |wanted| wanted.ttl_s)));
        let value = wanted.map_or_else(|| Arc::from(value), |wanted| wanted.value.clone());
        self.copies.entry((host, key)).or_default().push(StoredCopy { value, until });
        until
    }

    /// Notes that `host` was given a GET of `key`.
    pub fn got(&mut self, host: u32, key: Id) {
        self.asking.entry((host, key)).or_default().jobs += 1;
    }

    /// Notes that `host` was given a PUT of `value`, of which it may come to hold a copy itself.
    pub fn put(&mut self, host: u32, key: Id, value: &[u8], ttl_s: u16) {
        self.got(host, key);
        self.wanted.entry(key).or_default().push(Wanted { value: value.into(), ttl_s, host: Some(host) });
        self.coordinated.entry(host).or_default().push(key);
    }

    /// Notes which values `host` has come to hold as their coordinator. Returns their keys and ends. Call it whenever
    /// the host has acted.
    pub fn look_into(&mut self, host: u32, store: &Store, now: Time) -> Vec<(Id, Time)> {
        let mut found = Vec::new();
        for key in self.coordinated.get(&host).cloned().unwrap_or_default() {
            let held = store.get(&key, now);
            let mut wanted = self.wanted.get_mut(&key).into_iter().flatten();
            let new = wanted.find(|wanted| wanted.host == Some(host) && Some(&*wanted.value) == held);
            if let Some(Wanted { value, ttl_s, host: waits }) = new {
                *waits = None;
                let (value, ttl_s) = (value.clone(), *ttl_s);
                found.push((key, self.stored(host, key, &value, ttl_s, now)));
            }
        }
        if let Some(keys) = self.coordinated.get_mut(&host) {
            keys.retain(|key| found.iter().all(|(of, _)| of != key));
        }
        found
    }

    /// The value that a broken holder serves for `key`: one that it held a tick ago, or that of another key.
    pub fn broken(&self, host: u32, key: &Id, canary: Canary, now: Time) -> Option<Arc<[u8]>> {
        match canary {
            Canary::ServesStale => {
                let copy = self.copies.get(&(host, *key))?.last()?;
                (now < copy.until.after(MISS_MS)).then(|| copy.value.clone())
            }
            Canary::WrongValue => {
                let mut others = self.copies.iter().filter(|((holder, held), _)| *holder == host && held != key);
                others.find_map(|(_, copies)| copies.last()).map(|copy| copy.value.clone())
            }
            _ => None,
        }
    }

    /// Whether a broken holder has forgotten the value of `key`, one tick too early.
    pub fn has_forgotten(&self, host: u32, key: &Id, now: Time) -> bool {
        let last = self.copies.get(&(host, *key)).and_then(|copies| copies.last());
        last.is_some_and(|copy| now.after(MISS_MS) >= copy.until)
    }

    /// Checks that the honest `host` may serve `value` for `key`. Panics if not.
    pub fn served(&self, host: u32, key: &Id, value: &[u8], now: Time) {
        let copies = self.copies.get(&(host, *key)).map_or(&[][..], Vec::as_slice);
        let copy = copies.iter().rev().find(|copy| *copy.value == *value);
        let copy = copy.unwrap_or_else(|| panic!("host {host} serves what was never stored there under {key:?}"));
        assert!(now < copy.until, "host {host} serves a value {} ms past its end", now.since(copy.until));
    }

    /// Checks that the honest `host` may have no value for `key`. Panics if not.
    pub fn has_none(&self, host: u32, key: &Id, now: Time) {
        let last = self.copies.get(&(host, *key)).and_then(|copies| copies.last());
        let left_ms = last.map_or(0, |copy| copy.until.since(now));
        assert!(left_ms == 0, "host {host} forgets a value {left_ms} ms before its end");
    }

    /// Checks that `host` may ask `to` about `target`. Panics if not.
    pub fn asks(&mut self, host: u32, target: Id, to: u32) {
        let Some(asking) = self.asking.get_mut(&(host, target)) else {
            return; // The node's own upkeep.
        };
        asking.asked.push(to);
        let times = asking.asked.iter().filter(|asked| **asked == to).count();
        assert!(times <= asking.jobs, "host {host} asks {to} {times} times about {target:?}");
        let budget = LOOKUP_BUDGET + GET_TRIES * LOOKUP_BUDGET_ALL_PATHS;
        assert!(asking.asked.len() <= asking.jobs * budget, "host {host} asks beyond its budget about {target:?}");
    }
}
