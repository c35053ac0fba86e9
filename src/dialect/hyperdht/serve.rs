//! The answering half of a node: it answers requests, stores announcements, and forwards pings that open NATs
//! (docs/protocol-hyperdht.md). Sends no request of its own.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use prost::Message as _;

use crate::contact::{Contact, admissible};
use crate::dialect::hyperdht::address::{ID_LEN, LOCAL_LEN, LOCAL_SHORT_LEN};
use crate::dialect::hyperdht::allowance::Allowance;
use crate::dialect::hyperdht::breach::Breach;
use crate::dialect::hyperdht::codec::{
    ANNOUNCE, Body, Datagram, FIND_NODE, HEADER_LEN, PEERS, PING, PeersRequest, PeersResponse, Request, Response, Tid,
    UNANNOUNCE,
};
use crate::dialect::hyperdht::identity::Identity;
use crate::dialect::hyperdht::records::Records;
use crate::dialect::hyperdht::tokens::Tokens;
use crate::id::Id;
use crate::kad::overlay::Overlay;
use crate::limits::{ANSWER_BYTES, FORWARDS_AT_ONCE, FORWARDS_OF_SOURCE_AT_ONCE, K};
use crate::sources::Sources;
use crate::time::Time;

/// A request with a user's command, for a [`Handler`].
#[derive(Copy, Clone, Debug)]
pub struct Question<'a> {
    /// Where it came from.
    pub from: SocketAddr,
    /// The target.
    pub target: &'a Id,
    /// The value of the request; its meaning is the command's own.
    pub value: Option<&'a [u8]>,
    /// It came with a valid token, which shows that the sender receives at this address.
    pub is_update: bool,
}

/// How a user's command is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Handled {
    /// With this value, or none, beside nodes and a token. A value that does not fit the answer is left out.
    Value(Option<Vec<u8>>),
    /// Not at all.
    Refused,
}

