//! Replays the inputs of `fuzz/corpus`, and seeded mutations of them, through every fuzz target.
//!
//! What it tries is the same in every run, and more of the same with `FOREBAY_FUZZ_TIMES=100`. A failure names the target, the file and the seed, and leaves the input in
//! a file: put that into the target's corpus to keep it, or hand it to `cargo fuzz run`.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use forebay_fuzz_targets::{TARGETS, Target};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Longer inputs are not made: what is to be found there is found in shorter ones.
const INPUT_LEN_MAX: usize = 64 << 10;
/// Values that length fields and comparisons trip over.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', 0x20];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a target's corpus, by name, and what is in them.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("a readable file"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// How many times as long to try, of whoever has the time: `FOREBAY_FUZZ_TIMES`.
fn times() -> u32 {
    std::env::var("FOREBAY_FUZZ_TIMES").map_or(1, |times| times.parse().expect("FOREBAY_FUZZ_TIMES is a number"))
}

/// Says which input it was if the target panics.
struct Named<'t> {
    target: &'t str,
    file: &'t str,
    seed: Option<u32>,
    input: &'t [u8],
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let Named { target, file, seed, input } = self;
            let left = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("failed-{target}"));
            let kept = fs::write(&left, input).map_or_else(|error| error.to_string(), |()| left.display().to_string());
            let seed = seed.map_or_else(|| "as it is".to_owned(), |seed| format!("mutated by seed {seed}"));
            eprintln!("target {target}, file {file}, {seed}; the input: {kept}");
        }
    }
}

fn run(target: &Target) {
    let files = corpus(target.name);
    for (file, bytes) in &files {
        let _named = Named { target: target.name, file, seed: None, input: bytes };
        (target.run)(bytes);
    }
    for (file, bytes) in &files {
        for seed in 0..target.mutations.saturating_mul(times()) {
            let mut random = StdRng::seed_from_u64(seed.into());
            let other = &files[random.random_range(0..files.len())].1;
            let input = mutated(bytes, other, &mut random);
            let _named = Named { target: target.name, file, seed: Some(seed), input: &input };
            (target.run)(&input);
        }
    }
}

/// A few changes to an input, of the kinds that libFuzzer makes.
fn mutated(bytes: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut input = bytes.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=input.len());
        let until = (at + 1 + random.random_range(0..16)).min(input.len());
        match random.random_range(0..9) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = EDGES[random.random_range(0..EDGES.len())],
            2 if at < input.len() => input[at] = input[at].wrapping_add_signed(random.random_range(-3..=3)),
            3 => drop(input.drain(at.min(until)..until)),
            4 => drop(input.splice(at..at, (0..random.random_range(1..8)).map(|_| random.random::<u8>()))),
            5 => drop(input.splice(at..at, input[at.min(until)..until].to_vec())),
            6 => input.truncate(at),
            7 => input[at.min(until)..until].fill(EDGES[random.random_range(0..EDGES.len())]),
            _ => {
                let from = random.random_range(0..=other.len());
                let len = random.random_range(0..=32);
                let part = other[from..other.len().min(from + len)].to_vec();
                input.splice(at..until.max(at), part);
            }
        }
    }
    input.truncate(INPUT_LEN_MAX);
    input
}

/// One test for each target, so that they run beside each other.
macro_rules! replayed {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                let target = TARGETS.iter().find(|target| target.name == stringify!($name)).expect("a target");
                run(target);
            }
        )*

        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

replayed! {
    config_file,
    db_file,
    dns_answers,
    flags,
    grpc_messages,
    grpc_replies,
    http_request,
    json_request,
    json_response,
    key_ranges,
    key_records,
    peer_streams,
    policy_file,
    proto_messages,
    raft_entries,
    requests,
    schema_values,
    snapshot_file,
    tls_files,
    txn_checks,
    urls,
    wal_records,
    wal_segment,
    watch_streams,
}

#[test]
fn every_target_is_replayed_and_has_a_corpus_and_a_program() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, REPLAYED);
    let listed = |folder: PathBuf| {
        let entries = fs::read_dir(folder).expect("a readable folder");
        let stem = |path: PathBuf| path.file_stem().expect("an entry has a name").to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|entry| stem(entry.expect("a readable folder").path())).collect();
        names.sort();
        names
    };
    assert_eq!(listed(folder().join("corpus")), names);
    assert_eq!(listed(folder().join("fuzz_targets")), names);
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).expect("a readable file");
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} has no [[bin]]");
    }
}
