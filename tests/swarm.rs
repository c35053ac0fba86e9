//! Byte-level swarms of each dialect: hundreds of seeds, each with its own weather. A failure names the seed, the step, and the
//! command that plays it again.
#![cfg(feature = "sim")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use dayfly::sim::dialect::{Canary, SimDialect};
use dayfly::sim::dialects::sealed::{Fault, Sealed};
#[cfg(feature = "toy")]
use dayfly::sim::dialects::toy::{self, Toy};
use dayfly::sim::ordeal::Ordeal;

/// Seeds of a plain run for a dialect that is deployed, and for that of the tests; `SWARM_SEEDS=n` makes it longer.
const SEEDS: u64 = 256;
#[cfg(feature = "toy")]
const TOY_SEEDS: u64 = 64;
const STEPS: usize = 3_000;
/// Seeds whose machines store and find when their faults are over.
const PROMISING_SEEDS: u64 = 64;

/// What a run says of itself.
struct Told {
    trace: u64,
    effects: usize,
    answers: usize,
}

/// Runs one seed; where and why it failed, if it did.
fn run<D: SimDialect>(seed: u64, canary: Canary<D::Canary>) -> Result<Told, String> {
    let mut at = "the start".to_string();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut ordeal = Ordeal::<D>::new(seed, canary);
        for step in 0..STEPS {
            at = format!("step {step}");
            ordeal.step();
        }
        at = "healing".to_string();
        ordeal.heal();
        let told = Told { trace: ordeal.swarm.trace(), effects: ordeal.effects, answers: ordeal.answers };
        at = "coming to rest".to_string();
        ordeal.rest();
        told
    }));
    outcome.map_err(|panic| {
        let why: Option<String> = panic.downcast_ref::<String>().map(|why| why.chars().take(600).collect());
        let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| String::from(*why))).unwrap_or_default();
        let name = D::NAME;
        format!(
            "{name}, seed {seed}, {at}: {why}\nreplay: SWARM_SEED={seed} cargo test --features sim --test swarm \
             {name}_swarms -- --nocapture"
        )
    })
}

/// Runs all seeds, or the one of `SWARM_SEED`; panics if one fails, or if together they do too little.
fn survive<D: SimDialect>(seeds: u64) {
    if let Ok(seed) = std::env::var("SWARM_SEED") {
        let seed = seed.parse().expect("SWARM_SEED is a number");
        run::<D>(seed, Canary::None).unwrap_or_else(|why| panic!("{why}"));
        return;
    }
    let seeds = std::env::var("SWARM_SEEDS").map_or(seeds, |n| n.parse().expect("SWARM_SEEDS is a number"));
    let (next, effects, answers) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failures: Vec<String> = std::thread::scope(|scope| {
        let worker = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return failures;
                }
                match run::<D>(seed, Canary::None) {
                    Ok(told) => {
                        effects.fetch_add(told.effects as u64, Ordering::Relaxed);
                        answers.fetch_add(told.answers as u64, Ordering::Relaxed);
                    }
                    Err(why) => failures.push(why),
                }
            }
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let (effects, answers) = (effects.into_inner(), answers.into_inner());
    println!("{}: {answers} answers, {effects} of them show what another client did", D::NAME);
    let (all, first) = (failures.len(), failures.iter().take(5).cloned().collect::<Vec<_>>());
    assert!(failures.is_empty(), "{all} seeds failed, among them\n{}", first.join("\n"));
    assert!(effects > 4 * seeds, "the swarms do something");
}

/// Each checker must catch the swarm that is broken for it, or it checks nothing.
fn catch<D: SimDialect>(canary: Canary<D::Canary>, complaint: &str) {
    let caught = (0..64).find_map(|seed| run::<D>(seed, canary).err());
    let caught = caught.unwrap_or_else(|| panic!("{canary:?} was not caught"));
    assert!(caught.contains(complaint), "{canary:?} was caught as something else: {caught}");
}

