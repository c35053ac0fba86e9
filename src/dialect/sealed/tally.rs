//! The answers to a GET, and which value they name. Any node that is asked on the way can make up a value that its key
//! does not certify, so how much an answer counts depends on how near to the key its sender is. Never asks anybody.

use std::sync::Arc;

use crate::id::{Distance, Id};
use crate::limits::{TALLY_ANSWERS, VALUE_MAX};

/// The number of nodes that should have a copy of a value.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Copies(pub usize);

/// The number of nodes that must name the same value before a GET accepts it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Quorum(pub usize);

/// Whose answers a [`Tally`] has, which decides how far out a value may come from.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// Those of the nearest nodes.
    Nearest,
    /// Those of this many nearest nodes: a lookup has ended.
    Lookup(usize),
    /// All that there is time for.
    All,
}

/// The answers of the [`TALLY_ANSWERS`] nodes nearest to the key.
#[derive(Debug)]
pub(super) struct Tally {
    /// How many nodes should hold the value, if it was stored with this node's settings.
    holders: usize,
    quorum: usize,
    /// For each answer, nearest first, the distance of its sender from the key, and the hash of the value, if it named
    /// one.
    answers: Vec<(Distance, Option<Id>)>,
    /// The values that the answers name, each once.
    values: Vec<(Id, Arc<[u8]>)>,
}

impl Tally {
    /// A tally without answers.
    pub fn new(copies: Copies, quorum: Quorum) -> Tally {
        Tally { holders: copies.0.max(quorum.0), quorum: quorum.0, answers: Vec::new(), values: Vec::new() }
    }

    /// Counts the answer of a node at this distance from the key: the value with its SHA-256, or `None` if the node has
    /// no value.
    pub fn add(&mut self, distance: Distance, value: Option<(Id, &[u8])>) {
        let Err(at) = self.answers.binary_search_by_key(&distance, |(distance, _)| *distance) else {
            return;
        };
        if at >= TALLY_ANSWERS {
            return;
        }
        if let Some((hash, value)) = value.filter(|(hash, _)| self.value(hash).is_none()) {
            self.values.push((hash, value.into()));
        }
        self.answers.insert(at, (distance, value.map(|(hash, _)| hash)));
        self.answers.truncate(TALLY_ANSWERS);
        self.forget_excess();
    }

    /// Bytes of the values held. Equal values count once.
    pub fn bytes(&self) -> usize {
        self.values.iter().map(|(_, value)| value.len()).sum()
    }

    /// How many of the nearest nodes must have answered before [`Tally::winner`] among the [`Heard::Nearest`] is final:
    /// the holders, or twice as many if no holder named a value, because nearer nodes may have joined since it was
    /// stored.
    pub fn electorate(&self) -> usize {
        if self.votes(self.holders).next().is_some() { self.holders } else { 2 * self.holders }
    }

    /// The value that the key has, as far as this can be told from whom we have `heard`:
    ///
    /// * The one that most of the nearest nodes named, as many as should hold it; of equally common ones that of the
    ///   nearest node.
    /// * If none of those named a value, or too few: nearer nodes may have joined since, or would not hold it. Then the
    ///   first value, going outwards from the key, that two nodes have named.
    /// * If there is none and nobody else can be asked: the one that the nearest of all has named.
    ///
    /// In any case at least `quorum` nodes must have named it. With a quorum above 1 only the electorate counts: among
    /// many nodes it is easier to find two liars than one, and who asks for a quorum would rather find nothing.
    pub fn winner(&self, heard: Heard) -> Option<&Arc<[u8]>> {
        let reach = match heard {
            _ if self.quorum > 1 => self.electorate(),
            Heard::Nearest => self.electorate(),
            Heard::Lookup(nearest) => nearest.max(self.electorate()),
            Heard::All => self.answers.len(),
        };
        let mut most: Option<(usize, Id)> = None;
        for hash in self.votes(self.holders) {
            let count = self.count(self.holders, &hash);
            if most.is_none_or(|(so_far, _)| count > so_far) {
                most = Some((count, hash));
            }
        }
        if let Some((_, hash)) = most.filter(|(_, hash)| self.count(reach, hash) >= self.quorum) {
            return self.value(&hash);
        }
        let agreeing = self.quorum.max(2);
        for (at, (_, vote)) in (1..=reach).zip(&self.answers) {
            if let Some(hash) = vote.as_ref().filter(|hash| self.count(at, hash) >= agreeing) {
                return self.value(hash);
            }
        }
        let lone = self.votes(reach).next().filter(|_| heard == Heard::All && self.quorum <= 1)?;
        self.value(&lone)
    }

