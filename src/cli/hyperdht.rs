//! What commands and nodes of the hyperdht dialect share: flags, bootstrap addresses, a node for the length of one
//! command. Never speaks the protocol itself.

use std::net::{IpAddr, SocketAddr};

use getopts::{Matches, Options};

use super::client::{Client, DEFAULT_NODE, options};
use super::node::{contact_address, start_logging};
use super::{Stop, exit, port_of, resolve, tell};
use crate::contact::{Scope, scope};
use crate::dialect::hyperdht::DEFAULT_PORT;
use crate::dialect::hyperdht::address::Family;
use crate::dialect::hyperdht::identity::Identity;
use crate::dialect::hyperdht::node::Node;
use crate::dialect::hyperdht::operation::{Answer, Event, Operation, Outcome};
use crate::dialect::hyperdht::service::Service;
use crate::dialect::hyperdht::settings::Settings;
use crate::engine::{Engine, EngineSettings};
use crate::id::Id;
use crate::net::Net;
use crate::net::clock::Clock;
use crate::net::socket::{bind, route_towards, secret, seed};
use crate::time::Time;

/// What was asked for of hyperdht listeners, checked.
#[derive(Default)]
pub(super) struct Plan {
    pub listeners: Vec<SocketAddr>,
    ids: Vec<Id>,
    pub bootstraps: Vec<String>,
    is_ephemeral: bool,
    settings: Settings,
}

/// A node's flags.
pub(super) fn add_options(o: &mut Options) {
    let listener =
        format!("a listener for hyperdht, by UDP; may be given more than once (default none, port {DEFAULT_PORT})");
    o.optmulti("", "hyperdht", &listener, "IP[:PORT]");
    o.optmulti("", "hyperdht-bootstrap", "a hyperdht node to join through; may be given more than once", "HOST[:PORT]");
    o.optmulti("", "hyperdht-id", "the id of the first hyperdht listener, the second ... (default random)", "HEX");
    o.optflag("", "ephemeral", "be listed by no hyperdht node: for those that come and go, or bootstrap others");
}

impl Plan {
    /// Reads a node's flags.
    pub fn read(matches: &Matches) -> Result<Plan, Stop> {
        let listeners =
            matches.opt_strs("hyperdht").iter().map(|text| listener(text)).collect::<Result<Vec<_>, _>>()?;
        let id = |text: &String| {
            let parsed = text.parse::<Id>();
            parsed.map_err(|_| Stop::usage(format_args!("--hyperdht-id takes 64 hex digits, not '{text}'")))
        };
        let ids = matches.opt_strs("hyperdht-id").iter().map(id).collect::<Result<Vec<_>, _>>()?;
        if (1..ids.len()).any(|at| ids[..at].contains(&ids[at])) {
            return Err(Stop::usage("--hyperdht-id: two nodes can't have the same id"));
        }
        if ids.len() > listeners.len() {
            return Err(Stop::usage(format_args!(
                "--hyperdht-id: {} ids for {} listeners",
                ids.len(),
                listeners.len()
            )));
        }
        for flag in ["hyperdht-bootstrap", "ephemeral"] {
            if listeners.is_empty() && matches.opt_present(flag) {
                return Err(Stop::usage(format_args!(
                    "--{flag} is for a hyperdht listener, and --hyperdht opens none"
                )));
            }
        }
        let bootstraps = bootstraps(&matches.opt_strs("hyperdht-bootstrap"))?;
        let settings = Settings { counts_networks: !matches.opt_present("lan") };
        Ok(Plan { listeners, ids, bootstraps, is_ephemeral: matches.opt_present("ephemeral"), settings })
    }

    /// What can be told of the listeners without opening them.
    pub fn check(&self, advertise: &[(IpAddr, Option<u16>)]) -> Result<(), Stop> {
        for (at, addr) in self.listeners.iter().enumerate() {
            contact_address(*addr, advertise, &self.bootstraps)?;
            if addr.port() != 0 && self.listeners[..at].contains(addr) {
                return Err(Stop::usage(format_args!("{addr} is given twice")));
            }
        }
        Ok(())
    }

    /// The settings in effect, one a line.
    pub fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.listeners.iter().map(|addr| format!("hyperdht = {addr}")).collect();
        lines.extend(self.ids.iter().map(|id| format!("hyperdht-id = {id}")));
        lines.extend(self.bootstraps.iter().map(|name| format!("hyperdht-bootstrap = {name}")));
        if !self.listeners.is_empty() {
            lines.push(format!("ephemeral = {}", self.is_ephemeral));
        }
        lines
    }

    /// Opens the listeners: their sockets, in the order of the engine's, and the lines that announce them.
    pub fn open(
        &self,
        engine: &mut Engine,
        advertise: &[(IpAddr, Option<u16>)],
        now: Time,
    ) -> Result<(Vec<(mio::net::UdpSocket, SocketAddr)>, String), Stop> {
        let (mut sockets, mut lines) = (Vec::new(), String::new());
        for (number, addr) in self.listeners.iter().enumerate() {
            let opened = bind(*addr);
            let (socket, bound) =
                opened.map_err(|e| Stop::new(exit::CANT_CREATE, format!("can't listen on {addr}: {e}")))?;
            let addr = contact_address(bound, advertise, &self.bootstraps)?;
            let id = self.ids.get(number).copied().map_or_else(random_id, Ok)?;
            add_node(engine, Identity { id, addr, is_ephemeral: self.is_ephemeral }, self.settings, now)?;
            lines += &format!("listening hyperdht udp {bound} id={id}\n");
            sockets.push((socket, bound));
        }
        Ok((sockets, lines))
    }
}

