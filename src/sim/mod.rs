//! A world without sockets: the real nodes in virtual time, and everything that can go wrong around them. One seed decides
//! all; the same seed gives the same trace. Never opens a socket, reads a clock or asks for randomness.
//!
//! Two levels, one set of [`options`]: [`world`] moves messages between `sealed::Node`s, a hundred thousand of them in a
//! process; [`swarm`] moves bytes between whole `Engine`s over pretend TCP [`wires`](wire).

pub mod check;
pub mod crowd;
pub mod delay;
pub mod host;
mod kernel;
pub mod liar;
pub mod options;
pub mod ordeal;
pub mod plan;
pub mod report;
pub mod ring;
pub mod schedule;
pub mod swarm;
pub mod watch;
pub mod weather;
pub mod wire;
pub mod world;
