//! Reads src/ and holds the rules of the house: who may import whom, what pure modules must not touch, how long files
//! and lines may be.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the ground up: each may import those before it, and its own kind.
/// (docs/architecture.md, "Who may import whom")
const FLOORS: &[&[&str]] = &[
    &["hash"],
    &["id", "time", "limits", "arena"],
    &["contact", "wheel", "buffer"],
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
    "println!",
];

/// Longest file, without its tests.
const FILE_LINES: usize = 600;
/// Longest function.
const FUNCTION_LINES: usize = 70;

struct Source {
    path: PathBuf,
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
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_string();
                found.push(Source { module: first.trim_end_matches(".rs").to_string(), code, path });
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

#[test]
fn bounds_live_in_limits() {
    // A named number of bytes, entries or milliseconds outside limits.rs is a bound that nobody finds.
    let elsewhere = ["wheel.rs"];
    // The numbers of the simulator and of load tests describe worlds and tests, and bound no node.
    let bounded = |s: &&Source| {
        s.module != "limits" && !["load", "sim"].contains(&s.module.as_str()) && floor_of(&s.module) <= floor_of("net")
    };
    for source in sources().iter().filter(bounded) {
        let name = source.path.file_name().unwrap().to_str().unwrap();
        for line in
            source.code.lines().filter(|line| line.trim_start().trim_start_matches("pub ").starts_with("const "))
        {
            let is_bound = ["_MS:", "_MAX:", "_BYTES:", "_LIMIT:"].iter().any(|word| line.contains(word));
            let is_trait_or_derived = line.contains("const FRAME_MAX") || line.contains("const SINGLE_MS");
            assert!(!is_bound || is_trait_or_derived || elsewhere.contains(&name), "{name}: {line}");
        }
    }
}
