//! The checker of the message level, called on every message. Panics if a holder serves a value past its time or under
//! another key, if a lookup sends more requests than it may, or if it asks a contact twice; the caller names the seed.
//! Changes nothing in the world.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::Id;
use crate::limits::{GET_TRIES, JOB_MS, LIFETIME_MAX_MS, LOOKUP_BUDGET, LOOKUP_BUDGET_ALL_PATHS};
use crate::time::Time;

/// A fault of a test's own making, one for each check, to show that the check catches it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Canary {
    /// Nothing is broken.
    None,
    /// Holders serve values past their time.
    ServesStale,
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
    value: Vec<u8>,
    /// The latest time at which the copy may have been stored.
    by: Time,
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
    asking: BTreeMap<(u32, Id), LookupRequests>,
}

impl Checks {
    /// Notes that `host` holds `value` under `key`, and has stored it by `by` at the latest.
    pub fn stored(&mut self, host: u32, key: Id, value: &[u8], by: Time) {
        self.copies.entry((host, key)).or_default().push(StoredCopy { value: value.into(), by });
    }

    /// Notes that `host` was given a job for `key`: a PUT of the value `put`, of which it may keep a copy, or a GET.
    pub fn started(&mut self, host: u32, key: Id, put: Option<&[u8]>, now: Time) {
        self.asking.entry((host, key)).or_default().jobs += 1;
        if let Some(value) = put {
            self.stored(host, key, value, now.after(JOB_MS));
        }
    }

    /// The value that a broken holder serves for `key`: one that it held at any time, or that of another key.
    pub fn broken(&self, host: u32, key: &Id, canary: Canary) -> Option<Arc<[u8]>> {
        let of = |wanted: &dyn Fn(&Id) -> bool| {
            let mut held = self.copies.iter().filter(|((holder, held), _)| *holder == host && wanted(held));
            held.find_map(|(_, copies)| copies.last()).map(|copy| Arc::from(&*copy.value))
        };
        match canary {
            Canary::ServesStale => of(&|held| held == key),
            Canary::WrongValue => of(&|held| held != key),
            Canary::None | Canary::AsksTwice | Canary::AsksForEver | Canary::LosesJobs => None,
        }
    }

    /// Checks that the honest `host` may serve `value` for `key`. Panics if not.
    pub fn served(&self, host: u32, key: &Id, value: &[u8], now: Time) {
        let copies = self.copies.get(&(host, *key)).map_or(&[][..], Vec::as_slice);
        let copy = copies.iter().rev().find(|copy| copy.value == value);
        let copy = copy.unwrap_or_else(|| panic!("host {host} serves what was never stored there under {key:?}"));
        let age_ms = now.since(copy.by);
        assert!(age_ms < LIFETIME_MAX_MS, "host {host} serves a value of age {age_ms} ms");
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
