//! What a node does with requests (hyperdht.md, sections 5, 8 and 9): answers them, stores what is announced, and sends
//! on what opens NATs. Part of [`Node`]; asks nobody anything.

use std::net::SocketAddr;

use crate::contact::{Contact, admissible};
use crate::dialect::hyperdht::address::{ID_LEN, LOCAL_LEN, LOCAL_SHORT_LEN};
use crate::dialect::hyperdht::codec::{
    ANNOUNCE, Body, Datagram, PeersRequest, PeersResponse, Request, Response, Tid, UNANNOUNCE,
};
use crate::dialect::hyperdht::node::{Breach, Node, Output};
use crate::dialect::hyperdht::{FIND_NODE, PEERS, PING};
use crate::id::Id;
use crate::limits::{ANSWER_BYTES, K};
use crate::time::Time;

/// A request with a user's command, for a [`Handler`].
#[derive(Copy, Clone, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub from: SocketAddr,
    /// About what.
    pub target: &'a Id,
    /// The command's own.
    pub value: Option<&'a [u8]>,
    /// It came with a valid token: who asks receives at the address it asks from.
    pub is_update: bool,
}

/// What a user's command is answered with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Handled {
    /// This value, or none, beside nodes and a token. One that does not fit an answer is not sent.
    Value(Option<Vec<u8>>),
    /// Silence.
    Refused,
}

