//! Room for connections and for their memory, and who pays when there is none: the heaviest source (sources.rs). Part of
//! the engine; knows nothing about the messages.

use std::cmp::Reverse;

use crate::contact;
use crate::dialect::stream::{CloseReason, Listener, Origin, State};
use crate::engine::conn::Conn;
use crate::engine::dialects::Services;
use crate::engine::{ConnId, Engine};
use crate::guard::Counter;
use crate::limits::{
    ADDRESS_SEARCH_MS, BUFFERED_KEPT, CONNECTIONS_PER_ADDRESS, CONNECTIONS_PER_ADDRESS_LEAST, CONNECTIONS_SHARE,
    DIALLED_SHARE, EVICT_IDLE_MS, EVICTION_CANDIDATES, IDLE_MS, IDLE_SEARCH_MS, IDLE_SEARCHED, NODE_CONNECTIONS,
};
use crate::sources::{Share, Source};
use crate::time::Time;

/// How well a connection is suited to be closed for another: the heaviest source first, then those that never spoke,
/// then the idlest, then the oldest. Sources that weigh about the same (within a factor of two) count as equally heavy.
type Suited = (u32, bool, Reverse<(Time, u32)>);

impl Engine {
    /// The number of connections, excluding those whose slots are freed at the end of the turn.
    pub(super) fn open_connections(&self) -> usize {
        self.conns.len() - self.closed.len()
    }

    /// Places reserved for connections that we dial, or else clients that stay could cut us off from the network.
    pub(super) fn places_for_links(&self) -> usize {
        (self.settings.max_connections / DIALLED_SHARE).min(NODE_CONNECTIONS)
    }

    /// Inbound connections that one address may have: a share of all.
    fn places_for_address(&self) -> usize {
        let share = self.settings.max_connections / CONNECTIONS_SHARE;
        share.clamp(CONNECTIONS_PER_ADDRESS_LEAST, CONNECTIONS_PER_ADDRESS)
    }

    fn has_room_for_inbound(&self) -> bool {
        let kept_free = self.places_for_links().saturating_sub(self.links());
        self.open_connections() + kept_free < self.settings.max_connections
    }

    /// Makes room for a connection that comes from `source`. At the limit of its address, it replaces an idle one of
    /// that address; where all places are taken, one of a source that is no lighter.
    ///
    /// Errors: there is none to replace; the counter says which limit it is.
    pub(super) fn make_room_for(&mut self, source: Source, peer: std::net::IpAddr, now: Time) -> Result<(), Counter> {
        let [of_address, ..] = self.shared.sources.connections.held(source);
        let is_at_limit = !source.is_exempt() && of_address >= self.places_for_address() as u64;
        if is_at_limit && !self.replace_idlest_of(peer, now) {
            return Err(Counter::TooManyFromAddress);
        }
        if self.has_room_for_inbound() || self.evict(Some(source), now) || self.close_spare_link(now) {
            return Ok(());
        }
        Err(Counter::TooManyConnections)
    }

    /// What to say to a connection that is refused at `listener`, before it is closed.
    pub fn refusal(&self, listener: Listener) -> Vec<u8> {
        Services::refusal(listener)
    }

    /// Closes one inbound connection to make room for another, from `newcomer` (or, if `None`, for one that we dial):
    /// the idlest one of the heaviest source among a few drawn at random. A source that holds a good part of all
    /// connections is among those drawn; to search all of them each time would let a stranger keep us busy. None that is
    /// lighter than the newcomer, or as heavy and in use, is closed. Returns whether one was.
    pub(super) fn evict(&mut self, newcomer: Option<Source>, now: Time) -> bool {
        let slots = self.conns.slots();
        let mut best: Option<(Suited, ConnId)> = None;
        let is_small = slots <= 2 * EVICTION_CANDIDATES;
        for n in 0..if is_small { slots } else { EVICTION_CANDIDATES } {
            let slot = if is_small { n } else { self.random.usize(..slots) };
            let candidate = self.conns.at(slot).and_then(|(id, conn)| Some((self.suited(id, conn)?, id)));
            best = best.max(candidate);
        }
        let Some(((class, is_silent, Reverse((used_at, _))), id)) = best else {
            return false;
        };
        let is_unused = is_silent || now.since(used_at) >= EVICT_IDLE_MS;
        let own = newcomer.map_or(0, |source| class_of(self.shared.sources.connections.weight(source)));
        if newcomer.is_some() && (class < own || (class == own && !is_unused)) {
            return false;
        }
        self.evict_now(id, now);
        true
    }

    fn evict_now(&mut self, id: ConnId, now: Time) {
        if let Some(conn) = self.conns.get(id) {
            self.shared.guard.fault(Counter::Evicted, conn.info.peer, now);
            self.close(id, CloseReason::Shortage, now);
        }
    }

