//! A member in this process, and gRPC calls on it that are built and read by hand: what a client would see on the wire,
//! without a socket in between.

use std::{
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes, BytesMut};
use forebay_edge::{
    Api, Body, Request, grpc,
    listener::{Drain, Limits, serve},
    tls::Tls,
};
use forebay_proto::{etcdserverpb::*, mvccpb::KeyValue};
use forebay_server::{Config, Member, PeerPorts, StartError, start_on};
use forebay_storage::disk::{Disk, OsDisk};
use futures::StreamExt as _;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prometheus::Registry;
use prost::Message;
use request_op::Request as Op;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

/// How long anything may take before a test fails instead of hanging.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A running member and the directory it lives in.
pub struct Node {
    pub member: Member,
    /// Where its metrics are.
    pub registry: Registry,
    api: Api,
    dir: Arc<TempDir>,
}

/// A member that was stopped, and can be started again.
pub struct Stopped {
    dir: Arc<TempDir>,
    config: Config,
}

impl Stopped {
    /// Starts it where it was reached before.
    pub async fn start(self) -> Node {
        let address = self.config.advertise_peer_urls[0].trim_start_matches("http://").to_owned();
        let deadline = Instant::now() + LIMIT;
        let listener = loop {
            match TcpListener::bind(&address) {
                Ok(listener) => break listener,
                // The port of the member before this one closes soon.
                Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        Node::reached(self.dir, self.config, Some(listener)).await
    }
}

impl Node {
    /// A new member.
    pub async fn start() -> Node {
        Node::with(|_| {}).await
    }

    /// A new member whose configuration `change` has seen.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Node {
        Node::on(Arc::new(new_dir()), change).await
    }

    /// A new member with its files on this disk.
    pub async fn on_disk(disk: Arc<dyn Disk>) -> Node {
        let node = Node::try_on_disk(Arc::new(new_dir()), disk, |_| {}).await;
        node.unwrap_or_else(|error| panic!("the member does not start: {error}"))
    }

    /// A member with its files under this name on this disk.
    pub async fn try_on_disk(
        dir: Arc<TempDir>,
        disk: Arc<dyn Disk>,
        change: impl FnOnce(&mut Config),
    ) -> Result<Node, StartError> {
        let config = configuration(&dir, change);
        let registry = Registry::new();
        let member = start_on(disk, config, PeerPorts::default(), &registry).await?;
        Ok(Node { api: member.api(), member, registry, dir })
    }

    /// A new member that others reach.
    pub async fn in_cluster(listener: TcpListener, change: impl FnOnce(&mut Config)) -> Node {
        let dir = Arc::new(new_dir());
        let config = configuration(&dir, change);
        Node::reached(dir, config, Some(listener)).await
    }

    /// The same with its files on this disk.
    pub async fn in_cluster_on(disk: Arc<dyn Disk>, listener: TcpListener, change: impl FnOnce(&mut Config)) -> Node {
        let dir = Arc::new(new_dir());
        if disk.is_simulated() {
            // A member makes its directories before it knows what its disk is.
            disk.create_dir_all(&dir.path().join("member/snap")).expect("the disk is empty");
        }
        let config = configuration(&dir, change);
        Node::reached_on(disk, dir, config, Some(listener)).await
    }

    /// Stops the member.
    pub async fn stopped(self) -> Stopped {
        self.member.stop().await;
        Stopped { dir: self.dir.clone(), config: self.member.config().clone() }
    }

    async fn on(dir: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Node {
        let config = configuration(&dir, change);
        Node::reached(dir, config, None).await
    }

    async fn reached(dir: Arc<TempDir>, config: Config, listener: Option<TcpListener>) -> Node {
        Node::reached_on(Arc::new(OsDisk), dir, config, listener).await
    }

    async fn reached_on(disk: Arc<dyn Disk>, dir: Arc<TempDir>, config: Config, listener: Option<TcpListener>) -> Node {
        let port = |listener: TcpListener| {
            listener.set_nonblocking(true).expect("a socket can be used without waiting");
            tokio::net::TcpListener::from_std(listener).expect("it is bound").into()
        };
        let ports = PeerPorts { ports: listener.into_iter().map(port).collect(), connector: None };
        let registry = Registry::new();
        let member = start_on(disk, config, ports, &registry).await;
        let member = member.unwrap_or_else(|error| panic!("the member does not start: {error}"));
        Node { api: member.api(), member, registry, dir }
    }

    /// Stops the member and starts it again on its directory.
    pub async fn restart(self) -> Node {
        self.restart_with(|_| {}).await
    }

    /// As [`Node::restart`], with a configuration that `change` has seen.
    pub async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Node {
        let dir = self.dir.clone();
        self.member.stop().await;
        drop(self);
        Node::on(dir, change).await
    }

    /// A second member on a copy of the directory as it is now: what this one would be after a crash at this moment.
    pub async fn crashed(&self) -> Node {
        self.crashed_with(|_| {}).await
    }

    /// As [`Node::crashed`], with a configuration that `change` has seen.
    pub async fn crashed_with(&self, change: impl FnOnce(&mut Config)) -> Node {
        let copy = new_dir();
        let deadline = Instant::now() + LIMIT;
        loop {
            // A copy takes time, a crash does not: take one during which no file but the log's tail moved. What is
            // appended to the log meanwhile was written after everything that was acknowledged before.
            let before = listing(self.dir.path());
            copy_dir(self.dir.path(), copy.path());
            if listing(self.dir.path()) == before {
                break;
            }
            assert!(Instant::now() < deadline, "the files of the member never rest");
            std::fs::remove_dir_all(copy.path().join("member")).unwrap();
        }
        Node::on(Arc::new(copy), change).await
    }

    /// The sum of a counter or gauge over all its labels, or the count of a histogram.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.unwrap_or_else(|| panic!("{name} is not on the page")).get_metric();
        let value = |metric: &prometheus::proto::Metric| {
            let counted = metric.get_histogram().get_sample_count() as f64;
            metric.get_counter().get_value() + metric.get_gauge().get_value() + counted
        };
        metrics.iter().map(value).sum()
    }

    /// The member's directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Serves it on a socket, as long as the runtime of the test lives. Returns where clients connect.
    pub async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let api = self.api.clone();
        let handler = move |request| api.call(request);
        tokio::spawn(serve(listener, handler, Limits::default(), Drain::default(), Duration::ZERO));
        url
    }

