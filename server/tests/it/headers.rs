//! Response headers: who answers, and which revision it says.

use forebay_proto::etcdserverpb::{alarm_request::AlarmAction, request_op::Request as Op, response_op::Response, *};

use crate::support::{
    Node, alarm, all, compaction, delete, get, grant, op, put, watch_cancel, watch_create, watch_progress, watching,
    watching_all,
};

/// Checks who answered, and returns the revision.
#[track_caller]
fn revision(node: &Node, header: Option<ResponseHeader>) -> i64 {
    let header = header.expect("the answer has a header");
    assert_eq!(header.cluster_id, node.member.cluster_id());
    assert_eq!(header.member_id, node.member.id());
    assert!(header.raft_term > 0);
    header.revision
}

#[tokio::test]
async fn every_answer_says_who_gave_it_and_the_revision_it_left() {
    let node = Node::start().await;
    let at = |header| revision(&node, header);
    assert_eq!(at(node.range(get("a")).await.unwrap().header), 1);
    assert_eq!(at(node.put(put("a", "1")).await.unwrap().header), 2);
    assert_eq!(at(node.put(put("a", "1")).await.unwrap().header), 3, "the same value again is a new revision");
    assert_eq!(at(node.delete(delete("none")).await.unwrap().header), 3);
    assert_eq!(at(node.delete(delete("a")).await.unwrap().header), 4);
    let txn = all(vec![op(Op::RequestPut(put("b", "1"))), op(Op::RequestPut(put("c", "1")))]);
    assert_eq!(at(node.txn(txn).await.unwrap().header), 5);
    assert_eq!(at(node.txn(all(vec![op(Op::RequestDeleteRange(delete("none")))])).await.unwrap().header), 5);
    assert_eq!(at(node.txn(all(vec![])).await.unwrap().header), 5);
    assert_eq!(at(node.compact(compaction(3)).await.unwrap().header), 5);
    assert_eq!(at(node.grant(grant(7, 60)).await.unwrap().header), 5);
    assert_eq!(at(node.put(PutRequest { lease: 7, ..put("d", "1") }).await.unwrap().header), 6);
    let query = LeaseTimeToLiveRequest { id: 7, keys: true };
    assert_eq!(at(node.time_to_live(query).await.unwrap().header), 6);
    assert_eq!(at(node.leases(LeaseLeasesRequest {}).await.unwrap().header), 6);
    assert_eq!(at(node.revoke(LeaseRevokeRequest { id: 7 }).await.unwrap().header), 7);
    assert_eq!(at(node.status(StatusRequest {}).await.unwrap().header), 7);
    assert_eq!(at(node.hash(HashRequest {}).await.unwrap().header), 7);
    assert_eq!(at(node.hash_kv(HashKvRequest { revision: 0 }).await.unwrap().header), 7);
    let listed = node.alarm(alarm(AlarmAction::Get, 0, AlarmType::None)).await.unwrap();
    assert_eq!(at(listed.header), 7);
}

#[tokio::test]
async fn a_lease_without_keys_ends_without_a_revision() {
    let node = Node::start().await;
    node.grant(grant(7, 60)).await.unwrap();
    let revoked = node.revoke(LeaseRevokeRequest { id: 7 }).await.unwrap();
    assert_eq!(revision(&node, revoked.header), 1);
}

#[tokio::test]
async fn a_read_of_the_past_answers_with_the_present_revision() {
    let node = Node::start().await;
    for value in ["1", "2", "3"] {
        node.put(put("a", value)).await.unwrap();
    }
    let past = node.range(RangeRequest { revision: 2, ..get("a") }).await.unwrap();
    assert_eq!((revision(&node, past.header), &past.kvs[0].value[..]), (4, &b"1"[..]));
    let streamed = node.open("/etcdserverpb.KV/RangeStream").await;
    streamed.send(&RangeRequest { revision: 2, ..get("a") });
    let (chunks, _) = streamed.rest::<RangeStreamResponse>().await;
    let last = chunks.last().and_then(|chunk| chunk.range_response.clone()).expect("a chunk");
    assert_eq!((revision(&node, last.header), &last.kvs[0].value[..]), (4, &b"1"[..]));
}

#[tokio::test]
async fn the_members_are_listed_without_a_revision() {
    let node = Node::start().await;
    node.put(put("a", "1")).await.unwrap();
    for linearizable in [false, true] {
        let list = node.member_list(MemberListRequest { linearizable }).await.unwrap();
        assert_eq!(revision(&node, list.header), 0);
        let config = node.member.config();
        let [member] = &list.members[..] else { panic!("one member is listed: {list:?}") };
        assert_eq!((member.id, &member.name, member.is_learner), (node.member.id(), &config.name, false));
        assert_eq!(member.peer_ur_ls, config.advertise_peer_urls);
        assert_eq!(member.client_ur_ls, config.advertise_client_urls);
    }
}

