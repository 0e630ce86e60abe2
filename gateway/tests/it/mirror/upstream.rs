//! An upstream in this process that does what a test tells it: a real keyspace behind etcd's API, which can lag, lose
//! events, be set back, have users, and be without a leader.

use std::{collections::HashMap, sync::Arc, time::Duration};

use forebay_edge::{
    Request, Response, Service, grpc,
    watch::{Admission, Source, Watches},
};
use forebay_keyspace::{
    CompactStep, Keyspace,
    eval::{self, Response as _},
    watch::{HeaderBase, Hub},
};
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{self as pb, request_op, response_op},
};
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;

/// See the module. Clones are the same.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// While true, answers to reads wait, though what they say is decided.
    held: watch::Sender<bool>,
    /// Changed to break every watch stream.
    broken: watch::Sender<()>,
}

struct State {
    keyspace: Keyspace,
    hub: Hub,
    cluster_id: u64,
    term: u64,
    /// Events are not sent.
    mute: bool,
    /// The events of the next write are lost.
    lose_next: bool,
    /// How long a watcher waits until it is created.
    watch_delay: Duration,
    leaderless: bool,
    /// With auth enabled: what each token may read and write.
    rights: Option<HashMap<String, Vec<KeyRange>>>,
    /// Whose token calls without one have: the common name of the certificate that they come with.
    common_name: Option<&'static str>,
    calls: HashMap<String, usize>,
}

impl World {
    pub(crate) fn new() -> World {
        let (keyspace, hub) = empty();
        let state = State {
            keyspace,
            hub,
            cluster_id: 7,
            term: 2,
            mute: false,
            lose_next: false,
            watch_delay: Duration::ZERO,
            leaderless: false,
            rights: None,
            common_name: None,
            calls: HashMap::new(),
        };
        let (held, broken) = (watch::Sender::new(false), watch::Sender::new(()));
        World(Arc::new(Inner { state: Mutex::new(state), held, broken }))
    }

    /// Somebody else writes; returns the revision.
    pub(crate) fn put(&self, key: &str, value: &str) -> i64 {
        self.0.state.lock().write(|txn| drop(txn.put(key.as_bytes(), value.as_bytes(), 0)))
    }

    pub(crate) fn delete(&self, key: &str) -> i64 {
        let range = KeyRange::Key(key.to_owned().into());
        self.0.state.lock().write(|txn| drop(txn.delete_range(&range)))
    }

    /// Somebody else compacts.
    pub(crate) fn compact(&self, revision: i64) {
        let keyspace = &mut self.0.state.lock().keyspace;
        drop(keyspace.compact(revision).expect("a revision that can be compacted"));
        keyspace.publish();
        while !matches!(keyspace.compact_step(1000), CompactStep::Idle) {}
    }

    pub(crate) fn set_mute(&self, mute: bool) {
        self.0.state.lock().mute = mute;
    }

    /// Looks through the past for so long before a watcher hears anything.
    pub(crate) fn delay_watches(&self, delay: Duration) {
        self.0.state.lock().watch_delay = delay;
    }

    pub(crate) fn lose_next(&self) {
        self.0.state.lock().lose_next = true;
    }

    pub(crate) fn set_leaderless(&self, leaderless: bool) {
        self.0.state.lock().leaderless = leaderless;
    }

    /// Restores an empty store in place of what there was, under a cluster id.
    pub(crate) fn restore(&self, cluster_id: u64) {
        let mut state = self.0.state.lock();
        (state.keyspace, state.hub) = empty();
        state.cluster_id = cluster_id;
        drop(state);
        self.break_streams();
    }

    /// Puts a store with another past in place, at the same revision, and tells nobody.
    pub(crate) fn falsify(&self, key: &str, value: &str) {
        let mut state = self.0.state.lock();
        let revision = state.keyspace.revision();
        (state.keyspace, state.hub) = empty();
        while state.keyspace.revision() < revision {
            state.write(|txn| drop(txn.put(key.as_bytes(), value.as_bytes(), 0)));
        }
    }

