//! A run from its beginning to its report: the network comes to be, things go wrong, values are put and looked for. The
//! script of the play; the world acts it out.

use crate::contact::Contact;
use crate::dialect::sealed::job::Outcome;
use crate::id::Id;
use crate::limits::{JOB_MS, REPLICATION};
use crate::sim::options::{Build, Churn, Options};
use crate::sim::report::Report;
use crate::sim::schedule::Schedule;
use crate::sim::world::{Done, World};
use crate::time::Time;

/// Time over which the operations of a stage are spread at least.
pub(super) const STAGE_MS: u64 = 4_000;
/// Time between two operations of one host on average, so that it is seldom busy with another.
const HOST_MS: u64 = 20_000;
/// In how much virtual time all nodes join.
const JOINING_MS: u64 = 100_000;
/// What a network is given to come to rest after the last join: neighbours that joined at once find each other.
const SETTLING_MS: u64 = 45_000;
/// What a job may take beyond its time for the last answer and the tick of a timer.
const SLACK_MS: u64 = 100;

/// What is done when.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Deed {
    /// Look up the key of operation `.0`, which nobody holds.
    Seek(usize),
    /// Store its value.
    Put(usize),
    /// Look for it.
    Get(usize),
    /// This host's session ends.
    Leave(usize),
}

/// One value and its way through the network.
#[derive(Debug)]
struct Op {
    key: Id,
    value: Vec<u8>,
    /// The closest living honest hosts that the seeking lookup heard from.
    heard: Vec<u32>,
    put_at: Time,
    get_at: Time,
}

/// A run under way.
#[derive(Debug)]
pub struct Run {
    /// The world it happens in.
    pub world: World,
    /// What came of it so far.
    pub report: Report,
    deeds: Schedule<Deed>,
    ops: Vec<Op>,
}

/// What is going on, for who waits for it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The network comes to be: `.0` of `.1` hosts.
    Building(usize, usize),
    /// Nodes come and go, and values are put and looked for: `.0` of `.1` deeds.
    Living(usize, usize),
}

/// Runs `options` to the end. `progress` hears of what goes on.
pub fn run(options: &Options, progress: &mut dyn FnMut(Stage)) -> Report {
    let mut run = Run::new(options.clone());
    run.build(progress);
    run.spoil();
    run.live(progress);
    run.finish()
}

impl Run {
    /// A run in which nothing has happened yet.
    pub fn new(options: Options) -> Run {
        Run { world: World::new(options), report: Report::default(), deeds: Schedule::default(), ops: Vec::new() }
    }

    /// The network comes to be.
    pub fn build(&mut self, progress: &mut dyn FnMut(Stage)) {
        match self.world.options.build {
            Build::Joined => self.join_all(progress),
            Build::Drawn => self.draw_all(progress),
        }
        self.report.built_ms = self.world.now().as_ms();
    }

    /// Every host joins through one that joined before.
    fn join_all(&mut self, progress: &mut dyn FnMut(Stage)) {
        let nodes = self.world.options.nodes;
        for host in 0..nodes {
            // At first slowly, as a network of a handful can't take in hundreds at once.
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

    /// Every table is filled with a random choice of those that fit into it.
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

    /// Some die, some begin to lie, and the comings and goings begin.
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

    /// Values are put and looked for.
    pub fn live(&mut self, progress: &mut dyn FnMut(Stage)) {
        let Options { lookups, churn, watch, pause_ms, .. } = self.world.options;
        let start = self.world.now().after(churn.map_or(0, |churn| churn.warmup_ms));
        let stage_ms = STAGE_MS.max(lookups as u64 * HOST_MS / self.world.options.nodes as u64);
        for op in 0..lookups {
            let at = start.after(stage_ms * op as u64 / lookups as u64);
            let put_at = at.after(if watch { JOB_MS } else { 0 });
            if watch {
                self.deeds.add(at, Deed::Seek(op));
            }
            self.deeds.add(put_at, Deed::Put(op));
            self.deeds.add(put_at.after(pause_ms), Deed::Get(op));
            self.ops.push(self.value_of(op));
        }
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
        self.world.run_until(end);
        self.take_in();
    }

    fn value_of(&self, op: usize) -> Op {
        let Options { seed, certified, .. } = self.world.options;
        let value = Id::hash_of(&[b"value", &seed.to_be_bytes(), &op.to_be_bytes()]).0.to_vec();
        let key = if certified { Id::hash_of(&[&value]) } else { Id::hash_of(&[b"key", &value]) };
        Op { key, value, heard: Vec::new(), put_at: Time::ZERO, get_at: Time::ZERO }
    }

    fn perform(&mut self, deed: Deed) {
        let now = self.world.now();
        match deed {
            Deed::Leave(host) => {
                self.world.kill(host);
                let newcomer = self.world.add_host();
                let known = self.world.any_honest();
                self.world.join(newcomer, known);
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
                self.world.get(host, 3 * op + 2, self.ops[op].key);
            }
        }
    }

    /// Puts a value where it belongs, without asking anybody.
    fn place(&mut self, op: usize) {
        let Op { key, value, .. } = &self.ops[op];
        for holder in self.world.closest_honest(key, self.world.options.replication) {
            self.report.stored += usize::from(self.world.place(holder as usize, *key, value));
        }
    }

    /// An honest host with no lookup under watch.
    fn idle_host(&mut self) -> usize {
        for _ in 0..1_000 {
            let host = self.world.any_honest();
            if self.world.hosts[host].watch.is_none() {
                return host;
            }
        }
        self.world.any_honest()
    }

    /// Counts what has ended.
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
        let op = &self.ops[done.op / 3];
        if done.outcome == Outcome::Stored {
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
        match &done.outcome {
            Outcome::Found(value) if **value == *op.value && took_ms <= JOB_MS => {
                self.report.found += 1;
                self.report.found_ms.add(took_ms);
            }
            Outcome::Found(_) => self.report.fooled += 1,
            _ => self.report.missed += 1,
        }
    }

    /// The numbers.
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
