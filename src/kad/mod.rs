//! Kademlia itself, shared by all dialects: buckets, routing table, lookups, requests in flight, and the overlay that
//! ties them together. Pure: it knows ids, contacts and time, but no message, no socket and no clock.

pub mod bucket;
pub mod lookup;
pub mod overlay;
pub mod requests;
pub mod routing_table;

/// What differs between dialects in how their nodes come to know each other.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct OverlayPolicy {
    /// Which contacts get the places of a bucket.
    pub bucket_policy: routing_table::BucketPolicy,
    /// Whether a node must check by requests of its own that others can find it, because no answer names the asker.
    pub probes_own_reachability: bool,
}

/// The parameters of Kademlia that a user may set.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Contacts per bucket and per answer, and nodes whose answers end a lookup: 1 to [`crate::limits::K_MAX`].
    pub k: usize,
    /// Requests a lookup keeps in flight: 1 to [`crate::limits::ALPHA_MAX`].
    pub alpha: usize,
    /// Disjoint paths of the first lookup for a value: 1 to [`crate::limits::PATHS_MAX`].
    pub paths: usize,
    /// Whether the number of contacts of one network (/24 or /48) in a table and a lookup is limited. It should be,
    /// unless all nodes are in one network.
    pub counts_networks: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        let (k, alpha, paths) = (crate::limits::K, crate::limits::ALPHA, crate::limits::PATHS);
        Parameters { k, alpha, paths, counts_networks: true }
    }
}
