//! Settings of the sealed dialect and their defaults. Contains values only, and never reads a flag or a file.

use crate::contact::Contact;
use crate::dialect::sealed::is_genuine;
use crate::dialect::sealed::store::StoreLimits;
use crate::kad::Parameters;
use crate::limits::{GET_TRIES, REPLICATION};

/// Which ids of contacts a node accepts.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Only the hash of the contact's address (docs/protocol-sealed.md, "Who is who").
    Bound,
    /// Any id, as in networks where nodes choose their ids. Only in the simulator, for comparison with the literature.
    #[cfg(feature = "sim")]
    Minted,
}

impl Ids {
    /// Whether the node may use a contact that another node named.
    pub fn admit(self, contact: &Contact) -> bool {
        match self {
            Ids::Bound => is_genuine(contact),
            #[cfg(feature = "sim")]
            Ids::Minted => true,
        }
    }
}

/// Settings of one node.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// k, alpha, and the paths of a lookup.
    pub kademlia: Parameters,
    /// Nodes that hold a value whose PUT does not say how many (API, replication 0).
    pub replication: usize,
    /// Nodes that must name the same value before a GET accepts it, unless its key certifies it.
    pub quorum: usize,
    /// Whether a PUT over several paths asks those who say that they hold the value for it, and replaces those who lie.
    pub asks_back: bool,
    /// Lookups that a GET may use.
    pub tries: usize,
    /// Which ids of contacts the node accepts.
    pub ids: Ids,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kademlia: Parameters::default(),
            replication: REPLICATION,
            quorum: 1,
            asks_back: true,
            tries: GET_TRIES,
            ids: Ids::Bound,
        }
    }
}

/// Settings of all nodes of the dialect in one process.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Settings of each node.
    pub node: Settings,
    /// Limits of the store that the nodes share.
    pub store: StoreLimits,
}
