//! The plan of a measured run at the byte level, for the sealed dialect. Clients put and get the same values as in
//! [`plan`](super::plan), but through whole engines over pretend TCP, so that dials take their round trips too.
//! Measures, and checks nothing.

use crate::dialect::Codec;
use crate::dialect::sealed::codec::{Message, Sealed as SealedCodec};
use crate::dialect::sealed::contact_at;
use crate::dialect::sealed::service::Service;
use crate::engine::EngineSettings;
use crate::id::Id;
use crate::limits::{JOB_MS, K};
use crate::sim::address::address_of;
use crate::sim::dialects::sealed::{Sealed, frame};
use crate::sim::options::Options;
use crate::sim::plan::{JOINED_MS, SLACK_MS, STAGE_MS, Stage, value_of};
use crate::sim::report::Report;
use crate::sim::ring::Ring;
use crate::sim::schedule::Schedule;
use crate::sim::swarm::{Machine, Swarm};
use crate::sim::weather::Weather;
use crate::time::Time;

/// How long before a PUT other values occupy its key at those who shall refuse it, and for how many seconds: until it
/// was answered and before it is looked for.
const OCCUPIED_MS: u64 = 1_000;
const OCCUPIED_S: u16 = 4;

/// Runs `options` at the byte level. Of the faults in `options` it applies [`Options::dead`] and those of a
/// [`Scenario`](super::scenario::Scenario).
pub fn run(options: &Options, progress: &mut dyn FnMut(Stage)) -> Report {
    let mut crowd = Crowd::new(options.clone());
    crowd.build(progress);
    crowd.live(progress);
    crowd.finish()
}

/// An action of the plan.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Deed {
    /// Occupy the key of this operation with a value that may not be replaced.
    Occupy(usize),
    /// Put the value of this operation.
    Put(usize),
    /// Get the value of this operation.
    Get(usize),
    /// Another machine joins.
    Join,
}

/// An operation: one value and its way through the network.
#[derive(Debug)]
struct Op {
    key: Id,
    value: Vec<u8>,
    is_stored: bool,
    /// When its GET began the value was stored and a living machine had a copy that would outlive the GET.
    is_promised: bool,
}

/// A client that waits for an answer.
#[derive(Debug)]
struct Waiting {
    client: usize,
    since: Time,
    op: usize,
    /// The client puts the value of `op`, or else gets it.
    puts: bool,
}

/// A swarm and its waiting clients.
struct Crowd {
    options: Options,
    swarm: Swarm<Sealed>,
    ring: Ring,
    /// When each machine came up.
    since: Vec<Time>,
    deeds: Schedule<Deed>,
    ops: Vec<Op>,
    waiting: Vec<Waiting>,
    report: Report,
}

impl Crowd {
    fn new(options: Options) -> Crowd {
        let mut settings = EngineSettings::default();
        settings.dialects.sealed.node = options.settings;
        let weather = Weather { delays: options.delays, ..Weather::fair() };
        let mut swarm = Swarm::<Sealed>::new(settings, weather, options.seed);
        swarm.is_checked = false;
        let ids = (0..options.nodes).map(|number| (contact_at(address_of(number)).id, number as u32));
        let ring = Ring::new(ids);
        let (deeds, report) = (Schedule::default(), Report::default());
        Crowd { options, swarm, ring, since: Vec::new(), deeds, ops: Vec::new(), waiting: Vec::new(), report }
    }

    /// Fills every table with a random choice of the contacts that fit into it, and kills some machines.
    fn build(&mut self, progress: &mut dyn FnMut(Stage)) {
        let Options { nodes, dead, settings, .. } = self.options;
        for number in 0..nodes {
            self.add_machine();
            let own = contact_at(address_of(number)).id;
            let table = self.ring.table_of(&own, settings.kademlia.k, &mut self.swarm.random);
            self.swarm.remember(number, &table);
            if number % 1_000 == 0 {
                progress(Stage::Building(number, nodes));
            }
        }
        for number in 0..nodes {
            if self.swarm.random.f64() < dead {
                self.swarm.kill(number, false);
                self.ring.remove(contact_at(address_of(number)).id, number as u32);
            }
        }
    }

