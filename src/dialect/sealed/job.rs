//! Jobs: coordinated PUTs and GETs, each with somebody waiting for the outcome. Only keeps records; never sends or
//! stores anything, which is up to the node.

use std::net::IpAddr;
use std::sync::Arc;

use crate::arena::Key;
use crate::contact::Contact;
use crate::id::{Distance, Id, Metric};
use crate::kad::overlay::LookupId;
use crate::time::Time;
use crate::wheel::TimerKey;

/// Names a job. Stays valid as a name after the job has ended, and then finds nothing.
pub(super) type JobId = Key;

/// Names the party that waits for a job's outcome. The caller passes it with the request and gets it back with the
/// outcome.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The caller's own name for the waiting party.
    pub waiter: Key,
    /// When the request came; the job's time counts from then.
    pub since: Time,
}

/// A PUT for a node to coordinate.
#[derive(Copy, Clone, Debug)]
pub struct Put<'a> {
    /// The key of the value.
    pub key: Id,
    /// The value.
    pub value: &'a [u8],
    /// The requested lifetime in seconds.
    pub ttl_s: u16,
    /// How many nodes should hold the value; 0 for this node's default.
    pub replication: usize,
    /// The address that the store charges for the value.
    pub source: IpAddr,
}

/// The outcome of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// At least one node holds the value of the PUT.
    Stored,
    /// No node would hold the value of the PUT (ERROR 8).
    Unreachable,
    /// The value for the GET.
    Found(Arc<[u8]>),
    /// The GET found no value.
    Missing,
    /// The GET could ask nobody, because too much was in flight; try again (ERROR 5).
    Busy,
}

/// A job in progress.
#[derive(Debug)]
pub(super) struct Job {
    pub work: Work,
    pub ticket: Ticket,
    /// Ends the job when its time is up.
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
    /// How many nodes should hold the value.
    pub replication: usize,
    pub source: IpAddr,
    /// Nodes that may hold the value, nearest first: the nearest ones as soon as they have answered, others once the
    /// lookup has ended.
    pub candidates: Vec<Candidate>,
    pub lookup: Option<LookupId>,
    /// Ends the lookup when its time is up.
    pub holders_due: TimerKey,
}

/// A node that may hold the value of a PUT.
#[derive(Copy, Clone, Debug)]
pub(super) struct Candidate {
    pub contact: Contact,
    pub state: HolderState,
}

/// Whether a node holds the value of a PUT.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum HolderState {
    /// It has not been asked to.
    Unasked,
    /// It has been asked to, and has not answered yet.
    Asked,
    /// It holds the value.
    Stored,
    /// It did not answer, or refused.
    Failed,
}

impl PutJob {
    /// Adds nodes that may hold the value.
    pub fn add_candidates(&mut self, contacts: impl IntoIterator<Item = Contact>) {
        for contact in contacts {
            if self.candidates.iter().all(|candidate| candidate.contact.id != contact.id) {
                self.candidates.push(Candidate { contact, state: HolderState::Unasked });
            }
        }
        let PutJob { candidates, key, .. } = self;
        candidates.sort_unstable_by(|a, b| key.compare(&a.contact.id, &b.contact.id));
    }

    /// The next node to ask to hold the value: the nearest one that has not been asked, among as many as should hold
    /// it. Each node that failed is replaced by the next nearest.
    pub fn next_holder(&mut self) -> Option<Contact> {
        let eligible = self.candidates.iter_mut().filter(|candidate| candidate.state != HolderState::Failed);
        let next = eligible.take(self.replication).find(|candidate| candidate.state == HolderState::Unasked)?;
        next.state = HolderState::Asked;
        Some(next.contact)
    }

    /// `id` holds the value, or will not.
    pub fn settle(&mut self, id: &Id, state: HolderState) {
        let of_id = self.candidates.iter_mut().find(|candidate| candidate.contact.id == *id);
        of_id.into_iter().for_each(|candidate| candidate.state = state);
    }

    /// The number of nodes that have stored the value.
    pub fn copies(&self) -> usize {
        self.candidates.iter().filter(|candidate| candidate.state == HolderState::Stored).count()
    }

