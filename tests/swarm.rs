//! Byte-level swarms: 256 seeds, each with its own weather. A failure names the seed and the step; `SWARM_SEED=n cargo
//! test --features sim --test swarm` replays it alone.
#![cfg(feature = "sim")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use dayfly::sim::ordeal::Ordeal;
use dayfly::sim::swarm::Canary;

/// Seeds of a plain run; `SWARM_SEEDS=n` makes it longer.
const SEEDS: u64 = 256;
const STEPS: usize = 3_000;

/// Runs one seed; what it says of itself, or where and why it failed.
fn run(seed: u64, canary: Canary, heals: bool) -> Result<(u64, usize, usize), String> {
    let mut step = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut ordeal = Ordeal::new(seed, canary);
        while step < STEPS {
            ordeal.step();
            step += 1;
        }
        if heals {
            ordeal.heal();
        }
        (ordeal.swarm.trace(), ordeal.found, ordeal.answers)
    }));
    outcome.map_err(|panic| {
        let why: Option<String> = panic.downcast_ref::<String>().map(|why| why.chars().take(600).collect());
        let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| String::from(*why))).unwrap_or_default();
        let when = if step == STEPS { "healing".to_string() } else { format!("step {step}") };
        format!("seed {seed}, {when}: {why}\nreplay: SWARM_SEED={seed} cargo test --features sim --test swarm")
    })
}

#[test]
fn swarms_survive_what_their_seeds_draw() {
    if let Ok(seed) = std::env::var("SWARM_SEED") {
        let seed = seed.parse().expect("SWARM_SEED is a number");
        run(seed, Canary::None, true).unwrap_or_else(|why| panic!("{why}"));
        return;
    }
    let seeds = std::env::var("SWARM_SEEDS").map_or(SEEDS, |n| n.parse().expect("SWARM_SEEDS is a number"));
    let (next, found, answers) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failures: Vec<String> = std::thread::scope(|scope| {
        let worker = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return failures;
                }
                match run(seed, Canary::None, true) {
                    Ok((_, some, all)) => {
                        found.fetch_add(some as u64, Ordering::Relaxed);
                        answers.fetch_add(all as u64, Ordering::Relaxed);
                    }
                    Err(why) => failures.push(why),
                }
            }
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{} answers, {} values found", answers.load(Ordering::Relaxed), found.load(Ordering::Relaxed));
    assert!(
        failures.is_empty(),
        "{} seeds failed, among them\n{}",
        failures.len(),
        failures[..failures.len().min(5)].join("\n")
    );
    assert!(found.load(Ordering::Relaxed) > 1_000, "the swarms do something");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_gives_another() {
    let trace = |seed| run(seed, Canary::None, true).unwrap().0;
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

/// Each checker must catch the node that is broken for it, or it checks nothing.
#[test]
fn every_canary_is_caught() {
    let rows = [
        (Canary::WrongKey, "only what was put under a key"),
        (Canary::Stale, "was served"),
        (Canary::LosesAnswers, "never answered"),
        (Canary::LosesBytes, "all that was sent is accounted for"),
        (Canary::NeverHeals, "which its neighbour does not find"),
        (Canary::Spins, "no busy loop"),
        (Canary::Hoards, "stays within its bounds"),
        (Canary::ListsHidden, "which can't be dialled"),
    ];
    for (canary, complaint) in rows {
        let caught = (0..64).find_map(|seed| run(seed, canary, true).err());
        let caught = caught.unwrap_or_else(|| panic!("{canary:?} was not caught"));
        assert!(caught.contains(complaint), "{canary:?} was caught as something else: {caught}");
    }
}
