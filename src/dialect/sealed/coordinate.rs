//! The jobs of a node: a PUT that it sees to, a GET that it answers from the network. What was asked is answered when the
//! nodes nearest to the key have had their say, or the job's time is up. Part of the node; sends nothing by itself.

use crate::contact::Contact;
use crate::dialect::sealed::job::{GetJob, Job, JobId, Outcome, Put, PutJob, Tally, Ticket, Work};
use crate::dialect::sealed::node::{Alarm, Node, Output, Purpose};
use crate::dialect::sealed::request::{Request, Via};
use crate::dialect::sealed::settings::Settings;
use crate::dialect::sealed::store::{Store, is_certified};
use crate::id::Id;
use crate::kad::lookup::Goal;
use crate::kad::overlay::{Ended, LookupId};
use crate::limits::{
    GET_TRY_MS, JOB_MARGIN_MS, JOB_MS, JOBS, PATHS_ON_RETRY, PUT_LOOKUP_MS, REPLICATION_MAX, SPARE_HOLDERS,
};
use crate::time::Time;

impl Node {
    /// Starts storing a value on the nodes nearest to its key. Returns whether it did: too many jobs may be in progress.
    pub fn start_put(&mut self, put: Put<'_>, ticket: Ticket, now: Time) -> bool {
        if self.jobs.len() >= JOBS {
            return false;
        }
        let paths = self.settings.kademlia.paths;
        let replication = if put.replication == 0 { self.settings.replication } else { put.replication };
        let id = self.jobs.vacant_key();
        let lookup = self.overlay.start_lookup(put.key, Goal::Nodes(replication + SPARE_HOLDERS), paths, id, &[]);
        self.alarms.arm(now, now.after(PUT_LOOKUP_MS), Alarm::HoldersDue(id));
        let job = PutJob {
            key: put.key,
            value: put.value.into(),
            ttl_s: put.ttl_s,
            replication: replication.min(REPLICATION_MAX),
            source: put.source,
            candidates: Vec::new(),
            waiting: 0,
            stored: 0,
            lookup: Some(lookup),
        };
        self.register(Work::Put(job), ticket, now);
        true
    }

    /// Starts looking for the value of `key`. Returns whether it did: too many jobs may be in progress.
    pub fn start_get(&mut self, key: Id, store: &Store, ticket: Ticket, now: Time) -> bool {
        if self.jobs.len() >= JOBS {
            return false;
        }
        let tally = self.own_tally(&key, store, now);
        let paths = self.settings.kademlia.paths;
        let lookup = self.overlay.start_lookup(key, Goal::Value, paths, self.jobs.vacant_key(), &[]);
        let get = GetJob { key, tally, lookup, tries: 1 };
        self.register(Work::Get(get), ticket, now);
        true
    }

    /// What a GET begins with: this node's own value counts as one holder's.
    fn own_tally(&self, key: &Id, store: &Store, now: Time) -> Tally {
        let mut tally = Tally::default();
        let own = self.overlay.own().id.distance(key);
        store.get(key, now).into_iter().for_each(|value| tally.add(own, Some(value)));
        tally
    }

    fn register(&mut self, work: Work, ticket: Ticket, now: Time) {
        let at = ticket.since.after(JOB_MS - JOB_MARGIN_MS);
        let deadline = self.alarms.arm(now, at, Alarm::Deadline(self.jobs.vacant_key()));
        self.jobs.insert(Job { work, ticket, deadline });
    }

    pub(super) fn put_job(&mut self, id: JobId) -> Option<&mut PutJob> {
        match &mut self.jobs.get_mut(id)?.work {
            Work::Put(put) => Some(put),
            Work::Get(_) => None,
        }
    }

    pub(super) fn get_job(&mut self, id: JobId) -> Option<&mut GetJob> {
        match &mut self.jobs.get_mut(id)?.work {
            Work::Get(get) => Some(get),
            Work::Put(_) => None,
        }
    }

    /// `from` holds a value of the key looked up. A certified one ends the lookup; of others the nearest nodes decide.
    pub(super) fn on_value(&mut self, lookup: LookupId, from: Contact, value: &[u8], now: Time) {
        self.overlay.named(lookup, from, &[], |_| true, now);
        let Some(id) = self.overlay.owner(lookup) else {
            return;
        };
        match self.get_job(id) {
            Some(job) if is_certified(&job.key, value) => self.finish(id, Outcome::Found(value.into()), now),
            Some(job) => job.tally.add(from.id.distance(&job.key), Some(value)),
            None => {}
        }
    }

    /// Ends a GET for which values were named once the nodes nearest to its key have been heard. (sealed.md: once the
    /// requests in flight have answered, or 250 ms later; but then whoever is asked on the way, a fifth of liars say, may
    /// make up four values of five, as `make sim` shows.)
    pub(super) fn judge(&mut self, lookup: LookupId, now: Time) {
        let Settings { replication, quorum, .. } = self.settings;
        let Some(id) = self.overlay.owner(lookup) else {
            return;
        };
        let Some(job) = self.get_job(id).filter(|job| job.tally.has_values()) else {
            return;
        };
        let winner = job.tally.winner(replication, quorum).cloned();
        if let Some(value) = winner.filter(|_| self.overlay.has_heard_nearest(lookup, replication)) {
            self.finish(id, Outcome::Found(value), now);
        }
    }

