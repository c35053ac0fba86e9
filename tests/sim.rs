//! The message level: what its checkers hold for every seed, that they catch what they are for, that one seed gives one
//! trace, and that both levels agree. The figures of large networks are `make sim`'s.
#![cfg(feature = "sim")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use dayfly::dialect::sealed::codec::Message;
use dayfly::dialect::sealed::job::Outcome;
use dayfly::dialect::sealed::service::Service;
use dayfly::dialect::sealed::settings::Ids;
use dayfly::engine::EngineSettings;
use dayfly::id::Id;
use dayfly::sim::check::Canary;
use dayfly::sim::dialects::sealed::{Sealed, frame};
use dayfly::sim::options::{Build, Churn, Lie, Options, Stores, Ttl};
use dayfly::sim::plan;
use dayfly::sim::report::Report;
use dayfly::sim::scenario::Scenario;
use dayfly::sim::swarm::Swarm;
use dayfly::sim::weather::Weather;
use dayfly::sim::world::World;

fn run(options: &Options) -> Report {
    plan::run(options, &mut |_| {})
}

/// A network of 300 whose seed draws what goes wrong in it.
fn drawn(seed: u64) -> Options {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut some = |most: f64| if random.bool() { random.f64() * most } else { 0.0 };
    let (loss, dead, liars, churn) = (some(0.1), some(0.4), some(0.4), some(1.0));
    let mut options = Options { checked: true, loss, dead, liars, ..Options::new(300, 60, seed) };
    options.lie = Lie::ALL[random.usize(..Lie::ALL.len())].1;
    options.settings.ids = if random.bool() { Ids::Bound } else { Ids::Minted };
    options.settings.kademlia.paths = [1, 8][random.usize(..2)];
    options.settings.quorum = random.usize(1..=2);
    options.certified = random.bool();
    options.placed = random.bool();
    options.build = [Build::Drawn, Build::Joined][random.usize(..2)];
    options.churn = (churn > 0.5).then_some(Churn { median_ms: 60_000.0, shape: 0.5, warmup_ms: 20_000 });
    options.ttl = Ttl::Drawn;
    options.stores = [Stores::Roomy, Stores::Full(0.5), Stores::Entries(2), Stores::Mixed][random.usize(..4)];
    options.refusals = if random.bool() { random.f64() * 0.5 } else { 0.0 };
    options
}

#[test]
fn whatever_a_seed_draws_nothing_forbidden_happens() {
    let only = std::env::var("SIM_SEED").ok().map(|seed| seed.parse().expect("SIM_SEED is a number"));
    for seed in only.map_or(0..24, |seed| seed..seed + 1) {
        let options = drawn(seed);
        let mut world = None;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let run = world.insert(plan::Run::new(options.clone()));
            run.build(&mut |_| {});
            run.spoil();
            run.live(&mut |_| {});
        }));
        let run = world.take().expect("a world was made");
        let step = run.world.messages();
        outcome.unwrap_or_else(|_| {
            panic!(
                "seed {seed} fails after {step} messages (see above): {options:?}\nreplay: SIM_SEED={seed} cargo test \
                 --features sim --test sim whatever"
            )
        });
        let report = run.finish();
        // A job on a host that dies is not told of.
        assert!(report.unfinished == 0 || options.churn.is_some(), "seed {seed}: {} jobs never end", report.unfinished);
        if options.liars == 0.0 || options.lie != Lie::WrongValue {
            assert_eq!(report.fooled, 0, "seed {seed}: nobody made a value up");
        }
    }
}