    pub(crate) fn break_streams(&self) {
        self.0.broken.send_replace(());
    }

    pub(crate) fn hold(&self, held: bool) {
        self.0.held.send_replace(held);
    }

    /// Enables auth: who has none of these tokens may do nothing.
    pub(crate) fn enable_auth(&self, rights: &[(&str, &[KeyRange])]) {
        let rights = rights.iter().map(|(token, ranges)| ((*token).to_owned(), ranges.to_vec()));
        self.0.state.lock().rights = Some(rights.collect());
    }

    /// Takes calls without a token for a user's.
    pub(crate) fn set_common_name(&self, name: &'static str) {
        self.0.state.lock().common_name = Some(name);
    }

    /// How often a method was called.
    pub(crate) fn calls(&self, method: &str) -> usize {
        self.0.state.lock().calls.get(method).copied().unwrap_or_default()
    }
}

fn empty() -> (Keyspace, Hub) {
    let keyspace = Keyspace::new();
    let hub = Hub::new(Arc::new(keyspace.reader()), 1 << 20);
    (keyspace, hub)
}

impl State {
    fn write(&mut self, write: impl FnOnce(&mut forebay_keyspace::WriteTxn<'_>)) -> i64 {
        let mut txn = self.keyspace.write();
        write(&mut txn);
        let revision = txn.end();
        if let Some(batch) = self.keyspace.publish()
            && !self.mute
            && !std::mem::take(&mut self.lose_next)
        {
            self.hub.publish(&batch);
        }
        revision
    }

    fn header(&self) -> pb::ResponseHeader {
        let revision = self.keyspace.revision();
        pb::ResponseHeader { cluster_id: self.cluster_id, member_id: 1, raft_term: self.term, revision }
    }

    fn permit(&self, token: Option<&str>, range: &KeyRange) -> Result<(), Error> {
        let Some(rights) = &self.rights else { return Ok(()) };
        let ranges = rights.get(token.ok_or(Error::UserEmpty)?).ok_or(Error::InvalidAuthToken)?;
        let covers = |own: &KeyRange| forebay_keyspace::mirror::Ranges::new([own.clone()]).covers(range);
        if ranges.iter().any(covers) { Ok(()) } else { Err(Error::PermissionDenied) }
    }

    fn range(&self, range: &pb::RangeRequest, token: Option<&str>) -> Result<eval::RangeResult, Error> {
        self.permit(token, &KeyRange::new(range.key.clone(), range.range_end.clone()))?;
        if self.leaderless && !range.serializable {
            return Err(Error::NoLeader);
        }
        self.keyspace.reader().evaluate(|snapshot| eval::range(snapshot, range))
    }

    /// A read-only txn without compares, as probes are.
    fn txn(&self, txn: &pb::TxnRequest, token: Option<&str>) -> Result<pb::TxnResponse, Error> {
        assert!(txn.compare.is_empty(), "a probe compares nothing");
        let ranges = |ops: &[pb::RequestOp]| -> Vec<pb::RangeRequest> {
            ops.iter()
                .map(|op| match &op.request {
                    Some(request_op::Request::RequestRange(range)) => range.clone(),
                    other => panic!("a probe only reads: {other:?}"),
                })
                .collect()
        };
        for range in ranges(&txn.success).iter().chain(&ranges(&txn.failure)) {
            self.permit(token, &KeyRange::new(range.key.clone(), range.range_end.clone()))?;
            if self.leaderless && !range.serializable {
                return Err(Error::NoLeader);
            }
        }
        let mut responses = Vec::new();
        for range in ranges(&txn.success) {
            self.range(&range, token)?;
            let response = response_op::Response::ResponseRange(pb::RangeResponse::default());
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        Ok(pb::TxnResponse { header: Some(self.header()), succeeded: true, responses })
    }
}

impl Service for World {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let world = self.clone();
        async move { world.answer(request).await.unwrap_or_else(grpc::refuse) }.boxed()
    }
}

impl World {
    async fn answer(&self, request: Request) -> Result<Response, Status> {
        let method = request.uri().path().rsplit('/').next().expect("a path has parts").to_owned();
        *self.0.state.lock().calls.entry(method.clone()).or_default() += 1;
        let token = request.headers().get("token").map(|token| token.to_str().expect("a token is text").to_owned());
        let token = token.as_deref().or(self.0.state.lock().common_name);
        match method.as_str() {
            "Range" => {
                let (_, range) = grpc::unary::<pb::RangeRequest>(request, 1 << 20).await?;
                let (result, header) = {
                    let state = self.0.state.lock();
                    (state.range(&range, token), state.header())
                };
                self.released().await;
                let mut message = bytes::BytesMut::new();
                result?.encode(&header, &mut message);
                Ok(grpc::reply(grpc::framed(&message)))
            }
            "Txn" => {
                let (_, txn) = grpc::unary::<pb::TxnRequest>(request, 1 << 20).await?;
                let result = self.0.state.lock().txn(&txn, token);
                self.released().await;
                Ok(grpc::reply_message(&result?))
            }
            "Put" => {
                let (_, put) = grpc::unary::<pb::PutRequest>(request, 1 << 20).await?;
                let mut state = self.0.state.lock();
                state.permit(token, &KeyRange::Key(put.key.clone()))?;
                state.write(|txn| drop(txn.put(&put.key, &put.value, 0)));
                Ok(grpc::reply_message(&pb::PutResponse { header: Some(state.header()), ..Default::default() }))
            }
            "Authenticate" => {
                let (_, login) = grpc::unary::<pb::AuthenticateRequest>(request, 1 << 20).await?;
                if self.0.state.lock().rights.is_none() {
                    return Err(Error::AuthNotEnabled.into());
                }
                // The token is the name.
                Ok(grpc::reply_message(&pb::AuthenticateResponse { token: login.name, ..Default::default() }))
            }
            "Watch" => self.watch(request, token),
            _ => Err(Status::unimplemented(method)),
        }
    }

