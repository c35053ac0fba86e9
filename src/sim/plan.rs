//! The plan of a measured run at the message level, from its beginning to its report: the network is built, things go
//! wrong, values are put and got. Decides what is done when; moves no message.

use crate::contact::Contact;
use crate::dialect::sealed::job::Outcome;
use crate::id::{ID_BITS, Id};
use crate::limits::{JOB_MS, REPLICATION};
use crate::sim::host::Host;
use crate::sim::options::{Build, Churn, Options, Ttl};
use crate::sim::report::Report;
use crate::sim::schedule::Schedule;
use crate::sim::world::{Done, World};
use crate::time::Time;

/// The least time over which the operations of a run are spread.
pub(super) const STAGE_MS: u64 = 4_000;
/// The average time between two operations of one host, so that it is seldom busy with another one.
const HOST_MS: u64 = 20_000;
/// The virtual time in which all hosts join.
const JOINING_MS: u64 = 100_000;
/// The time that a network is given after the last join, in which neighbours that joined at the same moment find each
/// other.
const SETTLING_MS: u64 = 45_000;
/// The time within which a host that joins has found its neighbours, as the clients of a growing network expect of it.
pub(super) const JOINED_MS: u64 = 2_000;
/// The least time between the PUT of a value of any lifetime and its GET: most are stored by then.
const SOON_MS: u64 = 700;
/// The time beyond its limit that a job may take, for the last answer and the tick of a timer.
pub(super) const SLACK_MS: u64 = 100;

/// An action of the plan.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Deed {
    /// Look up the key of this operation, which nobody holds yet.
    Seek(usize),
    /// Put the value of this operation.
    Put(usize),
    /// Get the value of this operation.
    Get(usize),
    /// End the session of this host; another one joins.
    Leave(usize),
    /// Another host joins.
    Join,
}

/// An operation: one value and its way through the network.
#[derive(Debug)]
struct Op {
    key: Id,
    value: Vec<u8>,
    /// The closest living honest hosts that responded to the first lookup.
    heard: Vec<u32>,
    is_stored: bool,
    /// When its GET began the value was stored and a living host had a copy that would outlive the GET.
    is_promised: bool,
    put_at: Time,
    get_at: Time,
}

/// A run under way.
#[derive(Debug)]
pub struct Run {
    /// The world of the run.
    pub world: World,
    /// The numbers so far.
    pub report: Report,
    deeds: Schedule<Deed>,
    ops: Vec<Op>,
}

/// How far a run is, for somebody who waits for it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The network is being built: `.0` of `.1` hosts are there.
    Building(usize, usize),
    /// Values are put and got: `.0` of `.1` actions are done.
    Living(usize, usize),
}

/// Runs `options` to the end, and tells `progress` how far it is.
pub fn run(options: &Options, progress: &mut dyn FnMut(Stage)) -> Report {
    let mut run = Run::new(options.clone());
    run.build(progress);
    run.spoil();
    run.live(progress);
    run.finish()
}

impl Run {
    /// A run that has not begun.
    pub fn new(options: Options) -> Run {
        Run { world: World::new(options), report: Report::default(), deeds: Schedule::default(), ops: Vec::new() }
    }

    /// Builds the network.
    pub fn build(&mut self, progress: &mut dyn FnMut(Stage)) {
        match self.world.options.build {
            Build::Joined => self.join_all(progress),
            Build::Drawn => self.draw_all(progress),
        }
        self.report.built_ms = self.world.now().as_ms();
    }

    /// Lets every host join through one that joined before.
    fn join_all(&mut self, progress: &mut dyn FnMut(Stage)) {
        let nodes = self.world.options.nodes;
        for host in 0..nodes {
            // Slowly at first: a network of a handful can't take in hundreds at once.
            let evenly = JOINING_MS * host as u64 / nodes as u64;
            let slowly = 500 * u64::from((1 + host as u64).ilog2()) + evenly;
            self.world.run_until(Time::from_ms(slowly));
            self.world.add_host();
            if host > 0 {
                let known = self.world.random.usize(..host);
                self.world.join(host, known);
            }
            if host % 1_000 == 0 {
                progress(Stage::Building(host, nodes));
            }
        }
        self.world.run_until(self.world.now().after(SETTLING_MS));
    }

    /// Fills every table with a random choice of the contacts that fit into it.
    fn draw_all(&mut self, progress: &mut dyn FnMut(Stage)) {
        let nodes = self.world.options.nodes;
        self.world.add_hosts(nodes);
        for host in 0..nodes {
            self.draw(host);
            if host % 1_000 == 0 {
                progress(Stage::Building(host, nodes));
            }
        }
    }

    fn draw(&mut self, host: usize) {
        let World { ring, random, hosts, options, .. } = &mut self.world;
        let table = ring.table_of(&hosts[host].contact.id, options.settings.kademlia.k, random);
        let contacts: Vec<Contact> = table.into_iter().map(|other| hosts[other as usize].contact).collect();
        self.world.remember(host, &contacts);
    }

