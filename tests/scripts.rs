//! The scripts that people and other scripts use: testnet and demo, run with the binary under test.

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{PATIENCE, alone};

fn script(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name));
    command.args(args).env("DAYFLY", env!("CARGO_BIN_EXE_dayfly"));
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// No process of this id runs any more.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn testnet_runs_a_command_among_its_nodes_and_cleans_up() {
    let _alone = alone();
    let output = script("testnet", &["3", "sh", "-c", "echo $NODES; echo $NODE_PIDS; exit 7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let text = stdout(&output);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!((lines[0].len(), lines[1].len()), (3, 3), "{text}");
    assert!(lines[1].iter().all(|pid| is_gone(pid)));
}

#[test]
fn testnet_hears_a_signal_at_once() {
    let _alone = alone();
    let mut testnet = script("testnet", &["2", "sleep", "60"]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    Command::new("kill").args(["-TERM", &testnet.id().to_string()]).status().unwrap();
    assert_eq!(testnet.wait().unwrap().code(), Some(143));
    assert!(begin.elapsed() < PATIENCE);
}

#[test]
fn mistakes_are_told() {
    for args in [&["0"][..], &["08"], &["many"], &["201"]] {
        assert_eq!(script("testnet", args).output().unwrap().status.code(), Some(64), "{args:?}");
    }
    assert!(stdout(&script("testnet", &["--help"]).output().unwrap()).contains("NODE_PIDS"));
    let nowhere = script("testnet", &["1", "true"]).env("TMPDIR", "/no/such/folder").output().unwrap();
    assert_eq!(nowhere.status.code(), Some(71));
}

#[test]
fn the_demo_shows_a_value_live_and_die() {
    let _alone = alone();
    let begin = Instant::now();
    let output = script("demo", &[]).output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("hello from node 1\n").count(), 1, "{text}");
    assert_eq!(text.matches(" does\n").count(), 3, "three holders: {text}");
    println!("the demo took {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(100), "20 s, on a busy machine five times that");
}
