//! Requests that we send, as owned values, unlike the messages that they become. Knows nothing of answers.

use std::sync::Arc;

use crate::dialect::sealed::codec::Message;
use crate::id::Id;

/// A request that we send. It owns its data, so that it can be sent again on another connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// PING with this nonce.
    Ping(u32),
    /// FIND_NODE with this key as its target.
    FindNode(Id),
    /// FIND_VALUE of this key.
    FindValue(Id),
    /// GET of this key. Only clients send it.
    Get(Id),
    /// PUT of a value.
    Put {
        /// The requested lifetime in seconds.
        ttl_s: u16,
        /// 0 or 1: the recipient stores the value; 2 and more: it coordinates the PUT.
        replication: u8,
        /// The key of the value.
        key: Id,
        /// The value.
        value: Arc<[u8]>,
    },
}

impl Request {
    /// The message of this request.
    pub fn message(&self) -> Message<'_> {
        match self {
            Request::Ping(nonce) => Message::Ping { nonce: *nonce },
            Request::FindNode(key) => Message::FindNode { key: *key },
            Request::FindValue(key) => Message::FindValue { key: *key },
            Request::Get(key) => Message::Get { key: *key },
            Request::Put { ttl_s, replication, key, value } => {
                Message::Put { ttl_s: *ttl_s, replication: *replication, key: *key, value }
            }
        }
    }
}
