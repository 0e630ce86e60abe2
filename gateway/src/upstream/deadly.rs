//! Requests at which a member of etcd panics, refused here with what one of ours, or a later etcd, answers.
//!
//! Each ends a member by itself, of somebody who may or while auth is off of anybody; what was proposed already ends every
//! member, again at every start. `conformance::malformed` is how they were found.

use bytes::Bytes;
use forebay_edge::{Body, grpc};
use forebay_keyspace::check;
use forebay_proto::{
    Error, decode_txn,
    etcdserverpb::{
        AlarmRequest, AlarmType, AuthRoleGrantPermissionRequest, RangeRequest, RequestOp, TxnRequest,
        alarm_request::AlarmAction, range_request::SortTarget, request_op,
    },
};
use http::Uri;
use prost::{Message as _, encoding::decode_varint};
use tonic::Status;

use crate::{
    call::{Call, Failure},
    intake::{self, Intake},
    methods::Method,
};

const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";
const GRANT: &str = "/etcdserverpb.Auth/RoleGrantPermission";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const USER_LIST: &str = "/etcdserverpb.Auth/UserList";

/// Whether calls of a method are to be [judged](judged).
pub(super) fn may_be(method: &Method) -> bool {
    matches!(method.path, ALARM | GRANT | RANGE | TXN)
}

/// What is to become of a call.
pub(super) enum Judged {
    /// It goes on as it was.
    Harmless(Call),
    /// It is answered with this, if its caller may do what the call in its place is about, which does nothing.
    Refused(Call, Status),
}

/// Reads the request. What is cut off, compressed or too long, an etcd refuses.
pub(super) async fn judged(call: Call, message_bytes_max: usize) -> Result<Judged, Failure> {
    let (mut head, body) = call.request.into_parts();
    let Intake { message, body } = intake::read(body, message_bytes_max, async |_| Ok::<_, Failure>(())).await?;
    let verdict = message.map_or(Ok(()), |message| judge(call.method.path, message));
    match verdict {
        // etcd looks first whether the caller is root, as for a list of users.
        Err(status) if call.method.path == GRANT => {
            head.uri = Uri::from_static(USER_LIST);
            let request = Box::new(http::Request::from_parts(head, Body::full(grpc::framed(b""))));
            Ok(Judged::Refused(Call { method: Method::find(USER_LIST), request, ..call }, status))
        }
        Err(status) => Err(status.into()),
        Ok(()) => Ok(Judged::Harmless(Call { request: Box::new(http::Request::from_parts(head, body)), ..call })),
    }
}

fn judge(path: &str, message: Bytes) -> Result<(), Status> {
    let undecoded = |error: &dyn std::fmt::Display| match is_whole(&message) {
        // An etcd might still read it: names that are no UTF-8, what nests further, fields of another type.
        true => Err(grpc::malformed(error)),
        // Nobody can, and an etcd says so in its own words.
        false => Ok(()),
    };
    match path {
        ALARM => AlarmRequest::decode(&*message).map_or_else(|error| undecoded(&error), |request| alarm(&request)),
        GRANT => AuthRoleGrantPermissionRequest::decode(&*message)
            .map_or_else(|error| undecoded(&error), |request| grant(&request)),
        RANGE => {
            RangeRequest::decode(message.clone()).map_or_else(|error| undecoded(&error), |request| range(&request))
        }
        TXN => decode_txn(message.clone()).map_or_else(|error| undecoded(&error), |request| txn(&request)),
        _ => Ok(()),
    }
}

/// Whether the fields of a message end where it does, whatever is in them.
fn is_whole(mut message: &[u8]) -> bool {
    while !message.is_empty() {
        let skipped = match decode_varint(&mut message).map(|tag| tag & 7) {
            Ok(0) => decode_varint(&mut message).is_ok().then_some(0),
            Ok(1) => Some(8),
            Ok(2) => decode_varint(&mut message).ok(),
            // Where a group begins, and where it ends.
            Ok(3 | 4) => Some(0),
            Ok(5) => Some(4),
            Ok(_) | Err(_) => None,
        };
        let rest = skipped.and_then(|skipped| message.get(usize::try_from(skipped).ok()?..));
        let Some(rest) = rest else { return false };
        message = rest;
    }
    true
}

/// One of an action that is none ends etcd 3.4 to 3.7, and raising one of a kind that is none ends etcd 3.5.
fn alarm(request: &AlarmRequest) -> Result<(), Status> {
    match AlarmAction::try_from(request.action) {
        Err(_) => Err(Status::invalid_argument(format!("unknown alarm action {}", request.action))),
        Ok(AlarmAction::Activate) if AlarmType::try_from(request.alarm).is_err() => {
            Err(Status::invalid_argument(format!("unknown alarm type {}", request.alarm)))
        }
        Ok(_) => Ok(()),
    }
}

/// One without a permission ends etcd 3.4.
fn grant(request: &AuthRoleGrantPermissionRequest) -> Result<(), Status> {
    match request.perm {
        Some(_) => Ok(()),
        None => Err(Error::PermissionNotGiven.into()),
    }
}