/// Answers one user's command.
pub type Handler = fn(&Question<'_>) -> Handled;

/// Bytes of an answer around its lists: headers of fields, and of the value within.
const FIELDS_LEN: usize = 24;

/// Bytes that a value may have in an answer with so many bytes of nodes.
fn room_beside(nodes_len: usize) -> usize {
    ANSWER_BYTES.saturating_sub(2 * (2 + ID_LEN) + FIELDS_LEN + nodes_len)
}

impl Node {
    pub(super) fn on_request(&mut self, from: SocketAddr, tid: Tid, request: &Request, now: Time) -> Option<Breach> {
        let id = request.id.as_deref().and_then(Id::from_slice);
        if request.forward_response.is_some() && request.forward_request.is_none() {
            // Whoever sent this is not who asks: it is nobody's address (hyperdht.md, section 9.4).
            return self.on_forwarded(from, tid, request, now);
        }
        if let Some(id) = id {
            self.overlay.add_unconfirmed(Contact { id, addr: from }, now);
        }
        if let Some(to) = &request.forward_request {
            return self.forward(from, tid, request, to, now);
        }
        let command = request.command.as_deref().unwrap_or_default();
        if command == PING {
            self.pong(from, tid);
            return None;
        }
        let Some(target) = request.target.as_deref().and_then(Id::from_slice) else {
            return Some(Breach::Malformed);
        };
        let token = request.roundtrip_token.as_deref();
        let is_update = token.is_some_and(|token| self.tokens.accept(from.ip(), token));
        let mut breach = (token.is_some() && !is_update).then_some(Breach::BadToken);
        let nodes = self.nearest(&target);
        let value = match command {
            FIND_NODE => None,
            PEERS => {
                let request = request.value.as_deref().and_then(PeersRequest::read);
                let full = request.as_ref().is_some_and(|r| is_update && !self.store(&target, from, r, now));
                breach = if full { Some(Breach::RecordsFull) } else { breach };
                request.and_then(|request| self.peers(&target, from, &request, is_update, nodes.len(), now))
            }
            _ => {
                let question = Question { from, target: &target, value: request.value.as_deref(), is_update };
                match self.handlers.iter().find(|(name, _)| name == command).map(|(_, handler)| handler(&question)) {
                    None => None,
                    Some(Handled::Value(value)) => value.filter(|value| value.len() <= room_beside(nodes.len())),
                    Some(Handled::Refused) => return breach,
                }
            }
        };
        let (id, roundtrip_token) = (self.own_id(), Some(self.tokens.give(from.ip())));
        self.answer(from, tid, Response { id, nodes: Some(nodes), value, roundtrip_token });
        breach
    }

    fn answer(&mut self, to: SocketAddr, tid: Tid, response: Response) {
        self.outputs.push_back(Output::Send { to, datagram: Datagram { tid, body: Body::Response(response) } });
    }

    /// Tells `to` that we are here, and how we see it.
    fn pong(&mut self, to: SocketAddr, tid: Tid) {
        let (value, roundtrip_token) = (Some(self.family.encode(to)), Some(self.tokens.give(to.ip())));
        self.answer(to, tid, Response { id: self.own_id(), nodes: None, value, roundtrip_token });
    }

    /// The entries of the nodes nearest to `target`, the asker among them if it has an id.
    fn nearest(&mut self, target: &Id) -> Vec<u8> {
        self.named.clear();
        self.overlay.table().closest(target, K, |entry| entry.failures == 0, &mut self.named);
        self.family.encode_nodes(&self.named)
    }

    /// Sends a ping on to the address it names: its pong opens that node's NAT for the asker.
    fn forward(&mut self, from: SocketAddr, tid: Tid, request: &Request, to: &[u8], now: Time) -> Option<Breach> {
        let to = match self.forward_address(from, request, Some(to), now) {
            Ok(to) => to,
            Err(breach) => return Some(breach),
        };
        // No more than what the other end needs: what is passed on is a stranger's.
        let (command, id) = (request.command.clone(), request.id.clone().filter(|id| id.len() == ID_LEN));
        let request = Request { command, id, forward_response: Some(self.family.encode(from)), ..Request::default() };
        self.outputs.push_back(Output::Send { to, datagram: Datagram { tid, body: Body::Request(request) } });
        None
    }

    /// `relay` passes on a ping of somebody who wants us to answer it directly.
    fn on_forwarded(&mut self, relay: SocketAddr, tid: Tid, request: &Request, now: Time) -> Option<Breach> {
        match self.forward_address(relay, request, request.forward_response.as_deref(), now) {
            Ok(asker) => {
                self.pong(asker, tid);
                None
            }
            Err(breach) => Some(breach),
        }
    }

    /// Where `from` would have us send a datagram by naming `addr` in `request`, if that may be: for pings only, and only so
    /// often. It counts as sent.
    fn forward_address(
        &mut self,
        from: SocketAddr,
        request: &Request,
        addr: Option<&[u8]>,
        now: Time,
    ) -> Result<SocketAddr, Breach> {
        let addr = addr.and_then(|addr| self.family.decode(addr));
        let addr = addr.filter(|addr| self.is_reachable(*addr) && request.command.as_deref() == Some(PING));
        let addr = addr.ok_or(Breach::Malformed)?;
        if self.forwards.admit(from.ip(), now) { Ok(addr) } else { Err(Breach::TooManyForwards) }
    }

    fn is_reachable(&self, addr: SocketAddr) -> bool {
        admissible(self.identity.addr.ip(), addr) && addr != self.identity.addr
    }

    /// Where the record of `from` is to be found; `None` for a port that is none.
    fn record_addr(from: SocketAddr, request: &PeersRequest) -> Option<SocketAddr> {
        let port = match request.port {
            None | Some(0) => from.port(),
            Some(port) => u16::try_from(port).ok()?,
        };
        Some(SocketAddr::new(from.ip(), port))
    }

    /// Stores or forgets, as an update wants; whether there was room.
    fn store(&mut self, key: &Id, from: SocketAddr, request: &PeersRequest, now: Time) -> bool {
        let Some(addr) = Node::record_addr(from, request) else {
            return true;
        };
        match request.kind {
            Some(ANNOUNCE) => {
                let local = request.local_address.as_deref().and_then(|local| <[u8; LOCAL_LEN]>::try_from(local).ok());
                let local = local.filter(|local| local[LOCAL_SHORT_LEN..] != [0, 0]);
                log::debug!("announced key={key} address={addr}");
                self.records.put(*key, addr, local, now).is_ok()
            }
            Some(UNANNOUNCE) => {
                log::debug!("unannounced key={key} address={addr}");
                self.records.remove(key, addr);
                true
            }
            Some(_) | None => true,
        }
    }

    /// The value that answers a request about `key`: peers in random order, without the asker itself, as many as fit
    /// beside `nodes_len` bytes of nodes.
    pub(super) fn peers(
        &mut self,
        key: &Id,
        from: SocketAddr,
        request: &PeersRequest,
        is_update: bool,
        nodes_len: usize,
        now: Time,
    ) -> Option<Vec<u8>> {
        let own = Node::record_addr(from, request)?;
        if is_update && request.kind == Some(UNANNOUNCE) {
            return None;
        }
        let own_local = request.local_address.as_deref().filter(|local| local.len() == LOCAL_LEN);
        let room = room_beside(nodes_len);
        let (mut peers, mut locals) = (Vec::new(), Vec::new());
        let Node { records, overlay, family, .. } = self;
        records.sample(key, overlay.random(), now, |record| {
            if record.addr == own {
                return true;
            }
            if peers.len() + locals.len() + family.address_len() + LOCAL_SHORT_LEN > room {
                return false;
            }
            family.put(record.addr, &mut peers);
            if let (Some(own), Some(local)) = (own_local, record.local) {
                let (network, rest) = local.split_at(LOCAL_LEN - LOCAL_SHORT_LEN);
                if own.starts_with(network) && own != local {
                    locals.extend_from_slice(rest);
                }
            }
            true
        });
        if peers.is_empty() {
            return None;
        }
        let local_peers = (!locals.is_empty()).then_some(locals);
        Some(prost::Message::encode_to_vec(&PeersResponse { peers: Some(peers), local_peers }))
    }
}
