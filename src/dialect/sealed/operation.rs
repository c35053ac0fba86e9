//! What a local user has a node of this dialect do, and how it ended. Values only.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::contact::Contact;
use crate::dialect::sealed::codec::{ErrorCode, Message};
use crate::dialect::sealed::is_genuine;
use crate::dialect::sealed::job::Outcome;
use crate::dialect::sealed::request::Request;
use crate::id::Id;
use crate::limits::{ERROR_TEXT, NODE_ENTRIES};

/// What is to be done. Its only event is the [`Reply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Ask one peer.
    Ask {
        /// Whom.
        to: SocketAddr,
        /// What.
        request: Request,
    },
    /// Have the listener's own node store a value on the nodes nearest to its key. Needs a listener.
    Put {
        /// What it is stored under.
        key: Id,
        /// At most `limits::VALUE_MAX` bytes.
        value: Arc<[u8]>,
        /// Seconds; 0 for the longest.
        ttl_s: u16,
        /// Holders wanted; 0 for the node's default.
        replication: usize,
    },
    /// Have the listener's own node find a value. Needs a listener.
    Get {
        /// What it was stored under.
        key: Id,
    },
}

/// How an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// PONG.
    Pong,
    /// The contacts of a NODE whose ids belong to their addresses, at most 20.
    Nodes(Vec<Contact>),
    /// VALUE, or SUCCESS: with the value to a GET, empty to a PUT.
    Success(Arc<[u8]>),
    /// FAILURE.
    Missing,
    /// ERROR: code and text.
    Error(u32, String),
    /// There was no connection, or it ended before the answer came.
    Unreachable,
}

impl Reply {
    /// How a job of our own node ended.
    pub(super) fn of_job(outcome: Outcome) -> Reply {
        let error = |code: ErrorCode| Reply::Error(code.code(), code.text().into());
        match outcome {
            Outcome::Stored => Reply::Success(Arc::default()),
            Outcome::Found(value) => Reply::Success(value),
            Outcome::Missing => Reply::Missing,
            Outcome::Unreachable => error(ErrorCode::Unreachable),
            Outcome::Busy => error(ErrorCode::Busy),
        }
    }

    /// What a client gets to see of `answer`; `None` for a message that answers nothing.
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