/// Answers one user's command.
pub type Handler = fn(&Question<'_>) -> Handled;

/// Bytes of an answer besides its id, its token and its lists: the header, headers of fields, and of the value within.
const FIELDS_LEN: usize = 24;
/// Bytes of an id or a token, with the header of its field.
const CREDENTIAL_LEN: usize = 2 + ID_LEN;
/// Bytes of a pong besides its id, its token and the address in it: the header, and that of the value.
const PONG_FIELDS_LEN: usize = 4;

/// Who sent a request, and what its answer may be.
#[derive(Copy, Clone, Debug)]
struct Asker {
    from: SocketAddr,
    tid: Tid,
    /// The request carries a valid token.
    is_update: bool,
    /// Bytes that the answer may have.
    room: usize,
}

/// Answers requests. The routing table belongs to the node, which passes it in.
#[derive(Debug)]
pub struct Server {
    identity: Identity,
    tokens: Tokens,
    records: Records,
    allowance: Allowance,
    handlers: Vec<(String, Handler)>,
    /// Answers and forwarded requests to be sent.
    outputs: VecDeque<(SocketAddr, Datagram)>,
    /// The contacts of the answer being written; kept to save its allocation.
    nearest: Vec<Contact>,
}

impl Server {
    /// A server without records. `secrets` make its tokens: the current and the previous one. `seed` must be secret too.
    pub fn new(identity: Identity, secrets: [[u8; 32]; 2], seed: u64, now: Time) -> Server {
        let [current, previous] = secrets;
        Server {
            identity,
            tokens: Tokens::new(current, previous, now),
            records: Records::default(),
            allowance: Allowance::new(seed),
            handlers: Vec::new(),
            outputs: VecDeque::new(),
            nearest: Vec::new(),
        }
    }

    /// What others have announced here.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Answers the user's command `name` by `handler` from now on.
    pub fn handle(&mut self, name: &str, handler: Handler) {
        self.handlers.retain(|(known, _)| known != name);
        self.handlers.push((name.to_string(), handler));
    }

    /// When [`Server::on_timeout`] has something to do.
    pub fn next_deadline(&self) -> Time {
        let rotation = self.tokens.next_deadline();
        self.records.next_deadline().map_or(rotation, |expiry| expiry.min(rotation))
    }

    /// Does what is due at `now`.
    pub fn on_timeout(&mut self, sources: &mut Sources, now: Time) {
        self.tokens.rotate(now);
        self.records.expire(sources, now);
    }

    /// The next datagram to send, and its destination; call until `None`.
    pub fn poll_send(&mut self) -> Option<(SocketAddr, Datagram)> {
        self.outputs.pop_front()
    }

    /// `host` answered a request of ours, which shows that it receives what is sent to it.
    pub fn prove(&mut self, host: IpAddr, now: Time) {
        self.allowance.prove(host, now);
    }

    /// Handles a request; returns what was wrong with it, if anything was.
    pub fn on_request(
        &mut self,
        overlay: &mut Overlay,
        from: SocketAddr,
        tid: Tid,
        request: &Request,
        sources: &mut Sources,
        now: Time,
    ) -> Option<Breach> {
        if request.forward_response.is_some() && request.forward_request.is_none() {
            // The sender is a relay and the id is the requester's, so the sender's address must not be listed with it.
            return self.on_forwarded(from, tid, request, sources, now);
        }
        let token = request.roundtrip_token.as_deref();
        let is_update = token.is_some_and(|token| self.tokens.accept(from.ip(), token));
        if is_update {
            self.allowance.prove(from.ip(), now);
        }
        if let Some(id) = request.id.as_deref().and_then(Id::from_slice) {
            overlay.unconfirmed(Contact { id, addr: from }, is_update, now);
        }
        if let Some(to) = &request.forward_request {
            return self.forward(from, tid, request, to, sources, now);
        }
        // Without the fields that are not in the schema: nobody buys a longer answer with bytes that mean nothing.
        let len = HEADER_LEN + request.encoded_len();
        let source = sources.of(from.ip());
        let grant = self.allowance.of(from.ip(), source, is_update, len, &mut sources.unproved_bytes, now);
        let asker = Asker { from, tid, is_update, room: grant.room };
        let before = self.outputs.len();
        let breach = match request.command.as_deref().unwrap_or_default() {
            PING => {
                self.pong(from, tid, grant.room);
                None
            }
            command => self.answer_about(&asker, command, request, overlay, sources, now),
        };
        if let Some((_, answer)) = self.outputs.get(before) {
            grant.spend(source, answer.encoded_len(), &mut sources.unproved_bytes, now);
        }
        let is_token_bad = token.is_some() && !is_update;
        breach.or(is_token_bad.then_some(Breach::BadToken)).or(grant.is_short().then_some(Breach::Unproved))
    }

    /// Handles a request that needs a target.
    fn answer_about(
        &mut self,
        asker: &Asker,
        command: &str,
        request: &Request,
        overlay: &mut Overlay,
        sources: &mut Sources,
        now: Time,
    ) -> Option<Breach> {
        let Some(target) = request.target.as_deref().and_then(Id::from_slice) else {
            return Some(Breach::Malformed);
        };
        let Asker { from, tid, is_update, .. } = *asker;
        let mut left = asker.room.saturating_sub(FIELDS_LEN);
        let (id, roundtrip_token) = self.credentials(from, &mut left);
        self.nearest.clear();
        overlay.table().closest(&target, K, |entry| entry.failures == 0, &mut self.nearest);
        let nodes = self.nodes_within(left, command != FIND_NODE);
        let room = left.saturating_sub(nodes * self.entry_len());
        let mut breach = None;
        let value = match command {
            FIND_NODE => None,
            PEERS => {
                let request = request.value.as_deref().and_then(PeersRequest::read);
                let full = request
                    .as_ref()
                    .is_some_and(|r| is_update && !self.store(&target, from, r, overlay.random(), sources, now));
                breach = full.then_some(Breach::RecordsFull);
                let request = request.filter(|request| !is_update || request.kind != Some(UNANNOUNCE));
                request.and_then(|request| self.peers(&target, from, &request, room, overlay.random(), now))
            }
            _ => {
                let question = Question { from, target: &target, value: request.value.as_deref(), is_update };
                match self.handlers.iter().find(|(name, _)| name == command).map(|(_, handler)| handler(&question)) {
                    None => None,
                    Some(Handled::Value(value)) => value.filter(|value| value.len() <= room),
                    Some(Handled::Refused) => return None,
                }
            }
        };
        // What the value leaves of its room is for further nodes.
        let spare = left.saturating_sub(value.as_ref().map_or(0, Vec::len)) / self.entry_len();
        self.nearest.truncate(nodes.max(spare));
        let nodes = Some(self.identity.family().encode_nodes(&self.nearest));
        self.answer(from, tid, Response { id, nodes, value, roundtrip_token });
        breach
    }

    /// Our id and a token for `to`, as far as they fit `left` bytes, of which they are taken.
    fn credentials(&self, to: SocketAddr, left: &mut usize) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let mut fits = || match left.checked_sub(CREDENTIAL_LEN) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => false,
        };
        let id = self.identity.id_field().filter(|_| fits());
        (id, fits().then(|| self.tokens.give(to.ip())))
    }

    /// How many of the nearest nodes have a place in an answer with `left` bytes for them and for a value, if there may
    /// be one: all, or else half of what fits beside it, but at least one.
    fn nodes_within(&self, left: usize, may_have_value: bool) -> usize {
        let fit = left / self.entry_len();
        if may_have_value && fit < self.nearest.len() { fit.div_ceil(2) } else { fit.min(self.nearest.len()) }
    }

    /// Bytes of a node in an answer.
    fn entry_len(&self) -> usize {
        ID_LEN + self.identity.family().address_len()
    }

    /// What this node itself would answer to `request` about `key`; `None` if it holds no peers.
    pub fn own_answer(
        &self,
        key: &Id,
        request: &PeersRequest,
        random: &mut fastrand::Rng,
        now: Time,
    ) -> Option<Response> {
        let room = ANSWER_BYTES - FIELDS_LEN;
        let value = self.peers(key, self.identity.addr, request, room, random, now);
        value.map(|value| Response { value: Some(value), ..Response::default() })
    }

    fn answer(&mut self, to: SocketAddr, tid: Tid, response: Response) {
        self.outputs.push_back((to, Datagram { tid, body: Body::Response(response) }));
    }

    /// Tells `to` that we are here, and which address we see it at, in at most `room` bytes.
    fn pong(&mut self, to: SocketAddr, tid: Tid, room: usize) {
        let value = self.identity.family().encode(to);
        let mut left = room.saturating_sub(PONG_FIELDS_LEN + value.len());
        let (id, roundtrip_token) = self.credentials(to, &mut left);
        self.answer(to, tid, Response { id, nodes: None, value: Some(value), roundtrip_token });
    }

    /// Forwards a ping to the address it names, whose pong opens that node's NAT for the requester.
    fn forward(
        &mut self,
        from: SocketAddr,
        tid: Tid,
        request: &Request,
        to: &[u8],
        sources: &mut Sources,
        now: Time,
    ) -> Option<Breach> {
        let to = match self.forward_address(from, request, Some(to), sources, now) {
            Ok(to) => to,
            Err(breach) => return Some(breach),
        };
        // Only the fields that the other end needs: the rest of the request is a stranger's.
        let (command, id) = (request.command.clone(), request.id.clone().filter(|id| id.len() == ID_LEN));
        let forward_response = Some(self.identity.family().encode(from));
        let request = Request { command, id, forward_response, ..Request::default() };
        self.outputs.push_back((to, Datagram { tid, body: Body::Request(request) }));
        None
    }

    /// `relay` forwards a ping whose sender wants us to answer it directly.
    fn on_forwarded(
        &mut self,
        relay: SocketAddr,
        tid: Tid,
        request: &Request,
        sources: &mut Sources,
        now: Time,
    ) -> Option<Breach> {
        match self.forward_address(relay, request, request.forward_response.as_deref(), sources, now) {
            Ok(asker) => {
                // The limit on forwards bounds these.
                self.pong(asker, tid, ANSWER_BYTES);
                None
            }
            Err(breach) => Some(breach),
        }
    }

    /// The address that `from` has us send a datagram to by naming `addr` in `request`, if that is allowed: only for
    /// pings, and only so often. The forward counts as made.
    fn forward_address(
        &self,
        from: SocketAddr,
        request: &Request,
        addr: Option<&[u8]>,
        sources: &mut Sources,
        now: Time,
    ) -> Result<SocketAddr, Breach> {
        let addr = addr.and_then(|addr| self.identity.family().decode(addr));
        let addr = addr.filter(|addr| self.is_reachable(*addr) && request.command.as_deref() == Some(PING));
        let addr = addr.ok_or(Breach::Malformed)?;
        let source = sources.of(from.ip());
        let is_admitted = sources.forwards.take(source, 1, FORWARDS_OF_SOURCE_AT_ONCE, FORWARDS_AT_ONCE, now);
        if is_admitted { Ok(addr) } else { Err(Breach::TooManyForwards) }
    }

    fn is_reachable(&self, addr: SocketAddr) -> bool {
        admissible(self.identity.addr.ip(), addr) && addr != self.identity.addr
    }

    /// The address of the record that `from` announces; `None` if its port is out of range.
    fn record_addr(from: SocketAddr, request: &PeersRequest) -> Option<SocketAddr> {
        let port = match request.port {
            None | Some(0) => from.port(),
            Some(port) => u16::try_from(port).ok()?,
        };
        Some(SocketAddr::new(from.ip(), port))
    }

    /// Stores or removes a record, as an update asks. Returns `false` if there was no room.
    fn store(
        &mut self,
        key: &Id,
        from: SocketAddr,
        request: &PeersRequest,
        random: &mut fastrand::Rng,
        sources: &mut Sources,
        now: Time,
    ) -> bool {
        let Some(addr) = Server::record_addr(from, request) else {
            return true;
        };
        match request.kind {
            Some(ANNOUNCE) => {
                let local = request.local_address.as_deref().and_then(|local| <[u8; LOCAL_LEN]>::try_from(local).ok());
                let local = local.filter(|local| local[LOCAL_SHORT_LEN..] != [0, 0]);
                log::debug!("announced key={key} address={addr}");
                self.records.put(*key, addr, local, random, sources, now).is_ok()
            }
            Some(UNANNOUNCE) => {
                log::debug!("unannounced key={key} address={addr}");
                self.records.remove(key, addr, sources);
                true
            }
            Some(_) | None => true,
        }
    }

    /// The value that answers a request about `key`: peers in random order, without the requester itself, as many as fit
    /// `room` bytes. `None` if there are none.
    fn peers(
        &self,
        key: &Id,
        from: SocketAddr,
        request: &PeersRequest,
        room: usize,
        random: &mut fastrand::Rng,
        now: Time,
    ) -> Option<Vec<u8>> {
        let own = Server::record_addr(from, request)?;
        let own_local = request.local_address.as_deref().filter(|local| local.len() == LOCAL_LEN);
        let (mut peers, mut locals) = (Vec::new(), Vec::new());
        let family = self.identity.family();
        self.records.sample(key, random, now, |record| {
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
        Some(PeersResponse { peers: Some(peers), local_peers }.encode_to_vec())
    }
}
