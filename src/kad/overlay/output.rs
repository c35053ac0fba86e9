//! What the overlay hands out: requests to send, ends of lookups, and counts. Plain values; they decide nothing.

use crate::arena::Key;
use crate::contact::Contact;
use crate::id::Id;
use crate::kad::lookup::{Goal, Lookup};

/// Names a lookup. A key whose lookup has ended names none, so it may be kept safely.
pub type LookupId = Key;

/// A request that the overlay wants the dialect to send.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Ask `contact` about `target`. Report the outcome by [`super::Overlay::named`], [`super::Overlay::named_as`],
    /// [`super::Overlay::failed`] or [`super::Overlay::passed_over`].
    Find {
        /// The lookup that wants to know.
        lookup: LookupId,
        /// The contact to ask.
        contact: Contact,
        /// The id in question.
        target: Id,
        /// What the lookup is for, which decides the message.
        goal: Goal,
    },
    /// Ask `contact` what it knows near our own id, in a way that does not tell it who asks. Report by
    /// [`super::Overlay::confirm_reachable`] if it named us. In a dialect whose answers never name the asker, this is
    /// how a node learns that others can find it.
    CheckReachability {
        /// The contact to ask.
        contact: Contact,
    },
    /// Ask `contact` whether it is alive. Report by [`super::Overlay::alive`] or [`super::Overlay::dead`], and the end
    /// of one with `verify` by [`super::Overlay::probe_ended`] as well.
    Probe {
        /// The contact to ask.
        contact: Contact,
        /// Whether the contact has only contacted us so far: ask in a way that proves that it listens at its address.
        verify: bool,
    },
}

/// A lookup of the dialect's that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The key that was given to [`super::Overlay::start_lookup`].
    pub owner: Key,
    /// The nearest contacts that answered, nearest first, at most k.
    pub closest: Vec<Contact>,
    /// All contacts that were queried or were to be avoided: a second lookup need not ask them.
    pub queried: Vec<Contact>,
    /// Whether a contact could not be asked because too many of our requests to it were in flight.
    pub passed_over: bool,
    /// The lookup itself, for [`super::Overlay::resume`].
    pub lookup: Lookup,
}

/// Counts that only grow, for the status page.
#[derive(Copy, Clone, Default, Debug)]
pub struct Tallies {
    /// Contacts dropped because no contact can have their address.
    pub martians: u64,
    /// Contacts kept out by the limits on contacts of one network.
    pub too_many_of_network: u64,
    /// Lookups that spent their budget of requests.
    pub lookups_ran_out: u64,
    /// Joins that were not answered.
    pub bootstraps_failed: u64,
    /// Candidates that did not answer a probe.
    pub probes_failed: u64,
    /// Contacts dropped from the table because they did not answer.
    pub contacts_lost: u64,
}

impl Tallies {
    /// Adds the counts of another node.
    pub fn add(&mut self, other: &Tallies) {
        self.martians += other.martians;
        self.too_many_of_network += other.too_many_of_network;
        self.lookups_ran_out += other.lookups_ran_out;
        self.bootstraps_failed += other.bootstraps_failed;
        self.probes_failed += other.probes_failed;
        self.contacts_lost += other.contacts_lost;
    }

    /// The counts with their names on the status page.
    pub fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("martian_contacts", self.martians),
            ("too_many_of_network", self.too_many_of_network),
            ("lookups_ran_out", self.lookups_ran_out),
            ("bootstraps_failed", self.bootstraps_failed),
            ("probes_failed", self.probes_failed),
            ("contacts_lost", self.contacts_lost),
        ]
    }
}
