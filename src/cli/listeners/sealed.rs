//! The listeners of the sealed dialect: `--listen` for nodes and `--api` for VoidPhone modules. Turns flags and the
//! configuration into nodes; never speaks the protocol.

use std::net::SocketAddr;

use getopts::{Matches, Options};

use super::address::Advertised;
use super::{DialectPlan, Kind, Ready, cant_listen, check_distinct, serve_status};
use crate::cli::config::Config;
use crate::cli::{Stop, exit, number, port_of};
use crate::dialect::Dialect;
use crate::dialect::sealed::service::Service;
use crate::dialect::sealed::settings::{Ids, ServiceSettings, Settings as NodeSettings};
use crate::dialect::sealed::store::StoreLimits;
use crate::dialect::sealed::{DEFAULT_PORT, node_id};
use crate::engine::Listener;
use crate::engine::dialects::Settings;
use crate::kad::Parameters;
use crate::limits::{
    ALPHA, ALPHA_MAX, BOOTSTRAPS, GET_TRIES, K, K_MAX, PATHS, PATHS_MAX, REPLICATION, REPLICATION_MAX, STORE_BYTES,
    STORE_BYTES_MAX, STORE_ENTRIES, VALUE_MAX,
};
use crate::net::socket::{listen, seed};
use crate::net::{Net, memory};

pub(super) const LISTENERS: Kind =
    Kind { add_options, read: |matches, config| Ok(Box::new(Plan::read(matches, config)?)) };

/// Nodes to bootstrap from when nobody names any; for distributors to fill.
const COMPILED_IN: &str = include_str!("../../bootstrap.txt");

struct Plan {
    listen: Vec<SocketAddr>,
    api: Vec<SocketAddr>,
    advertised: Advertised,
    bootstraps: Vec<String>,
    settings: ServiceSettings,
}

fn add_options(o: &mut Options) {
    let default = format!("127.0.0.1:{DEFAULT_PORT}");
    let listen = format!("a listener for nodes, or none; may be given more than once (default {default})");
    o.optmulti("l", "listen", &listen, "IP:PORT|none");
    o.optmulti("a", "api", "a listener for VoidPhone modules; plain, so keep it on loopback (default none)", "IP:PORT");
    let bootstrap = format!("a node to join through; may be given up to {BOOTSTRAPS} times (default none)");
    o.optmulti("b", "bootstrap", &bootstrap, "HOST:PORT");
    o.optopt("k", "", &format!("contacts per bucket and answer, 1 to {K_MAX} (default {K})"), "N");
    let numbers: [(&str, String, &str); 7] = [
        ("alpha", format!("requests a lookup keeps in flight, 1 to {ALPHA_MAX} (default {ALPHA})"), "N"),
        ("paths", format!("disjoint paths of a lookup, 1 to {PATHS_MAX} (default {PATHS}, 8 after a miss)"), "N"),
        (
            "replication",
            format!("holders of a value if its PUT names no number, 1 to {REPLICATION_MAX} (default {REPLICATION})"),
            "N",
        ),
        ("quorum", "holders that must agree on a value whose key is not its hash, 1 to 20 (default 1)".into(), "N"),
        (
            "store-bytes",
            format!("memory for values (default {STORE_BYTES}; at most a quarter of what the process may have)"),
            "BYTES",
        ),
        ("store-entries", format!("most values to hold (default {STORE_ENTRIES})"), "N"),
        ("max-value-bytes", format!("largest value to accept, up to {VALUE_MAX} (default {VALUE_MAX})"), "BYTES"),
    ];
    for (name, help, hint) in &numbers {
        o.optopt("", name, help, hint);
    }
}

impl Plan {
    fn read(matches: &Matches, config: &Config) -> Result<Plan, Stop> {
        let flags = matches.opt_strs("listen");
        let is_open = flags != ["none"];
        let mut listen = if is_open { addresses("listen", &flags, config.listen.as_deref())? } else { Vec::new() };
        if is_open && listen.is_empty() {
            listen.push(([127, 0, 0, 1], DEFAULT_PORT).into());
        }
        let api = addresses("api", &matches.opt_strs("api"), config.api.as_deref())?;
        if !is_open && !api.is_empty() {
            return Err(Stop::usage("--api needs a sealed listener, and --listen none opens none"));
        }
        let (advertised, bootstraps) = (Advertised::read(matches)?, bootstraps(matches, config)?);
        Ok(Plan { listen, api, advertised, bootstraps, settings: settings(matches)? })
    }
}

impl DialectPlan for Plan {
    fn count(&self) -> usize {
        self.listen.len() + self.api.len()
    }

