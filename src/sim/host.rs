//! The hosts of the world: who is at which address, and what each has. Never decides what happens.

use std::net::SocketAddr;

use crate::contact::Contact;
use crate::dialect::sealed::contact_at;
use crate::dialect::sealed::node::Node;
use crate::dialect::sealed::settings::Settings;
use crate::dialect::sealed::store::{Store, StoreLimits};
use crate::sim::watch::Watch;
use crate::time::Time;

/// A host of the world.
#[derive(Debug)]
pub struct Host {
    /// Its id and address.
    pub contact: Contact,
    /// It lies when asked.
    pub lies: bool,
    /// It can dial out and cannot be dialled.
    pub behind_nat: bool,
    /// What runs there; `None` once it is dead, of which nobody is told.
    pub body: Option<Box<Body>>,
    /// When it is woken next.
    pub wake_at: Option<Time>,
    /// A lookup of its that is measured.
    pub watch: Option<Box<Watch>>,
}

/// What runs on a living host.
#[derive(Debug)]
pub struct Body {
    /// The real thing.
    pub node: Node,
    /// What it holds.
    pub store: Store,
}

impl Host {
    /// A living host at this address.
    pub fn new(addr: SocketAddr, settings: Settings, seed: u64, now: Time) -> Host {
        let body = Body { node: Node::new(addr, settings, seed, now), store: Store::new(StoreLimits::default(), seed) };
        Host {
            contact: contact_at(addr),
            lies: false,
            behind_nat: false,
            body: Some(Box::new(body)),
            wake_at: None,
            watch: None,
        }
    }

    /// Whether it is alive and tells the truth.
    pub fn is_honest(&self) -> bool {
        self.body.is_some() && !self.lies
    }
}
