//! A data directory moves between etcd and the bundled server, from a process that was killed and left most of what it
//! knew in the log alone.

use forebay_conformance::{
    peers::{self, Release},
    session,
    target::{Kind, Target},
};
use forebay_proto::{
    etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
        TxnRequest, kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient, request_op,
    },
    mvccpb::KeyValue,
};

/// Leaves everything since the start to the log.
const NOTHING_TO_THE_DB: &[&str] = &["--backend-batch-interval=1h", "--backend-batch-limit=1000000"];

/// And keeps the way back to an older release open; etcd itself goes up when it can, and an older one then refuses.
const AND_HELD: &[&str] = &["--backend-batch-interval=1h", "--backend-batch-limit=1000000", "--hold-cluster-version"];

/// What a member has: its keys, and the hash of every revision of them.
#[derive(Debug, PartialEq)]
struct Content {
    keys: Vec<KeyValue>,
    revision: i64,
    hash: u32,
}

async fn content(target: &Target) -> anyhow::Result<Content> {
    let channel = session::connect(target).await?;
    let everything = RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..Default::default() };
    let answer = KvClient::new(channel.clone()).range(everything).await?.into_inner();
    let hash = MaintenanceClient::new(channel).hash_kv(HashKvRequest::default()).await?.into_inner().hash;
    Ok(Content { keys: answer.kvs, revision: answer.header.unwrap_or_default().revision, hash })
}

fn put(key: String, lease: i64) -> PutRequest {
    PutRequest { value: format!("value of {key}").into(), key: key.into(), lease, ..Default::default() }
}

/// Writes something of every kind. `round` keeps the keys of different rounds apart.
async fn write(target: &Target, round: &str) -> anyhow::Result<()> {
    let channel = session::connect(target).await?;
    let mut kv = KvClient::new(channel.clone());
    let granted = LeaseClient::new(channel).lease_grant(LeaseGrantRequest { ttl: 3600, id: 0 }).await?.into_inner();
    for n in 0..20 {
        kv.put(put(format!("{round}/{:02}", n % 13), if n % 5 == 0 { granted.id } else { 0 })).await?;
    }
    let ops = ["x", "y"]
        .map(|key| RequestOp { request: Some(request_op::Request::RequestPut(put(format!("{round}/txn/{key}"), 0))) });
    kv.txn(TxnRequest { success: ops.to_vec(), ..Default::default() }).await?;
    let deleted = kv
        .delete_range(DeleteRangeRequest { key: format!("{round}/03").into(), ..Default::default() })
        .await?
        .into_inner();
    let revision = deleted.header.unwrap_or_default().revision - 10;
    kv.compact(CompactionRequest { revision, physical: true }).await?;
    kv.put(put(format!("{round}/last"), 0)).await?;
    Ok(())
}

async fn moves(test: &str, release: Release, and_back: bool) -> anyhow::Result<()> {
    let etcd = Kind::Etcd(release);
    if let Some(missing) = etcd.missing().or(Kind::Server.missing()) {
        peers::skip(test, missing);
        return Ok(());
    }
    let mut target = Target::start(etcd, NOTHING_TO_THE_DB).await?;
    write(&target, "by etcd").await?;
    let before = content(&target).await?;
    target.restart_as(Kind::Server, AND_HELD).await?;
    assert_eq!(content(&target).await?, before, "what etcd {release} left is what we found");
    write(&target, "by forebay").await?;
    let before = content(&target).await?;
    if and_back {
        target.restart_as(etcd, NOTHING_TO_THE_DB).await?;
        assert_eq!(content(&target).await?, before, "what we left is what etcd {release} found");
        write(&target, "by etcd again").await?;
        let before = content(&target).await?;
        target.restart_as(Kind::Server, &[]).await?;
        assert_eq!(content(&target).await?, before, "and once more");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_goes_on_where_etcd_3_4_was_killed() {
    moves("swap::the_server_goes_on_where_etcd_3_4_was_killed", Release::V3_4, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_5_and_the_server_take_turns() {
    moves("swap::etcd_3_5_and_the_server_take_turns", Release::V3_5, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_7_and_the_server_take_turns() {
    moves("swap::etcd_3_7_and_the_server_take_turns", Release::V3_7, true).await.unwrap();
}
