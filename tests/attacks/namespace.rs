//! A network namespace for each test, and who has which address in it.

use std::any::type_name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use crate::common::{Node, alone, netns};

/// What is sent to the dark addresses, 10.64/10, is swallowed: nobody answers, and nobody says so.
const SETUP: &str = "
ip link set lo up
ip route add local 10.0.0.0/8 dev lo
ip -6 route add local 2001:db8::/32 dev lo
ip link add dark type veth peer name nobody
ip link set dark arp off
ip link set nobody arp off
ip link set dark up
ip link set nobody up
ip route add 10.64.0.0/10 dev dark table local
echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind
echo 1024 65000 > /proc/sys/net/ipv4/ip_local_port_range
echo 16384 > /proc/sys/net/core/somaxconn
ulimit -n $(ulimit -Hn)";

/// Runs `attack` in a namespace of its own, one at a time. To be called by the test itself with a closure, as the name of
/// the test is that of the closure's surroundings.
pub fn inside<F: FnOnce()>(attack: F) {
    if std::env::var_os(netns::INSIDE).is_some() {
        return attack();
    }
    let _alone = alone();
    let name = type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, name) = name.split_once("::").expect("a test has a crate");
    netns::run(SETUP, &["--exact", name, "--nocapture"], 1);
}

/// From where an attacker attacks.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Attacker {
    OneAddress,
    /// Of forty networks (/16).
    ManyAddresses,
    /// All 256 networks (/64) of one household.
    OneSlash56,
}

impl Attacker {
    /// Its `n`th address.
    pub fn address(self, n: usize) -> IpAddr {
        match self {
            Attacker::OneAddress => Ipv4Addr::new(10, 1, 0, 1).into(),
            Attacker::ManyAddresses => Ipv4Addr::new(10, 20 + (n % 40) as u8, (n / 40) as u8, 1).into(),
            Attacker::OneSlash56 => Ipv6Addr::new(0x2001, 0xdb8, 0, (n % 256) as u16, 0, 0, 0, 1).into(),
        }
    }

    /// The address of the `n`th honest node, each in a network of its own. The first is the one that is attacked.
    pub fn node(self, n: usize) -> SocketAddr {
        let ip = match self {
            Attacker::OneSlash56 => Ipv6Addr::new(0x2001, 0xdb8, 0xaa00 + n as u16, 0, 0, 0, 0, 1).into(),
            _ => IpAddr::from([10, 140 + n as u8, 0, 1]),
        };
        (ip, 6_500).into()
    }

    /// The address of the `n`th honest client, each in a network of its own.
    pub fn honest(self, n: usize) -> IpAddr {
        match self {
            Attacker::OneSlash56 => Ipv6Addr::new(0x2001, 0xdb8, 0xbb00 + n as u16, 0, 0, 0, 0, 1).into(),
            _ => [10, 200 + n as u8, 0, 1].into(),
        }
    }

    /// The address of the `n`th node that helps the attacker, each in a network of its own.
    pub fn accomplice(self, n: usize) -> SocketAddr {
        let ip = match self {
            Attacker::OneSlash56 => Ipv6Addr::new(0x2001, 0xdb8, 0xcc00 + n as u16, 0, 0, 0, 0, 1).into(),
            _ => IpAddr::from([10, 10 + n as u8, 0, 1]),
        };
        (ip, 7_000).into()
    }

    /// Starts the node that is attacked.
    pub fn victim(self, args: &[&str]) -> Node {
        start(self.node(0), args)
    }

    /// Starts `n` nodes that know each other. The first is the one that is attacked.
    pub fn network(self, n: usize, args: &[&str]) -> Vec<Node> {
        let first = self.node(0).to_string();
        let join = [args, &["--bootstrap", &first]].concat();
        let mut nodes = vec![self.victim(args)];
        nodes.extend((1..n).map(|i| start(self.node(i), &join)));
        for node in &nodes {
            crate::common::eventually("all know all", || node.counter("contacts") == n as u64 - 1);
        }
        nodes
    }
}

/// Starts a node at this address.
pub fn start(addr: SocketAddr, args: &[&str]) -> Node {
    let binary = std::env::var("DAYFLY").unwrap_or(env!("CARGO_BIN_EXE_dayfly").into());
    Node::start_with(Command::new(binary).args(["--listen", &addr.to_string()]).args(args))
}
