//! The corners of etcd's semantics that surprise, one test each. The rest is compared with a reference in
//! `tests/it/program.rs`.

use bytes::{Bytes, BytesMut};
use forebay_proto::{
    Error,
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
        compare::TargetUnion, request_op::Request, response_op,
    },
};
use prost::Message as _;

use super::*;
use crate::{CompactStep, Form, Keyspace, Reader, check};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put_op(key: &str, value: &str) -> RequestOp {
    let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

fn delete_op(key: &str, end: &str) -> RequestOp {
    let delete = DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: false };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

fn range_op(key: &str, revision: i64) -> RequestOp {
    let range = RangeRequest { key: bytes(key), revision, ..Default::default() };
    RequestOp { request: Some(Request::RequestRange(range)) }
}

fn txn_op(success: Vec<RequestOp>) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(of(success))) }
}

fn of(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

/// A store with these keys, one revision each, from 2 on.
fn store(keys: &[(&str, &str)]) -> Keyspace {
    let mut keyspace = Keyspace::new();
    for (key, value) in keys {
        keyspace.write().put(key.as_bytes(), value.as_bytes(), 0);
    }
    keyspace.publish();
    keyspace
}

fn run(keyspace: &mut Keyspace, request: &TxnRequest) -> Result<TxnResponse, Error> {
    assert_eq!(check::txn(request, 128), Ok(()));
    let result = txn(&mut keyspace.write(), &|_| false, request)?;
    keyspace.publish();
    let mut out = BytesMut::new();
    result.encode(&ResponseHeader::default(), &mut out);
    Ok(TxnResponse::decode(out).unwrap())
}

fn everything() -> RangeRequest {
    RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..Default::default() }
}

fn keys(reader: &Reader, request: &RangeRequest) -> Vec<String> {
    let result = reader.evaluate(|snapshot| range(snapshot, request)).unwrap();
    result.kvs.iter().map(|version| String::from_utf8_lossy(version.key()).into_owned()).collect()
}

/// The revision in the header of each answer, in order, nested ones inline.
fn revisions(response: &TxnResponse) -> Vec<i64> {
    let mut revisions = vec![response.header.as_ref().unwrap().revision];
    for op in &response.responses {
        match op.response.as_ref().unwrap() {
            response_op::Response::ResponseRange(range) => revisions.push(range.header.unwrap().revision),
            response_op::Response::ResponsePut(put) => revisions.push(put.header.unwrap().revision),
            response_op::Response::ResponseDeleteRange(delete) => revisions.push(delete.header.unwrap().revision),
            response_op::Response::ResponseTxn(txn) => revisions.extend(self::revisions(txn)),
        }
    }
    revisions
}

#[test]
fn without_an_order_a_limit_cuts_by_key_before_the_target_sorts() {
    let keyspace = store(&[("c", "1"), ("a", "3"), ("b", "2"), ("d", "0")]);
    let by_value = RangeRequest { sort_target: 4, limit: 2, ..everything() };
    // a, b and c are read, one more than asked for; sorted by value they are c, b, a.
    assert_eq!(keys(&keyspace.reader(), &by_value), ["c", "b"]);
    assert_eq!(keys(&keyspace.reader(), &RangeRequest { sort_order: 1, ..by_value }), ["d", "c"]);
}

#[test]
fn keys_only_tells_the_lease_only_when_it_sorts_by_value() {
    let mut keyspace = store(&[]);
    keyspace.write().put(b"key", b"value", 7);
    keyspace.publish();
    let form = |sort_target| {
        let request = RangeRequest { keys_only: true, sort_target, ..everything() };
        keyspace.reader().evaluate(|snapshot| range(snapshot, &request)).unwrap().form
    };
    assert_eq!((form(0), form(4)), (Form::KeyOnly, Form::WithoutValue));
}

#[test]
fn the_revisions_of_a_txn_step_up_at_its_first_change() {
    let mut keyspace = store(&[("a", "1")]);
    let ops = vec![
        range_op("a", 0),
        delete_op("b", ""),
        txn_op(vec![put_op("c", ""), range_op("c", 0)]),
        delete_op("b", ""),
        range_op("a", 1),
    ];
    assert_eq!(revisions(&run(&mut keyspace, &of(ops)).unwrap()), [3, 2, 2, 0, 3, 3, 3, 3]);
    let unchanged = run(&mut keyspace, &of(vec![delete_op("b", "")])).unwrap();
    assert_eq!(revisions(&unchanged), [3, 3], "what changes nothing makes no revision");
}

#[test]
fn a_txn_cannot_read_at_its_own_revision_and_is_refused_whole() {
    let mut keyspace = store(&[("a", "1")]);
    let too_late = of(vec![put_op("b", ""), range_op("b", 3)]);
    assert_eq!(run(&mut keyspace, &too_late), Err(Error::FutureRev));
    assert_eq!((keyspace.revision(), keys(&keyspace.reader(), &everything())), (2, vec!["a".to_owned()]));
    // Only the branch that is taken is looked at.
    let compare = vec![Compare { key: bytes("a"), ..Default::default() }];
    let untaken = TxnRequest { compare, ..too_late };
    assert!(!run(&mut keyspace, &untaken).unwrap().succeeded);
}

