//! `dayfly sim`: a simulated network of the real nodes, and what came of it. Compiled in with the feature `sim` only,
//! so that the deployed binary stays small.

mod figures;
mod peers;
mod plot;

use std::io::{IsTerminal, Write};
use std::time::Instant;

use getopts::{Matches, Options as Flags};

use super::json::Object;
use super::{Outcome, Stop, exit, no_arguments, number, parse, print, tell};
use crate::dialect::sealed::settings::Ids;
use crate::limits::{ALPHA, ALPHA_MAX, GET_TRIES, K, K_MAX, PATHS, PATHS_MAX, REPLICATION, REPLICATION_MAX};
use crate::sim::crowd;
use crate::sim::delay::Delays;
use crate::sim::options::{Build, Churn, Lie, Options, Ttl};
use crate::sim::plan::{self, Stage};
use crate::sim::report::{Report, Sample};
use crate::sim::scenario::Scenario;

const HELP: &str = "\
Usage: dayfly sim [options]
Puts values into a simulated network of real nodes and looks for them, in virtual time. The same options give the same
run, to the last message.

One value each is put through a random honest node and got through another five seconds later; before that, its key is
looked up once to see who is found and in how many hops. LIEs: collude (name each other), wrong-value (and make up
values), endless (name ever closer contacts), garbage, silent. Ids are bound to addresses as in the sealed dialect, or
--minted next to the target, as where nodes choose their ids.

With --scenario nobody lies, but the nodes nearest to a key may not have its value: full, crowded (stores), mixed
(limits), one-copy, growth, rush (fourfold within ten or five seconds), refusals, everything. What was stored and has a
living holder must be found.

Exit codes: 0 done; 64 usage; 71 a figure can't be written.

Examples:
  dayfly sim --nodes 100000
  dayfly sim --nodes 10000 --liars 30 --minted --paths 8 --placed
  dayfly sim --nodes 10000 --churn 600 --warmup 1200 --json
  dayfly sim --dialect hyperdht --nodes 10000 --loss 5 --behind-nat 30
  dayfly sim --figures tests/figures          every figure and plot that the README shows (`make sim`)
";

/// How often a progress line is written to a terminal, and to anything else.
const PROGRESS_MS: [u128; 2] = [10_000, 200];

pub(super) fn run(words: &[String]) -> Outcome {
    let Some(matches) = parse(&mut flags(), words, HELP)? else {
        return Ok(exit::OK);
    };
    no_arguments(&matches)?;
    if let Some(folder) = matches.opt_str("figures") {
        let jobs = number(&matches, "jobs", 2, 1, 64)?;
        return figures::write_all(&folder, jobs, number(&matches, "scale", 1, 1, 1_000)?);
    }
    match matches.opt_str("dialect").as_deref() {
        None | Some("sealed") => {}
        Some("hyperdht") => return peers::run(&matches),
        Some(other) => return Err(Stop::usage(format_args!("--dialect takes sealed or hyperdht, not '{other}'"))),
    }
    let options = options(&matches)?;
    let began = Instant::now();
    let act = if matches.opt_present("bytes") { crowd::run } else { plan::run };
    let report = with_progress(|progress| act(&options, progress));
    let wall_s = began.elapsed().as_secs_f64();
    show(&matches, || json(&options, &report, wall_s), || table(&report, wall_s))
}

/// Prints a report as was asked for.
fn show(matches: &Matches, json: impl Fn() -> String, table: impl Fn() -> String) -> Outcome {
    print(&if matches.opt_present("json") { json() + "\n" } else { table() })?;
    Ok(exit::OK)
}