#[test]
fn every_canary_is_caught() {
    let rows = [
        (Canary::ServesStale, "0 ms past its end"),
        (Canary::ForgetsEarly, "1 ms before its end"),
        (Canary::ForwardsNoTtl, "0 ms past its end"),
        (Canary::WrongValue, "never stored there"),
        (Canary::AsksTwice, "2 times"),
        (Canary::AsksForEver, "beyond its budget"),
    ];
    for (canary, complaint) in rows {
        let options = Options { checked: true, canary, ttl: Ttl::Drawn, ..Options::new(1_500, 20, 1) };
        let caught = catch_unwind(AssertUnwindSafe(|| run(&options))).expect_err("the canary is caught");
        let why = caught.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(why.contains(complaint), "{canary:?} was caught as something else: {why}");
    }
    let options = Options { canary: Canary::LosesJobs, ..Options::new(100, 20, 1) };
    assert!(run(&options).unfinished > 10, "jobs that never end are counted");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_gives_another() {
    for seed in [3, 4, 5] {
        assert_eq!(run(&drawn(seed)), run(&drawn(seed)), "seed {seed}");
    }
    assert_ne!(run(&Options::new(100, 20, 1)).trace, run(&Options::new(100, 20, 2)).trace);
}

#[test]
fn a_healthy_network_finds_everything_and_agrees_on_who_is_closest() {
    for build in [Build::Drawn, Build::Joined] {
        let report = run(&Options { build, ..Options::new(1_000, 300, 7) });
        assert_eq!((report.stored, report.found, report.reached), (300, 300, 300), "{build:?}");
        assert!(report.overlap() > 0.97, "{build:?}: {}", report.overlap());
        assert!(report.hops.mean() < 2.6, "{build:?}: {}", report.hops.mean());
    }
}

/// What a PUT reported as stored is found while a holder lives, wherever it lies. (docs/faults.md, row 37)
#[test]
fn what_was_stored_and_has_a_living_holder_is_found() {
    for (name, scenario) in Scenario::ALL {
        for ttl in [Ttl::Fixed(10), Ttl::Drawn] {
            let report = run(&Options { checked: true, ttl, ..scenario.apply(Options::new(600, 100, 12)) });
            let Report { promised, kept, lost_behind, .. } = &report;
            println!("{name}, {ttl:?}: {kept} of {promised} found, stored {}", report.stored);
            assert!(*promised >= 30, "{name}, {ttl:?}: {promised} values are enough to tell");
            // With everything at once a single copy may end up behind more than k newcomers.
            let least = if scenario == Scenario::Everything { promised * 97 / 100 } else { *promised };
            assert!(*kept >= least, "{name}, {ttl:?}: {kept}, others behind so many nearer hosts: {lost_behind:?}");
        }
    }
}

#[test]
fn dead_contacts_and_liars_hide_little() {
    let half_dead = run(&Options { dead: 0.6, placed: true, ..Options::new(1_000, 300, 8) });
    assert!(half_dead.found >= 299, "{} of 300 found among 60 % dead", half_dead.found);
    let put_among_dead = run(&Options { dead: 0.6, ..Options::new(1_000, 300, 8) });
    assert!(put_among_dead.found >= 297, "{} of 300 put and found among 60 % dead", put_among_dead.found);
    for (lie, ids, liars) in [
        (Lie::Collude, Ids::Minted, 0.3),
        (Lie::Collude, Ids::Bound, 0.5),
        (Lie::Endless, Ids::Minted, 0.3),
        (Lie::Endless, Ids::Bound, 0.3),
        (Lie::Garbage, Ids::Bound, 0.3),
        (Lie::Silent, Ids::Bound, 0.3),
    ] {
        let mut options = Options { lie, liars, placed: true, ..Options::new(1_000, 300, 9) };
        options.settings.ids = ids;
        options.settings.kademlia.paths = 8;
        let report = run(&options);
        assert!(report.found >= 291, "{lie:?} {ids:?}: {} of 300 found", report.found);
    }
}

#[test]
fn of_made_up_values_the_nodes_nearest_to_the_key_decide() {
    let lie = Lie::WrongValue;
    let report = run(&Options { lie, liars: 0.2, certified: false, ..Options::new(1_000, 300, 10) });
    assert!(report.found >= 240, "{} of 300 found, {} fooled", report.found, report.fooled);
    // Of a key that nobody holds, one liar among all who are heard is enough, because one holder among them is too
    // (docs/protocol-sealed.md, "Storing and finding"): who minds needs a quorum.
    let mut agreed = Options { lie, liars: 0.02, certified: false, ..Options::new(1_000, 300, 10) };
    agreed.settings.quorum = 2;
    let report = run(&agreed);
    assert!(report.invented <= 3, "{} of 300 made up by two of a fiftieth", report.invented);
    agreed.liars = 0.1;
    let report = run(&agreed);
    assert!(report.invented <= 30, "{} of 300 made up by two of a tenth", report.invented);
}

/// Holders that say "stored" and are liars are asked back and replaced, where the paths say that liars are expected.
#[test]
fn what_is_put_through_liars_is_found() {
    let mut options = Options { liars: 0.5, watch: false, ..Options::new(1_000, 300, 12) };
    options.settings.kademlia.paths = 8;
    let report = run(&options);
    assert!(report.stored >= 295 && report.found >= 292, "{} stored, {} found", report.stored, report.found);
    options.settings.asks_back = false;
    let report = run(&options);
    assert!(report.found <= 282, "{} found without asking back: this test shows nothing", report.found);
}

#[test]
fn nodes_that_can_only_dial_out_are_served_and_never_listed() {
    let mut run = plan::Run::new(Options { build: Build::Joined, ..Options::new(100, 0, 11) });
    run.build(&mut |_| {});
    let mut world = run.world;
    for n in 0..20 {
        let hidden = world.add_host();
        world.hosts[hidden].behind_nat = true;
        world.join(hidden, n);
    }
    world.run_until(world.now().after(60_000));
    for hidden in 100..120 {
        world.put(hidden, hidden, key(hidden), b"from behind");
    }
    world.run_until(world.now().after(5_000));
    world.take_done();
    for hidden in 100..120 {
        world.get(hidden, hidden, key(100 + (hidden + 7) % 20));
    }
    world.run_until(world.now().after(4_500));
    let found = world.take_done().iter().filter(|done| matches!(done.outcome, Outcome::Found(_))).count();
    assert_eq!(found, 20);
    let hidden: Vec<_> = world.hosts[100..].iter().map(|host| host.contact.addr).collect();
    for host in &world.hosts {
        let table = host.body.as_ref().unwrap().node.overlay().table();
        assert!(
            table.entries().all(|entry| !hidden.contains(&entry.contact.addr)),
            "one that can't be dialled is listed"
        );
    }
}

/// Machines of both levels: the same addresses, and so the same ids.
const MACHINES: usize = 24;
const VALUES: usize = 30;

fn key(n: usize) -> Id {
    Id::hash_of(&[b"agreed", &n.to_be_bytes()])
}

/// Who dies before the second half of the values is put.
fn dies(machine: usize) -> bool {
    machine % 4 == 1
}

/// What came of each value: whether it was found, and who holds it.
type Outcomes = Vec<(bool, Vec<usize>)>;

fn message_level() -> Outcomes {
    let mut world = World::new(Options::new(0, 0, 1));
    for machine in 0..MACHINES {
        world.add_host();
        if machine > 0 {
            world.join(machine, 0);
        }
    }
    let mut outcomes = Vec::new();
    for n in 0..VALUES {
        if n == VALUES / 2 {
            (0..MACHINES).filter(|machine| dies(*machine)).for_each(|machine| world.kill(machine));
        }
        world.run_until(world.now().after(90_000));
        world.take_done();
        world.put(2 * (n % 12), 0, key(n), b"the same");
        world.run_until(world.now().after(5_000));
        world.get(2 * ((n + 5) % 12), 1, key(n));
        world.run_until(world.now().after(4_500));
        let found = |outcome: &Outcome| matches!(outcome, Outcome::Found(value) if **value == *b"the same");
        let now = world.now();
        let holds = |machine: &usize| {
            world.hosts[*machine].body.as_ref().is_some_and(|body| body.store.get(&key(n), now).is_some())
        };
        let holders = (0..MACHINES).filter(holds).collect();
        outcomes.push((world.take_done().iter().any(|done| done.op == 1 && found(&done.outcome)), holders));
    }
    outcomes
}

fn byte_level() -> Outcomes {
    let mut swarm = Swarm::<Sealed>::new(EngineSettings::default(), Weather::fair(), 1);
    for machine in 0..MACHINES {
        swarm.add_machine();
        if machine > 0 {
            swarm.join(machine, 0);
        }
    }
    let mut outcomes = Vec::new();
    for n in 0..VALUES {
        if n == VALUES / 2 {
            (0..MACHINES).filter(|machine| dies(*machine)).for_each(|machine| swarm.kill(machine, false));
        }
        swarm.run_until(swarm.now().after(90_000));
        let putter = swarm.connect(2 * (n % 12));
        swarm.say(putter, &frame(&Message::Put { ttl_s: 10, replication: 3, key: key(n), value: b"the same" }));
        swarm.run_until(swarm.now().after(5_000));
        let getter = swarm.connect(2 * ((n + 5) % 12));
        swarm.say(getter, &frame(&Message::Get { key: key(n) }));
        swarm.run_until(swarm.now().after(4_500));
        let found = swarm.clients[getter].received == frame(&Message::Success { key: key(n), value: b"the same" });
        let now = swarm.now();
        let holds = |machine: &usize| {
            swarm.machines[*machine]
                .engine
                .as_ref()
                .is_some_and(|engine| engine.service::<Service>().store().get(&key(n), now).is_some())
        };
        outcomes.push((found, (0..MACHINES).filter(holds).collect()));
    }
    outcomes
}

#[test]
fn both_levels_agree_on_what_is_found_and_who_holds_it() {
    let (messages, bytes) = (message_level(), byte_level());
    assert_eq!(messages, bytes);
    assert!(messages.iter().all(|(found, holders)| *found && holders.len() == 3), "{messages:?}");
}
