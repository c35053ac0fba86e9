//! The command line as people and scripts meet it: exit codes, one clear line for each mistake, data on stdout.

mod common;

use std::fs;
use std::process::{Command, Output};

use common::{Node, dayfly, dayfly_with_stdin, eventually};
use dayfly::dialect::sealed::key_of;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The command ends with `code`, says one line that contains `says`, and prints no data.
fn fails(args: &[&str], code: i32, says: &str) {
    let output = dayfly(args);
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
    assert!(line.starts_with("dayfly: ") && line.contains(says), "{args:?}: {line}");
    assert_eq!(stdout(&output), "", "{args:?}");
}

#[test]
fn each_mistake_has_its_line_and_code() {
    for (args, says) in [
        (&["frobnicate"][..], "unknown command 'frobnicate'"),
        (&["--frobnicate"], "frobnicate"),
        (&["--listen", "here"], "--listen takes IP:PORT"),
        (&["--listen"], "listen"),
        (&["--api", "127.0.0.1"], "--api takes IP:PORT"),
        (&["--k", "21"], "--k takes a number from 1 to 20, not '21'"),
        (&["--alpha", "many"], "--alpha takes a number"),
        (&["--replication", "0"], "--replication takes a number from 1 to 20"),
        (&["--store-bytes", "-1"], "--store-bytes takes a number"),
        (&["--max-connections", "0"], "--max-connections takes"),
        (&["--bootstrap", "nowhere"], "'nowhere' is not a bootstrap address (HOST:PORT)"),
        (&["--bootstrap", "1.2.3.4:0"], "is not a bootstrap address"),
        (&["--advertise", "0.0.0.0"], "--advertise takes a reachable IP"),
        (&["--listen", "0.0.0.0:0"], "needs --advertise"),
        (&["--listen", "127.0.0.1:0", "--advertise", "10.0.0.1:9"], "is not the listening port"),
        (&["--check", "--listen", "127.0.0.1:9", "--api", "127.0.0.1:9"], "127.0.0.1:9 is given twice"),
        (&["--check", "--listen", "0.0.0.0:9"], "needs --advertise"),
        (&["node", "word"], "unexpected argument 'word'"),
        (&["put", "key"], "expected KEY VALUE, got 1 argument"),
        (&["put", "--ttl", "0", "key", "value"], "--ttl takes a number from 1 to 65535"),
        (&["get"], "expected KEY, got 0 arguments"),
        (&["get", "--timeout", "soon", "key"], "--timeout takes a time like 5 or 500ms"),
        (&["ping", "nohost"], "'nohost' is not HOST:PORT"),
        (&["status", "word"], "unexpected argument 'word'"),
    ] {
        fails(args, 64, says);
    }
    fails(&["ping", "no-such-host.invalid:6500"], 68, "can't resolve no-such-host.invalid:6500");
    fails(&["--config", "/no/such/file"], 78, "can't read /no/such/file");
}

#[test]
fn a_node_that_is_not_there_is_unavailable() {
    let addr = Node::start(&[]).addr.to_string();
    fails(&["ping", &addr], 69, &addr);
    fails(&["get", "--node", &addr, "key"], 69, "no dayfly node answers");
    fails(&["status", "--node", &addr], 69, "no dayfly node on this host");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    fails(&["ping", "--timeout", "200ms", &addr], 75, "no answer");
}

#[test]
fn an_address_in_use_can_not_be_created() {
    let node = Node::start(&[]);
    fails(&["--listen", &node.addr.to_string()], 73, "can't listen on");
    fails(&["--listen", "127.0.0.1:0", "--api", &node.addr.to_string()], 73, "can't listen on");
}

