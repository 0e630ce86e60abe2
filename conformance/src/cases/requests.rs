//! Requests in few words.

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};

/// The end that means "every key from here".
pub const FROM: &str = "\0";

/// Puts one key.
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

/// Gets one key.
pub fn get(key: impl Into<Bytes>) -> RangeRequest {
    RangeRequest { key: key.into(), ..Default::default() }
}

/// Gets the keys from `key` up to `end`.
pub fn range(key: impl Into<Bytes>, end: impl Into<Bytes>) -> RangeRequest {
    RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

/// Gets every key.
pub fn all() -> RangeRequest {
    range(FROM, FROM)
}

/// Deletes one key.
pub fn del(key: impl Into<Bytes>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), ..Default::default() }
}

/// Deletes the keys from `key` up to `end`.
pub fn del_range(key: impl Into<Bytes>, end: impl Into<Bytes>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

/// A transaction.
pub fn txn(
    compare: impl Into<Vec<Compare>>,
    success: impl Into<Vec<RequestOp>>,
    failure: impl Into<Vec<RequestOp>>,
) -> TxnRequest {
    TxnRequest { compare: compare.into(), success: success.into(), failure: failure.into() }
}

/// A transaction without compares, so that `success` is what runs.
pub fn always(success: impl Into<Vec<RequestOp>>) -> TxnRequest {
    txn([], success, [])
}

/// What can stand inside a transaction.
pub trait Operation {
    /// The same as an operation.
    fn op(self) -> RequestOp;
}

impl Operation for RangeRequest {
    fn op(self) -> RequestOp {
        RequestOp { request: Some(Request::RequestRange(self)) }
    }
}

impl Operation for PutRequest {
    fn op(self) -> RequestOp {
        RequestOp { request: Some(Request::RequestPut(self)) }
    }
}

impl Operation for DeleteRangeRequest {
    fn op(self) -> RequestOp {
        RequestOp { request: Some(Request::RequestDeleteRange(self)) }
    }
}

impl Operation for TxnRequest {
    fn op(self) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(self)) }
    }
}

/// A compare of any target; the union decides which one, unless the caller changes `target`.
pub fn compare(key: impl Into<Bytes>, result: CompareResult, against: TargetUnion) -> Compare {
    let target = match against {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: Bytes::new(),
        target_union: Some(against),
    }
}

/// A watch of one key.
pub fn watch(key: impl Into<Bytes>) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), ..Default::default() }
}

/// A watch of the keys from `key` up to `end`.
pub fn watch_range(key: impl Into<Bytes>, end: impl Into<Bytes>) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

/// Grants a lease.
pub fn lease(id: i64, ttl: i64) -> LeaseGrantRequest {
    LeaseGrantRequest { id, ttl }
}

/// Revokes a lease.
pub fn revoke(id: i64) -> LeaseRevokeRequest {
    LeaseRevokeRequest { id }
}

/// Asks for a lease's time to live and its keys.
pub fn time_to_live(id: i64) -> LeaseTimeToLiveRequest {
    LeaseTimeToLiveRequest { id, keys: true }
}