    /// Opens a call whose request is still to be sent.
    pub async fn open(&self, path: &str) -> Call {
        self.open_with(path, HeaderMap::new()).await
    }

    /// As [`Node::open`], with metadata.
    pub async fn open_with(&self, path: &str, metadata: HeaderMap) -> Call {
        self.open_over(None, path, metadata).await
    }

    /// As [`Node::open_with`], over a connection under TLS.
    pub async fn open_over(&self, tls: Option<Tls>, path: &str, metadata: HeaderMap) -> Call {
        let mut extensions = Extensions::new();
        if let Some(tls) = tls {
            extensions.insert(tls);
        }
        self.open_as(extensions, path, metadata).await
    }

    /// As [`Node::open_with`], over a connection of which this is known.
    pub async fn open_as(&self, extensions: Extensions, path: &str, metadata: HeaderMap) -> Call {
        let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
        let frames = UnboundedReceiverStream::new(receiver).map(|bytes| Ok::<_, Status>(Frame::data(bytes)));
        let mut request = Request::new(Body::new(StreamBody::new(frames)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = path.parse().expect("a path");
        *request.headers_mut() = metadata;
        *request.extensions_mut() = extensions;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        // The head of a unary answer comes after the request, so it is waited for by whoever reads.
        let head = tokio::spawn(self.api.call(request));
        Call { requests: Some(sender), answer: Answer::Awaited(head), buffer: BytesMut::new() }
    }

    /// A unary call with these bytes as its request body.
    pub async fn send_bytes(&self, path: &str, metadata: HeaderMap, body: impl Into<Bytes>) -> Result<Bytes, Status> {
        let mut call = self.open_with(path, metadata).await;
        call.send_bytes(body.into());
        call.half_close();
        call.only().await
    }

    /// A unary call.
    pub async fn call<R: Message + Default>(&self, path: &str, request: &impl Message) -> Result<R, Status> {
        self.call_with(path, HeaderMap::new(), request).await
    }

    /// A unary call with metadata.
    pub async fn call_with<R: Message + Default>(
        &self,
        path: &str,
        metadata: HeaderMap,
        request: &impl Message,
    ) -> Result<R, Status> {
        let answer = self.send_bytes(path, metadata, grpc::encode(request)).await?;
        Ok(R::decode(answer).expect("the answer is the method's message"))
    }

    /// Opens a watch stream.
    pub async fn watch(&self) -> Call {
        self.open("/etcdserverpb.Watch/Watch").await
    }

    /// Opens a watch stream with one watcher, whose created message has been read.
    pub async fn watcher(&self, create: WatchCreateRequest) -> Call {
        let mut watch = self.watch().await;
        watch.send(&watch_create(create));
        let created = watch.next::<WatchResponse>().await.expect("the watch is created");
        assert!(created.created && !created.canceled, "{created:?}");
        watch
    }

    /// The present revision.
    pub async fn revision(&self) -> i64 {
        self.range(get("any")).await.unwrap().header.unwrap().revision
    }

    /// Every key.
    pub async fn everything(&self) -> Vec<KeyValue> {
        let all = RangeRequest { key: zero(), range_end: zero(), ..Default::default() };
        self.range(all).await.unwrap().kvs
    }
}

macro_rules! unary {
    ($($name:ident: $path:literal, $request:ident => $response:ident;)*) => {
        impl Node {
            $(pub async fn $name(&self, request: $request) -> Result<$response, Status> {
                self.call($path, &request).await
            })*
        }
    };
}

unary! {
    range: "/etcdserverpb.KV/Range", RangeRequest => RangeResponse;
    put: "/etcdserverpb.KV/Put", PutRequest => PutResponse;
    delete: "/etcdserverpb.KV/DeleteRange", DeleteRangeRequest => DeleteRangeResponse;
    txn: "/etcdserverpb.KV/Txn", TxnRequest => TxnResponse;
    compact: "/etcdserverpb.KV/Compact", CompactionRequest => CompactionResponse;
    grant: "/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest => LeaseGrantResponse;
    revoke: "/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest => LeaseRevokeResponse;
    time_to_live: "/etcdserverpb.Lease/LeaseTimeToLive", LeaseTimeToLiveRequest => LeaseTimeToLiveResponse;
    leases: "/etcdserverpb.Lease/LeaseLeases", LeaseLeasesRequest => LeaseLeasesResponse;
    member_list: "/etcdserverpb.Cluster/MemberList", MemberListRequest => MemberListResponse;
    alarm: "/etcdserverpb.Maintenance/Alarm", AlarmRequest => AlarmResponse;
    status: "/etcdserverpb.Maintenance/Status", StatusRequest => StatusResponse;
    defragment: "/etcdserverpb.Maintenance/Defragment", DefragmentRequest => DefragmentResponse;
    hash: "/etcdserverpb.Maintenance/Hash", HashRequest => HashResponse;
    hash_kv: "/etcdserverpb.Maintenance/HashKV", HashKvRequest => HashKvResponse;
    auth_enable: "/etcdserverpb.Auth/AuthEnable", AuthEnableRequest => AuthEnableResponse;
    authenticate: "/etcdserverpb.Auth/Authenticate", AuthenticateRequest => AuthenticateResponse;
    user_add: "/etcdserverpb.Auth/UserAdd", AuthUserAddRequest => AuthUserAddResponse;
    user_grant_role: "/etcdserverpb.Auth/UserGrantRole", AuthUserGrantRoleRequest => AuthUserGrantRoleResponse;
    role_add: "/etcdserverpb.Auth/RoleAdd", AuthRoleAddRequest => AuthRoleAddResponse;
    role_grant_permission: "/etcdserverpb.Auth/RoleGrantPermission",
        AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse;
}

impl Drop for Node {
    /// Ends the member's threads and gives its files back, before the next test takes as much.
    fn drop(&mut self) {
        let member = self.member.clone();
        let stop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            runtime.block_on(member.stop());
        };
        std::thread::spawn(stop).join().expect("the member stops");
    }
}

/// A call in progress.
pub struct Call {
    requests: Option<mpsc::UnboundedSender<Bytes>>,
    answer: Answer,
    buffer: BytesMut,
}

enum Answer {
    Awaited(tokio::task::JoinHandle<forebay_edge::Response>),
    Body { head: Box<HeaderMap>, body: Box<Body> },
    Ended(Status),
}

impl Call {
    /// Sends one request message.
    pub fn send(&self, message: &impl Message) {
        self.send_bytes(grpc::encode(message));
    }

