//! What a write will add to the db file, estimated as etcd does, for the backend quota.

use forebay_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};

/// Bytes that a new version costs beside its key and value.
const VERSION_OVERHEAD: u64 = 256;

/// Bytes that a lease costs.
pub const LEASE_COST: u64 = 64;

/// Bytes that a put costs.
pub fn put(request: &PutRequest) -> u64 {
    VERSION_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
}

/// Bytes that the dearer branch of a txn costs, nested txns included. 0 means that it only reads
/// and deletes, whichever branch is taken.
pub fn txn(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(operation).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

fn operation(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestTxn(request)) => txn(request),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_txn_costs_its_dearer_branch_at_every_depth() {
        let put = |value: usize| RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: "k".into(),
                value: vec![0; value].into(),
                ..Default::default()
            })),
        };
        let inner = TxnRequest { success: vec![put(10)], failure: vec![put(20), put(30)], ..Default::default() };
        let nested = RequestOp { request: Some(Request::RequestTxn(inner)) };
        let outer = TxnRequest { success: vec![nested], failure: vec![put(100)], ..Default::default() };
        assert_eq!(txn(&outer), 2 * 257 + 50);
        assert_eq!(txn(&TxnRequest::default()), 0);
    }
}
