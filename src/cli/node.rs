//! `dayfly` and `dayfly node`: from flags and the configuration file to a running node.

use std::net::{IpAddr, SocketAddr};

use getopts::{Matches, Options};

use super::config::{self, Config};
#[cfg(feature = "hyperdht")]
use super::hyperdht;
use super::{Outcome, Stop, exit, number, parse, port_of, print, resolve};
use crate::contact::scope;
use crate::dialect::Dialect;
use crate::dialect::sealed::node_id;
use crate::dialect::sealed::service::Service;
use crate::dialect::sealed::settings::{Ids, ServiceSettings, Settings};
use crate::dialect::sealed::store::StoreLimits;
use crate::engine::{Engine, EngineSettings, Listener};
use crate::kad::Parameters;
use crate::limits::{
    ALPHA, ALPHA_MAX, CONNECTIONS, CONNECTIONS_MAX, GET_TRIES, K, K_MAX, LISTENERS, PATHS, PATHS_MAX, REPLICATION,
    REPLICATION_MAX, RESERVED_DESCRIPTORS, STORE_BYTES, STORE_BYTES_MAX, STORE_ENTRIES, VALUE_MAX,
};
use crate::net::clock::Clock;
use crate::net::socket::{ListeningSocket, listen, raise_open_files, route_towards, seed};
use crate::net::{Ended, Net};

const HELP: &str = "\
Usage: dayfly [node] [options]
       dayfly put|get|ping|find-node|find-value|status [options] ...  ('dayfly put --help' and so on)
       dayfly lookup|announce|unannounce|query|punch [options] ...    (of hyperdht networks)
Runs a node: a Kademlia DHT whose values live less than ten seconds.

Once it listens, a node prints one line per listener: 'listening DIALECT TRANSPORT ADDRESS [id=HEX]'. With port 0 the
kernel chooses the port. SIGTERM and SIGINT stop the node within two seconds, a second one at once. RUST_LOG (error,
warn, info, debug) sets how much it logs to stderr; the default is info.

Exit codes: 0 stopped by a signal; 64 usage; 70 internal error; 71 system; 73 can't listen (address in use, no
permission); 78 configuration; 128 + N ended at once by a second signal N.

Examples:
  dayfly
  dayfly --listen 127.0.0.1:6501 --bootstrap 127.0.0.1:6500
  dayfly --hyperdht 127.0.0.1 --hyperdht-bootstrap 127.0.0.1:49738
  dayfly --listen 0.0.0.0:6500 --advertise 203.0.113.5 --bootstrap seed.example:6500 --api 127.0.0.1:7401
";

/// Nodes to bootstrap from when nobody names any; for distributors to fill.
const COMPILED_IN: &str = include_str!("../bootstrap.txt");
const DEFAULT_LISTEN: &str = super::client::DEFAULT_NODE;

/// All that was asked for, checked.
struct Plan {
    #[cfg(feature = "hyperdht")]
    hyperdht: hyperdht::Plan,
    listen: Vec<SocketAddr>,
    api: Vec<SocketAddr>,
    advertise: Vec<(IpAddr, Option<u16>)>,
    bootstraps: Vec<String>,
    engine: EngineSettings,
}

fn options() -> Options {
    let mut o = Options::new();
    o.optmulti(
        "l",
        "listen",
        &format!("a listener for nodes, or none; may be given more than once (default {DEFAULT_LISTEN})"),
        "IP:PORT|none",
    );
    o.optmulti("a", "api", "a listener for VoidPhone modules; plain, so keep it on loopback (default none)", "IP:PORT");
    o.optmulti("", "advertise", "the address others reach us at, when listening on 0.0.0.0 or ::", "IP[:PORT]");
    o.optmulti("b", "bootstrap", "a node to join through; may be given more than once (default none)", "HOST:PORT");
    #[cfg(feature = "hyperdht")]
    hyperdht::add_options(&mut o);
    o.optopt("c", "config", "a VoidPhone INI file; flags win over it", "FILE");
    o.optopt("k", "", &format!("contacts per bucket and answer, 1 to {K_MAX} (default {K})"), "N");
    o.optopt("", "alpha", &format!("requests a lookup keeps in flight, 1 to {ALPHA_MAX} (default {ALPHA})"), "N");
    o.optopt(
        "",
        "paths",
        &format!("disjoint paths of a lookup, 1 to {PATHS_MAX} (default {PATHS}, 8 after a miss)"),
        "N",
    );
    let replication =
        format!("nodes that hold a value whose PUT leaves it to us, 1 to {REPLICATION_MAX} (default {REPLICATION})");
    o.optopt("", "replication", &replication, "N");
    o.optopt("", "quorum", "holders that must agree on a value whose key is not its hash, 1 to 20 (default 1)", "N");
    o.optopt("", "store-bytes", &format!("memory for values (default {STORE_BYTES})"), "BYTES");
    o.optopt("", "store-entries", &format!("values held at most (default {STORE_ENTRIES})"), "N");
    o.optopt("", "max-value-bytes", &format!("largest value taken, up to {VALUE_MAX} (default {VALUE_MAX})"), "BYTES");
    o.optopt(
        "",
        "max-connections",
        &format!("connections in all, less where open files are fewer (default {CONNECTIONS})"),
        "N",
    );
    o.optflag(
        "",
        "lan",
        "the nodes are of one network (/24): keep more than a few contacts of it, as no stranger is among them",
    );
    o.optflag("", "check", "check all settings, print them and exit");
    o.optflag("V", "version", "print the version and exit");
    o
}

