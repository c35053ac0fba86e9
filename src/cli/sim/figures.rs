//! Every figure and plot of the README: which networks are simulated for them, and how they are written down. Two
//! networks at a time, each in a thread of its own; what comes out does not depend on that.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{Outcome, Stop, exit, tell};
use super::percent;
use super::plot::{Axes, Series, svg};
use crate::dialect::sealed::settings::Ids;
use crate::sim::delay::Delays;
use crate::sim::options::{Build, Churn, Lie, Options};
use crate::sim::report::Report;
use crate::sim::scenario::Scenario;
use crate::sim::{crowd, plan};

/// Hosts of most figures.
const NODES: usize = 100_000;
/// Values put and got for each.
const LOOKUPS: usize = 2_000;
/// Median round trip among PlanetLab's hosts, in milliseconds (Dabek et al., "Vivaldi", SIGCOMM 2004).
const PLANETLAB_MS: f64 = 76.0;

/// One simulated network.
struct Cell {
    /// Which table it belongs to, which row of it, and where on the axis.
    table: &'static str,
    row: String,
    x: f64,
    options: Options,
    /// Whether whole engines exchange bytes.
    bytes: bool,
}

/// A cell and what came of it.
struct Done {
    cell: Cell,
    report: Report,
}

/// Simulates all networks and writes `figures.md` and the plots into `folder`.
pub(super) fn write_all(folder: &str, jobs: usize, scale: usize) -> Outcome {
    // Before the work, so that it is not done in vain.
    std::fs::create_dir_all(folder).map_err(|e| Stop::new(exit::SYSTEM, format!("can't make {folder}: {e}")))?;
    let done = simulate(cells(scale), jobs);
    let write = |name: &str, text: &str| {
        let path = format!("{folder}/{name}");
        std::fs::write(&path, text).map_err(|e| Stop::new(exit::SYSTEM, format!("can't write {path}: {e}")))
    };
    write("figures.md", &tables(&done))?;
    for (name, axes, table, value) in PLOTS {
        write(name, &svg(axes, &curves(&done, table, *value))?)?;
    }
    Ok(exit::OK)
}

/// Runs the cells, `jobs` at a time, and tells of each.
fn simulate(cells: Vec<Cell>, jobs: usize) -> Vec<Done> {
    let (next, all) = (AtomicUsize::new(0), cells.len());
    let done: Mutex<Vec<(usize, Report)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((number, cell)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, cells.get(n)?)))
                {
                    let act = if cell.bytes { crowd::run } else { plan::run };
                    let report = act(&cell.options, &mut |_| {});
                    tell(&format!(
                        "{} of {all}: {}, {}: found {}",
                        number + 1,
                        cell.table,
                        cell.row,
                        percent(report.found_share())
                    ));
                    if let Ok(mut done) = done.lock() {
                        done.push((number, report));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(number, _)| *number);
    cells.into_iter().zip(done).map(|(cell, (_, report))| Done { cell, report }).collect()
}

const SIZES: &str = "Network size";
const LIARS: &str = "Liars";
const DEAD: &str = "Dead contacts";
const QUORUM: &str = "Wrong values, keys that are not hashes, 20 % liars";
const LATENCY: &str = "Time to find, 20 % of contacts silent";
const THROUGH: &str = "Values put through the network too";
/// "Stored, and a holder is alive" must imply "found": the share of this table is to be 100 %.
const PROMISED: &str = "Stored, and a holder is alive: found";
const CHURN: &str = "Churn: median session 10 min, Weibull 0.5";

