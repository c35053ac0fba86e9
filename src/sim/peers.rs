//! The plan of a measured run at the datagram level: hyperdht nodes join one after the other, announce, and look up
//! what others announced. Plans and counts; moves no packet.

use std::collections::BTreeMap;

use crate::dialect::hyperdht::operation::{Advertisement, Event, Operation, Outcome};
use crate::id::{Id, Metric};
use crate::limits::{K, LONG_TIMEOUT_MS};
use crate::sim::nat::Kind;
use crate::sim::packets::{Air, Packets};
use crate::sim::plan::Stage;
use crate::sim::report::Sample;

/// The time between two joins.
const JOIN_MS: u64 = 10;
/// The time from the last join to the first announcement, in which every node asks its neighbours about itself again.
const SETTLE_MS: u64 = 60_000;
/// The time for which the network is idle, to count the packets of its upkeep.
const IDLE_MS: u64 = 60_000;
/// The longest that an operation takes: a lookup over ten hops that all time out.
const OPERATION_MS: u64 = 10 * LONG_TIMEOUT_MS;

/// The options of one run.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Options {
    /// The number of hosts.
    pub nodes: usize,
    /// The number of announcements, each looked up once by another host.
    pub lookups: usize,
    /// The seed, which decides everything that the other options leave open.
    pub seed: u64,
    /// What happens to packets.
    pub air: Air,
    /// Share of hosts behind translators, which are of the three kinds by turns.
    pub behind_nat: f64,
    /// Share of hosts that die unnoticed before anything is announced.
    pub dead: f64,
}

/// The numbers of one run.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Report {
    /// Number of hosts alive at the end.
    pub living: usize,
    /// Contacts in the table of a living host, on average.
    pub contacts: f64,
    /// Announcements that at least one node took.
    pub announced: usize,
    /// Nodes that took an announcement, on average.
    pub takers: f64,
    /// The number of the 20 nearest reachable living nodes that hold an announcement, on average.
    pub placed: f64,
    /// The number of lookups.
    pub lookups: usize,
    /// Lookups that found what was announced.
    pub found: usize,
    /// Milliseconds until a lookup first found it.
    pub first_ms: Sample,
    /// Milliseconds until a lookup ended.
    pub done_ms: Sample,
    /// Packets that an idle node sends per second.
    pub idle_packets_per_s: f64,
    /// Announcements that were found although they had been taken back.
    pub left_over: usize,
    /// A hash of everything that happened.
    pub trace: u64,
}

/// Runs `options` to the end, and tells `progress` how far it has come.
pub fn run(options: &Options, progress: &mut dyn FnMut(Stage)) -> Report {
    let mut world = build(options, progress);
    let all = 4 * options.lookups;
    let mut report = Report::default();
    let living: Vec<usize> = (0..options.nodes).filter(|n| world.hosts[*n].node.is_some()).collect();
    report.living = living.len();
    let tables = living.iter().filter_map(|n| world.hosts[*n].node.as_ref()).map(|node| node.overlay().table().len());
    report.contacts = tables.sum::<usize>() as f64 / living.len().max(1) as f64;

    let keys: Vec<Id> = (0..options.lookups).map(|_| Id(std::array::from_fn(|_| world.random.u8(..)))).collect();
    let mut pick = |_: &Id| living[world.random.usize(..living.len())];
    let announcers: Vec<usize> = keys.iter().map(&mut pick).collect();
    let seekers: Vec<usize> = keys.iter().map(&mut pick).collect();

    let own = |n: usize| Advertisement { port: 1_024 + n as u16 % 60_000, local: None };
    let before = world.sent();
    world.run_until(world.now().after(IDLE_MS));
    report.idle_packets_per_s = (world.sent() - before) as f64 / living.len() as f64 / (IDLE_MS as f64 / 1_000.0);
    let outcomes = operations(&mut world, &announcers, |n| Operation::Announce(keys[n], own(n)));
    progress(Stage::Living(options.lookups, all));
    for outcome in outcomes.values() {
        if let Some((Outcome::Done { commits, .. }, _)) = outcome.end {
            report.announced += 1;
            report.takers += commits as f64 / keys.len() as f64;
        }
    }
    let taken: usize = keys.iter().map(|key| holders(&mut world, &living, key)).sum();
    report.placed = taken as f64 / keys.len().max(1) as f64;
    let outcomes = operations(&mut world, &seekers, |n| Operation::Lookup(keys[n], Advertisement::default()));
    progress(Stage::Living(2 * options.lookups, all));
    report.lookups = keys.len();
    for (n, outcome) in &outcomes {
        let first = outcome.first_found(own(*n).port);
        report.found += usize::from(first.is_some());
        first.into_iter().for_each(|ms| report.first_ms.add(ms));
        outcome.end.into_iter().for_each(|(_, ms)| report.done_ms.add(ms));
    }
    operations(&mut world, &announcers, |n| Operation::Unannounce(keys[n], own(n)));
    progress(Stage::Living(3 * options.lookups, all));
    let outcomes = operations(&mut world, &seekers, |n| Operation::Lookup(keys[n], Advertisement::default()));
    report.left_over = outcomes.iter().filter(|(n, outcome)| outcome.first_found(own(**n).port).is_some()).count();
    report.trace = world.trace();
    report
}

