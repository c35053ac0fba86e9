//! The plan of a measured run at the byte level, for the sealed dialect. Clients put and get the same values as in
//! [`plan`](super::plan), but through whole engines over pretend TCP, so that dials take their round trips too.
//! Measures, and checks nothing.

use crate::dialect::Codec;
use crate::dialect::sealed::codec::{Message, Sealed as SealedCodec};
use crate::dialect::sealed::contact_at;
use crate::engine::EngineSettings;
use crate::id::Id;
use crate::limits::JOB_MS;
use crate::sim::address::address_of;
use crate::sim::dialects::sealed::{Sealed, frame};
use crate::sim::options::Options;
use crate::sim::plan::{STAGE_MS, Stage};
use crate::sim::report::Report;
use crate::sim::ring::Ring;
use crate::sim::swarm::Swarm;
use crate::sim::weather::Weather;
use crate::time::Time;

/// Runs `options` at the byte level. Of the faults in `options` it applies [`Options::dead`] only.
pub fn run(options: &Options, progress: &mut dyn FnMut(Stage)) -> Report {
    let mut settings = EngineSettings::default();
    settings.dialects.sealed.node = options.settings;
    let weather = Weather { delays: options.delays, ..Weather::fair() };
    let mut swarm = Swarm::<Sealed>::new(settings, weather, options.seed);
    swarm.is_checked = false;
    let ids = (0..options.nodes).map(|number| (contact_at(address_of(number)).id, number as u32));
    let ring = Ring::new(ids);
    for number in 0..options.nodes {
        swarm.add_machine();
        let own = contact_at(address_of(number)).id;
        let table = ring.table_of(&own, options.settings.kademlia.k, &mut swarm.random);
        swarm.remember(number, &table);
        if number % 1_000 == 0 {
            progress(Stage::Building(number, options.nodes));
        }
    }
    for number in 0..options.nodes {
        if swarm.random.f64() < options.dead {
            swarm.kill(number, false);
        }
    }
    let mut crowd = Crowd { swarm, waiting: Vec::new(), report: Report::default() };
    for op in 0..options.lookups {
        crowd.exchange(op, options, true);
        progress(Stage::Living(op, 2 * options.lookups));
    }
    crowd.wait(JOB_MS);
    crowd.waiting.clear();
    for op in 0..options.lookups {
        crowd.exchange(op, options, false);
        progress(Stage::Living(options.lookups + op, 2 * options.lookups));
    }
    crowd.wait(JOB_MS);
    let mut report = crowd.report;
    report.living = crowd.swarm.machines.iter().filter(|machine| machine.engine.is_some()).count();
    report.missed += crowd.waiting.len();
    report.virtual_ms = crowd.swarm.now().as_ms();
    report.trace = crowd.swarm.trace();
    report
}

/// A swarm and its waiting clients.
struct Crowd {
    swarm: Swarm<Sealed>,
    /// The client, when it asked, the value, and whether the client puts it (or else gets it).
    waiting: Vec<(usize, Time, Vec<u8>, bool)>,
    report: Report,
}

impl Crowd {
    /// Lets a client put the value of `op` through some living machine, or get it.
    fn exchange(&mut self, op: usize, options: &Options, puts: bool) {
        let value = Id::hash_of(&[b"value", &options.seed.to_be_bytes(), &op.to_be_bytes()]).0.to_vec();
        let key = Id::hash_of(&[&value]);
        let machine = self.any_living();
        let client = self.swarm.connect(machine);
        let replication = options.replication as u8;
        let message = match puts {
            true => Message::Put { ttl_s: 10, replication, key, value: &value },
            false => Message::Get { key },
        };
        self.swarm.say(client, &frame(&message));
        self.waiting.push((client, self.swarm.now(), value, puts));
        let (puts_now, gets_now) = (usize::from(puts), usize::from(!puts));
        self.report.puts += puts_now;
        self.report.gets += gets_now;
        self.wait(STAGE_MS / options.lookups.max(1) as u64);
    }

    /// A machine that is up, chosen at random; the first one if hardly any is up.
    fn any_living(&mut self) -> usize {
        let machines = self.swarm.machines.len();
        let mut tries = (0..1_000).map(|_| self.swarm.random.usize(..machines));
        tries.find(|machine| self.swarm.machines[*machine].engine.is_some()).unwrap_or(0)
    }

    /// Lets time pass, and counts the answers that come.
    fn wait(&mut self, ms: u64) {
        let end = self.swarm.now().after(ms);
        while self.swarm.now() < end {
            self.swarm.run_until(self.swarm.now().after(1));
            self.listen();
        }
    }

    fn listen(&mut self) {
        let (swarm, report) = (&mut self.swarm, &mut self.report);
        self.waiting.retain(|(client, since, value, puts)| {
            let received = &swarm.clients[*client].received;
            let len = SealedCodec::frame_len(received).ok().flatten().filter(|len| *len <= received.len());
            let Some(frame) = len.map(|len| received[..len].to_vec()) else {
                return true;
            };
            let took_ms = swarm.now().since(*since);
            match (puts, SealedCodec::decode(&frame)) {
                (true, Ok(Message::Success { .. })) => {
                    report.stored += 1;
                    report.stored_ms.add(took_ms);
                }
                (false, Ok(Message::Success { value: found, .. })) if found == value => {
                    report.found += 1;
                    report.found_ms.add(took_ms);
                }
                (false, Ok(Message::Success { .. })) => report.fooled += 1,
                (false, _) => report.missed += 1,
                (true, _) => {}
            }
            swarm.abort(*client);
            false
        });
    }
}
