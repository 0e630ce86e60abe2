//! Lock and Election: who waits for whom, who is told, and what is left behind. That the answers are etcd's to the
//! byte is `conformance`'s to show.

use std::time::Duration;

use bytes::Bytes;
use forebay_proto::{etcdserverpb::LeaseRevokeRequest, v3electionpb::*, v3lockpb::*};
use prost::Message;
use tonic::{Code, Status};

use crate::support::{Call, Node, bytes, compaction, delete, eventually, grant, metadata, put, refusal};

const LOCK: &str = "/v3lockpb.Lock/Lock";
const CAMPAIGN: &str = "/v3electionpb.Election/Campaign";
const PROCLAIM: &str = "/v3electionpb.Election/Proclaim";

/// A node with leases 1 to `count`.
async fn with_leases(count: i64) -> Node {
    let node = Node::start().await;
    for id in 1..=count {
        node.grant(grant(id, 1000)).await.unwrap();
    }
    node
}

async fn begin(node: &Node, path: &str, request: &impl Message) -> Call {
    let mut call = node.open(path).await;
    call.send(request);
    call.half_close();
    call
}

fn lock(lease: i64) -> LockRequest {
    LockRequest { name: bytes("l"), lease }
}

fn campaign(lease: i64, value: &str) -> CampaignRequest {
    CampaignRequest { name: bytes("e"), lease, value: bytes(value) }
}

/// Begins to wait, and returns when it stands in line.
async fn waiting(node: &Node, path: &str, request: &impl Message) -> Call {
    let before = node.everything().await.len();
    let call = begin(node, path, request).await;
    eventually("one more waits", async || node.everything().await.len() == before + 1).await;
    call
}

async fn keys(node: &Node) -> Vec<Bytes> {
    node.everything().await.into_iter().map(|kv| kv.key).collect()
}

#[tokio::test]
async fn a_lock_goes_to_those_who_wait_in_the_order_in_which_they_came() {
    let node = with_leases(3).await;
    let first: LockResponse = node.call(LOCK, &lock(3)).await.unwrap();
    assert_eq!((&first.key[..], first.header.unwrap().revision), (&b"l/3"[..], 2));
    let mut second = waiting(&node, LOCK, &lock(1)).await;
    let mut third = waiting(&node, LOCK, &lock(2)).await;
    node.delete(delete("l/3")).await.unwrap();
    let got: LockResponse = second.next().await.unwrap();
    assert_eq!((&got.key[..], got.header.unwrap().revision), (&b"l/1"[..], 5));
    node.revoke(LeaseRevokeRequest { id: 1 }).await.unwrap();
    assert_eq!(third.next::<LockResponse>().await.unwrap().key, "l/2");
}

#[tokio::test]
async fn who_has_a_lock_gets_it_again_at_once() {
    let node = with_leases(1).await;
    let first: LockResponse = node.call(LOCK, &lock(1)).await.unwrap();
    let again: LockResponse = node.call(LOCK, &lock(1)).await.unwrap();
    assert_eq!((again.key, again.header), (first.key, first.header));
}