    /// Sends a piece of the request body.
    pub fn send_bytes(&self, bytes: Bytes) {
        let requests = self.requests.as_ref().expect("the request body is open");
        // A call that is answered already reads no more.
        let _ = requests.send(bytes);
    }

    /// Goes away without waiting for the answer, as a client does that resets its stream.
    pub fn abandon(self) {
        if let Answer::Awaited(head) = self.answer {
            head.abort();
        }
    }

    /// Ends the request body.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next answer, or the status that ended the call.
    pub async fn next<R: Message + Default>(&mut self) -> Result<R, Status> {
        let bytes = self.next_bytes().await?;
        Ok(R::decode(bytes).expect("an answer is the method's message"))
    }

    /// The next watch response that is no bare progress.
    pub async fn events(&mut self) -> WatchResponse {
        loop {
            let response: WatchResponse = self.next().await.expect("the watch goes on");
            if !response.events.is_empty() || response.canceled {
                return response;
            }
        }
    }

    /// As [`Call::next`], undecoded.
    pub async fn next_bytes(&mut self) -> Result<Bytes, Status> {
        tokio::time::timeout(LIMIT, self.read()).await.expect("an answer comes in time")
    }

    /// The one message of a unary answer. A refusal has none.
    pub async fn only(mut self) -> Result<Bytes, Status> {
        let message = self.next_bytes().await?;
        let end = self.next_bytes().await.expect_err("a unary answer is one message");
        assert_eq!((end.code(), end.message()), (Code::Ok, ""), "a message is followed by success");
        Ok(message)
    }

