//! Leases: who lives how long, and what goes with them.

use std::time::{Duration, Instant};

use forebay_proto::{
    Error,
    etcdserverpb::*,
    mvccpb::{Event, event::EventType},
};

use crate::support::{
    Call, Node, bytes, compaction, delete, error, eventually, get, grant, leased, put, refusal, watching, watching_all,
};

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

fn revoke(id: i64) -> LeaseRevokeRequest {
    LeaseRevokeRequest { id }
}

fn query(id: i64) -> LeaseTimeToLiveRequest {
    LeaseTimeToLiveRequest { id, keys: true }
}

async fn keep_alive(call: &mut Call, id: i64) -> LeaseKeepAliveResponse {
    call.send(&LeaseKeepAliveRequest { id });
    call.next().await.expect("a renewal is answered")
}

/// The keys attached to a lease, ascending.
async fn keys(node: &Node, id: i64) -> Vec<bytes::Bytes> {
    let mut keys = node.time_to_live(query(id)).await.unwrap().keys;
    keys.sort();
    keys
}

/// The keys of deletions, which must hold nothing but key and revision.
fn deleted(events: &[Event], revision: i64) -> Vec<&[u8]> {
    let key = |event: &Event| {
        let kv = event.kv.as_ref().expect("an event has a key");
        assert_eq!((event.r#type(), kv.mod_revision), (EventType::Delete, revision));
        assert_eq!((kv.create_revision, kv.version, kv.lease, kv.value.len()), (0, 0, 0, 0));
        assert_eq!(event.prev_kv, None);
    };
    events.iter().for_each(key);
    events.iter().map(|event| &event.kv.as_ref().expect("checked above").key[..]).collect()
}

#[tokio::test]
async fn an_expired_lease_takes_its_keys_along_in_one_revision() {
    let node = Node::start().await;
    let mut watch = node.watcher(watching_all(0)).await;
    let begun = Instant::now();
    let granted = node.grant(grant(7, 1)).await.unwrap();
    assert_eq!((granted.id, granted.ttl), (7, 1));
    for key in ["b", "c", "a"] {
        node.put(leased(key, 7)).await.unwrap();
        watch.events().await;
    }
    node.put(put("stays", "1")).await.unwrap();
    watch.events().await;

    let expired = watch.events().await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "it ended after {:?}", begun.elapsed());
    assert_eq!(deleted(&expired.events, 6), [b"a", b"b", b"c"]);
    assert_eq!(node.everything().await.len(), 1);
    assert_eq!(node.time_to_live(query(7)).await.unwrap().ttl, -1);
    assert_eq!(node.revision().await, 6);
    assert_eq!(refusal(node.revoke(revoke(7)).await), error(Error::LeaseNotFound));
}

#[tokio::test]
async fn a_lease_lives_as_long_as_it_is_renewed_and_no_longer() {
    let node = Node::start().await;
    node.grant(grant(7, 1)).await.unwrap();
    node.put(leased("a", 7)).await.unwrap();
    let mut watch = node.watcher(watching("a")).await;
    let mut renewals = node.open(KEEP_ALIVE).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        let renewed = keep_alive(&mut renewals, 7).await;
        assert_eq!((renewed.id, renewed.ttl), (7, 1));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(node.range(get("a")).await.unwrap().count, 1);
    assert_eq!(deleted(&watch.events().await.events, 3), [b"a"]);
    // The stream goes on, and says that there is nothing to renew.
    assert_eq!(keep_alive(&mut renewals, 7).await.ttl, 0);
}

#[tokio::test]
async fn a_renewal_of_an_unknown_lease_answers_ttl_0_and_the_stream_goes_on() {
    let node = Node::start().await;
    node.grant(grant(7, 60)).await.unwrap();
    let mut renewals = node.open(KEEP_ALIVE).await;
    for (id, ttl) in [(8, 0), (7, 60), (0, 0), (-1, 0), (i64::MIN, 0), (i64::MAX, 0), (7, 60)] {
        let renewed = keep_alive(&mut renewals, id).await;
        assert_eq!((renewed.id, renewed.ttl), (id, ttl));
    }
    node.revoke(revoke(7)).await.unwrap();
    assert_eq!(keep_alive(&mut renewals, 7).await.ttl, 0);
    renewals.half_close();
    let (rest, status) = renewals.rest::<LeaseKeepAliveResponse>().await;
    assert_eq!((rest, status.code()), (vec![], tonic::Code::Ok));
}

#[tokio::test]
async fn a_revoked_lease_takes_its_keys_along_ascending() {
    let node = Node::start().await;
    node.grant(grant(7, 60)).await.unwrap();
    for key in ["c", "a", "b"] {
        node.put(leased(key, 7)).await.unwrap();
    }
    let mut watch = node.watcher(watching_all(0)).await;
    let revoked = node.revoke(revoke(7)).await.unwrap();
    assert_eq!(revoked.header.unwrap().revision, 5);
    assert_eq!(deleted(&watch.events().await.events, 5), [b"a", b"b", b"c"]);
    assert_eq!(refusal(node.put(leased("a", 7)).await), error(Error::LeaseNotFound));
    // The id is free again.
    node.grant(grant(7, 60)).await.unwrap();
    assert!(keys(&node, 7).await.is_empty());
}

#[tokio::test]
async fn a_key_belongs_to_the_lease_of_its_last_put() {
    let node = Node::start().await;
    node.grant(grant(7, 60)).await.unwrap();
    node.grant(grant(8, 60)).await.unwrap();
    for key in ["moved", "detached", "deleted", "kept", "ignored"] {
        node.put(leased(key, 7)).await.unwrap();
    }
    node.put(leased("moved", 8)).await.unwrap();
    node.put(put("detached", "1")).await.unwrap();
    node.delete(delete("deleted")).await.unwrap();
    node.put(put("deleted", "again, without a lease")).await.unwrap();
    node.put(PutRequest { ignore_lease: true, ..put("ignored", "2") }).await.unwrap();
    assert_eq!(keys(&node, 7).await, [bytes("ignored"), bytes("kept")]);
    assert_eq!(keys(&node, 8).await, [bytes("moved")]);

    node.revoke(revoke(7)).await.unwrap();
    let left: Vec<_> = node.everything().await.into_iter().map(|kv| kv.key).collect();
    assert_eq!(left, ["deleted", "detached", "moved"]);
}

#[tokio::test]
async fn a_ttl_is_raised_to_the_minimum_and_not_above_the_maximum() {
    // The minimum outlives an election: one and a half of its timeout.
    let node = Node::with(|config| config.election_timeout = Duration::from_millis(3000)).await;
    for (id, (asked, granted)) in
        [(i64::MIN, 5), (-1, 5), (0, 5), (4, 5), (5, 5), (6, 6), (9_000_000_000, 9_000_000_000)].into_iter().enumerate()
    {
        let id = id as i64 + 1;
        assert_eq!(node.grant(grant(id, asked)).await.unwrap().ttl, granted, "{asked}");
        let left = node.time_to_live(query(id)).await.unwrap();
        assert_eq!(left.granted_ttl, granted);
        assert!((granted - 1..=granted).contains(&left.ttl), "{left:?}");
    }
    for ttl in [9_000_000_001, i64::MAX] {
        assert_eq!(refusal(node.grant(grant(100, ttl)).await), error(Error::LeaseTtlTooLarge));
    }
    assert_eq!(node.time_to_live(query(100)).await.unwrap().ttl, -1, "what is refused is not granted");
}

#[tokio::test]
async fn a_grant_takes_any_free_id_and_picks_a_positive_one_for_0() {
    let node = Node::start().await;
    for id in [-1, i64::MIN, i64::MAX, 1] {
        assert_eq!(node.grant(grant(id, 60)).await.unwrap().id, id);
        assert_eq!(refusal(node.grant(grant(id, 60)).await), error(Error::LeaseExist));
        node.put(leased(&format!("of {id}"), id)).await.unwrap();
        assert_eq!(keys(&node, id).await.len(), 1);
    }
    let first = node.grant(grant(0, 60)).await.unwrap().id;
    let second = node.grant(grant(0, 60)).await.unwrap().id;
    assert!(first > 0 && second > 0 && first != second, "{first} {second}");
}

#[tokio::test]
async fn leases_are_listed_by_when_they_end() {
    let node = Node::start().await;
    for (id, ttl) in [(1, 500), (2, 100), (3, 900), (4, 300)] {
        node.grant(grant(id, ttl)).await.unwrap();
    }
    let listed = |answer: LeaseLeasesResponse| answer.leases.iter().map(|lease| lease.id).collect::<Vec<_>>();
    assert_eq!(listed(node.leases(LeaseLeasesRequest {}).await.unwrap()), [2, 4, 1, 3]);
    node.revoke(revoke(4)).await.unwrap();
    assert_eq!(listed(node.leases(LeaseLeasesRequest {}).await.unwrap()), [2, 1, 3]);
}

#[tokio::test]
async fn the_time_to_live_of_an_unknown_lease_is_minus_1() {
    let node = Node::start().await;
    let answer = node.time_to_live(query(7)).await.unwrap();
    assert_eq!((answer.id, answer.ttl, answer.granted_ttl, answer.keys.len()), (7, -1, 0, 0));
    node.grant(grant(7, 60)).await.unwrap();
    node.put(leased("a", 7)).await.unwrap();
    let without = node.time_to_live(LeaseTimeToLiveRequest { id: 7, keys: false }).await.unwrap();
    assert_eq!((without.granted_ttl, without.keys.len()), (60, 0), "keys come only when asked for");
}

#[tokio::test]
async fn a_lease_runs_anew_after_a_restart_and_still_ends() {
    let node = Node::start().await;
    node.grant(grant(7, 1)).await.unwrap();
    node.put(leased("a", 7)).await.unwrap();
    let node = node.restart().await;
    assert_eq!(keys(&node, 7).await, [bytes("a")]);
    eventually("the lease ends", async || node.range(get("a")).await.unwrap().count == 0).await;
    assert_eq!(node.time_to_live(query(7)).await.unwrap().ttl, -1);
}

#[tokio::test]
async fn a_compaction_detaches_nothing() {
    let node = Node::start().await;
    node.grant(grant(7, 60)).await.unwrap();
    for _ in 0..3 {
        node.put(leased("a", 7)).await.unwrap();
    }
    node.compact(compaction(4)).await.unwrap();
    let node = node.restart().await;
    assert_eq!(keys(&node, 7).await, [bytes("a")]);
    node.revoke(revoke(7)).await.unwrap();
    assert!(node.everything().await.is_empty());
}
