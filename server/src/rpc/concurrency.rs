//! What Lock and Election have in common, in etcd the client's package `concurrency`: who waits for something puts a key
//! under its prefix, and whose key was created first has it.

use bytes::Bytes;
use forebay_proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
        WatchCreateRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request as Op,
        response_op::Response as Answer,
    },
    mvccpb::{KeyValue, event::EventType},
};
use tokio::runtime::Handle;
use tonic::Status;

use super::caller::Caller;

/// How long a lease lives that is granted because a request names none, in seconds.
const SESSION_TTL: i64 = 60;

/// The lease of a request, or one of its own.
pub(super) async fn session(caller: &Caller, lease: i64) -> Result<i64, Status> {
    match lease {
        0 => Ok(caller.grant(&LeaseGrantRequest { id: 0, ttl: SESSION_TTL }).await?.id),
        lease => Ok(lease),
    }
}

/// What all keys of those begin with who wait for `name`.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The end of the range of all keys under a prefix.
pub(super) fn end(prefix: &[u8]) -> Bytes {
    let name = prefix.strip_suffix(b"/").expect("a prefix ends in a slash");
    [name, b"0"].concat().into()
}

/// The key under which whoever has `lease` waits.
pub(super) fn key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The key under `prefix` that was created first.
pub(super) fn first(prefix: &Bytes) -> RangeRequest {
    by_creation(prefix, SortOrder::Ascend)
}

fn by_creation(prefix: &Bytes, order: SortOrder) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: end(prefix),
        limit: 1,
        sort_order: order as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// Whether a key has this create revision, 0 if it is not there.
pub(super) fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
    RequestOp { request: Some(Op::RequestPut(put)) }
}

pub(super) fn get(range: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Op::RequestRange(range)) }
}

/// Deletes a key that was created at this revision, and leaves any other.
pub(super) fn delete(key: &Bytes, created: i64) -> TxnRequest {
    let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
    let success = vec![RequestOp { request: Some(Op::RequestDeleteRange(delete)) }];
    TxnRequest { compare: vec![created_at(key, created)], success, failure: Vec::new() }
}

/// The first key that an operation of a txn found.
pub(super) fn found(answer: &TxnResponse, operation: usize) -> Option<&KeyValue> {
    match &answer.responses.get(operation)?.response {
        Some(Answer::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    }
}

/// When the key was created that a txn put if it was not there, and otherwise got, as its first operation.
pub(super) fn created(answer: &TxnResponse) -> i64 {
    match found(answer, 0) {
        Some(before) => before.create_revision,
        None => answer.header.map_or(0, |header| header.revision),
    }
}

/// Waits until there is no key under `prefix` that was created before `revision`.
pub(super) async fn wait_for_those_before(caller: &Caller, prefix: &Bytes, revision: i64) -> Result<(), Status> {
    let last = RangeRequest { max_create_revision: revision - 1, ..by_creation(prefix, SortOrder::Descend) };
    loop {
        let found = caller.range(&last).await?;
        let Some(predecessor) = found.kvs.into_iter().next() else { return Ok(()) };
        let start_revision = found.header.map_or(0, |header| header.revision);
        let create = WatchCreateRequest { key: predecessor.key, start_revision, ..Default::default() };
        let mut watcher = caller.watch(create).await;
        while !watcher.next().await?.events.iter().any(|event| event.r#type() == EventType::Delete) {}
    }
}

/// A key that somebody waits under. Dropped, it is deleted: whoever does not wait any more keeps nobody else waiting.
pub(super) struct Place {
    caller: Caller,
    pub(super) key: Bytes,
    /// The key's create revision.
    pub(super) created: i64,
    is_kept: bool,
    /// Where it is deleted from: a call may be dropped anywhere.
    runtime: Handle,
}

impl Place {
    pub(super) fn new(caller: &Caller, key: Bytes, created: i64) -> Place {
        Place { caller: caller.clone(), key, created, is_kept: false, runtime: Handle::current() }
    }

    /// Leaves the key where it is.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (caller, delete) = (self.caller.clone(), delete(&self.key, self.created));
        self.runtime.spawn(async move {
            if let Err(status) = caller.txn(&delete).await {
                // It goes with its lease.
                tracing::warn!(error = status.message(), "failed to delete the key of a caller who went away");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_stands_in_its_key_as_go_prints_it_in_hex() {
        for (lease, expected) in [(5, "p/5"), (0x7e, "p/7e"), (-1, "p/-1"), (i64::MIN, "p/-8000000000000000")] {
            assert_eq!(key(&prefix(b"p"), lease), expected);
        }
        assert_eq!((prefix(b""), end(&prefix(b"a"))), ("/".into(), "a0".into()));
    }
}
