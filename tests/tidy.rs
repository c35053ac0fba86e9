//! Reads src/ and holds the rules of the house: who may import whom, who may name a dialect or a feature, what pure modules
//! must not touch, how long files and lines may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the ground up: each may import those before it, and its own kind.
/// (docs/architecture.md, "Who may import whom")
const FLOORS: &[&[&str]] = &[
    &["hash"],
    &["id", "time", "limits", "arena"],
    &["contact", "wheel", "buffer", "recent"],
    &["guard"],
    &["sources"],
    &["kad"],
    &["dialect"],
    &["engine"],
    &["load", "sim"],
    &["net"],
    &["embed"],
    &["cli"],
    &["main", "lib"],
];

/// Nothing of these in a module below `net`: sockets, clocks, threads, randomness of its own, randomly seeded maps.
const IMPURE: &[&str] = &[
    "std::time",
    "Instant",
    "SystemTime",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "std::fs",
    "std::env",
    "mio::",
    "rustix::",
    "socket2::",
    "HashMap",
    "HashSet",
    "RandomState",
    "fastrand::u",
    "Rng::new()",
    "OsRng",
    "getrandom",
    "thread_rng",
    "println!",
];

/// Where `cfg(feature` may stand for a dialect's feature.
const DIALECT_FEATURES: &[&str] = &[
    "cli/mod.rs",
    "cli/listeners/mod.rs",
    "cli/visit/mod.rs",
    "dialect/mod.rs",
    "dialect/stream.rs",
    "engine/dialects.rs",
    "guard.rs",
];

/// Where a build without a dialect takes a file that stands in for another: by `cfg_attr(.., path = ..)`, and in no other
/// way.
const STAND_INS: &[&str] = &["engine/mod.rs", "net/mod.rs"];

/// Where `cfg(feature` may stand for tools that are no dialect.
const TOOL_FEATURES: &[(&str, &[&str])] = &[
    ("bench", &["lib.rs", "cli/mod.rs", "net/mod.rs"]),
    (
        "sim",
        &["lib.rs", "cli/mod.rs", "dialect/sealed/node.rs", "dialect/sealed/service.rs", "dialect/sealed/settings.rs"],
    ),
];

/// Files of the engine that may name a dialect. (docs/architecture.md, "Where a dialect plugs in")
const NAME_DIALECTS: &[&str] = &["engine/dialects.rs", "engine/datagrams.rs"];

/// Files that are compiled for tests only.
const TEST_FILES: &[&str] = &["tests.rs", "engine/conformance.rs", "engine/pairs.rs"];

/// Folders whose one type has its methods in all of their files, which therefore name it: `Engine` and `Net`.
const SPREAD: &[&str] = &["engine", "net"];

/// Longest file, without its tests.
const FILE_LINES: usize = 600;
/// Longest function.
const FUNCTION_LINES: usize = 70;

struct Source {
    path: PathBuf,
    /// Below src/, with slashes: `kad/bucket.rs`.
    name: String,
    /// Its top-level module: `kad` for src/kad/bucket.rs.
    module: String,
    /// Without the unit tests at its end.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !TEST_FILES.iter().any(|name| path.ends_with(name))
            {
                let inside = path.strip_prefix(&root).unwrap();
                let names: Vec<&str> = inside.iter().map(|name| name.to_str().unwrap()).collect();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_string();
                found.push(Source {
                    module: names[0].trim_end_matches(".rs").to_string(),
                    name: names.join("/"),
                    code,
                    path,
                });
            }
        }
    }
    assert!(found.len() > 20, "src/ was read");
    found
}

fn floor_of(module: &str) -> usize {
    let floor = FLOORS.iter().position(|floor| floor.contains(&module));
    floor.unwrap_or_else(|| panic!("module {module} has no floor in the house"))
}

/// The modules that a line names after `crate::`.
fn imports(line: &str) -> Vec<String> {
    let names = line.match_indices("crate::").map(|(at, marker)| &line[at + marker.len()..]);
    names.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
}

#[test]
fn imports_go_one_way() {
    for source in sources() {
        let floor = floor_of(&source.module);
        for line in source.code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for name in imports(line).iter().filter(|name| FLOORS.iter().flat_map(|f| f.iter()).any(|m| m == name)) {
                let below = floor_of(name) < floor || *name == source.module;
                assert!(below, "{} imports {name}, which is not below it: {line}", source.path.display());
            }
        }
    }
}

