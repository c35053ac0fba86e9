//! `lookups`: hyperdht lookups per second and memory per node, dayfly's and the npm peer's side by side: each one's
//! client against a network of 50 nodes of each, driven by this program. Dialects run on core 0, in one process each,
//! clients on core 1.
//!
//! Usage: lookups [--rounds N] [--seconds S] [--out FOLDER]     (5, 3, tests/figures/bench)
//! Build dayfly first; DAYFLY names another binary than target/release/dayfly. The npm peer is tests/hyperdht's.

#[path = "../../../common/npm.rs"]
mod npm;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dayfly::dialect::Dialect;
use dayfly::dialect::hyperdht::identity::Identity;
use dayfly::dialect::hyperdht::node::Node;
use dayfly::dialect::hyperdht::operation::{Advertisement, Event, Operation};
use dayfly::dialect::hyperdht::service::Service;
use dayfly::dialect::hyperdht::settings::Settings;
use dayfly::engine::{Engine, EngineSettings};
use dayfly::id::Id;
use dayfly::net::Net;
use dayfly::net::clock::Clock;
use dayfly::net::socket::{secret, seed};
use npm::{Npm, Options};
use rustix::thread::{CpuSet, sched_setaffinity};

const NODES: usize = 50;
/// Lookups in flight.
const PARALLEL: [usize; 2] = [1, 16];
const KEYS: u8 = 20;

fn option(name: &str, default: &str) -> String {
    let words: Vec<String> = std::env::args().collect();
    let at = words.iter().position(|word| word == name);
    at.and_then(|at| words.get(at + 1).cloned()).unwrap_or(default.into())
}

/// This process, and those it starts from now on, run on this core where there is more than one.
fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // A machine of one core, or one that forbids it, measures worse and not wrong.
    let _ = sched_setaffinity(None, &set);
}

fn resident_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0.0)
}

/// A dayfly process with some hyperdht listeners.
struct Dayfly {
    child: Child,
    addrs: Vec<SocketAddr>,
}

impl Drop for Dayfly {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dayfly {
    /// A process with this many nodes, all joined through the first.
    fn start(listeners: usize) -> io::Result<Dayfly> {
        // A port that was free a moment ago, so that the others can be told of it.
        let first = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = Command::new(std::env::var("DAYFLY").unwrap_or("target/release/dayfly".into()));
        command.args(["--listen", "none", "--hyperdht", &first, "--hyperdht-bootstrap", &first]);
        (1..listeners).for_each(|_| {
            command.args(["--hyperdht", "127.0.0.1:0"]);
        });
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        let lines = BufReader::new(stdout).lines().take(listeners).collect::<io::Result<Vec<String>>>()?;
        let address = |line: &String| line.split_whitespace().find_map(|word| word.parse().ok());
        let addrs: Option<Vec<SocketAddr>> = lines.iter().map(address).collect();
        let addrs = addrs.ok_or_else(|| io::Error::other(format!("a node said {lines:?}")))?;
        Ok(Dayfly { child, addrs })
    }
}

/// A client of dayfly's: one node that nobody lists, in this process.
struct Client {
    net: Net,
}

impl Client {
    fn join(known: SocketAddr) -> io::Result<Client> {
        let mut net = Net::new(Engine::new(EngineSettings::default(), seed()), Clock::start())?;
        let addr = net.add_datagram_listener(([127, 0, 0, 1], 0).into())?;
        let identity = Identity { id: Id(secret()?), addr, is_ephemeral: true };
        let node = Node::new(identity, Settings::default(), [secret()?, secret()?], seed(), net.now());
        net.service_mut::<Service>().add(node);
        net.add_bootstrap(Dialect::Hyperdht, &known.to_string());
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            let until = net.now().after(50);
            net.turn(Some(until))?;
        }
        Ok(Client { net })
    }

    fn announce(&mut self, key: Id, port: u16) -> io::Result<()> {
        let own = Advertisement { port, local: None };
        self.net
            .operation::<Service, _>(Some(0), Operation::Announce(key, own), 10_000, |event| {
                matches!(event, Event::Done(_)).then_some(())
            })
            .map(|_| ())
    }

    /// Lookups per second, and how many found something.
    fn lookups(&mut self, keys: &[Id], parallel: usize, seconds: f64) -> io::Result<(f64, f64)> {
        let began = Instant::now();
        let (mut begun, mut done, mut found, mut in_flight) = (0, 0, 0, Vec::new());
        while began.elapsed().as_secs_f64() < seconds {
            while in_flight.len() < parallel {
                let operation = Operation::Lookup(keys[begun % keys.len()], Advertisement::default());
                let call = self
                    .net
                    .start::<Service>(Some(0), operation)
                    .ok_or_else(|| io::Error::other("too many operations"))?;
                in_flight.push((call, false));
                begun += 1;
            }
            in_flight.retain_mut(|(call, is_found)| {
                while let Some(event) = self.net.next_event::<Service>(*call) {
                    match event {
                        Event::Answer(answer) => *is_found |= !answer.peers.is_empty(),
                        Event::Done(_) => {
                            done += 1;
                            found += usize::from(*is_found);
                            return false;
                        }
                    }
                }
                true
            });
            if in_flight.len() == parallel {
                let until = self.net.now().after(100);
                self.net.turn(Some(until))?;
            }
        }
        in_flight.iter().for_each(|(call, _)| self.net.cancel::<Service>(*call));
        Ok((done as f64 / began.elapsed().as_secs_f64(), found as f64 / done.max(1) as f64))
    }
}

type Figures = BTreeMap<String, Vec<f64>>;

