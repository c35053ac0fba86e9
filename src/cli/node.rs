//! `dayfly` and `dayfly node`: from flags and the configuration file to a running node. Knows no dialect; `listeners` does.

use getopts::{Matches, Options};

use super::config::{self, Config};
use super::listeners::{self, Plan};
use super::{Outcome, Stop, exit, no_arguments, number, parse, print, start_logging};
use crate::engine::{Engine, EngineSettings};
use crate::limits::{BUFFERED_BYTES, CONNECTIONS, CONNECTIONS_MAX, RESERVED_DESCRIPTORS};
use crate::net::clock::Clock;
use crate::net::memory;
use crate::net::socket::{raise_open_files, seed};
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

fn options() -> Options {
    let mut o = Options::new();
    listeners::add_options(&mut o);
    o.optopt("c", "config", "a VoidPhone INI file; flags win over it", "FILE");
    let connections = format!("most connections, fewer if the limit on open files is lower (default {CONNECTIONS})");
    o.optopt("", "max-connections", &connections, "N");
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
    no_arguments(&matches)?;
    start_logging("info");
    let config = matches.opt_str("config").map_or(Ok(Config::default()), |path| config::read(&path))?;
    let plan = Plan::read(&matches, &config)?;
    let max_connections = max_connections(&matches)?;
    if matches.opt_present("check") {
        plan.check()?;
        print(&format!("{}\nmax-connections = {max_connections}\n", plan.describe().join("\n")))?;
        return Ok(exit::OK);
    }
    serve(&plan, max_connections)
}

/// As many connections as are asked for, as far as the limit on open files allows; raises that first.
fn max_connections(matches: &Matches) -> Result<usize, Stop> {
    let open_files = usize::try_from(raise_open_files().saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX);
    let max_connections = number(matches, "max-connections", CONNECTIONS, 1, CONNECTIONS_MAX)?;
    if open_files == 0 {
        let line = format!(
            "the limit on open files is too low: {RESERVED_DESCRIPTORS} are reserved, which leaves none for connections"
        );
        return Err(Stop::new(exit::SYSTEM, line));
    }
    Ok(max_connections.min(open_files))
}

fn serve(plan: &Plan, max_connections: usize) -> Outcome {
    let buffered_bytes = memory::share(BUFFERED_BYTES);
    let engine = Engine::new(EngineSettings { dialects: plan.settings(), max_connections, buffered_bytes }, seed());
    let mut net = Net::new(engine, Clock::start()).map_err(Stop::system("can't start"))?;
    net.handle_signals().map_err(Stop::system("can't start"))?;
    print(&plan.open(&mut net)?)?;
    match net.run().map_err(Stop::system("can't poll"))? {
        Ended::Stopped => Ok(exit::OK),
        Ended::Killed(signal) => Ok(128 + signal as u8),
    }
}
