//! What lying hosts answer. They know each other and every target, which is more than real ones would know. Never sends
//! a node anything that a real peer could not send.

use std::net::SocketAddr;

use crate::contact::Contact;
use crate::dialect::sealed::codec::{ErrorCode, Message, Nodes};
use crate::dialect::sealed::contact_at;
use crate::dialect::sealed::settings::Ids;
use crate::id::Id;
use crate::limits::{K, NODE_ENTRIES_STRIKE};
use crate::sim::address::address_of;
use crate::sim::options::Lie;
use crate::sim::ring::Ring;

/// All liars of a world, who act together.
#[derive(Debug)]
pub struct Liars {
    /// The lie that they tell.
    lie: Lie,
    /// Whether their ids are bound to their addresses, or chosen by them.
    ids: Ids,
    /// Their ids, by their places in `contacts`.
    ring: Ring,
    contacts: Vec<Contact>,
    random: fastrand::Rng,
    named: Vec<Contact>,
}

/// The value that all liars agree on.
pub const WRONG_VALUE: &[u8] = b"a lie";

impl Liars {
    /// The liars that listen as `contacts`.
    pub fn new(lie: Lie, ids: Ids, contacts: Vec<Contact>, seed: u64) -> Liars {
        let ring = Ring::new(contacts.iter().zip(0..).map(|(contact, place)| (contact.id, place)));
        Liars { lie, ids, ring, contacts, random: fastrand::Rng::with_seed(seed), named: Vec::new() }
    }

    /// A liar's answer to `request`; `None` if it says nothing.
    pub fn answer(&mut self, from: SocketAddr, request: &Message<'_>) -> Option<Message<'_>> {
        match *request {
            _ if self.lie == Lie::Silent => None,
            Message::Ping { nonce } => Some(Message::Pong { nonce }),
            Message::Put { key, .. } => Some(Message::Success { key, value: &[] }),
            Message::FindValue { .. } if self.lie == Lie::WrongValue => Some(Message::Value { value: WRONG_VALUE }),
            Message::FindNode { key } | Message::FindValue { key } => {
                self.name(&key, from);
                Some(Message::Node(Nodes::Contacts(&self.named)))
            }
            _ => Some(ErrorCode::Busy.message()),
        }
    }

    /// Fills `named` with the contacts that a liar names to `asker`.
    fn name(&mut self, key: &Id, asker: SocketAddr) {
        self.named.clear();
        match (self.lie, self.ids) {
            (Lie::Collude | Lie::WrongValue | Lie::Silent, Ids::Bound) => {
                let nearest = self.ring.closest(key, K, |_| true);
                self.named.extend(nearest.into_iter().map(|place| self.contacts[place as usize]));
            }
            (Lie::Collude | Lie::WrongValue | Lie::Silent, Ids::Minted) => {
                for _ in 0..K {
                    let addr = self.contacts[self.random.usize(..self.contacts.len())].addr;
                    let id = self.next_to(key);
                    self.named.push(Contact { id, addr });
                }
            }
            (Lie::Endless, _) => {
                for _ in 0..K {
                    let id = self.next_to(key);
                    let addr = address_of(self.random.usize(1 << 21..1 << 22));
                    let bound = contact_at(addr);
                    self.named.push(if self.ids == Ids::Bound { bound } else { Contact { id, addr } });
                }
            }
            (Lie::Garbage, _) => {
                for n in 0..=NODE_ENTRIES_STRIKE as u32 {
                    let id = self.next_to(key);
                    let addr: SocketAddr = match n % 4 {
                        0 => asker,
                        1 => ([224, 0, 0, 1], 6500).into(),
                        2 => ([127, 0, 0, 1], 0).into(),
                        _ => address_of(self.random.usize(..1 << 20)),
                    };
                    self.named.push(Contact { id, addr });
                }
            }
        }
    }

    /// A random id that shares all but the last 64 bits with `key`.
    fn next_to(&mut self, key: &Id) -> Id {
        let mut id = *key;
        for byte in &mut id.0[24..] {
            *byte = self.random.u8(..);
        }
        id
    }
}
