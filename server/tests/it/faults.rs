//! A whole member on a disk that fails: wherever that happens, it ends with a reason, or goes on; what it acknowledged is
//! there afterwards, and nothing else.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use forebay_server::{Config, StartError};
use forebay_storage::disk::{Disk as _, sim::SimDisk};
use futures::FutureExt as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

use crate::support::{Node, get, new_dir, put};

/// As much as a WAL record of several sectors.
const VALUE_BYTES: usize = 1500;
/// More puts than any place needs to be written several times.
const PUTS_MAX: u64 = 500;
/// What of a member's files is struck.
const PLACES: [&str; 3] = ["/member/wal", "/member/snap/db", ".snap"];

/// How many calls are made to fail in turn; `$FAULTS` says more.
fn faults() -> u64 {
    std::env::var("FAULTS").map_or(3, |n| n.parse().expect("FAULTS is a number"))
}

/// A full disk and a broken one in turn.
fn kind(call: u64) -> ErrorKind {
    if call.is_multiple_of(2) { ErrorKind::Other } else { ErrorKind::StorageFull }
}

fn value(n: u64) -> String {
    format!("{n:05}").repeat(VALUE_BYTES / 5)
}

/// Files are synced, and every kind of file is written often.
fn busy(config: &mut Config) {
    config.unsafe_no_fsync = false;
    config.backend_batch_interval = Duration::from_millis(2);
    config.snapshot_count = 5;
    config.snapshot_catchup_entries = 3;
    config.max_snapshots = 1;
    config.max_wals = 1;
}

fn new_disk(dir: &TempDir) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(&dir.path().join("member/snap")).unwrap();
    disk
}

async fn start(dir: &Arc<TempDir>, disk: &SimDisk) -> Result<Node, StartError> {
    Node::try_on_disk(dir.clone(), Arc::new(disk.clone()), busy).await
}

/// Puts until the fault has struck and then some, and stops. Returns how many were acknowledged, and why the member ended
/// if it did before.
async fn put_until_struck(node: Node, disk: &SimDisk) -> (u64, Option<String>) {
    let (mut n, mut after) = (0, 0);
    while after < 10 && n < PUTS_MAX && node.put(put(&format!("key {n}"), &value(n))).await.is_ok() {
        n += 1;
        after += u64::from(disk.has_failed());
    }
    node.member.stop().await;
    (n, node.member.ended().now_or_never().map(|reason| reason.to_string()))
}

/// A member on what is left holds every acknowledged put, at most the one after them, and can be written to.
async fn holds(dir: &Arc<TempDir>, disk: &SimDisk, acknowledged: u64, what: &str) {
    let node =
        start(dir, disk).await.unwrap_or_else(|error| panic!("{what}: the member does not start again: {error}"));
    for n in 0..acknowledged + 2 {
        let found = node.range(get(&format!("key {n}"))).await.unwrap().kvs;
        let found = found.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap());
        let may_be_missing = n >= acknowledged;
        assert!(found == Some(value(n)) || may_be_missing && found.is_none(), "{what}: key {n} is {found:?}");
        assert!(n <= acknowledged || found.is_none(), "{what}: key {n} was never put");
    }
    node.put(put("after", "it goes on")).await.unwrap_or_else(|status| panic!("{what}: {status}"));
    node.member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k15_wherever_the_disk_fails_a_member_ends_with_a_reason_or_goes_on_and_loses_nothing() {
    for place in PLACES {
        let mut ended = Vec::new();
        for call in 0..faults() {
            let what = format!("{} at call {call} to {place}", kind(call));
            let dir = Arc::new(new_dir());
            let disk = new_disk(&dir);
            let node = start(&dir, &disk).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            disk.fail_at(place, call, kind(call));
            let (acknowledged, reason) = put_until_struck(node, &disk).await;
            assert!(disk.has_failed(), "{what}: {PUTS_MAX} puts do not get there");
            if let Some(reason) = reason {
                assert!(reason.contains("injected fault") && reason.contains(place), "{what}: {reason}");
                ended.push(reason);
            }
            let mut rng = StdRng::seed_from_u64(call);
            holds(&dir, &disk.crash(|| rng.random_bool(0.5)), acknowledged, &format!("{what}, then power loss")).await;
            holds(&dir, &disk.killed(), acknowledged, &format!("{what}, then a restart")).await;
        }
        assert!(!ended.is_empty(), "no call to {place} is needed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k15_a_start_that_the_disk_cuts_short_says_where_and_the_next_one_finds_everything() {
    let dir = Arc::new(new_dir());
    let disk = new_disk(&dir);
    let node = start(&dir, &disk).await.unwrap();
    for n in 0..12 {
        node.put(put(&format!("key {n}"), &value(n))).await.unwrap();
    }
    node.member.stop().await;
    let mut refused = 0;
    for call in 0..2 * faults() {
        let disk = disk.killed();
        disk.fail_after(call, kind(call));
        match start(&dir, &disk).await {
            Ok(node) => node.member.stop().await,
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("injected fault"), "{error}");
            }
        }
        disk.fail_never();
        holds(&dir, &disk.killed(), 12, &format!("{} at call {call} of a start", kind(call))).await;
    }
    assert!(refused > 0, "no call of a start is needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn k18_on_a_file_system_that_becomes_read_only_a_member_ends_and_says_so_and_goes_on_when_it_is_not() {
    let dir = Arc::new(new_dir());
    let disk = new_disk(&dir);
    let node = start(&dir, &disk).await.unwrap();
    let mut acknowledged = 0;
    let mut put_one = async |node: &Node| {
        let done = node.put(put(&format!("key {acknowledged}"), &value(acknowledged))).await.is_ok();
        acknowledged += u64::from(done);
        done
    };
    for _ in 0..10 {
        assert!(put_one(&node).await);
    }
    disk.set_read_only(true);
    assert!(!put_one(&node).await, "what cannot be written is not acknowledged");
    let reason = node.member.ended().await.to_string();
    assert!(reason.contains("read-only"), "{reason}");
    node.member.stop().await;
    let disk = disk.killed();
    disk.set_read_only(true);
    let refused = start(&dir, &disk).await.err().expect("nothing can be written").to_string();
    assert!(refused.contains("read-only"), "{refused}");
    holds(&dir, &disk.killed(), acknowledged, "mounted anew").await;
}
