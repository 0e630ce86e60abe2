//! A whole member on a disk that fails: wherever that happens, it ends with a reason, or goes on; what it acknowledged is
//! there afterwards, and nothing else.

use std::{io::ErrorKind, path::Path, sync::Arc, time::Duration};

use forebay_server::{Config, StartError};
use forebay_storage::disk::{Disk as _, sim::SimDisk};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

use crate::support::{LIMIT, Node, get, new_dir, put};

/// As much as a WAL record of several sectors.
const VALUE_BYTES: usize = 1500;

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

async fn start(dir: &Arc<TempDir>, disk: &SimDisk) -> Result<Node, StartError> {
    disk.create_dir_all(&dir.path().join("member/snap")).unwrap();
    Node::try_on_disk(dir.clone(), Arc::new(disk.clone()), busy).await
}

/// Puts until the fault has struck and then some; returns how many were acknowledged, and why the member ended.
async fn put_until_struck(node: &Node, disk: &SimDisk) -> (u64, Option<String>) {
    let (mut n, mut after) = (0, 0);
    while after < 10 {
        if let Err(status) = node.put(put(&format!("key {n}"), &value(n))).await {
            let ended = tokio::time::timeout(LIMIT, node.member.ended()).await;
            let ended = ended.unwrap_or_else(|_| panic!("{status}, but the member has not ended"));
            return (n, Some(ended.to_string()));
        }
        n += 1;
        after += u64::from(disk.has_failed());
    }
    (n, None)
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
    let mut ended = std::collections::BTreeSet::new();
    for call in 0..60 {
        let kind = [ErrorKind::StorageFull, ErrorKind::Other][call as usize % 2];
        let what = format!("{kind} at call {call}");
        let (dir, disk) = (Arc::new(new_dir()), SimDisk::new());
        let node = start(&dir, &disk).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        disk.fail_after(call, kind);
        let (acknowledged, reason) = put_until_struck(&node, &disk).await;
        node.member.stop().await;
        if let Some(reason) = reason {
            assert!(reason.contains("injected fault") && reason.contains(dir.path().to_str().unwrap()), "{reason}");
            ended.insert(reason.replace(dir.path().to_str().unwrap(), ""));
        }
        let mut rng = StdRng::seed_from_u64(call);
        holds(&dir, &disk.crash(|| rng.random_bool(0.5)), acknowledged, &format!("{what}, then power loss")).await;
        holds(&dir, &disk.killed(), acknowledged, &format!("{what}, then a restart")).await;
    }
    println!("{ended:#?}");
    assert!(ended.iter().any(|reason| reason.contains(".wal")), "the log was hit: {ended:#?}");
    assert!(ended.iter().any(|reason| reason.contains("snap/db")), "the db file was hit: {ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn k15_a_start_that_the_disk_cuts_short_says_where_and_the_next_one_finds_everything() {
    let (dir, disk) = (Arc::new(new_dir()), SimDisk::new());
    let node = start(&dir, &disk).await.unwrap();
    for n in 0..12 {
        node.put(put(&format!("key {n}"), &value(n))).await.unwrap();
    }
    node.member.stop().await;
    let mut refused = 0;
    for call in 0..12 {
        let kind = [ErrorKind::Other, ErrorKind::StorageFull][call as usize % 2];
        let disk = disk.killed();
        disk.create_dir_all(Path::new("/")).unwrap();
        disk.fail_after(call + 1, kind);
        match start(&dir, &disk).await {
            Ok(node) => node.member.stop().await,
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("injected fault"), "{error}");
            }
        }
        disk.fail_never();
        holds(&dir, &disk.killed(), 12, &format!("{kind} at call {call} of a start")).await;
    }
    assert!(refused > 0, "no call of a start is needed");
}
