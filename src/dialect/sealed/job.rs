//! Jobs: a coordinated PUT or a GET, with somebody waiting for the outcome. Bookkeeping only; the node asks and stores.

use std::net::IpAddr;
use std::sync::Arc;

use crate::arena::Key;
use crate::contact::Contact;
use crate::id::{Distance, Id};
use crate::kad::overlay::LookupId;
use crate::limits::TALLY;
use crate::time::Time;
use crate::wheel::TimerKey;

/// Names a job; outlives it safely.
pub(super) type JobId = Key;

/// Who waits for a job's outcome, and since when; given with the request, handed back with the outcome.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The waiting one's own name for it.
    pub waiter: Key,
    /// When the request came, from which its time is counted.
    pub since: Time,
}

/// A PUT that is to be coordinated.
#[derive(Copy, Clone, Debug)]
pub struct Put<'a> {
    /// What it is stored under.
    pub key: Id,
    /// What is stored.
    pub value: &'a [u8],
    /// Seconds.
    pub ttl_s: u16,
    /// Holders wanted; 0 for this node's default.
    pub replication: usize,
    /// Whose it is, for the shares of the store.
    pub source: IpAddr,
}

/// How a job ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The PUT's value is held by at least one node.
    Stored,
    /// No node would hold it (ERROR 8).
    Unreachable,
    /// The GET's value.
    Found(Arc<[u8]>),
    /// Nobody has it.
    Missing,
    /// A GET for which nobody could be asked, as too much was in flight: try again (ERROR 5).
    Busy,
}

/// A job in progress.
#[derive(Debug)]
pub(super) struct Job {
    pub work: Work,
    pub ticket: Ticket,
    /// Ends it when its time is up.
    pub deadline: TimerKey,
}

#[derive(Debug)]
pub(super) enum Work {
    Put(PutJob),
    Get(GetJob),
}

#[derive(Debug)]
pub(super) struct PutJob {
    pub key: Id,
    pub value: Arc<[u8]>,
    pub ttl_s: u16,
    /// Holders wanted.
    pub replication: usize,
    pub source: IpAddr,
    /// Closest nodes not tried yet, farthest first; filled when the lookup has ended.
    pub candidates: Vec<Contact>,
    /// PUTs in flight.
    pub waiting: usize,
    /// Copies stored.
    pub stored: usize,
    pub lookup: Option<LookupId>,
}

impl PutJob {
    /// The next node that should hold the value, while there are fewer holders and hopes than wanted.
    pub fn next_holder(&mut self) -> Option<Contact> {
        if self.stored + self.waiting < self.replication { self.candidates.pop() } else { None }
    }

    /// Whether every chosen holder has answered or failed, and nobody is left to replace the failed.
    pub fn is_done(&self) -> bool {
        self.lookup.is_none() && self.waiting == 0 && (self.stored >= self.replication || self.candidates.is_empty())
    }
}

#[derive(Debug)]
pub(super) struct GetJob {
    pub key: Id,
    pub tally: Tally,
    pub lookup: LookupId,
    /// Lookups begun.
    pub tries: usize,
}

/// What those who were asked for a value said, nearest to the key first. A value that its key does not certify can be
/// made up by anybody who is asked on the way, so only those count that are where the holders should be: the nearest.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Different values, at most [`TALLY`].
    values: Vec<Arc<[u8]>>,
    /// Who answered, and which of the values.
    answers: Vec<(Distance, Option<usize>)>,
}

impl Tally {
    /// Counts the answer of one who is this far from the key: its value, or that it has none.
    pub fn add(&mut self, distance: Distance, value: Option<&[u8]>) {
        let known = value.and_then(|value| self.values.iter().position(|held| **held == *value));
        let vote = match (value, known) {
            (Some(value), None) if self.values.len() < TALLY => {
                self.values.push(value.into());
                Some(self.values.len() - 1)
            }
            (_, known) => known,
        };
        if let Err(at) = self.answers.binary_search_by_key(&distance, |(distance, _)| *distance) {
            self.answers.insert(at, (distance, vote));
        }
    }

    /// Whether anybody named a value.
    pub fn has_values(&self) -> bool {
        !self.values.is_empty()
    }

    /// The value that most of the `holders` nearest named, the nearest one's among equals, if they are at least `quorum`.
    /// Where none of them named any, of twice as many, as nearer nodes may have joined since it was stored.
    pub fn winner(&self, holders: usize, quorum: usize) -> Option<&Arc<[u8]>> {
        let nearest = |n: usize| self.answers[..n.min(self.answers.len())].iter().filter_map(|(_, vote)| *vote);
        let among = if nearest(holders).next().is_some() { holders } else { 2 * holders };
        let votes = |value: usize| nearest(among).filter(|vote| *vote == value).count();
        let most = nearest(among).rev().max_by_key(|value| votes(*value))?;
        (votes(most) >= quorum).then(|| &self.values[most])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(answers: &[(u8, Option<&[u8]>)]) -> Tally {
        let mut tally = Tally::default();
        for (n, value) in answers {
            tally.add(Id([*n; 32]).distance(&Id::default()), *value);
        }
        tally
    }

    #[test]
    fn the_nearest_decide_and_most_of_them() {
        let (true_, lie): (Option<&[u8]>, Option<&[u8]>) = (Some(b"true"), Some(b"lie"));
        assert_eq!(tally(&[]).winner(3, 1), None);
        let far_liars = tally(&[(90, lie), (80, lie), (70, lie), (1, true_), (2, None), (3, None)]);
        assert_eq!(far_liars.winner(3, 1).map(|v| &**v), true_);
        assert_eq!(far_liars.winner(3, 2), None, "who wants two does not get them from afar");
        let outvoted = tally(&[(1, lie), (2, true_), (3, true_)]);
        assert_eq!(outvoted.winner(3, 1).map(|v| &**v), true_);
        assert_eq!(outvoted.winner(3, 3), None);
        assert_eq!(tally(&[(2, lie), (1, true_)]).winner(3, 1).map(|v| &**v), true_, "the nearest among equals");
        let late = tally(&[(1, None), (2, None), (3, None), (4, true_), (7, lie)]);
        assert_eq!(late.winner(3, 1).map(|v| &**v), true_, "newcomers are nearer than the holders");
    }

    #[test]
    fn a_liar_with_endless_values_fills_eight_places_and_nobody_votes_twice() {
        let mut tally = Tally::default();
        for n in 0..100u8 {
            tally.add(Id([n; 32]).distance(&Id::default()), Some(&[n]));
            tally.add(Id([n; 32]).distance(&Id::default()), Some(&[n]));
        }
        assert_eq!((tally.values.len(), tally.answers.len()), (TALLY, 100));
    }
}
