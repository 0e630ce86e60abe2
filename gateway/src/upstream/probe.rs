//! Asks an endpoint how it is.
//!
//! `grpc.health.v1.Health/Check` says whether the member serves; `Maintenance/Status` whether it
//! knows a leader and whether it is a learner. Both are cheap on every release from 3.4 on.

use std::sync::Arc;

use bytes::Bytes;
use forebay_edge::{Body, grpc};
use forebay_proto::etcdserverpb::{StatusRequest, StatusResponse};
use prost::Message;
use tonic::{Code, Status};

use super::{
    connection::Connection,
    endpoint::{Health, Rank},
    exchange::exchange,
    forward::outbound,
    upload::Upload,
};
use crate::{
    layers::{LOOP, VIA},
    methods::{HEALTH_CHECK, Method, STATUS},
    replies,
};

/// Of `grpc.health.v1`, all that is asked for.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// What the endpoint says of itself, or that it says nothing (the caller bounds the time).
pub(super) async fn probe(connection: &Arc<Connection>, via: &http::HeaderValue) -> Health {
    let serving = match ask::<HealthCheckResponse>(connection, HEALTH_CHECK, &HealthCheckRequest {}, via).await {
        Ok(response) => response.status == SERVING,
        Err(status) if is_loop(&status) => return Health::of(Rank::Ourselves),
        // Not every etcd-compatible server has the service.
        Err(status) => status.code() != Code::Unavailable,
    };
    if !serving {
        return Health::of(Rank::Doubtful);
    }
    match ask::<StatusResponse>(connection, STATUS, &StatusRequest {}, via).await {
        Ok(status) => {
            let rank = match (status.is_learner, status.leader) {
                (true, _) => Rank::Doubtful,
                (false, 0) => Rank::Leaderless,
                (false, _) => Rank::Good,
            };
            Health { rank, status: Some(Arc::new(status)) }
        }
        Err(status) if is_loop(&status) => Health::of(Rank::Ourselves),
        Err(status) if status.code() == Code::Unavailable => Health::of(Rank::Doubtful),
        // It answers; that it does not tell us more (auth, say) is no reason to avoid it.
        Err(_) => Health::of(Rank::Good),
    }
}

fn is_loop(status: &Status) -> bool {
    status.message() == LOOP
}

async fn ask<M: Message + Default>(
    connection: &Arc<Connection>,
    path: &'static str,
    message: &impl Message,
    via: &http::HeaderValue,
) -> Result<M, Status> {
    let method = Method::find(path);
    let mut request = http::Request::post(path).body(()).expect("a method's path is a URI");
    let headers = request.headers_mut();
    headers.insert(VIA, via.clone());
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    let head = outbound(&request.into_parts().0, &connection.address, None);
    let upload = Upload::new(method, Body::full(grpc::encode(message)), usize::MAX >> 1);
    let response = exchange(connection, method, head, upload).await;
    let response = response.map_err(|(end, _)| Status::unavailable(format!("{end:?}")))?;
    let answered = replies::unary(response).await.map_err(|failure| Status::unavailable(failure.to_string()))?;
    match answered {
        Ok((message, _)) => decode(message),
        Err(trailers) => Err(replies::status(&trailers)),
    }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::internal(error.to_string()))
}
