//! One iterative lookup (Kademlia paper, section 2.3; disjoint paths as in S/Kademlia, section 4.4): whom to ask next,
//! and when to stop. Never asks anybody itself, and never asks anybody twice.

use crate::contact::{Contact, network};
use crate::id::{Distance, Id};
use crate::kad::Parameters;
use crate::limits::{LOOKUP_BUDGET, LOOKUP_IN_FLIGHT, NETWORK_PER_BUCKET, SHORTLIST};

/// What the lookup is for, which decides when it has heard enough.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Goal {
    /// The k closest living nodes. A node past its short timeout is not waited for once another has answered.
    Nodes,
    /// A value. Who is slow may hold it, so it is waited for; the caller ends the lookup once it has the value.
    Value,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum State {
    /// Nobody asked it yet.
    Fresh,
    /// Asked, and within the short timeout.
    Waiting,
    /// Asked, and past the short timeout.
    Slow,
    Answered,
    Failed,
}

#[derive(Copy, Clone, Debug)]
struct Candidate {
    contact: Contact,
    distance: Distance,
    state: State,
    path: u8,
}

/// A lookup in progress.
#[derive(Clone, Debug)]
pub struct Lookup {
    target: Id,
    goal: Goal,
    k: usize,
    /// Requests in flight per path while nobody is slow.
    alpha_per_path: usize,
    /// Nearest candidates of a path that must have been heard before the path ends.
    horizon: usize,
    /// Sorted by distance; an id stands once, on the path that named it first.
    shortlist: Vec<Candidate>,
    /// Requests left per path, so that a path led astray by liars costs the others nothing.
    budgets: Vec<usize>,
    stopped: bool,
}

impl Lookup {
    /// A lookup that starts from `seeds`, the closest contacts known, and asks none of `dead`, whoever names them.
    pub fn new(
        target: Id,
        goal: Goal,
        parameters: Parameters,
        paths: usize,
        seeds: &[Contact],
        dead: &[Contact],
    ) -> Lookup {
        let paths = paths.max(1);
        let mut lookup = Lookup {
            target,
            goal,
            k: parameters.k,
            alpha_per_path: if paths == 1 { parameters.alpha } else { parameters.alpha.div_ceil(paths) },
            horizon: if paths == 1 { parameters.k } else { parameters.k.div_ceil(paths).max(4) },
            shortlist: Vec::with_capacity(seeds.len()),
            budgets: vec![LOOKUP_BUDGET; paths],
            stopped: false,
        };
        for (contact, i) in dead.iter().zip(0..) {
            lookup.offer(*contact, (i % paths) as u8);
            lookup.failed(&contact.id);
        }
        for (contact, i) in seeds.iter().zip(0..) {
            lookup.offer(*contact, (i % paths) as u8);
        }
        lookup
    }

    /// What is looked for.
    pub fn target(&self) -> Id {
        self.target
    }

    /// What it is for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Whether this very contact is a candidate already.
    pub fn knows(&self, contact: &Contact) -> bool {
        self.position(&contact.id).is_some_and(|at| self.shortlist[at].contact == *contact)
    }

    /// Asks nobody new from now on; the lookup ends with the answers that are awaited.
    pub fn ask_no_more(&mut self) {
        self.stopped = true;
    }

    /// The contact to ask now, if any; it counts as asked. Call until `None`.
    pub fn next_to_ask(&mut self) -> Option<Contact> {
        let in_flight = self.count(|c| matches!(c.state, State::Waiting | State::Slow));
        if in_flight >= LOOKUP_IN_FLIGHT {
            return None;
        }
        let mut paths = (0..self.budgets.len() as u8).filter(|&path| self.has_room_on(path));
        let (path, at) = paths.find_map(|path| Some((path, self.askable(path)?)))?;
        self.shortlist[at].state = State::Waiting;
        self.budgets[usize::from(path)] -= 1;
        Some(self.shortlist[at].contact)
    }

    /// `from` answered and named `contacts`; those that nobody named before become candidates on its path.
    pub fn answered(&mut self, from: &Id, contacts: &[Contact]) {
        let Some(path) = self.set(from, State::Answered) else {
            return;
        };
        for contact in contacts {
            self.offer(*contact, path);
        }
    }

    /// `from` did not answer, refused, or could not be reached.
    pub fn failed(&mut self, from: &Id) {
        self.set(from, State::Failed);
    }

    /// `from` is past its short timeout: its place in flight is free for another, but it may yet answer.
    pub fn slow(&mut self, from: &Id) {
        if self.position(from).is_some_and(|at| self.shortlist[at].state == State::Waiting) {
            self.set(from, State::Slow);
        }
    }

    /// Whether there is nobody left to ask or to wait for.
    pub fn is_finished(&self) -> bool {
        // Who is slow is better than nobody.
        let waits_for_slow = self.goal == Goal::Value || self.answers() == 0;
        let waits_for = |c: &Candidate| match c.state {
            State::Waiting => true,
            State::Slow => waits_for_slow,
            State::Fresh | State::Answered | State::Failed => false,
        };
        if self.shortlist.iter().any(waits_for) {
            return false;
        }
        (0..self.budgets.len() as u8).all(|path| self.askable(path).is_none())
    }

