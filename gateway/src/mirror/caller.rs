//! The gateway's own calls to its upstream.

use std::time::Duration;

use bytes::Bytes;
use forebay_edge::{Body, Request, Response, grpc};
use forebay_proto::Error;
use http::{HeaderValue, header::CONTENT_TYPE};
use prost::Message;
use tokio::time::{self, Instant};
use tonic::Status;

use super::identity::Identity;
use crate::{
    call::{Call, Failure, Handler},
    methods::Method,
    replies::{self, Replies, Reply},
    upstream::Upstream,
};

/// Largest message that is read. A page and a fragment of a watch response are a few megabytes; one value is below the
/// upstream's own limit, which an operator may have raised.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// The release that has RangeStream.
const STREAMS_SINCE: (u32, u32, u32) = (3, 7, 0);

/// Calls the upstream as whoever it is told to be.
#[derive(Clone)]
pub(crate) struct Caller {
    upstream: Upstream,
}

impl Caller {
    pub(crate) fn new(upstream: Upstream) -> Caller {
        Caller { upstream }
    }

    /// The least version that a reachable member has, as `(major, minor, patch)`.
    pub(super) fn version(&self) -> Option<(u32, u32, u32)> {
        let pool = match &self.upstream {
            Upstream::Remote(pool) => pool,
            // It is this build's own member.
            Upstream::Local(_) => return Some((3, 7, 0)),
        };
        let health = pool.health().into_iter().filter_map(|(_, health)| health);
        let versions = health.filter_map(|health| health.status.as_ref().map(|status| version(&status.version)));
        versions.min()
    }

    /// Whether every member can stream a range.
    pub(super) fn can_stream_ranges(&self) -> bool {
        self.version().is_some_and(|version| version >= STREAMS_SINCE)
    }

    /// One request, one response, in bounded time.
    pub(crate) async fn unary<M: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
        identity: &Identity,
        timeout: Duration,
    ) -> Result<M, Status> {
        let deadline = Instant::now() + timeout;
        let answered = time::timeout_at(deadline, async {
            let mut replies = self.call(path, Body::full(grpc::encode(request)), identity, Some(deadline)).await?;
            let mut message = None;
            loop {
                match replies.next().await.map_err(unavailable)? {
                    Reply::Message(bytes) => message = Some(bytes),
                    Reply::End(trailers) => return message.ok_or_else(|| replies::status(&trailers)),
                }
            }
        })
        .await;
        let message: Bytes = answered.unwrap_or_else(|_| Err(Error::Timeout.into()))?;
        M::decode(message).map_err(|error| Status::internal(format!("the upstream's answer cannot be read: {error}")))
    }

    /// A request body, and the responses as they come.
    pub(super) async fn stream(&self, path: &'static str, body: Body, identity: &Identity) -> Result<Replies, Status> {
        self.call(path, body, identity, None).await
    }

    /// As [`Caller::stream`]; with `requires_leader` it ends when the upstream loses its leader.
    pub(super) async fn stream_as(
        &self,
        path: &'static str,
        body: Body,
        identity: &Identity,
        requires_leader: bool,
    ) -> Result<Replies, Status> {
        let mut request = request(path, body, identity);
        if requires_leader {
            request.headers_mut().insert(grpc::HAS_LEADER, HeaderValue::from_static("true"));
        }
        self.send(path, request, None).await
    }

    async fn call(
        &self,
        path: &'static str,
        body: Body,
        identity: &Identity,
        deadline: Option<Instant>,
    ) -> Result<Replies, Status> {
        self.send(path, request(path, body, identity), deadline).await
    }

    async fn send(&self, path: &'static str, request: Request, deadline: Option<Instant>) -> Result<Replies, Status> {
        let call = Call { method: Method::find(path), deadline, request: Box::new(request) };
        let response: Response = self.upstream.handle(call).await.map_err(unavailable)?;
        Ok(Replies::with_limit(response, MESSAGE_BYTES_MAX))
    }
}

fn request(path: &'static str, body: Body, identity: &Identity) -> Request {
    let mut request = http::Request::post(path).body(body).expect("a method's path is a URI");
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("user-agent", HeaderValue::from_static(USER_AGENT));
    identity.sign(request.headers_mut());
    request
}

/// How the gateway's own calls show in an upstream's logs.
const USER_AGENT: &str = concat!("forebay-gateway/", env!("CARGO_PKG_VERSION"));

fn unavailable(failure: Failure) -> Status {
    match failure {
        Failure::Refused(status) => status,
        failure => {
            tracing::debug!(%failure, "a call of the mirror failed");
            Error::TimeoutDueToConnectionLost.into()
        }
    }
}

fn version(text: &str) -> (u32, u32, u32) {
    let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}
