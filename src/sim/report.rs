//! The numbers of a measured run. Counts and sorts; never formats.

/// Numbers whose distribution matters.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Sample(Vec<u64>);

impl Sample {
    /// Adds a number.
    pub fn add(&mut self, value: u64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which `share` (0 to 1) of them lie; 0 if there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (share * sorted.len() as f64) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    /// Their mean; 0 if there are none.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<u64>() as f64 / self.0.len().max(1) as f64
    }

    /// Adds all numbers of another sample.
    pub fn extend(&mut self, other: &Sample) {
        self.0.extend_from_slice(&other.0);
    }
}

/// The numbers of one run, or of several together.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Report {
    /// Number of hosts alive at the end.
    pub living: usize,
    /// Contacts in the table of a living host, on average.
    pub contacts: f64,
    /// Number of PUTs.
    pub puts: usize,
    /// PUTs that were reported as stored.
    pub stored: usize,
    /// Number of GETs.
    pub gets: usize,
    /// GETs that found the value in time.
    pub found: usize,
    /// GETs that found something else.
    pub fooled: usize,
    /// GETs that found nothing.
    pub missed: usize,
    /// GETs of values that were reported as stored and of which a holder was alive, with its copy, from the beginning of
    /// the GET to its end.
    pub promised: usize,
    /// Those that found the value in time: all, unless somebody lies.
    pub kept: usize,
    /// For each that did not: the number of living hosts that are nearer to the key than the nearest holder.
    pub lost_behind: Sample,
    /// Jobs that never ended: 0, unless hosts with jobs died.
    pub unfinished: usize,
    /// Milliseconds until a GET found its value.
    pub found_ms: Sample,
    /// Milliseconds until a PUT was stored.
    pub stored_ms: Sample,
    /// Number of watched lookups, each for a key that nobody holds yet.
    pub watched: usize,
    /// Watched lookups that found a value nevertheless: liars made it up.
    pub invented: usize,
    /// Watched lookups to which the closest living honest host responded.
    pub reached: usize,
    /// Milliseconds until that host responded.
    pub reached_ms: Sample,
    /// Hops to that host.
    pub hops: Sample,
    /// Requests of a watched lookup.
    pub asked: Sample,
    /// Holders chosen by PUTs that were also among the closest hosts which responded to another host's lookup.
    pub overlapping: usize,
    /// All holders chosen by those PUTs.
    pub chosen: usize,
    /// Number of requests and answers delivered.
    pub messages: u64,
    /// Virtual milliseconds in which the network was built.
    pub built_ms: u64,
    /// Virtual milliseconds of the whole run.
    pub virtual_ms: u64,
    /// A hash of everything that happened.
    pub trace: u64,
}

impl Report {
    /// The share of values that were found; 0 if none were looked for.
    pub fn found_share(&self) -> f64 {
        share(self.found, self.gets)
    }

    /// The share of values that were found of those that were stored and of which a holder was alive; 1 of none.
    pub fn kept_share(&self) -> f64 {
        if self.promised == 0 { 1.0 } else { share(self.kept, self.promised) }
    }

    /// The share of lookups that reached the closest node.
    pub fn reached_share(&self) -> f64 {
        share(self.reached, self.watched)
    }

    /// The share of holders on which storing and finding agree.
    pub fn overlap(&self) -> f64 {
        share(self.overlapping, self.chosen)
    }
}

/// `part` of `all`, 0 to 1; 0 of nothing.
pub fn share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_and_of_none() {
        let mut sample = Sample::default();
        assert_eq!((sample.quantile(0.5), sample.mean()), (0, 0.0));
        [3, 1, 2].into_iter().for_each(|n| sample.add(n));
        assert_eq!((sample.quantile(0.0), sample.quantile(0.5), sample.quantile(1.0), sample.mean()), (1, 2, 3, 2.0));
    }
}
