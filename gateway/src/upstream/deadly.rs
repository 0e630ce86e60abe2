//! Requests at which a member of etcd panics.
//!
//! An alarm of an action that is no action ends etcd 3.4 to 3.7, a grant without a permission the older ones: one
//! request, of somebody who may or while auth is off of anybody, for each member that there is. They are refused here.

use forebay_edge::{Body, grpc};
use forebay_proto::{
    Error,
    etcdserverpb::{AlarmRequest, AuthRoleGrantPermissionRequest, alarm_request::AlarmAction},
};
use prost::Message as _;
use tonic::Status;

use crate::{
    call::{Call, Failure},
    methods::Method,
};

const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";
const GRANT: &str = "/etcdserverpb.Auth/RoleGrantPermission";

/// Whether calls of a method are to be [judged](judged).
pub(super) fn may_be(method: &Method) -> bool {
    matches!(method.path, ALARM | GRANT)
}

/// Reads the request and hands the call back, unless it is deadly.
pub(super) async fn judged(call: Call, message_bytes_max: usize) -> Result<Call, Failure> {
    let (head, message) = grpc::unary_bytes(*call.request, message_bytes_max).await?;
    match call.method.path {
        ALARM => {
            let action = AlarmRequest::decode(message.clone()).map_err(grpc::malformed)?.action;
            if AlarmAction::try_from(action).is_err() {
                return Err(Status::invalid_argument(format!("unknown alarm action {action}")).into());
            }
        }
        GRANT => {
            let grant = AuthRoleGrantPermissionRequest::decode(message.clone()).map_err(grpc::malformed)?;
            if grant.perm.is_none() {
                return Err(Status::from(Error::PermissionNotGiven).into());
            }
        }
        _ => {}
    }
    let mut frame = grpc::frame(message.len());
    frame.extend_from_slice(&message);
    let request = http::Request::from_parts(head, Body::full(frame.freeze()));
    Ok(Call { request: Box::new(request), ..call })
}

#[cfg(test)]
mod tests {
    use forebay_proto::authpb::Permission;
    use http_body_util::BodyExt as _;

    use super::*;

    /// What becomes of a request: its message as it goes on, or the refusal.
    async fn sent(path: &'static str, message: Vec<u8>) -> Result<Vec<u8>, String> {
        let mut frame = grpc::frame(message.len());
        frame.extend_from_slice(&message);
        let request = Box::new(http::Request::new(Body::full(frame.freeze())));
        let method = Method::find(path);
        assert!(may_be(method));
        match judged(Call { method, deadline: None, request }, 1 << 20).await {
            Ok(call) => Ok(call.request.into_body().collect().await.expect("a whole body").to_bytes()[5..].to_vec()),
            Err(Failure::Refused(status)) => Err(status.message().to_owned()),
            Err(failure) => panic!("{failure}"),
        }
    }

    #[tokio::test]
    async fn what_ends_an_etcd_is_refused_and_all_else_goes_on_as_it_is() {
        let alarm = |action| AlarmRequest { action, member_id: 7, alarm: 99 }.encode_to_vec();
        for action in [0, 1, 2] {
            assert_eq!(sent(ALARM, alarm(action)).await, Ok(alarm(action)));
        }
        for action in [3, -1, i32::MAX] {
            assert_eq!(sent(ALARM, alarm(action)).await, Err(format!("unknown alarm action {action}")));
        }
        let grant = |perm| AuthRoleGrantPermissionRequest { name: "r".into(), perm }.encode_to_vec();
        let unknown = grant(Some(Permission { perm_type: 77, ..Permission::default() }));
        assert_eq!(sent(GRANT, unknown.clone()).await, Ok(unknown));
        assert_eq!(sent(GRANT, grant(None)).await, Err("etcdserver: permission not given".to_owned()));
    }

    #[test]
    fn the_methods_are_those_of_the_table() {
        for path in [ALARM, GRANT] {
            assert_eq!(Method::find(path).path, path);
        }
    }
}
