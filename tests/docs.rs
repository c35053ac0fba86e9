//! The pages in docs/ say what is true: their Python clients work against a real node, their bytes are what a node says,
//! their limits are those of src/limits.rs, and what cites them or is cited by them exists.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Node, PATIENCE};
use dayfly::id::{from_hex, to_hex};

const SEALED: &str = "docs/protocol-sealed.md";
const HYPERDHT: &str = "docs/protocol-hyperdht.md";
const FAULTS: &str = "docs/faults.md";
/// Written last; what cites it is checked once it is there.
const ARCHITECTURE: &str = "docs/architecture.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The first block marked ```` ```kind ```` below a heading.
fn block(name: &str, heading: &str, kind: &str) -> String {
    let text = page(name);
    let below = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("{name}: no {heading}"));
    let section = below.split("\n## ").next().unwrap();
    let after = section.split(&format!("\n```{kind}\n")).nth(1).unwrap_or_else(|| panic!("{name}: no {kind} block"));
    after.split("\n```").next().unwrap().to_string()
}

// ---- the clients ----

/// What a Python program prints when it is run with one argument; `None` where there is no Python.
fn run_python(program: &str, argument: &str) -> Option<String> {
    let python = Command::new("python3")
        .args(["-", argument])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut python = match python {
        Ok(python) => python,
        Err(why) if std::env::var_os("DAYFLY_CI").is_some() => panic!("CI needs python3: {why}"),
        Err(why) => {
            eprintln!("skipped: no python3 ({why}): apt install python3");
            return None;
        }
    };
    python.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_python_client_of_the_sealed_page_works() {
    let node = Node::start(&[]);
    let said = run_python(&block(SEALED, "A client in Python", "python"), &node.addr.to_string());
    assert!(said.is_none_or(|said| said == "(655, b'abcd')\nTrue\nTrue\n"));
}

#[cfg(feature = "hyperdht")]
#[test]
fn the_python_client_of_the_hyperdht_page_works() {
    let (_process, addr, _) = hyperdht_node();
    let Some(said) = run_python(&block(HYPERDHT, "17. A client in Python", "python"), &addr.to_string()) else {
        return;
    };
    let lines: Vec<&str> = said.lines().collect();
    let seen_as = lines[0].strip_prefix("seen as 127.0.0.1:").expect("the pong tells the asker's address");
    assert_eq!(lines[1..], [format!("announced 127.0.0.1:{seen_as}")]);
}

#[cfg(feature = "hyperdht")]
fn hyperdht_node() -> (common::process::Process, SocketAddr, String) {
    let process = common::process::Process::start(&["--listen", "none", "--hyperdht", "127.0.0.1:0"]);
    let (addr, id) = process.listener();
    (process, addr, id)
}

// ---- the bytes ----

/// The lines of an exchange: whether a node is sent this, and what, in hex with names in braces; lines that begin with a
/// blank go on.
fn exchange(text: &str) -> Vec<(bool, String)> {
    let mut lines: Vec<(bool, String)> = Vec::new();
    for line in text.lines() {
        let part: String = line.trim_start_matches(['>', '<']).split_whitespace().collect();
        match line.chars().next() {
            Some('>') => lines.push((true, part)),
            Some('<') => lines.push((false, part)),
            _ => lines.last_mut().expect("a line to go on with").1 += &part,
        }
    }
    assert!(lines.len() >= 4, "an exchange was read");
    lines
}

/// Plays an exchange on a new connection.
fn play(addr: SocketAddr, text: &str) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for (is_sent, hex) in exchange(text) {
        let bytes = from_hex(&hex).unwrap_or_else(|| panic!("hex: {hex}"));
        if is_sent {
            stream.write_all(&bytes).unwrap();
        } else {
            let mut got = vec![0; bytes.len()];
            stream.read_exact(&mut got).unwrap();
            assert_eq!(to_hex(&got), hex);
        }
    }
}

#[test]
fn the_exchanges_of_the_sealed_page_are_what_a_node_says() {
    let node = Node::start_with_api(&[]);
    play(node.addr, &block(SEALED, "A worked example", "exchange"));
    play(node.api.unwrap(), &block(SEALED, "The VoidPhone API", "exchange"));
}

