//! Operations: what the local user can have a node do, and the events that come of it. Data only; how an operation
//! proceeds is for those that run it.

use std::net::{SocketAddr, SocketAddrV4};

use crate::contact::Contact;
use crate::id::Id;

/// The caller's name for an operation.
pub type Ticket = u64;

/// What a node is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Ping an address. The value of the answer is our address as the other node sees it.
    Ping(SocketAddr),
    /// Ask one node for the nodes it knows that are closest to a target.
    FindNode(SocketAddr, Id),
    /// Open a path to a peer behind a NAT, through a node that has exchanged packets with it.
    HolePunch {
        /// The peer to reach.
        peer: SocketAddr,
        /// The node that can reach it.
        referrer: SocketAddr,
    },
    /// Find the peers that are announced under a key.
    Lookup(Id, Advertisement),
    /// Announce ourselves under a key at the nodes closest to it, and find the other peers.
    Announce(Id, Advertisement),
    /// Withdraw an announcement.
    Unannounce(Id, Advertisement),
    /// Send a user's command to the nodes on the way to a target, or as an update to the closest ones.
    Query {
        /// The command.
        command: String,
        /// The target.
        target: Id,
        /// The value of the request; its meaning is the command's own.
        value: Option<Vec<u8>>,
        /// Whether it is an update.
        is_update: bool,
    },
}

/// How a lookup or an announcement describes us.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Advertisement {
    /// The port of the record; 0 stands for the port of the socket.
    pub port: u16,
    /// Our address in our local network. In a lookup its port may be 0.
    pub local: Option<SocketAddrV4>,
}

/// What comes of an operation: any number of answers, then [`Event::Done`], once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A node has answered.
    Answer(Answer),
    /// The operation has ended.
    Done(Outcome),
}

/// The answer of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The node's id; `None` for an ephemeral node.
    pub id: Option<Id>,
    /// The address it answered from.
    pub addr: SocketAddr,
    /// The nodes it named, in answer to an [`Operation::FindNode`].
    pub nodes: Vec<Contact>,
    /// The value of the response; its meaning is the command's own.
    pub value: Option<Vec<u8>>,
    /// The peers it named, in answer to a lookup or an announcement.
    pub peers: Vec<SocketAddr>,
    /// Local addresses of those peers that are in our own local network.
    pub local_peers: Vec<SocketAddrV4>,
}

/// How an operation ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It succeeded.
    Done {
        /// Nodes that answered.
        answers: usize,
        /// Nodes that accepted an update.
        commits: usize,
    },
    /// No node answered.
    NobodyAnswered,
    /// Nodes answered, but none accepted the update.
    NobodyNear,
}