    /// Whether a path ended for want of budget, not of candidates.
    pub fn ran_out(&self) -> bool {
        let ran_out = |path: u8| self.budgets[usize::from(path)] == 0 && self.nearest_fresh(path).is_some();
        (0..self.budgets.len() as u8).any(ran_out)
    }

    /// The up to k nearest contacts that answered, nearest first.
    pub fn closest(&self) -> Vec<Contact> {
        let answered = self.shortlist.iter().filter(|c| c.state == State::Answered);
        answered.take(self.k).map(|c| c.contact).collect()
    }

    /// The contacts that failed.
    pub fn dead(&self) -> Vec<Contact> {
        self.shortlist.iter().filter(|c| c.state == State::Failed).map(|c| c.contact).collect()
    }

    /// Contacts that answered.
    pub fn answers(&self) -> usize {
        self.count(|c| c.state == State::Answered)
    }

    fn count(&self, which: impl Fn(&Candidate) -> bool) -> usize {
        self.shortlist.iter().filter(|c| which(c)).count()
    }

    fn has_room_on(&self, path: u8) -> bool {
        self.count(|c| c.path == path && c.state == State::Waiting) < self.alpha_per_path
    }

    /// What [`Lookup::nearest_fresh`] finds, while the path's budget lasts.
    fn askable(&self, path: u8) -> Option<usize> {
        if self.stopped || self.budgets[usize::from(path)] == 0 { None } else { self.nearest_fresh(path) }
    }

    /// The nearest candidate of `path` that nobody asked, unless enough nearer ones are alive or awaited.
    fn nearest_fresh(&self, path: u8) -> Option<usize> {
        let mut alive = 0;
        for (at, candidate) in self.shortlist.iter().enumerate().filter(|(_, c)| c.path == path) {
            match candidate.state {
                State::Fresh => return Some(at),
                State::Waiting | State::Answered => alive += 1,
                State::Slow => alive += usize::from(self.goal == Goal::Value),
                State::Failed => {}
            }
            if alive >= self.horizon {
                return None;
            }
        }
        None
    }

    fn set(&mut self, id: &Id, state: State) -> Option<u8> {
        let at = self.position(id)?;
        self.shortlist[at].state = state;
        Some(self.shortlist[at].path)
    }

    fn position(&self, id: &Id) -> Option<usize> {
        let distance = self.target.distance(id);
        self.shortlist.binary_search_by_key(&distance, |c| c.distance).ok()
    }

    fn offer(&mut self, contact: Contact, path: u8) {
        let distance = self.target.distance(&contact.id);
        let Err(at) = self.shortlist.binary_search_by_key(&distance, |c| c.distance) else {
            return;
        };
        let net = network(contact.addr.ip());
        let is_neighbour = |c: &Candidate| c.path == path && net.is_some() && network(c.contact.addr.ip()) == net;
        if self.count(is_neighbour) >= NETWORK_PER_BUCKET && !self.drop_farther_fresh(at, is_neighbour) {
            return;
        }
        if self.count(|c| c.path == path) >= SHORTLIST && !self.drop_farther_fresh(at, |c| c.path == path) {
            return;
        }
        self.shortlist.insert(at, Candidate { contact, distance, state: State::Fresh, path });
    }

    /// Forgets the farthest unasked candidate behind position `at` that `which` names; whether there was one.
    fn drop_farther_fresh(&mut self, at: usize, which: impl Fn(&Candidate) -> bool) -> bool {
        let farthest = self.shortlist[at..].iter().rposition(|c| c.state == State::Fresh && which(c));
        if let Some(behind) = farthest {
            self.shortlist.remove(at + behind);
        }
        farthest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contact(n: u64) -> Contact {
        Contact { id: Id::hash_of(&[&n.to_be_bytes()]), addr: ([127, 0, 0, 1], 1 + n as u16).into() }
    }

    fn near(bits: u8) -> Contact {
        let mut id = [0; 32];
        id[31] = bits;
        Contact { id: Id(id), addr: ([127, 0, 0, 1], 1 + u16::from(bits)).into() }
    }

    fn parameters(k: usize, alpha: usize) -> Parameters {
        Parameters { k, alpha, paths: 1 }
    }

    fn ask_all(lookup: &mut Lookup) -> Vec<Contact> {
        std::iter::from_fn(|| lookup.next_to_ask()).collect()
    }

    #[test]
    fn keeps_alpha_in_flight_and_widens_when_slow() {
        let seeds: Vec<Contact> = (1..=10).map(near).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes, parameters(5, 3), 1, &seeds, &[]);
        assert_eq!(ask_all(&mut lookup), seeds[..3]);
        lookup.slow(&seeds[0].id);
        assert_eq!(ask_all(&mut lookup), seeds[3..4]);
        lookup.answered(&seeds[1].id, &[]);
        assert_eq!(ask_all(&mut lookup), seeds[4..5]);
    }

