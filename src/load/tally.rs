//! The counts of a load test: answers by verdict, and latencies. Never reads a clock.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::load::Verdict;

/// Latencies above a minute count as a minute.
const LONGEST_NS: u64 = 60_000_000_000;
/// How many error codes are counted separately, because strangers choose them.
const CODES: usize = 16;

/// Counts and latencies of one run.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Correct answers.
    pub good: u64,
    /// Answers that said that the value was not found.
    pub missing: u64,
    /// Errors, by code.
    pub refused: BTreeMap<u32, u64>,
    /// Answers that did not fit the request, or were damaged.
    pub wrong: u64,
    /// Requests whose connection ended before they were answered.
    pub broken: u64,
    /// Answers to requests of the measured time that came after it had ended. They count as answers, but not in the
    /// rate.
    pub late: u64,
    /// Failures before the measurement began.
    pub failures_before: u64,
    /// Bytes of the answers that came in time.
    pub bytes: u64,
    /// Nanoseconds from when a request was sent, or from when it was due, to its answer.
    pub latency_ns: Histogram<u64>,
    /// The duration of the measurement in seconds.
    pub seconds: f64,
}

impl Default for Tally {
    fn default() -> Self {
        // These bounds are valid (hdrhistogram: 1 <= low, high >= 2 * low, at most 5 digits).
        let latency_ns = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("valid bounds");
        Tally {
            good: 0,
            missing: 0,
            refused: BTreeMap::new(),
            wrong: 0,
            broken: 0,
            late: 0,
            failures_before: 0,
            bytes: 0,
            latency_ns,
            seconds: 0.0,
        }
    }
}

impl Tally {
    /// Counts an answer of `bytes` bytes that came `nanos` after its request.
    pub fn add(&mut self, verdict: Verdict, bytes: usize, nanos: u64) {
        self.judged(verdict);
        self.bytes += bytes as u64;
        self.latency_ns.saturating_record(nanos.clamp(1, LONGEST_NS));
    }

    /// Counts a verdict without size or latency.
    pub fn judged(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Good => self.good += 1,
            Verdict::Missing => self.missing += 1,
            Verdict::Wrong => self.wrong += 1,
            Verdict::Refused(code) => {
                let code = if self.refused.len() < CODES { code } else { u32::MAX };
                *self.refused.entry(code).or_default() += 1;
            }
        }
    }

    /// The number of answers, correct or not.
    pub fn answers(&self) -> u64 {
        self.good + self.missing + self.wrong + self.refused.values().sum::<u64>()
    }

    /// The number of answers that came in time.
    pub fn timely(&self) -> u64 {
        self.answers() - self.late
    }

    /// The number of requests that did not get a correct answer, including those before the measurement.
    pub fn failures(&self) -> u64 {
        self.answers() - self.good + self.broken + self.failures_before
    }

    /// Answers per second, counting those that came in time.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.timely() as f64 / self.seconds } else { 0.0 }
    }

    /// The latency in microseconds that `percent` of the answers did not exceed.
    pub fn micros_at(&self, percent: f64) -> f64 {
        self.latency_ns.value_at_percentile(percent) as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_counted_once_and_only_good_ones_are_no_failures() {
        let mut tally = Tally::default();
        for (verdict, nanos) in [
            (Verdict::Good, 1_000),
            (Verdict::Good, 3_000),
            (Verdict::Missing, 0),
            (Verdict::Wrong, u64::MAX),
            (Verdict::Refused(5), 2_000),
        ] {
            tally.add(verdict, 10, nanos);
        }
        tally.broken += 1;
        (0..100).for_each(|code| tally.judged(Verdict::Refused(code)));
        assert_eq!((tally.answers(), tally.failures(), tally.bytes), (105, 104, 50));
        assert!(tally.refused.len() <= CODES + 1, "codes that strangers make up take no memory");
        assert_eq!(tally.latency_ns.len(), 5);
        assert!((tally.micros_at(100.0) - 6e7).abs() < 1e5, "longest: {}", tally.micros_at(100.0));
    }
}
