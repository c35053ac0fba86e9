//! dayfly: a Kademlia node in one small binary, for values that live less than ten seconds.
//!
//! [`Node`] is the façade for embedding a node in another program. The other modules are public for the simulator, the
//! tests and the benchmarks. From the ground up; each may use only those above it, which `tests/tidy.rs` enforces:
//!
//! * `hash`, `id`, `time`, `limits`, `arena`: SHA-256, ids and XOR distance, time as a number, every bound with its
//!   reason, a slab with safe keys.
//! * `contact`, `wheel`, `buffer`, `recent`: an id at an address, the timer wheel, a connection's inbox and outbox, what
//!   is remembered for a while.
//! * `guard`, `sources`: a counter for every kind of fault, and how much each source uses.
//! * `kad`: Kademlia: k-buckets, routing table, lookups, pending requests, and the overlay that joins them.
//! * `dialect`: the protocols. `dialect::stream` is the interface between a byte-stream protocol and the engine.
//! * `engine`: connections without sockets: bytes in, bytes and dials out.
//! * `load`, `sim`: load tests, and a world without sockets. Features `bench` and `sim`.
//! * `net`: the only sockets and the only clock: one poll loop around one engine.
//! * `embed`: [`Node`].
//! * `cli`: flags to settings, outcomes to exit codes.
//!
//! All modules before `net` are pure: time, bytes and random seeds come in as arguments, and what the caller must do
//! goes out as values. docs/architecture.md says more.

#[doc(hidden)]
pub mod arena;
#[doc(hidden)]
pub mod buffer;
#[doc(hidden)]
pub mod cli;
pub mod contact;
pub mod dialect;
pub mod embed;
pub mod engine;
#[doc(hidden)]
pub mod guard;
pub mod hash;
pub mod id;
pub mod kad;
pub mod limits;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod load;
pub mod net;
#[doc(hidden)]
pub mod recent;
#[cfg(feature = "sim")]
pub mod sim;
#[doc(hidden)]
pub mod sources;
pub mod time;
#[doc(hidden)]
pub mod wheel;

pub use embed::Node;
