//! Requests at which a member of etcd panics.
//!
//! An alarm of an action that is no action ends etcd 3.4 to 3.7: one request, of somebody who may or while auth is off of
//! anybody, for each member that there is. It is refused here.

use forebay_edge::{Body, grpc};
use forebay_proto::etcdserverpb::{AlarmRequest, alarm_request::AlarmAction};
use prost::Message as _;
use tonic::Status;

use crate::{
    call::{Call, Failure},
    methods::Method,
};

const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";

/// Whether calls of a method are to be [judged](judged).
pub(super) fn may_be(method: &Method) -> bool {
    method.path == ALARM
}

/// Reads the request and hands the call back, unless it is deadly.
pub(super) async fn judged(call: Call, message_bytes_max: usize) -> Result<Call, Failure> {
    let (head, message) = grpc::unary_bytes(*call.request, message_bytes_max).await?;
    let action = AlarmRequest::decode(message.clone()).map_err(grpc::malformed)?.action;
    if AlarmAction::try_from(action).is_err() {
        return Err(Status::invalid_argument(format!("unknown alarm action {action}")).into());
    }
    let mut frame = grpc::frame(message.len());
    frame.extend_from_slice(&message);
    let request = http::Request::from_parts(head, Body::full(frame.freeze()));
    Ok(Call { request: Box::new(request), ..call })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    /// What becomes of a request: its message as it goes on, or the refusal.
    async fn sent(message: Vec<u8>) -> Result<Vec<u8>, String> {
        let mut frame = grpc::frame(message.len());
        frame.extend_from_slice(&message);
        let request = Box::new(http::Request::new(Body::full(frame.freeze())));
        let method = Method::find(ALARM);
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
            assert_eq!(sent(alarm(action)).await, Ok(alarm(action)));
        }
        for action in [3, -1, i32::MAX] {
            assert_eq!(sent(alarm(action)).await, Err(format!("unknown alarm action {action}")));
        }
    }

    #[test]
    fn the_method_is_one_of_the_table() {
        assert_eq!(Method::find(ALARM).path, ALARM);
    }
}
