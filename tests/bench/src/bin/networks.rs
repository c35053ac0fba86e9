//! `networks`: dayfly's network of processes and other people's DHTs by turns, several rounds; a table of medians with
//! their spread. The drivers are `network` beside this program and those that tests/peers/run builds and runs.
//!
//! Usage: networks [--rounds N] [--slow-rounds N] [--out FOLDER]
//!   --rounds N        of dayfly, libtorrent and OpenDHT (5)
//!   --slow-rounds N   of the others (1), which take long and are far away

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Those worth many rounds.
const NEAR: [&str; 2] = ["libtorrent", "opendht"];
const FAR: [&str; 4] = ["mainline", "hyperdht", "libp2p_kad", "kademlia"];

fn option(name: &str, default: &str) -> String {
    let words: Vec<String> = std::env::args().collect();
    let at = words.iter().position(|word| word == name);
    at.and_then(|at| words.get(at + 1).cloned()).unwrap_or(default.into())
}

/// The last line that a driver prints, as JSON.
fn drive(command: &mut Command) -> io::Result<Option<Value>> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().last().and_then(|line| serde_json::from_str(line).ok()))
}

/// `median (lowest-highest)` of a figure over the rounds.
fn spread(rounds: &[Value], pointer: &str, digits: usize) -> String {
    let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.pointer(pointer)?.as_f64()).collect();
    values.sort_by(f64::total_cmp);
    match (values.first(), values.get(values.len() / 2), values.last()) {
        (Some(low), Some(median), Some(high)) => format!("{median:.digits$} ({low:.digits$}-{high:.digits$})"),
        _ => "-".into(),
    }
}

fn sum(rounds: &[Value], pointer: &str) -> u64 {
    rounds.iter().filter_map(|round| round.pointer(pointer)?.as_u64()).sum()
}

fn row(peer: &str, rounds: &[Value]) -> String {
    if let Some(why) = rounds.iter().find_map(|round| round["missing_why"].as_str()) {
        return format!("| {peer} | not measured: {why} | | | | | | |\n");
    }
    let found = sum(rounds, "/found");
    format!(
        "| {peer} | {} | {} | {} | {} | {} of {} | {} | {} |\n",
        spread(rounds, "/put_ms/p50", 3),
        spread(rounds, "/get_ms/p50", 3),
        spread(rounds, "/get_ms/p99", 3),
        spread(rounds, "/gets_per_s", 0),
        found,
        found + sum(rounds, "/missing"),
        spread(rounds, "/startup_s", 2),
        spread(rounds, "/kb_per_node", 0),
    )
}

fn main() -> io::Result<()> {
    let rounds: usize = option("--rounds", "5").parse().map_err(io::Error::other)?;
    let slow: usize = option("--slow-rounds", "1").parse().map_err(io::Error::other)?;
    let out = option("--out", "tests/figures/bench");
    let own = std::env::current_exe()?.with_file_name("network");
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for round in 0..rounds.max(slow) {
        let near = NEAR.into_iter().filter(|_| round < rounds);
        let far = FAR.into_iter().filter(|_| round < slow);
        let mut add = |name: &str, line: Option<Value>| {
            eprintln!("round {}: {name}: {}", round + 1, line.as_ref().map_or("no result".into(), Value::to_string));
            found.entry(name.to_string()).or_default().extend(line);
        };
        if round < rounds {
            add("dayfly", drive(&mut Command::new(&own))?);
        }
        for peer in near.chain(far) {
            add(peer, drive(Command::new("tests/peers/run").arg(peer))?);
        }
    }
    let mut text = String::from(
        "# dayfly beside other DHTs\n\nWritten by `make bench-network`: 50 nodes on this machine's loopback, rounds by turns; medians (lowest-highest). Puts and\n\
         gets of fresh 64-byte values through random nodes, one at a time; then gets with 32 in flight. dayfly is a process per\n\
         node, the others are all in one process. What a put waits for differs: dayfly has 3 copies on the closest of those it\n\
         asked, libtorrent and OpenDHT 8, the others 20.\n\n\
         | DHT | put ms, median | get ms, median | get ms, 99 % | gets/s, 32 in flight | found | start, s | KB per node |\n|---|---|---|---|---|---|---|---|\n",
    );
    for peer in ["dayfly"].into_iter().chain(NEAR).chain(FAR) {
        text += &row(peer, found.get(peer).map_or(&[], Vec::as_slice));
    }
    text.push('\n');
    for rounds in found.values() {
        if let (Some(peer), Some(note)) = (rounds[0]["peer"].as_str(), rounds[0]["note"].as_str()) {
            let _ = writeln!(text, "* {peer}: {note}.");
        }
    }
    print!("{text}");
    std::fs::create_dir_all(&out)?;
    std::fs::write(format!("{out}/networks.md"), text)?;
    let all: Value = found.into_iter().map(|(name, rounds)| (name, Value::from(rounds))).collect();
    std::fs::write(format!("{out}/networks.json"), format!("{all}\n"))
}
