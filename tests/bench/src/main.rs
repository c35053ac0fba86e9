//! `compare`: dayfly beside a bare echo loop, redis, valkey and memcached on this machine, interleaved, each server on core
//! 0 and the load on core 1. Writes medians with their spread, as tables, JSON and plots.
//!
//! Usage: compare [--quick] [--only WORD]... [--rounds N] [--out FOLDER]
//!   --quick        50 connections and 64 bytes only, shorter
//!   --redraw       draw the plots in FOLDER anew from its servers.json, and measure nothing
//!   --only WORD    the parts whose name contains WORD: memory, hash, bulk, or cells such as get/64/50/16 (request,
//!                  bytes, connections, pipelined)
//! Build dayfly first; DAYFLY names another binary than target/release/dayfly.

mod kv;
mod parts;
mod report;
mod servers;

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// How the whole is run.
pub struct Options {
    pub quick: bool,
    pub redraw: bool,
    pub only: Vec<String>,
    pub rounds: usize,
    pub out: String,
}

impl Options {
    fn read() -> Result<Options, String> {
        let mut options =
            Options { quick: false, redraw: false, only: Vec::new(), rounds: 5, out: "tests/figures/bench".into() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} takes a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--redraw" => options.redraw = true,
                "--only" => options.only.push(value()?),
                "--rounds" => options.rounds = value()?.parse().map_err(|_| "--rounds takes a number".to_string())?,
                "--out" => options.out = value()?,
                _ => return Err(format!("unknown option '{word}'")),
            }
        }
        Ok(options)
    }

    /// Whether the part of this name is wanted.
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| part.contains(word.as_str()))
    }
}

fn main() -> io::Result<()> {
    let options = Options::read().map_err(io::Error::other)?;
    if options.redraw {
        return report::redraw(&options.out);
    }
    dayfly::net::socket::raise_open_files();
    let mut cpus = CpuSet::new();
    cpus.set(1);
    // On a machine with one core both share it, and figures mean little.
    let pinned = sched_setaffinity(None, &cpus).is_ok();
    eprintln!("load pinned to core 1: {pinned}");
    let figures = parts::measure_all(&options)?;
    report::write(&options, &figures)
}
