//! Our files in the hands of etcd's own tools, and theirs in ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::model;

/// A tool of the real peers, or None with a line saying how to get it.
fn peer(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let peers = std::env::var_os("FOREBAY_PEERS").map_or(home.join(".cache/forebay-peers"), PathBuf::from);
    let path = peers.join(name);
    if !path.exists() {
        println!("skipped: install with conformance/install-peers.sh ({} is missing)", path.display());
        return None;
    }
    Some(path)
}

/// Runs a tool to its end and returns what it printed.
fn output(tool: &Path, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}\n{text}{}",
        tool.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn bbolt_finds_nothing_wrong_with_what_random_transactions_leave() {
    let Some(bbolt) = peer("tools/bbolt") else { return };
    for seed in 100..104 {
        let directory = model::run(seed, 40);
        let path = directory.path().join("db");
        assert_eq!(output(&bbolt, &["check", path.to_str().unwrap()]).trim(), "OK");
    }
}