    /// One chosen holder of a PUT has answered or failed.
    pub(super) fn on_holder(&mut self, job: JobId, stored: bool) {
        if let Some(put) = self.put_job(job) {
            put.waiting -= 1;
            self.puts_to_drive.push_back(job);
            if stored {
                self.count_copy(job);
            }
        }
    }

    /// A PUT has one more holder.
    fn count_copy(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        if let Work::Put(put) = &mut job.work {
            put.stored += 1;
            if put.stored == 1 {
                self.outputs.push_back(Output::FirstCopy { ticket: job.ticket });
            }
        }
    }

    pub(super) fn on_ended(&mut self, ended: Ended, store: &mut Store, now: Time) {
        let id = ended.owner;
        let nobody_answered = ended.closest.is_empty();
        let was_busy = nobody_answered && ended.passed_over;
        // Where nobody else is alive, what is left of the network is this node.
        let counts_itself = self.overlay.counts_itself() || (nobody_answered && !was_busy);
        let own = counts_itself.then_some(self.overlay.own());
        let Settings { replication, quorum, .. } = self.settings;
        if let Some(put) = self.put_job(id) {
            put.lookup = None;
            put.candidates = ended.closest;
            put.candidates.extend(own);
            // Farthest first, so that the nearest is popped.
            put.candidates.sort_unstable_by_key(|c| std::cmp::Reverse(c.id.distance(&put.key)));
            self.drive_put(id, store, now);
        } else if let Some(get) = self.get_job(id) {
            let found = get.tally.winner(replication, quorum).cloned();
            match found {
                Some(value) => self.finish(id, Outcome::Found(value), now),
                None if was_busy => self.finish(id, Outcome::Busy, now),
                None if self.retry(id, &ended.heard, now) => {}
                None => self.finish(id, Outcome::Missing, now),
            }
        }
    }

    /// Looks once more, over disjoint paths and without those who were `heard`, as the lookup before may have been led
    /// astray. Returns whether it did: there may be no time left.
    fn retry(&mut self, id: JobId, heard: &[Contact], now: Time) -> bool {
        let paths = self.settings.kademlia.paths.max(PATHS_ON_RETRY);
        let Some(Job { work: Work::Get(get), ticket, .. }) = self.jobs.get_mut(id) else {
            return false;
        };
        let time_left = JOB_MS.saturating_sub(JOB_MARGIN_MS + now.since(ticket.since));
        if get.tries >= self.settings.tries || time_left < GET_TRY_MS {
            return false;
        }
        get.tries += 1;
        get.lookup = self.overlay.start_lookup(get.key, Goal::Value, paths, id, heard);
        true
    }

    /// Chooses holders until enough have the value or are asked, and ends the job when that is settled.
    pub(super) fn drive_put(&mut self, id: JobId, store: &mut Store, now: Time) {
        let own = self.overlay.own();
        while let Some(put) = self.put_job(id) {
            let Some(holder) = put.next_holder() else {
                if put.is_done() {
                    self.conclude(id, now);
                }
                return;
            };
            if holder.id == own.id {
                if store.put(put.key, &put.value, put.ttl_s, Some(put.source), now).is_ok() {
                    self.count_copy(id);
                }
                continue;
            }
            put.waiting += 1;
            let message = Request::Put { ttl_s: put.ttl_s, replication: 1, key: put.key, value: put.value.clone() };
            self.send(holder, Purpose::Store(id), message, Via::Shared, now);
        }
    }

    /// Ends a job with what has been reached so far.
    pub(super) fn conclude(&mut self, id: JobId, now: Time) {
        let outcome = match self.jobs.get(id).map(|job| &job.work) {
            None => return,
            Some(Work::Put(put)) if put.stored > 0 => Outcome::Stored,
            Some(Work::Put(_)) => Outcome::Unreachable,
            Some(Work::Get(get)) => match get.tally.winner(self.settings.replication, self.settings.quorum) {
                Some(value) => Outcome::Found(value.clone()),
                None => Outcome::Missing,
            },
        };
        self.finish(id, outcome, now);
    }

    fn finish(&mut self, id: JobId, outcome: Outcome, now: Time) {
        let Some(job) = self.jobs.remove(id) else {
            return;
        };
        self.alarms.cancel(job.deadline);
        let lookup = match job.work {
            Work::Put(put) => put.lookup,
            Work::Get(get) => Some(get.lookup),
        };
        if let Some(lookup) = lookup {
            self.overlay.enough(lookup, now);
        }
        self.outputs.push_back(Output::Done { ticket: job.ticket, outcome });
    }
}