    #[test]
    fn nodes_wait_for_the_slow_while_nobody_has_answered() {
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes, parameters(2, 3), 1, &[near(1)], &[]);
        ask_all(&mut lookup);
        lookup.slow(&near(1).id);
        assert!(!lookup.is_finished());
        lookup.answered(&near(1).id, &[]);
        assert!(lookup.is_finished());
    }

    #[test]
    fn nodes_do_not_wait_for_the_slow_and_values_do() {
        for (goal, waits) in [(Goal::Nodes, false), (Goal::Value, true)] {
            let seeds = [near(1), near(2)];
            let mut lookup = Lookup::new(Id::default(), goal, parameters(2, 3), 1, &seeds, &[]);
            ask_all(&mut lookup);
            lookup.answered(&seeds[1].id, &[]);
            lookup.slow(&seeds[0].id);
            assert_eq!(lookup.is_finished(), !waits);
            lookup.failed(&seeds[0].id);
            assert!(lookup.is_finished());
            assert_eq!(lookup.closest(), [seeds[1]]);
        }
    }

    #[test]
    fn an_endless_trail_ends_with_the_budget() {
        let closer = |n: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(u64::MAX - n).to_be_bytes());
            Contact { id: Id(id), ..contact(n) }
        };
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 1, &[closer(0)], &[]);
        let (mut asked, mut n) = (0, 0);
        while let Some(liar) = lookup.next_to_ask() {
            asked += 1;
            n += 20;
            lookup.answered(&liar.id, &(n - 19..=n).map(closer).collect::<Vec<_>>());
        }
        assert_eq!(asked, LOOKUP_BUDGET);
        assert!(lookup.is_finished() && lookup.ran_out());
        assert!(lookup.shortlist.len() <= SHORTLIST + 1);
    }

    #[test]
    fn one_network_gets_two_candidates_the_nearest() {
        let mut lookup = Lookup::new(Id::default(), Goal::Nodes, parameters(20, 3), 1, &[near(200)], &[]);
        ask_all(&mut lookup);
        let neighbours: Vec<Contact> =
            (1..=50).rev().map(|n| Contact { addr: ([9, 9, 9, n], 1).into(), ..near(n) }).collect();
        lookup.answered(&near(200).id, &neighbours);
        let asked: Vec<u8> = ask_all(&mut lookup).iter().map(|c| c.id.0[31]).collect();
        assert_eq!(asked, [1, 2]);
    }

    #[test]
    fn the_dead_are_not_asked_whoever_names_them() {
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 8, &[near(9)], &[near(1), near(2)]);
        assert_eq!(ask_all(&mut lookup), [near(9)]);
        lookup.answered(&near(9).id, &[near(1), near(2), near(3)]);
        assert_eq!(ask_all(&mut lookup), [near(3)]);
        assert_eq!(lookup.dead(), [near(1), near(2)]);
    }

    #[test]
    fn disjoint_paths_share_no_candidate() {
        let seeds: Vec<Contact> = (0..8).map(contact).collect();
        let mut lookup = Lookup::new(Id::default(), Goal::Value, parameters(20, 3), 4, &seeds, &[]);
        assert_eq!(ask_all(&mut lookup).len(), 4, "one in flight per path");
        let named: Vec<Contact> = (100..110).map(contact).collect();
        for seed in &seeds {
            lookup.answered(&seed.id, &named);
        }
        let first_path = lookup.shortlist.iter().find(|c| c.contact == named[0]).unwrap().path;
        assert!(lookup.shortlist.iter().filter(|c| named.contains(&c.contact)).all(|c| c.path == first_path));
    }

    proptest! {
        #[test]
        fn finds_the_closest_living_in_a_connected_world(
            n in 2u64..150, dead in 0u64..60, target: [u8; 32], goal in prop::sample::select(vec![Goal::Nodes, Goal::Value])
        ) {
            // Everybody knows the 20 closest living to any target, and 20 dead ones.
            let target = Id(target);
            let mut living: Vec<Contact> = (0..n).map(contact).collect();
            living.sort_by_key(|c| c.id.distance(&target));
            let gone: Vec<Contact> = (0..dead).map(|i| contact(1_000 + i)).collect();
            let mut named = living[..living.len().min(20)].to_vec();
            named.extend(gone.iter().take(20));
            let mut lookup = Lookup::new(target, goal, parameters(20, 3), 1, &living[living.len() - 1..], &[]);
            let mut steps = 0;
            while !lookup.is_finished() {
                for asked in ask_all(&mut lookup) {
                    if gone.contains(&asked) {
                        lookup.slow(&asked.id);
                        lookup.failed(&asked.id);
                    } else {
                        lookup.answered(&asked.id, &named);
                    }
                }
                steps += 1;
                prop_assert!(steps < 200, "a lookup ends");
            }
            let want = living.len().min(20);
            prop_assert_eq!(&lookup.closest()[..], &living[..want]);
        }
    }
}
