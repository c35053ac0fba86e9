//! Jobs: coordinated PUTs and GETs, each with somebody waiting for the outcome. Only keeps records; never sends or
//! stores anything, which is up to the node.

use std::net::IpAddr;
use std::sync::Arc;

use crate::arena::Key;
use crate::contact::Contact;
use crate::dialect::sealed::codec::ErrorCode;
use crate::dialect::sealed::tally::Tally;
use crate::id::{Id, Metric};
use crate::kad::lookup::Lookup;
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
    /// The value of the PUT is stored.
    Stored {
        /// The number of nodes that hold it, at least 1.
        copies: usize,
        /// Whether these are fewer than were asked for, although there are more nodes.
        is_short: bool,
    },
    /// No node holds the value of the PUT. The reason is the one that the nodes gave ([`ErrorCode::TooLarge`],
    /// [`ErrorCode::Full`] or [`ErrorCode::Refused`]), or [`ErrorCode::Unreachable`] if none gave one.
    Refused(ErrorCode),
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
    /// How many candidates may be asked. The lookup has made sure that these are the nearest nodes, which a GET asks
    /// too; a copy farther out might not be found.
    pub reach: usize,
    pub lookup: Option<LookupId>,
    /// The lookup after its end, to be resumed if too few of the nodes that it found hold the value.
    pub ended: Option<Lookup>,
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
    /// It says that it holds the value, and has been asked for it.
    AskedBack,
    /// It holds the value.
    Stored,
    /// It would not hold the value, perhaps for this reason.
    Refused(Option<ErrorCode>),
    /// It said that it holds the value, and does not.
    Lied,
    /// It did not answer.
    Failed,
}

impl HolderState {
    /// The state of a node that answered a PUT by an ERROR with this code.
    pub fn of_error(code: u32) -> HolderState {
        let of_holder = |code: &ErrorCode| matches!(code, ErrorCode::TooLarge | ErrorCode::Full | ErrorCode::Refused);
        HolderState::Refused(ErrorCode::from_code(code).filter(of_holder))
    }

    fn is_copy(self) -> bool {
        matches!(self, HolderState::AskedBack | HolderState::Stored)
    }

    fn is_lost(self) -> bool {
        matches!(self, HolderState::Refused(_) | HolderState::Lied | HolderState::Failed)
    }
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
    /// it. Each node that failed or refused is replaced by the next nearest within reach, and each that lied by two,
    /// because where there is one liar there are others, and to find them out one after the other takes long.
    pub fn next_holder(&mut self) -> Option<Contact> {
        let count = |state| self.candidates.iter().filter(|candidate| candidate.state == state).count();
        let has_enough = count(HolderState::Stored) >= self.replication;
        let wanted = self.replication + if has_enough { 0 } else { count(HolderState::Lied) };
        let within_reach = self.candidates.iter_mut().take(self.reach);
        let eligible = within_reach.filter(|candidate| !candidate.state.is_lost());
        let next = eligible.take(wanted).find(|candidate| candidate.state == HolderState::Unasked)?;
        next.state = HolderState::Asked;
        Some(next.contact)
    }

    /// `id` holds the value, or will not, or has been asked for it.
    pub fn settle(&mut self, id: &Id, state: HolderState) {
        let of_id = self.candidates.iter_mut().find(|candidate| candidate.contact.id == *id);
        of_id.into_iter().for_each(|candidate| candidate.state = state);
    }

    /// The number of nodes that have stored the value.
    pub fn copies(&self) -> usize {
        self.candidates.iter().filter(|candidate| candidate.state.is_copy()).count()
    }

    /// Whether the lookup has ended and every node that was asked has answered or failed. Meaningful once
    /// [`PutJob::next_holder`] returns `None`.
    pub fn is_done(&self) -> bool {
        let is_open = |state| matches!(state, HolderState::Asked | HolderState::AskedBack);
        self.lookup.is_none() && !self.candidates.iter().any(|candidate| is_open(candidate.state))
    }

    /// The outcome if the job ended now.
    pub fn outcome(&self) -> Outcome {
        let copies = self.copies();
        if copies == 0 {
            return Outcome::Refused(self.reason());
        }
        let is_another = |state: HolderState| !state.is_copy() && state != HolderState::Failed;
        let has_others = self.lookup.is_some() || self.candidates.iter().any(|candidate| is_another(candidate.state));
        Outcome::Stored { copies, is_short: copies < self.replication && has_others }
    }