#[cfg(feature = "hyperdht")]
#[test]
fn the_exchange_of_the_hyperdht_page_is_what_a_node_says() {
    let (_process, addr, id) = hyperdht_node();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut names =
        BTreeMap::from([("{id}", id), ("{port}", to_hex(&socket.local_addr().unwrap().port().to_be_bytes()))]);
    let mut buffer = [0; 2_000];
    for (is_sent, line) in exchange(&block(HYPERDHT, "12. Annotated datagrams", "exchange")) {
        let filled = |names: &BTreeMap<&str, String>| {
            names.iter().fold(line.clone(), |line, (name, value)| line.replace(name, value))
        };
        if is_sent {
            socket.send_to(&from_hex(&filled(&names)).unwrap(), addr).unwrap();
            continue;
        }
        let len = socket.recv(&mut buffer).unwrap();
        let got = to_hex(&buffer[..len]);
        // All answers carry the same token, at their end.
        names.entry("{token}").or_insert_with(|| got[got.len().saturating_sub(64)..].to_string());
        assert_eq!(got, filled(&names));
    }
}

// ---- the limits ----

/// The constants of src/limits.rs that are products and sums of numbers and of each other.
fn limits() -> BTreeMap<String, u64> {
    let source = page("src/limits.rs");
    let mut known = BTreeMap::new();
    let mut unknown: Vec<(&str, &str)> = Vec::new();
    let constants = source.lines().filter_map(|line| line.strip_prefix("pub const "));
    for line in constants.filter(|line| !line.starts_with("fn ")) {
        let (name, rest) = line.split_once(':').unwrap();
        let (_, value) = rest.split_once(" = ").unwrap();
        unknown.push((name, value.split(';').next().unwrap()));
    }
    // A constant may name one that stands below it.
    for _ in 0..3 {
        unknown.retain(|(name, value)| match evaluate(value, &known) {
            Some(value) => known.insert(name.to_string(), value).is_some(),
            None => true,
        });
    }
    known
}

fn evaluate(expression: &str, known: &BTreeMap<String, u64>) -> Option<u64> {
    let factor = |word: &str| word.trim().replace('_', "").parse().ok().or_else(|| known.get(word.trim()).copied());
    expression.split('+').map(|term| term.split('*').map(factor).product::<Option<u64>>()).sum()
}

#[test]
fn the_tables_of_limits_are_those_of_the_source() {
    let limits = limits();
    assert!(limits.len() > 100, "src/limits.rs was read: {}", limits.len());
    for name in [SEALED, HYPERDHT] {
        let mut rows = 0;
        for line in page(name).lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let constant = cells[1].trim_matches('`');
            let is_constant = constant.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            let Some(value) = cells[2].replace(',', "").parse::<u64>().ok().filter(|_| is_constant) else {
                continue;
            };
            assert_eq!(limits.get(constant), Some(&value), "{name} says {constant} is {value}; src/limits.rs");
            rows += 1;
        }
        assert!(rows > 30, "{name}: the table was read");
        for constant in constants_in(&page(name)) {
            assert!(limits.contains_key(&constant), "{name} names {constant}, which src/limits.rs does not have");
        }
    }
}

/// What stands in backticks and looks like a constant.
fn constants_in(text: &str) -> Vec<String> {
    let words = text.split('`').skip(1).step_by(2);
    let is_constant = |word: &&str| {
        let is_name = word.starts_with(|c: char| c.is_ascii_uppercase()) && word.contains('_');
        is_name && word.chars().all(|c| c.is_ascii_uppercase() || c == '_') && *word != "CAPITALS_LIKE_THIS"
    };
    words.filter(is_constant).map(str::to_string).collect()
}

// ---- what is cited ----

/// All files below some folders, with their text.
fn files(folders: &[&str], ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with("node_modules") {
                    left.push(path);
                }
            } else if path.to_str().is_some_and(|path| path.ends_with(ending)) {
                // What is no text cites nothing.
                found.extend(fs::read_to_string(&path).ok().map(|text| (path, text)));
            }
        }
    }
    found
}

/// Source comments and pages as one line each, so that a citation may be broken over two.
fn joined(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches(['/', '!']).trim());
    lines.collect::<Vec<_>>().join(" ")
}