pub(super) fn run(words: &[String]) -> Outcome {
    let Some(matches) = parse(&mut options(), words, HELP)? else {
        return Ok(exit::OK);
    };
    if matches.opt_present("version") {
        print(&format!("dayfly {}\n", env!("CARGO_PKG_VERSION")))?;
        return Ok(exit::OK);
    }
    if let Some(word) = matches.free.first() {
        return Err(Stop::usage(format_args!("a node takes no word '{word}'")));
    }
    start_logging("info");
    let plan = plan(&matches)?;
    if matches.opt_present("check") {
        // What can be told without opening a listener.
        for (at, addr) in plan.listen.iter().enumerate() {
            contact_address(*addr, &plan.advertise, &plan.bootstraps)?;
            let others = plan.listen[..at].iter().chain(&plan.api);
            if addr.port() != 0 && others.into_iter().any(|other| other == addr) {
                return Err(Stop::usage(format_args!("{addr} is given twice")));
            }
        }
        #[cfg(feature = "hyperdht")]
        plan.hyperdht.check(&plan.advertise)?;
        print(&describe(&plan))?;
        return Ok(exit::OK);
    }
    serve(&plan)
}

/// Logs lines of `level time event key=value` to stderr; RUST_LOG wins over `default_level`.
pub(super) fn start_logging(default_level: &str) {
    let environment = env_logger::Env::default().default_filter_or(default_level);
    // Only fails where a logger is set already.
    let _ = env_logger::Builder::from_env(environment).format_target(false).try_init();
}

fn plan(matches: &Matches) -> Result<Plan, Stop> {
    let config = matches.opt_str("config").map_or(Ok(Config::default()), |path| config::read(&path))?;
    let flags = matches.opt_strs("listen");
    let is_sealed = flags != ["none"];
    let listen = if is_sealed { addresses("listen", flags, config.listen)? } else { Vec::new() };
    let api = addresses("api", matches.opt_strs("api"), config.api)?;
    let listen =
        if listen.is_empty() && is_sealed { addresses("listen", vec![DEFAULT_LISTEN.into()], None)? } else { listen };
    if !is_sealed && !api.is_empty() {
        return Err(Stop::usage("--api serves the sealed dialect, which --listen none closes"));
    }
    #[cfg(not(feature = "hyperdht"))]
    let others = 0;
    #[cfg(feature = "hyperdht")]
    let hyperdht = hyperdht::Plan::read(matches)?;
    #[cfg(feature = "hyperdht")]
    let others = hyperdht.listeners.len();
    if listen.is_empty() && others == 0 {
        return Err(Stop::usage("--listen none leaves no listener"));
    }
    if listen.len() + api.len() + others > LISTENERS {
        return Err(Stop::usage(format_args!("more than {LISTENERS} listeners")));
    }
    let advertise = matches.opt_strs("advertise");
    let advertise = advertise.iter().map(|text| advertised(text)).collect::<Result<_, _>>()?;
    let mut bootstraps = matches.opt_strs("bootstrap");
    let mut wrong_bootstrap = exit::USAGE;
    if bootstraps.is_empty() {
        (bootstraps, wrong_bootstrap) = (config.bootstraps, exit::CONFIG);
    }
    if bootstraps.is_empty() {
        let lines = COMPILED_IN.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        bootstraps = lines.map(String::from).collect();
    }
    for bootstrap in &bootstraps {
        if port_of(bootstrap).is_none_or(|port| port == 0) {
            return Err(Stop::new(wrong_bootstrap, format!("'{bootstrap}' is no bootstrap: HOST:PORT")));
        }
    }
    let engine = engine_settings(matches)?;
    Ok(Plan {
        #[cfg(feature = "hyperdht")]
        hyperdht,
        listen,
        api,
        advertise,
        bootstraps,
        engine,
    })
}

