//! etcd's gRPC services, one file each. A handler has four beats: read and check the request, call
//! the member, turn what failed into a status, fill the header.

mod audit;
mod auth;
mod caller;
mod cluster;
mod concurrency;
mod election;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod quotas;
mod rights;
mod watch;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use forebay_edge::{Request, Response, Service, grpc, listener::Peer};
use forebay_proto::Error;
use futures::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use http::HeaderMap;
use tonic::{Status, service::Routes};

pub(crate) use self::audit::Audit;
use self::rights::Need;
use crate::member::Member;

/// The member's API.
pub(crate) struct Rpc {
    member: Member,
    /// Server reflection, which a library provides.
    reflection: Routes,
}

impl Rpc {
    pub(crate) fn new(member: Member) -> Rpc {
        Rpc { member, reflection: reflection() }
    }
}

fn reflection() -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(forebay_proto::DESCRIPTORS)
    };
    let expected = "our own descriptors are valid";
    Routes::new(builder().build_v1().expect(expected)).add_service(builder().build_v1alpha().expect(expected))
}

impl Service for Rpc {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let member = self.member.clone();
        let version = match check_metadata(&member, request.headers()) {
            Ok(version) => version,
            Err(error) => return ready(grpc::refuse(error.into())).boxed(),
        };
        let is_stream = STREAMS.contains(&request.uri().path());
        member.metrics().client_requests.count(is_stream, version);
        if member.is_learner() && !LEARNER.contains(&request.uri().path()) && is_etcds(request.uri().path()) {
            return ready(grpc::refuse(Error::NotSupportedForLearner.into())).boxed();
        }
        match request.uri().path().starts_with("/grpc.reflection.") {
            true => self.reflect(request),
            false => dispatch(member, request),
        }
    }
}

/// Has a call answered that may be answered by this member, if its caller may make it.
fn dispatch(member: Member, request: Request) -> BoxFuture<'static, Response> {
    if !member.auth().is_enabled() {
        return serve(member, request);
    }
    let Some(need) = rights::need(request.uri().path()) else {
        return ready(grpc::refuse(grpc::unknown_method(request.uri().path()))).boxed();
    };
    let line = audit::Line::of(&member, &request, need);
    let answer = match need {
        Need::User | Need::Admin => {
            let (credentials, deadline) = (Member::credentials(&request), member.deadline(request.headers()));
            let member = member.clone();
            async move {
                let admitted = async { rights::admit(&member, need, &credentials, deadline?).await };
                match admitted.await {
                    Ok(()) => serve(member, request).await,
                    Err(status) => grpc::refuse(status),
                }
            }
            .boxed()
        }
        Need::Nothing | Need::Keys | Need::Apply => serve(member.clone(), request),
    };
    match line {
        None => answer,
        Some(line) => answer.inspect(move |answer| line.write(member.audit(), answer)).boxed(),
    }
}