    /// Whether the lookup has ended and every node that was asked has answered or failed. Meaningful once
    /// [`PutJob::next_holder`] returns `None`.
    pub fn is_done(&self) -> bool {
        self.lookup.is_none() && self.candidates.iter().all(|candidate| candidate.state != HolderState::Asked)
    }
}

#[derive(Debug)]
pub(super) struct GetJob {
    pub key: Id,
    pub tally: Tally,
    pub lookup: LookupId,
    /// The number of lookups started.
    pub tries: usize,
}

/// The number of nodes that should have a copy of a value.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Copies(pub usize);

/// The number of nodes that must name the same value before a GET accepts it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Quorum(pub usize);

/// The answers to a GET, nearest to the key first. Any node that is asked on the way can make up a value that its key
/// does not certify, so only the answers of the nodes nearest to the key count: those should hold the value. The tally
/// forgets all other answers.
#[derive(Debug)]
pub(super) struct Tally {
    /// How many nodes should hold the value, if it was stored with this node's settings.
    holders: usize,
    quorum: usize,
    /// For each answer, the distance of its sender from the key, and the value, if it named one. At most twice the
    /// holders.
    answers: Vec<(Distance, Option<Arc<[u8]>>)>,
}

impl Tally {
    /// A tally without answers.
    pub fn new(copies: Copies, quorum: Quorum) -> Tally {
        Tally { holders: copies.0.max(quorum.0), quorum: quorum.0, answers: Vec::new() }
    }

    /// Counts the answer of a node at this distance from the key. `None`: the node has no value.
    pub fn add(&mut self, distance: Distance, value: Option<&[u8]>) {
        let Err(at) = self.answers.binary_search_by_key(&distance, |(distance, _)| *distance) else {
            return;
        };
        let known = value.and_then(|value| self.values().find(|held| ***held == *value).cloned());
        self.answers.insert(at, (distance, known.or_else(|| value.map(Arc::from))));
        self.answers.truncate(2 * self.holders);
    }

    /// Bytes of the values held. Equal values count each time.
    pub fn bytes(&self) -> usize {
        self.values().map(|value| value.len()).sum()
    }

    /// How many of the nearest nodes must have answered before [`Tally::winner`] is final: the holders, or twice as
    /// many if no holder named a value, because nearer nodes may have joined since it was stored.
    pub fn electorate(&self) -> usize {
        let nearest = self.answers.iter().take(self.holders);
        if nearest.clone().any(|(_, vote)| vote.is_some()) { self.holders } else { 2 * self.holders }
    }

    /// The value that most nodes of the electorate named, provided at least `quorum` of them did. Of equally common
    /// values, the one of the nearest node. If none of the holders named a value, at least two other nodes must agree.
    pub fn winner(&self) -> Option<&Arc<[u8]>> {
        let electorate = self.electorate();
        let named = || self.answers.iter().take(electorate).filter_map(|(_, vote)| vote.as_ref());
        let votes = |value: &Arc<[u8]>| named().filter(|vote| *vote == value).count();
        let named: Vec<&Arc<[u8]>> = named().collect();
        let most = named.into_iter().rev().max_by_key(|value| votes(value))?;
        let least = if electorate > self.holders { self.quorum.max(2) } else { self.quorum };
        (votes(most) >= least).then_some(most)
    }