#[test]
fn nothing_that_is_deployed_knows_the_simulator() {
    for source in sources().iter().filter(|source| !["sim", "cli", "lib"].contains(&source.module.as_str())) {
        assert!(!source.code.contains("crate::sim"), "{} names the simulator", source.path.display());
    }
}

/// The byte level moves bytes; what they mean is in src/sim/dialects.
#[test]
fn the_simulated_network_knows_no_dialect() {
    let general = ["address", "delay", "dialect", "kernel", "nat", "ordeal", "schedule", "swarm", "weather", "wire"];
    let stem = |source: &Source| source.path.file_stem().unwrap().to_str().unwrap().to_string();
    let sources = sources();
    let found: Vec<_> = sources.iter().filter(|s| s.module == "sim" && general.contains(&&*stem(s))).collect();
    assert_eq!(found.len(), general.len(), "all of them are there");
    for source in found {
        let named = ["sealed", "hyperdht", "toy"].iter().find(|name| source.code.to_lowercase().contains(*name));
        assert!(named.is_none(), "{} names {named:?}", source.path.display());
    }
}

#[test]
fn no_dialect_knows_another() {
    for source in sources().iter().filter(|source| source.module == "dialect") {
        let inside: Vec<_> = source.path.iter().map(|c| c.to_str().unwrap()).collect();
        let own = inside[inside.iter().position(|c| *c == "dialect").unwrap() + 1];
        for (at, marker) in source.code.match_indices("dialect::") {
            let rest = &source.code[at + marker.len()..];
            let named = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            let is_module = named.starts_with(char::is_lowercase);
            assert!(!is_module || named == own || named == "stream", "{} names dialect {named}", source.path.display());
        }
    }
}

/// Only engine/dialects.rs and the datagrams know which dialects there are; for everybody else the seam stands in.
#[test]
fn the_engine_and_the_net_name_no_dialect() {
    let sources = sources();
    for name in NAME_DIALECTS {
        assert!(sources.iter().any(|source| source.name == *name), "{name} is there");
    }
    for source in sources.iter().filter(|source| ["engine", "net"].contains(&source.module.as_str())) {
        let named = paths(&source.code).into_iter().find(|path| {
            let is_folder = |name: &String| name != "stream" && name.starts_with(char::is_lowercase);
            path.names.starts_with(&["crate".into(), "dialect".into()]) && path.names.get(2).is_some_and(is_folder)
        });
        let is_allowed = NAME_DIALECTS.contains(&source.name.as_str());
        assert!(named.is_none() || is_allowed, "{} names a dialect: {named:?}", source.name);
    }
}

#[test]
fn features_are_named_in_few_files() {
    for source in sources() {
        let name = source.name.as_str();
        for (number, line) in source.code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for (at, marker) in line.match_indices("feature = \"") {
                let feature = line[at + marker.len()..].split('"').next().unwrap();
                let is_allowed = match TOOL_FEATURES.iter().find(|(tool, _)| *tool == feature) {
                    Some((_, files)) => files.contains(&name),
                    None if STAND_INS.contains(&name) => line.contains("cfg_attr(") && line.contains(", path = "),
                    None => DIALECT_FEATURES.contains(&name),
                };
                assert!(is_allowed, "{name}:{}: the feature {feature} stands here", number + 1);
            }
        }
    }
}

// ---- circles ----

/// How a path is written.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum How {
    Use,
    /// `pub use`, of whatever visibility.
    ReExport,
    /// In the middle of code, without `use`.
    InPlace,
}

#[derive(Clone, Debug)]
struct NamedPath {
    names: Vec<String>,
    /// What the last one is called here, if it is renamed.
    alias: Option<String>,
    how: How,
}

