//! What a request of the log writes.

use forebay_policies::quota::{Branch, Writes};
use forebay_proto::etcdserverpb::{InternalRaftRequest, RequestOp, TxnRequest, request_op::Request};

use super::View;

/// The writes of a request; none of one that can only take away.
pub(super) fn of<'r>(request: &'r InternalRaftRequest, view: &View<'_>) -> Writes<'r> {
    if let Some(put) = &request.put {
        return Writes::of_put(put);
    }
    let certain = &mut |txn: &TxnRequest| Branch::certain(txn, view.revision(), view);
    request.txn.as_ref().map_or_else(Writes::default, |txn| Writes::of_txn(txn, certain))
}

/// Every key that a request may put.
pub(super) fn keys(request: &InternalRaftRequest) -> impl Iterator<Item = &[u8]> {
    let put = request.put.iter().map(|put| &put.key[..]);
    let mut pending: Vec<&RequestOp> = request.txn.iter().flat_map(branches).collect();
    let puts = std::iter::from_fn(move || {
        loop {
            match pending.pop()?.request.as_ref() {
                Some(Request::RequestPut(put)) => return Some(&put.key[..]),
                Some(Request::RequestTxn(txn)) => pending.extend(branches(txn)),
                _ => {}
            }
        }
    });
    put.chain(puts)
}

fn branches(txn: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    txn.success.iter().chain(&txn.failure)
}