fn add_node(engine: &mut Engine, identity: Identity, settings: Settings, now: Time) -> Result<u16, Stop> {
    let secrets = [secret().map_err(no_randomness)?, secret().map_err(no_randomness)?];
    Ok(engine.service_mut::<Service>().add(Node::new(identity, settings, secrets, seed(), now)))
}

fn random_id() -> Result<Id, Stop> {
    secret().map(Id).map_err(no_randomness)
}

fn no_randomness(e: std::io::Error) -> Stop {
    Stop::new(exit::SYSTEM, format!("the kernel gives no random bytes: {e}"))
}

/// The address of a listener: a port may be left out.
fn listener(text: &str) -> Result<SocketAddr, Stop> {
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip: IpAddr| (ip, DEFAULT_PORT).into());
    let wrong = |_| Stop::usage(format_args!("--hyperdht takes IP, IP:PORT or [IP6]:PORT, not '{text}'"));
    text.parse().or(bare).map_err(wrong)
}

/// Bootstrap addresses with their ports; 49737 where none is given.
fn bootstraps(texts: &[String]) -> Result<Vec<String>, Stop> {
    let whole = |text: &String| {
        let is_bare_ip6 = text.matches(':').count() > 1 && !text.contains(']');
        let full = match text.rsplit_once(':') {
            _ if is_bare_ip6 => format!("[{text}]:{DEFAULT_PORT}"),
            Some((_, port)) if !port.ends_with(']') => text.clone(),
            Some(_) | None => format!("{text}:{DEFAULT_PORT}"),
        };
        match port_of(&full) {
            Some(port) if port != 0 => Ok(full),
            _ => Err(Stop::usage(format_args!("'{text}' is no hyperdht node: HOST or HOST:PORT"))),
        }
    };
    texts.iter().map(whole).collect()
}

/// The options of a command that takes part in a network for a while.
pub(super) fn client_options() -> Options {
    let mut o = options_of_one(options(&format!("127.0.0.1:{DEFAULT_PORT}")));
    o.optmulti("b", "hyperdht-bootstrap", "the same as --node", "HOST[:PORT]");
    o.optflag("", "lan", "the nodes are of one network (/24): ask more than a few of it");
    o
}

/// Options with the one that says which dialect a command speaks, which is this one.
pub(super) fn options_of_one(mut o: Options) -> Options {
    o.optopt("", "dialect", "hyperdht, the only one that this command speaks", "NAME");
    o
}

/// The options of a command that asks one node, of this dialect or the sealed one.
pub(super) fn options_of_both() -> Options {
    let mut o = options(&format!("{DEFAULT_NODE}, of hyperdht 127.0.0.1:{DEFAULT_PORT}"));
    o.optopt("", "dialect", "sealed or hyperdht (default sealed)", "NAME");
    o
}

/// The address of the one node that a command is to ask, a port left out being that of this dialect.
pub(super) fn node(name: Option<String>) -> Result<SocketAddr, Stop> {
    let names = bootstraps(&[name.unwrap_or("127.0.0.1".into())])?;
    resolve(&names[0])
}

/// Of one node that was asked, silence tells no more than that there was no answer in time.
pub(super) fn unanswered(stop: Stop, node: SocketAddr) -> Stop {
    match stop.code {
        exit::UNAVAILABLE => Stop::new(exit::TRY_AGAIN, format!("no answer from {node}")),
        _ => stop,
    }
}

/// Whether a command that speaks both is to speak hyperdht.
pub(super) fn is_asked_for(client: &Client) -> Result<bool, Stop> {
    match client.matches.opt_str("dialect").as_deref() {
        None | Some("sealed") => Ok(false),
        Some("hyperdht") => Ok(true),
        Some(other) => Err(Stop::usage(format_args!("--dialect takes sealed or hyperdht, not '{other}'"))),
    }
}

/// Refuses another dialect than this for a command that speaks no other.
pub(super) fn check_dialect(client: &Client) -> Result<(), Stop> {
    match client.matches.opt_str("dialect").as_deref() {
        None | Some("hyperdht") => Ok(()),
        Some(other) => Err(Stop::usage(format_args!("--dialect: this command speaks hyperdht, not '{other}'"))),
    }
}

/// A node of its own for one command, which nobody lists.
pub(super) struct Visit {
    net: Net,
    /// Whom to ask first.
    pub nodes: Vec<SocketAddr>,
    pub own: SocketAddr,
    timeout_ms: u64,
}

