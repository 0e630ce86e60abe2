//! Row n8 of `docs/FAULTS.md`: a member's wall clock may jump by hours. Nothing that a member promises depends on it,
//! because nothing asks it but what stands in this list.

use std::{fs, path::Path};

/// Who asks the wall clock, and why a jump does no harm.
const ASKED: [(&str, usize, &str); 7] = [
    ("auth/mod.rs", 1, "a JWT says itself until what time it is good, in the time of whoever signed it"),
    ("compactor.rs", 1, "a metric says when the last compaction was"),
    ("logins.rs", 1, "a JWT of our own is good for some time from now"),
    ("members.rs", 1, "the id of a member that is added is made of its URLs and the time, and refused if it is there"),
    ("peer/service.rs", 1, "etcd's members compare their clocks, to warn of a difference"),
    ("raft/start.rs", 1, "the ids of rounds of reads begin elsewhere at each start"),
    ("start.rs", 1, "the ids of requests begin elsewhere at each start"),
];

#[test]
fn n8_only_these_places_ask_the_wall_clock_and_no_ttl_is_among_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut dirs, mut found) = (vec![src.clone()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let is_test = name.ends_with("tests.rs") || name.contains("tests/") || name.contains("simulation/");
            if path.is_dir() {
                dirs.push(path);
            } else if !is_test {
                let asks = fs::read_to_string(&path).unwrap().matches("SystemTime::now").count();
                found.extend((asks > 0).then_some((name, asks)));
            }
        }
    }
    found.sort();
    let listed: Vec<(String, usize)> = ASKED.iter().map(|(file, asks, _)| ((*file).to_owned(), *asks)).collect();
    assert_eq!(found, listed, "who asks the wall clock must say in this list why a jump does no harm");
}

/// What is promised by time (leases, elections, tokens of a session) goes by [`std::time::Instant`], which never jumps,
/// and neither the crates below a member nor apply know any time but what they are handed.
#[test]
fn n8_what_is_below_a_member_never_asks_it() {
    for below in ["keyspace", "storage", "policies", "proto"] {
        let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(below).join("src")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let asks = fs::read_to_string(&path).unwrap().contains("SystemTime::now");
                    assert!(!asks, "{} asks the wall clock", path.display());
                }
            }
        }
    }
}
