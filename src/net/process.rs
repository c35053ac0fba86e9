//! The kernel's accounts of a process: processor time and memory. For measurements; never affects the process.

use std::fs;
use std::io;
use std::time::Duration;

use crate::net::load::Moment;

/// The time in which all living threads of process `pid` have been running, to the nanosecond (proc(5), schedstat).
///
/// Errors: there is no such process, it belongs to another user, or the kernel keeps no such accounts.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = match fs::read_to_string(task?.path().join("schedstat")) {
            // The thread has ended since the folder was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            stat => stat?,
        };
        let running = stat.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        nanos += running.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Measures the processor time of a process between two moments.
#[derive(Copy, Clone, Debug)]
pub struct CpuMeter {
    pid: u32,
    began: Option<Duration>,
    ended: Option<Duration>,
}

impl CpuMeter {
    /// A meter for process `pid`, which has read nothing yet.
    pub fn new(pid: u32) -> CpuMeter {
        CpuMeter { pid, began: None, ended: None }
    }

    /// Reads the accounts when the measurement begins and when it ends.
    pub fn observe(&mut self, moment: Moment) {
        match moment {
            Moment::Began => self.began = cpu_time(self.pid).ok(),
            Moment::Ended => self.ended = cpu_time(self.pid).ok(),
            Moment::Connected | Moment::Measuring => {}
        }
    }

    /// Microseconds of processor time per request, for this number of requests. `None` if the process was gone before
    /// the end.
    pub fn micros_per_request(&self, requests: u64) -> Option<f64> {
        let spent = self.ended?.checked_sub(self.began?)?;
        Some(spent.as_secs_f64() * 1e6 / requests.max(1) as f64)
    }
}

/// Bytes of process `pid` that are in memory and belong to it alone: private or anonymous pages, not pages of shared
/// files.
///
/// Errors: as for [`cpu_time`].
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_run_and_has_memory() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        // The kernel brings the accounts of a running thread up to date a few hundred times a second.
        let work = |round: u64| (0..100_000).fold(round, |sum, n| std::hint::black_box(sum ^ (n * 31)));
        assert!((0..10_000).any(|round| std::hint::black_box(work(round)) > 0 && cpu_time(pid).unwrap() > before));
        assert!(resident_bytes(pid).unwrap() > 100_000);
        assert!(cpu_time(u32::MAX).is_err() && resident_bytes(u32::MAX).is_err());
    }
}