    /// All messages up to the end, and the status there.
    pub async fn rest<R: Message + Default>(mut self) -> (Vec<R>, Status) {
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                Ok(message) => messages.push(message),
                Err(status) => return (messages, status),
            }
        }
    }

    async fn read(&mut self) -> Result<Bytes, Status> {
        loop {
            if self.buffer.len() >= grpc::PREFIX {
                assert_eq!(self.buffer[0], 0, "answers are not compressed");
                let len = u32::from_be_bytes(self.buffer[1..grpc::PREFIX].try_into().unwrap()) as usize;
                if self.buffer.len() >= grpc::PREFIX + len {
                    self.buffer.advance(grpc::PREFIX);
                    return Ok(self.buffer.split_to(len).freeze());
                }
            }
            match &mut self.answer {
                Answer::Awaited(head) => {
                    let response = head.await.expect("a handler does not panic");
                    assert_eq!(response.status(), http::StatusCode::OK);
                    assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
                    let (parts, body) = response.into_parts();
                    self.answer = Answer::Body { head: Box::new(parts.headers), body: Box::new(body) };
                }
                Answer::Body { head, body } => {
                    let status = match body.frame().await {
                        Some(frame) => match frame.expect("an answer does not break").into_data() {
                            Ok(data) => {
                                self.buffer.extend_from_slice(&data);
                                continue;
                            }
                            Err(trailers) => Status::from_header_map(trailers.trailers_ref().expect("trailers")),
                        },
                        // A refusal may be all head.
                        None => Status::from_header_map(head),
                    };
                    assert!(self.buffer.is_empty(), "the last message is whole");
                    self.answer = Answer::Ended(status.expect("a call ends with a status"));
                }
                Answer::Ended(status) => return Err(status.clone()),
            }
        }
    }
}

