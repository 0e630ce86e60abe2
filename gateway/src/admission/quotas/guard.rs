//! A write inside a txn that is carried out only if no other gateway has written to the same budgets
//! since they were counted.
//!
//! The guard of a budget is a key without a value, which each such txn compares by its mod revision
//! and then writes. If it was overtaken, the txn says where things stand now, so that the next attempt
//! needs no look before it.

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_edge::grpc;
use forebay_proto::{
    KeyRange,
    etcdserverpb::{
        Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
        TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
};
use prost::{Message as _, encoding};

use super::{
    Found,
    budget::{Budget, Turn},
};
use crate::{
    admission::scan::{Value, next_field},
    methods::Method,
};

pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";

/// `TxnRequest.success`.
const SUCCESS: u32 = 2;
/// `RequestOp.request_put` and `RequestOp.request_txn`; `ResponseOp` has the same numbers.
const PUT_OP: u32 = 2;
const TXN_OP: u32 = 4;

/// The framed request that counts the objects of a budget.
pub(super) fn count(budget: &Budget) -> Bytes {
    grpc::encode(&count_of(&budget.range()))
}

fn count_of(range: &KeyRange) -> RangeRequest {
    let (key, range_end) = pair(range);
    RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() }
}

/// Reads the turn of a budget: the guard's mod revision and the count.
fn turn_of(budget: &Budget) -> [RequestOp; 2] {
    let guard = RangeRequest { key: budget.guard.clone(), keys_only: true, ..RangeRequest::default() };
    [guard, count_of(&budget.range())].map(|range| RequestOp { request: Some(Request::RequestRange(range)) })
}

fn pair(range: &KeyRange) -> (Bytes, Bytes) {
    match range {
        KeyRange::Key(key) => (key.clone(), Bytes::new()),
        KeyRange::Range(start, end) => (start.clone(), end.clone()),
        // etcd has no empty key, and takes none.
        KeyRange::From(start) if start.is_empty() => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        KeyRange::From(start) => (start.clone(), Bytes::from_static(b"\0")),
    }
}

/// The count in the answer to [`count`].
pub(super) fn counted(message: &Bytes) -> Option<u64> {
    u64::try_from(RangeResponse::decode(message.clone()).ok()?.count).ok()
}

/// The framed request that reads the turns of budgets, and which of some keys in each exist.
pub(super) fn look(asked: &[(&Budget, &[&Bytes])]) -> Bytes {
    let mut txn = TxnRequest::default();
    for (budget, keys) in asked {
        txn.success.extend(turn_of(budget));
        let existing = keys.iter().map(|key| count_of(&KeyRange::Key((*key).clone())));
        txn.success.extend(existing.map(|range| RequestOp { request: Some(Request::RequestRange(range)) }));
    }
    grpc::encode(&txn)
}

/// The answer to [`look`]; `keys` says how many were asked for in each budget.
pub(super) fn looked(message: &Bytes, keys: &[usize]) -> Option<Vec<Found>> {
    let txn = TxnResponse::decode(message.clone()).ok()?;
    let mut ranges = ranges(txn.responses)?.into_iter();
    let found = keys.iter().map(|keys| {
        let turn = next_turn(&mut ranges)?;
        let existing = ranges.by_ref().take(*keys).map(|range| range.count.cast_unsigned()).sum();
        Some(Found { turn, existing })
    });
    found.collect()
}

fn ranges(responses: Vec<ResponseOp>) -> Option<Vec<RangeResponse>> {
    let ranges = responses.into_iter().map(|ResponseOp { response }| match response? {
        Response::ResponseRange(range) => Some(range),
        _ => None,
    });
    ranges.collect()
}

fn next_turn(ranges: &mut impl Iterator<Item = RangeResponse>) -> Option<Turn> {
    let mod_revision = ranges.next()?.kvs.first().map_or(0, |guard| guard.mod_revision);
    Some(Turn { mod_revision, objects: ranges.next()?.count.cast_unsigned() })
}

/// The framed txn around a Put or a Txn, for budgets with the mod revisions that their guards must
/// have. The client's bytes stay as they are, fields of later releases included.
pub(super) fn wrap(method: &Method, message: &Bytes, turns: &[(&Budget, i64)]) -> Bytes {
    let op = if method.path == TXN { TXN_OP } else { PUT_OP };
    let mut inner = BytesMut::with_capacity(message.len() + 16);
    encoding::bytes::encode(op, message, &mut inner);
    let inner = inner.freeze();
    let mut guards = TxnRequest::default();
    for (budget, mod_revision) in turns {
        guards.compare.push(Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: budget.guard.clone(),
            target_union: Some(TargetUnion::ModRevision(*mod_revision)),
            ..Compare::default()
        });
        let put = PutRequest { key: budget.guard.clone(), ..PutRequest::default() };
        guards.success.push(RequestOp { request: Some(Request::RequestPut(put)) });
        guards.failure.extend(turn_of(budget));
    }
    // The client's operation comes first, so that its answer does.
    let mut outer = BytesMut::with_capacity(inner.len() + 256);
    encoding::bytes::encode(SUCCESS, &inner, &mut outer);
    guards.encode(&mut outer).expect("the buffer grows");
    grpc::framed(&outer)
}

