//! Times of the cases in `cases.rs`, by criterion: `make bench-micro`.

#[path = "../src/cases.rs"]
mod cases;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for mut case in cases::all() {
        criterion.bench_function(&case.name, |bench| bench.iter(|| (case.run)()));
    }
    criterion.final_summary();
}
