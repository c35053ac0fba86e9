//! Network address translators for UDP, with the mapping and filtering of RFC 4787: the address that a packet seems to
//! come from, and the packets that are let in. There is one per host. Never looks at what a packet carries.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::time::Time;

/// The lifetime of a mapping or permission after the last outgoing packet (RFC 4787, REQ-5: two minutes at least).
const LIFE_MS: u64 = 120_000;

/// The kinds of translators.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// No translator.
    Open,
    /// The host has one port. A packet is let in if the host has written to its source address, whatever the ports.
    AddressRestricted,
    /// The host has one port. A packet is let in if the host has written to its source address and port.
    PortRestricted,
    /// The host has one port per destination, and only that destination is let in.
    Symmetric,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 4] = [Kind::Open, Kind::AddressRestricted, Kind::PortRestricted, Kind::Symmetric];
}

#[derive(Clone, Debug)]
struct Mapping {
    port: u16,
    /// The destinations of packets through this mapping, and when the last one left.
    written_to: BTreeMap<SocketAddr, Time>,
}

/// The translator of one host with one socket.
#[derive(Clone, Debug)]
pub struct Nat {
    kind: Kind,
    public: SocketAddr,
    /// By destination if each has its own mapping, else under `None`.
    mappings: BTreeMap<Option<SocketAddr>, Mapping>,
    next_port: u16,
}

impl Nat {
    /// A translator with the public address `public`. Its port is the host's public port too, or the first of them if
    /// there is one per destination.
    pub fn new(kind: Kind, public: SocketAddr) -> Nat {
        Nat { kind, public, mappings: BTreeMap::new(), next_port: public.port() }
    }

    /// The kind of this translator.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Lets out a packet to `to`; returns the address that it seems to come from.
    pub fn outbound(&mut self, to: SocketAddr, now: Time) -> SocketAddr {
        let key = match self.kind {
            Kind::Open => return self.public,
            Kind::AddressRestricted | Kind::PortRestricted => None,
            Kind::Symmetric => Some(to),
        };
        let next = &mut self.next_port;
        let mapping = self.mappings.entry(key).or_insert_with(|| {
            let port = *next;
            *next = next.checked_add(1).unwrap_or(1_024);
            Mapping { port, written_to: BTreeMap::new() }
        });
        mapping.written_to.insert(to, now);
        SocketAddr::new(self.public.ip(), mapping.port)
    }

    /// Whether a packet from `from` to `port` of the public address is let in.
    pub fn inbound(&self, port: u16, from: SocketAddr, now: Time) -> bool {
        if self.kind == Kind::Open {
            return port == self.public.port();
        }
        let is_fresh = |at: &Time| now.since(*at) < LIFE_MS;
        let through = self.mappings.values().filter(|mapping| mapping.port == port);
        through.flat_map(|mapping| &mapping.written_to).filter(|(_, at)| is_fresh(at)).any(|(to, _)| match self.kind {
            Kind::AddressRestricted => to.ip() == from.ip(),
            Kind::Open | Kind::PortRestricted | Kind::Symmetric => *to == from,
        })
    }

    /// Forgets the permissions, and their mappings, that have run out.
    pub fn sweep(&mut self, now: Time) {
        for mapping in self.mappings.values_mut() {
            mapping.written_to.retain(|_, at| now.since(*at) < LIFE_MS);
        }
        self.mappings.retain(|key, mapping| key.is_none() || !mapping.written_to.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(host: u8, port: u16) -> SocketAddr {
        ([9, 9, 9, host], port).into()
    }

    #[test]
    fn each_kind_lets_in_whom_it_should() {
        let now = Time::from_ms(5);
        for (kind, same_host, same_port_elsewhere) in [
            (Kind::Open, true, true),
            (Kind::AddressRestricted, true, false),
            (Kind::PortRestricted, false, false),
            (Kind::Symmetric, false, false),
        ] {
            let mut nat = Nat::new(kind, addr(1, 700));
            assert_eq!(nat.inbound(700, addr(2, 5), now), kind == Kind::Open, "{kind:?}");
            let seen = nat.outbound(addr(2, 5), now);
            assert!(nat.inbound(seen.port(), addr(2, 5), now), "{kind:?}: an answer");
            assert_eq!(nat.inbound(seen.port(), addr(2, 6), now), same_host, "{kind:?}");
            assert_eq!(nat.inbound(seen.port(), addr(3, 5), now), same_port_elsewhere, "{kind:?}");
            let other = nat.outbound(addr(3, 5), now);
            assert_eq!(other == seen, kind != Kind::Symmetric, "{kind:?}");
            let late = now.after(LIFE_MS);
            assert_eq!(nat.inbound(seen.port(), addr(2, 5), late), kind == Kind::Open, "{kind:?}: forgotten");
        }
    }
}
