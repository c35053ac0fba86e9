//! What must never be, checked on every message of a message-level world: values past their time or under another key,
//! more requests than a lookup may send, somebody asked twice. Panics where it is; the caller names the seed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::Id;
use crate::limits::{GET_TRIES, JOB_MS, LIFETIME_MAX_MS, LOOKUP_BUDGET, LOOKUP_BUDGET_ALL_PATHS};
use crate::time::Time;

/// Deliberately broken nodes, one for each checker, to show that it would catch them.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Canary {
    /// All is well.
    None,
    /// Holders serve what they held after its time.
    ServesStale,
    /// Holders serve one value for another.
    WrongValue,
    /// Every request of a lookup is sent twice.
    AsksTwice,
    /// Nothing is ever enough for a lookup.
    AsksForEver,
    /// The end of a job is not told.
    LosesJobs,
}

/// What is known of the copies of a value.
#[derive(Clone, Debug)]
struct StoredCopy {
    value: Vec<u8>,
    /// It was stored by then at the latest.
    by: Time,
}

/// What one host's lookups of one target have asked.
#[derive(Default, Debug)]
struct LookupRequests {
    /// Jobs that were started for it.
    jobs: usize,
    /// Whom.
    asked: Vec<u32>,
}

/// Everything that is remembered to judge by.
#[derive(Default, Debug)]
pub struct Checks {
    copies: BTreeMap<(u32, Id), Vec<StoredCopy>>,
    asking: BTreeMap<(u32, Id), LookupRequests>,
}

impl Checks {
    /// `host` holds `value` under `key`, stored by `by` at the latest.
    pub fn stored(&mut self, host: u32, key: Id, value: &[u8], by: Time) {
        self.copies.entry((host, key)).or_default().push(StoredCopy { value: value.into(), by });
    }

    /// `host` was given a job for `key`: a PUT, which may end in a copy of its own, or a GET.
    pub fn started(&mut self, host: u32, key: Id, put: Option<&[u8]>, now: Time) {
        self.asking.entry((host, key)).or_default().jobs += 1;
        if let Some(value) = put {
            self.stored(host, key, value, now.after(JOB_MS));
        }
    }

    /// What a broken holder serves for `key`: what it held at any time, or another key's value.
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

    /// An honest `host` served `value` for `key`.
    pub fn served(&self, host: u32, key: &Id, value: &[u8], now: Time) {
        let copies = self.copies.get(&(host, *key)).map_or(&[][..], Vec::as_slice);
        let copy = copies.iter().rev().find(|copy| copy.value == value);
        let copy = copy.unwrap_or_else(|| panic!("host {host} serves what was never stored there under {key:?}"));
        let age_ms = now.since(copy.by);
        assert!(age_ms < LIFETIME_MAX_MS, "host {host} serves a value of age {age_ms} ms");
    }

    /// `host` asks `to` about `target`.
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