fn engine_settings(matches: &Matches) -> Result<EngineSettings, Stop> {
    let open_files = usize::try_from(raise_open_files().saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX);
    let max_connections = number(matches, "max-connections", CONNECTIONS, 1, CONNECTIONS_MAX)?;
    if open_files == 0 {
        return Err(Stop::new(
            exit::SYSTEM,
            format!(
                "the limit of open files leaves none for connections: {RESERVED_DESCRIPTORS} are needed beside them"
            ),
        ));
    }
    let sealed = ServiceSettings {
        node: Settings {
            kademlia: Parameters {
                k: number(matches, "k", K, 1, K_MAX)?,
                alpha: number(matches, "alpha", ALPHA, 1, ALPHA_MAX)?,
                paths: number(matches, "paths", PATHS, 1, PATHS_MAX)?,
                counts_networks: !matches.opt_present("lan"),
            },
            replication: number(matches, "replication", REPLICATION, 1, REPLICATION_MAX)?,
            ids: Ids::Bound,
            tries: GET_TRIES,
            quorum: number(matches, "quorum", 1, 1, 20)?,
        },
        store: StoreLimits {
            bytes: number(matches, "store-bytes", STORE_BYTES, 0, STORE_BYTES_MAX)?,
            entries: number(matches, "store-entries", STORE_ENTRIES, 0, 100_000_000)?,
            value_bytes: number(matches, "max-value-bytes", VALUE_MAX, 0, VALUE_MAX)?,
        },
    };
    let max_connections = max_connections.min(open_files);
    let mut settings = EngineSettings { max_connections, ..EngineSettings::default() };
    settings.dialects.sealed = sealed;
    Ok(settings)
}

/// The addresses of the flag `name`, or else the one of the configuration.
fn addresses(name: &str, flags: Vec<String>, config: Option<String>) -> Result<Vec<SocketAddr>, Stop> {
    let is_config = flags.is_empty();
    let texts = if is_config { config.into_iter().collect() } else { flags };
    let wrong = |text: &String| match is_config {
        true => Stop::new(exit::CONFIG, format!("the configuration's {name} address is not IP:PORT: '{text}'")),
        false => Stop::usage(format_args!("--{name} takes IP:PORT or [IP6]:PORT, not '{text}'")),
    };
    texts.iter().map(|text| text.parse().map_err(|_| wrong(text))).collect()
}

fn advertised(text: &str) -> Result<(IpAddr, Option<u16>), Stop> {
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip: IpAddr| (ip, None));
    let whole = text.parse().map(|addr: SocketAddr| (addr.ip(), Some(addr.port())));
    match bare.or(whole) {
        Ok((ip, port)) if scope(ip).is_some() => Ok((ip, port)),
        _ => Err(Stop::usage(format_args!("--advertise takes a reachable IP or IP:PORT, not '{text}'"))),
    }
}

/// The settings in effect, one a line.
fn describe(plan: &Plan) -> String {
    let EngineSettings { dialects, max_connections } = plan.engine;
    let ServiceSettings { node, store } = dialects.sealed;
    let mut lines: Vec<String> = plan.listen.iter().map(|addr| format!("listen = {addr}")).collect();
    lines.extend(plan.api.iter().map(|addr| format!("api = {addr}")));
    lines.extend(plan.advertise.iter().map(|(ip, port)| match port {
        Some(port) => format!("advertise = {}", SocketAddr::new(*ip, *port)),
        None => format!("advertise = {ip}"),
    }));
    lines.extend(plan.bootstraps.iter().map(|name| format!("bootstrap = {name}")));
    #[cfg(feature = "hyperdht")]
    lines.extend(plan.hyperdht.describe());
    let numbers = [
        ("k", node.kademlia.k),
        ("alpha", node.kademlia.alpha),
        ("paths", node.kademlia.paths),
        ("replication", node.replication),
        ("quorum", node.quorum),
        ("store-bytes", store.bytes),
        ("store-entries", store.entries),
        ("max-value-bytes", store.value_bytes),
        ("max-connections", max_connections),
    ];
    lines.push(format!("lan = {}", !node.kademlia.counts_networks));
    lines.extend(numbers.iter().map(|(name, value)| format!("{name} = {value}")));
    lines.join("\n") + "\n"
}