fn flags() -> Flags {
    let mut flags = Flags::new();
    flags.optopt("", "nodes", "hosts (default 10000)", "N");
    flags.optopt("", "seed", "decides everything that the other options leave open (default 1)", "N");
    flags.optopt("", "lookups", "values to put and get (default 2000)", "N");
    flags.optopt("", "paths", &format!("disjoint paths of a first lookup (default {PATHS})"), "N");
    flags.optopt("", "tries", &format!("lookups that a GET may take (default {GET_TRIES})"), "N");
    flags.optopt("", "alpha", &format!("requests that a lookup keeps in flight (default {ALPHA})"), "N");
    flags.optopt("k", "", &format!("contacts per bucket and answer (default {K})"), "N");
    flags.optopt("", "replication", &format!("holders of a value (default {REPLICATION})"), "N");
    flags.optopt("", "quorum", "holders that must agree on a value that its key does not certify (default 1)", "N");
    flags.optopt("", "liars", "share of hosts that lie, in percent (default 0)", "PERCENT");
    flags.optopt("", "lie", "what they do (default collude)", "LIE");
    flags.optflag("", "minted", "liars choose their ids; without it, ids are hashes of addresses");
    flags.optopt("", "dead", "share of hosts that die unnoticed before anything is put (default 0)", "PERCENT");
    flags.optopt("", "loss", "share of messages that are lost (default 0)", "PERCENT");
    flags.optopt("", "latency", "median round trip in ms (default 152: Gencer et al. 2018)", "MS");
    flags.optopt("", "churn", "median session in seconds, Weibull of shape 0.5 (default: nobody leaves)", "S");
    flags.optopt("", "warmup", "seconds of churn before anything is measured (default 600)", "S");
    flags.optopt("", "scenario", "nobody lies, but values are not where one looks first; see above", "NAME");
    flags.optopt("", "ttl", "lifetime that values are put with, in seconds; 0: the longest (default 10)", "S");
    flags.optflag("", "joined", "every node joins through another; without it, tables are drawn at random");
    flags.optflag("", "placed", "values are placed on the closest honest nodes, so that only finding is measured");
    flags.optflag("", "plain", "keys are not the hashes of their values");
    flags.optflag("", "no-watch", "leave out the lookups of keys that nobody holds yet");
    flags.optopt(
        "",
        "dialect",
        "sealed or hyperdht (default sealed); hyperdht takes --nodes, --seed, --lookups, --loss, --dead, --latency",
        "NAME",
    );
    flags.optopt("", "doubled", "hyperdht: share of packets that arrive twice (default 0)", "PERCENT");
    flags.optopt("", "held-up", "hyperdht: packets are held up for up to this long, and overtaken (default 0)", "MS");
    flags.optopt("", "behind-nat", "hyperdht: share of hosts behind NATs of all kinds (default 0)", "PERCENT");
    flags.optflag("", "bytes", "whole engines over pretend TCP; knows no faults but --dead and --scenario");
    flags.optflag("", "json", "print JSON");
    flags.optopt("", "figures", "write every figure of the README into this folder instead", "FOLDER");
    flags.optopt("", "jobs", "with --figures: networks simulated at the same time (default 2)", "N");
    flags.optopt("", "scale", "with --figures: networks smaller by this factor, for a quick look (default 1)", "N");
    flags
}

fn share(matches: &Matches, name: &str) -> Result<f64, Stop> {
    Ok(number(matches, name, 0.0, 0.0, 100.0)? / 100.0)
}

/// The one of `all` that is called `name`, or what to tell a user who gave --`flag` another name.
fn one_of<T: Copy>(flag: &str, all: &[(&str, T)], name: &str) -> Result<T, Stop> {
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let known = all.iter().find(|(known, _)| *known == name);
    let unknown = || Stop::usage(format_args!("--{flag} takes one of {}, not '{name}'", names.join(", ")));
    known.map(|(_, known)| *known).ok_or_else(unknown)
}

fn options(matches: &Matches) -> Result<Options, Stop> {
    let nodes = number(matches, "nodes", 10_000, 2, 1_000_000)?;
    let lookups = number(matches, "lookups", 2_000, 0, 10_000_000)?;
    let mut options = Options::new(nodes, lookups, number(matches, "seed", 1, 0, u64::MAX)?);
    options.liars = share(matches, "liars")?;
    options.dead = share(matches, "dead")?;
    options.loss = share(matches, "loss")?;
    if let Some(name) = matches.opt_str("lie") {
        options.lie = one_of("lie", &Lie::ALL, &name)?;
    }
    let settings = &mut options.settings;
    settings.kademlia.paths = number(matches, "paths", PATHS, 1, PATHS_MAX)?;
    settings.kademlia.k = number(matches, "k", K, 1, K_MAX)?;
    settings.kademlia.alpha = number(matches, "alpha", ALPHA, 1, ALPHA_MAX)?;
    settings.tries = number(matches, "tries", GET_TRIES, 1, GET_TRIES)?;
    settings.quorum = number(matches, "quorum", 1, 1, REPLICATION_MAX)?;
    settings.ids = if matches.opt_present("minted") { Ids::Minted } else { Ids::Bound };
    options.replication = number(matches, "replication", REPLICATION, 1, REPLICATION_MAX)?;
    options.settings.replication = options.replication;
    options.build = if matches.opt_present("joined") { Build::Joined } else { Build::Drawn };
    options.placed = matches.opt_present("placed");
    options.certified = !matches.opt_present("plain");
    options.watch = !matches.opt_present("no-watch");
    if matches.opt_present("latency") {
        options.delays = Delays::Median(number(matches, "latency", 152.0, 0.0, 10_000.0)?);
    }
    if matches.opt_present("churn") {
        let median_ms = 1_000.0 * number(matches, "churn", 600.0, 1.0, 1e6)?;
        let warmup_ms = 1_000 * number(matches, "warmup", 600, 0, 1_000_000)?;
        options.churn = Some(Churn { median_ms, shape: 0.5, warmup_ms });
    }
    options.ttl = Ttl::Fixed(number(matches, "ttl", 10, 0, u16::MAX)?);
    if let Some(name) = matches.opt_str("scenario") {
        options = one_of("scenario", &Scenario::ALL, &name)?.apply(options);
    }
    let everybody = options.liars >= 1.0 || options.dead >= 1.0;
    let nobody_left = everybody || (options.nodes as f64) * (1.0 - options.liars) * (1.0 - options.dead) < 2.0;
    if nobody_left {
        return Err(Stop::usage("--liars and --dead leave nobody to put and get anything"));
    }
    Ok(options)
}

