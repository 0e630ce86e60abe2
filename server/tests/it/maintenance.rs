//! What an operator asks a member.

use forebay_proto::etcdserverpb::*;
use forebay_storage::{
    db::{Db, Options},
    schema,
};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::support::{Node, compaction, delete, get, grant, leased, put};

async fn snapshot(node: &Node) -> Vec<SnapshotResponse> {
    let call = node.open("/etcdserverpb.Maintenance/Snapshot").await;
    call.send(&SnapshotRequest {});
    let (parts, status) = call.rest().await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    parts
}

#[tokio::test]
async fn the_status_is_that_of_a_leader_which_is_its_own_cluster() {
    let node = Node::start().await;
    let before = node.status(StatusRequest {}).await.unwrap();
    assert_eq!((before.leader, before.is_learner, before.errors.len()), (node.member.id(), false, 0));
    assert_eq!(before.db_size_quota, 2 << 30);
    assert_eq!(before.downgrade_info, Some(DowngradeInfo::default()));
    let minor = |version: &str| version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    assert_eq!(minor(&before.version), minor(&before.storage_version));
    for n in 0..50 {
        node.put(put(&format!("k{n}"), &"v".repeat(10_000))).await.unwrap();
    }
    node.hash(HashRequest {}).await.unwrap();
    let after = node.status(StatusRequest {}).await.unwrap();
    assert_eq!(after.raft_index, before.raft_index + 50);
    assert_eq!(after.raft_applied_index, after.raft_index);
    assert_eq!(after.raft_term, before.raft_term);
    assert!(after.db_size > 500_000 && after.db_size_in_use > 500_000, "{after:?}");
    assert!(after.db_size_in_use <= after.db_size, "{after:?}");
}

#[tokio::test]
async fn a_snapshot_is_the_db_file_and_its_hash() {
    let node = Node::start().await;
    node.grant(grant(7, 60)).await.unwrap();
    for n in 0..100 {
        node.put(leased(&format!("k{n}"), 7)).await.unwrap();
    }
    let parts = snapshot(&node).await;
    let (last, parts) = parts.split_last().expect("a snapshot has parts");
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.blob.to_vec()).collect();
    assert_eq!((last.remaining_bytes, &last.blob[..]), (0, &Sha256::digest(&bytes)[..]));
    let mut remaining = bytes.len() as u64;
    for part in parts {
        remaining -= part.blob.len() as u64;
        assert_eq!(part.remaining_bytes, remaining);
        assert!(part.blob.len() <= 32 << 10 && part.version == last.version);
    }
    assert_eq!(remaining, 0);

    // It is taken whole: everything that was acknowledged is in it, and it opens.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, &bytes).unwrap();
    let db = Db::open(&path, Options { read_only: true, ..Options::default() }).unwrap();
    let hash = node.hash(HashRequest {}).await.unwrap().hash;
    assert_eq!(schema::hash(&db.begin_read()).unwrap(), hash);
}

#[tokio::test]
async fn the_hash_of_the_keys_is_that_of_a_revision_whatever_came_later() {
    let node = Node::start().await;
    let hash_at = async |node: &Node, revision| node.hash_kv(HashKvRequest { revision }).await.unwrap();
    for n in 0..20 {
        node.put(put(&format!("k{}", n % 7), &n.to_string())).await.unwrap();
    }
    let present = hash_at(&node, 0).await;
    assert_eq!((present.hash_revision, present.compact_revision), (21, -1));
    node.delete(delete("k0")).await.unwrap();
    node.put(put("k1", "later")).await.unwrap();
    let past = hash_at(&node, 21).await;
    assert_eq!((past.hash, past.hash_revision, past.compact_revision), (present.hash, 21, -1));
    assert_ne!(hash_at(&node, 0).await.hash, present.hash);

    // A compaction below it is part of the hash, and nothing else is.
    node.compact(compaction(15)).await.unwrap();
    let compacted = hash_at(&node, 21).await;
    assert_eq!((compacted.hash_revision, compacted.compact_revision), (21, 15));
    node.defragment(DefragmentRequest {}).await.unwrap();
    let node = node.restart().await;
    let restarted = hash_at(&node, 21).await;
    assert_eq!((restarted.hash, restarted.compact_revision), (compacted.hash, 15));
}

