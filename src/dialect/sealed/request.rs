//! Requests of ours. Owned values, unlike the messages they become; knows nothing of answers.

use std::sync::Arc;

use crate::dialect::sealed::codec::Message;
use crate::id::Id;

/// A request of ours, owned, so that it can be sent again on a fresh connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// PING with this nonce.
    Ping(u32),
    /// FIND_NODE near this key.
    FindNode(Id),
    /// FIND_VALUE of this key.
    FindValue(Id),
    /// GET of this key: what clients send.
    Get(Id),
    /// PUT.
    Put {
        /// Seconds.
        ttl_s: u16,
        /// 1: hold it; 2 and more: see to it.
        replication: u8,
        /// What it is stored under.
        key: Id,
        /// The value.
        value: Arc<[u8]>,
    },
}

impl Request {
    /// The message that asks this.
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
