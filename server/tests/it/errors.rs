//! Every error of etcd's table that one member without auth can give, with its code and its text.

use std::collections::{BTreeMap, BTreeSet};

use forebay_proto::{
    Error,
    etcdserverpb::{alarm_request::AlarmAction, request_op::Request as Op, *},
};
use http::HeaderMap;
use tonic::{Code, Status};

use crate::support::{
    Node, alarm, all, bytes, compaction, delete, get, grant, leased, metadata, nested, op, put, refusal, watch_create,
    watching, watching_all,
};

/// etcd's table, from which the code is taken: the text is the key.
const TABLE: &str = include_str!("../../../proto/testdata/errors.txt");

/// What one member without auth has no occasion to say, and why.
const NOT_HERE: [(&str, &[Error]); 5] = [
    (
        "a cluster of several members gives these, see cluster.rs and conformance",
        &[
            Error::MemberExist,
            Error::PeerUrlExist,
            Error::MemberNotEnoughStarted,
            Error::MemberBadUrls,
            Error::MemberNotFound,
            Error::MemberNotLearner,
            Error::LearnerNotReady,
            Error::TooManyLearners,
            Error::ClusterIdMismatch,
            Error::NotSupportedForLearner,
            Error::BadLeaderTransferee,
            Error::WrongDowngradeVersionFormat,
            Error::InvalidDowngradeTargetVersion,
            Error::ClusterVersionUnavailable,
            Error::DowngradeInProcess,
            Error::NoInflightDowngrade,
            Error::NotCapable,
        ],
    ),
    (
        "auth is refused by name",
        &[
            Error::RootUserNotExist,
            Error::RootRoleNotExist,
            Error::UserAlreadyExist,
            Error::UserEmpty,
            Error::UserNotFound,
            Error::RoleAlreadyExist,
            Error::RoleNotFound,
            Error::RoleEmpty,
            Error::AuthFailed,
            Error::PermissionNotGiven,
            Error::PermissionDenied,
            Error::RoleNotGranted,
            Error::PermissionNotGranted,
            Error::AuthNotEnabled,
            Error::InvalidAuthToken,
            Error::InvalidAuthMgmt,
            Error::AuthOldRevision,
        ],
    ),
    (
        "the only voter leads from before it serves until it stops",
        &[
            Error::NoLeader,
            Error::NotLeader,
            Error::LeaderChanged,
            Error::TimeoutDueToLeaderFail,
            Error::TimeoutDueToConnectionLost,
            Error::Unhealthy,
        ],
    ),
    (
        "only a disk that stands still or an overload brings it about",
        &[Error::Timeout, Error::TimeoutWaitAppliedIndex, Error::TooManyRequests],
    ),
    ("etcd's client makes it itself", &[Error::WatchCanceled, Error::Canceled, Error::DeadlineExceeded]),
];

/// Which errors were asked for, and what was wrong with them.
#[derive(Default)]
struct Asked {
    seen: BTreeSet<&'static str>,
    wrong: Vec<String>,
}

impl Asked {
    fn note<T>(&mut self, what: &str, answer: Result<T, Status>, expected: Error) {
        let text = expected.message();
        self.seen.insert(text);
        let code = table()[text];
        match answer {
            Ok(_) => self.wrong.push(format!("{what}: accepted instead of {text:?}")),
            Err(status) if status.code() == code && status.message() == text => {}
            Err(status) => {
                self.wrong.push(format!("{what}: {:?} {:?} instead of {text:?}", status.code(), status.message()));
            }
        }
    }
}

fn table() -> BTreeMap<&'static str, Code> {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| row.split_once(' ').expect("a code and a text"))
        .map(|(code, text)| (text, Code::from_i32(code.parse().expect("a number"))))
        .collect()
}

#[tokio::test]
async fn every_error_has_etcds_code_and_text() {
    let mut asked = Asked::default();
    requests(&mut asked).await;
    revisions(&mut asked).await;
    leases(&mut asked).await;
    txns(&mut asked).await;
    states(&mut asked).await;
    assert!(asked.wrong.is_empty(), "{:#?}", asked.wrong);

    let elsewhere: BTreeSet<_> = NOT_HERE.iter().flat_map(|(_, errors)| *errors).map(|error| error.message()).collect();
    let both: Vec<_> = asked.seen.intersection(&elsewhere).collect();
    assert!(both.is_empty(), "said not to occur, and yet asked for: {both:?}");
    let missing: Vec<_> =
        table().into_keys().filter(|text| !asked.seen.contains(text) && !elsewhere.contains(text)).collect();
    assert!(missing.is_empty(), "nothing asks for {missing:?}");
}

