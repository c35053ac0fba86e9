//! `dayfly sim --dialect hyperdht`: announcements and lookups in a simulated network. Turns flags into a plan and its
//! outcome into lines; simulates nothing itself.

use std::time::Instant;

use getopts::Matches;

use super::super::json::Object;
use super::{percent, quantiles, rows_text, share, show, with_numbers, with_progress};
use crate::cli::{Outcome, Stop, number};
use crate::sim::delay::Delays;
use crate::sim::packets::Air;
use crate::sim::peers::{self, Options, Report};

pub(super) fn run(matches: &Matches) -> Outcome {
    let mut air = Air { lost: share(matches, "loss")?, doubled: share(matches, "doubled")?, ..Air::clear() };
    air.held_up_ms = number(matches, "held-up", 0, 0, 60_000)?;
    if matches.opt_present("latency") {
        air.delays = Delays::Median(number(matches, "latency", 152.0, 0.0, 10_000.0)?);
    }
    let options = Options {
        nodes: number(matches, "nodes", 10_000, 2, 1_000_000)?,
        lookups: number(matches, "lookups", 1_000, 1, 1_000_000)?,
        seed: number(matches, "seed", 1, 0, u64::MAX)?,
        air,
        behind_nat: share(matches, "behind-nat")?,
        dead: share(matches, "dead")?,
    };
    if options.nodes as f64 * (1.0 - options.dead) < 2.0 {
        return Err(Stop::usage("--dead leaves nobody to announce anything"));
    }
    let began = Instant::now();
    let report = with_progress(|progress| peers::run(&options, progress));
    let wall_s = began.elapsed().as_secs_f64();
    show(matches, || json(&options, &report, wall_s), || table(&report, wall_s))
}

/// The report for people.
fn table(report: &Report, wall_s: f64) -> String {
    let found = report.found as f64 / report.lookups.max(1) as f64;
    rows_text(&[
        ("hosts alive", format!("{}, {:.0} contacts each", report.living, report.contacts)),
        ("announcements", format!("{}, taken {}", report.lookups, report.announced)),
        ("  nodes that took each", format!("{:.2}", report.takers)),
        ("  of the 20 nearest that all can reach", format!("{:.2}", report.placed)),
        ("lookups", format!("{}, found {} ({})", report.lookups, report.found, percent(found))),
        ("  time to the first answer with it", quantiles(&report.first_ms)),
        ("  time to the end", quantiles(&report.done_ms)),
        ("packets a second of an idle node", format!("{:.2}", report.idle_packets_per_s)),
        ("taken back, and found nevertheless", report.left_over.to_string()),
        ("time", format!("{wall_s:.1} s")),
        ("trace", format!("{:016x}", report.trace)),
    ])
}

/// The report for machines: one flat object. Times in milliseconds.
fn json(options: &Options, report: &Report, wall_s: f64) -> String {
    let numbers: [(&str, f64); 15] = [
        ("nodes", options.nodes as f64),
        ("seed", options.seed as f64),
        ("living", report.living as f64),
        ("contacts", report.contacts),
        ("announced", report.announced as f64),
        ("takers", report.takers),
        ("placed", report.placed),
        ("lookups", report.lookups as f64),
        ("found", report.found as f64),
        ("first_ms_median", report.first_ms.quantile(0.5) as f64),
        ("first_ms_99", report.first_ms.quantile(0.99) as f64),
        ("done_ms_median", report.done_ms.quantile(0.5) as f64),
        ("done_ms_99", report.done_ms.quantile(0.99) as f64),
        ("left_over", report.left_over as f64),
        ("wall_s", wall_s),
    ];
    let object = Object::default().text("trace", &format!("{:016x}", report.trace));
    let object = object.raw("idle_packets_per_s", &report.idle_packets_per_s.to_string());
    with_numbers(object, &numbers)
}
