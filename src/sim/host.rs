//! The hosts of the world: who is at which address, and what each has. Never decides what happens.

use std::net::{Ipv4Addr, SocketAddr};

use crate::contact::Contact;
use crate::dialect::sealed::contact_at;
use crate::dialect::sealed::node::Node;
use crate::dialect::sealed::settings::Settings;
use crate::dialect::sealed::store::{Store, StoreLimits};
use crate::sim::watch::Watch;
use crate::time::Time;

/// First octet of the first host's address; there is room for 7.6 million networks before 127/8.
const FIRST_OCTET: u32 = 11;
/// The port that every host listens on.
const PORT: u16 = 6500;

/// A host of the world.
#[derive(Debug)]
pub struct Host {
    /// Its id and address.
    pub contact: Contact,
    /// It lies when asked.
    pub lies: bool,
    /// It can dial out and cannot be dialled.
    pub behind_nat: bool,
    /// What runs there; `None` once it is dead, of which nobody is told.
    pub body: Option<Box<Body>>,
    /// When it is woken next.
    pub wake_at: Option<Time>,
    /// A lookup of its that is measured.
    pub watch: Option<Box<Watch>>,
}

/// What runs on a living host.
#[derive(Debug)]
pub struct Body {
    /// The real thing.
    pub node: Node,
    /// What it holds.
    pub store: Store,
}

impl Host {
    /// A living host at this address.
    pub fn new(addr: SocketAddr, settings: Settings, seed: u64, now: Time) -> Host {
        let body = Body { node: Node::new(addr, settings, seed, now), store: Store::new(StoreLimits::default(), seed) };
        Host {
            contact: contact_at(addr),
            lies: false,
            behind_nat: false,
            body: Some(Box::new(body)),
            wake_at: None,
            watch: None,
        }
    }

    /// Whether it is alive and tells the truth.
    pub fn is_honest(&self) -> bool {
        self.body.is_some() && !self.lies
    }
}

/// The address of a host that is alone in its network (/24): its number is that network.
pub fn address_of(number: usize) -> SocketAddr {
    let ip = (FIRST_OCTET << 24) + ((number as u32) << 8) + 1;
    (Ipv4Addr::from(ip), PORT).into()
}

/// The address of the `member`th (0 to 250) other host in the network (/24) of host `number`.
pub fn neighbour_of(number: usize, member: u8) -> SocketAddr {
    let ip = (FIRST_OCTET << 24) + ((number as u32) << 8) + 2 + u32::from(member.min(250));
    (Ipv4Addr::from(ip), PORT).into()
}

/// On which host this address is, whatever its port; `None` for one that is on none.
pub fn host_of(addr: SocketAddr) -> Option<usize> {
    number_of(SocketAddr::new(addr.ip(), PORT))
}

/// Whose address this is; `None` for one that no host has.
pub fn number_of(addr: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(v4) = addr else {
        return None;
    };
    let number = (u32::from(*v4.ip()).checked_sub(FIRST_OCTET << 24)? >> 8) as usize;
    (address_of(number) == addr).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_global_and_name_their_host() {
        for number in [0, 1, 70_000, 999_999] {
            let addr = address_of(number);
            assert_eq!(number_of(addr), Some(number));
            assert!(crate::contact::admissible(address_of(5).ip(), addr));
        }
        assert_eq!(number_of("8.8.8.8:6500".parse().unwrap()), None);
        assert_eq!(number_of("11.0.0.1:9".parse().unwrap()), None);
    }
}
