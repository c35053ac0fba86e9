//! The real peer: a node.js process that hosts npm hyperdht nodes (tests/hyperdht/peer.js), and typed calls to it.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dayfly::id::Id;
use serde_json::{Map, Value, json};

/// What a call may take. A real lookup among dead nodes takes 3 s, and more where its queue stalls.
const CALL_PATIENCE: Duration = Duration::from_secs(60);
/// What fetching 78 small packages may take.
const INSTALL_PATIENCE: Duration = Duration::from_secs(180);

/// A node.js process with npm hyperdht nodes in it; killed when dropped.
pub struct Npm {
    child: Child,
    stdin: Mutex<ChildStdin>,
    next: AtomicU64,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for which call; the process's last words once it has ended.
#[derive(Default)]
struct Waiting {
    calls: BTreeMap<u64, Sender<Value>>,
    ended: Option<String>,
}

/// A call on its way.
pub struct Call {
    answer: Receiver<Value>,
    waiting: Arc<Mutex<Waiting>>,
    what: String,
}

/// How a node is to start; the default listens on a free loopback port, with an id of its own choice.
#[derive(Default, Clone)]
pub struct Options {
    pub id: Option<Id>,
    pub bootstrap: Vec<SocketAddr>,
    pub ephemeral: bool,
    /// The gateway that plays the network, and the node's address in it.
    pub tunnel: Option<(SocketAddr, SocketAddr)>,
}

/// A node's id and address. Ephemeral nodes tell no id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub id: Option<Id>,
    pub addr: SocketAddr,
}

/// What one node answered to a lookup or announce.
#[derive(Clone, Debug)]
pub struct Found {
    pub node: Entry,
    pub peers: Vec<SocketAddr>,
    pub local_peers: Vec<SocketAddr>,
}

/// What a lookup or an update ended with.
#[derive(Clone, Debug)]
pub struct Ended {
    pub error: Option<String>,
    /// Nodes that answered, in both phases of an update.
    pub answered: u64,
    /// Nodes that answered the second phase of an update.
    pub commits: u64,
    pub results: Vec<Found>,
}

impl Ended {
    /// The distinct peers.
    pub fn peers(&self) -> BTreeSet<SocketAddr> {
        self.results.iter().flat_map(|found| found.peers.iter().copied()).collect()
    }

    /// The distinct local peers.
    pub fn local_peers(&self) -> BTreeSet<SocketAddr> {
        self.results.iter().flat_map(|found| found.local_peers.iter().copied()).collect()
    }
}

/// What a ping or a hole punch found.
#[derive(Clone, Copy, Debug)]
pub struct Pong {
    pub from: Entry,
    pub seen_as: SocketAddr,
    pub ms: f64,
}

/// What one request got.
#[derive(Clone, Debug)]
pub struct Response {
    pub from: Entry,
    /// `None` where the answer has no such field.
    pub nodes: Option<Vec<Entry>>,
    pub value: Option<String>,
    pub token: Option<String>,
}

/// How fast lookups were.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    pub seconds: f64,
    pub lookups: u64,
    pub found: u64,
    pub errors: u64,
    /// In ms: the median, 90 and 99 of a hundred, and the slowest.
    pub latencies: [f64; 4],
}

impl Npm {
    /// Starts the process, or says on stderr why the test is skipped. Panics instead where DAYFLY_CI is set.
    pub fn start() -> Option<Npm> {
        static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
        match INSTALLED.get_or_init(install) {
            Ok(()) => Some(Npm::spawn()),
            Err(why) if std::env::var_os("DAYFLY_CI").is_some() => panic!("CI needs the npm hyperdht: {why}"),
            Err(why) => {
                eprintln!("skipped: {why}");
                None
            }
        }
    }

