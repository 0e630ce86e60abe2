//! The standard health service: the member as a whole, under the empty service name.

use std::pin::Pin;

use forebay_edge::{Body, Request, Response, grpc};
use futures::{Stream, StreamExt as _, stream};
use prost::Message;
use tonic::Status;

use crate::member::Member;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: HealthCheckResponse = HealthCheckResponse { status: 1 };
const NOT_SERVING: HealthCheckResponse = HealthCheckResponse { status: 2 };
const SERVICE_UNKNOWN: HealthCheckResponse = HealthCheckResponse { status: 3 };

pub(super) async fn check(member: Member, request: Request) -> Result<Response, Status> {
    let (_, check) = grpc::unary::<HealthCheckRequest>(request, member.config().max_message_bytes()).await?;
    if !check.service.is_empty() {
        return Err(Status::not_found("unknown service"));
    }
    Ok(grpc::reply_message(&state(*member.serving().borrow())))
}

fn state(serves: bool) -> HealthCheckResponse {
    if serves { SERVING } else { NOT_SERVING }
}

/// Tells the state, and again when it changes, until the member begins to stop.
pub(super) async fn watch(member: Member, request: Request) -> Result<Response, Status> {
    let (_, check) = grpc::unary::<HealthCheckRequest>(request, member.config().max_message_bytes()).await?;
    let mut serving = member.serving();
    serving.mark_changed();
    let states = stream::unfold(Some((member, serving)), move |watched| {
        let is_known = check.service.is_empty();
        async move {
            let (member, mut serving) = watched?;
            let goes_on = tokio::select! {
                changed = serving.changed() => changed.is_ok(),
                () = member.draining() => false,
            };
            let serves = goes_on && *serving.borrow_and_update();
            let now = if is_known { state(serves) } else { SERVICE_UNKNOWN };
            Some((now, goes_on.then_some((member, serving))))
        }
    });
    let states: Pin<Box<dyn Stream<Item = HealthCheckResponse> + Send>> = Box::pin(states);
    Ok(grpc::respond(Body::grpc_stream(states.map(|state| Ok(grpc::encode(&state))))))
}