#[test]
fn values_go_in_and_come_out_raw() {
    let node = Node::start(&[]);
    let node = node.addr.to_string();
    let value = b"\x00raw \xff\n\n";
    let put = dayfly_with_stdin(&["put", "--node", &node, "--ttl", "9", "stdin", "-"], value);
    assert_eq!((put.status.code(), stdout(&put)), (Some(0), String::new()));
    assert_eq!(stderr(&put), format!("stored {}\n", key_of("stdin")));
    assert_eq!(dayfly(&["get", "--node", &node, "stdin"]).stdout, value);
    assert_eq!(dayfly(&["get", "--node", &node, &key_of("stdin").to_string()]).stdout, value, "a key in hex");
    assert_eq!(dayfly(&["find-value", "--node", &node, "stdin"]).stdout, value);
    assert!(dayfly(&["put", "--node", &node, "empty", ""]).status.success());
    let empty = dayfly(&["get", "--node", &node, "empty"]);
    assert_eq!((empty.status.code(), empty.stdout.len()), (Some(0), 0), "an empty value is a value");

    let missing = dayfly(&["get", "--node", &node, "nothing"]);
    assert_eq!((missing.status.code(), stdout(&missing)), (Some(1), String::new()));
    assert_eq!(dayfly(&["find-value", "--node", &node, "nothing"]).status.code(), Some(1));

    let large = vec![7; 65_463];
    assert!(dayfly_with_stdin(&["put", "--node", &node, "large", "-"], &large).status.success());
    assert!(dayfly(&["get", "--node", &node, "large"]).stdout == large);
    let too_large = dayfly_with_stdin(&["put", "--node", &node, "large", "-"], &[7; 65_464]);
    assert_eq!(too_large.status.code(), Some(64));
}

