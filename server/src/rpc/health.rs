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
    Ok(grpc::reply_message(&SERVING))
}

/// Tells the state, and once more when the member begins to stop.
pub(super) async fn watch(member: Member, request: Request) -> Result<Response, Status> {
    let (_, check) = grpc::unary::<HealthCheckRequest>(request, member.config().max_message_bytes()).await?;
    let first = if check.service.is_empty() { SERVING } else { SERVICE_UNKNOWN };
    let ending = stream::once(async move { member.draining().await })
        .map(move |()| if check.service.is_empty() { NOT_SERVING } else { SERVICE_UNKNOWN });
    let states: Pin<Box<dyn Stream<Item = HealthCheckResponse> + Send>> =
        Box::pin(stream::once(std::future::ready(first)).chain(ending));
    Ok(grpc::respond(Body::grpc_stream(states.map(|state| Ok(grpc::encode(&state))))))
}