/// The paths that some code names: all of its `use`s, without their braces, and what begins with `crate`, `super` or
/// `self`.
fn paths(code: &str) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        let visible = if line.starts_with("pub(") { line.split_once(") ") } else { line.split_once("pub ") };
        let (how, rest) = match visible.filter(|_| line.starts_with("pub")) {
            Some((_, rest)) => (How::ReExport, rest),
            None => (How::Use, line),
        };
        if let Some(first) = rest.strip_prefix("use ") {
            let mut tree = first.to_string();
            while !tree.contains(';') {
                tree += lines.next().expect("a use ends").trim();
            }
            spread(tree.split(';').next().unwrap(), "", how, &mut found);
            continue;
        }
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in line.match_indices(start) {
                let is_inside = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
                let path: String =
                    line[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
                if !is_inside {
                    spread(path.trim_end_matches(':'), "", How::InPlace, &mut found);
                }
            }
        }
    }
    found
}

/// `a::{self, b, c::{d, e as f}}` as `a`, `a::b`, `a::c::d`, `a::c::e`.
fn spread(tree: &str, before: &str, how: How, found: &mut Vec<NamedPath>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let (path, alias) =
            tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.to_string())));
        let path = format!("{before}{path}");
        let names = path.trim_end_matches("::self").split("::").map(String::from).collect();
        return found.push(NamedPath { names, alias, how });
    };
    let (mut depth, mut from) = (0, 0);
    let inner = &rest[..rest.rfind('}').expect("a brace is closed")];
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = &inner[from..at];
                from = (at + 1).min(inner.len());
                if !part.trim().is_empty() {
                    spread(part, &format!("{before}{head}"), how, found);
                }
            }
            _ => {}
        }
    }
}

/// Files by their module paths; a mod.rs has the path of its folder.
type Files = BTreeMap<Vec<String>, Vec<NamedPath>>;

fn module_path(name: &str) -> Vec<String> {
    let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(String::from).collect()
}

/// The file that `path` leads to from the file `from`. What a file has from another by `use` is that other's.
fn file_of(files: &Files, from: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
    let (mut at, mut rest) = (from.to_vec(), path);
    match path[0].as_str() {
        "crate" => (at, rest) = (Vec::new(), &path[1..]),
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|name| name == "super") {
                at.pop();
                rest = &rest[1..];
            }
        }
        // A crate, or what is in scope by another `use`: only a child is a file.
        child => {
            at.push(child.to_string());
            rest = &path[1..];
        }
    }
    while let Some(name) = rest.first() {
        at.push(name.clone());
        if !files.contains_key(&at) {
            at.pop();
            break;
        }
        rest = &rest[1..];
    }
    let passed_on =
        |named: &&NamedPath| named.how != How::InPlace && named.alias.as_ref().or(named.names.last()) == rest.first();
    let known = files.get(&at)?;
    let origin = known.iter().find(passed_on).filter(|_| depth < 8);
    origin.and_then(|named| file_of(files, &at, &named.names, depth + 1)).or(Some(at))
}

/// The files that are in a circle, or between two; none if there is no circle.
///
/// A file points to another of the same top-level module if it names it, or anything in it, with three exceptions:
///
/// * A mod.rs that names a child in place, as in a table of commands (`run: node::run`), or only declares or re-exports it,
///   dispatches to it. It points to the child if it takes something in by `use`.
/// * A child that names what its mod.rs passes on (`use super::Bucket`, where mod.rs has `pub use bucket::Bucket`) points to
///   where that comes from, not to mod.rs.
/// * In the folders of [`SPREAD`] a child may name its mod.rs.
fn circle(files: &Files) -> BTreeSet<String> {
    let mut edges: BTreeSet<(&[String], Vec<String>)> = BTreeSet::new();
    for (file, named) in files {
        for path in named {
            let Some(to) = file_of(files, file, &path.names, 0) else {
                continue;
            };
            let dispatches = to.starts_with(file) && path.how != How::Use;
            let is_spread = file.starts_with(&to) && SPREAD.contains(&to.join("/").as_str());
            if to != *file && to[0] == file[0] && !dispatches && !is_spread {
                edges.insert((file, to));
            }
        }
    }
    loop {
        let from: BTreeSet<&[String]> = edges.iter().map(|(from, _)| *from).collect();
        let to: BTreeSet<Vec<String>> = edges.iter().map(|(_, to)| to.clone()).collect();
        let before = edges.len();
        edges.retain(|edge| to.contains(edge.0) && from.contains(&edge.1[..]));
        if edges.len() == before {
            return edges.iter().map(|(file, to)| format!("{} -> {}", file.join("/"), to.join("/"))).collect();
        }
    }
}

