//! The attacks of which each made a node deny its service to others, as tests. Each runs in a network namespace of its
//! own, where every address of 10/8 and 2001:db8::/32 is a host (so that nothing is exempt, as loopback is), in a bounded
//! form of a few seconds, and asserts that an *honest client from elsewhere is served* meanwhile: its connections stay,
//! its PINGs are answered, its PUTs succeed, its GETs find. How fast is not asserted, but each request has 5 s.
//! Where an attack takes time instead of places, the honest client must get a fair part of what it gets beside the same
//! bytes without the attack.
//!
//! An attacker is one address, many addresses of many networks (/16), or all /64s of one /56. Needs root, unshare and ip;
//! else the tests say that they are skipped. `DAYFLY=path` attacks another binary.
//!
//! Without one accounting of what all share (docs/architecture.md, decisions 14 and 15) all of these fail, but for A10,
//! which debug builds hide: their checks search the lists that the node itself does not.

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod flood;
mod honest;
mod memory;
mod namespace;
mod network;
mod slow_node;
mod work;
