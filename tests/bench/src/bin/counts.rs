//! Runs one case of `cases.rs` a fixed number of times, for valgrind to count its instructions: scripts/bench-check.
//!
//! Usage: counts --list | counts CASE

#[path = "../cases.rs"]
mod cases;

/// Often enough that what happens seldom has its share.
const RUNS: usize = 500;

/// The part that is counted.
#[inline(never)]
fn measured(run: &mut dyn FnMut()) {
    for _ in 0..RUNS {
        run();
    }
}

fn main() {
    let word = std::env::args().nth(1).unwrap_or("--list".into());
    let mut cases = cases::all();
    match cases.iter_mut().find(|case| case.name == word) {
        Some(case) => {
            (0..RUNS).for_each(|_| (case.run)());
            measured(&mut *case.run);
            println!("{RUNS}");
        }
        None => cases.iter().for_each(|case| println!("{}", case.name)),
    }
}