    fn add_machine(&mut self) -> usize {
        let mut settings = self.swarm.settings;
        settings.dialects.sealed.store = self.options.stores.draw(&mut self.swarm.random);
        self.since.push(self.swarm.now());
        self.swarm.add_machine_with(settings)
    }

    /// Puts all values and gets them.
    fn live(&mut self, progress: &mut dyn FnMut(Stage)) {
        let Options { lookups, pause_ms, refusals, nodes, growth, .. } = self.options;
        let occupied_ms = if refusals > 0.0 { OCCUPIED_MS } else { 0 };
        let start = self.swarm.now().after(occupied_ms);
        for op in 0..lookups {
            let at = start.after(STAGE_MS * op as u64 / lookups as u64);
            if refusals > 0.0 {
                let before = Time::from_ms(at.as_ms() - occupied_ms);
                self.deeds.add(before, Deed::Occupy(op));
            }
            self.deeds.add(at, Deed::Put(op));
            self.deeds.add(at.after(pause_ms), Deed::Get(op));
            let (key, value) = value_of(&self.options, op);
            let key = if refusals > 0.0 { Id::hash_of(&[&occupant(&value)]) } else { key };
            self.ops.push(Op { key, value, is_stored: false, is_promised: false });
        }
        let joining = growth.map_or(0, |growth| nodes * growth.factor.saturating_sub(1));
        for newcomer in 0..joining {
            let over_ms = growth.map_or(0, |growth| growth.over_ms);
            self.deeds.add(start.after(over_ms * newcomer as u64 / joining as u64), Deed::Join);
        }
        let end = start.after(STAGE_MS + pause_ms + JOB_MS + SLACK_MS);
        let all = self.deeds.len();
        while let Some((at, deed)) = self.deeds.next(end) {
            self.wait_until(at);
            self.perform(deed);
            progress(Stage::Living(all - self.deeds.len(), all));
        }
        self.wait_until(end);
    }

    fn perform(&mut self, deed: Deed) {
        match deed {
            Deed::Join => {
                let known = self.any_living();
                let newcomer = self.add_machine();
                self.ring.insert(contact_at(address_of(newcomer)).id, newcomer as u32);
                self.swarm.join(newcomer, known);
            }
            Deed::Occupy(op) => self.occupy(op),
            Deed::Put(op) => {
                let Op { key, value, .. } = &self.ops[op];
                // A machine that is asked for one copy keeps it itself, so a client asks the nearest one.
                let nearest = self.ring.closest(key, 1, |_| true);
                let nearest = nearest.first().filter(|_| self.options.replication == 1).map(|host| *host as usize);
                let (replication, ttl_s) =
                    (self.options.replication as u8, self.options.ttl.draw(&mut self.swarm.random));
                let message = frame(&Message::Put { ttl_s, replication, key: *key, value });
                self.report.puts += 1;
                let machine = nearest.unwrap_or_else(|| self.any_client());
                self.ask(machine, op, true, &message);
            }
            Deed::Get(op) => {
                let Op { key, value, is_stored, .. } = &self.ops[op];
                let outlives = self.swarm.now().after(JOB_MS + SLACK_MS);
                let is_promised = *is_stored && self.swarm.machines.iter().any(|m| holds(m, key, value, outlives));
                let message = frame(&Message::Get { key: *key });
                self.ops[op].is_promised = is_promised;
                self.report.gets += 1;
                let machine = self.any_client();
                self.ask(machine, op, false, &message);
            }
        }
    }

    /// Lets a share of the machines nearest to a key hold a value that it certifies, so that they refuse all others.
    fn occupy(&mut self, op: usize) {
        let Op { key, value, .. } = &self.ops[op];
        let value = occupant(value);
        let message = frame(&Message::Put { ttl_s: OCCUPIED_S, replication: 1, key: *key, value: &value });
        for machine in self.ring.closest(key, K, |_| true) {
            if self.swarm.random.f64() < self.options.refusals {
                let client = self.swarm.connect(machine as usize);
                self.swarm.say(client, &message);
            }
        }
    }