/// What is wrong with a request whatever the state.
async fn requests(asked: &mut Asked) {
    let node = Node::start().await;
    asked.note("range", node.range(get("")).await, Error::EmptyKey);
    let to_the_end = RangeRequest { range_end: bytes("z"), ..get("") };
    asked.note("range with an end alone", node.range(to_the_end).await, Error::EmptyKey);
    let stream = node.call::<RangeStreamResponse>("/etcdserverpb.KV/RangeStream", &get("")).await;
    asked.note("range stream", stream, Error::EmptyKey);
    asked.note("put", node.put(put("", "v")).await, Error::EmptyKey);
    asked.note("delete", node.delete(delete("")).await, Error::EmptyKey);

    for (order, target) in [(3, 0), (-1, 0), (0, 5), (i32::MIN, 0), (0, i32::MAX)] {
        let odd = || RangeRequest { sort_order: order, sort_target: target, ..get("a") };
        asked.note("range in an odd order", node.range(odd()).await, Error::InvalidSortOption);
        let stream = node.call::<RangeStreamResponse>("/etcdserverpb.KV/RangeStream", &odd()).await;
        asked.note("range stream in an odd order", stream, Error::InvalidSortOption);
        let txn = all(vec![op(Op::RequestRange(odd()))]);
        asked.note("range of a txn in an odd order", node.txn(txn).await, Error::InvalidSortOption);
    }

    let both = PutRequest { ignore_value: true, ..put("a", "v") };
    asked.note("put of a value to ignore", node.put(both).await, Error::ValueProvided);
    let both = PutRequest { ignore_lease: true, ..leased("a", 7) };
    asked.note("put of a lease to ignore", node.put(both).await, Error::LeaseProvided);
    let missing = PutRequest { ignore_value: true, ..put("missing", "") };
    asked.note("put that keeps no value", node.put(missing).await, Error::KeyNotFound);
    let missing = PutRequest { ignore_lease: true, ..put("missing", "v") };
    asked.note("put that keeps no lease", node.put(missing).await, Error::KeyNotFound);

    let large = PutRequest { value: vec![0; 1_572_864].into(), ..put("a", "") };
    asked.note("put", node.put(large.clone()).await, Error::RequestTooLarge);
    asked.note("txn", node.txn(all(vec![op(Op::RequestPut(large))])).await, Error::RequestTooLarge);
    let large = DeleteRangeRequest { key: vec![b'k'; 1_572_864].into(), ..Default::default() };
    asked.note("delete", node.delete(large).await, Error::RequestTooLarge);

    let odd = || metadata("client-api-version", b"3.7\xff");
    let answer = node.call_with::<RangeResponse>("/etcdserverpb.KV/Range", odd(), &get("a")).await;
    asked.note("range of an odd client", answer, Error::InvalidClientApiVersion);
    let mut watch = node.open_with("/etcdserverpb.Watch/Watch", odd()).await;
    asked.note("watch of an odd client", watch.next::<WatchResponse>().await, Error::InvalidClientApiVersion);
    assert_eq!(node.revision().await, 1, "what is refused changes nothing");
}

/// Revisions that are gone, or not there yet.
async fn revisions(asked: &mut Asked) {
    let node = Node::start().await;
    asked.note("compact before any", node.compact(compaction(-1)).await, Error::Compacted);
    for value in ["1", "2", "3", "4"] {
        node.put(put("a", value)).await.unwrap();
    }
    node.compact(compaction(4)).await.unwrap();
    for (revision, error) in
        [(1, Error::Compacted), (3, Error::Compacted), (6, Error::FutureRev), (i64::MAX, Error::FutureRev)]
    {
        let then = || RangeRequest { revision, ..get("a") };
        asked.note("range", node.range(then()).await, error);
        asked.note("serializable range", node.range(RangeRequest { serializable: true, ..then() }).await, error);
        asked.note("count", node.range(RangeRequest { count_only: true, ..then() }).await, error);
        let stream = node.call::<RangeStreamResponse>("/etcdserverpb.KV/RangeStream", &then()).await;
        asked.note("range stream", stream, error);
        asked.note("range of a txn", node.txn(all(vec![op(Op::RequestRange(then()))])).await, error);
        let beside_a_put = all(vec![op(Op::RequestPut(put("b", "1"))), op(Op::RequestRange(then()))]);
        asked.note("range of a txn that writes", node.txn(beside_a_put).await, error);
        asked.note("hash", node.hash_kv(HashKvRequest { revision }).await, error);
        asked.note("compact", node.compact(compaction(revision)).await, error);
    }
    for revision in [0, 4, -1, i64::MIN] {
        asked.note("compact again", node.compact(compaction(revision)).await, Error::Compacted);
    }
    assert_eq!(node.revision().await, 5, "what is refused changes nothing");
}

