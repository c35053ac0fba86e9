//! One connection as its peer sees it: which answers the node owes, in which order, and what the node has asked. Holds
//! what docs/protocol-sealed.md, "Order of answers", promises: answers come in the order of the requests, each of the
//! right kind, and nothing else comes.

use std::collections::VecDeque;
use std::net::SocketAddr;

use dayfly::dialect::sealed::codec::{FrameError, Message, Nodes, is_answer, is_request, kind, kind_of};
use dayfly::dialect::sealed::is_genuine;
use dayfly::dialect::sealed::session::Wire;
use dayfly::id::Id;
use dayfly::limits::{ASKED, ERROR_TEXT, NODE_ENTRIES, STRIKES};

use super::codecs::{decode, frame_len};
use super::frames::{KEYS, Stamp, stamp_of};

/// A request, either way.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Its type.
    pub kind: u16,
    /// Its key, if it has one.
    pub key: Id,
    /// Its nonce, if it has one.
    pub nonce: u32,
}

/// What a frame of the peer's makes the node owe.
#[derive(Debug)]
enum Due {
    /// The answer to this, or an ERROR where the wire has one.
    Answer(Question),
    /// An ERROR.
    Error,
    /// An ERROR if the node had asked nothing when it read the frame, which only the node knows.
    Perhaps,
}

/// A conversation, from the other side.
#[derive(Debug)]
pub struct Talk {
    wire: Wire,
    keys: [Id; KEYS],
    /// The node and its peer, neither of which the node names.
    ends: [SocketAddr; 2],
    /// Sent bytes that are no whole frame yet.
    sent: Vec<u8>,
    /// Framing is lost, or the API was misused: the node owes no more than it did.
    pub is_lost: bool,
    due: VecDeque<Due>,
    /// Frames of the peer's that may have been strikes.
    faults: usize,
    /// How many of `due` may have been answered, in ascending order: more than one number while it can't be told.
    settled: Vec<usize>,
    /// Heard bytes that are no whole frame yet.
    heard: Vec<u8>,
    /// What the node has asked and was not answered, oldest first.
    pub asked: VecDeque<Question>,
    /// The last frame of the node's that asked something.
    pub last_request: Vec<u8>,
}

impl Talk {
    /// A conversation that has not begun, of a node and its peer. `keys` are those that stamps name by number.
    pub fn new(wire: Wire, ends: [SocketAddr; 2], keys: [Id; KEYS]) -> Talk {
        Talk {
            wire,
            keys,
            ends,
            sent: Vec::new(),
            is_lost: false,
            due: VecDeque::new(),
            faults: 0,
            settled: vec![0],
            heard: Vec::new(),
            asked: VecDeque::new(),
            last_request: Vec::new(),
        }
    }

    /// Which wire it is.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// The peer says `bytes`; how many frames that completes.
    pub fn say(&mut self, bytes: &[u8]) -> u64 {
        let mut frames = 0;
        self.sent.extend_from_slice(bytes);
        let sent = std::mem::take(&mut self.sent);
        let mut rest = &sent[..];
        while !self.is_lost {
            let len = match frame_len(self.wire, rest) {
                Ok(Some(len)) if len <= rest.len() => len,
                Ok(_) => break,
                Err(_) => {
                    self.is_lost = true;
                    self.due.push_back(Due::Perhaps);
                    break;
                }
            };
            let (frame, behind) = rest.split_at(len);
            self.say_frame(frame);
            rest = behind;
            frames += 1;
        }
        self.sent = rest.to_vec();
        frames
    }

    fn say_frame(&mut self, frame: &[u8]) {
        let kind = kind_of(frame);
        let due = match (decode(self.wire, frame), self.wire) {
            (Ok(Message::Put { .. }), Wire::Api) => return,
            (Ok(message), Wire::Api) if kind == kind::GET => Due::Answer(question(&message)),
            (_, Wire::Api) => {
                self.is_lost = true;
                return;
            }
            (Err(FrameError::Checksum), _) => Due::Error,
            (_, _) if is_answer(kind) => {
                self.asked.pop_front();
                if kind == kind::ERROR {
                    return;
                }
                Due::Perhaps
            }
            (Ok(message), _) => Due::Answer(question(&message)),
            (Err(_), _) => Due::Error,
        };
        self.faults += usize::from(!matches!(due, Due::Answer(_)));
        self.due.push_back(due);
    }