#[tokio::test]
async fn a_defragmentation_and_a_snapshot_have_no_header() {
    let node = Node::start().await;
    assert_eq!(node.defragment(DefragmentRequest {}).await.unwrap().header, None);
    let snapshot = node.open("/etcdserverpb.Maintenance/Snapshot").await;
    snapshot.send(&SnapshotRequest {});
    let (parts, status) = snapshot.rest::<SnapshotResponse>().await;
    assert_eq!(status.code(), tonic::Code::Ok);
    assert!(parts.len() > 1 && parts.iter().all(|part| part.header.is_none()));
}

#[tokio::test]
async fn a_watch_says_the_revision_of_each_event_and_none_where_it_was_compacted() {
    let node = Node::start().await;
    for value in ["1", "2", "3"] {
        node.put(put("a", value)).await.unwrap();
    }
    node.compact(compaction(3)).await.unwrap();

    let mut watch = node.watch().await;
    watch.send(&watch_create(WatchCreateRequest { watch_id: 5, ..watching("a") }));
    let created: WatchResponse = watch.next().await.unwrap();
    assert_eq!((revision(&node, created.header), created.created, created.watch_id), (4, true, 5));
    node.put(put("a", "4")).await.unwrap();
    assert_eq!(revision(&node, watch.events().await.header), 5);
    node.put(put("b", "unseen")).await.unwrap();
    watch.send(&watch_progress());
    let progress: WatchResponse = watch.next().await.unwrap();
    assert_eq!((revision(&node, progress.header), progress.watch_id, progress.events.len()), (6, -1, 0));
    watch.send(&watch_cancel(5));
    let canceled: WatchResponse = watch.next().await.unwrap();
    assert_eq!((revision(&node, canceled.header), canceled.canceled, canceled.watch_id), (6, true, 5));

    let mut late = node.watcher(watching_all(2)).await;
    let canceled = late.events().await;
    assert_eq!((canceled.canceled, canceled.compact_revision), (true, 3));
    assert_eq!(revision(&node, canceled.header), 0);
}

#[tokio::test]
async fn a_renewal_has_the_present_revision() {
    let node = Node::start().await;
    node.grant(grant(7, 60)).await.unwrap();
    node.put(put("a", "1")).await.unwrap();
    let mut renewals = node.open("/etcdserverpb.Lease/LeaseKeepAlive").await;
    for id in [7, 8] {
        renewals.send(&LeaseKeepAliveRequest { id });
        let renewed: LeaseKeepAliveResponse = renewals.next().await.unwrap();
        assert_eq!((revision(&node, renewed.header), renewed.id), (2, id));
    }
}

#[tokio::test]
async fn inside_a_txn_headers_are_nothing_but_a_revision() {
    let node = Node::start().await;
    node.put(put("a", "1")).await.unwrap();
    let inner = all(vec![op(Op::RequestPut(put("b", "1"))), op(Op::RequestRange(get("b")))]);
    let txn = all(vec![
        op(Op::RequestRange(get("a"))),
        op(Op::RequestDeleteRange(delete("none"))),
        op(Op::RequestPut(put("c", "1"))),
        op(Op::RequestTxn(inner)),
        op(Op::RequestRange(get("c"))),
    ]);
    let answer = node.txn(txn).await.unwrap();
    assert_eq!(revision(&node, answer.header), 3);
    let header = |response: &ResponseOp| match response.response.clone().expect("every answer is set") {
        Response::ResponseRange(range) => range.header,
        Response::ResponsePut(put) => put.header,
        Response::ResponseDeleteRange(delete) => delete.header,
        Response::ResponseTxn(txn) => txn.header,
    };
    let bare = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
    // The revision before the txn, until something changed.
    let headers: Vec<_> = answer.responses.iter().map(header).collect();
    assert_eq!(headers, [bare(2), bare(2), bare(3), bare(0), bare(3)]);
    let Some(Response::ResponseTxn(inner)) = &answer.responses[3].response else { panic!("a nested txn's answer") };
    assert_eq!(inner.responses.iter().map(header).collect::<Vec<_>>(), [bare(3), bare(3)]);
}

#[tokio::test]
async fn the_term_grows_with_each_start_and_the_ids_stay() {
    let node = Node::start().await;
    let before = node.range(get("a")).await.unwrap().header.unwrap();
    let node = node.restart().await;
    let after = node.range(get("a")).await.unwrap().header.unwrap();
    assert_eq!((after.cluster_id, after.member_id), (before.cluster_id, before.member_id));
    assert!(after.raft_term > before.raft_term, "{after:?} {before:?}");
    let status = node.status(StatusRequest {}).await.unwrap();
    assert_eq!((status.raft_term, status.leader), (after.raft_term, after.member_id));
}