async fn leases(asked: &mut Asked) {
    let node = Node::start().await;
    asked.note("revoke", node.revoke(LeaseRevokeRequest { id: 7 }).await, Error::LeaseNotFound);
    asked.note("put", node.put(leased("a", 7)).await, Error::LeaseNotFound);
    let txn = all(vec![op(Op::RequestPut(leased("a", 7)))]);
    asked.note("put of a txn", node.txn(txn).await, Error::LeaseNotFound);
    node.grant(grant(7, 60)).await.unwrap();
    asked.note("grant", node.grant(grant(7, 60)).await, Error::LeaseExist);
    asked.note("grant", node.grant(grant(8, 9_000_000_001)).await, Error::LeaseTtlTooLarge);
    asked.note("grant of a known one", node.grant(grant(7, i64::MAX)).await, Error::LeaseTtlTooLarge);
}

async fn txns(asked: &mut Asked) {
    let node = Node::start().await;
    let puts = |key: &str| op(Op::RequestPut(put(key, "v")));
    let deletes =
        |key: &str, end: &str| op(Op::RequestDeleteRange(DeleteRangeRequest { range_end: bytes(end), ..delete(key) }));
    let failing = |failure| TxnRequest { failure, ..Default::default() };

    let many: Vec<_> = (0..129).map(|n| puts(&format!("k{n}"))).collect();
    asked.note("success of 129", node.txn(all(many.clone())).await, Error::TooManyOps);
    asked.note("failure of 129", node.txn(failing(many.clone())).await, Error::TooManyOps);
    let compare = vec![Compare { key: bytes("a"), ..Default::default() }; 129];
    asked.note("compare of 129", node.txn(TxnRequest { compare, ..Default::default() }).await, Error::TooManyOps);
    let one_below = nested(1, all(many[..128].to_vec()));
    asked.note("128 below one", node.txn(one_below).await, Error::TooManyOps);

    for (what, ops) in [
        ("two puts", vec![puts("a"), puts("a")]),
        ("put and delete", vec![puts("a"), deletes("a", "")]),
        ("delete and put", vec![deletes("0", "b"), puts("a")]),
        ("put and nested put", vec![puts("a"), op(Op::RequestTxn(failing(vec![puts("a")])))]),
        ("nested puts", vec![op(Op::RequestTxn(all(vec![puts("a")]))), op(Op::RequestTxn(all(vec![puts("a")])))]),
    ] {
        asked.note(what, node.txn(all(ops.clone())).await, Error::DuplicateKey);
        asked.note(what, node.txn(failing(ops)).await, Error::DuplicateKey);
    }

    let no_key = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
    asked.note("compare without a key", node.txn(no_key).await, Error::EmptyKey);
    for empty in [puts(""), op(Op::RequestRange(get(""))), deletes("", "z")] {
        asked.note("operation without a key", node.txn(all(vec![empty.clone()])).await, Error::EmptyKey);
        asked.note("the same below", node.txn(nested(2, failing(vec![empty]))).await, Error::EmptyKey);
    }
    asked.note("nothing asked", node.txn(all(vec![RequestOp { request: None }])).await, Error::KeyNotFound);
    asked.note(
        "nothing asked below",
        node.txn(nested(1, failing(vec![RequestOp::default()]))).await,
        Error::KeyNotFound,
    );
    let created = PutRequest { ignore_value: true, ..put("created", "") };
    asked.note(
        "a value to keep is missing",
        node.txn(all(vec![op(Op::RequestPut(created))])).await,
        Error::KeyNotFound,
    );
    assert_eq!(node.revision().await, 1, "what is refused changes nothing");
}

