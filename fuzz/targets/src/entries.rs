//! What raft entries hold.

use bytes::Bytes;
use forebay_proto::{
    TXN_DEPTH_MAX, decode_raft_request,
    etcdserverpb::{InternalRaftRequest, RequestOp, TxnRequest, request_op::Request},
};
use prost::Message as _;

use crate::input::Input;

/// What was read from an entry is read again from how it is written, and so it is however many txns it stands in.
///
/// Input: into how many more txns its txn is put; the rest is the entry.
pub fn raft_entries(data: &[u8]) {
    let mut input = Input::new(data);
    let depth = usize::from(input.byte());
    let Ok(request) = decode_raft_request(Bytes::copy_from_slice(input.rest())) else { return };
    assert_eq!(decode_raft_request(request.encode_to_vec().into()).ok().as_ref(), Some(&request));
    let Some(txn) = request.txn else { return };
    let own = levels(&txn);
    let wrap = |inner: TxnRequest, _| TxnRequest {
        success: vec![RequestOp { request: Some(Request::RequestTxn(inner)) }],
        ..TxnRequest::default()
    };
    let deep = InternalRaftRequest { txn: Some((0..depth).fold(txn, wrap)), ..InternalRaftRequest::default() };
    match decode_raft_request(deep.encode_to_vec().into()) {
        Ok(read) => assert_eq!(read, deep),
        Err(_) => assert!(depth + own > TXN_DEPTH_MAX, "{depth} and {own} levels are not too many"),
    }
}

/// How many txns are inside each other.
fn levels(txn: &TxnRequest) -> usize {
    let inner = txn.success.iter().chain(&txn.failure).filter_map(|op| match &op.request {
        Some(Request::RequestTxn(inner)) => Some(levels(inner)),
        _ => None,
    });
    1 + inner.max().unwrap_or(0)
}
