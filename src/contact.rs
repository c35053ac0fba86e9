//! Contacts, and which addresses a contact may have. Decides from the address alone; never dials or resolves anything.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;

use crate::id::Id;

/// A node of the network: an id at an address. The dialect defines how the two belong together.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contact<I = Id> {
    /// The node's id.
    pub id: I,
    /// The address on which it listens.
    pub addr: SocketAddr,
}

impl<I: fmt::Debug> fmt::Debug for Contact<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.id, self.addr)
    }
}

/// How far an address reaches.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Only this host.
    Loopback,
    /// Only this site: 10/8, 172.16/12, 192.168/16, fc00::/7, link-local.
    Private,
    /// The internet.
    Global,
}

/// The scope of `ip`, or `None` for a martian: an address that no contact can have (unspecified, multicast, broadcast,
/// 0/8, 240/4, v4-mapped, v4-compatible).
pub fn scope(ip: IpAddr) -> Option<Scope> {
    match ip {
        IpAddr::V4(v4) => scope_v4(v4),
        IpAddr::V6(v6) => scope_v6(v6),
    }
}

fn scope_v4(ip: Ipv4Addr) -> Option<Scope> {
    if ip.is_loopback() {
        Some(Scope::Loopback)
    } else if ip.is_private() || ip.is_link_local() {
        Some(Scope::Private)
    } else if ip.octets()[0] == 0 || ip.octets()[0] >= 224 {
        None // "this network", multicast, reserved, broadcast
    } else {
        Some(Scope::Global)
    }
}

fn scope_v6(ip: Ipv6Addr) -> Option<Scope> {
    if ip.is_loopback() {
        Some(Scope::Loopback)
    } else if ip.is_unspecified() || ip.is_multicast() || ip.to_ipv4().is_some() {
        None // v4-mapped and v4-compatible addresses are v4 addresses in disguise
    } else if ip.is_unique_local() || ip.is_unicast_link_local() {
        Some(Scope::Private)
    } else {
        Some(Scope::Global)
    }
}

/// Whether a node at `own` may list and dial `other`. That takes a port other than 0, the same address family (we
/// always set IPV6_V6ONLY), and no martian. Only nodes on loopback reach contacts on loopback, and they reach no
/// others; nodes with a global address do not reach private ones.
pub fn admissible(own: IpAddr, other: SocketAddr) -> bool {
    if other.port() == 0 || own.is_ipv4() != other.is_ipv4() {
        return false;
    }
    match (scope(own), scope(other.ip())) {
        (_, None) | (None, _) => false,
        (Some(Scope::Loopback), Some(other)) => other == Scope::Loopback,
        (Some(Scope::Private), Some(other)) => other != Scope::Loopback,
        (Some(Scope::Global), Some(other)) => other == Scope::Global,
    }
}

/// A network that is likely to have one owner: an IPv4 /24, or an IPv6 /48. A home gets a /56 and a company a /48, so a
/// limit on the wider one bounds both. Limits on diversity count contacts by it.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Network(NonZeroU64);

/// The network of `ip`, or `None` for loopback, where all programs of a host share one address.
pub fn network(ip: IpAddr) -> Option<Network> {
    // A bit above the prefix keeps the two families apart.
    let bits = match ip {
        IpAddr::V4(v4) => 1 << 24 | u64::from(u32::from(v4) >> 8),
        IpAddr::V6(v6) => 1 << 48 | (u128::from(v6) >> 80) as u64,
    };
    NonZeroU64::new(bits).filter(|_| scope(ip) != Some(Scope::Loopback)).map(Network)
}

/// The source of `ip`, as limits per stranger count it: an IPv4 address, or the /64 of an IPv6 address. `None` for
/// loopback, where all programs of a host share one address.
pub fn source(ip: IpAddr) -> Option<IpAddr> {
    let source = match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    };
    (scope(ip) != Some(Scope::Loopback)).then_some(source)
}

/// Writes a v4-mapped v6 address as v4, and drops the flow label and the scope id, which only matter locally.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn martians_have_no_scope() {
        for text in
            ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "::ffff:1.2.3.4", "::1.2.3.4"]
        {
            assert_eq!(scope(ip(text)), None, "{text}");
        }
        assert_eq!(scope(ip("127.3.2.1")), Some(Scope::Loopback));
        assert_eq!(scope(ip("::1")), Some(Scope::Loopback));
        assert_eq!(scope(ip("fd00::1")), Some(Scope::Private));
        assert_eq!(scope(ip("169.254.0.9")), Some(Scope::Private));
        assert_eq!(scope(ip("2001:db8::1")), Some(Scope::Global));
    }

    #[test]
    fn contacts_stay_within_their_scope_and_family() {
        let rows = [
            ("127.0.0.1", "127.0.0.2:1", true),
            ("127.0.0.1", "127.0.0.2:0", false),
            ("127.0.0.1", "[::1]:1", false),
            ("127.0.0.1", "10.0.0.1:1", false),
            ("127.0.0.1", "8.8.8.8:1", false),
            ("10.0.0.1", "127.0.0.1:1", false),
            ("10.0.0.1", "192.168.0.1:1", true),
            ("8.8.8.8", "192.168.0.1:1", false),
            ("10.0.0.1", "8.8.8.8:53", true),
            ("8.8.8.8", "239.1.1.1:53", false),
        ];
        for (own, other, want) in rows {
            assert_eq!(admissible(ip(own), other.parse().unwrap()), want, "{own} {other}");
        }
    }

    #[test]
    fn networks_are_slash_24_and_slash_48_without_loopback() {
        assert_eq!(network(ip("8.8.8.8")), network(ip("8.8.8.200")));
        assert_ne!(network(ip("8.8.8.8")), network(ip("8.8.9.8")));
        assert_eq!(network(ip("2001:db8:1:ff00::1")), network(ip("2001:db8:1:2:3:4:5:6")));
        assert_ne!(network(ip("2001:db8::1")), network(ip("2001:db8:1::1")));
        assert_ne!(network(ip("0:8:808::1")), network(ip("8.8.8.8")), "a prefix of one family is none of the other");
        assert_eq!(network(ip("127.0.0.1")), None);
        assert_eq!(network(ip("::1")), None);
    }

    #[test]
    fn mapped_addresses_are_written_as_v4() {
        assert_eq!(canonical("[::ffff:1.2.3.4]:5".parse().unwrap()), "1.2.3.4:5".parse().unwrap());
    }
}
