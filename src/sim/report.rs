//! What came of a run, as numbers. Counts and sorts; never formats.

/// Numbers of which the distribution matters.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Sample(Vec<u64>);

impl Sample {
    /// Takes in one more.
    pub fn add(&mut self, value: u64) {
        self.0.push(value);
    }

    /// How many.
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

    /// Takes in all of another.
    pub fn extend(&mut self, other: &Sample) {
        self.0.extend_from_slice(&other.0);
    }
}

/// The numbers of a run, or of several runs together.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Report {
    /// Hosts alive at the end.
    pub living: usize,
    /// Contacts in the tables of the living, on average.
    pub contacts: f64,
    /// Values that were to be put.
    pub puts: usize,
    /// ... of which a holder said that it has it.
    pub stored: usize,
    /// Values looked for.
    pub gets: usize,
    /// ... that came back unaltered in time.
    pub found: usize,
    /// ... in whose place something else came back.
    pub fooled: usize,
    /// ... that did not come back.
    pub missed: usize,
    /// Jobs that never ended: always 0.
    pub unfinished: usize,
    /// Milliseconds until a value came back.
    pub found_ms: Sample,
    /// Milliseconds until a PUT was done.
    pub stored_ms: Sample,
    /// Watched lookups, of a key that nobody holds yet.
    pub watched: usize,
    /// ... to which somebody answered with a value nonetheless.
    pub invented: usize,
    /// ... that heard from the closest living honest node.
    pub reached: usize,
    /// Milliseconds until they did.
    pub reached_ms: Sample,
    /// Hops that it took.
    pub hops: Sample,
    /// Requests of a watched lookup.
    pub asked: Sample,
    /// Of the holders that a PUT chose, how many a lookup by another host had heard among the closest.
    pub overlapping: usize,
    /// Holders chosen by those PUTs.
    pub chosen: usize,
    /// Requests and answers delivered.
    pub messages: u64,
    /// Milliseconds of the world's own time in which the network came to be.
    pub built_ms: u64,
    /// Milliseconds of the world's own time.
    pub virtual_ms: u64,
    /// A hash of everything that happened.
    pub trace: u64,
}

impl Report {
    /// The share of values that were found; 0 if none were looked for.
    pub fn found_share(&self) -> f64 {
        share(self.found, self.gets)
    }

    /// The share of lookups that reached the closest node.
    pub fn reached_share(&self) -> f64 {
        share(self.reached, self.watched)
    }

    /// The share of holders that storing and finding agree on.
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
