//! What `tests/fuzz/` keeps of its fuzzing, run on stable Rust: every input of its corpora and every one that once
//! failed, and then some thousands of mutations of them from a fixed seed. Never looks for new coverage; that is
//! `cargo fuzz`'s.
//!
//! A failure prints its target, its file and its seed; `MUTATION=engine/<file>/<seed> cargo test --test mutations` runs
//! that one alone. With `MUTATION_SAVE=<path>` besides, the input is written there.

#[path = "fuzz/drive.rs"]
mod drive;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// Mutations applied one after the other to one input, at most.
const STEPS: usize = 4;
/// Longest mutated input: what a longer one does, a shorter one does too, and sooner.
const LONGEST: usize = 400;
/// Numbers at the edges of what the formats can say.
const INTERESTING: [u16; 12] = [0, 1, 4, 35, 36, 0x7f, 0x80, 0xff, 650, 660, 0x7fff, 0xffff];

/// Inputs that fail and are kept until they don't: what they found is known and not mended yet.
const UNMENDED: &[&str] = &[];

/// A target and how many mutations it is worth, so that all of them together take some seconds.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    mutations: usize,
}

const TARGETS: &[Target] = &[
    Target { name: "sealed_codec", run: drive::sealed_codec, mutations: 100_000 },
    Target { name: "voidphone_codec", run: drive::voidphone_codec, mutations: 100_000 },
    Target { name: "session", run: drive::session, mutations: 40_000 },
    Target { name: "stream", run: drive::stream, mutations: 5_000 },
    Target { name: "engine", run: drive::engine, mutations: 8_000 },
    #[cfg(feature = "hyperdht")]
    Target { name: "datagrams", run: drive::datagrams, mutations: 200_000 },
];

#[test]
fn sealed_codec() {
    run(&TARGETS[0]);
}

#[test]
fn voidphone_codec() {
    run(&TARGETS[1]);
}

#[test]
fn session() {
    run(&TARGETS[2]);
}

#[test]
fn stream() {
    run(&TARGETS[3]);
}

#[test]
fn engine() {
    run(&TARGETS[4]);
}

#[test]
#[cfg(feature = "hyperdht")]
fn datagrams() {
    run(&TARGETS[5]);
}

/// One input: a file, and the seed of what was done to it; 0 is the file itself.
struct Case<'a> {
    target: &'a Target,
    file: &'a str,
    seed: u64,
}

impl Case<'_> {
    /// Runs it; a failure says how to run it again.
    fn run(&self, input: &[u8]) {
        let Case { target, file, seed } = self;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
            eprintln!("failed: MUTATION={}/{file}/{seed} cargo test --test mutations {}", target.name, target.name);
            if let Some(path) = std::env::var_os("MUTATION_SAVE") {
                fs::write(path, input).unwrap();
            }
            resume_unwind(panic);
        }
    }
}

/// Every file of the target, then its mutations; or the one case that the environment names.
fn run(target: &Target) {
    let all = corpus_of(target.name).into_iter();
    let (unmended, corpus): (Vec<_>, Vec<_>) = all.partition(|(file, _)| UNMENDED.contains(&file.as_str()));
    let wanted = std::env::var("MUTATION").ok();
    let wanted: Option<Vec<&str>> = wanted.as_deref().map(|case| case.split('/').collect());
    if let Some([name, file, seed]) = wanted.as_deref() {
        if *name == target.name {
            let at = corpus.iter().position(|(known, _)| known == file).expect("no such file");
            let seed = seed.parse().expect("a seed is a number");
            Case { target, file, seed }.run(&mutation(&corpus, at, seed));
        }
        return;
    }
    for (file, input) in &corpus {
        Case { target, file, seed: 0 }.run(input);
    }
    for (file, input) in &unmended {
        let fails = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err();
        assert!(fails, "{file} fails no more: take it off the list of the unmended");
    }
    for seed in 1..=target.mutations as u64 {
        let at = seed as usize % corpus.len();
        Case { target, file: &corpus[at].0, seed }.run(&mutation(&corpus, at, seed));
    }
}

/// The inputs of a target by name, in the order of their names. There must be some.
fn corpus_of(target: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let folders = ["corpus", "regressions"].map(|kind| root.join(kind).join(target));
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        files.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    files.sort();
    assert!(!files.is_empty(), "{target} has a corpus");
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    files.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

/// The input at `at`, changed as `seed` says; as it is if that is 0.
fn mutation(corpus: &[(String, Vec<u8>)], at: usize, seed: u64) -> Vec<u8> {
    let mut input = corpus[at].1.clone();
    if seed == 0 {
        return input;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..random.usize(1..=STEPS) {
        let other = &corpus[random.usize(..corpus.len())].1;
        mutate(&mut input, other, &mut random);
    }
    input.truncate(LONGEST);
    input
}

/// One mutation: of a bit, a byte, a number, a slice, or with another input.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut fastrand::Rng) {
    let from = random.usize(..=input.len());
    let to = random.usize(from..=input.len().min(from + 40));
    match random.u8(..9) {
        0 | 1 if from < input.len() => input[from] ^= 1 << random.u8(..8),
        2 if from < input.len() => input[from] = random.u8(..),
        3 => input.insert(from, random.u8(..)),
        4 => drop(input.drain(from..to)),
        5 => {
            // A slice once more, there or elsewhere.
            let slice = input[from..to].to_vec();
            let at = random.usize(..=input.len());
            input.splice(at..at, slice);
        }
        6 => {
            let number = INTERESTING[random.usize(..INTERESTING.len())].to_be_bytes();
            let end = input.len().min(from + 2);
            input.splice(from..end, number);
        }
        7 => input.truncate(from),
        _ => {
            let start = random.usize(..=other.len());
            input.truncate(from);
            input.extend_from_slice(&other[start..]);
        }
    }
}