/// Machines whose limits differ, of which any may hold what a client was told is stored.
#[test]
fn what_was_stored_and_has_a_living_holder_is_found() {
    let (mut called_in, mut broken) = (0, Vec::new());
    for seed in 0..PROMISING_SEEDS {
        match promising(seed, Canary::None) {
            Ok(called) => called_in += called,
            Err(why) => broken.push(why),
        }
    }
    println!("{called_in} promises were kept, {} seeds broke one", broken.len());
    assert!(broken.is_empty(), "{} seeds failed, among them {:?}", broken.len(), &broken[..broken.len().min(3)]);
    assert!(called_in > 4 * PROMISING_SEEDS as usize, "promises are made");
}

#[test]
fn a_promise_that_is_broken_is_noticed() {
    let caught = (0..16).find_map(|seed| promising(seed, Canary::BreaksPromises).err());
    assert!(caught.is_some_and(|why| why.contains("said is stored")), "a machine that is not found is noticed");
}

/// Runs one seed through a few faults and its healing, and then calls promises in; how many.
fn promising(seed: u64, canary: Canary<Fault>) -> Result<usize, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut ordeal = Ordeal::<Sealed>::new(seed, canary);
        (0..STEPS / 10).for_each(|_| ordeal.step());
        ordeal.heal();
        ordeal.keep_promises()
    }));
    outcome.map_err(|panic| {
        let why: String = panic.downcast_ref::<String>().map_or(String::new(), |why| why.chars().take(600).collect());
        format!("seed {seed}: {why}")
    })
}

/// The faults that are no dialect's own.
fn catch_what_any_dialect_has<D: SimDialect>() {
    catch::<D>(Canary::LosesAnswers, "never answered");
    catch::<D>(Canary::LosesBytes, "all that was sent is accounted for");
    catch::<D>(Canary::NeverHeals, "does not show at its neighbour");
    catch::<D>(Canary::Spins, "no busy loop");
    catch::<D>(Canary::Overfills, "stays within its bounds");
    catch::<D>(Canary::KeepsMemory, "keeps memory");
    catch::<D>(Canary::KeepsConnections, "is connected to machines only");
}

fn repeat<D: SimDialect>() {
    let trace = |seed| run::<D>(seed, Canary::None).unwrap_or_else(|why| panic!("{why}")).trace;
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

#[test]
fn sealed_swarms_survive_what_their_seeds_draw() {
    survive::<Sealed>(SEEDS);
}

#[cfg(feature = "toy")]
#[test]
fn toy_swarms_survive_what_their_seeds_draw() {
    survive::<Toy>(TOY_SEEDS);
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_gives_another() {
    repeat::<Sealed>();
    #[cfg(feature = "toy")]
    repeat::<Toy>();
}

#[test]
fn every_canary_of_sealed_is_caught() {
    catch_what_any_dialect_has::<Sealed>();
    catch::<Sealed>(Canary::ListsHidden, "which can't be dialled");
    catch::<Sealed>(Canary::Own(Fault::WrongKey), "only what was put under a key");
    catch::<Sealed>(Canary::Own(Fault::Stale), "was served");
    catch::<Sealed>(Canary::Own(Fault::Hoards), "a store of");
    catch::<Sealed>(Canary::Own(Fault::KeepsForEver), "values outlive their time");
}

#[cfg(feature = "toy")]
#[test]
fn every_canary_of_the_toy_is_caught() {
    catch_what_any_dialect_has::<Toy>();
    catch::<Toy>(Canary::Own(toy::Fault::WrongBytes), "was not what was asked for");
    catch::<Toy>(Canary::Own(toy::Fault::Hurries), "before its time");
    catch::<Toy>(Canary::Own(toy::Fault::Garbles), "a client hears what was shouted");
    catch::<Toy>(Canary::Own(toy::Fault::Echoes), "came twice");
    catch::<Toy>(Canary::Own(toy::Fault::KeepsNeighbours), "the neighbours are the connections");
}
