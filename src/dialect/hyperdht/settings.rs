//! What a person may set of a hyperdht node. Holds values only; everything else is the same for all nodes of this dialect.

use crate::kad::Parameters;
use crate::limits::{DATAGRAM_ALPHA, K};

/// The settings of one node.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether the table and each lookup take only a few contacts of one network (/24, /64). Off where all nodes are of
    /// one network.
    pub counts_networks: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { counts_networks: true }
    }
}

impl Settings {
    /// Kademlia's parameters, as the other implementations have them.
    pub fn parameters(self) -> Parameters {
        Parameters { k: K, alpha: DATAGRAM_ALPHA, paths: 1, counts_networks: self.counts_networks }
    }
}
