//! A host of the message level: an address, and what runs there. Never decides what happens to it.

use std::net::SocketAddr;

use crate::contact::Contact;
use crate::dialect::sealed::contact_at;
use crate::dialect::sealed::node::Node;
use crate::dialect::sealed::settings::Settings;
use crate::dialect::sealed::store::{Store, StoreLimits};
use crate::sim::watch::Watch;
use crate::time::Time;

/// A host.
#[derive(Debug)]
pub struct Host {
    /// The host's id and address.
    pub contact: Contact,
    /// The host lies when it is asked.
    pub lies: bool,
    /// The host can dial others and cannot be dialled.
    pub behind_nat: bool,
    /// What runs there; `None` once the host has died, which nobody is told.
    pub body: Option<Box<Body>>,
    /// When the host came up.
    pub since: Time,
    /// When the host's timer fires next.
    pub wake_at: Option<Time>,
    /// The lookup of this host that is measured, if any.
    pub watch: Option<Box<Watch>>,
}

/// What runs on a living host.
#[derive(Debug)]
pub struct Body {
    /// The node, the same as in a deployed process.
    pub node: Node,
    /// The values that the node holds.
    pub store: Store,
}

impl Host {
    /// A living host at this address, whose node knows nobody.
    pub fn new(addr: SocketAddr, settings: Settings, limits: StoreLimits, seed: u64, now: Time) -> Host {
        let body = Body { node: Node::new(addr, settings, seed, now), store: Store::new(limits, seed) };
        Host {
            contact: contact_at(addr),
            lies: false,
            behind_nat: false,
            body: Some(Box::new(body)),
            since: now,
            wake_at: None,
            watch: None,
        }
    }

    /// Whether the host is alive and tells the truth.
    pub fn is_honest(&self) -> bool {
        self.body.is_some() && !self.lies
    }
}
