//! The dialects that the byte level of the simulator can speak, one file each. A new dialect adds its file here and a
//! test in `tests/swarm.rs`. None of them knows another.

pub mod sealed;
pub mod toy;
