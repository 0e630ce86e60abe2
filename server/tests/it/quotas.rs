//! Quotas under prefixes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use forebay_policies::{Quota, file};
use forebay_proto::{
    etcdserverpb::{request_op::Request as Op, *},
    quotas::{HOLD, HoldRequest, HoldResponse},
};
use tonic::{Code, Status};

use crate::{
    cluster::Cluster,
    support::{Node, all, compaction, delete, eventually, get, grant, leased, op, put},
};

fn quotas(lines: &str) -> Vec<Quota> {
    let text = format!("apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n  quotas:\n{lines}");
    file::load(&text).unwrap_or_else(|problems| panic!("{problems:?}")).policy.quotas
}

fn objects(most: usize) -> Vec<Quota> {
    quotas(&format!("  - {{name: few, prefix: /q/, hard: {{objects: {most}}}}}\n"))
}

fn sized(key: &str, bytes: usize) -> PutRequest {
    PutRequest { value: Bytes::from(vec![b'v'; bytes - key.len()]), ..put(key, "") }
}

async fn count(node: &Node, prefix: &str) -> i64 {
    let end = format!("{}0", prefix.trim_end_matches('/'));
    let range = RangeRequest { range_end: end.into(), count_only: true, ..get(prefix) };
    node.range(range).await.unwrap().count
}

fn is_exceeded<T: std::fmt::Debug>(answer: Result<T, Status>) -> bool {
    match answer {
        Ok(_) => false,
        Err(status) => {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert!(status.message().starts_with("forebay: quota "), "{status:?}");
            true
        }
    }
}

