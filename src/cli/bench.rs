//! `dayfly bench`: how fast does a node answer? Turns options into a plan, shows progress and prints the table; never sends
//! a request itself. Compiled in with the feature `bench`.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use getopts::{Matches, Options};

use super::json::{Object, array};
use super::visit::sealed::default_node;
use super::{Outcome, Stop, duration_ms, exit, no_arguments, number, parse, print, resolve};
use crate::dialect::sealed::codec::ErrorCode;
use crate::limits::{REPLICATION_MAX, VALUE_MAX};
use crate::load::Op;
use crate::load::sealed::{Load, Mix, Request};
use crate::load::tally::Tally;
use crate::net::load::{Moment, Plan, Until, run as run_load};
use crate::net::process::{CpuMeter, cpu_time};
use crate::net::socket::{raise_open_files, seed};

const HELP: &str = "\
Usage: dayfly bench [options]
Sends requests to a node as fast as it answers, or at a --rate, and prints how fast that was. Every answer is checked
byte by byte; the run fails if one is wrong, missing or an error.

OPs: ping, find-node, find-value, put, get, or mix (of ten requests 6 find-value, 2 find-node, 1 put, 1 ping). The values
to be found are put first, and again every four seconds. With --rate, requests are due at even intervals, and latency is
counted from when a request was due. Several --node share the connections.
Exit codes: 0 all answers were right; 64 usage; 68 unknown host; 69 no node there, or some answers were not right;
71 the system refused something; 75 the node stopped answering.

Examples:
  dayfly bench --op ping --connections 50 --seconds 5
  dayfly bench --op find-value --pipeline 16 --requests 1000000
  dayfly bench --op get --rate 2000 --seconds 10 --json
  dayfly bench --op put --size 60000 --keys 100 --pid $(pidof dayfly)
";

/// The kinds of requests by the name of `--op`.
const OPS: &[(&str, Mix)] = &[
    ("ping", &[(Op::Ping, 1)]),
    ("find-node", &[(Op::FindNode, 1)]),
    ("find-value", &[(Op::FindValue, 1)]),
    ("put", &[(Op::Put, 1)]),
    ("get", &[(Op::Get, 1)]),
    ("mix", &[(Op::FindValue, 6), (Op::FindNode, 2), (Op::Put, 1), (Op::Ping, 1)]),
];

/// Percentiles in the table.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];