    fn ask(&mut self, machine: usize, op: usize, puts: bool, message: &[u8]) {
        let client = self.swarm.connect(machine);
        self.swarm.say(client, message);
        self.waiting.push(Waiting { client, since: self.swarm.now(), op, puts });
    }

    /// A machine that is up, chosen at random; the first one if hardly any is up.
    fn any_living(&mut self) -> usize {
        let machines = self.swarm.machines.len();
        let mut tries = (0..1_000).map(|_| self.swarm.random.usize(..machines));
        tries.find(|machine| self.swarm.machines[*machine].engine.is_some()).unwrap_or(0)
    }

    /// A machine that is up and, in a network that grows, knows its neighbours.
    fn any_client(&mut self) -> usize {
        loop {
            let machine = self.any_living();
            let since = self.since[machine];
            if since == Time::ZERO || self.swarm.now().since(since) >= JOINED_MS {
                return machine;
            }
        }
    }

    /// Lets time pass, and counts the answers that come.
    fn wait_until(&mut self, end: Time) {
        while self.swarm.now() < end {
            self.swarm.run_until(self.swarm.now().after(1));
            self.listen();
        }
    }

    fn listen(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            let received = &self.swarm.clients[waiting.client].received;
            let len = SealedCodec::frame_len(received).ok().flatten().filter(|len| *len <= received.len());
            match len.map(|len| received[..len].to_vec()) {
                None => self.waiting.push(waiting),
                Some(frame) => {
                    self.swarm.abort(waiting.client);
                    self.count(&waiting, &frame);
                }
            }
        }
    }

    /// Counts an answer.
    fn count(&mut self, waiting: &Waiting, frame: &[u8]) {
        let (report, op) = (&mut self.report, &mut self.ops[waiting.op]);
        let took_ms = self.swarm.now().since(waiting.since);
        let answer = SealedCodec::decode(frame);
        if waiting.puts {
            if matches!(answer, Ok(Message::Success { .. })) {
                op.is_stored = true;
                report.stored += 1;
                report.stored_ms.add(took_ms);
            }
            return;
        }
        let is_found = matches!(answer, Ok(Message::Success { value, .. }) if *value == *op.value);
        if is_found {
            report.found += 1;
            report.found_ms.add(took_ms);
        } else if matches!(answer, Ok(Message::Success { .. })) {
            report.fooled += 1;
        } else {
            report.missed += 1;
        }
        if op.is_promised {
            let now = self.swarm.now();
            let is_holder = |host: &u32| holds(&self.swarm.machines[*host as usize], &op.key, &op.value, now);
            let behind = self.ring.closest(&op.key, self.ring.len(), |_| true).iter().position(is_holder);
            report.promised += usize::from(behind.is_some());
            report.kept += usize::from(behind.is_some() && is_found);
            behind.filter(|_| !is_found).into_iter().for_each(|behind| report.lost_behind.add(behind as u64));
        }
    }

    fn finish(mut self) -> Report {
        let report = &mut self.report;
        report.living = self.swarm.machines.iter().filter(|machine| machine.engine.is_some()).count();
        for waiting in self.waiting.iter().filter(|waiting| !waiting.puts) {
            report.missed += 1;
            report.promised += usize::from(self.ops[waiting.op].is_promised);
        }
        report.virtual_ms = self.swarm.now().as_ms();
        report.trace = self.swarm.trace();
        self.report
    }
}

/// Whether a machine is up and holds `value` under `key`, at `at` if no other value replaces it.
fn holds(machine: &Machine, key: &Id, value: &[u8], at: Time) -> bool {
    machine.engine.as_ref().is_some_and(|engine| engine.service::<Service>().store().get(key, at) == Some(value))
}

/// The value that occupies the key of `value`, of which the key is the hash.
fn occupant(value: &[u8]) -> Vec<u8> {
    [b"before ", value].concat()
}