/// Puts new keys through one member after another until the quota refuses; returns how many were acknowledged.
async fn fill(nodes: Arc<Vec<Node>>, writer: usize) -> usize {
    let mut acknowledged = 0;
    for n in 0.. {
        match nodes[(writer + n) % nodes.len()].put(put(&format!("/q/{writer}/{n}"), "v")).await {
            Ok(_) => acknowledged += 1,
            Err(status) if status.code() == Code::ResourceExhausted => break,
            // The leader changed: nobody knows.
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
    acknowledged
}

#[tokio::test]
async fn one_member_holds_exactly_what_it_may_and_lets_everything_else_pass() {
    let node = Node::start().await;
    node.member.hold_quotas("p", &objects(100)).await.unwrap();
    let nodes = Arc::new(vec![node]);
    let writers = (0..32).map(|writer| tokio::spawn(fill(nodes.clone(), writer)));
    let acknowledged: usize = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).sum();
    let node = &nodes[0];
    assert_eq!((acknowledged, count(node, "/q/").await), (100, 100));

    assert!(is_exceeded(node.put(put("/q/one-more", "")).await));
    let create = all(vec![op(Op::RequestPut(put("/q/one-more", "")))]);
    assert!(is_exceeded(node.txn(create).await));
    node.put(put("/elsewhere", "")).await.unwrap();
    node.put(put("/q/0/0", "a larger value")).await.unwrap();
    let swap = vec![op(Op::RequestDeleteRange(delete("/q/0/0"))), op(Op::RequestPut(put("/q/0/x", "")))];
    node.txn(all(swap)).await.unwrap();
    node.delete(delete("/q/0/x")).await.unwrap();
    node.grant(grant(7, 600)).await.unwrap();
    node.put(leased("/q/leased", 7)).await.unwrap();
    assert!(is_exceeded(node.put(put("/q/one-more", "")).await));
    node.revoke(LeaseRevokeRequest { id: 7 }).await.unwrap();
    node.put(put("/q/one-more", "")).await.unwrap();
    assert_eq!(count(node, "/q/").await, 100);
}

#[tokio::test]
async fn quotas_outlive_restarts_and_crashes_and_end_with_their_record() {
    let node = Node::start().await;
    node.member.hold_quotas("p", &objects(3)).await.unwrap();
    for n in 0..3 {
        node.put(put(&format!("/q/{n}"), "v")).await.unwrap();
    }
    let crashed = node.crashed().await;
    assert!(is_exceeded(crashed.put(put("/q/4", "")).await));
    crashed.delete(delete("/q/0")).await.unwrap();
    crashed.put(put("/q/4", "")).await.unwrap();
    let node = node.restart().await;
    assert!(is_exceeded(node.put(put("/q/4", "")).await));
    let revision = node.revision().await;
    node.member.hold_quotas("p", &objects(3)).await.unwrap();
    assert_eq!(node.revision().await, revision, "what is held already is not written again");
    node.member.hold_quotas("p", &[]).await.unwrap();
    node.put(put("/q/4", "")).await.unwrap();
}

#[tokio::test]
async fn bytes_and_revisions_are_counted() {
    let node = Node::start().await;
    // What is there before counts too.
    node.put(sized("/b/old", 60)).await.unwrap();
    node.put(sized("/u/old", 40)).await.unwrap();
    node.put(sized("/u/old", 10)).await.unwrap();
    let lines = "  - {name: bytes, prefix: /b/, hard: {bytes: 100, objectBytes: 70}}\n  \
                 - {name: revisions, prefix: /u/, hard: {uncompactedBytes: 100}}\n";
    node.member.hold_quotas("p", &quotas(lines)).await.unwrap();

    assert!(is_exceeded(node.put(sized("/b/new", 41)).await));
    assert!(is_exceeded(node.put(sized("/b/old", 71)).await));
    node.put(sized("/b/old", 70)).await.unwrap();
    node.put(sized("/b/new", 30)).await.unwrap();
    assert!(is_exceeded(node.put(sized("/b/old", 71)).await));
    node.put(sized("/b/old", 20)).await.unwrap();

    let last = node.put(sized("/u/old", 50)).await.unwrap().header.unwrap().revision;
    assert!(is_exceeded(node.put(sized("/u/old", 50)).await), "100 of 100 are used");
    let node = node.restart().await;
    assert!(is_exceeded(node.put(sized("/u/old", 50)).await), "counted again after a restart");
    node.compact(CompactionRequest { physical: true, ..compaction(last) }).await.unwrap();
    node.put(sized("/u/old", 50)).await.unwrap();
    let told: HoldResponse = node.call(HOLD, &HoldRequest::default()).await.unwrap();
    let usage = |name: &str| told.usage.iter().find(|usage| usage.quota == name).unwrap();
    assert_eq!((usage("bytes").objects, usage("bytes").bytes), (2, 50));
    assert_eq!((usage("revisions").bytes, usage("revisions").uncompacted_bytes), (50, 100));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_none() {
    let node = Node::start().await;
    node.put(put("forebay/quotas/p", "{\"quotas\": 1}")).await.unwrap();
    node.put(put("/q/1", "")).await.unwrap();
    let asked = |quotas: &'static str| HoldRequest { policy: "p".into(), quotas: quotas.into() };
    let refused = node.call::<HoldResponse>(HOLD, &asked("{\"quotas\":[{}]}")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let json = file::quotas_to_json(&objects(1));
    let asked = HoldRequest { policy: "p".into(), quotas: json.clone().into() };
    let told: HoldResponse = node.call(HOLD, &asked).await.unwrap();
    assert!(told.held && told.quotas == json);
    assert!(is_exceeded(node.put(put("/q/2", "")).await));
}

#[tokio::test]
async fn of_all_records_no_more_quotas_are_held_than_a_member_keeps() {
    let node = Node::start().await;
    for policy in ["a", "b"] {
        let line = |n| format!("  - {{name: {policy}{n}, prefix: /{policy}/{n:03}/, hard: {{objects: 1}}}}\n");
        node.member.hold_quotas(policy, &quotas(&(0..600).map(line).collect::<String>())).await.unwrap();
    }
    for (prefix, is_held) in [("/a/599/", true), ("/b/399/", true), ("/b/400/", false)] {
        node.put(put(&format!("{prefix}1"), "")).await.unwrap();
        assert_eq!(is_exceeded(node.put(put(&format!("{prefix}2"), "")).await), is_held, "{prefix}");
    }
}

#[tokio::test]
async fn a_quota_for_everything_can_be_raised() {
    let node = Node::start().await;
    let everything = |most: usize| quotas(&format!("  - {{name: all, prefix: \"\", hard: {{objects: {most}}}}}\n"));
    node.member.hold_quotas("p", &everything(2)).await.unwrap();
    node.put(put("a", "")).await.unwrap();
    assert!(is_exceeded(node.put(put("b", "")).await), "the record is an object too");
    node.member.hold_quotas("p", &everything(3)).await.unwrap();
    node.put(put("b", "")).await.unwrap();
}

/// Writers at all members, while the leader changes: those who lead hold together what one alone would.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_holds_exactly_what_it_may_whoever_leads() {
    let cluster = Cluster::start(3, |_| {}).await;
    cluster.nodes[0].member.hold_quotas("p", &objects(400)).await.unwrap();
    // A member that has not heard of a quota yet cannot ask for it.
    cluster.agree().await;
    let leader = cluster.leader().await;
    let ids: Vec<u64> = cluster.nodes.iter().map(|node| node.member.id()).collect();
    let nodes = Arc::new(cluster.nodes);
    let running = Arc::new(AtomicUsize::new(24));
    let writers = (0..24).map(|writer| {
        let (nodes, running) = (nodes.clone(), running.clone());
        tokio::spawn(async move {
            let acknowledged = fill(nodes, writer).await;
            running.fetch_sub(1, Ordering::Relaxed);
            acknowledged
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut at = leader;
    for _ in 0..4 {
        if running.load(Ordering::Relaxed) == 0 {
            break;
        }
        let next = (at + 1) % 3;
        let to = MoveLeaderRequest { target_id: ids[next] };
        let moving = nodes[at].call::<MoveLeaderResponse>("/etcdserverpb.Maintenance/MoveLeader", &to);
        // It fails if the leader has changed by itself, and raft gives it up if the other lags; then nobody is told.
        let _ = tokio::time::timeout(Duration::from_millis(500), moving).await;
        at = next;
    }
    let acknowledged: usize = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).sum();
    eventually("all members hold 400", async || {
        let mut counts = Vec::new();
        for node in nodes.iter() {
            counts.push(count(node, "/q/").await);
        }
        assert!(counts.iter().all(|count| *count <= 400), "{counts:?}");
        counts == [400; 3]
    })
    .await;
    assert!(acknowledged <= 400, "{acknowledged}");
}