/// All networks. Smaller by `scale`.
fn cells(scale: usize) -> Vec<Cell> {
    let nodes = NODES / scale;
    [
        sizes(scale),
        liars(nodes),
        dead(nodes),
        wrong_values(nodes),
        through(nodes),
        churn(nodes),
        latency(nodes),
        promised(nodes / 10),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A network in which keys are not looked up before they are put.
fn plain(nodes: usize) -> Options {
    Options { watch: false, ..Options::new(nodes, LOOKUPS, 1) }
}

fn cell(table: &'static str, row: &str, x: f64, options: Options) -> Cell {
    Cell { table, row: row.into(), x, options, bytes: false }
}

fn sizes(scale: usize) -> Vec<Cell> {
    let drawn = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000].map(|size| ("tables drawn", Build::Drawn, size));
    // Joining 100,000 takes ten minutes and 5 GB: see `dayfly sim --nodes 100000 --joined`.
    let joined = [100, 300, 1_000, 3_000, 10_000].map(|size| ("joined one by one", Build::Joined, size));
    let all = drawn.into_iter().chain(joined);
    all.map(|(row, build, size)| {
        let size = (size / scale).max(50);
        cell(SIZES, row, size as f64, Options { build, ..Options::new(size, LOOKUPS.min(10 * size), 1) })
    })
    .collect()
}

fn liars(nodes: usize) -> Vec<Cell> {
    let rows = [
        ("bound ids, 8 paths", Ids::Bound, 8, 3),
        ("bound ids, as shipped", Ids::Bound, 1, 3),
        ("minted ids, 8 paths", Ids::Minted, 8, 3),
        ("minted ids, as shipped", Ids::Minted, 1, 3),
        ("minted ids, single path, one try", Ids::Minted, 1, 1),
    ];
    let at = |row: &str, ids, paths, tries, liars: f64| {
        let mut options = Options { liars, placed: true, ..plain(nodes) };
        options.settings.ids = ids;
        options.settings.kademlia.paths = paths;
        options.settings.tries = tries;
        cell(LIARS, row, 100.0 * liars, options)
    };
    let shares = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
    let row = |(row, ids, paths, tries)| shares.map(|share| at(row, ids, paths, tries, share));
    rows.into_iter().flat_map(row).collect()
}

fn dead(nodes: usize) -> Vec<Cell> {
    let both = |dead: f64| {
        [("placed", true), ("put through the network", false)]
            .map(|(row, placed)| cell(DEAD, row, 100.0 * dead, Options { dead, placed, ..plain(nodes) }))
    };
    [0.0, 0.2, 0.4, 0.6, 0.7, 0.8].into_iter().flat_map(both).collect()
}

fn wrong_values(nodes: usize) -> Vec<Cell> {
    let at = |(replication, quorum)| {
        let mut options = Options { liars: 0.2, lie: Lie::WrongValue, certified: false, replication, ..plain(nodes) };
        options.settings.replication = replication;
        options.settings.quorum = quorum;
        cell(QUORUM, &format!("replication {replication}"), quorum as f64, options)
    };
    [(3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (5, 3)].into_iter().map(at).collect()
}

fn through(nodes: usize) -> Vec<Cell> {
    let at = |(row, ids, liars)| {
        let mut options = Options { liars, ..plain(nodes) };
        options.settings.ids = ids;
        options.settings.kademlia.paths = 8;
        cell(THROUGH, row, 100.0 * liars, options)
    };
    let (bound, minted) = ("bound ids, 8 paths", "minted ids, 8 paths");
    [(bound, Ids::Bound, 0.2), (bound, Ids::Bound, 0.5), (minted, Ids::Minted, 0.2)].into_iter().map(at).collect()
}

/// At a fresh start everybody is young, and the young leave first: a fifth are gone after the first minute.
fn churn(nodes: usize) -> Vec<Cell> {
    let rows = [("after 20 min of it", 1_200_000, nodes / 10), ("after its first minute", 60_000, nodes)];
    let at = |(row, warmup_ms, nodes)| {
        let churn = Some(Churn { median_ms: 600_000.0, shape: 0.5, warmup_ms });
        cell(CHURN, row, 0.0, Options { churn, ..plain(nodes) })
    };
    rows.into_iter().map(at).collect()
}

fn latency(nodes: usize) -> Vec<Cell> {
    let both = |delays: Delays| {
        [("messages", false), ("bytes, with TCP's round trips", true)].map(|(row, bytes)| Cell {
            bytes,
            ..cell(LATENCY, row, delays.quantile(0.5), Options { dead: 0.2, delays, ..plain(nodes) })
        })
    };
    [Delays::WideArea, Delays::Median(PLANETLAB_MS)].into_iter().flat_map(both).collect()
}

fn promised(nodes: usize) -> Vec<Cell> {
    let at = |(name, scenario): (&str, Scenario)| cell(PROMISED, name, 0.0, scenario.apply(plain(nodes)));
    Scenario::ALL.into_iter().map(at).collect()
}

/// Hops to the closest node that a table of buckets of `k` should give among `nodes`: each hop's best of k contacts is
/// log2 k + 1/3 bits nearer, and one more as its bucket lies across; the last but one knows the rest.
fn hops_in_theory(nodes: f64, k: f64) -> f64 {
    1.0 + ((nodes / k).log2() - 1.0).max(0.0) / (k.log2() + 4.0 / 3.0)
}

/// What a plot shows of a report.
type Value = fn(&Report) -> f64;

const PLOTS: &[(&str, &Axes, &str, Value)] = &[
    (
        "liars.svg",
        &Axes {
            title: "Values found, by liars (100,000 nodes)",
            x: "liars, %",
            y: "found, %",
            log_x: false,
            y_max: 100.0,
            grows: false,
        },
        LIARS,
        |report| 100.0 * report.found_share(),
    ),
    (
        "liars-time.svg",
        &Axes {
            title: "Time to find, median, by liars",
            x: "liars, %",
            y: "ms",
            log_x: false,
            y_max: 4_000.0,
            grows: true,
        },
        LIARS,
        |report| report.found_ms.quantile(0.5) as f64,
    ),
    (
        "dead.svg",
        &Axes {
            title: "Values found, by dead contacts (100,000 nodes)",
            x: "dead, %",
            y: "found, %",
            log_x: false,
            y_max: 100.0,
            grows: false,
        },
        DEAD,
        |report| 100.0 * report.found_share(),
    ),
    (
        "dead-time.svg",
        &Axes {
            title: "Time to find, median, by dead contacts",
            x: "dead, %",
            y: "ms",
            log_x: false,
            y_max: 1_500.0,
            grows: true,
        },
        DEAD,
        |report| report.found_ms.quantile(0.5) as f64,
    ),
    (
        "size.svg",
        &Axes {
            title: "Values found, by network size",
            x: "nodes",
            y: "found, %",
            log_x: true,
            y_max: 100.0,
            grows: false,
        },
        SIZES,
        |report| 100.0 * report.found_share(),
    ),
    (
        "size-time.svg",
        &Axes {
            title: "Time to find, median, by network size",
            x: "nodes",
            y: "ms",
            log_x: true,
            y_max: 600.0,
            grows: true,
        },
        SIZES,
        |report| report.found_ms.quantile(0.5) as f64,
    ),
    (
        "hops.svg",
        &Axes {
            title: "Hops to the closest node, by network size",
            x: "nodes",
            y: "hops",
            log_x: true,
            y_max: 4.0,
            grows: true,
        },
        SIZES,
        |report| report.hops.mean(),
    ),
];

/// The curves of a plot: one per row of its table, and the theory where there is one.
fn curves(done: &[Done], table: &str, value: Value) -> Vec<Series> {
    let mut curves: Vec<Series> = Vec::new();
    for done in done.iter().filter(|done| done.cell.table == table) {
        let point = (done.cell.x, value(&done.report));
        match curves.iter_mut().find(|curve| curve.name == done.cell.row) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Series { name: done.cell.row.clone(), points: vec![point] }),
        }
    }
    let is_hops = done.first().is_some_and(|done| value(&done.report) == done.report.hops.mean());
    if is_hops && table == SIZES {
        let points = curves.first().map(|curve| curve.points.clone()).unwrap_or_default();
        let theory = points.into_iter().map(|(nodes, _)| (nodes, hops_in_theory(nodes, 20.0)));
        curves.push(Series { name: "theory: 1 + (log2(N/k) - 1) / (log2 k + 4/3)".into(), points: theory.collect() });
    }
    curves
}