    /// How many of the `nearest` nodes named the value of this hash.
    fn count(&self, nearest: usize, hash: &Id) -> usize {
        self.votes(nearest).filter(|vote| vote == hash).count()
    }

    /// The hashes of the values that the `nearest` nodes named, nearest first.
    fn votes(&self, nearest: usize) -> impl Iterator<Item = Id> + '_ {
        self.answers.iter().take(nearest).filter_map(|(_, vote)| *vote)
    }

    fn value(&self, hash: &Id) -> Option<&Arc<[u8]>> {
        self.values.iter().find(|(known, _)| known == hash).map(|(_, value)| value)
    }

    /// Forgets the values that only forgotten answers named, and, while the values take more bytes than twice the
    /// holders could name, the one that is first named farthest out: so those that lie on the way take no memory.
    fn forget_excess(&mut self) {
        let Tally { answers, values, holders, .. } = self;
        let rank =
            |answers: &[(Distance, Option<Id>)], hash: Id| answers.iter().position(|(_, vote)| *vote == Some(hash));
        values.retain(|(hash, _)| rank(answers, *hash).is_some());
        while values.iter().map(|(_, value)| value.len()).sum::<usize>() > 2 * *holders * VALUE_MAX {
            let farthest = (0..values.len()).max_by_key(|at| rank(answers, values[*at].0)).unwrap_or(0);
            let (forgotten, _) = values.swap_remove(farthest);
            let naming = answers.iter_mut().filter(|(_, vote)| *vote == Some(forgotten));
            naming.for_each(|(_, vote)| *vote = None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::K;

    const TRUE: Option<&[u8]> = Some(b"true");
    const LIE: Option<&[u8]> = Some(b"lie");
    const ENDED: Heard = Heard::Lookup(K);

    fn add(tally: &mut Tally, n: u8, value: Option<&[u8]>) {
        tally.add(Id([n; 32]).distance(&Id::default()), value.map(|value| (Id::of(value), value)));
    }

    fn tally(quorum: usize, answers: &[(u8, Option<&[u8]>)]) -> Tally {
        let mut tally = Tally::new(Copies(3), Quorum(quorum));
        answers.iter().for_each(|(n, value)| add(&mut tally, *n, *value));
        tally
    }

    fn winner(quorum: usize, heard: Heard, answers: &[(u8, Option<&[u8]>)]) -> Option<Vec<u8>> {
        tally(quorum, answers).winner(heard).map(|value| value.to_vec())
    }

    fn true_() -> Option<Vec<u8>> {
        TRUE.map(<[u8]>::to_vec)
    }

    #[test]
    fn the_nearest_decide_and_most_of_them() {
        let far_liars = [(90, LIE), (80, LIE), (70, LIE), (1, TRUE), (2, None), (3, None)];
        for heard in [Heard::Nearest, ENDED, Heard::All] {
            assert_eq!(winner(1, heard, &[]), None);
            assert_eq!(winner(1, heard, &far_liars), true_(), "however many lie farther out");
            assert_eq!(winner(1, heard, &[(1, LIE), (2, TRUE), (3, TRUE)]), true_());
            assert_eq!(winner(3, heard, &[(1, LIE), (2, TRUE), (3, TRUE)]), None);
            assert_eq!(winner(1, heard, &[(2, LIE), (1, TRUE)]), true_(), "the nearest among equals");
            let lone = [(1, LIE), (2, None), (3, None)];
            assert_eq!(winner(1, heard, &lone).as_deref(), LIE, "one is enough where one is asked for");
        }
        assert_eq!(winner(2, Heard::Nearest, &far_liars), None, "who wants two does not get them from afar at once");
    }

    #[test]
    fn behind_newcomers_two_must_agree_and_all_be_heard() {
        let newcomers = [(1, None), (2, None), (3, None)];
        let late = [&newcomers[..], &[(4, TRUE), (5, TRUE), (7, LIE)]].concat();
        assert_eq!(winner(1, Heard::Nearest, &late), true_());
        assert_eq!(tally(1, &late).electorate(), 6);
        let lone = [&newcomers[..], &[(4, TRUE)]].concat();
        assert_eq!(winner(1, Heard::Nearest, &lone), None);
    }

    /// Regression (bug-hunt, row 48): what a PUT had stored on the eighth node was not found.
    #[test]
    fn where_the_nearest_have_nothing_a_farther_one_counts_once_all_are_heard() {
        let full: Vec<(u8, Option<&[u8]>)> = (1..=7).map(|n| (n, None)).collect();
        let lone = [&full[..], &[(8, TRUE)]].concat();
        assert_eq!(winner(1, Heard::Nearest, &lone), None);
        assert_eq!(winner(1, ENDED, &lone), None, "another lookup may find a second or a nearer one");
        assert_eq!(winner(1, Heard::All, &lone), true_());
        assert_eq!(winner(2, Heard::All, &lone), None, "a quorum is a quorum");
        let agreeing = [&full[..], &[(8, LIE), (9, TRUE), (10, TRUE)]].concat();
        for heard in [ENDED, Heard::All] {
            assert_eq!(winner(1, heard, &agreeing), true_(), "those that agree first");
            assert_eq!(winner(2, heard, &agreeing), None, "a quorum comes from the nearest");
        }
        let first = [&full[..], &[(8, TRUE), (9, TRUE), (10, LIE), (11, LIE), (12, LIE)]].concat();
        assert_eq!(winner(1, Heard::All, &first), true_(), "the nearer two, not the most");
        let beyond: Vec<(u8, Option<&[u8]>)> = (1..=30).map(|n| (n, TRUE.filter(|_| n > 25))).collect();
        assert_eq!((winner(1, ENDED, &beyond), winner(1, Heard::All, &beyond)), (None, true_()));
    }

    #[test]
    fn a_quorum_above_the_replication_can_be_met() {
        let all: Vec<(u8, Option<&[u8]>)> = (1..=20).map(|n| (n, TRUE)).collect();
        assert!(tally(4, &all).winner(Heard::Nearest).is_some());
    }

    #[test]
    fn far_liars_leave_neither_bytes_nor_votes_behind() {
        let mut tally = Tally::new(Copies(3), Quorum(1));
        for n in (10..110u8).rev() {
            add(&mut tally, n, Some(&[n; VALUE_MAX]));
        }
        assert_eq!((tally.answers.len(), tally.bytes()), (TALLY_ANSWERS, 6 * VALUE_MAX));
        assert_eq!(tally.votes(TALLY_ANSWERS).count(), 6, "the nearest ones");
        assert!(tally.winner(Heard::Nearest).is_some_and(|value| value[0] == 10));
        for n in 1..=3 {
            add(&mut tally, n, TRUE);
        }
        assert_eq!(tally.winner(Heard::Nearest).map(|value| &**value), TRUE);
        (120..250).for_each(|n| add(&mut tally, n, LIE));
        assert!((tally.answers.len(), tally.values.len()) == (TALLY_ANSWERS, 6), "too far away to be remembered");
    }
}