    fn check(&self) -> Result<(), Stop> {
        self.listen.iter().try_for_each(|addr| self.advertised.contact_address(*addr, &self.bootstraps).map(drop))?;
        check_distinct(self.listen.iter().chain(&self.api))
    }

    fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.listen.iter().map(|addr| format!("listen = {addr}")).collect();
        lines.extend(self.api.iter().map(|addr| format!("api = {addr}")));
        lines.extend(self.advertised.describe());
        lines.extend(self.bootstraps.iter().map(|name| format!("bootstrap = {name}")));
        lines
    }

    fn describe_nodes(&self) -> Vec<String> {
        let ServiceSettings { node, store } = self.settings;
        let numbers = [
            ("k", node.kademlia.k),
            ("alpha", node.kademlia.alpha),
            ("paths", node.kademlia.paths),
            ("replication", node.replication),
            ("quorum", node.quorum),
            ("store-bytes", store.bytes),
            ("store-entries", store.entries),
            ("max-value-bytes", store.value_bytes),
        ];
        let mut lines = vec![format!("lan = {}", !node.kademlia.counts_networks)];
        lines.extend(numbers.iter().map(|(name, value)| format!("{name} = {value}")));
        lines
    }

    fn configure(&self, settings: &mut Settings) {
        settings.sealed = self.settings;
    }

    fn open(&self, net: &mut Net, ready: &mut Ready) -> Result<(), Stop> {
        for addr in &self.listen {
            let socket = listen(*addr).map_err(|e| cant_listen(*addr, &e))?;
            let bound = socket.addr;
            let contact = self.advertised.contact_address(bound, &self.bootstraps)?;
            let now = net.now();
            let node = net.service_mut::<Service>().add_node(contact, seed(), now);
            net.add_listener(Listener::Sealed(node), socket).map_err(Stop::system("can't start"))?;
            serve_status(net, bound);
            ready.nodes += &format!("listening sealed tcp {bound} id={}\n", node_id(contact));
        }
        for addr in &self.api {
            let socket = listen(*addr).map_err(|e| cant_listen(*addr, &e))?;
            ready.clients += &format!("listening api tcp {}\n", socket.addr);
            net.add_listener(Listener::Api(0), socket).map_err(Stop::system("can't start"))?;
        }
        self.bootstraps.iter().for_each(|bootstrap| net.add_bootstrap(Dialect::Sealed, bootstrap));
        Ok(())
    }
}

fn settings(matches: &Matches) -> Result<ServiceSettings, Stop> {
    Ok(ServiceSettings {
        node: NodeSettings {
            asks_back: true,
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
            bytes: number(matches, "store-bytes", memory::share(STORE_BYTES), 0, STORE_BYTES_MAX)?,
            entries: number(matches, "store-entries", STORE_ENTRIES, 0, 100_000_000)?,
            value_bytes: number(matches, "max-value-bytes", VALUE_MAX, 0, VALUE_MAX)?,
        },
    })
}

/// The addresses of the flag `name`, or else the one of the configuration.
fn addresses(name: &str, flags: &[String], config: Option<&str>) -> Result<Vec<SocketAddr>, Stop> {
    let parsed = |text: &str, stop: fn(&str, &str) -> Stop| text.parse().map_err(|_| stop(name, text));
    if flags.is_empty() {
        let wrong = |name: &str, text: &str| {
            Stop::new(exit::CONFIG, format!("the configuration's {name} address is not IP:PORT: '{text}'"))
        };
        return config.into_iter().map(|text| parsed(text, wrong)).collect();
    }
    let wrong =
        |name: &str, text: &str| Stop::usage(format_args!("--{name} takes IP:PORT or [IP6]:PORT, not '{text}'"));
    flags.iter().map(|text| parsed(text, wrong)).collect()
}

/// The bootstraps of the flags, or else of the configuration, or else those compiled in.
fn bootstraps(matches: &Matches, config: &Config) -> Result<Vec<String>, Stop> {
    let flags = matches.opt_strs("bootstrap");
    let (names, code, source) = if !flags.is_empty() {
        (flags, exit::USAGE, "--bootstrap")
    } else if !config.bootstraps.is_empty() {
        (config.bootstraps.clone(), exit::CONFIG, "the configuration")
    } else {
        let lines = COMPILED_IN.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        (lines.map(String::from).collect(), exit::CONFIG, "this build")
    };
    if names.len() > BOOTSTRAPS {
        let line =
            format!("{source} names {} nodes to join through, and at most {BOOTSTRAPS} are allowed", names.len());
        return Err(Stop::new(code, line));
    }
    match names.iter().find(|name| port_of(name).is_none_or(|port| port == 0)) {
        Some(wrong) => Err(Stop::new(code, format!("'{wrong}' is not a bootstrap address (HOST:PORT)"))),
        None => Ok(names),
    }
}
