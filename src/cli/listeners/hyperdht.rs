//! The listeners of the hyperdht dialect, by UDP: `--hyperdht` and what belongs to it. Turns flags into nodes; never
//! speaks the protocol.

use std::net::{IpAddr, SocketAddr};

use getopts::{Matches, Options};

use super::address::Advertised;
use super::{DialectPlan, Kind, Ready, cant_listen, check_distinct, serve_status};
use crate::cli::{Stop, port_of};
use crate::dialect::Dialect;
use crate::dialect::hyperdht::DEFAULT_PORT;
use crate::dialect::hyperdht::identity::Identity;
use crate::dialect::hyperdht::node::Node;
use crate::dialect::hyperdht::service::Service;
use crate::dialect::hyperdht::settings::Settings;
use crate::id::Id;
use crate::limits::BOOTSTRAPS;
use crate::net::Net;
use crate::net::socket::{secret, seed};

pub(super) const LISTENERS: Kind = Kind { add_options, read: |matches, _| Ok(Box::new(Plan::read(matches)?)) };

struct Plan {
    listeners: Vec<SocketAddr>,
    ids: Vec<Id>,
    advertised: Advertised,
    bootstraps: Vec<String>,
    is_ephemeral: bool,
    settings: Settings,
}

fn add_options(o: &mut Options) {
    let listener =
        format!("a listener for hyperdht, by UDP; may be given more than once (default none, port {DEFAULT_PORT})");
    o.optmulti("", "hyperdht", &listener, "IP[:PORT]");
    let bootstrap = format!("a hyperdht node to join through; may be given up to {BOOTSTRAPS} times");
    o.optmulti("", "hyperdht-bootstrap", &bootstrap, "HOST[:PORT]");
    o.optmulti("", "hyperdht-id", "the id of the first hyperdht listener, then the second (default random)", "HEX");
    o.optflag(
        "",
        "ephemeral",
        "have no hyperdht node list this one: for nodes that come and go, or only bootstrap others",
    );
}

impl Plan {
    fn read(matches: &Matches) -> Result<Plan, Stop> {
        let texts = matches.opt_strs("hyperdht");
        let listeners = texts.iter().map(|text| listener(text)).collect::<Result<Vec<_>, _>>()?;
        for flag in ["hyperdht-bootstrap", "ephemeral"] {
            if listeners.is_empty() && matches.opt_present(flag) {
                return Err(Stop::usage(format_args!("--{flag} needs a hyperdht listener: --hyperdht IP[:PORT]")));
            }
        }
        let bootstraps = matches.opt_strs("hyperdht-bootstrap");
        if bootstraps.len() > BOOTSTRAPS {
            return Err(Stop::usage(format_args!(
                "--hyperdht-bootstrap names {} nodes to join through, and at most {BOOTSTRAPS} are allowed",
                bootstraps.len()
            )));
        }
        Ok(Plan {
            ids: ids(matches, listeners.len())?,
            listeners,
            advertised: Advertised::read(matches)?,
            bootstraps: bootstraps.iter().map(|text| with_port(text)).collect::<Result<_, _>>()?,
            is_ephemeral: matches.opt_present("ephemeral"),
            settings: Settings { counts_networks: !matches.opt_present("lan") },
        })
    }
}

impl DialectPlan for Plan {
    fn count(&self) -> usize {
        self.listeners.len()
    }

    fn check(&self) -> Result<(), Stop> {
        self.listeners
            .iter()
            .try_for_each(|addr| self.advertised.contact_address(*addr, &self.bootstraps).map(drop))?;
        check_distinct(self.listeners.iter())
    }

    fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.listeners.iter().map(|addr| format!("hyperdht = {addr}")).collect();
        lines.extend(self.ids.iter().map(|id| format!("hyperdht-id = {id}")));
        lines.extend(self.bootstraps.iter().map(|name| format!("hyperdht-bootstrap = {name}")));
        if !self.listeners.is_empty() {
            lines.push(format!("ephemeral = {}", self.is_ephemeral));
        }
        lines
    }

    fn open(&self, net: &mut Net, ready: &mut Ready) -> Result<(), Stop> {
        for (number, addr) in self.listeners.iter().enumerate() {
            let bound = net.add_datagram_listener(*addr).map_err(|e| cant_listen(*addr, &e))?;
            let addr = self.advertised.contact_address(bound, &self.bootstraps)?;
            let id = self.ids.get(number).copied().map_or_else(random_id, Ok)?;
            add_node(net, Identity { id, addr, is_ephemeral: self.is_ephemeral }, self.settings)?;
            serve_status(net, bound);
            ready.nodes += &format!("listening hyperdht udp {bound} id={id}\n");
        }
        self.bootstraps.iter().for_each(|bootstrap| net.add_bootstrap(Dialect::Hyperdht, bootstrap));
        Ok(())
    }
}

/// Adds the node of the datagram listener that was opened last.
pub(in crate::cli) fn add_node(net: &mut Net, identity: Identity, settings: Settings) -> Result<(), Stop> {
    let secrets = [secret().map_err(no_randomness)?, secret().map_err(no_randomness)?];
    let node = Node::new(identity, settings, secrets, seed(), net.now());
    net.service_mut::<Service>().add(node);
    Ok(())
}

/// An id that nobody can guess.
pub(in crate::cli) fn random_id() -> Result<Id, Stop> {
    secret().map(Id).map_err(no_randomness)
}

fn no_randomness(e: std::io::Error) -> Stop {
    Stop::system("the kernel gives no random bytes")(e)
}

/// The ids of `--hyperdht-id`, of at most this many listeners.
fn ids(matches: &Matches, listeners: usize) -> Result<Vec<Id>, Stop> {
    let id = |text: &String| {
        let parsed = text.parse::<Id>();
        parsed.map_err(|_| Stop::usage(format_args!("--hyperdht-id takes 64 hex digits, not '{text}'")))
    };
    let ids = matches.opt_strs("hyperdht-id").iter().map(id).collect::<Result<Vec<_>, _>>()?;
    if (1..ids.len()).any(|at| ids[..at].contains(&ids[at])) {
        return Err(Stop::usage("--hyperdht-id: two nodes can't have the same id"));
    }
    if ids.len() > listeners {
        return Err(Stop::usage(format_args!("--hyperdht-id: {} ids for {listeners} listeners", ids.len())));
    }
    Ok(ids)
}

/// The address of a listener, whose port may be left out.
fn listener(text: &str) -> Result<SocketAddr, Stop> {
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip: IpAddr| (ip, DEFAULT_PORT).into());
    let wrong = |_| Stop::usage(format_args!("--hyperdht takes IP, IP:PORT or [IP6]:PORT, not '{text}'"));
    text.parse().or(bare).map_err(wrong)
}

/// `HOST:PORT` for `HOST` or `HOST:PORT`, with the dialect's port if none is given. An IPv6 address may lack its brackets.
pub(in crate::cli) fn with_port(text: &str) -> Result<String, Stop> {
    let is_bare_ip6 = text.matches(':').count() > 1 && !text.contains(']');
    let full = match text.rsplit_once(':') {
        _ if is_bare_ip6 => format!("[{text}]:{DEFAULT_PORT}"),
        Some((_, port)) if !port.ends_with(']') => text.to_string(),
        Some(_) | None => format!("{text}:{DEFAULT_PORT}"),
    };
    match port_of(&full) {
        Some(port) if port != 0 => Ok(full),
        _ => Err(Stop::usage(format_args!("'{text}' is not the address of a hyperdht node (HOST or HOST:PORT)"))),
    }
}
