//! Replaces the datagram sockets in a build without a datagram dialect. Does nothing.

use mio::Registry;

use crate::engine::Engine;
use crate::time::Time;

/// No sockets.
pub(super) struct DatagramListeners;

impl DatagramListeners {
    pub fn new(_: Registry) -> DatagramListeners {
        DatagramListeners
    }

    pub fn mark_ready(&mut self, _: u16, _: bool, _: bool, _: &mut Engine) {}

    pub fn are_ready(&self) -> bool {
        false
    }

    pub fn read(&mut self, _: &mut Engine, _: Time) {}

    pub fn send(&mut self, _: &mut Engine) {}
}
