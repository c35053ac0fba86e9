//! A lookup as seen from outside: which hosts it asked, which responded, and how many hops away they were. Only
//! watches; changes nothing.

use crate::id::Id;
use crate::time::Time;

/// A watched lookup.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The target, by which its requests are told from the host's other requests.
    pub target: Id,
    /// The number of the operation that it belongs to.
    pub op: usize,
    /// When the lookup began.
    pub since: Time,
    /// The closest living honest host when the lookup began.
    pub closest: u32,
    /// When that host's answer came.
    pub closest_at: Option<Time>,
    /// The number of hops to that host: 1 if the asker knew it.
    pub closest_hops: Option<u8>,
    /// The hosts that were asked.
    pub asked: Vec<u32>,
    /// The hosts named so far, with the number of hops to each.
    named: Vec<(u32, u8)>,
    /// The hosts that responded.
    pub answered: Vec<u32>,
    /// The hosts that a PUT was sent to.
    pub holders: Vec<u32>,
}

impl Watch {
    /// Watches a lookup that begins at `since`.
    pub fn new(target: Id, op: usize, closest: u32, since: Time) -> Watch {
        Watch {
            target,
            op,
            since,
            closest,
            closest_at: None,
            closest_hops: None,
            asked: Vec::new(),
            named: Vec::new(),
            answered: Vec::new(),
            holders: Vec::new(),
        }
    }

    /// Notes a request to `host`. A host that nobody has named was known to the asker.
    pub fn asks(&mut self, host: u32) {
        self.asked.push(host);
        if self.hops(host).is_none() {
            self.named.push((host, 1));
        }
    }

    /// Notes an answer of `from` that names `hosts`.
    pub fn answers(&mut self, from: u32, hosts: impl Iterator<Item = u32>, now: Time) {
        if !self.asked.contains(&from) {
            return;
        }
        let hops = self.hops(from).unwrap_or(1);
        if !self.answered.contains(&from) {
            self.answered.push(from);
        }
        if from == self.closest && self.closest_at.is_none() {
            self.closest_at = Some(now);
            self.closest_hops = Some(hops);
        }
        for host in hosts {
            if self.hops(host).is_none() {
                self.named.push((host, hops.saturating_add(1)));
            }
        }
    }

    fn hops(&self, host: u32) -> Option<u8> {
        self.named.iter().find(|(named, _)| *named == host).map(|(_, hops)| *hops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_count_from_whom_the_asker_knew() {
        let mut watch = Watch::new(Id::default(), 0, 9, Time::ZERO);
        watch.asks(1);
        watch.answers(1, [2, 3].into_iter(), Time::from_ms(10));
        watch.asks(3);
        watch.answers(3, [2, 9].into_iter(), Time::from_ms(20));
        watch.asks(9);
        watch.answers(9, [].into_iter(), Time::from_ms(30));
        assert_eq!((watch.closest_hops, watch.closest_at), (Some(3), Some(Time::from_ms(30))));
        assert_eq!((watch.asked, watch.answered), (vec![1, 3, 9], vec![1, 3, 9]));
    }
}