/// Both clients against the network that `known` is part of.
fn measure(network: &str, known: SocketAddr, npm: &Npm, seconds: f64, figures: &mut Figures) -> io::Result<()> {
    let keys: Vec<Id> = (0..KEYS).map(|n| Id([n.wrapping_mul(13); 32])).collect();
    let mut client = Client::join(known)?;
    for (key, port) in keys.iter().zip(5_000..) {
        client.announce(*key, port)?;
    }
    let name = format!("client of {network} {}", figures.len());
    npm.node(&name, &Options { bootstrap: vec![known], ephemeral: true, ..Options::default() });
    npm.bench(&name, 200, 1, &keys);
    for parallel in PARALLEL {
        let (per_s, found) = client.lookups(&keys, parallel, seconds)?;
        let mut add =
            |what: &str, value| figures.entry(format!("{what} {network} {parallel}")).or_default().push(value);
        add("dayfly", per_s);
        add("dayfly found", found);
        let count = (seconds * 400.0) as u64;
        let bench = npm.bench(&name, count, parallel as u64, &keys);
        add("npm", bench.lookups as f64 / bench.seconds);
        add("npm found", bench.found as f64 / bench.lookups as f64);
    }
    npm.stop(&name);
    Ok(())
}

fn round(seconds: f64, figures: &mut Figures) -> io::Result<()> {
    stay_on(1);
    let clients = Npm::start().ok_or_else(|| io::Error::other("the npm peer is not there"))?;
    stay_on(0);
    let (alone, network) = (Dayfly::start(1)?, Dayfly::start(NODES)?);
    stay_on(1);
    measure("dayfly", network.addrs[0], &clients, seconds, figures)?;
    let mut add = |what: &str, value: f64| figures.entry(what.to_string()).or_default().push(value);
    add("dayfly KiB alone", resident_kib(alone.child.id()));
    add("dayfly KiB of 50", resident_kib(network.child.id()) / NODES as f64);
    drop((alone, network));

    stay_on(0);
    let network = Npm::start().ok_or_else(|| io::Error::other("the npm peer is not there"))?;
    stay_on(1);
    let first = network.node("n0", &Options::default());
    let one = resident_kib(network.pid());
    let known = vec![first.addr];
    for n in 1..NODES {
        network.node(&format!("n{n}"), &Options { bootstrap: known.clone(), ..Options::default() });
    }
    add("npm KiB alone", one);
    measure("npm", known[0], &clients, seconds, figures)?;
    let mut add = |what: &str, value: f64| figures.entry(what.to_string()).or_default().push(value);
    add("npm KiB of 50", resident_kib(network.pid()) / NODES as f64);
    Ok(())
}

/// `median (lowest-highest)`.
fn spread(values: &[f64], digits: usize) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(low), Some(median), Some(high)) => format!("{median:.digits$} ({low:.digits$}-{high:.digits$})"),
        _ => "-".into(),
    }
}

fn main() -> io::Result<()> {
    let rounds: usize = option("--rounds", "5").parse().map_err(io::Error::other)?;
    let seconds: f64 = option("--seconds", "3").parse().map_err(io::Error::other)?;
    let out = option("--out", "tests/figures/bench");
    let mut figures = Figures::new();
    for n in 1..=rounds {
        round(seconds, &mut figures)?;
        eprintln!("round {n} of {rounds} done");
    }
    let get = |what: &str| figures.get(what).cloned().unwrap_or_default();
    let ratio = |a: &str, b: &str| -> Vec<f64> { get(a).iter().zip(get(b)).map(|(a, b)| a / b).collect() };
    let mut text = String::from(
        "# hyperdht: dayfly beside the npm peer\n\nWritten by `make bench-hyperdht`: networks of 50 nodes on this machine's loopback (each in one process) on core 0, one client on core 1, hyperdht 1.3.0 on node.js; rounds by turns, medians (lowest-highest). Each lookup asks\n\
         the 20 nodes nearest to one of 20 keys that somebody has announced.\n\n\
         | network of | lookups in flight | dayfly's client, lookups/s | npm's client, lookups/s | ratio | found, dayfly's and npm's |\n|---|---|---|---|---|---|\n",
    );
    for network in ["dayfly", "npm"] {
        for parallel in PARALLEL {
            let (ours, theirs) = (format!("dayfly {network} {parallel}"), format!("npm {network} {parallel}"));
            let found = |who: &str| spread(&get(&format!("{who} found {network} {parallel}")), 2);
            let _ = writeln!(
                text,
                "| {network} | {parallel} | {} | {} | {} | {}, {} |",
                spread(&get(&ours), 0),
                spread(&get(&theirs), 0),
                spread(&ratio(&ours, &theirs), 1),
                found("dayfly"),
                found("npm"),
            );
        }
    }
    text += "\n| each in its own network, lookups in flight | dayfly, lookups/s | npm, lookups/s | ratio |\n|---|---|---|---|\n";
    for parallel in PARALLEL {
        let (ours, theirs) = (format!("dayfly dayfly {parallel}"), format!("npm npm {parallel}"));
        let (own, other) = (spread(&get(&ours), 0), spread(&get(&theirs), 0));
        let _ = writeln!(text, "| {parallel} | {own} | {other} | {} |", spread(&ratio(&ours, &theirs), 1));
    }
    text += "\n| memory | dayfly, KiB | npm, KiB | npm over dayfly |\n|---|---|---|---|\n";
    for (what, name) in [("alone", "of a node alone in its process"), ("of 50", "per node of 50 in one process")] {
        let (ours, theirs) = (format!("dayfly KiB {what}"), format!("npm KiB {what}"));
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} |",
            spread(&get(&ours), 1),
            spread(&get(&theirs), 1),
            spread(&ratio(&theirs, &ours), 1)
        );
    }
    print!("{text}");
    std::fs::create_dir_all(&out)?;
    std::fs::write(format!("{out}/hyperdht.md"), text)
}