pub(super) fn run(words: &[String]) -> Outcome {
    let Some(matches) = parse(&mut options(), words, HELP)? else {
        return Ok(exit::OK);
    };
    no_arguments(&matches)?;
    let (name, request) = request(&matches)?;
    let plan = plan(&matches)?;
    let pid = pid(&matches)?;
    raise_open_files();
    let mut meter = pid.map(CpuMeter::new);
    let mut observe = |moment: Moment, tally: &Tally| {
        meter.iter_mut().for_each(|meter| meter.observe(moment));
        tell_progress(moment, tally);
    };
    let tally = run_load(&plan, &mut Load::new(request), &mut observe).map_err(|e| failed(&plan, &e))?;
    let cpu_us = meter.and_then(|meter| meter.micros_per_request(tally.timely()));
    let report = if matches.opt_present("json") {
        json(name, &plan, &request, &tally, cpu_us)
    } else {
        table(name, &plan, &request, &tally, cpu_us)
    };
    print(&report)?;
    match tally.failures() {
        0 => Ok(exit::OK),
        n => Err(Stop::new(exit::UNAVAILABLE, format!("{n} requests failed: {}", faults(&tally)))),
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options.optopt("", "op", "the kind of request (default ping)", "OP");
    options.optmulti(
        "",
        "node",
        &format!("the node to ask; may be given more than once (default {})", default_node()),
        "HOST:PORT",
    );
    options.optopt("c", "connections", "connections in all (default 50)", "N");
    options.optopt("p", "pipeline", "requests in flight per connection (default 1)", "N");
    options.optopt("n", "requests", "measure this many requests (default 100000)", "N");
    options.optopt("", "seconds", "measure for this long instead", "S");
    options.optopt("", "rate", "requests per second in all, an open loop (default: as fast as the node answers)", "N");
    options.optopt("", "warmup", "send requests for this long before measuring (default 500ms)", "TIME");
    options.optopt("", "size", "bytes of a value (default 64)", "N");
    options.optopt("", "keys", "different keys (default 1000)", "N");
    options.optopt("", "replication", "nodes to hold each value (default 1: only the node asked)", "N");
    options.optflag("", "certified", "each key is the hash of its value");
    options.optopt("", "seed", "seed of everything random", "N");
    options.optopt("", "pid", "the node's process: also print its CPU time per request", "PID");
    options.optflag("", "json", "print JSON to stdout");
    options
}

fn request(matches: &Matches) -> Result<(&'static str, Request), Stop> {
    let op = matches.opt_str("op").unwrap_or("ping".into());
    let Some(&(name, mix)) = OPS.iter().find(|(name, _)| *name == op) else {
        let names: Vec<&str> = OPS.iter().map(|(name, _)| *name).collect();
        return Err(Stop::usage(format_args!("--op takes one of {}, not '{op}'", names.join(", "))));
    };
    let request = Request {
        mix,
        keys: number(matches, "keys", 1_000, 1, 1_000_000)?,
        size: number(matches, "size", 64, 0, VALUE_MAX)?,
        replication: number(matches, "replication", 1, 1, REPLICATION_MAX)? as u8,
        certified: matches.opt_present("certified"),
        seed: number(matches, "seed", seed(), 0, u64::MAX)?,
    };
    Ok((name, request))
}

fn plan(matches: &Matches) -> Result<Plan, Stop> {
    let nodes = match matches.opt_strs("node") {
        none if none.is_empty() => vec![default_node()],
        nodes => nodes,
    };
    let nodes = nodes.iter().map(|node| resolve(node)).collect::<Result<Vec<_>, _>>()?;
    let until = if matches.opt_present("seconds") {
        if matches.opt_present("requests") {
            return Err(Stop::usage("--requests and --seconds can't be combined"));
        }
        Until::Elapsed(Duration::from_secs_f64(number(matches, "seconds", 5.0, 0.01, 86_400.0)?))
    } else {
        Until::Answers(number(matches, "requests", 100_000, 1, 1_000_000_000_000)?)
    };
    let rate = match matches.opt_present("rate") {
        true => Some(number(matches, "rate", 1_000.0, 0.1, 1e9)?),
        false => None,
    };
    let warmup_ms = matches
        .opt_str("warmup")
        .map_or(Ok(500), |text| if text == "0" { Ok(0) } else { duration_ms("warmup", &text) })?;
    Ok(Plan {
        nodes,
        connections: number(matches, "connections", 50, 1, 60_000)?,
        pipeline: number(matches, "pipeline", 1, 1, 10_000)?,
        until,
        rate,
        warmup: Duration::from_millis(warmup_ms),
    })
}

fn pid(matches: &Matches) -> Result<Option<u32>, Stop> {
    if !matches.opt_present("pid") {
        return Ok(None);
    }
    let pid = number(matches, "pid", 0, 1, u32::MAX)?;
    cpu_time(pid).map_err(|e| Stop::usage(format_args!("--pid: can't read the CPU time of process {pid}: {e}")))?;
    Ok(Some(pid))
}

fn failed(plan: &Plan, e: &std::io::Error) -> Stop {
    use std::io::ErrorKind;
    let nodes: Vec<String> = plan.nodes.iter().take(3).map(ToString::to_string).collect();
    let line = format!("asking {}: {e}", nodes.join(", "));
    let code = match e.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => exit::UNAVAILABLE,
        ErrorKind::TimedOut => exit::TRY_AGAIN,
        _ => exit::SYSTEM,
    };
    Stop::new(code, line)
}