/// Hands a request to its method.
fn serve(member: Member, request: Request) -> BoxFuture<'static, Response> {
    let call = Call::begin(&member, &request);
    match request.uri().path() {
        "/etcdserverpb.KV/Range" => call.answer(kv::range(member, request)),
        "/etcdserverpb.KV/RangeStream" => answer(kv::range_stream(member, request)),
        "/etcdserverpb.KV/Put" => call.answer(kv::put(member, request)),
        "/etcdserverpb.KV/DeleteRange" => call.answer(kv::delete_range(member, request)),
        "/etcdserverpb.KV/Txn" => call.answer(kv::txn(member, request)),
        "/etcdserverpb.KV/Compact" => call.answer(kv::compact(member, request)),
        "/etcdserverpb.Watch/Watch" => ready(watch::watch(member, request)).boxed(),
        "/etcdserverpb.Lease/LeaseGrant" => call.answer(lease::grant(member, request)),
        "/etcdserverpb.Lease/LeaseRevoke" => call.answer(lease::revoke(member, request)),
        "/etcdserverpb.Lease/LeaseKeepAlive" => ready(lease::keep_alive(member, request)).boxed(),
        "/etcdserverpb.Lease/LeaseTimeToLive" => call.answer(lease::time_to_live(member, request)),
        "/etcdserverpb.Lease/LeaseLeases" => call.answer(lease::leases(member, request)),
        "/etcdserverpb.Cluster/MemberList" => call.answer(cluster::list(member, request)),
        "/etcdserverpb.Cluster/MemberAdd" => call.answer(cluster::add(member, request)),
        "/etcdserverpb.Cluster/MemberRemove" => call.answer(cluster::remove(member, request)),
        "/etcdserverpb.Cluster/MemberUpdate" => call.answer(cluster::update(member, request)),
        "/etcdserverpb.Cluster/MemberPromote" => call.answer(cluster::promote(member, request)),
        "/etcdserverpb.Maintenance/MoveLeader" => call.answer(maintenance::move_leader(member, request)),
        "/etcdserverpb.Maintenance/Downgrade" => call.answer(maintenance::downgrade(member, request)),
        "/etcdserverpb.Maintenance/Alarm" => call.answer(maintenance::alarm(member, request)),
        "/etcdserverpb.Maintenance/Status" => call.answer(maintenance::status(member, request)),
        "/etcdserverpb.Maintenance/Defragment" => call.answer(maintenance::defragment(member, request)),
        "/etcdserverpb.Maintenance/Hash" => call.answer(maintenance::hash(member, request)),
        "/etcdserverpb.Maintenance/HashKV" => call.answer(maintenance::hash_kv(member, request)),
        "/etcdserverpb.Maintenance/Snapshot" => answer(maintenance::snapshot(member, request)),
        "/v3lockpb.Lock/Lock" => answer(lock::lock(member, request)),
        "/v3lockpb.Lock/Unlock" => call.answer(lock::unlock(member, request)),
        "/v3electionpb.Election/Campaign" => answer(election::campaign(member, request)),
        "/v3electionpb.Election/Proclaim" => call.answer(election::proclaim(member, request)),
        "/v3electionpb.Election/Leader" => call.answer(election::leader(member, request)),
        "/v3electionpb.Election/Observe" => answer(election::observe(member, request)),
        "/v3electionpb.Election/Resign" => call.answer(election::resign(member, request)),
        forebay_proto::quotas::HOLD => call.answer(quotas::hold(member, request)),
        "/etcdserverpb.Auth/AuthEnable" => call.answer(auth::enable(member, request)),
        "/etcdserverpb.Auth/AuthDisable" => call.answer(auth::disable(member, request)),
        "/etcdserverpb.Auth/AuthStatus" => call.answer(auth::status(member, request)),
        "/etcdserverpb.Auth/Authenticate" => call.answer(auth::authenticate(member, request)),
        "/etcdserverpb.Auth/UserAdd" => call.answer(auth::add_user(member, request)),
        "/etcdserverpb.Auth/UserGet" => call.answer(auth::user(member, request)),
        "/etcdserverpb.Auth/UserList" => call.answer(auth::users(member, request)),
        "/etcdserverpb.Auth/UserDelete" => call.answer(auth::delete_user(member, request)),
        "/etcdserverpb.Auth/UserChangePassword" => call.answer(auth::change_password(member, request)),
        "/etcdserverpb.Auth/UserGrantRole" => call.answer(auth::grant_role(member, request)),
        "/etcdserverpb.Auth/UserRevokeRole" => call.answer(auth::revoke_role(member, request)),
        "/etcdserverpb.Auth/RoleAdd" => call.answer(auth::add_role(member, request)),
        "/etcdserverpb.Auth/RoleGet" => call.answer(auth::role(member, request)),
        "/etcdserverpb.Auth/RoleList" => call.answer(auth::roles(member, request)),
        "/etcdserverpb.Auth/RoleDelete" => call.answer(auth::delete_role(member, request)),
        "/etcdserverpb.Auth/RoleGrantPermission" => call.answer(auth::grant_permission(member, request)),
        "/etcdserverpb.Auth/RoleRevokePermission" => call.answer(auth::revoke_permission(member, request)),
        "/grpc.health.v1.Health/Check" => call.answer(health::check(member, request)),
        "/grpc.health.v1.Health/Watch" => answer(health::watch(member, request)),
        path => ready(grpc::refuse(grpc::unknown_method(path))).boxed(),
    }
}

impl Rpc {
    fn reflect(&self, request: Request) -> BoxFuture<'static, Response> {
        use tower_service::Service as _;
        let mut routes = self.reflection.clone();
        async move {
            let answered = routes.call(request.map(tonic::body::Body::new)).await;
            let Ok(response) = answered;
            response.map(forebay_edge::Body::new)
        }
        .boxed()
    }
}

/// What etcd looks at in front of every call; returns the version that the client says it has.
fn check_metadata<'h>(member: &Member, headers: &'h HeaderMap) -> Result<Option<&'h str>, Error> {
    let version = match headers.get(grpc::CLIENT_API_VERSION).map(|version| std::str::from_utf8(version.as_bytes())) {
        Some(Err(_)) => return Err(Error::InvalidClientApiVersion),
        Some(Ok(version)) => Some(version),
        None => None,
    };
    if headers.get(grpc::HAS_LEADER).is_some_and(|value| value == "true") {
        member.check_leader()?;
    }
    Ok(version)
}

/// A unary call, from its arrival on.
struct Call {
    start: Instant,
    expected: Duration,
    uri: http::Uri,
    remote: Option<SocketAddr>,
}

impl Call {
    fn begin(member: &Member, request: &Request) -> Call {
        Call {
            start: Instant::now(),
            expected: member.config().warning_unary_request_duration,
            uri: request.uri().clone(),
            remote: request.extensions().get::<Peer>().map(|peer| peer.address),
        }
    }

    /// Answers it, and says in the log if that took long.
    fn answer(
        self,
        handler: impl Future<Output = Result<Response, Status>> + Send + 'static,
    ) -> BoxFuture<'static, Response> {
        // An async block would have room for the handler twice: as what it was given, and as what it awaits.
        let answered = handler.map(move |answered| {
            let took = self.start.elapsed();
            if took > self.expected {
                tracing::warn!(
                    "time spent" = ?took,
                    remote = self.remote.map(tracing::field::display),
                    "response type" = self.uri.path(),
                    "request stats"
                );
            }
            answered.unwrap_or_else(grpc::refuse)
        });
        answered.boxed()
    }
}

fn answer(handler: impl Future<Output = Result<Response, Status>> + Send + 'static) -> BoxFuture<'static, Response> {
    handler.map(|result| result.unwrap_or_else(grpc::refuse)).boxed()
}

/// Methods with more than one message in a direction.
const STREAMS: [&str; 6] = [
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
];

fn is_etcds(path: &str) -> bool {
    !path.starts_with("/grpc.")
}

/// Methods that a learner answers: it may lag far behind. Of ranges, those that say they do not mind.
const LEARNER: [&str; 3] =
    ["/etcdserverpb.KV/Range", "/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot"];
