//! The jobs of a node: coordinated PUTs and network GETs. A job ends when the nodes nearest to the key have answered,
//! or when its time is up. Part of the node; never sends anything itself.

use crate::contact::Contact;
use crate::dialect::sealed::codec::Message;
use crate::dialect::sealed::job::{GetJob, HolderState, Job, JobId, Outcome, Put, PutJob, Ticket, Work};
use crate::dialect::sealed::node::{Alarm, Node, Output, Purpose};
use crate::dialect::sealed::request::Request;
use crate::dialect::sealed::settings::Settings;
use crate::dialect::sealed::store::Store;
use crate::dialect::sealed::tally::{Copies, Heard, Quorum, Tally};
use crate::dialect::stream::Via;
use crate::id::{Id, Metric};
use crate::kad::lookup::Goal;
use crate::kad::overlay::{Ended, LookupId};
use crate::limits::{
    JOB_MARGIN_MS, JOB_MS, JOBS, LOOKUP_LEAST_MS, PATHS_ON_RETRY, PUT_LOOKUP_MS, REPLICATION_MAX, SPARE_HOLDERS,
    TALLY_BYTES, TALLY_FIRST_BYTES,
};
use crate::sources::Sources;
use crate::time::Time;

impl Node {
    /// Starts a PUT that stores a value on the nodes nearest to its key. Returns `false` if too many jobs are in
    /// progress.
    pub fn start_put(&mut self, put: Put<'_>, ticket: Ticket, now: Time) -> bool {
        if self.jobs.len() >= JOBS {
            return false;
        }
        let paths = self.settings.kademlia.paths;
        let replication = if put.replication == 0 { self.settings.replication } else { put.replication };
        let id = self.jobs.vacant_key();
        let reach = replication.saturating_add(SPARE_HOLDERS).min(self.settings.kademlia.k);
        let lookup = self.overlay.start_lookup(put.key, Goal::Nodes(reach), paths, id, &[]);
        // The time counts from when the request came, like the job's deadline, but the lookup must have some time.
        let due_at = ticket.since.after(PUT_LOOKUP_MS).max(now.after(LOOKUP_LEAST_MS));
        let holders_due = self.alarms.arm(now, due_at, Alarm::HoldersDue(id));
        let job = PutJob {
            key: put.key,
            value: put.value.into(),
            ttl_s: put.ttl_s,
            replication: replication.min(REPLICATION_MAX),
            source: put.source,
            candidates: Vec::new(),
            reach,
            lookup: Some(lookup),
            ended: None,
            holders_due,
        };
        self.register(Work::Put(job), ticket, now);
        true
    }

    /// Starts a GET that looks for the value of `key`. Returns `false` if too many jobs are in progress.
    pub fn start_get(&mut self, key: Id, store: &Store, ticket: Ticket, now: Time) -> bool {
        if self.jobs.len() >= JOBS {
            return false;
        }
        let Settings { kademlia, replication, quorum, .. } = self.settings;
        let id = self.jobs.vacant_key();
        let lookup = self.overlay.start_lookup(key, Goal::Value, kademlia.paths, id, &[]);
        let get = GetJob { key, tally: Tally::new(Copies(replication), Quorum(quorum)), lookup, tries: 1 };
        self.register(Work::Get(get), ticket, now);
        // This node's own value counts as the answer of one holder.
        let own = self.overlay.own().id;
        store.get(&key, now).into_iter().for_each(|value| self.count_vote(id, &own, Some((Id::of(value), value))));
        true
    }