/// All figures as Markdown.
fn tables(done: &[Done]) -> String {
    let mut text = String::from(
        "# Simulated figures\n\nWritten by `make sim`; the same source gives the same numbers. 2,000 values put and got \
         in each network; round trips as Gencer et al. (2018) measured them, median 152 ms, unless said.\n",
    );
    for table in [SIZES, LIARS, DEAD, THROUGH, QUORUM, CHURN, LATENCY] {
        let axis = match table {
            SIZES => "nodes",
            QUORUM => "quorum",
            LATENCY => "median round trip, ms",
            CHURN => "",
            _ => "share, %",
        };
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "\n## {table}\n\n| | {axis} | nodes | found | fooled | missed | median | 99 % | reached closest | hops | overlap |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for Done { cell, report } in done.iter().filter(|done| done.cell.table == table) {
            let watched = if report.watched == 0 {
                "| | |".to_string()
            } else {
                format!(
                    "{} | {:.2} | {} |",
                    percent(report.reached_share()),
                    report.hops.mean(),
                    percent(report.overlap())
                )
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} ms | {} ms | {watched}",
                cell.row,
                cell.x,
                cell.options.nodes,
                percent(report.found_share()),
                report.fooled,
                report.missed,
                report.found_ms.quantile(0.5),
                report.found_ms.quantile(0.99)
            );
        }
    }
    promised_table(done, &mut text);
    text
}

/// What was promised and what of it was kept ([`Report::promised`]).
fn promised_table(done: &[Done], text: &mut String) {
    let _ = write!(
        text,
        "\n## {PROMISED}\n\nNobody lies; `dayfly sim --scenario NAME`.\n\n\
         | | nodes | put | stored | holder alive | of these found | | most hosts before the holder |\n\
         |---|---|---|---|---|---|---|---|\n"
    );
    for Done { cell, report } in done.iter().filter(|done| done.cell.table == PROMISED) {
        let Report { living, puts, stored, promised, kept, lost_behind, .. } = report;
        let share = percent(report.kept_share());
        let behind = if lost_behind.is_empty() { String::new() } else { lost_behind.quantile(1.0).to_string() };
        let row = &cell.row;
        let _ = writeln!(text, "| {row} | {living} | {puts} | {stored} | {promised} | {kept} | {share} | {behind} |");
    }
}
