//! `dayfly sim`: a simulated network, and what came of it.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use getopts::{Matches, Options as Flags};

use crate::cli::{Outcome, Stop, exit, number, parse, print};
use crate::dialect::sealed::node::Ids;
use crate::sim::delay::Delays;
use crate::sim::options::{Build, Churn, Lie, Options};
use crate::sim::plan::{Stage, run as run_plan};
use crate::sim::report::Report;

const HELP: &str = "Usage: dayfly sim [options]";

pub fn run(words: &[String]) -> Outcome {
    let mut flags = Flags::new();
    flags.optopt("", "nodes", "hosts (default 10000)", "N");
    flags.optopt("", "seed", "decides everything (default 1)", "N");
    flags.optopt("", "lookups", "values put and got (default 2000)", "N");
    flags.optopt("", "liars", "percent", "PERCENT");
    flags.optopt("", "lie", "", "KIND");
    flags.optopt("", "dead", "", "PERCENT");
    flags.optopt("", "loss", "", "PERCENT");
    flags.optopt("", "paths", "", "N");
    flags.optopt("", "quorum", "", "N");
    flags.optopt("", "replication", "", "N");
    flags.optopt("k", "", "", "N");
    flags.optopt("", "alpha", "", "N");
    flags.optopt("", "latency", "", "MS");
    flags.optopt("", "churn", "median session in seconds", "S");
    flags.optopt("", "warmup", "seconds of churn before anything is measured", "S");
    flags.optflag("", "minted", "");
    flags.optflag("", "joined", "");
    flags.optflag("", "placed", "");
    flags.optflag("", "plain", "");
    flags.optflag("", "no-watch", "");
    let Some(matches) = parse(&mut flags, words, HELP)? else {
        return Ok(exit::OK);
    };
    let options = options(&matches)?;
    let began = Instant::now();
    let mut shown = Instant::now();
    let mut built = 0.0;
    let report = run_plan(&options, &mut |stage| {
        if let Stage::Living(..) = stage {
            if built == 0.0 {
                built = began.elapsed().as_secs_f64();
            }
        }
        if shown.elapsed().as_millis() > 500 && std::io::stderr().is_terminal() {
            shown = Instant::now();
            let _ = write!(std::io::stderr(), "\r{stage:?}   ");
        }
    });
    print(&table(&report, began.elapsed().as_secs_f64(), built))?;
    Ok(exit::OK)
}

fn percent(matches: &Matches, name: &str) -> Result<f64, Stop> {
    Ok(number(matches, name, 0.0, 0.0, 100.0)? / 100.0)
}

fn options(matches: &Matches) -> Result<Options, Stop> {
    let nodes = number(matches, "nodes", 10_000, 2, 1_000_000)?;
    let lookups = number(matches, "lookups", 2_000, 0, 10_000_000)?;
    let mut options = Options::new(nodes, lookups, number(matches, "seed", 1, 0, u64::MAX)?);
    options.liars = percent(matches, "liars")?;
    options.dead = percent(matches, "dead")?;
    options.loss = percent(matches, "loss")?;
    if let Some(name) = matches.opt_str("lie") {
        let known = Lie::ALL.iter().find(|(known, _)| *known == name);
        options.lie = known.ok_or_else(|| Stop::usage(format_args!("unknown lie '{name}'")))?.1;
    }
    options.settings.kademlia.paths = number(matches, "paths", 1, 1, 16)?;
    options.settings.kademlia.k = number(matches, "k", 20, 1, 20)?;
    options.settings.kademlia.alpha = number(matches, "alpha", 3, 1, 16)?;
    options.settings.quorum = number(matches, "quorum", 1, 1, 20)?;
    options.replication = number(matches, "replication", 3, 1, 20)?;
    if matches.opt_present("minted") {
        options.settings.ids = Ids::Minted;
    }
    if matches.opt_present("joined") {
        options.build = Build::Joined;
    }
    options.placed = matches.opt_present("placed");
    options.certified = !matches.opt_present("plain");
    options.watch = !matches.opt_present("no-watch");
    if matches.opt_present("latency") {
        options.delays = Delays::Median(number(matches, "latency", 152.0, 0.0, 10_000.0)?);
    }
    if matches.opt_present("churn") {
        let median_ms = 1000.0 * number(matches, "churn", 600.0, 1.0, 1e9)?;
        let warmup_ms = 1000 * number(matches, "warmup", 600, 0, 1_000_000)?;
        options.churn = Some(Churn { median_ms, shape: 0.5, warmup_ms });
    }
    Ok(options)
}

fn table(report: &Report, wall: f64, built: f64) -> String {
    format!(
        "living {} contacts {:.0}\nput {} stored {}\ngot {} found {} ({:.2} %) fooled {} missed {} unfinished {}\n\
         found_ms p50 {} p99 {} max {}\nstored_ms p50 {} p99 {}\nwatched {} reached {:.2} % hops {:.2} reached_ms p50 {} p99 {} asked {:.1}\n\
         overlap {:.2} %\nmessages {} virtual {} s wall {:.1} s built {:.1} s trace {:016x}\n",
        report.living,
        report.contacts,
        report.puts,
        report.stored,
        report.gets,
        report.found,
        100.0 * report.found_share(),
        report.fooled,
        report.missed,
        report.unfinished,
        report.found_ms.quantile(0.5),
        report.found_ms.quantile(0.99),
        report.found_ms.quantile(1.0),
        report.stored_ms.quantile(0.5),
        report.stored_ms.quantile(0.99),
        report.watched,
        100.0 * report.reached_share(),
        report.hops.mean(),
        report.reached_ms.quantile(0.5),
        report.reached_ms.quantile(0.99),
        report.asked.mean(),
        100.0 * report.overlap(),
        report.messages,
        report.virtual_ms / 1000,
        wall,
        built,
        report.trace,
    )
}
