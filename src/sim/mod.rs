//! A world without sockets: the nodes and engines that are deployed, in virtual time, and everything that can go wrong
//! around them. One seed decides all that happens, so the same seed gives the same run to the last byte. Nothing here
//! opens a socket, reads a clock or asks for randomness. Compiled with the feature `sim` only.
//!
//! # Three levels
//!
//! | level | what runs | what moves | size | who drives it |
//! |---|---|---|---|---|
//! | bytes | whole `Engine`s of any dialect | pretend TCP: [`swarm`] | thousands | [`ordeal`] (faults), [`crowd`] (measures) |
//! | messages | sealed `Node`s with their stores | messages: [`world`] | 100,000 hosts | [`plan`], with [`check`] |
//! | datagrams | hyperdht `Node`s behind [`nat`]s | datagrams: [`packets`] | 10,000 hosts | [`peers`] |
//!
//! They share the [`schedule`] of events, the [`address`]es of hosts, the [`delay`]s between them, and the [`report`].
//!
//! # The clock
//!
//! A world's [`Time`](crate::time::Time) is a number of milliseconds. `step(until)` takes the next event off the
//! schedule, sets the time to that of the event, and lets it happen; `run_until(until)` does so until nothing is due.
//! Events of the same millisecond happen in the order in which they were added. No time passes while a node computes.
//! An engine or node is woken when its `next_deadline` has come, and must have a later one afterwards, or the run fails
//! as a busy loop. Every event is added to the run's trace, a hash: two runs with the same trace were the same run.
//!
//! # What happens to machines
//!
//! At the byte level a connection is a [`wire`]. Its events are: the first packet of a dial arrives; the dial succeeds
//! or is refused; bytes, a FIN or an RST arrive; there is room to write again. A machine's timer fires, and a frozen
//! machine thaws. `kernel` makes these out of what engines and clients do, as Linux would, simultaneous opens included.
//!
//! A run of the [`ordeal`] has three parts:
//!
//! 1. *Faults.* The seed draws the [`weather`] and 3 to 8 machines. Each of 3,000 steps is an event or, one in 24, an
//!    action: a machine is killed (with or without RSTs) or started again with nothing in its memory; a machine stands
//!    still while its clock goes on; the network is in two parts; a stranger sends nonsense, too much, or nothing; or a
//!    client makes a request. Beside that, packets are split down to single bytes and delayed, connections are reset,
//!    first packets of dials are lost, windows are small, and some machines can't be dialled.
//! 2. *Healing.* The faults stop. In time, all that was asked is answered, no machine lists one that can't be dialled,
//!    and what a client tells any machine shows at its neighbour.
//! 3. *Rest.* The clients leave. In time, each machine holds no memory for connections and none of the clients'
//!    connections.
//!
//! # What must hold
//!
//! * After every turn of every engine: `Engine::check_invariants`, buffers and connections within their limits, and
//!   every byte that was sent accounted for as handled, refused or unread.
//! * For every answer: what the [`SimDialect`](dialect::SimDialect) says. In [`dialects::sealed`], a value comes back
//!   only under its key and within its lifetime, and an answer repeats the key of its request.
//! * For every copy of a value: it is served up to the last millisecond of the lifetime that its client asked for, and not
//!   after (messages: each holder is asked in both; bytes: a machine that alone holds a value is).
//! * What a node reported as stored is found while a holder lives that can be dialled, where nobody lies
//!   ([`scenario`], [`ordeal::Ordeal::keep_promises`]).
//! * At the end: what the parts above say.
//!
//! For each check of the simulator's own there is a *canary*, a fault of the test's own making, and a test in which it
//! is caught.
//!
//! # How to replay a failing seed
//!
//! A failing test prints the command, for instance
//!
//! ```text
//! SWARM_SEED=4947 cargo test --features sim --test swarm sealed_swarms -- --nocapture
//! SIM_SEED=17 cargo test --features sim --test sim whatever -- --nocapture
//! ```
//!
//! and the step at which it failed. `SWARM_SEEDS=10000` looks for failing seeds. A change of a node or of the simulator
//! makes other runs of the same seeds; a failure worth keeping becomes a unit test with its own name.
//!
//! # Which file does what
//!
//! * [`swarm`]: machines, clients, turns of engines. `kernel`: TCP. [`wire`]: one connection. [`weather`]: what goes
//!   wrong.
//! * [`dialect`]: what the byte level must be told of a dialect; [`dialects`]: a file for each. The files above know
//!   none.
//! * [`ordeal`]: the three parts above. [`crowd`]: values put and got through hundreds of engines, measured.
//! * [`world`]: hosts and messages. [`host`]: one host. [`liar`]: hosts that lie. [`check`]: what every message must
//!   obey. `holders`: who holds what.
//! * [`scenario`]: networks in which the nearest nodes may not have a value. [`options`], [`plan`], [`report`]: what is run, what is done when, what came of it. [`ring`], [`watch`]: which
//!   hosts really are closest to a key, and how a lookup came there.
//! * [`packets`], [`nat`], [`peers`]: the datagram level.
//! * [`address`], [`delay`], [`schedule`]: what all levels share.
//!
//! # A swarm of three
//!
//! ```
//! use dayfly::dialect::sealed::codec::Message;
//! use dayfly::engine::EngineSettings;
//! use dayfly::id::Id;
//! use dayfly::sim::dialects::sealed::{Sealed, frame};
//! use dayfly::sim::swarm::Swarm;
//! use dayfly::sim::weather::Weather;
//!
//! // Three machines, of which two join through the first. Bytes arrive one at a time.
//! let weather = Weather { piece: 1, ..Weather::fair() };
//! let mut swarm = Swarm::<Sealed>::new(EngineSettings::default(), weather, 7);
//! for machine in 0..3 {
//!     swarm.add_machine();
//!     if machine > 0 {
//!         swarm.join(machine, 0);
//!     }
//! }
//! swarm.run_until(swarm.now().after(10_000));
//!
//! // A client stores a value through one machine; another client finds it through another.
//! let (key, value) = (Id::hash_of(&[b"key"]), b"value");
//! let writer = swarm.connect(1);
//! swarm.say(writer, &frame(&Message::Put { ttl_s: 10, replication: 2, key, value }));
//! swarm.run_until(swarm.now().after(4_000));
//! swarm.kill(1, false);
//! let reader = swarm.connect(2);
//! swarm.say(reader, &frame(&Message::Get { key }));
//! swarm.run_until(swarm.now().after(4_000));
//! assert_eq!(swarm.clients[reader].received, frame(&Message::Success { key, value }));
//! ```

pub mod address;
pub mod check;
pub mod crowd;
pub mod delay;
pub mod dialect;
pub mod dialects;
mod holders;
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
pub mod scenario;
pub mod schedule;
pub mod swarm;
pub mod watch;
pub mod weather;
pub mod wire;
pub mod world;