#[test]
fn no_folder_has_a_circle_of_files() {
    let sources = sources();
    let files = sources.iter().filter(|source| !["lib", "main"].contains(&source.module.as_str()));
    let circle = circle(&files.map(|source| (module_path(&source.name), paths(&source.code))).collect());
    assert!(circle.is_empty(), "a circle of files: {circle:#?}");
}

#[test]
fn the_circles_that_were_here_would_be_seen() {
    let is_circle = |files: &[(&str, &str)]| {
        !circle(&files.iter().map(|(name, code)| (module_path(name), paths(code))).collect()).is_empty()
    };
    assert!(is_circle(&[
        ("dialect/mod.rs", "pub mod hyperdht;"),
        ("dialect/hyperdht/mod.rs", "pub mod node;"),
        ("dialect/hyperdht/node.rs", "use crate::dialect::hyperdht::{\n    errand::Errand,\n    serve::Server,\n};"),
        ("dialect/hyperdht/errand.rs", "use super::serve::Ticket;"),
        (
            "dialect/hyperdht/serve.rs",
            "impl Node {\n    fn f(&self, node: &crate::dialect::hyperdht::node::Node) {}\n}"
        ),
    ]));
    assert!(is_circle(&[
        ("cli/mod.rs", "mod client;\nmod node;\nconst COMMANDS: &[Command] = &[node::run];"),
        ("cli/node.rs", "const DEFAULT: &str = super::client::DEFAULT_NODE;"),
        ("cli/client.rs", "use super::hyperdht;"),
        ("cli/hyperdht.rs", "use super::node::{contact_address, start_logging};"),
    ]));
    let parent = |code| [("cli/mod.rs", code), ("cli/a.rs", "use super::Stop;"), ("cli/b.rs", "use super::a::A;")];
    assert!(
        !is_circle(&parent("mod a;\nmod b;\npub use b::B;\nfn run() { self::a::run() }\nstruct Stop;")),
        "dispatch"
    );
    assert!(is_circle(&parent("mod a;\nmod b;\nuse a::A;\nstruct Stop;")), "what a parent uses must not use it");
    assert!(is_circle(&parent("mod a;\nmod b;\npub use b::B as Stop;")), "by way of the parent");
    assert!(!is_circle(&[("net/mod.rs", "use a::A;\nstruct Net;"), ("net/a.rs", "use crate::net::Net;")]), "spread");
}

#[test]
fn pure_modules_touch_nothing_of_the_world() {
    for source in sources().iter().filter(|source| floor_of(&source.module) < floor_of("net")) {
        for (number, line) in source.code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for word in IMPURE {
                assert!(!line.contains(word), "{}:{}: {word} in a pure module", source.path.display(), number + 1);
            }
        }
    }
}

#[test]
fn files_and_functions_have_one_idea() {
    for source in sources() {
        let lines: Vec<&str> = source.code.lines().collect();
        assert!(lines.len() <= FILE_LINES, "{} has {} lines", source.path.display(), lines.len());
        let mut open: Option<(usize, usize)> = None;
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let starts = ["fn ", "pub fn ", "pub(super) fn "].iter().any(|start| line.trim_start().starts_with(start));
            if starts && !line.trim_end().ends_with(['}', ';']) {
                open = Some((number, indent));
            }
            if let Some((start, _)) = open.filter(|(_, at)| *at == indent && line.trim() == "}") {
                let long = number - start + 1;
                assert!(long <= FUNCTION_LINES, "{}:{} has {long} lines", source.path.display(), start + 1);
                open = None;
            }
        }
    }
}

#[test]
fn every_module_says_what_it_is_for_and_never_does() {
    for source in sources().iter().filter(|source| source.module != "lib" && source.module != "main") {
        let doc: String = source.code.lines().take_while(|line| line.starts_with("//!")).collect();
        assert!(doc.len() > 60, "{} begins with what it is for", source.path.display());
    }
}