    /// `from` answered the GET `id` with a value, given with its hash, or without one. A value for which there is no room
    /// counts as none. All GETs share the room; of a part of it, each gets only its first value.
    pub(super) fn count_vote(&mut self, id: JobId, from: &Id, value: Option<(Id, &[u8])>) {
        let room = TALLY_BYTES - self.tallied_bytes;
        if let Some(get) = self.get_job(id) {
            let before = get.tally.bytes();
            let own_room = if before == 0 { room } else { room.saturating_sub(TALLY_FIRST_BYTES) };
            get.tally.add(from.distance(&get.key), value.filter(|(_, value)| value.len() <= own_room));
            let after = get.tally.bytes();
            self.tallied_bytes = self.tallied_bytes - before + after;
        }
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

    /// `from` holds a value of the key of the lookup. A certified value ends the lookup; about other values, the
    /// nearest nodes decide.
    pub(super) fn on_value(&mut self, lookup: LookupId, from: Contact, value: &[u8], now: Time) {
        self.overlay.named(lookup, from, &[], |_| true, now);
        let Some(id) = self.overlay.owner(lookup) else {
            return;
        };
        let hash = Id::of(value);
        match self.get_job(id) {
            Some(job) if job.key == hash => self.finish(id, Outcome::Found(value.into()), now),
            _ => self.count_vote(id, &from.id, Some((hash, value))),
        }
    }

    /// Stores the value of a PUT on the nodes nearest to its key as soon as all of them have answered, while the lookup
    /// continues to search for nearer nodes. If it finds any, those are asked to store the value too
    /// (docs/protocol-sealed.md, "Where the seed is silent"). The answer waits for both: an earlier answer would save
    /// another sixth of the time, but then a fifth of liars hide twice as many values (`dayfly sim`).
    fn store_early(&mut self, id: JobId, lookup: LookupId) {
        let Some(wanted) = self.put_job(id).filter(|put| put.candidates.is_empty()).map(|put| put.replication) else {
            return;
        };
        let own = self.overlay.counts_itself().then_some(self.overlay.own());
        let nearest = self.overlay.settled_nearest(lookup, wanted).filter(|nearest| nearest.len() == wanted);
        if let (Some(mut nearest), Some(put)) = (nearest, self.put_job(id)) {
            // This node stores the value only if it is one of the nearest. Nodes that fail are replaced once the lookup
            // has found others.
            nearest.extend(own);
            nearest.sort_unstable_by(|a, b| put.key.compare(&a.id, &b.id));
            nearest.truncate(wanted);
            put.add_candidates(nearest);
            self.puts_to_drive.push_back(id);
            self.overlay.hurry(lookup);
        }
    }

    /// A lookup of a job has made progress. Ends a GET whose answers name a value, once the nodes nearest to the key
    /// have answered. (Not once the requests in flight have answered, or 250 ms later: then any node that is asked on
    /// the way could make up a value, and a fifth of liars would make up four of five, as `make sim` shows;
    /// docs/protocol-sealed.md, "Where the seed is silent".)
    pub(super) fn on_lookup_progress(&mut self, lookup: LookupId, now: Time) {
        let Some(id) = self.overlay.owner(lookup) else {
            return;
        };
        if self.put_job(id).is_some() {
            return self.store_early(id, lookup);
        }
        let Some(tally) = self.get_job(id).map(|get| &get.tally) else {
            return;
        };
        let (winner, electorate) = (tally.winner(Heard::Nearest).cloned(), tally.electorate());
        if let Some(value) = winner.filter(|_| self.overlay.have_nearest_answered(lookup, electorate)) {
            self.finish(id, Outcome::Found(value), now);
        }
    }

    /// A node that was asked to hold the value of a PUT has answered or failed. One that says that it holds it is asked
    /// for it if the PUT goes over several paths, because then its user expects liars: from an ephemeral port, as a
    /// stranger would ask.
    pub(super) fn on_holder_result(&mut self, job: JobId, holder: Contact, result: HolderState, now: Time) {
        let doubts = self.settings.asks_back && self.settings.kademlia.paths > 1 && result == HolderState::Stored;
        let key = self.put_job(job).map(|put| put.key);
        if let Some(key) = key.filter(|_| doubts) {
            self.settle_holder(job, &holder.id, HolderState::AskedBack);
            return self.send(holder, Purpose::AskBack(job), Request::FindValue(key), Via::Single, now);
        }
        self.settle_holder(job, &holder.id, result);
        self.puts_to_drive.push_back(job);
    }

    /// A node that says that it holds the value of a PUT was asked for the value.
    pub(super) fn on_asked_back(&mut self, job: JobId, holder: Contact, answer: &Message<'_>) {
        let Some(put) = self.put_job(job) else {
            return;
        };
        let is_true = matches!(answer, Message::Value { value } if **value == *put.value);
        let result = if is_true { HolderState::Stored } else { HolderState::Lied };
        self.settle_holder(job, &holder.id, result);
        self.puts_to_drive.push_back(job);
    }

    /// What became of a node that should hold the value of a PUT.
    pub(super) fn settle_holder(&mut self, id: JobId, holder: &Id, state: HolderState) {
        let Some(Job { work: Work::Put(put), ticket, .. }) = self.jobs.get_mut(id) else {
            return;
        };
        let had_none = put.copies() == 0;
        put.settle(holder, state);
        if had_none && put.copies() == 1 {
            self.outputs.push_back(Output::FirstCopy { ticket: *ticket });
        }
    }

    pub(super) fn on_ended(&mut self, ended: Ended, store: &mut Store, sources: &mut Sources, now: Time) {
        let id = ended.owner;
        let nobody_answered = ended.closest.is_empty();
        let was_busy = nobody_answered && ended.passed_over;
        // If no other node is alive, this node is all that is left of the network.
        let counts_itself = self.overlay.counts_itself() || (nobody_answered && !was_busy);
        let own = counts_itself.then_some(self.overlay.own());
        let k = self.settings.kademlia.k;
        if let Some(put) = self.put_job(id) {
            put.lookup = None;
            put.ended = Some(ended.lookup);
            put.add_candidates(ended.closest.into_iter().chain(own));
            self.drive_put(id, store, sources, now);
        } else if let Some(get) = self.get_job(id) {
            let found = get.tally.winner(Heard::Lookup(k)).cloned();
            match found {
                Some(value) => self.finish(id, Outcome::Found(value), now),
                None if was_busy => self.finish(id, Outcome::Busy, now),
                None if get.tries == 1 && !ended.lookup.is_wide() => {
                    // Each of several paths has heard only the first of the nearest, but one farther out may hold it.
                    let resumed = self.overlay.resume(ended.lookup, id);
                    self.get_job(id).into_iter().for_each(|get| get.lookup = resumed);
                }
                None if self.retry(id, &ended.queried, now) => {}
                None => self.conclude(id, now),
            }
        }
    }

    /// Repeats the lookup of a GET over disjoint paths, without the contacts that were already `heard`, because liars
    /// may have led the last lookup astray. Returns `false` if no time or no try is left.
    fn retry(&mut self, id: JobId, heard: &[Contact], now: Time) -> bool {
        let paths = self.settings.kademlia.paths.max(PATHS_ON_RETRY);
        let Some(Job { work: Work::Get(get), ticket, .. }) = self.jobs.get_mut(id) else {
            return false;
        };
        let time_left = JOB_MS.saturating_sub(JOB_MARGIN_MS + now.since(ticket.since));
        if get.tries >= self.settings.tries || time_left < LOOKUP_LEAST_MS {
            return false;
        }
        get.tries += 1;
        get.lookup = self.overlay.start_lookup(get.key, Goal::Value, paths, id, heard);
        true
    }

    /// Asks nodes to hold the value of a PUT until enough hold it or have been asked, and ends the job when all of them
    /// have answered or failed.
    pub(super) fn drive_put(&mut self, id: JobId, store: &mut Store, sources: &mut Sources, now: Time) {
        let own = self.overlay.own();
        while let Some(put) = self.put_job(id) {
            let Some(holder) = put.next_holder() else {
                if put.is_done() && !self.look_farther(id) {
                    self.conclude(id, now);
                }
                return;
            };
            if holder.id == own.id {
                let stored = store.put(put.key, &put.value, put.ttl_s, Some(put.source), sources, now);
                let result = stored.map_or_else(|code| HolderState::of_error(code.code()), |()| HolderState::Stored);
                self.settle_holder(id, &own.id, result);
                continue;
            }
            let message = Request::Put { ttl_s: put.ttl_s, replication: 1, key: put.key, value: put.value.clone() };
            self.send(holder, Purpose::Store(id), message, Via::Shared, now);
        }
    }

    /// Resumes the lookup of a PUT if too few of the nodes that it found hold the value, until it has found the k
    /// nearest: a GET hears those too. Returns `false` if it has, or if enough hold it.
    fn look_farther(&mut self, id: JobId) -> bool {
        let k = self.settings.kademlia.k;
        let Some(put) = self.put_job(id).filter(|put| put.copies() < put.replication && put.reach < k) else {
            return false;
        };
        put.reach = k;
        let Some(lookup) = put.ended.take() else {
            return false;
        };
        let resumed = self.overlay.resume(lookup, id);
        if let Some(put) = self.put_job(id) {
            put.lookup = Some(resumed);
        }
        true
    }

    /// Ends a job with what it has reached so far.
    pub(super) fn conclude(&mut self, id: JobId, now: Time) {
        let outcome = match self.jobs.get(id).map(|job| &job.work) {
            None => return,
            Some(Work::Put(put)) => put.outcome(),
            Some(Work::Get(get)) => match get.tally.winner(Heard::All) {
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
            Work::Put(put) => {
                self.alarms.cancel(put.holders_due);
                put.lookup
            }
            Work::Get(get) => {
                self.tallied_bytes -= get.tally.bytes();
                Some(get.lookup)
            }
        };
        if let Some(lookup) = lookup {
            self.overlay.enough(lookup, now);
        }
        self.outputs.push_back(Output::Done { ticket: job.ticket, outcome });
    }
}
