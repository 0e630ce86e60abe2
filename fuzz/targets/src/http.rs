//! What is not gRPC on a client port.

use std::sync::Arc;

use forebay_edge::{
    Api, Body, Request, Response, Service, grpc,
    http::{Front, Options, Probes, Versions},
};
use forebay_proto::etcdserverpb::AlarmType;
use futures::{FutureExt as _, future::BoxFuture};
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use prometheus::{Registry, proto::MetricFamily};
use serde::de::IgnoredAny;
use tonic::Status;

use crate::messages::Method;

/// Every request is answered, and what says it is JSON is JSON.
///
/// Input: a request as HTTP/1.1 has it, with bare line feeds and without a version: `POST /v3/kv/range`, header
/// fields, an empty line, the body.
pub fn http_request(data: &[u8]) {
    let Some(request) = parse(data) else { return };
    let is_stream =
        forebay_proto::json::Route::find(request.uri().path()).is_some_and(|route| route.server_streaming());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without I/O");
    runtime.block_on(async {
        let api = Api::new(Echo);
        let front = Front::new(api, Arc::new(Healthy), Options::default(), &Registry::new()).expect("a fresh registry");
        let (head, body) = front.client(request).await.into_parts();
        let body = body.collect().await.expect("an answer has no end but its own").to_bytes();
        if head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json") && !body.is_empty() {
            let separated = |byte: &u8| is_stream && *byte == b'\n';
            for value in body.split(separated).filter(|value| !value.is_empty()) {
                serde_json::from_slice::<IgnoredAny>(value).expect("an answer is JSON");
            }
        }
    });
}

fn parse(data: &[u8]) -> Option<Request> {
    let end = data.windows(2).position(|pair| pair == b"\n\n")?;
    let mut lines = data[..end].split(|byte| *byte == b'\n');
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let mut request = http::Request::builder().method(words.next()?).uri(words.next()?);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii_start());
    }
    request.body(Body::full(data[end + 2..].to_vec())).ok()
}

/// Answers each call with an empty message, once it has read all of its own.
struct Echo;

impl Service for Echo {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        async move {
            let method = Method::find(request.uri().path());
            let (parts, body) = request.into_parts();
            let mut messages = grpc::Messages::<()>::new(&parts.headers, body, 1 << 20);
            loop {
                match messages.next_bytes().await {
                    Ok(Some(message)) => {
                        assert!((method.request.canonical)(&message).is_some(), "what was transcoded is a message");
                    }
                    Ok(None) => return grpc::reply_message(&()),
                    Err(status) => return grpc::refuse(status),
                }
            }
        }
        .boxed()
    }
}

/// A member in good health.
struct Healthy;

impl Probes for Healthy {
    fn alarms(&self) -> Vec<AlarmType> {
        Vec::new()
    }

    fn has_leader(&self) -> bool {
        true
    }

    fn is_learner(&self) -> bool {
        false
    }

    fn auth_enabled(&self) -> bool {
        false
    }

    fn read(&self, _serializable: bool) -> BoxFuture<'_, Result<(), Status>> {
        std::future::ready(Ok(())).boxed()
    }

    fn versions(&self) -> Versions {
        Versions { server: "3.7.1".into(), cluster: None, storage: None }
    }

    fn metrics(&self) -> Vec<MetricFamily> {
        Vec::new()
    }
}