#[test]
fn json_is_one_object_a_line() {
    let first = Node::start(&[]);
    let second = Node::start(&["--bootstrap", &first.addr.to_string()]);
    eventually("they know each other", || first.counter("contacts") == 1);
    let node = first.addr.to_string();
    let json = |args: &[&str]| -> serde_json::Value {
        let text = stdout(&dayfly(&[args, &["--node", &node, "--json"]].concat()));
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let key = key_of("k").to_string();
    let stored = serde_json::json!({"key": key, "stored": true, "requested": 3, "copies": 3});
    assert_eq!(json(&["put", "k", "v"]), stored);
    let found = serde_json::json!({"key": key, "found": true, "bytes": 1, "value_hex": "76"});
    assert_eq!(json(&["get", "k"]), found);
    assert_eq!(json(&["get", "z"])["found"], false);
    let contacts = json(&["find-node", "k"])["contacts"].clone();
    assert_eq!(contacts[0]["address"], second.addr.to_string());
    assert_eq!(json(&["ping"])["address"], node);
    let status = json(&["status"]);
    assert_eq!((&status["contacts"], &status["node.0.address"]), (&1.into(), &node.clone().into()));
    assert_eq!(status["bad_checksums"], 0);
}

#[test]
fn refusals_of_the_node_are_told() {
    let node = Node::start(&["--max-value-bytes", "10", "--store-entries", "1"]);
    let node = node.addr.to_string();
    fails(&["put", "--node", &node, "k", "more than ten"], 69, "value too large for this node");
    assert!(dayfly(&["put", "--node", &node, "--replication", "1", "k", "v"]).status.success());
    fails(&["put", "--node", &node, "--replication", "1", "another", "v"], 75, "store full");
}

#[test]
fn help_and_version_go_to_stdout() {
    let version = dayfly(&["--version"]);
    assert_eq!(stdout(&version), format!("dayfly {}\n", env!("CARGO_PKG_VERSION")));
    for args in
        [&["--help"][..], &["help"], &["put", "--help"], &["get", "-h"], &["find-node", "--help"], &["status", "-h"]]
    {
        let help = dayfly(args);
        let text = stdout(&help);
        assert!(help.status.success() && text.contains("Example") && text.contains("Exit codes"), "{args:?}");
        assert!(text.lines().all(|line| line.len() <= 120), "{args:?} fits a terminal");
    }
    let help = stdout(&dayfly(&["--help"]));
    for flag in [
        "--listen",
        "--api",
        "--advertise",
        "--bootstrap",
        "-c",
        "-k",
        "--alpha",
        "--paths",
        "--replication",
        "--quorum",
        "--store-bytes",
        "--store-entries",
        "--max-value-bytes",
        "--max-connections",
        "--lan",
        "--check",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(help.matches("default").count() >= 12, "defaults are told");
}

#[test]
fn check_prints_what_would_be_done_and_flags_win_over_the_file() {
    let path = std::env::temp_dir().join(format!("dayfly-cli-{}.ini", std::process::id()));
    fs::write(&path, "hostkey = /x\n[dht]\napi_address = 127.0.0.1:7401\nlisten_address = 127.0.0.1:6511\nbootstrap = a.invalid:1, 127.0.0.1:2\n").unwrap();
    let file = path.to_str().unwrap();
    let check = stdout(&dayfly(&["-c", file, "--check", "--k", "8"]));
    for line in [
        "listen = 127.0.0.1:6511",
        "api = 127.0.0.1:7401",
        "bootstrap = a.invalid:1",
        "bootstrap = 127.0.0.1:2",
        "k = 8",
        "quorum = 1",
    ] {
        assert!(check.lines().any(|l| l == line), "{line} in {check}");
    }
    let check = stdout(&dayfly(&["-c", file, "--check", "--listen", "[::1]:9", "--bootstrap", "127.0.0.1:3"]));
    assert!(check.contains("listen = [::1]:9\n") && !check.contains("6511") && !check.contains("a.invalid"), "{check}");
    for wrong in ["[dht]\np2p_address = localhost:1\n", "[dht]\nbootstrap = foo\n", "p2p_address = 127.0.0.1:1\n"] {
        fs::write(&path, wrong).unwrap();
        fails(&["-c", file, "--check"], 78, "");
    }
    fs::write(&path, "[dht]\nnonsense\n").unwrap();
    fails(&["-c", file, "--check"], 78, "line 2: no '='");
    fs::remove_file(&path).unwrap();
}

/// Regression: those past the 64th were dropped without a word.
#[test]
fn more_bootstraps_than_are_kept_are_a_mistake() {
    let names: Vec<String> = (1..=65).map(|port| format!("127.0.0.1:{port}")).collect();
    let flags = |flag: &'static str, n: usize| names[..n].iter().flat_map(move |name| [flag, name]).collect::<Vec<_>>();
    let check = |args: Vec<&str>| dayfly(&[&["--check"], &args[..]].concat());
    let refuses = |args: Vec<&str>, code, says| fails(&[&["--check"], &args[..]].concat(), code, says);
    assert_eq!(stdout(&check(flags("--bootstrap", 64))).matches("bootstrap = ").count(), 64);
    refuses(flags("--bootstrap", 65), 64, "--bootstrap names 65 nodes to join through, and at most 64 are allowed");

    let path = std::env::temp_dir().join(format!("dayfly-bootstraps-{}.ini", std::process::id()));
    let file = path.to_str().unwrap();
    fs::write(&path, format!("[dht]\nbootstrap = {}\n", names.join(","))).unwrap();
    refuses(vec!["-c", file], 78, "the configuration names 65 nodes to join through, and at most 64 are allowed");
    let wins = check(vec!["-c", file, "--bootstrap", "127.0.0.1:1"]);
    assert_eq!(stdout(&wins).matches("bootstrap = ").count(), 1, "what is not used does no harm");
    fs::write(&path, format!("[dht]\nbootstrap = {}\n", names[..64].join(","))).unwrap();
    assert_eq!(stdout(&check(vec!["-c", file])).matches("bootstrap = ").count(), 64);
    fs::remove_file(&path).unwrap();

    if cfg!(feature = "hyperdht") {
        let with = |n| [vec!["--hyperdht", "127.0.0.1:9"], flags("--hyperdht-bootstrap", n)].concat();
        assert_eq!(stdout(&check(with(64))).matches("hyperdht-bootstrap = ").count(), 64);
        refuses(with(65), 64, "--hyperdht-bootstrap names 65 nodes to join through, and at most 64 are allowed");
        let lookup = [vec!["lookup", "key"], flags("--node", 65)].concat();
        fails(&lookup, 64, "--node names 65 nodes to ask first, and at most 64 are allowed");
    }
}

#[test]
fn one_process_may_have_several_nodes() {
    let has_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let listeners: &[&str] = if has_v6 { &["127.0.0.1:0", "[::1]:0"] } else { &["127.0.0.1:0", "127.0.0.1:0"] };
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    let node = Node::start_with(command.args(["--listen", listeners[0], "--listen", listeners[1]]));
    let status = node.status();
    let (first, second) = (&status["node.0.address"], &status["node.1.address"]);
    assert_ne!(status["node.0.id"], status["node.1.id"], "an id for each address");
    assert!(dayfly(&["put", "--node", first, "shared", "store"]).status.success());
    assert_eq!(stdout(&dayfly(&["find-value", "--node", second, "shared"])), "store", "they share the store");
    assert!(dayfly(&["status", "--node", second]).status.success());
}

#[test]
fn a_v6_network_works_as_a_v4_one() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this host has no ::1");
        return;
    }
    let bin = env!("CARGO_BIN_EXE_dayfly");
    let first = Node::start_with(Command::new(bin).args(["--listen", "[::1]:0"]));
    let join = first.addr.to_string();
    let second = Node::start_with(Command::new(bin).args(["--listen", "[::1]:0", "--bootstrap", &join]));
    eventually("they know each other", || first.counter("contacts") == 1);
    assert!(dayfly(&["put", "--node", &join, "six", "value"]).status.success());
    assert_eq!(stdout(&dayfly(&["get", "--node", &second.addr.to_string(), "six"])), "value");
}