    /// Kills some hosts, makes some lie, and starts the churn.
    pub fn spoil(&mut self) {
        let Options { dead, liars, churn, .. } = self.world.options;
        for host in 0..self.world.hosts.len() {
            if self.world.random.f64() < dead {
                self.world.kill(host);
            }
        }
        let choice: Vec<bool> = self.world.hosts.iter().map(|_| self.world.random.f64() < liars).collect();
        self.world.corrupt(|host| choice[host]);
        if let Some(churn) = churn {
            for host in 0..self.world.hosts.len() {
                self.schedule_leave(host, churn);
            }
        }
    }

    fn schedule_leave(&mut self, host: usize, churn: Churn) {
        let chance = self.world.random.f64().max(f64::MIN_POSITIVE);
        let session_ms = churn.median_ms * (-chance.ln() / std::f64::consts::LN_2).powf(1.0 / churn.shape);
        self.deeds.add(self.world.now().after(session_ms as u64), Deed::Leave(host));
    }

    /// Puts all values and gets them.
    pub fn live(&mut self, progress: &mut dyn FnMut(Stage)) {
        let Options { lookups, churn, watch, pause_ms, ttl, .. } = self.world.options;
        let start = self.world.now().after(churn.map_or(0, |churn| churn.warmup_ms));
        let stage_ms = STAGE_MS.max(lookups as u64 * HOST_MS / self.world.options.nodes as u64);
        for op in 0..lookups {
            let at = start.after(stage_ms * op as u64 / lookups as u64);
            let put_at = at.after(if watch { JOB_MS } else { 0 });
            if watch {
                self.deeds.add(at, Deed::Seek(op));
            }
            self.deeds.add(put_at, Deed::Put(op));
            // Among values of any lifetime, those of a second are looked for in time.
            let pause_ms = if ttl == Ttl::Drawn { self.world.random.u64(SOON_MS..=pause_ms) } else { pause_ms };
            self.deeds.add(put_at.after(pause_ms), Deed::Get(op));
            self.ops.push(self.value_of(op));
        }
        self.schedule_growth(start);
        let end = start.after(stage_ms + 2 * JOB_MS + pause_ms + SLACK_MS);
        let mut done = 0;
        while let Some((at, deed)) = self.deeds.next(end) {
            self.world.run_until(at);
            self.take_in();
            self.perform(deed);
            done += 1;
            if done % 256 == 0 {
                progress(Stage::Living(done, done + self.deeds.len()));
            }
        }
        // The jobs that end are seen while the copies that they were about are alive.
        while self.world.now() < end {
            self.world.run_until(self.world.now().after(SLACK_MS / 2).min(end));
            self.take_in();
        }
    }

    fn schedule_growth(&mut self, start: Time) {
        let Some(growth) = self.world.options.growth else {
            return;
        };
        let joining = self.world.options.nodes * growth.factor.saturating_sub(1);
        for newcomer in 0..joining {
            self.deeds.add(start.after(growth.over_ms * newcomer as u64 / joining as u64), Deed::Join);
        }
    }

    fn value_of(&self, op: usize) -> Op {
        let (key, value) = value_of(&self.world.options, op);
        let (heard, is_stored, is_promised) = (Vec::new(), false, false);
        Op { key, value, heard, is_stored, is_promised, put_at: Time::ZERO, get_at: Time::ZERO }
    }

    fn perform(&mut self, deed: Deed) {
        let now = self.world.now();
        match deed {
            Deed::Join => drop(self.add_newcomer()),
            Deed::Leave(host) => {
                self.world.kill(host);
                let newcomer = self.add_newcomer();
                if let Some(churn) = self.world.options.churn {
                    self.schedule_leave(newcomer, churn);
                }
            }
            Deed::Seek(op) => {
                let host = self.idle_host();
                self.world.watch(host, op, self.ops[op].key);
                self.report.watched += 1;
                self.world.get(host, 3 * op, self.ops[op].key);
            }
            Deed::Put(op) => {
                self.ops[op].put_at = now;
                self.report.puts += 1;
                if self.world.options.placed {
                    return self.place(op);
                }
                let host = self.idle_host();
                if self.world.options.watch {
                    self.world.watch(host, op, self.ops[op].key);
                }
                let Op { key, value, .. } = &self.ops[op];
                self.world.put(host, 3 * op + 1, *key, value);
            }
            Deed::Get(op) => {
                self.ops[op].get_at = now;
                self.report.gets += 1;
                let host = self.idle_host();
                let Op { key, value, is_stored, .. } = &self.ops[op];
                self.ops[op].is_promised = *is_stored && self.world.holder(key, value, JOB_MS + SLACK_MS).is_some();
                self.world.get(host, 3 * op + 2, self.ops[op].key);
            }
        }
    }

