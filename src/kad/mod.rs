//! Kademlia itself, shared by all dialects: buckets, routing table, lookups, requests in flight, and the overlay that
//! ties them together. Pure: knows ids, contacts and time; knows no message, no socket, no clock.

pub mod bucket;
pub mod lookup;
pub mod overlay;
pub mod requests;
pub mod routing_table;

/// How the nodes of a dialect come to know each other.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct OverlayPolicy {
    /// Who gets the places of a bucket.
    pub buckets: routing_table::BucketPolicy,
    /// No answer names the asker, so a node must find out elsewhere whether others can find it.
    pub probes_own_reachability: bool,
}

/// The parameters of Kademlia that a person may set.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Contacts per bucket and per answer, nodes a lookup hears from: 1 to [`crate::limits::K_MAX`].
    pub k: usize,
    /// Requests a lookup keeps in flight: 1 to [`crate::limits::ALPHA_MAX`].
    pub alpha: usize,
    /// Disjoint paths of a first lookup: 1 to [`crate::limits::PATHS_MAX`].
    pub paths: usize,
    /// Whether contacts of one network (/24, /64) are few in a table and a lookup: not where all are of one.
    pub counts_networks: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        let (k, alpha, paths) = (crate::limits::K, crate::limits::ALPHA, crate::limits::PATHS);
        Parameters { k, alpha, paths, counts_networks: true }
    }
}