/// The course of an operation: the ports that it found and how it ended, each with the milliseconds from its start.
#[derive(Clone, Debug, Default)]
struct Course {
    peers: Vec<(u16, u64)>,
    end: Option<(Outcome, u64)>,
}

impl Course {
    fn first_found(&self, port: u16) -> Option<u64> {
        self.peers.iter().find(|(of, _)| *of == port).map(|(_, ms)| *ms)
    }
}

/// Starts one operation per host, four each millisecond, and waits until all have ended.
fn operations(world: &mut Packets, hosts: &[usize], operation: impl Fn(usize) -> Operation) -> BTreeMap<usize, Course> {
    let begin = world.now();
    let mut courses: BTreeMap<usize, Course> = (0..hosts.len()).map(|n| (n, Course::default())).collect();
    let started = |n: usize| begin.after(n as u64 / 4);
    for (n, host) in hosts.iter().enumerate() {
        world.run_until(started(n));
        world.start(*host, n as u64, operation(n));
    }
    world.run_until(world.now().after(OPERATION_MS));
    for (_, ticket, event, at) in world.take_told() {
        let (n, ms) = (ticket as usize, at.since(started(ticket as usize)));
        let Some(course) = courses.get_mut(&n) else {
            continue;
        };
        match event {
            Event::Answer(answer) => course.peers.extend(answer.peers.iter().map(|peer| (peer.port(), ms))),
            Event::Done(outcome) => course.end = Some((outcome, ms)),
        }
    }
    courses
}

/// The number of the 20 living hosts nearest to `key`, of those without a translator, that hold an announcement of it.
fn holders(world: &mut Packets, living: &[usize], key: &Id) -> usize {
    let mut open: Vec<usize> = living.iter().copied().filter(|n| world.hosts[*n].nat.kind() == Kind::Open).collect();
    open.sort_unstable_by(|a, b| key.compare(&world.hosts[*a].id, &world.hosts[*b].id));
    open.truncate(K);
    let holds = |n: &usize| world.hosts[*n].node.as_ref().is_some_and(|node| node.records().has(key));
    open.iter().filter(|n| holds(n)).count()
}

/// A network that has settled, in which each host joined through an earlier one that has no translator.
fn build(options: &Options, progress: &mut dyn FnMut(Stage)) -> Packets {
    let mut world = Packets::new(options.air, options.seed);
    let restricted = &Kind::ALL[1..];
    let mut open: Vec<usize> = Vec::new();
    for n in 0..options.nodes {
        let is_behind = n > K && world.random.f64() < options.behind_nat;
        let kind = if is_behind { restricted[n % restricted.len()] } else { Kind::Open };
        let number = world.add(kind, false);
        if !open.is_empty() {
            let known = open[world.random.usize(..open.len())];
            world.join(number, known);
        }
        if kind == Kind::Open {
            open.push(number);
        }
        world.run_until(world.now().after(JOIN_MS));
        progress(Stage::Building(n, options.nodes));
    }
    world.run_until(world.now().after(SETTLE_MS));
    for number in 0..options.nodes {
        if world.random.f64() < options.dead {
            world.kill(number);
        }
    }
    world
}
