//! The addresses of the simulated hosts, at every level. Each host is alone in its network (/24) unless a world says
//! otherwise, because nodes count contacts by network. Never decides what happens at an address.

use std::net::{Ipv4Addr, SocketAddr};

/// First octet of the first host's address; there is room for 7.6 million networks before 127/8.
const FIRST_OCTET: u32 = 11;
/// The port that every host listens on.
const PORT: u16 = 6500;

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

/// The number of the host that has this IP address, whatever the port; `None` if no host can have it.
pub fn host_of(addr: SocketAddr) -> Option<usize> {
    number_of(SocketAddr::new(addr.ip(), PORT))
}

/// The number of the host that listens at this address; `None` if no host can.
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
