//! The lookups in flight, each with its owner, and those that have to be looked at again. Part of [`super::Overlay`];
//! sends nothing, and never ends a lookup itself.

use std::collections::VecDeque;

use super::bootstrapper::Upkeep;
use super::output::{Ask, LookupId};
use crate::arena::{Arena, Key};
use crate::kad::lookup::Lookup;

/// On whose behalf a lookup runs.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// The dialect's node, which knows it by this key and is told of its end.
    Dialect(Key),
    /// The overlay itself.
    Overlay(Upkeep),
}

/// A lookup in flight.
#[derive(Debug)]
pub(super) struct Running {
    pub lookup: Lookup,
    pub owner: Owner,
    /// Whether a contact could not be asked because too many of our requests to it were in flight.
    pub passed_over: bool,
}

/// What is to be done about a lookup.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this request.
    Ask(Ask),
    /// End this lookup: no contact is left to ask or to wait for.
    Finished(LookupId),
}

/// The lookups in flight.
#[derive(Default, Debug)]
pub(super) struct Lookups {
    running: Arena<Running>,
    /// Those about which something changed since [`Lookups::next_step`] was through with them.
    changed: VecDeque<LookupId>,
}

impl Lookups {
    /// The number of lookups in flight.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether a lookup of `owner` is in flight.
    pub fn has_any_of(&self, owner: Owner) -> bool {
        self.running.iter().any(|(_, running)| running.owner == owner)
    }

    /// Takes in a new lookup; its first requests come from [`Lookups::next_step`].
    pub fn insert(&mut self, lookup: Lookup, owner: Owner) -> LookupId {
        let id = self.running.insert(Running { lookup, owner, passed_over: false });
        self.changed.push_back(id);
        id
    }

    /// A lookup in flight.
    pub fn get(&self, id: LookupId) -> Option<&Running> {
        self.running.get(id)
    }

    /// A lookup in flight, to be changed: [`Lookups::next_step`] looks at it again.
    pub fn change(&mut self, id: LookupId) -> Option<&mut Running> {
        let running = self.running.get_mut(id)?;
        self.changed.push_back(id);
        Some(running)
    }

    /// Takes a lookup out.
    pub fn remove(&mut self, id: LookupId) -> Option<Running> {
        self.running.remove(id)
    }

    /// The next thing to do; `None` until something changes. A lookup that has finished must be removed.
    pub fn next_step(&mut self) -> Option<Step> {
        while let Some(&id) = self.changed.front() {
            let next = self.running.get_mut(id).map(|running| (running.lookup.next_to_ask(), &running.lookup));
            if let Some((Some(contact), lookup)) = next {
                let (target, goal) = (lookup.target(), lookup.goal());
                return Some(Step::Ask(Ask::Find { lookup: id, contact, target, goal }));
            }
            self.changed.pop_front();
            if next.is_some_and(|(_, lookup)| lookup.is_finished()) {
                return Some(Step::Finished(id));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contact::Contact;
    use crate::id::Id;
    use crate::kad::Parameters;
    use crate::kad::lookup::Goal;

    fn contact(n: u8) -> Contact {
        Contact { id: Id([n; 32]), addr: ([127, 0, 0, 1], u16::from(n)).into() }
    }

    fn lookup(seeds: &[Contact]) -> Lookup {
        Lookup::new(Id::default(), Goal::Nodes(20), Parameters::default(), 1, seeds, &[])
    }

    /// The contact asked next, and by which lookup.
    fn asked(lookups: &mut Lookups) -> Option<(LookupId, Contact)> {
        match lookups.next_step()? {
            Step::Ask(Ask::Find { lookup, contact, .. }) => Some((lookup, contact)),
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn a_lookup_is_looked_at_when_it_changes_and_finished_once() {
        let mut lookups = Lookups::default();
        let owner = Owner::Overlay(Upkeep::Join);
        let id = lookups.insert(lookup(&[contact(1)]), owner);
        assert_eq!(asked(&mut lookups), Some((id, contact(1))));
        assert!(lookups.next_step().is_none(), "nothing has changed");
        lookups.change(id).unwrap().lookup.answered(&contact(1), &[contact(2)], |_| true);
        assert_eq!(asked(&mut lookups), Some((id, contact(2))));
        lookups.change(id).unwrap().lookup.failed(&contact(2).id);
        assert!(matches!(lookups.next_step(), Some(Step::Finished(finished)) if finished == id));
        assert!(lookups.has_any_of(owner) && lookups.remove(id).is_some());
        assert!(!lookups.has_any_of(owner) && lookups.change(id).is_none());
        assert!(lookups.next_step().is_none());
    }

    #[test]
    fn lookups_take_turns_in_the_order_in_which_they_changed_and_the_removed_are_skipped() {
        let mut lookups = Lookups::default();
        let owner = |n| Owner::Dialect(Key::from_bits(n));
        let ids: Vec<LookupId> = (1..=3).map(|n| lookups.insert(lookup(&[contact(n)]), owner(u64::from(n)))).collect();
        lookups.remove(ids[1]);
        assert_eq!(asked(&mut lookups), Some((ids[0], contact(1))));
        lookups.change(ids[0]).unwrap().lookup.answered(&contact(1), &[contact(9)], |_| true);
        assert_eq!(asked(&mut lookups), Some((ids[0], contact(9))), "it is still the first");
        assert_eq!(asked(&mut lookups), Some((ids[2], contact(3))));
        assert!(lookups.next_step().is_none());
        assert_eq!(lookups.len(), 2);
    }
}
