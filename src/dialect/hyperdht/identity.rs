//! Who a node is, and the requests that carry this. Builds messages; sends none.

use std::net::SocketAddr;

use crate::dialect::hyperdht::address::Family;
use crate::dialect::hyperdht::codec::{PING, Request};
use crate::id::Id;

/// A node's id and address.
#[derive(Copy, Clone, Debug)]
pub struct Identity {
    /// Its id: any 32 bytes.
    pub id: Id,
    /// Its own address, as far as it knows.
    pub addr: SocketAddr,
    /// It leaves its id out of its messages, so that no other node lists it.
    pub is_ephemeral: bool,
}

impl Identity {
    /// The address family of the node's network.
    pub fn family(&self) -> Family {
        Family::of(self.addr)
    }

    /// The id as messages carry it; `None` for an ephemeral node.
    pub fn id_field(&self) -> Option<Vec<u8>> {
        (!self.is_ephemeral).then(|| self.id.0.to_vec())
    }

    /// A ping.
    pub fn ping(&self) -> Request {
        Request { command: Some(PING.into()), id: self.id_field(), ..Request::default() }
    }

    /// A ping that the receiver is to forward to `peer`. It leaves our id out: the npm peer and the Go port would list
    /// it with the relay's address from then on, and send other nodes there (docs/protocol-hyperdht.md).
    pub fn forwarded_ping(&self, peer: SocketAddr) -> Request {
        Request { id: None, forward_request: Some(self.family().encode(peer)), ..self.ping() }
    }

    /// A request about `target`.
    pub fn about(&self, command: &str, target: &Id) -> Request {
        let (command, target) = (Some(command.into()), Some(target.0.to_vec()));
        Request { command, target, id: self.id_field(), ..Request::default() }
    }
}