/// rust-version is 1.85, whose edition 2024 has no let chains; a newer compiler would not tell.
#[test]
fn no_let_chains() {
    for source in sources() {
        for (number, line) in source.code.lines().enumerate() {
            let chained =
                line.contains("&& let ") || (line.contains("if let ") && line.contains(" && ") && line.ends_with('{'));
            // `if let A = b.filter(|x| c && d) {` is no chain: its && is inside parentheses.
            let inside =
                line.find(" && ").is_some_and(|at| line[..at].matches('(').count() > line[..at].matches(')').count());
            assert!(!chained || inside, "{}:{}: a let chain", source.path.display(), number + 1);
        }
    }
}

/// Files whose numbers nobody chooses: of a format on the wire, of a hash function, of sysexits(3).
const FORMATS: &[&str] = &["codec.rs", "api.rs", "address.rs", "hash.rs", "id.rs", "cli/mod.rs"];

/// The numbers of the simulator and of load tests describe worlds and tests, and bound no node.
fn bounds_no_node(source: &Source) -> bool {
    ["load", "sim"].contains(&&*source.module) || source.name.starts_with("cli/sim/") || source.name == "net/load.rs"
}

/// The constants of a number or duration whose value is written out, that is: is no other constant's, no more of a type
/// (`u32::MAX`), and not computed from either. Lengths of fields (`_LEN`) and ports (`_PORT`) are a format's.
fn written_out(code: &str) -> Vec<String> {
    const NUMBERS: [&str; 13] =
        ["usize", "u8", "u16", "u32", "u64", "u128", "isize", "i8", "i16", "i32", "i64", "i128", "Duration"];
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.map(|line| format!("{line}\n")).collect();
    let mut found = Vec::new();
    for marker in ["const ", "static "] {
        for (at, _) in code.match_indices(marker) {
            let is_word = code[..at].chars().next_back().is_none_or(char::is_whitespace);
            let Some((name, rest)) = code[at + marker.len()..].split_once(':').filter(|_| is_word) else {
                continue;
            };
            // What has no value before the statement's end is a function, or a constant that a trait asks for.
            let Some((of, value)) = rest.split(';').next().and_then(|statement| statement.split_once('=')) else {
                continue;
            };
            let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            let is_formats = name.ends_with("_LEN") || name.ends_with("_PORT");
            let words = value.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            let makes = ["Duration", "from_secs", "from_millis", "as"];
            let is_literal = words
                .filter(|word| !makes.contains(word) && !NUMBERS.contains(word))
                .all(|word| word.starts_with(|c: char| c.is_ascii_digit()));
            if is_name && !is_formats && NUMBERS.contains(&of.trim()) && is_literal {
                found.push(name.to_string());
            }
        }
    }
    found
}

/// A number of bytes, entries or milliseconds outside limits.rs is a bound that nobody finds.
#[test]
fn bounds_live_in_limits() {
    let is_format = |source: &Source| FORMATS.iter().any(|name| source.path.ends_with(name));
    for source in sources().iter().filter(|source| source.module != "limits" && !bounds_no_node(source)) {
        let found = written_out(&source.code);
        assert!(found.is_empty() || is_format(source), "{}: {found:?} belong into limits.rs", source.name);
    }
}

#[test]
fn the_bounds_that_were_missed_would_be_seen() {
    for code in [
        "const ENTRIES_AT_ONCE: usize = 10;",
        "    pub(super) const IDLE_MS: u64 = 60 * 1_000;",
        "pub const WAIT: Duration = Duration::from_secs(5);",
        "pub(crate) const SIZE_MAX:\n    u32 =\n    1 << 16;",
        "static MOST: u16 = 0xff;",
        "const HALF: i64 = (7 as i64) / 2;",
    ] {
        assert_eq!(written_out(code).len(), 1, "{code}");
    }
    for code in [
        "const NONE: u32 = u32::MAX;",
        "const FIRST: usize = 1 << (usize::BITS - 1);",
        "const WORDS: usize = SLOTS / 64;",
        "trait Codec {\n    const FRAME_MAX: usize;\n    const KNOWN: bool = true;\n}",
        "// const OLD: usize = 3;",
        "const fn most(width: u32) -> usize {\n    let a = 3;\n}",
        "pub const ID_LEN: usize = 32;",
    ] {
        assert_eq!(written_out(code), [""; 0], "{code}");
    }
}
