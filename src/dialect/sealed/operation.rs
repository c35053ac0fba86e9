//! What a local user has a node of this dialect do: one request to one peer, and its reply. Values only.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::contact::Contact;
use crate::dialect::sealed::codec::Message;
use crate::dialect::sealed::is_genuine;
use crate::dialect::sealed::request::Request;
use crate::limits::{ERROR_TEXT, NODE_ENTRIES};

/// One request to one peer. Its only event is the [`Reply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Whom to ask.
    pub to: SocketAddr,
    /// What.
    pub request: Request,
}

/// What a peer replied.
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
