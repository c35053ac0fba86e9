//! Replaces the datagram dialect in a build without one: it has no listener and is never due. Does nothing.

use std::net::SocketAddr;

use crate::dialect::Shared;
use crate::time::Time;

/// A service without nodes.
#[derive(Debug, Default)]
pub(super) struct Service {}

impl Service {
    pub fn add_bootstrap(&mut self, _: SocketAddr, _: Time) -> bool {
        false
    }

    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    pub fn on_timeout(&mut self, _: &mut Shared, _: Time) {}

    pub fn report(&self, _: &mut Vec<String>) {}
}