/// Runs a world and says on stderr how far it is.
fn with_progress<R>(act: impl FnOnce(&mut dyn FnMut(Stage)) -> R) -> R {
    let is_terminal = std::io::stderr().is_terminal();
    let (began, mut shown) = (Instant::now(), Instant::now());
    let report = act(&mut |stage| {
        if shown.elapsed().as_millis() < PROGRESS_MS[usize::from(is_terminal)] {
            return;
        }
        shown = Instant::now();
        let (what, done, all) = match stage {
            Stage::Building(done, all) => ("building the network", done, all),
            Stage::Living(done, all) => ("putting and getting", done, all),
        };
        let line = format!("{what}: {done} of {all}, {} s", began.elapsed().as_secs());
        if is_terminal {
            // Nowhere left to complain to if stderr is closed.
            let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
        } else {
            tell(&line);
        }
    });
    if is_terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    report
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn quantiles(sample: &Sample) -> String {
    format!("median {} ms, 99 % {} ms", sample.quantile(0.5), sample.quantile(0.99))
}

/// The report for people.
fn table(report: &Report, wall_s: f64) -> String {
    let mut rows = vec![
        ("hosts alive", format!("{}, {:.0} contacts each", report.living, report.contacts)),
        ("values put", format!("{}, stored {}", report.puts, report.stored)),
        ("  time to store", quantiles(&report.stored_ms)),
        ("values looked for", format!("{}, found {} ({})", report.gets, report.found, percent(report.found_share()))),
        ("  something else came back", report.fooled.to_string()),
        ("  nothing came back", (report.missed + report.unfinished).to_string()),
        ("  time to find", quantiles(&report.found_ms)),
        (
            "  stored, with a living holder",
            format!("{}, found {} ({})", report.promised, report.kept, percent(report.kept_share())),
        ),
    ];
    if !report.lost_behind.is_empty() {
        let (median, most) = (report.lost_behind.quantile(0.5), report.lost_behind.quantile(1.0));
        rows.push(("    hosts before the holder of the others", format!("median {median}, most {most}")));
    }
    if report.watched > 0 {
        rows.extend([
            ("lookups of absent keys", report.watched.to_string()),
            ("  something came back nonetheless", report.invented.to_string()),
            ("  heard from the closest node", percent(report.reached_share())),
            ("  hops to it", format!("{:.2}", report.hops.mean())),
            ("  time to it", quantiles(&report.reached_ms)),
            ("  requests", format!("{:.1}", report.asked.mean())),
            ("holders that storing and finding agree on", percent(report.overlap())),
        ]);
    }
    rows.extend([
        ("messages", format!("{}, {:.0} a second", report.messages, report.messages as f64 / wall_s)),
        ("time", format!("{:.1} s simulated in {wall_s:.1} s", report.virtual_ms as f64 / 1_000.0)),
        ("trace", format!("{:016x}", report.trace)),
    ]);
    rows_text(&rows)
}

fn rows_text(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(name, value)| format!("{name:<42} {value}\n")).collect()
}

/// The report for machines: one flat object. Times in milliseconds, shares from 0 to 1.
fn json(options: &Options, report: &Report, wall_s: f64) -> String {
    let numbers: [(&str, f64); 31] = [
        ("nodes", options.nodes as f64),
        ("seed", options.seed as f64),
        ("living", report.living as f64),
        ("contacts", report.contacts),
        ("puts", report.puts as f64),
        ("stored", report.stored as f64),
        ("stored_ms_median", report.stored_ms.quantile(0.5) as f64),
        ("stored_ms_99", report.stored_ms.quantile(0.99) as f64),
        ("gets", report.gets as f64),
        ("found", report.found as f64),
        ("found_share", report.found_share()),
        ("fooled", report.fooled as f64),
        ("missed", report.missed as f64),
        ("unfinished", report.unfinished as f64),
        ("promised", report.promised as f64),
        ("kept", report.kept as f64),
        ("found_ms_median", report.found_ms.quantile(0.5) as f64),
        ("found_ms_99", report.found_ms.quantile(0.99) as f64),
        ("watched", report.watched as f64),
        ("invented", report.invented as f64),
        ("reached", report.reached as f64),
        ("reached_share", report.reached_share()),
        ("reached_ms_median", report.reached_ms.quantile(0.5) as f64),
        ("reached_ms_99", report.reached_ms.quantile(0.99) as f64),
        ("hops", report.hops.mean()),
        ("requests", report.asked.mean()),
        ("overlap", report.overlap()),
        ("messages", report.messages as f64),
        ("virtual_ms", report.virtual_ms as f64),
        ("built_ms", report.built_ms as f64),
        ("wall_s", wall_s),
    ];
    let object = Object::default().text("trace", &format!("{:016x}", report.trace));
    with_numbers(object, &numbers)
}

/// An object with these numbers besides.
fn with_numbers(object: Object, numbers: &[(&str, f64)]) -> String {
    numbers.iter().fold(object, |object, (name, value)| object.raw(name, &value.to_string())).finish()
}