#[test]
fn a_bootstrap_given_by_name_is_resolved_off_the_loop() {
    let first = Node::start(&[]);
    let name = format!("localhost:{}", first.addr.port());
    let second = Node::start(&["--bootstrap", &name]);
    eventually("the name leads to the node", || second.counter("contacts") == 1);
}

#[test]
#[cfg(feature = "sim")]
fn a_simulation_tells_what_came_of_it_and_does_so_again() {
    let run = ["sim", "--nodes", "200", "--lookups", "40", "--seed", "5", "--liars", "10", "--json"];
    let first: serde_json::Value = serde_json::from_str(&stdout(&dayfly(&run))).unwrap();
    let again: serde_json::Value = serde_json::from_str(&stdout(&dayfly(&run))).unwrap();
    assert_eq!(first["trace"], again["trace"]);
    assert_eq!((&first["gets"], &first["nodes"], &first["seed"]), (&40.into(), &200.into(), &5.into()));
    assert!(first["found_share"].as_f64().unwrap() > 0.7, "{first}");
    let table = stdout(&dayfly(&["sim", "--nodes", "100", "--lookups", "20", "--bytes", "--dead", "20"]));
    assert!(table.contains("values looked for") && table.contains("found 20 (100.00 %)"), "{table}");
    fails(&["sim", "--lie", "white"], 64, "--lie takes one of collude, wrong-value");
    fails(&["sim", "--liars", "100"], 64, "leave nobody");
    fails(&["sim", "--nodes", "1"], 64, "--nodes takes a number from 2");
    fails(&["sim", "now"], 64, "unexpected argument 'now'");
    fails(&["sim", "--figures", "/proc/nowhere", "--scale", "1000"], 71, "can't make /proc/nowhere");
}

#[test]
#[cfg(not(feature = "sim"))]
fn a_build_without_the_simulator_says_so() {
    fails(&["sim"], 64, "needs the cargo feature 'sim'");
}