    /// Adds a host that joins through a random one.
    fn add_newcomer(&mut self) -> usize {
        // First whom, or it could be told to join through itself.
        let known = self.world.any_honest();
        let newcomer = self.world.add_host();
        self.world.join(newcomer, known);
        newcomer
    }

    /// Places a value on the hosts closest to its key, without asking anybody.
    fn place(&mut self, op: usize) {
        let Op { key, value, .. } = &self.ops[op];
        for holder in self.world.closest_honest(key, self.world.options.replication) {
            self.report.stored += usize::from(self.world.place(holder as usize, *key, value));
        }
    }

    /// An honest host of which no lookup is watched and that, in a network that grows, knows its neighbours.
    fn idle_host(&mut self) -> usize {
        for _ in 0..1_000 {
            let host = self.world.any_honest();
            let Host { watch, since, .. } = &self.world.hosts[host];
            let has_joined = self.world.options.growth.is_none() || self.world.now().since(*since) >= JOINED_MS;
            if watch.is_none() && (has_joined || *since == Time::ZERO) {
                return host;
            }
        }
        self.world.any_honest()
    }

    /// Counts the jobs that have ended.
    fn take_in(&mut self) {
        for done in self.world.take_done() {
            match done.op % 3 {
                0 => self.sought(&done),
                1 => self.was_put(&done),
                _ => self.was_got(&done),
            }
        }
    }

    fn sought(&mut self, done: &Done) {
        let Some(watch) = self.world.hosts[done.host].watch.take() else {
            return;
        };
        let report = &mut self.report;
        report.invented += usize::from(matches!(done.outcome, Outcome::Found(_)));
        report.asked.add(watch.asked.len() as u64);
        if let (Some(at), Some(hops)) = (watch.closest_at, watch.closest_hops) {
            report.reached += 1;
            report.reached_ms.add(at.since(watch.since));
            report.hops.add(u64::from(hops));
        }
        let (op, mut heard) = (watch.op, watch.answered);
        heard.retain(|host| self.world.hosts[*host as usize].is_honest());
        heard.sort_unstable_by_key(|host| self.world.hosts[*host as usize].contact.id.distance(&watch.target));
        heard.truncate(self.world.options.replication.max(REPLICATION));
        self.ops[op].heard = heard;
    }

    fn was_put(&mut self, done: &Done) {
        let op = &mut self.ops[done.op / 3];
        if matches!(done.outcome, Outcome::Stored { .. }) {
            op.is_stored = true;
            self.report.stored += 1;
            self.report.stored_ms.add(done.at.since(op.put_at));
        }
        if let Some(watch) = self.world.hosts[done.host].watch.take() {
            if !op.heard.is_empty() {
                self.report.chosen += watch.holders.len();
                self.report.overlapping += watch.holders.iter().filter(|host| op.heard.contains(host)).count();
            }
        }
    }

    fn was_got(&mut self, done: &Done) {
        let op = &self.ops[done.op / 3];
        let took_ms = done.at.since(op.get_at);
        let is_found = matches!(&done.outcome, Outcome::Found(value) if **value == *op.value) && took_ms <= JOB_MS;
        if let Some(holder) = self.world.holder(&op.key, &op.value, 0).filter(|_| op.is_promised) {
            self.report.promised += 1;
            self.report.kept += usize::from(is_found);
            if !is_found {
                self.report.lost_behind.add(self.world.living_nearer(&op.key, holder));
            }
        }
        match &done.outcome {
            Outcome::Found(_) if is_found => {
                self.report.found += 1;
                self.report.found_ms.add(took_ms);
            }
            Outcome::Found(_) => self.report.fooled += 1,
            _ => self.report.missed += 1,
        }
    }

    /// The numbers of the run, which is over.
    pub fn finish(mut self) -> Report {
        let world = &self.world;
        let tables = world.hosts.iter().filter_map(|host| host.body.as_ref()).map(|body| body.node.overlay().table());
        let contacts: usize = tables.map(|table| table.len()).sum();
        let report = &mut self.report;
        report.living = world.ring.len();
        report.contacts = contacts as f64 / report.living.max(1) as f64;
        report.unfinished = report.gets - report.found - report.fooled - report.missed;
        report.messages = world.messages();
        report.virtual_ms = world.now().as_ms();
        report.trace = world.trace();
        self.report
    }
}

/// The key and the value of operation `op`.
pub(super) fn value_of(options: &Options, op: usize) -> (Id, Vec<u8>) {
    let Options { seed, certified, stores, shared_bits, .. } = *options;
    let mut value = Id::hash_of(&[b"value", &seed.to_be_bytes(), &op.to_be_bytes()]).0.to_vec();
    value.resize(stores.value_size(op), 0);
    let mut key = if certified { Id::hash_of(&[&value]) } else { Id::hash_of(&[b"key", &value]) };
    for bit in 0..shared_bits.min(ID_BITS) {
        key.0[bit / 8] &= !(0x80 >> (bit % 8));
    }
    (key, value)
}
