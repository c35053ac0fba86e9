//! Jobs: a coordinated PUT or a GET, with somebody waiting for the outcome. Bookkeeping only; the node asks and stores.

use std::net::IpAddr;
use std::sync::Arc;

use crate::arena::Key;
use crate::contact::Contact;
use crate::dialect::sealed::store::is_certified;
use crate::id::Id;
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
    /// A value was found, and the answers in flight are awaited for at most 250 ms.
    pub settling: bool,
}

/// The values that holders of one key named, and how many named each. Holds at most [`TALLY`] different ones.
#[derive(Debug, Default)]
pub(super) struct Tally {
    values: Vec<(Arc<[u8]>, usize)>,
}

impl Tally {
    /// Counts one holder's value.
    pub fn add(&mut self, value: &[u8]) {
        if let Some((_, holders)) = self.values.iter_mut().find(|(held, _)| **held == *value) {
            *holders += 1;
        } else if self.values.len() < TALLY {
            self.values.push((value.into(), 1));
        }
    }

    /// The certified value if there is one; else the one that most holders named, the first among equals, if they are
    /// at least `quorum`.
    pub fn winner(&self, key: &Id, quorum: usize) -> Option<&Arc<[u8]>> {
        if let Some((value, _)) = self.values.iter().find(|(value, _)| is_certified(key, value)) {
            return Some(value);
        }
        let most = self.values.iter().rev().max_by_key(|(_, holders)| holders)?;
        (most.1 >= quorum).then_some(&most.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certified_beats_many_and_many_beat_first() {
        let key = Id::hash_of(&[b"true"]);
        let mut tally = Tally::default();
        assert!(tally.winner(&key, 1).is_none());
        tally.add(b"first");
        tally.add(b"second");
        assert_eq!(tally.winner(&key, 1).map(|v| &**v), Some(&b"first"[..]));
        tally.add(b"second");
        assert_eq!(tally.winner(&key, 2).map(|v| &**v), Some(&b"second"[..]));
        assert!(tally.winner(&key, 3).is_none());
        tally.add(b"true");
        assert_eq!(tally.winner(&key, 3).map(|v| &**v), Some(&b"true"[..]));
    }

    #[test]
    fn a_liar_with_endless_values_fills_eight_places() {
        let mut tally = Tally::default();
        for n in 0..100u8 {
            tally.add(&[n]);
        }
        assert_eq!(tally.values.len(), TALLY);
    }
}