    /// The node says `bytes`.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        let heard = std::mem::take(&mut self.heard);
        let mut rest = &heard[..];
        loop {
            let len = frame_len(self.wire, rest).expect("the node frames well");
            let Some((frame, behind)) = len.and_then(|len| rest.split_at_checked(len)) else {
                break;
            };
            self.hear_frame(frame);
            rest = behind;
        }
        self.heard = rest.to_vec();
    }

    fn hear_frame(&mut self, frame: &[u8]) {
        let message = decode(self.wire, frame).expect("the node encodes well");
        if is_request(message.kind()) {
            assert!(self.wire == Wire::Sealed, "a module of the API is asked nothing");
            self.asked.push_back(question(&message));
            assert!(self.asked.len() <= ASKED, "the node asks too much at once");
            self.last_request = frame.to_vec();
            return;
        }
        let (mut settled, mut may_be_next) = (Vec::new(), false);
        let mut starts = self.settled.iter().peekable();
        for (at, due) in self.due.iter().enumerate() {
            may_be_next |= starts.next_if(|start| **start == at).is_some();
            if may_be_next && self.answers(&message, due) {
                settled.push(at + 1);
            }
            may_be_next &= matches!(due, Due::Perhaps) || self.may_be_refused();
        }
        let Some(&first) = settled.first() else {
            panic!("{message:?} answers none of {:?}", self.due);
        };
        self.due.drain(..first);
        self.settled = settled.into_iter().map(|n| n - first).collect();
    }

    /// Whether the peer may have misbehaved so much that the node drops what it had not begun. (What it had begun is
    /// answered still, as if nothing were missing in between.)
    fn may_be_refused(&self) -> bool {
        self.is_lost || self.faults >= STRIKES
    }

    /// Whether `message` is what is due.
    fn answers(&self, message: &Message<'_>, due: &Due) -> bool {
        let (Due::Answer(question), false) = (due, matches!(message, Message::Error { .. })) else {
            return matches!(message, Message::Error { code: 1..=8, text } if text.len() <= ERROR_TEXT);
        };
        match (question.kind, message) {
            (kind::PING, Message::Pong { nonce }) => *nonce == question.nonce,
            // One byte says how many copies there are, where they are fewer than were asked for.
            (kind::PUT, Message::Success { key, value }) => *key == question.key && value.len() <= 1,
            (kind::GET, Message::Success { key, value }) => *key == question.key && self.belongs(value, key),
            (kind::GET, Message::Failure { key }) => *key == question.key,
            (kind::FIND_NODE | kind::FIND_VALUE, Message::Node(nodes)) => self.may_name(nodes, &question.key),
            (kind::FIND_VALUE, Message::Value { value }) => self.belongs(value, &question.key),
            _ => false,
        }
    }

    /// Whether a NODE is one that the node may send: genuine contacts, nearest first, neither itself nor the asker.
    fn may_name(&self, nodes: &Nodes<'_>, target: &Id) -> bool {
        let contacts: Vec<_> = nodes.iter().collect();
        contacts.len() <= NODE_ENTRIES
            && contacts.is_sorted_by_key(|contact| contact.id.distance(target))
            && contacts.iter().all(|contact| is_genuine(contact) && !self.ends.contains(&contact.addr))
    }

    /// Whether a value, if it is a stamped one, was made for `key`.
    fn belongs(&self, value: &[u8], key: &Id) -> bool {
        let names = |stamp: Stamp| self.keys.get(usize::from(stamp.key)) == Some(key);
        !self.keys.contains(key) || stamp_of(value).is_none_or(names)
    }

    /// Whether everything that is due for certain has come.
    pub fn is_answered(&self) -> bool {
        let may_be_all = |from: usize| self.due.range(from..).all(|due| matches!(due, Due::Perhaps));
        self.heard.is_empty() && self.settled.iter().any(|from| may_be_all(*from))
    }
}

fn question(message: &Message<'_>) -> Question {
    let (key, nonce) = match message {
        Message::Put { key, .. }
        | Message::Get { key }
        | Message::FindNode { key }
        | Message::FindValue { key }
        | Message::Success { key, .. }
        | Message::Failure { key } => (*key, 0),
        Message::Ping { nonce } | Message::Pong { nonce } => (Id::default(), *nonce),
        Message::Error { .. } | Message::Node(_) | Message::Value { .. } | Message::ValueWithChecksum { .. } => {
            (Id::default(), 0)
        }
    };
    Question { kind: message.kind(), key, nonce }
}