/// One sorted by nothing that there is ends etcd 3.4.
fn range(request: &RangeRequest) -> Result<(), Status> {
    match is_sortable(request) {
        true => Ok(()),
        false => Ok(check::range(request)?),
    }
}

/// The same within a txn.
fn txn(request: &TxnRequest) -> Result<(), Status> {
    match ranges_are_sortable(request) {
        true => Ok(()),
        false => Ok(check::txn(request, usize::MAX)?),
    }
}

fn is_sortable(request: &RangeRequest) -> bool {
    SortTarget::try_from(request.sort_target).is_ok()
}

fn ranges_are_sortable(request: &TxnRequest) -> bool {
    let is_fine = |op: &RequestOp| match &op.request {
        Some(request_op::Request::RequestRange(range)) => is_sortable(range),
        Some(request_op::Request::RequestTxn(txn)) => ranges_are_sortable(txn),
        _ => true,
    };
    request.success.iter().chain(&request.failure).all(is_fine)
}

#[cfg(test)]
mod tests {
    use forebay_proto::authpb::Permission;
    use http_body_util::BodyExt as _;

    use super::*;

    /// What becomes of a request: its message as it goes on, or the refusal.
    async fn sent(path: &str, message: Vec<u8>) -> Result<Vec<u8>, String> {
        let request = Box::new(http::Request::new(Body::full(grpc::framed(&message))));
        let method = Method::find(path);
        assert!(method.path == path && may_be(method));
        match judged(Call { method, deadline: None, request }, 1 << 20).await {
            Ok(Judged::Refused(in_its_place, status)) => {
                assert_eq!((in_its_place.method.path, in_its_place.request.uri().path()), (USER_LIST, USER_LIST));
                Err(status.message().to_owned())
            }
            Ok(Judged::Harmless(call)) => {
                Ok(call.request.into_body().collect().await.expect("a whole body").to_bytes()[5..].to_vec())
            }
            Err(Failure::Refused(status)) => Err(status.message().to_owned()),
            Err(failure) => panic!("{failure}"),
        }
    }

    #[tokio::test]
    async fn what_ends_an_etcd_is_refused_and_all_else_goes_on_as_it_is() {
        let alarm = |action, alarm| AlarmRequest { action, member_id: 7, alarm }.encode_to_vec();
        for (action, kind) in [(0, 99), (1, 0), (1, 2), (2, 99)] {
            assert_eq!(sent(ALARM, alarm(action, kind)).await, Ok(alarm(action, kind)));
        }
        for odd in [3, -1, i32::MAX] {
            assert_eq!(sent(ALARM, alarm(odd, 1)).await, Err(format!("unknown alarm action {odd}")));
            assert_eq!(sent(ALARM, alarm(1, odd)).await, Err(format!("unknown alarm type {odd}")));
        }
        let grant = |perm| AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm }.encode_to_vec();
        let some = grant(Some(Permission::default()));
        assert_eq!(sent(GRANT, some.clone()).await, Ok(some));
        assert_eq!(sent(GRANT, grant(None)).await, Err("etcdserver: permission not given".to_owned()));
        assert_eq!(sent(GRANT, Vec::new()).await, Err("etcdserver: permission not given".to_owned()));
        let range = |sort_target| RangeRequest { key: "k".into(), sort_target, ..Default::default() };
        let op = |request| vec![RequestOp { request: Some(request) }];
        let inner = |sort_target| TxnRequest {
            failure: op(request_op::Request::RequestRange(range(sort_target))),
            ..Default::default()
        };
        let outer = |sort_target| TxnRequest {
            success: op(request_op::Request::RequestTxn(inner(sort_target))),
            ..Default::default()
        };
        // prost gives up here; etcd does not, and finds the action and the missing permission.
        let groups = [[0x9b, 0x06].repeat(101), [0x9c, 0x06].repeat(101)].concat();
        let refused = sent(ALARM, [alarm(99, 1), groups].concat()).await.unwrap_err();
        assert!(refused.starts_with("grpc: error unmarshalling request"), "{refused}");
        let refused = sent(GRANT, vec![0x0a, 1, 0xff]).await.unwrap_err();
        assert!(refused.starts_with("grpc: error unmarshalling request"), "{refused}");
        for cut in [&[0x0a, 5, 1][..], &[0x18, 0x80], &[0x19, 0, 0], &[0x0d, 0, 0, 0], &[0x0f], &[0xff; 11]] {
            assert_eq!(sent(RANGE, cut.to_vec()).await, Ok(cut.to_vec()), "nobody reads that");
        }
        let invalid = Err("etcdserver: invalid sort option".to_owned());
        for sort_target in [0, 4] {
            let (range, txn) = (range(sort_target).encode_to_vec(), outer(sort_target).encode_to_vec());
            assert_eq!(sent(RANGE, range.clone()).await, Ok(range));
            assert_eq!(sent(TXN, txn.clone()).await, Ok(txn));
        }
        for sort_target in [5, -1, i32::MAX] {
            assert_eq!(sent(RANGE, range(sort_target).encode_to_vec()).await, invalid);
            assert_eq!(sent(TXN, outer(sort_target).encode_to_vec()).await, invalid);
        }
    }
}
