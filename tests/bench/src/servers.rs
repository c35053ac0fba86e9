//! The servers that are measured: how each is started on a core of its own, and what is asked of it. Ends each when it is
//! dropped.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use dayfly::load::sealed::{Load, Mix, Request};
use dayfly::load::tally::Tally;
use dayfly::load::{Op, Workload};
use dayfly::net::load::{Moment, Plan, run};
use dayfly::net::process::CpuMeter;

use crate::kv::{Echo, Kv, Speech};

/// Whom we measure.
#[derive(Copy, Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// dayfly.
    Dayfly,
    /// The floor that verifies and seals.
    Floor,
    /// The floor that does not.
    Plain,
    Redis,
    Valkey,
    Memcached,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Dayfly, Kind::Floor, Kind::Plain, Kind::Redis, Kind::Valkey, Kind::Memcached];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Dayfly => "dayfly",
            Kind::Floor => "floor",
            Kind::Plain => "floor, no hash",
            Kind::Redis => "redis",
            Kind::Valkey => "valkey",
            Kind::Memcached => "memcached",
        }
    }

    /// Whether it can be asked this.
    pub fn can(self, op: Op) -> bool {
        !matches!(self, Kind::Floor | Kind::Plain) || op == Op::Ping
    }
}

/// A running server.
pub struct Server {
    pub kind: Kind,
    pub addr: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one run of a load test found.
pub struct Figures {
    pub tally: Tally,
    /// The server's time on a processor, per request, in microseconds.
    pub cpu_us: f64,
}

impl Server {
    /// Starts a server on core 0; `None` if it is not installed.
    pub fn start(kind: Kind) -> io::Result<Option<Server>> {
        let own = std::env::current_exe()?.with_file_name("floor");
        let dayfly = std::env::var("DAYFLY").unwrap_or("target/release/dayfly".into());
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let port = free.port().to_string();
        let words: Vec<&str> = match kind {
            Kind::Floor => vec![own.to_str().unwrap_or("floor")],
            Kind::Plain => vec![own.to_str().unwrap_or("floor"), "--plain"],
            Kind::Dayfly => {
                vec![&dayfly, "--listen", "127.0.0.1:0", "--store-entries", "1000000", "--store-bytes", "1000000000"]
            }
            Kind::Redis | Kind::Valkey => {
                let name = if kind == Kind::Redis { "redis-server" } else { "valkey-server" };
                vec![name, "--port", &port, "--bind", "127.0.0.1", "--save", "", "--maxclients", "15000"]
            }
            Kind::Memcached => {
                vec![
                    "memcached",
                    "-u",
                    "root",
                    "-l",
                    "127.0.0.1",
                    "-U",
                    "0",
                    "-p",
                    &port,
                    "-t",
                    "1",
                    "-c",
                    "15000",
                    "-m",
                    "1024",
                ]
            }
        };
        let prints_address = matches!(kind, Kind::Floor | Kind::Plain | Kind::Dayfly);
        let stdout = if prints_address { Stdio::piped() } else { Stdio::null() };
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).args(&words).stdout(stdout).stderr(Stdio::null()).env("RUST_LOG", "error");
        if Command::new("sh").args(["-c", &format!("command -v {}", words[0])]).stdout(Stdio::null()).status()?.code()
            != Some(0)
        {
            return Ok(None);
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take();
        let mut server = Server { kind, addr: free, child };
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
            let address = line.split_whitespace().find_map(|word| word.parse().ok());
            server.addr = address.ok_or_else(|| io::Error::other(format!("{} said '{line}'", kind.name())))?;
        }
        for _ in 0..500 {
            if TcpStream::connect(server.addr).is_ok() {
                return Ok(Some(server));
            }
            sleep(Duration::from_millis(10));
        }
        Err(io::Error::other(format!("{} did not start", kind.name())))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is asked of this kind of server.
    pub fn workload(&self, op: Op, keys: u32, size: usize) -> Box<dyn Workload> {
        let mix: Mix = match op {
            Op::Ping => &[(Op::Ping, 1)],
            Op::FindNode => &[(Op::FindNode, 1)],
            Op::FindValue => &[(Op::FindValue, 1)],
            Op::Put => &[(Op::Put, 1)],
            Op::Get => &[(Op::Get, 1)],
        };
        let request = Request { mix, keys, size, replication: 1, certified: false, seed: 7 };
        match self.kind {
            Kind::Dayfly | Kind::Floor => Box::new(Load::new(request)),
            Kind::Plain => Box::new(Echo::new()),
            Kind::Redis | Kind::Valkey => Box::new(Kv::new(Speech::Redis, op, keys, size)),
            Kind::Memcached => Box::new(Kv::new(Speech::Memcached, op, keys, size)),
        }
    }

    /// Runs a load test from this thread.
    pub fn measure(&self, plan: &Plan, workload: &mut dyn Workload) -> io::Result<Figures> {
        let mut meter = CpuMeter::new(self.pid());
        let tally = self.observed(plan, workload, &mut |moment| meter.observe(moment))?;
        let gone = || io::Error::other(format!("{} ended before the measuring did", self.kind.name()));
        let cpu_us = meter.micros_per_request(tally.timely()).ok_or_else(gone)?;
        Ok(Figures { tally, cpu_us })
    }

    /// Runs a load test that `observe` follows. A wrong answer is an error.
    pub fn observed(
        &self,
        plan: &Plan,
        workload: &mut dyn Workload,
        observe: &mut dyn FnMut(Moment),
    ) -> io::Result<Tally> {
        let tally = run(plan, workload, &mut |moment, _| observe(moment))?;
        match tally.failures() {
            0 => Ok(tally),
            n => Err(io::Error::other(format!("{}: {n} wrong answers", self.kind.name()))),
        }
    }
}
