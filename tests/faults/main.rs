//! The rows of docs/faults.md, from outside: a real node process, real sockets, and in every row an honest client
//! beside the fault that has to be served all the while. Written from the specification alone.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod bytes;
mod fake;
mod frames;
mod load;
mod memory;
mod process;
mod row;
mod slow;