    fn spawn() -> Npm {
        let mut child = Command::new("node")
            .args(["--no-deprecation", "peer.js"])
            .current_dir(folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = Mutex::new(child.stdin.take().unwrap());
        let stdout = child.stdout.take().unwrap();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let readers = waiting.clone();
        std::thread::spawn(move || deliver(stdout, &readers));
        let npm = Npm { child, stdin, next: AtomicU64::new(0), waiting };
        npm.memory();
        npm
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, with all its nodes. No call may be in flight or follow.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a command of peer.js without waiting for its answer.
    pub fn send(&self, command: &str, fields: Value) -> Call {
        let (sender, answer) = channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let what = format!("{command} {fields}");
        {
            let mut waiting = self.waiting.lock().unwrap();
            if waiting.ended.is_none() {
                waiting.calls.insert(number, sender);
            }
        }
        let Value::Object(mut line) = fields else { panic!("{what}: fields are an object") };
        line.insert("call".into(), json!(number));
        line.insert("do".into(), json!(command));
        // Where the process has ended, whoever waits for the answer is told so.
        let _ = self.stdin.lock().unwrap().write_all(format!("{}\n", Value::Object(line)).as_bytes());
        Call { answer, waiting: self.waiting.clone(), what }
    }

    /// Sends a command and waits for its answer, which must be no error.
    fn call(&self, command: &str, fields: Value) -> Value {
        self.send(command, fields).value().unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Starts a node and waits until it is ready, which it also is when nobody it should join through answers.
    pub fn node(&self, name: &str, options: &Options) -> Entry {
        self.start_node(name, options).node()
    }

    /// Starts a node without waiting for it: `Call::node` does.
    pub fn start_node(&self, name: &str, options: &Options) -> Call {
        let mut fields = json!({ "name": name, "bootstrap": options.bootstrap, "ephemeral": options.ephemeral });
        if let Some(id) = options.id {
            fields["id"] = json!(id.to_string());
        }
        if let Some((gateway, address)) = options.tunnel {
            fields["tunnel"] = json!({ "gateway": gateway, "address": address });
        }
        self.send("start", fields)
    }

    pub fn stop(&self, name: &str) {
        self.call("stop", json!({ "name": name }));
    }

    /// Has a node look for its neighbours anew.
    pub fn bootstrap(&self, name: &str) -> Result<(), String> {
        self.send("bootstrap", json!({ "name": name })).value().map(|_| ())
    }

    pub fn lookup(&self, name: &str, key: Id) -> Ended {
        self.lookup_near(name, key, None)
    }

    /// A lookup that also asks for the local peers of this host's network.
    pub fn lookup_near(&self, name: &str, key: Id, local: Option<IpAddr>) -> Ended {
        self.start_lookup(name, key, local).ended()
    }

    /// A lookup whose end `Call::ended` waits for.
    pub fn start_lookup(&self, name: &str, key: Id, local: Option<IpAddr>) -> Call {
        self.send("lookup", json!({ "name": name, "key": key.to_string(), "localAddress": local }))
    }

    pub fn announce(&self, name: &str, key: Id, port: Option<u16>, local: Option<SocketAddr>) -> Ended {
        self.update("announce", name, key, port, local).ended()
    }

    /// How many nodes answered the second phase.
    pub fn unannounce(&self, name: &str, key: Id, port: Option<u16>) -> Result<u64, String> {
        let answer = self.update("unannounce", name, key, port, None).value()?;
        Ok(number(&answer["commits"]))
    }

    /// `announce` or `unannounce`, without waiting.
    pub fn update(&self, command: &str, name: &str, key: Id, port: Option<u16>, local: Option<SocketAddr>) -> Call {
        let fields = json!({ "name": name, "key": key.to_string(), "port": port, "localAddress": local });
        self.send(command, fields)
    }

    pub fn ping(&self, name: &str, to: SocketAddr) -> Result<Pong, String> {
        pong(self.send("ping", json!({ "name": name, "host": to.ip(), "port": to.port() })))
    }

    /// Asks `referrer` to have `peer` answer.
    pub fn holepunch(&self, name: &str, peer: SocketAddr, referrer: SocketAddr) -> Result<Pong, String> {
        pong(self.send("holepunch", json!({ "name": name, "peer": peer, "referrer": referrer })))
    }

    /// One request with a value to one address, as the real peer writes it.
    pub fn request(
        &self,
        name: &str,
        to: SocketAddr,
        command: &str,
        target: Id,
        value: &str,
    ) -> Result<Response, String> {
        let mut fields = json!({ "name": name, "host": to.ip(), "port": to.port(), "command": command });
        fields["target"] = json!(target.to_string());
        fields["value"] = json!(value);
        let answer = self.send("request", fields).value()?;
        let text = |field: &str| answer[field].as_str().map(str::to_string);
        let nodes = answer["nodes"].as_array().map(|nodes| nodes.iter().map(entry).collect());
        Ok(Response { from: entry(&answer), nodes, value: text("value"), token: text("token") })
    }

    /// A user's command asked of the nodes nearest to `target`: the answering nodes and how many of them gave a token.
    pub fn query(&self, name: &str, command: &str, target: Id, value: &str) -> Result<(Vec<Entry>, u64), String> {
        let fields = json!({ "name": name, "command": command, "target": target.to_string(), "value": value });
        let answer = self.send("query", fields).value()?;
        Ok((list(&answer["results"]).iter().map(|result| entry(&result["node"])).collect(), number(&answer["tokens"])))
    }

    /// The nodes that a node knows.
    pub fn table(&self, name: &str) -> Vec<Entry> {
        list(&self.call("table", json!({ "name": name }))["nodes"]).iter().map(entry).collect()
    }

    /// The peers, and of these the local addresses, that a node itself holds under a key.
    pub fn held(&self, name: &str, key: Id) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let answer = self.call("store", json!({ "name": name, "key": key.to_string() }));
        (addresses(&answer["peers"]), addresses(&answer["local_peers"]))
    }

    /// Looks `keys` up in turn, `parallel` at a time.
    pub fn bench(&self, name: &str, lookups: u64, parallel: u64, keys: &[Id]) -> Bench {
        let keys: Vec<String> = keys.iter().map(Id::to_string).collect();
        let fields = json!({ "name": name, "lookups": lookups, "parallel": parallel, "keys": keys });
        let answer = self.call("bench", fields);
        let rank = |name: &str| answer["latencies_ms"][name].as_f64().unwrap();
        Bench {
            seconds: answer["seconds"].as_f64().unwrap(),
            lookups: number(&answer["lookups"]),
            found: number(&answer["found"]),
            errors: number(&answer["errors"]),
            latencies: ["p50", "p90", "p99", "max"].map(rank),
        }
    }

    /// Resident memory in bytes, as node.js counts it.
    pub fn memory(&self) -> u64 {
        number(&self.call("memory", json!({}))["rss"])
    }
}

impl Drop for Npm {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Call {
    /// The whole answer, whatever it is. Panics if the process ends before it or it does not come.
    pub fn answer(self) -> Map<String, Value> {
        match self.answer.recv_timeout(CALL_PATIENCE) {
            Ok(Value::Object(answer)) => answer,
            Ok(other) => panic!("{}: {other}", self.what),
            Err(RecvTimeoutError::Timeout) => panic!("the npm peer does not answer: {}", self.what),
            Err(RecvTimeoutError::Disconnected) => {
                let words = self.waiting.lock().unwrap().ended.clone().unwrap_or_default();
                panic!("the npm peer has ended during {}: {words}", self.what)
            }
        }
    }

    /// The answer, or the error it tells.
    pub fn value(self) -> Result<Value, String> {
        let answer = self.answer();
        match answer.get("error") {
            Some(error) => Err(error.as_str().unwrap_or("an error without words").to_string()),
            None => Ok(Value::Object(answer)),
        }
    }

    /// The node that `Npm::start_node` started.
    pub fn node(self) -> Entry {
        let what = self.what.clone();
        entry(&self.value().unwrap_or_else(|error| panic!("{what}: {error}")))
    }

    /// The end of a lookup or an announce.
    pub fn ended(self) -> Ended {
        let answer = Value::Object(self.answer());
        Ended {
            error: answer["error"].as_str().map(str::to_string),
            answered: answer["answered"].as_u64().unwrap_or(0),
            commits: answer["commits"].as_u64().unwrap_or(0),
            results: answer["results"].as_array().map(|all| all.iter().map(found).collect()).unwrap_or_default(),
        }
    }
}

/// Hands each answer to who waits for it, until the process ends.
fn deliver(stdout: ChildStdout, waiting: &Mutex<Waiting>) {
    let mut words = "it said nothing".to_string();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else {
            words = line;
            continue;
        };
        if let Some(died) = answer["died"].as_str() {
            words = died.to_string();
            eprintln!("the npm peer died: {words}");
        } else if let Some(caller) = answer["call"].as_u64().and_then(|n| waiting.lock().unwrap().calls.remove(&n)) {
            // Whoever asked may have stopped waiting.
            let _ = caller.send(answer);
        }
    }
    let mut waiting = waiting.lock().unwrap();
    waiting.ended = Some(words);
    waiting.calls.clear();
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is a list"))
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is an address"))
}

fn addresses(value: &Value) -> Vec<SocketAddr> {
    list(value).iter().map(address).collect()
}

fn entry(value: &Value) -> Entry {
    Entry { id: value["id"].as_str().and_then(|text| text.parse().ok()), addr: address(&value["address"]) }
}

fn found(value: &Value) -> Found {
    Found {
        node: entry(&value["node"]),
        peers: addresses(&value["peers"]),
        local_peers: addresses(&value["local_peers"]),
    }
}

fn pong(call: Call) -> Result<Pong, String> {
    let answer = call.value()?;
    let ms = answer["ms"].as_f64().unwrap();
    Ok(Pong { from: entry(&answer), seen_as: address(&answer["seen_as"]), ms })
}

fn folder() -> PathBuf {
    // The comparisons are a crate of their own, below the root.
    let roots = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    roots.map(|root| root.join("tests/hyperdht")).find(|folder| folder.is_dir()).expect("tests/hyperdht is there")
}

/// The hash of each package that a lock file names.
fn hashes(lock: &Path) -> Option<BTreeMap<String, String>> {
    let lock: Value = serde_json::from_slice(&std::fs::read(lock).ok()?).ok()?;
    let packages = lock["packages"].as_object()?.iter().filter(|(path, _)| !path.is_empty());
    packages.map(|(path, package)| Some((path.clone(), package["integrity"].as_str()?.to_string()))).collect()
}

/// npm writes its hidden lock file last.
fn is_installed() -> bool {
    let wanted = hashes(&folder().join("package-lock.json")).expect("package-lock.json names a hash for each package");
    hashes(&folder().join("node_modules/.package-lock.json")) == Some(wanted)
}

/// Makes sure that node.js and the pinned packages are there; test binaries that run side by side install once.
fn install() -> Result<(), String> {
    let node = Command::new("node").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !node.is_ok_and(|status| status.success()) {
        return Err("no node.js: apt install nodejs npm".into());
    }
    // A folder, as only one process can make it.
    let guard = folder().join(".installing");
    let deadline = Instant::now() + INSTALL_PATIENCE * 2;
    while !is_installed() {
        match std::fs::create_dir(&guard) {
            Ok(()) => {
                let done = if is_installed() { Ok(()) } else { npm_ci() };
                let _ = std::fs::remove_dir(&guard);
                return done;
            }
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(format!("{}: {e}", guard.display())),
            Err(_) => {}
        }
        // Whoever made it may have been killed.
        let made = std::fs::metadata(&guard).and_then(|data| data.modified());
        if made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > INSTALL_PATIENCE)) {
            let _ = std::fs::remove_dir(&guard);
        }
        if Instant::now() > deadline {
            return Err(format!("{} stays", guard.display()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn npm_ci() -> Result<(), String> {
    let mut npm = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1"])
        .current_dir(folder())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("no npm ({e}): apt install npm"))?;
    let deadline = Instant::now() + INSTALL_PATIENCE;
    loop {
        match npm.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() && is_installed() => return Ok(()),
            Some(status) => return Err(format!("npm ci in tests/hyperdht ends with {status}: see its words above")),
            None if Instant::now() > deadline => {
                let _ = npm.kill();
                let _ = npm.wait();
                return Err("npm ci in tests/hyperdht takes too long".into());
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
