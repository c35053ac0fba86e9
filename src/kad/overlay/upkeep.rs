//! What the overlay does of its own accord: bootstrap, refresh, and probes of who is silent or was only heard of. Part
//! of [`Overlay`]; decides when, and leaves the asking to [`Overlay::poll_ask`].

use crate::contact::{Contact, admissible};
use crate::id::Id;
use crate::kad::lookup::Goal;
use crate::kad::overlay::{Overlay, Owner};
use crate::kad::routing_table::BucketIndex;
use crate::limits::{
    BOOTSTRAP_RETRY_MAX_MS, BOOTSTRAP_RETRY_MS, BUCKET_REFRESH_MS, CONFIRM_MS, CONTACT_STALE_MS,
    NEIGHBOURS_REFRESH_FACTOR, NEIGHBOURS_REFRESH_MAX_MS, PROBE_MEMORY, PROBE_MEMORY_MS, PROBES, REACHABILITY_CHECK_MS,
    REACHABILITY_CONTACTS, UPKEEP_MS, UPKEEP_PROBES,
};
use crate::time::Time;

impl Overlay {
    /// When [`Overlay::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Time {
        let others = [self.bootstrap_at, self.reachability_at, self.neighbours_at, self.confirm_at];
        others.into_iter().flatten().fold(self.upkeep_at, Time::min)
    }

    /// Bootstraps, refreshes and probes what is due at `now`.
    pub fn on_timeout(&mut self, now: Time) {
        // In this order, as the upkeep may find that it is time to bootstrap: the next deadline then lies ahead.
        if self.upkeep_at <= now {
            self.upkeep_at = now.after(self.random.u64(UPKEEP_MS * 3 / 4..UPKEEP_MS * 5 / 4));
            self.upkeep(now);
        }
        if self.neighbours_at.is_some_and(|at| at <= now) {
            self.refresh_neighbours(now);
        }
        if self.reachability_at.is_some_and(|at| at <= now) {
            self.check_reachability(now);
        }
        if self.confirm_at.is_some_and(|at| at <= now) {
            self.confirm(now);
        }
        if self.bootstrap_at.is_some_and(|at| at <= now) {
            self.bootstrap_at = None;
            self.start(self.own.id, Goal::Nodes(self.parameters.k), 1, Owner::Bootstrap, &[]);
        }
    }

    /// Asks one of the contacts nearest to us, who are the likeliest to list us.
    fn check_reachability(&mut self, now: Time) {
        self.reachability_at = None;
        let mut nearest = Vec::with_capacity(REACHABILITY_CONTACTS);
        self.table.closest(&self.own.id, REACHABILITY_CONTACTS, |_| true, &mut nearest);
        if !self.named_by_others && !nearest.is_empty() {
            self.reachability_wanted = Some(nearest[self.reachability_checks % nearest.len()]);
            self.reachability_checks += 1;
            self.reachability_at = Some(now.after(REACHABILITY_CHECK_MS << self.reachability_checks.min(5)));
        }
    }

    fn upkeep(&mut self, now: Time) {
        self.probed.retain(|(_, until)| now < *until);
        let since = Time::from_ms(now.as_ms().saturating_sub(CONTACT_STALE_MS));
        for contact in self.table.silent_since(since).into_iter().take(UPKEEP_PROBES) {
            self.probes_wanted.push_back((contact, false));
        }
        if self.table.unconfirmed_since(now).next().is_some() {
            // One that waited may have taken the place of one that failed.
            self.confirm_at.get_or_insert(now.after(CONFIRM_MS));
        }
        if !self.table.has_confirmed() {
            if self.bootstrap_at.is_none() && !self.is_bootstrapping() && !self.bootstraps.is_empty() {
                self.bootstrap_at = Some(now);
            }
            return;
        }
        self.neighbours_at.get_or_insert(now.after(NEIGHBOURS_REFRESH_MAX_MS));
        let since = Time::from_ms(now.as_ms().saturating_sub(BUCKET_REFRESH_MS));
        if let Some(bucket) = self.table.stale_bucket(since) {
            self.refresh(bucket, now);
        }
    }

    /// Our neighbours decide with us who holds a value, and must know us: they are asked about ourselves, soon after a
    /// join for those who joined at the same moment, and now and then for those who come later.
    fn refresh_neighbours(&mut self, now: Time) {
        if self.table.is_empty() {
            self.neighbours_at = None;
            return;
        }
        self.neighbours_ms = (self.neighbours_ms * NEIGHBOURS_REFRESH_FACTOR).min(NEIGHBOURS_REFRESH_MAX_MS);
        let pause_ms = self.random.u64(self.neighbours_ms * 3 / 4..self.neighbours_ms * 5 / 4);
        self.neighbours_at = Some(now.after(pause_ms));
        self.start(self.own.id, Goal::Nodes(self.parameters.k), 1, Owner::Neighbours, &[]);
    }

    fn refresh(&mut self, bucket: BucketIndex, now: Time) {
        let random = Id(std::array::from_fn(|_| self.random.u8(..)));
        let target = self.table.id_in_bucket(bucket, random);
        self.table.looked_up(&target, now);
        self.start(target, Goal::Nodes(self.parameters.k), 1, Owner::Refresh, &[]);
    }

    /// After a join: looks into the next of the buckets that are to be filled, from the nearest to the farthest.
    pub(super) fn refresh_next(&mut self, now: Time) {
        if let Some(bucket) = self.refreshed_to.farther() {
            self.refreshed_to = bucket;
            self.refresh(bucket, now);
        }
    }

    fn is_bootstrapping(&self) -> bool {
        self.lookups.iter().any(|(_, running)| running.owner == Owner::Bootstrap)
    }

    /// Asks those who were heard of a while ago and have not answered anything since.
    fn confirm(&mut self, now: Time) {
        self.confirm_at = None;
        let since = Time::from_ms(now.as_ms().saturating_sub(CONFIRM_MS / 2));
        let waiting: Vec<Contact> = self.table.unconfirmed_since(since).collect();
        waiting.into_iter().for_each(|contact| self.want_probe(contact, true, CONFIRM_MS, now));
        if self.table.unconfirmed_since(now).next().is_some() {
            self.confirm_at = Some(now.after(CONFIRM_MS));
        }
    }

    /// Asks for a probe, unless there are many, or one of that address failed or was asked for in the last `memory_ms`.
    pub(super) fn want_probe(&mut self, contact: Contact, verify: bool, memory_ms: u64, now: Time) {
        let is_probed = self.probed.iter().any(|&(addr, until)| addr == contact.addr && now < until);
        if is_probed || self.probing + self.probes_wanted.len() >= PROBES {
            return;
        }
        // Remembered from the start, so that nobody is probed twice at once.
        if self.probed.len() >= PROBE_MEMORY {
            self.probed.pop_front();
        }
        self.probed.push_back((contact.addr, now.after(memory_ms)));
        self.probes_wanted.push_back((contact, verify));
    }

    /// The source of a request that only nodes send. It is probed if the table has a place for it and the address allows
    /// it.
    pub fn candidate(&mut self, contact: Contact, now: Time) {
        // Most are known, or their bucket is full of others.
        if !self.table.wants(&contact) {
            return;
        }
        if !admissible(self.own.addr.ip(), contact.addr) {
            self.tallies.martians += 1;
            return;
        }
        self.want_probe(contact, true, PROBE_MEMORY_MS, now);
    }

    /// A probe with `verify` has ended; report it also with [`Overlay::alive`] or, if it failed, not at all.
    pub fn probe_ended(&mut self, contact: Contact, answered: bool) {
        self.probing = self.probing.saturating_sub(1);
        if answered {
            self.probed.retain(|(addr, _)| *addr != contact.addr);
        } else {
            self.tallies.probes_failed += 1;
        }
    }

    pub(super) fn bootstrap_failed(&mut self, now: Time) {
        self.tallies.bootstraps_failed += 1;
        let pause = BOOTSTRAP_RETRY_MS << self.bootstrap_failures.min(6);
        let pause = pause.min(BOOTSTRAP_RETRY_MAX_MS);
        self.bootstrap_failures += 1;
        let pause = pause / 2 + self.random.u64(0..=pause / 2);
        log::warn!("bootstrap_failed asked={} retry_ms={pause}", self.bootstraps.len());
        self.bootstrap_at = Some(now.after(pause));
    }
}
