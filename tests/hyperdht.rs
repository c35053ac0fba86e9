//! The hyperdht commands and a network of dayfly's own nodes, as processes; the real peer is in hyperdht_npm.rs. And
//! small simulated networks of them, in all weathers.
#![cfg(feature = "sim")]

mod common;

use std::net::SocketAddr;
use std::process::Output;

use common::process::Process;
use common::{dayfly, eventually};
use dayfly::sim::delay::Delays;
use dayfly::sim::packets::Air;
use dayfly::sim::peers::{Options, Report, run};

/// A network of processes with a listener each.
struct Listeners {
    processes: Vec<Process>,
    addrs: Vec<SocketAddr>,
}

impl Listeners {
    fn network(n: usize) -> Listeners {
        let mut listeners = Listeners { processes: Vec::new(), addrs: Vec::new() };
        for _ in 0..n {
            let mut args = vec!["--listen".to_string(), "none".into(), "--hyperdht".into(), "127.0.0.1:0".into()];
            args.extend(listeners.addrs.first().iter().flat_map(|a| ["--hyperdht-bootstrap".into(), a.to_string()]));
            let process = Process::start(&args);
            listeners.addrs.push(process.listener().0);
            listeners.processes.push(process);
        }
        eventually("all have joined", || listeners.known_to(0) == n - 1);
        listeners
    }

    /// How many others the n-th listener lists.
    fn known_to(&self, n: usize) -> usize {
        text(&dayfly(&["find-node", "--dialect", "hyperdht", "--node", &self.node(n), "x"])).lines().count()
    }

    fn node(&self, n: usize) -> String {
        self.addrs[n].to_string()
    }
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn lookup(listeners: &Listeners, n: usize, key: &str) -> Output {
    dayfly(&["lookup", "--dialect", "hyperdht", "--node", &listeners.node(n), key])
}

#[test]
fn an_announcement_is_repeated_until_a_signal_takes_it_back() {
    let listeners = Listeners::network(8);
    let node = listeners.node(2);
    let mut announcer = Process::start(&[
        "announce",
        "--dialect",
        "hyperdht",
        "--node",
        &node,
        "--port",
        "4001",
        "--every",
        "200ms",
        "thing",
    ]);
    for _ in 0..3 {
        let line = announcer.line();
        assert!(line.starts_with("announced ") && line.ends_with(" nodes=8 address=127.0.0.1:4001"), "{line}");
    }
    for n in 0..8 {
        assert_eq!(text(&lookup(&listeners, n, "thing")), "peer 127.0.0.1:4001\n");
    }
    announcer.signal("INT");
    assert_eq!(announcer.wait(), Some(0));
    let last = announcer.rest().pop().unwrap();
    assert!(last.starts_with("unannounced ") && last.ends_with(" nodes=8"), "{last}");
    let missing = lookup(&listeners, 5, "thing");
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(1), 0));
}

#[test]
fn two_ports_are_two_records_and_each_is_taken_back_by_its_port() {
    let listeners = Listeners::network(4);
    for port in ["5001", "5002"] {
        let node = listeners.node(1);
        let local = format!("192.168.7.9:{port}");
        text(&dayfly(&["announce", "--node", &node, "--port", port, "--local", &local, "--once", "pair"]));
    }
    assert_eq!(text(&lookup(&listeners, 3, "pair")), "peer 127.0.0.1:5001\npeer 127.0.0.1:5002\n");
    text(&dayfly(&["unannounce", "--node", &listeners.node(2), "--port", "5001", "pair"]));
    let near = dayfly(&["lookup", "--node", &listeners.node(3), "--local", "192.168.1.1", "pair"]);
    assert_eq!(text(&near), "peer 127.0.0.1:5002\nlocal 192.168.7.9:5002\n");
    let far = dayfly(&["lookup", "--node", &listeners.node(3), "--local", "10.1.1.1", "--json", "pair"]);
    let far: serde_json::Value = serde_json::from_slice(&far.stdout).unwrap();
    assert_eq!((far["found"].as_bool(), far["local_peers"].as_array().unwrap().len()), (Some(true), 0));
    assert_eq!((far["answered"].as_u64(), far["nodes"].as_array().unwrap().len()), (Some(4), 4));
}