/// What became of a guarded write.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// The answer to the write inside, and the revision after it.
    Written(Bytes, i64),
    /// Another was faster: where each budget stands now.
    Overtaken(Vec<Turn>),
}

/// Reads the answer to [`wrap`] of so many budgets.
pub(super) fn unwrap(method: &Method, message: &Bytes, budgets: usize) -> Option<Answer> {
    let (mut header, mut succeeded, mut first) = (Bytes::new(), false, None);
    each(message, |tag, value| match (tag, value) {
        (1, Value::Bytes(bytes)) => header = message.slice_ref(bytes),
        (2, Value::Varint(flag)) => succeeded = flag != 0,
        (3, Value::Bytes(bytes)) if first.is_none() => first = Some(message.slice_ref(bytes)),
        _ => {}
    })?;
    if !succeeded {
        let mut ranges = ranges(TxnResponse::decode(message.clone()).ok()?.responses)?.into_iter();
        return (0..budgets).map(|_| next_turn(&mut ranges)).collect::<Option<Vec<_>>>().map(Answer::Overtaken);
    }
    let op = if method.path == TXN { TXN_OP } else { PUT_OP };
    let response = first?;
    let mut inner = None;
    each(&response, |tag, value| match value {
        Value::Bytes(bytes) if tag == op => inner = Some(response.slice_ref(bytes)),
        _ => {}
    })?;
    let inner = inner?;
    let revision = ResponseHeader::decode(header.clone()).ok()?.revision;
    // The inner answer has no header of its own worth the name; all else is as it is.
    let mut answer = BytesMut::with_capacity(inner.len() + header.len() + 8);
    encoding::bytes::encode(1, &header, &mut answer);
    let mut rest = &inner[..];
    while !rest.is_empty() {
        let whole = rest;
        let (tag, _) = next_field(&mut rest)?;
        if tag != 1 {
            answer.put_slice(&whole[..whole.len() - rest.len()]);
        }
    }
    Some(Answer::Written(answer.freeze(), revision))
}

fn each<'a>(message: &'a [u8], mut visit: impl FnMut(u32, Value<'a>)) -> Option<()> {
    crate::admission::scan::fields(message, |tag, value| {
        visit(tag, value);
        Some(())
    })
}

#[cfg(test)]
mod tests {
    use forebay_edge::grpc::PREFIX;
    use forebay_proto::etcdserverpb::PutResponse;

    use super::*;

    #[test]
    fn a_put_goes_up_unchanged_behind_its_guard() {
        let put = PutRequest { key: "/q/a".into(), value: "v".into(), ..Default::default() };
        let budget = Budget::new("small", b"/q/", 10);
        let message = put.encode_to_vec().into();
        let frame = wrap(Method::find("/etcdserverpb.KV/Put"), &message, &[(&budget, 41)]);
        let txn = TxnRequest::decode(frame.slice(PREFIX..)).unwrap();
        let guard = PutRequest { key: "forebay/quota/small:/q/".into(), ..Default::default() };
        let puts = [put, guard].map(|put| RequestOp { request: Some(Request::RequestPut(put)) });
        assert_eq!(txn.success, puts);
        let [compare] = &txn.compare[..] else { panic!("{txn:?}") };
        assert_eq!((compare.result(), compare.target()), (CompareResult::Equal, CompareTarget::Mod));
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(41)));
        assert_eq!(txn.failure.len(), 2);
    }

    #[test]
    fn the_answer_is_the_inner_one_with_the_outer_header() {
        let header = ResponseHeader { cluster_id: 1, revision: 9, ..Default::default() };
        let op = |response| ResponseOp { response: Some(response) };
        let inner = TxnResponse {
            header: Some(ResponseHeader { revision: 9, ..Default::default() }),
            succeeded: true,
            responses: vec![op(Response::ResponsePut(PutResponse::default()))],
        };
        let outer = TxnResponse {
            header: Some(header),
            succeeded: true,
            responses: vec![
                op(Response::ResponseTxn(inner.clone())),
                op(Response::ResponsePut(PutResponse::default())),
            ],
        };
        let answer = unwrap(Method::find(TXN), &outer.encode_to_vec().into(), 1).unwrap();
        let Answer::Written(answer, 9) = answer else { panic!("{answer:?}") };
        assert_eq!(TxnResponse::decode(answer).unwrap(), TxnResponse { header: Some(header), ..inner });
        let counted = RangeResponse { count: 7, ..Default::default() };
        let responses = [RangeResponse::default(), counted].map(|range| op(Response::ResponseRange(range)));
        let overtaken = TxnResponse { header: Some(header), succeeded: false, responses: responses.into() };
        let answer = unwrap(Method::find(TXN), &overtaken.encode_to_vec().into(), 1).unwrap();
        assert_eq!(answer, Answer::Overtaken(vec![Turn { mod_revision: 0, objects: 7 }]));
    }
}
