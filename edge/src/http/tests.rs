//! The HTTP side over an API that is a few lines long.

mod access;
mod endpoints;
mod json;
mod streams;
mod websocket;

use std::sync::{Arc, Mutex};

use ::http::{HeaderMap, HeaderValue, StatusCode};
use forebay_proto::{
    etcdserverpb::{
        AlarmType, PutResponse, RangeRequest, RangeResponse, ResponseHeader, WatchRequest, WatchResponse,
        watch_request::RequestUnion,
    },
    mvccpb::KeyValue,
};
use futures::{FutureExt as _, future::BoxFuture};
use http_body_util::BodyExt as _;
use prometheus::{Registry, proto::MetricFamily};
use tonic::Status;

use super::*;
use crate::{Body, Service, grpc, listener::Memory, tls::Tls};

/// The length of a value that is counted.
const LONG: usize = 300 << 10;

fn long_message() -> bytes::Bytes {
    let kv = KeyValue { value: vec![b'v'; LONG].into(), ..Default::default() };
    // A LeaderResponse has its key where a RangeResponse has its first.
    grpc::encode(&RangeResponse { kvs: vec![kv], ..Default::default() })
}

/// Answers a range with its own key and limit, a put with the status that its value is, and each
/// watch with one response; notes the metadata of every call.
#[derive(Clone, Default)]
pub(super) struct Echo {
    calls: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Service for Echo {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let path = request.uri().path().to_owned();
        self.calls.lock().unwrap().push((path.clone(), request.headers().clone()));
        async move {
            match path.as_str() {
                "/etcdserverpb.KV/Range" => unary(request, range).await,
                "/etcdserverpb.KV/Put" => unary(request, put).await,
                "/etcdserverpb.Watch/Watch" => watch(request),
                "/etcdserverpb.Maintenance/Snapshot" => grpc::respond(Body::grpc_stream(futures::stream::iter([Err(
                    Status::permission_denied("etcdserver: permission denied"),
                )]))),
                "/etcdserverpb.KV/Compact" => std::future::pending().await,
                "/v3electionpb.Election/Leader" => {
                    let held = Memory::of(request.extensions()).try_hold(LONG);
                    held.map_or_else(|full| grpc::refuse(full.into()), |_kept| grpc::reply(long_message()))
                }
                "/v3electionpb.Election/Observe" => {
                    let held = Memory::of(request.extensions()).try_hold(LONG).expect("there is enough");
                    let message = held.is_counted().then(|| Ok(held.with(long_message())));
                    grpc::respond(Body::grpc_stream(futures::stream::iter(message)))
                }
                path => grpc::refuse(grpc::unknown_method(path)),
            }
        }
        .boxed()
    }
}

async fn unary<M, N>(request: Request, answer: fn(M) -> Result<N, Status>) -> Response
where
    M: prost::Message + Default,
    N: prost::Message,
{
    match grpc::unary(request, 1 << 20).await.and_then(|(_, message)| answer(message)) {
        Ok(message) => {
            let mut response = grpc::reply_message(&message);
            response.headers_mut().insert("x-served-by", HeaderValue::from_static("echo"));
            response
        }
        Err(status) => grpc::refuse(status),
    }
}

fn range(request: RangeRequest) -> Result<RangeResponse, Status> {
    if request.key.is_empty() {
        return Err(Status::invalid_argument("etcdserver: key is not provided"));
    }
    let kv = KeyValue { key: request.key, lease: request.limit, ..Default::default() };
    Ok(RangeResponse { kvs: vec![kv], count: 1, ..Default::default() })
}

fn put(request: forebay_proto::etcdserverpb::PutRequest) -> Result<PutResponse, Status> {
    let code: i32 = std::str::from_utf8(&request.value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    match tonic::Code::from_i32(code) {
        tonic::Code::Ok => Ok(PutResponse::default()),
        code => Err(Status::new(code, "a \"reason\"")),
    }
}

fn watch(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let messages = grpc::Messages::<WatchRequest>::new(&parts.headers, body, 1 << 20);
    let responses = futures::stream::unfold(messages, |mut messages| async move {
        let request = match messages.next().await {
            Err(status) => return Some((Err(status), messages)),
            Ok(None) => std::future::pending().await,
            Ok(Some(request)) => request,
        };
        let answer = match request.request_union {
            Some(RequestUnion::CancelRequest(_)) => return Some((Err(Status::aborted("cancelled")), messages)),
            Some(RequestUnion::CreateRequest(create)) => WatchResponse {
                header: Some(ResponseHeader { revision: create.start_revision, ..Default::default() }),
                created: true,
                ..Default::default()
            },
            _ => WatchResponse { watch_id: -1, ..Default::default() },
        };
        Some((Ok(grpc::encode(&answer)), messages))
    });
    grpc::respond(Body::grpc_stream(responses))
}

/// A member whose state is written down.
#[derive(Clone)]
pub(super) struct State {
    alarms: Vec<AlarmType>,
    leader: bool,
    learner: bool,
    auth: bool,
    linearizable: Result<(), Status>,
    registry: Registry,
}

impl Probes for State {
    fn alarms(&self) -> Vec<AlarmType> {
        self.alarms.clone()
    }

    fn has_leader(&self) -> bool {
        self.leader
    }

    fn is_learner(&self) -> bool {
        self.learner
    }

    fn auth_enabled(&self) -> bool {
        self.auth
    }

    fn read(&self, serializable: bool) -> BoxFuture<'_, Result<(), Status>> {
        let answer = if serializable { Ok(()) } else { self.linearizable.clone() };
        std::future::ready(answer).boxed()
    }

    fn versions(&self) -> Versions {
        Versions { server: "3.7.1".to_owned(), cluster: self.leader.then(|| "3.7.0".to_owned()), storage: None }
    }

    fn metrics(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    fn debug_vars(&self) -> Option<Vec<(&'static str, serde_json::Value)>> {
        self.leader.then(|| vec![("raft.status", serde_json::json!({"term": 2})), ("file_descriptor_limit", 7.into())])
    }
}

impl Default for State {
    fn default() -> State {
        State {
            alarms: Vec::new(),
            leader: true,
            learner: false,
            auth: false,
            linearizable: Ok(()),
            registry: Registry::new(),
        }
    }
}

fn front() -> (Front, Echo) {
    front_with(Options::default(), State::default())
}

fn front_with(options: Options, state: State) -> (Front, Echo) {
    let echo = Echo::default();
    let registry = state.registry.clone();
    let front = Front::new(Api::new(echo.clone()), Arc::new(state), options, &registry).expect("an empty registry");
    (front, echo)
}

fn post(path: &str, body: impl Into<bytes::Bytes>) -> Request {
    ::http::Request::post(path).header("host", "here:2379").body(Body::full(body)).unwrap()
}

fn get(path: &str) -> Request {
    ::http::Request::get(path).header("host", "here:2379").body(Body::empty()).unwrap()
}

fn with_header(mut request: Request, name: &'static str, value: &str) -> Request {
    request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    request
}

/// Status, header fields and body.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

async fn ask(front: &Front, request: Request) -> Answer {
    collect(front.client(request).await).await
}

async fn collect(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("bodies do not fail").to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}
