//! etcd's gRPC services, one file each. A handler has four beats: read and check the request, call
//! the member, turn what failed into a status, fill the header.

mod cluster;
mod health;
mod kv;
mod lease;
mod maintenance;
mod watch;

use forebay_edge::{Request, Response, Service, grpc};
use forebay_proto::Error;
use futures::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use http::HeaderMap;
use tonic::{Status, service::Routes};

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
        if let Err(error) = check_metadata(&member, request.headers()) {
            return ready(grpc::refuse(error.into())).boxed();
        }
        match request.uri().path() {
            "/etcdserverpb.KV/Range" => answer(kv::range(member, request)),
            "/etcdserverpb.KV/RangeStream" => answer(kv::range_stream(member, request)),
            "/etcdserverpb.KV/Put" => answer(kv::put(member, request)),
            "/etcdserverpb.KV/DeleteRange" => answer(kv::delete_range(member, request)),
            "/etcdserverpb.KV/Txn" => answer(kv::txn(member, request)),
            "/etcdserverpb.KV/Compact" => answer(kv::compact(member, request)),
            "/etcdserverpb.Watch/Watch" => ready(watch::watch(member, request)).boxed(),
            "/etcdserverpb.Lease/LeaseGrant" => answer(lease::grant(member, request)),
            "/etcdserverpb.Lease/LeaseRevoke" => answer(lease::revoke(member, request)),
            "/etcdserverpb.Lease/LeaseKeepAlive" => ready(lease::keep_alive(member, request)).boxed(),
            "/etcdserverpb.Lease/LeaseTimeToLive" => answer(lease::time_to_live(member, request)),
            "/etcdserverpb.Lease/LeaseLeases" => answer(lease::leases(member, request)),
            "/etcdserverpb.Cluster/MemberList" => answer(cluster::list(member, request)),
            "/etcdserverpb.Maintenance/Alarm" => answer(maintenance::alarm(member, request)),
            "/etcdserverpb.Maintenance/Status" => answer(maintenance::status(member, request)),
            "/etcdserverpb.Maintenance/Defragment" => answer(maintenance::defragment(member, request)),
            "/etcdserverpb.Maintenance/Hash" => answer(maintenance::hash(member, request)),
            "/etcdserverpb.Maintenance/HashKV" => answer(maintenance::hash_kv(member, request)),
            "/etcdserverpb.Maintenance/Snapshot" => answer(maintenance::snapshot(member, request)),
            "/grpc.health.v1.Health/Check" => answer(health::check(member, request)),
            "/grpc.health.v1.Health/Watch" => answer(health::watch(member, request)),
            path if path.starts_with("/grpc.reflection.") => self.reflect(request),
            path if LATER.contains(&path) => {
                let text = format!("forebay: {} is not implemented yet", path.trim_start_matches('/'));
                ready(grpc::refuse(Status::unimplemented(text))).boxed()
            }
            path => ready(grpc::refuse(grpc::unknown_method(path))).boxed(),
        }
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

/// What etcd looks at in front of every call.
fn check_metadata(member: &Member, headers: &HeaderMap) -> Result<(), Error> {
    if headers.get("client-api-version").is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err()) {
        return Err(Error::InvalidClientApiVersion);
    }
    if headers.get("hasleader").is_some_and(|value| value == "true") {
        member.check_leader()?;
    }
    Ok(())
}

fn answer(handler: impl Future<Output = Result<Response, Status>> + Send + 'static) -> BoxFuture<'static, Response> {
    handler.map(|result| result.unwrap_or_else(grpc::refuse)).boxed()
}

/// Methods of etcd's API that are refused by name.
const LATER: [&str; 30] = [
    "/etcdserverpb.Cluster/MemberAdd",
    "/etcdserverpb.Cluster/MemberRemove",
    "/etcdserverpb.Cluster/MemberUpdate",
    "/etcdserverpb.Cluster/MemberPromote",
    "/etcdserverpb.Maintenance/MoveLeader",
    "/etcdserverpb.Maintenance/Downgrade",
    "/etcdserverpb.Auth/AuthEnable",
    "/etcdserverpb.Auth/AuthDisable",
    "/etcdserverpb.Auth/AuthStatus",
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.Auth/UserAdd",
    "/etcdserverpb.Auth/UserGet",
    "/etcdserverpb.Auth/UserList",
    "/etcdserverpb.Auth/UserDelete",
    "/etcdserverpb.Auth/UserChangePassword",
    "/etcdserverpb.Auth/UserGrantRole",
    "/etcdserverpb.Auth/UserRevokeRole",
    "/etcdserverpb.Auth/RoleAdd",
    "/etcdserverpb.Auth/RoleGet",
    "/etcdserverpb.Auth/RoleList",
    "/etcdserverpb.Auth/RoleDelete",
    "/etcdserverpb.Auth/RoleGrantPermission",
    "/etcdserverpb.Auth/RoleRevokePermission",
    "/v3lockpb.Lock/Lock",
    "/v3lockpb.Lock/Unlock",
    "/v3electionpb.Election/Campaign",
    "/v3electionpb.Election/Proclaim",
    "/v3electionpb.Election/Leader",
    "/v3electionpb.Election/Observe",
    "/v3electionpb.Election/Resign",
];
