//! What is measured: the cells of the matrix, memory, the hash alone, latency beside a bulk reader.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use dayfly::load::Op;
use dayfly::net::load::{Moment, Plan, Until, run};
use dayfly::net::process::{cpu_time, resident_bytes};
use sha2::{Digest, Sha256};

use crate::Options;
use crate::servers::{Kind, Server};

/// One row of the matrix; every server that can is asked the same.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    pub what: &'static str,
    pub size: usize,
    pub connections: usize,
    pub pipeline: usize,
}

impl Cell {
    /// `get/64/50/16`: request, bytes, connections, pipelined.
    pub fn name(&self) -> String {
        format!("{}/{}/{}/{}", self.what, self.size, self.connections, self.pipeline)
    }
}

/// What one server did in one cell, a value per round.
#[derive(Clone, Default)]
pub struct Samples {
    pub per_second: Vec<f64>,
    pub cpu_us: Vec<f64>,
    pub p99_us: Vec<f64>,
}

/// All that was found.
#[derive(Default)]
pub struct Found {
    pub cells: BTreeMap<Cell, BTreeMap<Kind, Samples>>,
    /// Cells that would need too much memory.
    pub skipped: Vec<Cell>,
    /// Name, server, bytes per round.
    pub memory: BTreeMap<(&'static str, Kind), Vec<f64>>,
    /// Bytes per second of the hash alone, over frames of VALUEs of 60 KiB.
    pub hash_bytes_per_s: Vec<f64>,
    /// p99 of PING in microseconds: quiet, and beside a bulk reader.
    pub bulk: Vec<(f64, f64)>,
    pub absent: Vec<Kind>,
}

const KIB_60: usize = 60 * 1024;
/// Bytes that may be in flight at once.
const IN_FLIGHT: usize = 512 << 20;

fn op_of(what: &str) -> Op {
    match what {
        "ping" => Op::Ping,
        "set" => Op::Put,
        _ => Op::FindValue,
    }
}

fn cells(options: &Options) -> Vec<Cell> {
    let connections: &[usize] = if options.quick { &[50] } else { &[1, 50, 1_000, 10_000] };
    let mut cells = Vec::new();
    for what in ["ping", "get", "set"] {
        let sizes: &[usize] = match (what, options.quick) {
            ("ping", _) => &[0],
            (_, true) => &[64],
            (_, false) => &[64, 1_024, KIB_60],
        };
        for &size in sizes {
            for &connections in connections {
                cells.extend([1, 16].map(|pipeline| Cell { what, size, connections, pipeline }));
            }
        }
    }
    cells
}

/// Measures everything that is wanted, `rounds` times, interleaved.
pub fn measure_all(options: &Options) -> io::Result<Found> {
    let mut found = Found::default();
    let mut servers = Vec::new();
    for kind in Kind::ALL {
        match Server::start(kind)? {
            Some(server) => servers.push(server),
            None => found.absent.push(kind),
        }
    }
    for round in 0..options.rounds {
        for cell in cells(options).into_iter().filter(|cell| options.wants(&cell.name())) {
            if cell.connections * cell.pipeline * cell.size > IN_FLIGHT {
                if round == 0 {
                    found.skipped.push(cell);
                }
                continue;
            }
            eprintln!("round {} of {}: {}", round + 1, options.rounds, cell.name());
            for server in servers.iter().filter(|server| server.kind.can(op_of(cell.what))) {
                let samples = found.cells.entry(cell).or_default().entry(server.kind).or_default();
                measure(server, cell, options, samples)?;
            }
        }
        if options.wants("hash") {
            found.hash_bytes_per_s.push(hash_bytes_per_s());
        }
        if options.wants("bulk") {
            found.bulk.push(beside_bulk(options)?);
        }
        if options.wants("memory") {
            for kind in servers.iter().map(|server| server.kind) {
                memory(kind, &mut found.memory)?;
            }
        }
    }
    Ok(found)
}

fn plan(server: &Server, connections: usize, pipeline: usize, measure: Duration) -> Plan {
    Plan {
        nodes: vec![server.addr],
        connections,
        pipeline,
        until: Until::Elapsed(measure),
        rate: None,
        warmup: measure / 4,
    }
}

fn measure(server: &Server, cell: Cell, options: &Options, samples: &mut Samples) -> io::Result<()> {
    let length = Duration::from_millis(if options.quick { 500 } else { 800 });
    let keys = if cell.size > 10_000 { 200 } else { 10_000 };
    let plan = plan(server, cell.connections, cell.pipeline, length);
    let mut workload = server.workload(op_of(cell.what), keys, cell.size);
    let figures = server.measure(&plan, &mut *workload)?;
    samples.per_second.push(figures.tally.per_second());
    samples.cpu_us.push(figures.cpu_us);
    samples.p99_us.push(figures.tally.micros_at(99.0));
    Ok(())
}

/// What SHA-256 alone does with the bytes that the checksum of a VALUE of 60 KiB covers.
fn hash_bytes_per_s() -> f64 {
    let covered = vec![7u8; KIB_60 + 2];
    let began = cpu_time(std::process::id()).unwrap_or_default();
    let frames = 8_000;
    for _ in 0..frames {
        std::hint::black_box(Sha256::digest(std::hint::black_box(&covered)));
    }
    let spent = cpu_time(std::process::id()).unwrap_or_default() - began;
    (frames * KIB_60) as f64 / spent.as_secs_f64()
}

/// p99 of PING at half the maximum rate: quiet, and beside a client that reads 60 KiB values as fast as it can.
fn beside_bulk(options: &Options) -> io::Result<(f64, f64)> {
    let Some(server) = Server::start(Kind::Dayfly)? else {
        return Ok((0.0, 0.0));
    };
    let length = Duration::from_millis(if options.quick { 1_000 } else { 2_000 });
    let closed = plan(&server, 50, 1, length / 2);
    let most = server.measure(&closed, &mut *server.workload(Op::Ping, 1, 0))?.tally.per_second();
    let open = Plan { rate: Some(most / 2.0), pipeline: 64, ..plan(&server, 50, 1, length) };
    let quiet = server.measure(&open, &mut *server.workload(Op::Ping, 1, 0))?.tally.micros_at(99.0);
    let mut bulk_workload = dayfly::load::sealed::Load::new(dayfly::load::sealed::Request {
        mix: &[(Op::FindValue, 1)],
        keys: 100,
        size: KIB_60,
        replication: 1,
        certified: false,
        seed: 9,
    });
    let bulk_plan = plan(&server, 1, 1, length * 2);
    let bulk = std::thread::spawn(move || run(&bulk_plan, &mut bulk_workload, &mut |_: Moment, _: &_| {}));
    std::thread::sleep(length / 2);
    let busy = server.measure(&open, &mut *server.workload(Op::Ping, 1, 0))?.tally.micros_at(99.0);
    bulk.join().map_err(|_| io::Error::other("the bulk reader panicked"))??;
    Ok((quiet, busy))
}

/// Resident bytes per idle connection, of 10,000, and per stored value of 64 bytes, of 100,000.
fn memory(kind: Kind, memory: &mut BTreeMap<(&'static str, Kind), Vec<f64>>) -> io::Result<()> {
    let Some(server) = Server::start(kind)? else {
        return Ok(());
    };
    let (conns, values) = (10_000, 100_000);
    let before = resident_bytes(server.pid())?;
    let mut idle = 0;
    let pid = server.pid();
    // Every connection has asked once, so that none is cut off for saying nothing; then all are quiet.
    let once = Plan { until: Until::Elapsed(Duration::from_millis(1)), ..plan(&server, conns, 1, Duration::ZERO) };
    let mut workload = server.workload(Op::Ping, 1, 0);
    let mut observe = |moment: Moment| {
        if moment == Moment::Ended {
            std::thread::sleep(Duration::from_millis(300));
            idle = resident_bytes(pid).unwrap_or(0);
        }
    };
    server.observed(&once, &mut *workload, &mut observe)?;
    memory.entry(("idle connection", kind)).or_default().push((idle - before) as f64 / conns as f64);
    if !kind.can(Op::Put) {
        return Ok(());
    }
    drop(server);
    let Some(server) = Server::start(kind)? else {
        return Ok(());
    };
    let before = resident_bytes(server.pid())?;
    let began = Instant::now();
    // The values that a reader needs are put, each once, before it reads; then they are counted.
    let mut workload = server.workload(Op::FindValue, values as u32, 64);
    let fill = Plan { until: Until::Answers(1), ..plan(&server, 10, 16, Duration::ZERO) };
    let mut full = 0;
    let pid = server.pid();
    server.observed(&fill, &mut *workload, &mut |moment| {
        if moment == Moment::Began {
            full = resident_bytes(pid).unwrap_or(0);
        }
    })?;
    if began.elapsed() > Duration::from_secs(8) {
        return Err(io::Error::other("values expired while they were put"));
    }
    memory.entry(("stored value", kind)).or_default().push((full - before) as f64 / values as f64);
    Ok(())
}