/// States of the whole member.
async fn states(asked: &mut Asked) {
    let node = Node::start().await;
    for (kind, error) in [(AlarmType::Nospace, Error::NoSpace), (AlarmType::Corrupt, Error::Corrupt)] {
        node.alarm(alarm(AlarmAction::Activate, 1, kind)).await.unwrap();
        asked.note("put", node.put(put("a", "v")).await, error);
        asked.note("grant", node.grant(grant(7, 60)).await, error);
        node.alarm(alarm(AlarmAction::Deactivate, 1, kind)).await.unwrap();
    }

    node.put(put("a", "v")).await.unwrap();
    let mut watch = node.watcher(watching("a")).await;
    let mut renewals = node.open("/etcdserverpb.Lease/LeaseKeepAlive").await;
    renewals.send(&LeaseKeepAliveRequest { id: 7 });
    renewals.next::<LeaseKeepAliveResponse>().await.unwrap();
    node.member.stop().await;
    asked.note("watch", watch.next::<WatchResponse>().await, Error::Stopped);
    asked.note("renewals", renewals.next::<LeaseKeepAliveResponse>().await, Error::Stopped);
    asked.note("put", node.put(put("a", "w")).await, Error::Stopped);
    asked.note("delete", node.delete(delete("a")).await, Error::Stopped);
    asked.note("compact", node.compact(compaction(1)).await, Error::Stopped);
    asked.note("grant", node.grant(grant(7, 60)).await, Error::Stopped);
    asked.note("range", node.range(get("a")).await, Error::Stopped);
    asked.note("alarm", node.alarm(alarm(AlarmAction::Get, 0, AlarmType::None)).await, Error::Stopped);
}

#[tokio::test]
async fn a_range_stream_refuses_what_it_cannot_do_in_its_own_words() {
    let node = Node::start().await;
    let path = "/etcdserverpb.KV/RangeStream";
    let descending = RangeRequest { sort_order: range_request::SortOrder::Descend as i32, ..get("a") };
    let refused = refusal(node.call::<RangeStreamResponse>(path, &descending).await);
    assert_eq!(refused, (Code::Unimplemented, "RangeStream does not support custom sort orders".to_owned()));
    let filtered = RangeRequest { min_mod_revision: 1, ..get("a") };
    let refused = refusal(node.call::<RangeStreamResponse>(path, &filtered).await);
    assert_eq!(refused, (Code::Unimplemented, "RangeStream does not support revision filters".to_owned()));
}

#[tokio::test]
async fn a_watch_refuses_within_its_stream() {
    let node = Node::start().await;
    for value in ["1", "2", "3"] {
        node.put(put("a", value)).await.unwrap();
    }
    node.compact(compaction(3)).await.unwrap();
    let mut watch = node.watcher(WatchCreateRequest { watch_id: 5, ..watching("a") }).await;

    let compacted = Error::Compacted.message();
    for (create, reason) in [
        (WatchCreateRequest { watch_id: 5, ..watching("b") }, "mvcc: duplicate watch ID provided on the WatchStream"),
        (WatchCreateRequest { range_end: bytes("a"), ..watching("a") }, "mvcc: watcher range is empty"),
        (WatchCreateRequest { range_end: bytes("A"), ..watching("a") }, "mvcc: watcher range is empty"),
        (WatchCreateRequest { start_revision: -1, ..watching("a") }, compacted),
        (WatchCreateRequest { start_revision: i64::MIN, ..watching("a") }, compacted),
    ] {
        watch.send(&watch_create(create));
        let refused: WatchResponse = watch.next().await.unwrap();
        assert!(refused.created && refused.canceled, "{refused:?}");
        assert_eq!((refused.watch_id, &refused.cancel_reason[..], refused.compact_revision), (-1, reason, 0));
    }
    // A start that is gone is told in a second message.
    watch.send(&watch_create(WatchCreateRequest { watch_id: 6, ..watching_all(2) }));
    let created: WatchResponse = watch.next().await.unwrap();
    assert_eq!((created.created, created.canceled, created.watch_id), (true, false, 6));
    let canceled: WatchResponse = watch.next().await.unwrap();
    assert_eq!((canceled.canceled, canceled.watch_id, canceled.compact_revision), (true, 6, 3));
    assert_eq!(canceled.cancel_reason, "");

    // The stream and its first watch go on.
    node.put(put("a", "4")).await.unwrap();
    assert_eq!(watch.events().await.watch_id, 5);
}

#[tokio::test]
async fn a_malformed_timeout_is_refused_where_one_is_looked_at() {
    let node = Node::start().await;
    for text in ["", "5", "S", "5s", "-1S", "123456789S"] {
        let timeout: HeaderMap = metadata("grpc-timeout", text.as_bytes());
        let answer = node.call_with::<PutResponse>("/etcdserverpb.KV/Put", timeout, &put("a", "v")).await;
        let (code, message) = refusal(answer);
        assert_eq!(code, Code::Internal, "{text:?}");
        assert!(message.starts_with("malformed grpc-timeout: "), "{message}");
    }
    let timeout = metadata("grpc-timeout", b"99999999H");
    node.call_with::<PutResponse>("/etcdserverpb.KV/Put", timeout, &put("a", "v")).await.unwrap();
}