fn serve(plan: &Plan) -> Outcome {
    let clock = Clock::start();
    let mut engine = Engine::new(plan.engine, seed());
    let mut listeners = Vec::new();
    let mut announcements = String::new();
    for addr in &plan.listen {
        let socket = open(*addr)?;
        let contact = contact_address(socket.addr, &plan.advertise, &plan.bootstraps)?;
        let node = engine.service_mut::<Service>().add_node(contact, seed(), clock.now());
        announcements += &format!("listening sealed tcp {} id={}\n", socket.addr, node_id(contact));
        listeners.push((Listener::Sealed(node), socket));
    }
    #[cfg(feature = "hyperdht")]
    let (sockets, lines) = plan.hyperdht.open(&mut engine, &plan.advertise, clock.now())?;
    #[cfg(feature = "hyperdht")]
    announcements.push_str(&lines);
    for addr in &plan.api {
        let socket = open(*addr)?;
        announcements += &format!("listening api tcp {}\n", socket.addr);
        listeners.push((Listener::Api(0), socket));
    }
    let system = |e: std::io::Error| Stop::new(exit::SYSTEM, format!("can't start: {e}"));
    let mut net = Net::new(engine, clock).map_err(system)?;
    net.handle_signals().map_err(system)?;
    let serve_status = |net: &mut Net, addr| {
        net.add_status(addr).unwrap_or_else(|e| log::warn!("status_unavailable address={addr} error={e}"));
    };
    for (listener, socket) in listeners {
        let addr = socket.addr;
        net.add_listener(listener, socket).map_err(system)?;
        if matches!(listener, Listener::Sealed(_)) {
            serve_status(&mut net, addr);
        }
    }
    for bootstrap in &plan.bootstraps {
        net.add_bootstrap(Dialect::Sealed, bootstrap);
    }
    #[cfg(feature = "hyperdht")]
    for (socket, addr) in sockets {
        net.add_datagram_listener(socket).map_err(system)?;
        serve_status(&mut net, addr);
    }
    #[cfg(feature = "hyperdht")]
    for bootstrap in &plan.hyperdht.bootstraps {
        net.add_bootstrap(Dialect::Hyperdht, bootstrap);
    }
    print(&announcements)?;
    match net.run().map_err(|e| Stop::new(exit::SYSTEM, format!("can't poll: {e}")))? {
        Ended::Stopped => Ok(exit::OK),
        Ended::Killed(signal) => Ok(128 + signal as u8),
    }
}

fn open(addr: SocketAddr) -> Result<ListeningSocket, Stop> {
    listen(addr).map_err(|e| Stop::new(exit::CANT_CREATE, format!("can't listen on {addr}: {e}")))
}

/// The address that others reach a listener at: its own, or for a wildcard what `--advertise` says, or the one that the
/// route to the first bootstrap leaves from.
pub(super) fn contact_address(
    bound: SocketAddr,
    advertise: &[(IpAddr, Option<u16>)],
    bootstraps: &[String],
) -> Result<SocketAddr, Stop> {
    let mut of_family = advertise.iter().filter(|(ip, _)| ip.is_ipv4() == bound.is_ipv4());
    // The one for its port, if there is one.
    let of_port = of_family.clone().find(|(_, port)| port.is_none_or(|port| port == bound.port()));
    let advertised = of_port.or_else(|| of_family.next());
    if let Some((ip, port)) = advertised {
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
    let bootstraps = bootstraps.iter().filter_map(|name| resolve(name).ok());
    let first = bootstraps.into_iter().find(|addr| addr.is_ipv4() == bound.is_ipv4());
    match first.map(route_towards) {
        Some(Ok(ip)) => Ok(SocketAddr::new(ip, bound.port())),
        Some(Err(_)) | None => Err(Stop::usage(format_args!(
            "listening on {bound} needs --advertise IP: no bootstrap tells which address others see"
        ))),
    }
}
