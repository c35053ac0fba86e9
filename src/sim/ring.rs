//! All hosts sorted by id, which no node can see: which of them really are closest to a key. Lookups are measured
//! against it. Never tells a node anything.

use crate::id::{ID_BITS, Id, Metric};

/// Hosts in the order of their ids.
#[derive(Clone, Default, Debug)]
pub struct Ring {
    ids: Vec<(Id, u32)>,
}

impl Ring {
    /// The ring of `hosts`.
    pub fn new(hosts: impl Iterator<Item = (Id, u32)>) -> Ring {
        let mut ids: Vec<(Id, u32)> = hosts.collect();
        ids.sort_unstable();
        Ring { ids }
    }

    /// The number of hosts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no hosts.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds a host.
    pub fn insert(&mut self, id: Id, host: u32) {
        if let Err(at) = self.ids.binary_search(&(id, host)) {
            self.ids.insert(at, (id, host));
        }
    }

    /// Removes a host.
    pub fn remove(&mut self, id: Id, host: u32) {
        if let Ok(at) = self.ids.binary_search(&(id, host)) {
            self.ids.remove(at);
        }
    }

    /// The hosts whose ids share at least `bits` leading bits with `id`.
    pub fn sharing(&self, id: &Id, bits: usize) -> &[(Id, u32)] {
        let from = self.ids.partition_point(|(other, _)| other < id && other.common_prefix(id) < bits);
        let to = self.ids.partition_point(|(other, _)| other < id || other.common_prefix(id) >= bits);
        &self.ids[from..to]
    }

    /// The hosts in the routing table that a long life would give to the host `own`: up to `k` hosts of each bucket's
    /// range, chosen at random.
    pub fn table_of(&self, own: &Id, k: usize, random: &mut fastrand::Rng) -> Vec<u32> {
        let mut table = Vec::new();
        for bit in 0..ID_BITS {
            let range = self.sharing(&own.with_bit_flipped(bit), bit + 1);
            if range.len() <= k {
                table.extend(range.iter().map(|(_, host)| *host));
            } else {
                let mut chosen: Vec<usize> = Vec::with_capacity(k);
                while chosen.len() < k {
                    let at = random.usize(..range.len());
                    if !chosen.contains(&at) {
                        chosen.push(at);
                    }
                }
                table.extend(chosen.into_iter().map(|at| range[at].1));
            }
            if self.sharing(own, bit + 1).len() <= 1 {
                break;
            }
        }
        table
    }

    /// The `n` hosts closest to `key` of those that `admit` accepts, closest first.
    pub fn closest(&self, key: &Id, n: usize, admit: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut bits = self.ids.len().checked_ilog2().unwrap_or(0) as usize + 8;
        loop {
            let mut found: Vec<(Id, u32)> = self.sharing(key, bits).iter().filter(|h| admit(h.1)).copied().collect();
            if found.len() >= n || bits == 0 {
                found.sort_unstable_by(|(a, _), (b, _)| key.compare(a, b));
                found.truncate(n);
                return found.into_iter().map(|(_, host)| host).collect();
            }
            bits -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_are_those_that_sorting_all_would_find() {
        let id = |n: u32| Id::hash_of(&[&n.to_be_bytes()]);
        let ring = Ring::new((0..500).map(|n| (id(n), n)));
        for key in (1_000..1_050).map(id) {
            let mut all: Vec<u32> = (0..500).filter(|n| n % 3 != 0).collect();
            all.sort_by_key(|n| id(*n).distance(&key));
            assert_eq!(ring.closest(&key, 7, |n| n % 3 != 0), all[..7]);
            let sharing = ring.sharing(&key, 4).len();
            assert_eq!(sharing, (0..500).filter(|n| id(*n).common_prefix(&key) >= 4).count());
        }
        assert_eq!(ring.closest(&id(1), 900, |_| true).len(), 500);
    }
}