fn tell_progress(moment: Moment, tally: &Tally) {
    let mut stderr = std::io::stderr();
    if !stderr.is_terminal() {
        return;
    }
    // Progress is for the eye; where it can't be written nobody looks.
    let _ = match moment {
        Moment::Connected => write!(stderr, "\rconnected, warming up"),
        Moment::Began | Moment::Measuring => write!(
            stderr,
            "\r\x1b[K{:.1} s  {} answers  {:.0}/s  p99 {:.0} us  failures {}",
            tally.seconds,
            tally.answers(),
            tally.per_second(),
            tally.micros_at(99.0),
            tally.failures()
        ),
        Moment::Ended => write!(stderr, "\r\x1b[K"),
    };
}

/// What went wrong, by kind.
fn faults(tally: &Tally) -> String {
    let refused = tally.refused.iter().map(|(code, n)| (error_name(*code), *n));
    let kinds = [
        ("missing".to_string(), tally.missing),
        ("wrong".into(), tally.wrong),
        ("broken connection".into(), tally.broken),
        ("before measuring began".into(), tally.failures_before),
    ];
    let some = kinds.into_iter().chain(refused).filter(|(_, n)| *n > 0);
    some.map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
}

fn error_name(code: u32) -> String {
    ErrorCode::from_code(code).map_or(format!("error {code}"), |code| code.text().to_string())
}

fn table(name: &str, plan: &Plan, request: &Request, tally: &Tally, cpu_us: Option<f64>) -> String {
    let pace = plan.rate.map_or("as fast as answered".to_string(), |rate| format!("{rate} due per second"));
    let mut text = format!(
        "{name}: {} connections, {} in flight on each, {pace}; values of {} bytes, {} keys\n\n{:>12} {:>10}",
        plan.connections, plan.pipeline, request.size, request.keys, "requests/s", "MB/s"
    );
    PERCENTILES.iter().for_each(|(name, _)| text += &format!(" {:>9}", format!("{name} us")));
    text += &cpu_us.map_or(String::new(), |_| format!(" {:>9}", "CPU us"));
    let mb_per_s = tally.bytes as f64 / 1e6 / tally.seconds.max(1e-9);
    text += &format!("\n{:>12.0} {mb_per_s:>10.1}", tally.per_second());
    PERCENTILES.iter().for_each(|(_, p)| text += &format!(" {:>9.1}", tally.micros_at(*p)));
    text += &cpu_us.map_or(String::new(), |us| format!(" {us:>9.2}"));
    text += &format!("\n\n{} answers in {:.2} s, {} failures\n", tally.answers(), tally.seconds, tally.failures());
    text
}

fn json(name: &str, plan: &Plan, request: &Request, tally: &Tally, cpu_us: Option<f64>) -> String {
    let refused = tally
        .refused
        .iter()
        .map(|(code, n)| Object::default().raw("code", &code.to_string()).raw("count", &n.to_string()).finish());
    let mut object = Object::default()
        .text("op", name)
        .raw("connections", &plan.connections.to_string())
        .raw("pipeline", &plan.pipeline.to_string())
        .raw("rate", &plan.rate.map_or("null".into(), |rate| rate.to_string()))
        .raw("size", &request.size.to_string())
        .raw("keys", &request.keys.to_string())
        .raw("seed", &request.seed.to_string())
        .raw("seconds", &format!("{:.3}", tally.seconds))
        .raw("answers", &tally.answers().to_string())
        .raw("requests_per_s", &format!("{:.1}", tally.per_second()))
        .raw("bytes_per_s", &format!("{:.0}", tally.bytes as f64 / tally.seconds.max(1e-9)));
    for (name, percent) in PERCENTILES {
        object = object.raw(&format!("{}_us", name.replace('.', "_")), &format!("{:.1}", tally.micros_at(percent)));
    }
    object = object
        .raw("cpu_us", &cpu_us.map_or("null".into(), |us| format!("{us:.3}")))
        .raw("failures", &tally.failures().to_string())
        .raw("missing", &tally.missing.to_string())
        .raw("wrong", &tally.wrong.to_string())
        .raw("broken", &tally.broken.to_string())
        .raw("refused", &array(refused));
    format!("{}\n", object.finish())
}