#[tokio::test]
async fn a_caller_who_goes_away_keeps_nobody_waiting() {
    for path in [LOCK, CAMPAIGN] {
        let node = with_leases(3).await;
        let request = |lease| match path {
            LOCK => lock(lease).encode_to_vec(),
            _ => campaign(lease, "v").encode_to_vec(),
        };
        let open = async |lease| {
            let mut call = node.open(path).await;
            let message = request(lease);
            call.send_bytes([&forebay_edge::grpc::prefix(message.len())[..], &message].concat().into());
            call.half_close();
            call
        };
        open(1).await.next_bytes().await.unwrap();
        let gone = open(2).await;
        eventually("the second waits", async || keys(&node).await.len() == 2).await;
        let mut third = open(3).await;
        eventually("the third waits", async || keys(&node).await.len() == 3).await;
        gone.abandon();
        eventually("the second's key goes", async || keys(&node).await.len() == 2).await;
        let first = keys(&node).await.remove(0);
        node.delete(delete(std::str::from_utf8(&first).unwrap())).await.unwrap();
        third.next_bytes().await.unwrap();
    }
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_takes_the_key_along() {
    let node = with_leases(2).await;
    node.call::<LockResponse>(LOCK, &lock(1)).await.unwrap();
    let waited = node.call_with::<LockResponse>(LOCK, metadata("grpc-timeout", b"100m"), &lock(2)).await;
    assert_eq!(refusal(waited), (Code::DeadlineExceeded, "context deadline exceeded".to_owned()));
    eventually("the key goes", async || keys(&node).await == ["l/1"]).await;
}

#[tokio::test]
async fn a_lock_whose_lease_ends_while_it_waits_is_not_taken() {
    let node = with_leases(2).await;
    node.call::<LockResponse>(LOCK, &lock(1)).await.unwrap();
    let mut second = waiting(&node, LOCK, &lock(2)).await;
    node.revoke(LeaseRevokeRequest { id: 2 }).await.unwrap();
    node.revoke(LeaseRevokeRequest { id: 1 }).await.unwrap();
    let answer = second.next::<LockResponse>().await;
    assert_eq!(refusal(answer), (Code::Unknown, "mutex: session is expired".to_owned()));
}

#[tokio::test]
async fn errors_of_the_steps_lose_their_codes_and_keep_their_texts() {
    let node = Node::start().await;
    let lost = (Code::Unknown, "etcdserver: requested lease not found".to_owned());
    assert_eq!(refusal(node.call::<LockResponse>(LOCK, &lock(404)).await), lost);
    assert_eq!(refusal(node.call::<CampaignResponse>(CAMPAIGN, &campaign(404, "v")).await), lost);
    let nameless: Result<UnlockResponse, Status> = node.call("/v3lockpb.Lock/Unlock", &UnlockRequest::default()).await;
    assert_eq!(refusal(nameless), (Code::Unknown, "etcdserver: key is not provided".to_owned()));
    assert_eq!(keys(&node).await, [""; 0]);
}

#[tokio::test]
async fn an_observer_is_told_of_each_leader_and_of_each_value() {
    let node = with_leases(2).await;
    let mut observer = begin(&node, "/v3electionpb.Election/Observe", &LeaderRequest { name: bytes("e") }).await;
    let first: CampaignResponse = node.call(CAMPAIGN, &campaign(1, "one")).await.unwrap();
    let told: LeaderResponse = observer.next().await.unwrap();
    assert_eq!((told.header, told.kv.unwrap().value), (first.header, bytes("one")));
    // Whoever only waits is no news.
    let mut second = waiting(&node, CAMPAIGN, &campaign(2, "two")).await;
    let proclaim = ProclaimRequest { leader: first.leader.clone(), value: bytes("uno") };
    let proclaimed: ProclaimResponse = node.call(PROCLAIM, &proclaim).await.unwrap();
    let told: LeaderResponse = observer.next().await.unwrap();
    assert_eq!((told.header, told.kv.unwrap().value), (proclaimed.header, bytes("uno")));
    let resign = ResignRequest { leader: first.leader };
    node.call::<ResignResponse>("/v3electionpb.Election/Resign", &resign).await.unwrap();
    let won: CampaignResponse = second.next().await.unwrap();
    let told: LeaderResponse = observer.next().await.unwrap();
    assert_eq!(
        (told.kv.as_ref().unwrap().create_revision, told.kv.unwrap().value),
        (won.leader.unwrap().rev, bytes("two"))
    );
    assert_eq!(refusal(node.call::<ProclaimResponse>(PROCLAIM, &proclaim).await).1, "election: not leader");
}

#[tokio::test]
async fn an_observer_hears_when_the_member_stops() {
    let node = with_leases(1).await;
    let mut observer = begin(&node, "/v3electionpb.Election/Observe", &LeaderRequest { name: bytes("e") }).await;
    node.call::<CampaignResponse>(CAMPAIGN, &campaign(1, "one")).await.unwrap();
    observer.next::<LeaderResponse>().await.unwrap();
    node.member.drain();
    assert_eq!(refusal(observer.next::<LeaderResponse>().await).0, Code::Unavailable);
}

#[tokio::test]
async fn a_wait_over_a_compaction_goes_on() {
    let node = with_leases(2).await;
    node.call::<LockResponse>(LOCK, &lock(1)).await.unwrap();
    let mut second = waiting(&node, LOCK, &lock(2)).await;
    for value in ["1", "2", "3"] {
        node.put(put("other", value)).await.unwrap();
    }
    node.compact(compaction(5)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    node.delete(delete("l/1")).await.unwrap();
    assert_eq!(second.next::<LockResponse>().await.unwrap().key, "l/2");
}
