//! Which txns are refused for what they would write.

use std::collections::HashSet;

use bytes::Bytes;
use forebay_keyspace::check;
use forebay_proto::{
    Error, KeyRange, decode_txn,
    etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request},
};

use crate::input::Input;

/// More operations than this take the slow way too long.
const SLOW_OPS_MAX: usize = 200;

/// A txn is refused for the reason that checking every operation against every other finds.
///
/// Input: the most operations it may have, then whether the rest is an encoded txn; if it is not, see [`txn`].
pub fn txn_checks(data: &[u8]) {
    let mut input = Input::new(data);
    let max_ops = input.byte().into();
    let is_encoded = input.flag();
    let request = match is_encoded {
        true => decode_txn(Bytes::copy_from_slice(input.rest())).ok(),
        false => Some(txn(&mut input, 4)),
    };
    let Some(request) = request.filter(|request| ops(request) <= SLOW_OPS_MAX) else { return };
    let expected = operations(&request, max_ops)
        .and_then(|()| writes(&request.success))
        .and_then(|_| writes(&request.failure))
        .map(drop);
    assert_eq!(check::txn(&request, max_ops), expected, "{request:?}");
}

/// Takes a txn: how many compares, then the two branches, each as many operations as a byte says. An operation is a
/// byte for its kind and its key, or another txn while `depth` lasts.
fn txn(input: &mut Input<'_>, depth: u32) -> TxnRequest {
    let compare = (0..input.byte() % 4).map(|_| Compare { key: key(input), ..Default::default() }).collect();
    let mut branch = || (0..input.byte() % 8).map(|_| op(input, depth)).collect();
    let (success, failure) = (branch(), branch());
    TxnRequest { compare, success, failure }
}

fn op(input: &mut Input<'_>, depth: u32) -> RequestOp {
    let request = match input.byte() % 8 {
        0 => Request::RequestRange(forebay_proto::etcdserverpb::RangeRequest { key: key(input), ..Default::default() }),
        1..=3 => Request::RequestPut(PutRequest { key: key(input), ..Default::default() }),
        4 | 5 => {
            let (key, range_end) = (key(input), key(input));
            Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })
        }
        _ if depth > 0 => Request::RequestTxn(txn(input, depth - 1)),
        _ => return RequestOp { request: None },
    };
    RequestOp { request: Some(request) }
}

/// Few keys, so that they meet: none, one zero byte, or a letter, every other with a zero byte behind it.
fn key(input: &mut Input<'_>) -> Bytes {
    match input.byte() % 16 {
        0 => Bytes::new(),
        1 => Bytes::from_static(b"\0"),
        letter if letter % 2 == 0 => Bytes::from(vec![b'a' + letter / 2]),
        letter => Bytes::from(vec![b'a' + letter / 2, 0]),
    }
}

fn ops(txn: &TxnRequest) -> usize {
    let nested = txn.success.iter().chain(&txn.failure).map(|op| match &op.request {
        Some(Request::RequestTxn(txn)) => 1 + ops(txn),
        _ => 1,
    });
    nested.sum()
}

/// etcd's `checkTxnRequest`.
fn operations(txn: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    let longest = [txn.compare.len(), txn.success.len(), txn.failure.len()].into_iter().max().unwrap_or(0);
    if longest > max_ops {
        return Err(Error::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            None => return Err(Error::KeyNotFound),
            Some(Request::RequestRange(request)) => check::range(request)?,
            Some(Request::RequestPut(request)) => check::put(request)?,
            Some(Request::RequestDeleteRange(request)) => check::delete_range(request)?,
            Some(Request::RequestTxn(nested)) => operations(nested, max_ops - longest)?,
        }
    }
    Ok(())
}

/// The keys that a branch puts and the ranges that it deletes: etcd's `checkIntervals`, with lists for its trees.
type Writes = (HashSet<Bytes>, Vec<KeyRange>);

fn writes(ops: &[RequestOp]) -> Result<Writes, Error> {
    let (mut puts, mut deletes): Writes = Default::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            deletes.push(KeyRange::new(delete.key.clone(), delete.range_end.clone()));
        }
    }
    // A deletion without an end is a range that ends at the zero byte, and so is empty, in etcd's tree.
    deletes.retain(|range| !matches!(range, KeyRange::From(_)));
    let is_deleted = |deletes: &[KeyRange], key: &Bytes| deletes.iter().any(|range| range.contains(key));
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let (success, success_deletes) = writes(&nested.success)?;
        let (failure, failure_deletes) = writes(&nested.failure)?;
        let both: HashSet<Bytes> = success.union(&failure).cloned().collect();
        if both.iter().any(|key| puts.contains(key) || is_deleted(&deletes, key)) {
            return Err(Error::DuplicateKey);
        }
        puts.extend(both);
        deletes.extend(success_deletes.into_iter().chain(failure_deletes));
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if is_deleted(&deletes, &put.key) || !puts.insert(put.key.clone()) {
            return Err(Error::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}