#[test]
fn ignore_value_does_not_see_what_the_txn_created() {
    let mut keyspace = store(&[]);
    let reusing = PutRequest { key: bytes("a"), ignore_value: true, ..Default::default() };
    let ops = vec![txn_op(vec![put_op("b", "")]), RequestOp { request: Some(Request::RequestPut(reusing)) }];
    assert_eq!(run(&mut keyspace, &of(ops)), Err(Error::KeyNotFound));
}

/// etcd 3.7.1 crashes on this txn.
#[test]
fn ignore_value_of_a_key_that_the_txn_deleted_is_the_value_before_the_txn() {
    let mut keyspace = store(&[("a", "before")]);
    let reusing = PutRequest { key: bytes("a"), ignore_value: true, ..Default::default() };
    // A deletion without an end is not seen to cover the put.
    let ops = vec![delete_op("a", "\0"), RequestOp { request: Some(Request::RequestPut(reusing)) }];
    run(&mut keyspace, &of(ops)).unwrap();
    let version = keyspace.snapshot().get(b"a", 3).unwrap();
    assert_eq!((version.value(), version.create_revision(), version.version()), (&b"before"[..], 3, 1));
}

/// etcd 3.7.1 removes the put from its db file here, and crashes when the key is read next.
#[test]
fn a_key_deleted_and_put_in_one_revision_survives_a_compaction_at_it() {
    let mut keyspace = store(&[("a", "1")]);
    run(&mut keyspace, &of(vec![delete_op("a", "\0"), put_op("a", "2")])).unwrap();
    let batch = &keyspace.reader().history(3, 1)[0];
    let events: Vec<_> =
        batch.since(3).iter().map(|change| (change.version.revision().sub, change.version.is_tombstone())).collect();
    assert_eq!(events, [(0, true), (1, false)]);
    keyspace.compact(3).unwrap();
    keyspace.publish();
    assert!(matches!(keyspace.compact_step(10), CompactStep::Finished(3, removed) if removed.len() == 1));
    assert_eq!(keyspace.snapshot().get(b"a", 3).unwrap().value(), b"2");
}

#[test]
fn a_key_deleted_put_and_deleted_again_in_one_revision_can_be_compacted_at_it() {
    let mut keyspace = store(&[("a", "1")]);
    run(&mut keyspace, &of(vec![delete_op("a", "\0"), put_op("a", "2"), delete_op("a", "\0")])).unwrap();
    keyspace.write().put(b"b", b"", 0);
    keyspace.publish();
    let mut compact = |revision| {
        keyspace.compact(revision).unwrap();
        keyspace.publish();
        match keyspace.compact_step(10) {
            CompactStep::Finished(_, removed) => {
                removed.into_iter().map(|(at, _)| (at.main, at.sub)).collect::<Vec<_>>()
            }
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(compact(3), [(2, 0), (3, 1)], "both tombstones stay, for a watch from there");
    assert_eq!(compact(4), [(3, 0), (3, 2)]);
}

#[test]
fn a_missing_key_is_zero_in_a_comparison_and_has_no_value_at_all() {
    let keyspace = store(&[]);
    let holds = |target_union, target, result| {
        let compare =
            vec![Compare { key: bytes("a"), target_union: Some(target_union), target, result, ..Default::default() }];
        keyspace
            .reader()
            .evaluate(|snapshot| txn_read(snapshot, &TxnRequest { compare: compare.clone(), ..of(vec![]) }))
            .unwrap()
            .succeeded
    };
    const EQUAL: i32 = 0;
    const NOT_EQUAL: i32 = 3;
    assert!(holds(TargetUnion::Version(0), 0, EQUAL) && holds(TargetUnion::Lease(0), 4, EQUAL));
    assert!(holds(TargetUnion::ModRevision(5), 2, NOT_EQUAL));
    for result in 0..=3 {
        assert!(!holds(TargetUnion::Value(Bytes::new()), 3, result), "whatever is asked of its value");
    }
}

#[test]
fn an_operation_that_says_nothing_is_answered_by_one_that_says_nothing() {
    let result = txn(&mut store(&[]).write(), &|_| false, &of(vec![RequestOp { request: None }])).unwrap();
    let mut out = BytesMut::new();
    result.encode(&ResponseHeader::default(), &mut out);
    assert_eq!(TxnResponse::decode(out).unwrap().responses, [Default::default()]);
}

#[test]
fn only_ranges_at_the_top_make_a_txn_a_read() {
    let serializable = |serializable| RequestOp {
        request: Some(Request::RequestRange(RangeRequest { serializable, ..Default::default() })),
    };
    let is = |success: Vec<RequestOp>, failure: Vec<RequestOp>| {
        let request = TxnRequest { success, failure, ..Default::default() };
        (is_read_only(&request), is_serializable(&request))
    };
    assert_eq!(is(vec![], vec![]), (true, true));
    assert_eq!(is(vec![serializable(true)], vec![serializable(true)]), (true, true));
    assert_eq!(is(vec![serializable(true)], vec![serializable(false)]), (true, false));
    assert_eq!(is(vec![serializable(true)], vec![put_op("a", "")]), (false, false));
    assert_eq!(is(vec![txn_op(vec![serializable(true)])], vec![]), (false, false));
}
