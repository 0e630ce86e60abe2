//! Histories small enough to be written by hand, for what is decided between writes that nobody answered.

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
    request_op::Request::{RequestPut, RequestRange},
    response_op::Response::{ResponsePut, ResponseRange},
};
use forebay_proto::mvccpb::KeyValue;

use super::{
    super::{Answer, History, Kind, Operation, Outcome, Request, Time, check},
    kinds,
};

fn put(called: Time, key: &'static str, value: &'static str, answered: Option<(Time, i64)>) -> Operation {
    let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    let outcome = answered.map_or(Outcome::Unknown, |(at, revision)| {
        let header = Some(ResponseHeader { revision, ..Default::default() });
        Outcome::Answered { at, answer: Answer::Kv(ResponsePut(PutResponse { header, prev_kv: None })) }
    });
    Operation { called, request: Request::Kv(RequestPut(request)), outcome }
}

/// A read that found this value, with its revision and version, or nothing.
fn get(called: Time, at: Time, revision: i64, key: &'static str, found: Option<(&'static str, i64, i64)>) -> Operation {
    let request = RangeRequest { key: key.into(), ..Default::default() };
    let kvs: Vec<KeyValue> = found
        .map(|(value, mod_revision, version)| KeyValue {
            key: Bytes::from(key),
            value: Bytes::from(value),
            mod_revision,
            create_revision: mod_revision - version + 1,
            version,
            lease: 0,
        })
        .into_iter()
        .collect();
    let header = Some(ResponseHeader { revision, ..Default::default() });
    let count = i64::from(found.is_some());
    let answer = Answer::Kv(ResponseRange(RangeResponse { header, kvs, count, more: false }));
    Operation { called, request: Request::Kv(RequestRange(request)), outcome: Outcome::Answered { at, answer } }
}

fn history(operations: Vec<Operation>) -> History {
    History { operations, exclusive: true, ..History::default() }
}

#[test]
fn an_unanswered_write_may_happen_long_after_it_was_given_up() {
    let late = history(vec![
        put(1, "a", "x", None),
        put(2, "b", "y", Some((3, 1))),
        get(4, 5, 1, "a", None),
        get(6, 7, 2, "a", Some(("x", 2, 1))),
    ]);
    let report = check(&late);
    assert_eq!((report.violations.len(), report.placed), (0, 1), "{}", report.summary());
}

#[test]
fn an_unanswered_write_happens_once() {
    let twice = history(vec![
        put(1, "a", "x", None),
        get(2, 3, 1, "a", Some(("x", 1, 1))),
        get(4, 5, 2, "a", Some(("x", 2, 2))),
    ]);
    assert!(kinds(&twice).contains(&Kind::Unwritten));
}

#[test]
fn an_unanswered_write_does_not_happen_before_it_is_sent() {
    let early = history(vec![get(1, 2, 1, "a", Some(("x", 1, 1))), put(3, "a", "x", None)]);
    assert!(!kinds(&early).is_empty());
}

/// Revision 1 is seen by nobody: it could be either write, and only one of them lets the read at 2 find what it did.
#[test]
fn of_several_writes_the_one_is_found_with_which_everything_fits() {
    let [a, b] = [put(1, "a", "x", None), put(1, "b", "y", None)];
    for operations in [vec![a.clone(), b.clone()], vec![b, a]] {
        let mut operations = operations;
        operations.push(put(1, "c", "z", Some((2, 2))));
        operations.push(get(3, 4, 2, "b", Some(("y", 1, 1))));
        operations.push(get(3, 4, 2, "a", None));
        let report = check(&history(operations));
        assert_eq!((report.violations.len(), report.placed), (0, 1), "{}", report.summary());
    }
    // A write that is found missing only later is searched for further back.
    let operations = vec![
        put(1, "a", "x", None),
        put(1, "b", "y", None),
        put(1, "c", "z", Some((2, 2))),
        get(3, 4, 2, "b", None),
        get(3, 4, 2, "a", Some(("x", 1, 1))),
    ];
    assert_eq!(kinds(&history(operations)), []);
}

#[test]
fn a_revision_that_nobody_wrote_is_told_unless_others_write() {
    let gap = vec![put(1, "a", "x", Some((2, 2))), get(3, 4, 2, "a", Some(("x", 2, 1)))];
    assert_eq!(kinds(&history(gap.clone())), [Kind::Unwritten]);
    assert_eq!(kinds(&History { exclusive: false, ..history(gap) }), []);
}
