//! Addresses and node entries as bytes (docs/protocol-hyperdht.md): IPv4 in 6 bytes, IPv6 in 18, an id before them in a
//! node entry, and the short form of local addresses. Never resolves a name and never judges who may be contacted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use crate::contact::{Contact, canonical};
use crate::id::Id;

/// Bytes of an id.
pub const ID_LEN: usize = 32;
/// Bytes of a local address, in either family's network.
pub const LOCAL_LEN: usize = 6;
/// Bytes of a local address in an answer: its network part is the requester's own.
pub const LOCAL_SHORT_LEN: usize = 4;

/// The address family of a network. Nothing in a message says which one it is, so a node belongs to one network only.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4: 6 bytes per address.
    V4,
    /// IPv6: 18 bytes per address, as in the Go port's `IPv6` networks. IPv4 hosts are v4-mapped.
    V6,
}

impl Family {
    /// The family of a node that listens on `addr`.
    pub fn of(addr: SocketAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bytes of an address.
    pub fn address_len(self) -> usize {
        match self {
            Family::V4 => 6,
            Family::V6 => 18,
        }
    }

    /// Appends `addr`. Returns `false`, and appends nothing, if it is an IPv6 address in an IPv4 network.
    pub fn put(self, addr: SocketAddr, out: &mut Vec<u8>) -> bool {
        match (self, addr.ip()) {
            (Family::V4, IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
            (Family::V4, IpAddr::V6(_)) => return false,
            (Family::V6, IpAddr::V4(ip)) => out.extend_from_slice(&ip.to_ipv6_mapped().octets()),
            (Family::V6, IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
        }
        out.extend_from_slice(&addr.port().to_be_bytes());
        true
    }

    /// The bytes of one address; empty for an IPv6 address in an IPv4 network.
    pub fn encode(self, addr: SocketAddr) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.address_len());
        self.put(addr, &mut out);
        out
    }

    /// Reads the address that `bytes` begin with; `None` if they are too few or its port is 0.
    pub fn decode(self, bytes: &[u8]) -> Option<SocketAddr> {
        let bytes = bytes.get(..self.address_len())?;
        let (ip, port) = bytes.split_at(bytes.len() - 2);
        let ip = match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        };
        let port = u16::from_be_bytes(port.try_into().ok()?);
        (port != 0).then(|| canonical(SocketAddr::new(ip, port)))
    }

    /// Reads a list of addresses. A last entry that is cut short is ignored, as node.js does; the Go port would drop the
    /// whole list. Entries with port 0 are left out, where node.js would drop the whole list.
    pub fn decode_list(self, bytes: &[u8]) -> impl Iterator<Item = SocketAddr> {
        bytes.chunks_exact(self.address_len()).filter_map(move |entry| self.decode(entry))
    }

    /// The bytes of node entries, each an id and an address. Nodes whose address does not fit the family are left out.
    pub fn encode_nodes(self, nodes: &[Contact]) -> Vec<u8> {
        let mut out = Vec::with_capacity(nodes.len() * (ID_LEN + self.address_len()));
        for node in nodes {
            let start = out.len();
            out.extend_from_slice(&node.id.0);
            if !self.put(node.addr, &mut out) {
                out.truncate(start);
            }
        }
        out
    }

    /// How many whole node entries `bytes` hold.
    pub fn node_count(self, bytes: &[u8]) -> usize {
        bytes.len() / (ID_LEN + self.address_len())
    }

    /// Reads node entries, by the rules of [`Family::decode_list`].
    pub fn decode_nodes(self, bytes: &[u8]) -> impl Iterator<Item = Contact> {
        bytes.chunks_exact(ID_LEN + self.address_len()).filter_map(move |entry| {
            let (id, addr) = entry.split_at(ID_LEN);
            Some(Contact { id: Id::from_slice(id)?, addr: self.decode(addr)? })
        })
    }
}

/// The bytes of a local address. It is always IPv4; in a lookup its port may be 0.
pub fn encode_local(addr: SocketAddrV4) -> Vec<u8> {
    let mut out = addr.ip().octets().to_vec();
    out.extend_from_slice(&addr.port().to_be_bytes());
    out
}

/// Reads the local addresses of an answer. Their first two bytes are left out, being those of `own`: a local network is
/// taken to be a /16.
pub fn decode_locals(own: Ipv4Addr, bytes: &[u8]) -> impl Iterator<Item = SocketAddrV4> {
    let [a, b, ..] = own.octets();
    let entries = bytes.chunks_exact(LOCAL_SHORT_LEN);
    entries.filter_map(move |entry| {
        let port = u16::from_be_bytes([entry[2], entry[3]]);
        (port != 0).then(|| SocketAddrV4::new(Ipv4Addr::new(a, b, entry[0], entry[1]), port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_keeps_what_is_whole_and_has_a_port() {
        let bytes = [127, 0, 0, 1, 0, 80, 9, 9, 9, 9, 0, 0, 8, 8, 8, 8, 0, 53, 1, 2];
        let read: Vec<SocketAddr> = Family::V4.decode_list(&bytes).collect();
        assert_eq!(read, ["127.0.0.1:80".parse().unwrap(), "8.8.8.8:53".parse().unwrap()]);
        assert_eq!(Family::V4.decode(&bytes[..5]), None);
    }

    #[test]
    fn what_does_not_fit_a_family_is_left_out() {
        let node = |addr: &str| Contact { id: Id([1; 32]), addr: addr.parse().unwrap() };
        let nodes = [node("[2001:db8::1]:5"), node("9.9.9.9:5")];
        assert_eq!(Family::V4.encode_nodes(&nodes).len(), 38);
        assert_eq!(Family::V6.encode_nodes(&nodes).len(), 100);
        assert_eq!(Family::V6.decode_nodes(&Family::V6.encode_nodes(&nodes)).collect::<Vec<_>>(), nodes);
    }

    #[test]
    fn local_addresses_take_the_network_of_the_asker() {
        let read: Vec<_> = decode_locals([192, 168, 77, 5].into(), &[1, 0x7b, 4, 0xd2, 9, 9, 0, 0, 1]).collect();
        assert_eq!(read, ["192.168.1.123:1234".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn nodes_come_back(ids in prop::collection::vec((any::<[u8; 32]>(), any::<[u8; 4]>(), 1u16..), 0..30)) {
            let nodes: Vec<Contact> =
                ids.into_iter().map(|(id, ip, port)| Contact { id: Id(id), addr: (ip, port).into() }).collect();
            for family in [Family::V4, Family::V6] {
                let bytes = family.encode_nodes(&nodes);
                prop_assert_eq!(family.decode_nodes(&bytes).collect::<Vec<_>>(), nodes.clone());
                prop_assert_eq!(family.node_count(&bytes), nodes.len());
            }
        }
    }
}