#[test]
fn a_user_s_command_and_a_hole_punch_reach_who_they_are_for() {
    let listeners = Listeners::network(3);
    let answers = text(&dayfly(&["query", "--node", &listeners.node(0), "hello", "thing", "hi"]));
    assert_eq!(answers.lines().filter(|line| line.ends_with(" value=-")).count(), 3, "{answers}");
    let updates = text(&dayfly(&["query", "--update", "--node", &listeners.node(0), "hello", "thing", "hi"]));
    assert_eq!(updates.lines().count(), 3);
    let pong = text(&dayfly(&["punch", "--referrer", &listeners.node(0), &listeners.node(1)]));
    assert!(pong.starts_with(&format!("pong {} id=", listeners.node(1))), "{pong}");
}

#[test]
fn commands_say_when_nobody_is_there() {
    // A listener that is bound and never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let node = silent.local_addr().unwrap().to_string();
    for (args, code) in [
        (vec!["lookup", "--node", &node, "thing"], 69),
        (vec!["announce", "--node", &node, "thing"], 69),
        (vec!["lookup", "--node", &node, "--timeout", "300ms", "thing"], 75),
        (vec!["ping", "--dialect", "hyperdht", &node], 75),
        (vec!["lookup", "--node", "nowhere.invalid", "thing"], 68),
        (vec!["lookup", "--node", "nowhere.invalid", "--node", "neither.invalid", "thing"], 68),
    ] {
        let output = dayfly(&args);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
        assert!(line.starts_with("dayfly: ") && line.lines().count() == 1, "{args:?}: {line}");
    }
}

#[test]
fn a_sealed_and_a_hyperdht_listener_share_a_process_and_nothing_else() {
    let id = "ab".repeat(32);
    let process = Process::start(&["--listen", "127.0.0.1:0", "--hyperdht", "127.0.0.1:0", "--hyperdht-id", &id]);
    let lines = [process.line(), process.line()];
    let address = |line: &str| line.split(' ').nth(3).unwrap().to_string();
    let (sealed, hyperdht) = (address(&lines[0]), address(&lines[1]));
    assert!(lines[1].ends_with(&format!(" id={}", "ab".repeat(32))));
    text(&dayfly(&["put", "--node", &sealed, "thing", "value"]));
    assert_eq!(text(&dayfly(&["get", "--node", &sealed, "thing"])), "value");
    assert!(text(&dayfly(&["ping", "--dialect", "hyperdht", &hyperdht])).contains(&"ab".repeat(32)));
    assert!(dayfly(&["lookup", "--node", &hyperdht, "thing"]).status.code() != Some(0));
    let status = text(&dayfly(&["status", "--node", &hyperdht]));
    assert!(status.lines().any(|line| line == format!("hyperdht.0.address {hyperdht}")), "{status}");
}