/// The numbers that a citation begins with: those of `sections 5, 8 and 9` after the word.
fn numbers(rest: &str) -> Vec<&str> {
    let rest = rest.split(['(', ')', ':', ';', '|']).next().unwrap();
    let words = rest.split([' ', ',']).filter(|word| !word.is_empty() && *word != "and" && *word != "to");
    let trimmed = words.map(|word| word.trim_end_matches('.'));
    trimmed.take_while(|word| word.starts_with(|c: char| c.is_ascii_digit())).collect()
}

#[test]
fn whatever_cites_a_page_cites_what_stands_there() {
    let mut citations = 0;
    for (path, text) in files(&["src", "tests", "docs"], ".rs").into_iter().chain(files(&["docs"], ".md")) {
        if path.ends_with("tests/docs.rs") {
            continue;
        }
        let text = joined(&text);
        for name in [SEALED, HYPERDHT, FAULTS, ARCHITECTURE].into_iter().filter(|name| root().join(name).exists()) {
            let cited = page(name);
            for (at, _) in text.match_indices(name) {
                let rest = text[at + name.len()..].trim_start_matches([',', ' ']);
                let place = format!("{}: {name}, {}", path.display(), rest.chars().take(40).collect::<String>());
                if let Some(heading) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                    assert!(cited.contains(&format!("# {heading}\n")), "{place}: no such heading");
                    citations += 1;
                }
                for (word, mark) in [("section", "## "), ("row", "| "), ("decision", "")] {
                    let Some(rest) = rest.strip_prefix(word) else { continue };
                    for number in numbers(rest.trim_start_matches('s')) {
                        let starts =
                            [format!("\n{mark}{number}."), format!("\n{mark}{number} "), format!("\n#{mark}{number} ")];
                        assert!(starts.iter().any(|start| cited.contains(start)), "{place}: no {word} {number}");
                        citations += 1;
                    }
                }
            }
        }
    }
    assert!(citations > 30, "citations were found: {citations}");
}

#[test]
fn nothing_cites_a_page_that_is_not_in_the_repository() {
    for (path, text) in files(&["src", "tests", "docs", "scripts"], "").into_iter().filter(|(path, _)| is_read(path)) {
        for (at, _) in text.match_indices(".md") {
            let start = text[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && !"-_/.{}".contains(c));
            let name = &text[start.map_or(0, |start| start + 1)..at + 3];
            let is_made = name.starts_with('{') || name.starts_with("tests/figures") || name.starts_with("figures");
            let is_there = ["", "docs/"].iter().any(|folder| root().join(folder).join(name).exists());
            let is_here = path.parent().is_some_and(|folder| folder.join(name).exists());
            assert!(
                is_made || is_there || is_here || name == ARCHITECTURE || name == ".md",
                "{} cites {name}",
                path.display()
            );
        }
    }
}

fn is_read(path: &Path) -> bool {
    let is_text = path.extension().is_none_or(|e| ["rs", "md", "json", "sh", "toml"].iter().any(|known| e == *known));
    let is_own = path != root().join("tests/docs.rs") && !path.ends_with("package-lock.json");
    is_text && is_own && path.components().all(|c| c.as_os_str() != "corpus" && c.as_os_str() != "regressions")
}

#[test]
fn each_row_of_the_faults_names_a_test_that_exists_or_is_planned() {
    let text = page(FAULTS);
    let sources: String = files(&["src", "tests"], ".rs").into_iter().map(|(_, text)| text).collect();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect::<Vec<_>>())
        .filter(|cells| cells[0].parse::<u32>().is_ok())
        .collect();
    for (row, number) in rows.iter().zip(1..) {
        assert_eq!((row.len(), row[0]), (4, format!("{number}").as_str()), "rows are in order, of four cells: {row:?}");
        let tests: Vec<&str> = row[3].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || row[3].starts_with("planned"), "row {number} names a test or is planned");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "row {number}: no test {test}");
        }
    }
    assert_eq!(rows.len(), 37);
    for (path, text) in files(&["tests/faults"], ".rs") {
        for test in text.match_indices("\nfn row_").map(|(at, _)| &text[at + 4..]) {
            let test = test.split('(').next().unwrap();
            assert!(page(FAULTS).contains(test), "{}: {test} is in no row", path.display());
        }
    }
}
