//! The operations that a local user can start on a node of this dialect, and their results. Contains values only.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::contact::Contact;
use crate::dialect::sealed::codec::{ErrorCode, Message};
use crate::dialect::sealed::is_genuine;
use crate::dialect::sealed::job::Outcome;
use crate::dialect::sealed::request::Request;
use crate::id::Id;
use crate::limits::{ERROR_TEXT, NODE_ENTRIES};

/// An operation of a local user. Its only event is its [`Reply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Send one request to one peer.
    Ask {
        /// The peer's address.
        to: SocketAddr,
        /// The request.
        request: Request,
    },
    /// Store a value on the nodes nearest to its key. Needs a listener, whose node coordinates the PUT.
    Put {
        /// The key of the value.
        key: Id,
        /// The value, at most `limits::VALUE_MAX` bytes.
        value: Arc<[u8]>,
        /// The lifetime in seconds; 0 asks for the longest.
        ttl_s: u16,
        /// How many nodes should hold the value; 0 for the node's default.
        replication: usize,
    },
    /// Find a value in the network. Needs a listener, whose node looks for it.
    Get {
        /// The key of the value.
        key: Id,
    },
}

/// The result of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The peer answered with PONG.
    Pong,
    /// The peer answered with NODE: up to 20 of its contacts, without those whose id does not belong to their address.
    Nodes(Vec<Contact>),
    /// VALUE or SUCCESS: the value found. Of a PUT, one byte, the number of nodes that hold the value, if those are fewer
    /// than were asked for although there are more nodes, or else nothing.
    Success(Arc<[u8]>),
    /// The PUT of our own node has stored the value.
    Stored {
        /// The number of nodes that hold it, at least 1.
        copies: usize,
        /// Whether these are fewer than were asked for, although there are more nodes.
        is_short: bool,
    },
    /// FAILURE: nobody holds a value of this key.
    Missing,
    /// ERROR with this code and text, the text cut to `limits::ERROR_TEXT` bytes.
    Error(u32, String),
    /// There was no connection, or it ended before the answer came.
    Unreachable,
}

impl Reply {
    /// The result that a node's ERROR with this code would have.
    pub(super) fn of_error(code: ErrorCode) -> Reply {
        Reply::Error(code.code(), code.text().into())
    }

    /// The result of a job of our own node.
    pub(super) fn of_job(outcome: Outcome) -> Reply {
        match outcome {
            Outcome::Stored { copies, is_short } => Reply::Stored { copies, is_short },
            Outcome::Found(value) => Reply::Success(value),
            Outcome::Missing => Reply::Missing,
            Outcome::Refused(reason) => Reply::of_error(reason),
            Outcome::Busy => Reply::of_error(ErrorCode::Busy),
        }
    }

    /// What a client sees of `answer`; `None` if the message is not an answer.
    pub(super) fn of(answer: &Message<'_>) -> Option<Reply> {
        match answer {
            Message::Pong { .. } => Some(Reply::Pong),
            Message::Node(nodes) => {
                let honest = nodes.iter().take(NODE_ENTRIES).filter(is_genuine);
                Some(Reply::Nodes(honest.collect()))
            }
            Message::Value { value } | Message::ValueWithChecksum { value, .. } | Message::Success { value, .. } => {
                Some(Reply::Success((*value).into()))
            }
            Message::Failure { .. } => Some(Reply::Missing),
            Message::Error { code, text } => {
                let text = &text[..text.len().min(ERROR_TEXT)];
                Some(Reply::Error(*code, String::from_utf8_lossy(text).into_owned()))
            }
            Message::Put { .. }
            | Message::Get { .. }
            | Message::Ping { .. }
            | Message::FindNode { .. }
            | Message::FindValue { .. } => None,
        }
    }
}
