//! Any `dayfly` process: started, read line by line, ended. For those that are not just a sealed node.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// A process; killed when dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    pub fn start<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dayfly"))
            .args(args)
            .env("RUST_LOG", std::env::var("DAYFLY_TEST_LOG").unwrap_or("off".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Process { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    /// All lines that it still prints, once it has ended.
    pub fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// The address and id that its next line tells of a hyperdht listener.
    pub fn listener(&self) -> (SocketAddr, String) {
        let line = self.line();
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() == 5 && words[..3] == ["listening", "hyperdht", "udp"], "{line}");
        (words[3].parse().unwrap(), words[4].strip_prefix("id=").expect("id=").to_string())
    }

    /// Sends a signal by name: TERM, INT, KILL.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "a dayfly process does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child.wait().unwrap().code()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        resident_kib(&self.pid().to_string())
    }
}

/// Resident memory of a process in KiB, `self` for this one.
pub fn resident_kib(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command run to its end, which must come soon.
pub fn run_to_end(args: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dayfly"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{args:?} does not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}