    /// Why no node holds the value: the reason that most nodes gave, of equally common ones that of the nearest node.
    fn reason(&self) -> ErrorCode {
        let reasons = || {
            self.candidates.iter().filter_map(|candidate| match candidate.state {
                HolderState::Refused(reason) => reason,
                _ => None,
            })
        };
        let most = reasons().rev().max_by_key(|reason| reasons().filter(|other| other == reason).count());
        most.unwrap_or(ErrorCode::Unreachable)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wheel::Wheel;

    fn contact(n: u8) -> Contact {
        Contact { id: Id([n; 32]), addr: ([127, 0, 0, 1], u16::from(n)).into() }
    }

    /// A PUT whose lookup has ended with these nodes.
    fn put(replication: usize, reach: usize, nodes: &[u8]) -> PutJob {
        let mut put = PutJob {
            key: Id::default(),
            value: Arc::from(&b"v"[..]),
            ttl_s: 9,
            replication,
            source: ([127, 0, 0, 1]).into(),
            candidates: Vec::new(),
            reach,
            lookup: None,
            ended: None,
            holders_due: Wheel::new().arm(Time::ZERO, Time::ZERO, ()),
        };
        put.add_candidates(nodes.iter().copied().map(contact));
        put
    }

    /// Whom the PUT asks now.
    fn ask(put: &mut PutJob) -> Vec<u8> {
        std::iter::from_fn(|| put.next_holder()).map(|holder| holder.id.0[0]).collect()
    }

    fn settle(put: &mut PutJob, states: &[(u8, HolderState)]) {
        states.iter().for_each(|(n, state)| put.settle(&contact(*n).id, *state));
    }

    const FULL: HolderState = HolderState::Refused(Some(ErrorCode::Full));
    const TOO_LARGE: HolderState = HolderState::Refused(Some(ErrorCode::TooLarge));

    #[test]
    fn a_put_goes_to_the_nearest_and_past_those_that_fail() {
        let mut put = put(2, 8, &[5, 3]);
        assert_eq!(ask(&mut put), [3, 5], "as many as wanted");
        settle(&mut put, &[(3, HolderState::Stored)]);
        assert!((put.copies(), put.is_done()) == (1, false) && ask(&mut put).is_empty());
        put.add_candidates([contact(9), contact(5), contact(1), contact(7)]);
        assert_eq!(ask(&mut put), [1], "a nearer one that was named later, beside those asked already");
        settle(&mut put, &[(1, HolderState::Failed), (5, HolderState::Failed)]);
        assert_eq!(ask(&mut put), [7], "for each that failed the next nearest");
        settle(&mut put, &[(7, HolderState::Stored)]);
        assert_eq!((put.copies(), put.is_done(), ask(&mut put)), (2, true, vec![]));
    }

    #[test]
    fn no_copy_lies_beyond_the_nodes_that_are_known_to_be_the_nearest() {
        let mut put = put(2, 4, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(ask(&mut put), [1, 2]);
        settle(&mut put, &[(1, FULL), (2, HolderState::Failed)]);
        assert_eq!(ask(&mut put), [3, 4]);
        settle(&mut put, &[(3, FULL), (4, FULL)]);
        assert!(ask(&mut put).is_empty() && put.is_done(), "5 and 6 may not be the next ones");
        put.reach = 20;
        assert_eq!(ask(&mut put), [5, 6], "once the lookup has made sure of it");
    }

    #[test]
    fn one_that_lied_is_replaced_by_two_until_enough_are_true() {
        let mut put = put(3, 20, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(ask(&mut put), [1, 2, 3]);
        settle(&mut put, &[(1, HolderState::AskedBack), (2, HolderState::AskedBack), (3, HolderState::Stored)]);
        assert!(put.copies() == 3 && !put.is_done() && ask(&mut put).is_empty());
        settle(&mut put, &[(1, HolderState::Lied)]);
        assert_eq!(ask(&mut put), [4, 5]);
        settle(&mut put, &[(2, HolderState::Stored), (4, HolderState::Stored), (5, HolderState::Lied)]);
        assert!(ask(&mut put).is_empty() && put.is_done());
        assert_eq!(put.outcome(), Outcome::Stored { copies: 3, is_short: false });
    }

    #[test]
    fn fewer_copies_than_asked_for_are_too_few_only_where_there_are_more_nodes() {
        let outcome = |states: &[(u8, HolderState)]| {
            let mut put = put(3, 20, &[1, 2, 3]);
            settle(&mut put, states);
            put.outcome()
        };
        let stored = HolderState::Stored;
        let of_all = |copies| Outcome::Stored { copies, is_short: false };
        let short = |copies| Outcome::Stored { copies, is_short: true };
        assert_eq!(outcome(&[(1, stored), (2, stored), (3, stored)]), of_all(3));
        assert_eq!(outcome(&[(1, stored), (2, HolderState::Failed), (3, stored)]), of_all(2), "the dead are no nodes");
        for other in [FULL, TOO_LARGE, HolderState::Lied, HolderState::Unasked, HolderState::Asked] {
            assert_eq!(outcome(&[(1, stored), (2, other), (3, stored)]), short(2));
        }
        let mut cut_off = put(3, 20, &[1]);
        settle(&mut cut_off, &[(1, stored)]);
        assert_eq!(cut_off.outcome(), of_all(1));
        cut_off.lookup = Some(JobId::from_bits(0));
        assert_eq!(cut_off.outcome(), short(1), "others may be out there");
    }

    /// Regression (bug-hunt, row 51): whatever the holders said, the PUT ended with ERROR 8.
    #[test]
    fn where_nobody_holds_it_the_reason_named_most_often_says_why() {
        let reason = |states: &[HolderState]| {
            let mut put = put(3, 20, &[1, 2, 3, 4]);
            (1..).zip(states).for_each(|(n, state)| settle(&mut put, &[(n, *state)]));
            match put.outcome() {
                Outcome::Refused(reason) => reason,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reason(&[TOO_LARGE, FULL, FULL, HolderState::Failed]), ErrorCode::Full);
        assert_eq!(reason(&[TOO_LARGE, FULL]), ErrorCode::TooLarge, "the nearest one's among equals");
        let silent = HolderState::Refused(None);
        assert_eq!(reason(&[silent, HolderState::Failed, silent, FULL]), ErrorCode::Full);
        assert_eq!(reason(&[silent, HolderState::Failed, HolderState::Lied]), ErrorCode::Unreachable);
        let of_code = |code| HolderState::of_error(ErrorCode::code(code));
        assert_eq!((of_code(ErrorCode::Full), of_code(ErrorCode::Busy)), (FULL, silent), "busy is no reason to name");
        assert_eq!(HolderState::of_error(99), silent);
    }
}