#[test]
fn the_command_line_of_a_listener_is_checked() {
    let check = |args: &[&str]| dayfly(&[&["--check"], args].concat());
    let text = text(&check(&["--listen", "none", "--hyperdht", "127.0.0.1", "--hyperdht-bootstrap", "[::1]", "--lan"]));
    for line in ["hyperdht = 127.0.0.1:49737", "hyperdht-bootstrap = [::1]:49737", "ephemeral = false", "lan = true"] {
        assert!(text.lines().any(|said| said == line), "{line}: {text}");
    }
    assert!(!text.contains("listen = "), "{text}");
    for (args, says) in [
        (&["--listen", "none"][..], "no listener"),
        (&["--listen", "none", "--api", "127.0.0.1:0", "--hyperdht", "127.0.0.1:0"], "--api"),
        (&["--hyperdht", "0.0.0.0:0"], "--advertise"),
        (&["--hyperdht", "127.0.0.1:45671", "--hyperdht", "127.0.0.1:45671"], "twice"),
        (&["--ephemeral"], "--ephemeral"),
        (&["--hyperdht-bootstrap", "127.0.0.1:1"], "--hyperdht-bootstrap"),
    ] {
        let output = check(args);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {line}");
        assert!(line.contains(says) && line.lines().count() == 1, "{args:?}: {line}");
    }
    for command in ["lookup", "announce", "unannounce", "query", "punch"] {
        let help = dayfly(&[command, "--help"]);
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("Example") && help.contains("Exit codes"), "{command}");
        assert!(help.lines().all(|line| line.len() <= 120), "{command} fits a terminal");
    }
}

/// docs/faults.md, row 23.
#[test]
fn a_node_that_stood_still_keeps_its_contacts_and_goes_on() {
    let listeners = Listeners::network(6);
    eventually("it knows all", || listeners.known_to(3) == 5);
    listeners.processes[3].signal("STOP");
    // Longer than any request of its may take; its refreshes were under way.
    std::thread::sleep(std::time::Duration::from_secs(5));
    listeners.processes[3].signal("CONT");
    for _ in 0..10 {
        assert_eq!(listeners.known_to(3), 5, "the gap drops nobody");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    text(&dayfly(&["announce", "--node", &listeners.node(3), "--port", "5003", "--once", "thing"]));
    assert_eq!(text(&lookup(&listeners, 0, "thing")), "peer 127.0.0.1:5003\n");
}

#[test]
fn a_node_forgets_who_is_gone() {
    let mut listeners = Listeners::network(5);
    listeners.processes[4].signal("KILL");
    listeners.processes[4].wait();
    // Whoever asks for its neighbours again, 1, 5 and 21 s after it joined, asks the dead one in vain, and forgets it the
    // second time.
    let begin = std::time::Instant::now();
    while listeners.known_to(3) != 3 {
        assert!(begin.elapsed().as_secs() < 90, "the dead one is still listed");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn weather(lost: f64, doubled: f64, held_up_ms: u64) -> Air {
    Air { delays: Delays::WideArea, lost, doubled, held_up_ms }
}

fn simulate(nodes: usize, air: Air, behind_nat: f64, dead: f64, seed: u64) -> Report {
    run(&Options { nodes, lookups: 40, seed, air, behind_nat, dead }, &mut |_| {})
}

#[test]
fn in_fair_weather_all_is_found_where_it_belongs_and_gone_when_taken_back() {
    let report = simulate(250, weather(0.0, 0.0, 0), 0.0, 0.0, 1);
    assert_eq!((report.announced, report.found, report.left_over), (40, 40, 0));
    assert!(report.placed > 19.8, "{}", report.placed);
}

#[test]
fn loss_duplicates_and_overtaking_hide_nothing() {
    let report = simulate(250, weather(0.1, 0.1, 200), 0.0, 0.0, 2);
    assert_eq!((report.announced, report.found), (40, 40));
    assert!(report.placed > 18.5, "{}", report.placed);
}

#[test]
fn nats_and_the_dead_hide_nothing_and_no_lookup_takes_four_seconds() {
    let report = simulate(250, weather(0.0, 0.0, 0), 0.4, 0.2, 3);
    assert_eq!((report.announced, report.found), (40, 40));
    assert!(report.done_ms.quantile(0.9) < 4_000, "{} ms", report.done_ms.quantile(0.9));
    assert!(report.done_ms.quantile(1.0) < 6_000, "{} ms", report.done_ms.quantile(1.0));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| simulate(60, weather(0.05, 0.05, 30), 0.3, 0.1, seed).trace;
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}