/// What a client sees of a refusal.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("this is refused");
    (status.code(), status.message().to_owned())
}

/// What a client sees of one of etcd's errors.
pub fn error(error: forebay_proto::Error) -> (Code, String) {
    (error.code(), error.message().to_owned())
}

pub fn metadata(name: &'static str, value: &[u8]) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())])
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The end of a range that has none.
pub fn zero() -> Bytes {
    Bytes::from_static(b"\0")
}

pub fn get(key: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), ..Default::default() }
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn leased(key: &str, lease: i64) -> PutRequest {
    PutRequest { lease, ..put(key, "leased") }
}

pub fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), ..Default::default() }
}

pub fn compaction(revision: i64) -> CompactionRequest {
    CompactionRequest { revision, physical: true }
}

pub fn grant(id: i64, ttl: i64) -> LeaseGrantRequest {
    LeaseGrantRequest { id, ttl }
}

pub fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// A txn without conditions.
pub fn all(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

/// A txn below `depth` others.
pub fn nested(depth: usize, innermost: TxnRequest) -> TxnRequest {
    (0..depth).fold(innermost, |inner, _| all(vec![op(Op::RequestTxn(inner))]))
}

pub fn alarm(action: alarm_request::AlarmAction, member_id: u64, kind: AlarmType) -> AlarmRequest {
    AlarmRequest { action: action as i32, member_id, alarm: kind as i32 }
}

/// A watch of one key.
pub fn watching(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes(key), ..Default::default() }
}

/// A watch of every key from a revision on.
pub fn watching_all(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: zero(), range_end: zero(), start_revision, ..Default::default() }
}

pub fn watch_create(create: WatchCreateRequest) -> WatchRequest {
    WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
}

pub fn watch_cancel(watch_id: i64) -> WatchRequest {
    WatchRequest { request_union: Some(watch_request::RequestUnion::CancelRequest(WatchCancelRequest { watch_id })) }
}

pub fn watch_progress() -> WatchRequest {
    WatchRequest { request_union: Some(watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {})) }
}

/// Asks again until `done`. For what happens soon, but not before an answer.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = Instant::now() + LIMIT;
    while !done().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What members are told here, but for what `change` changes.
fn configuration(dir: &TempDir, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config {
        data_dir: dir.path().to_owned(),
        heartbeat_interval: Duration::from_millis(10),
        election_timeout: Duration::from_millis(100),
        // What these tests lose of a machine is the process, never the page cache.
        unsafe_no_fsync: true,
        bcrypt_cost: 4,
        ..Config::default()
    };
    change(&mut config);
    config
}

pub fn new_dir() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().expect("a temporary directory")
}

/// Every file that a crash must find as a whole: its path, size and time; of those that are only appended to, the path.
fn listing(dir: &Path) -> Vec<(std::path::PathBuf, Option<(u64, std::time::SystemTime)>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            // A file that goes away while it is looked at shows in the next listing.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
                continue;
            }
            let appended = entry.path().extension().is_some_and(|extension| extension == "wal");
            found.push((entry.path(), (!appended).then(|| (metadata.len(), metadata.modified().unwrap()))));
        }
    }
    found.sort();
    found
}

fn copy_dir(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o700)).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            // Whatever vanished meanwhile makes the next listing differ.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}