    /// `None` for a connection that may not be closed for another: one that we dialled, or that carries our requests (we
    /// would dial again for them).
    fn suited(&self, id: ConnId, conn: &Conn) -> Option<Suited> {
        let may_go = conn.info.origin == Origin::Inbound && conn.info.state != State::Closed && !conn.session.awaits();
        let sources = &self.shared.sources;
        let class = || class_of(sources.connections.weight(sources.of(conn.info.peer.ip())));
        may_go.then(|| (class(), conn.is_silent(), Reverse((conn.used_at, id.serial()))))
    }

    /// Closes the idlest connection of the address of `peer`, unless all are in use, so that a host that lost its
    /// connections without telling us can come back. Searches all connections, and so does it only now and then.
    fn replace_idlest_of(&mut self, peer: std::net::IpAddr, now: Time) -> bool {
        if now < self.address_search_at {
            return false;
        }
        self.address_search_at = now.after(ADDRESS_SEARCH_MS);
        let (mut held, mut best): (usize, Option<(Suited, ConnId)>) = (0, None);
        let address = contact::source(peer);
        for (id, conn) in self.conns.iter().filter(|(_, conn)| contact::source(conn.info.peer.ip()) == address) {
            held += usize::from(conn.info.origin == Origin::Inbound);
            best = best.max(self.suited(id, conn).map(|suited| (suited, id)));
        }
        if held < self.places_for_address() {
            return true; // The count was too high.
        }
        let idlest = best
            .filter(|((_, is_silent, Reverse((used_at, _))), _)| *is_silent || now.since(*used_at) >= EVICT_IDLE_MS);
        idlest.iter().for_each(|(_, id)| self.evict_now(*id, now));
        idlest.is_some()
    }

    // ---- memory ----

    /// The buffers hold too many bytes: the heaviest source loses its largest connections, until there is so much room
    /// that this does not have to be done again soon. A peer that is reading its answers is spared as long as there are
    /// others.
    pub(super) fn free_buffers(&mut self, now: Time) {
        let mut share = Share::default();
        for (_, conn) in self.conns.iter() {
            share.charge(self.shared.sources.of(conn.info.peer.ip()), u64::from(conn.counted_bytes));
        }
        let kept = self.settings.buffered_bytes / BUFFERED_KEPT.1 * BUFFERED_KEPT.0;
        // What is about as suited to be closed is closed in one round, so there are few rounds.
        while self.buffered_bytes > kept {
            let suited = |engine: &Engine, share: &Share, conn: &Conn| {
                let weight = share.weight(engine.shared.sources.of(conn.info.peer.ip()));
                (!conn.is_being_read(now), class_of(weight), class_of(u64::from(conn.counted_bytes)))
            };
            let holding = |conn: &Conn| conn.counted_bytes > 0;
            let all = self.conns.iter().filter(|(_, conn)| holding(conn));
            let Some(top) = all.map(|(_, conn)| suited(self, &share, conn)).max() else {
                return;
            };
            for slot in 0..self.conns.slots() {
                let victim = self.conns.at(slot).filter(|(_, conn)| holding(conn) && suited(self, &share, conn) == top);
                let Some((id, peer, bytes)) = victim.map(|(id, conn)| (id, conn.info.peer, conn.counted_bytes)) else {
                    continue;
                };
                share.release(self.shared.sources.of(peer.ip()), u64::from(bytes));
                self.shared.guard.fault(Counter::MemoryLimit, peer, now);
                self.close(id, CloseReason::Shortage, now);
                if self.buffered_bytes <= kept {
                    return;
                }
            }
        }
    }

    // ---- idle peers ----

    /// Closes inbound connections that have been idle for long, a few slots at a time: a timer for each would cost every
    /// idle connection memory. Runs whenever something else is due, which is every few seconds where there are nodes.
    pub(super) fn close_idle(&mut self, now: Time) {
        if now < self.idle_search_at {
            return;
        }
        let end = self.conns.slots().min(self.idle_searched + IDLE_SEARCHED);
        for slot in self.idle_searched..end {
            let idle = self.conns.at(slot).filter(|(_, conn)| {
                let is_node = conn.info.listener.is_some_and(Services::is_for_nodes);
                let is_unused = conn.is_idle() && !conn.session.keeps_alive() && now.since(conn.used_at) >= IDLE_MS;
                is_node && conn.info.origin == Origin::Inbound && conn.info.state == State::Open && is_unused
            });
            if let Some(id) = idle.map(|(id, _)| id) {
                self.close(id, CloseReason::Closed, now);
            }
        }
        let is_through = end == self.conns.slots();
        self.idle_searched = if is_through { 0 } else { end };
        self.idle_search_at = if is_through { now.after(IDLE_SEARCH_MS) } else { now };
    }
}

/// Sources of the same class are equally heavy.
fn class_of(weight: u64) -> u32 {
    u64::BITS - weight.leading_zeros()
}