    async fn released(&self) {
        let _ = self.0.held.subscribe().wait_for(|held| !held).await;
    }

    fn watch(&self, request: Request, token: Option<&str>) -> Result<Response, Status> {
        let mut broken = self.0.broken.subscribe();
        let state = self.0.state.lock();
        let header = state.header();
        let base =
            HeaderBase { cluster_id: header.cluster_id, member_id: header.member_id, raft_term: header.raft_term };
        let hub = state.hub.clone();
        let watches = Watches { hub, max_message: 1 << 20, progress_interval: Duration::from_secs(600) };
        let source = Arc::new(Watched { world: self.clone(), token: token.map(str::to_owned), base });
        let ended = async move {
            let _ = broken.changed().await;
            Status::unavailable("the stream broke")
        };
        Ok(watches.serve(request, source, ended.boxed()))
    }
}

struct Watched {
    world: World,
    token: Option<String>,
    base: HeaderBase,
}

impl Source for Watched {
    fn header(&self) -> HeaderBase {
        self.base
    }

    fn admit(&self, request: &pb::WatchCreateRequest) -> Option<BoxFuture<'static, Admission>> {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let (permitted, delay) = {
            let state = self.world.0.state.lock();
            (state.permit(self.token.as_deref(), &range), state.watch_delay)
        };
        if let Err(error) = permitted {
            let reason = format!("rpc error: code = {:?} desc = {error}", error.code());
            return Some(std::future::ready(Admission::Refuse(reason)).boxed());
        }
        (!delay.is_zero()).then(|| tokio::time::sleep(delay).map(|()| Admission::Serve).boxed())
    }
}
