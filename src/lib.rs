//! dayfly: a Kademlia node in one small binary. What you put into it lives less than ten seconds.
//!
//! The tour of the house, from the ground up. Each may use only what stands above it, which `tests/tidy.rs` enforces:
//!
//! * [`hash`], [`id`], [`time`], [`limits`], [`arena`]: SHA-256, ids and their distance, the clock as a number, every
//!   bound of the program.
//! * [`contact`], [`wheel`], [`buffer`]: who is where, the timer wheel, a connection's inbox and outbox.
//! * [`guard`], [`sources`]: counters of every fault with their log lines, and who uses how much.
//! * [`kad`]: Kademlia itself: buckets, routing table, lookups, requests in flight, the overlay over them all.
//! * [`dialect`]: the wires. [`dialect::sealed`]: codec, session, node, store, and the VoidPhone API. `dialect::hyperdht`, with
//!   the feature `hyperdht`: datagrams, the request layer, node, records.
//! * [`engine`]: connections without sockets, datagram listeners, the pool: bytes in, bytes and dials out.
//! * `load`: what `dayfly bench` asks and how it judges the answers, with the feature `bench`.
//! * [`net`]: the only sockets and the only clock: one poll loop around one engine.
//! * `sim`: a world without sockets for the nodes and engines, with the feature `sim`.
//! * [`cli`]: words to settings, outcomes to exit codes.
//!
//! All but [`net`] and [`cli`] are pure: time, bytes and seeds come in as arguments, what is to be done goes out as
//! values.

pub mod arena;
pub mod buffer;
pub mod cli;
pub mod contact;
pub mod dialect;
pub mod embed;
pub mod engine;
pub mod guard;
pub mod hash;
pub mod id;
pub mod kad;
pub mod limits;
#[cfg(feature = "bench")]
pub mod load;
pub mod net;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sources;
pub mod time;
pub mod wheel;

pub use embed::Node;