#[tokio::test]
async fn a_defragmentation_gives_back_what_a_compaction_freed() {
    let node = Node::start().await;
    for n in 0..60 {
        node.put(put("often", &format!("{n}").repeat(20_000))).await.unwrap();
    }
    // Otherwise what is written and compacted within a moment never gets into the file.
    node.hash(HashRequest {}).await.unwrap();
    node.compact(compaction(60)).await.unwrap();
    let compacted = node.status(StatusRequest {}).await.unwrap();
    assert!(compacted.db_size > 1 << 20 && compacted.db_size_in_use < compacted.db_size / 2, "{compacted:?}");
    node.defragment(DefragmentRequest {}).await.unwrap();
    let defragmented = node.status(StatusRequest {}).await.unwrap();
    assert!(defragmented.db_size < compacted.db_size / 2, "{defragmented:?}");
    assert_eq!(node.everything().await.len(), 1);
}

#[tokio::test]
async fn space_that_a_compaction_freed_is_given_back_while_serving() {
    let node = Node::start().await;
    for n in 0..60 {
        node.put(put("often", &format!("{}", n % 10).repeat(1_000_000))).await.unwrap();
    }
    node.hash(HashRequest {}).await.unwrap();
    let full = node.status(StatusRequest {}).await.unwrap();
    assert!(full.db_size > 50 << 20, "{full:?}");
    node.compact(CompactionRequest { revision: 60, physical: true }).await.unwrap();
    let began = std::time::Instant::now();
    loop {
        let status = node.status(StatusRequest {}).await.unwrap();
        node.put(put("other", "2")).await.unwrap();
        if status.db_size < 10 << 20 {
            break;
        }
        assert!(began.elapsed().as_secs() < 60, "{status:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(node.everything().await.len(), 2);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_snapshot_loses_its_place() {
    let node = Node::start().await;
    for n in 0..200 {
        node.put(put(&format!("k{n}"), &"v".repeat(10_000))).await.unwrap();
    }
    let mut idle = Vec::new();
    for _ in 0..16 {
        let call = node.open("/etcdserverpb.Maintenance/Snapshot").await;
        call.send(&SnapshotRequest {});
        idle.push(call);
    }
    // Every place is taken once each of them has begun.
    for call in &mut idle {
        call.next::<SnapshotResponse>().await.unwrap();
    }
    let mut late = node.open("/etcdserverpb.Maintenance/Snapshot").await;
    late.send(&SnapshotRequest {});
    assert_eq!(late.next::<SnapshotResponse>().await.unwrap_err().message(), "etcdserver: too many requests");
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    tokio::time::resume();
    for call in idle {
        let (_, status) = call.rest::<SnapshotResponse>().await;
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    assert!(snapshot(&node).await.len() > 1);
}

#[tokio::test]
async fn requests_that_take_longer_than_they_should_are_counted() {
    let node = Node::with(|config| config.warning_apply_duration = std::time::Duration::ZERO).await;
    let before = node.metric("etcd_server_slow_apply_total");
    node.put(put("a", "1")).await.unwrap();
    node.range(get("a")).await.unwrap();
    assert_eq!(node.metric("etcd_server_slow_apply_total"), before + 2.0);
    let node = Node::start().await;
    let count = |name: &str| node.metric(name);
    let (puts, ranges, txns) =
        (count("etcd_mvcc_put_total"), count("etcd_mvcc_range_total"), count("etcd_mvcc_txn_total"));
    node.put(PutRequest { prev_kv: true, ..put("a", "1") }).await.unwrap();
    node.range(get("a")).await.unwrap();
    assert_eq!(count("etcd_mvcc_put_total"), puts + 1.0);
    assert_eq!(count("etcd_mvcc_range_total"), ranges + 2.0);
    assert_eq!(count("etcd_mvcc_txn_total"), txns + 1.0, "a put that looks first is two operations");
    assert_eq!(count("etcd_debugging_mvcc_total_put_size_in_bytes"), 2.0);
}
