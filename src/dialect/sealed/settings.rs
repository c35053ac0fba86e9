//! What may be set of the sealed dialect, and what it is if nobody sets it. Values only.

use crate::contact::Contact;
use crate::dialect::sealed::is_genuine;
use crate::dialect::sealed::store::StoreLimits;
use crate::kad::Parameters;
use crate::limits::{GET_TRIES, REPLICATION};

/// Which ids of contacts are believed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Only the hash of the contact's address (docs/protocol-sealed.md, "Who is who").
    Bound,
    /// Any, as in networks where a node chooses its id: for comparison with the literature, in the simulator only.
    #[cfg(feature = "sim")]
    Minted,
}

impl Ids {
    /// Whether a contact that somebody named may be taken up.
    pub fn admit(self, contact: &Contact) -> bool {
        match self {
            Ids::Bound => is_genuine(contact),
            #[cfg(feature = "sim")]
            Ids::Minted => true,
        }
    }
}

/// What a person may set of a node.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// k, alpha and paths.
    pub kademlia: Parameters,
    /// Holders of a value whose PUT leaves it to us (API, replication 0).
    pub replication: usize,
    /// Holders that must agree on a value that is not certified by its key.
    pub quorum: usize,
    /// Lookups that a GET may take.
    pub tries: usize,
    /// Which ids are believed.
    pub ids: Ids,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kademlia: Parameters::default(),
            replication: REPLICATION,
            quorum: 1,
            tries: GET_TRIES,
            ids: Ids::Bound,
        }
    }
}

/// What a person may set of all nodes of the dialect in one process.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Of each node.
    pub node: Settings,
    /// Of the store that the nodes share.
    pub store: StoreLimits,
}