impl Visit {
    /// Takes part in the network of the nodes that the command names.
    pub fn begin(client: &Client) -> Result<Visit, Stop> {
        check_dialect(client)?;
        let mut names = client.matches.opt_strs("node");
        names.extend(client.matches.opt_strs("hyperdht-bootstrap"));
        if names.is_empty() {
            names.push(format!("127.0.0.1:{DEFAULT_PORT}"));
        }
        let mut nodes = Vec::new();
        let mut unknown = None;
        for name in bootstraps(&names)? {
            match resolve(&name) {
                Ok(addr) => nodes.push(addr),
                Err(stop) => unknown = Some(stop),
            }
        }
        // One that is not known is no reason not to ask the others.
        match unknown {
            Some(stop) if nodes.is_empty() => return Err(stop),
            Some(stop) => tell(&format!("dayfly: {}", stop.line)),
            None => {}
        }
        let is_lan = client.matches.opt_present("lan");
        let mut visit = Visit::open(nodes.clone(), client.timeout_ms, is_lan)?;
        nodes.iter().for_each(|node| visit.net.service_mut::<Service>().add_seed(0, *node));
        Ok(visit)
    }

    /// Opens a node that has one thing to ask of one of `nodes`.
    pub fn to(nodes: Vec<SocketAddr>, timeout_ms: u64) -> Result<Visit, Stop> {
        Visit::open(nodes, timeout_ms, false)
    }

    fn open(nodes: Vec<SocketAddr>, timeout_ms: u64, is_lan: bool) -> Result<Visit, Stop> {
        start_logging("error");
        let first = *nodes.first().ok_or_else(|| Stop::usage("no node to ask"))?;
        let system = |e: std::io::Error| Stop::new(exit::SYSTEM, format!("can't reach out: {e}"));
        let ip = route_towards(first).ok().filter(|ip| scope(*ip).is_some());
        let ip = ip.ok_or_else(|| Stop::new(exit::UNAVAILABLE, format!("there is no way to {first}")))?;
        let (socket, own) = bind((ip, 0).into()).map_err(system)?;
        let clock = Clock::start();
        let mut engine = Engine::new(EngineSettings::default(), seed());
        // A command keeps no table for long, and at home all may be of one network.
        let settings = Settings { counts_networks: scope(ip) == Some(Scope::Global) && !is_lan };
        add_node(&mut engine, Identity { id: random_id()?, addr: own, is_ephemeral: true }, settings, clock.now())?;
        let mut net = Net::new(engine, clock).map_err(system)?;
        net.add_datagram_listener(socket).map_err(system)?;
        Ok(Visit { net, nodes, own, timeout_ms })
    }

    /// Lets SIGINT and SIGTERM end what is being done, and not the process.
    pub fn handle_signals(&mut self) -> Result<(), Stop> {
        self.net.handle_signals().map_err(|e| Stop::new(exit::SYSTEM, format!("can't handle signals: {e}")))
    }

    /// Runs an operation and collects the answers. No answer in time, and no answer at all, are a [`Stop`].
    pub fn run(&mut self, operation: Operation) -> Result<(Vec<Answer>, usize, usize), Stop> {
        let mut found = Vec::new();
        let (answers, commits) = self.collect(operation, &mut found)?;
        Ok((found, answers, commits))
    }

    /// Does the same into `found`, which has what was found also where it took too long: how many answered, and how many took
    /// an update.
    pub fn collect(&mut self, operation: Operation, found: &mut Vec<Answer>) -> Result<(usize, usize), Stop> {
        let show = |event| match event {
            Event::Answer(answer) => {
                found.push(answer);
                None
            }
            Event::Done(outcome) => Some(outcome),
        };
        let outcome = self.net.operation::<Service, _>(Some(0), operation, self.timeout_ms, show);
        let asked: Vec<String> = self.nodes.iter().map(SocketAddr::to_string).collect();
        match outcome.map_err(|e| Stop::new(exit::SYSTEM, format!("can't poll: {e}")))? {
            Some(Outcome::Done { answers, commits }) => Ok((answers, commits)),
            Some(Outcome::NobodyAnswered) => {
                Err(Stop::new(exit::UNAVAILABLE, format!("no hyperdht node answers at {}", asked.join(", "))))
            }
            Some(Outcome::NobodyNear) => {
                Err(Stop::new(exit::UNAVAILABLE, "no node near the key took it: none has an id and gives tokens"))
            }
            None if self.net.is_signalled() => Err(Stop::new(exit::TRY_AGAIN, "ended by a signal before it was done")),
            None => Err(Stop::new(exit::TRY_AGAIN, format!("not done within {} ms", self.timeout_ms))),
        }
    }

    /// Whether a signal has asked to stop.
    pub fn is_signalled(&self) -> bool {
        self.net.is_signalled()
    }

    /// How who answered a ping sees us, if it says so.
    pub fn seen_as(&self, pong: &Answer) -> Option<SocketAddr> {
        Family::of(self.own).decode(pong.value.as_deref()?)
    }

    /// Serves for a while; whether a signal has come.
    pub fn serve_for(&mut self, ms: u64) -> Result<bool, Stop> {
        self.net.serve_for(ms).map_err(|e| Stop::new(exit::SYSTEM, format!("can't poll: {e}")))
    }
}
