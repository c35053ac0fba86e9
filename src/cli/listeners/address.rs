//! The address that others reach a listener at: its own, the one that `--advertise` names, or the one that the route to
//! a bootstrap leaves from. Opens no listener.

use std::net::{IpAddr, SocketAddr};

use getopts::{Matches, Options};

use crate::cli::{Stop, resolve};
use crate::contact::scope;
use crate::net::socket::route_towards;

/// The values of `--advertise`: each an address that can be reached, perhaps with the port of the listener it is for.
#[derive(Clone, Default)]
pub struct Advertised(Vec<(IpAddr, Option<u16>)>);

/// Adds `--advertise`.
pub fn add_options(options: &mut Options) {
    let help = "the address others reach this node at, needed when it listens on 0.0.0.0 or ::";
    options.optmulti("", "advertise", help, "IP[:PORT]");
}

impl Advertised {
    /// Reads `--advertise`.
    pub fn read(matches: &Matches) -> Result<Advertised, Stop> {
        matches.opt_strs("advertise").iter().map(|text| parse(text)).collect::<Result<_, _>>().map(Advertised)
    }

    /// One setting a line.
    pub fn describe(&self) -> Vec<String> {
        let line = |(ip, port): &(IpAddr, Option<u16>)| match port {
            Some(port) => format!("advertise = {}", SocketAddr::new(*ip, *port)),
            None => format!("advertise = {ip}"),
        };
        self.0.iter().map(line).collect()
    }

    /// The address that others reach a listener at which is bound to `bound`. For a wildcard address it is what
    /// `--advertise` says, or else our own address on the route to the first of `bootstraps`.
    ///
    /// Errors: `--advertise` names another port, or nothing tells the address.
    pub fn contact_address(&self, bound: SocketAddr, bootstraps: &[String]) -> Result<SocketAddr, Stop> {
        let mut of_family = self.0.iter().filter(|(ip, _)| ip.is_ipv4() == bound.is_ipv4());
        // The one for its port, if there is one.
        let of_port = of_family.clone().find(|(_, port)| port.is_none_or(|port| port == bound.port()));
        if let Some((ip, port)) = of_port.or_else(|| of_family.next()) {
            return match port {
                Some(port) if *port != bound.port() => {
                    Err(Stop::usage(format_args!("--advertise port {port} is not the listening port {}", bound.port())))
                }
                _ => Ok(SocketAddr::new(*ip, bound.port())),
            };
        }
        if !bound.ip().is_unspecified() {
            return Ok(bound);
        }
        let mut bootstraps = bootstraps.iter().filter_map(|name| resolve(name).ok());
        match bootstraps.find(|addr| addr.is_ipv4() == bound.is_ipv4()).map(route_towards) {
            Some(Ok(ip)) => Ok(SocketAddr::new(ip, bound.port())),
            Some(Err(_)) | None => Err(Stop::usage(format_args!(
                "listening on {bound} needs --advertise IP: there is no bootstrap whose route tells our address"
            ))),
        }
    }
}

fn parse(text: &str) -> Result<(IpAddr, Option<u16>), Stop> {
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip: IpAddr| (ip, None));
    let whole = text.parse().map(|addr: SocketAddr| (addr.ip(), Some(addr.port())));
    match bare.or(whole) {
        Ok((ip, port)) if scope(ip).is_some() => Ok((ip, port)),
        _ => Err(Stop::usage(format_args!("--advertise takes a reachable IP or IP:PORT, not '{text}'"))),
    }
}