    fn values(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        self.answers.iter().filter_map(|(_, vote)| vote.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wheel::Wheel;

    fn tally(quorum: usize, answers: &[(u8, Option<&[u8]>)]) -> Tally {
        let mut tally = Tally::new(Copies(3), Quorum(quorum));
        for (n, value) in answers {
            tally.add(Id([*n; 32]).distance(&Id::default()), *value);
        }
        tally
    }

    fn winner(quorum: usize, answers: &[(u8, Option<&[u8]>)]) -> Option<Vec<u8>> {
        tally(quorum, answers).winner().map(|value| value.to_vec())
    }

    const TRUE: Option<&[u8]> = Some(b"true");
    const LIE: Option<&[u8]> = Some(b"lie");

    #[test]
    fn a_put_goes_to_the_nearest_and_past_those_that_fail() {
        let contact = |n: u8| Contact { id: Id([n; 32]), addr: ([127, 0, 0, 1], u16::from(n)).into() };
        let mut put = PutJob {
            key: Id::default(),
            value: Arc::from(&b"v"[..]),
            ttl_s: 9,
            replication: 2,
            source: ([127, 0, 0, 1]).into(),
            candidates: Vec::new(),
            lookup: None,
            holders_due: Wheel::new().arm(Time::ZERO, Time::ZERO, ()),
        };
        let ask = |put: &mut PutJob| std::iter::from_fn(|| put.next_holder()).map(|c| c.id.0[0]).collect::<Vec<_>>();
        put.add_candidates([contact(5), contact(3)]);
        assert_eq!(ask(&mut put), [3, 5], "as many as wanted");
        put.settle(&contact(3).id, HolderState::Stored);
        assert!((put.copies(), put.is_done()) == (1, false) && ask(&mut put).is_empty());
        put.add_candidates([contact(9), contact(5), contact(1), contact(7)]);
        assert_eq!(ask(&mut put), [1], "a nearer one that was named later, beside those asked already");
        put.settle(&contact(1).id, HolderState::Failed);
        put.settle(&contact(5).id, HolderState::Failed);
        assert_eq!(ask(&mut put), [7], "for each that failed the next nearest");
        put.settle(&contact(7).id, HolderState::Stored);
        assert_eq!((put.copies(), put.is_done(), ask(&mut put)), (2, true, vec![]));
    }

    #[test]
    fn the_nearest_decide_and_most_of_them() {
        let (true_, lie) = (TRUE.map(<[u8]>::to_vec), LIE.map(<[u8]>::to_vec));
        assert_eq!(winner(1, &[]), None);
        let far_liars = [(90, LIE), (80, LIE), (70, LIE), (1, TRUE), (2, None), (3, None)];
        assert_eq!(winner(1, &far_liars), true_);
        assert_eq!(winner(2, &far_liars), None, "who wants two does not get them from afar");
        let outvoted = [(1, LIE), (2, TRUE), (3, TRUE)];
        assert_eq!(winner(1, &outvoted), true_);
        assert_eq!(winner(3, &outvoted), None);
        assert_eq!(winner(1, &[(2, LIE), (1, TRUE)]), true_, "the nearest among equals");
        assert_eq!(winner(1, &[(1, LIE), (2, None), (3, None)]), lie, "one is enough where one is asked for");
    }

    #[test]
    fn behind_newcomers_two_must_agree_and_all_be_heard() {
        let newcomers = [(1, None), (2, None), (3, None)];
        let late = [&newcomers[..], &[(4, TRUE), (5, TRUE), (7, LIE)]].concat();
        assert_eq!(winner(1, &late), TRUE.map(<[u8]>::to_vec));
        assert_eq!(tally(1, &late).electorate(), 6);
        let invented = [&newcomers[..], &[(90, LIE)]].concat();
        assert_eq!(winner(1, &invented), None, "a key that nobody holds, and one liar on the way");
    }

    #[test]
    fn a_quorum_above_the_replication_can_be_met() {
        let all: Vec<(u8, Option<&[u8]>)> = (1..=20).map(|n| (n, TRUE)).collect();
        assert!(tally(4, &all).winner().is_some());
    }

    #[test]
    fn far_liars_leave_neither_bytes_nor_votes_behind() {
        let mut tally = Tally::new(Copies(3), Quorum(1));
        for n in (10..100u8).rev() {
            tally.add(Id([n; 32]).distance(&Id::default()), Some(&[n; 100]));
        }
        assert_eq!((tally.answers.len(), tally.bytes()), (6, 600));
        for n in 1..=3 {
            tally.add(Id([n; 32]).distance(&Id::default()), TRUE);
        }
        assert_eq!(tally.winner().map(|value| &**value), TRUE);
    }
}
