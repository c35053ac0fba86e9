//! A world without sockets: the real nodes in virtual time, and everything that can go wrong around them. One seed decides
//! all; the same seed gives the same trace. Never opens a socket, reads a clock or asks for randomness.
//!
//! Two levels of the sealed dialect, one set of [`options`]: [`world`] moves messages between `sealed::Node`s, a hundred
//! thousand of them in a process; [`swarm`] moves bytes between whole `Engine`s over pretend TCP [`wires`](wire). And one of
//! hyperdht: [`packets`] moves datagrams between its nodes, through [`nat`]s.

pub mod address;
pub mod check;
pub mod crowd;
pub mod delay;
pub mod dialect;
pub mod dialects;
pub mod host;
mod kernel;
pub mod liar;
pub mod nat;
pub mod options;
pub mod ordeal;
pub mod packets;
pub mod peers;
pub mod plan;
pub mod report;
pub mod ring;
pub mod schedule;
pub mod swarm;
pub mod watch;
pub mod weather;
pub mod wire;
pub mod world;
