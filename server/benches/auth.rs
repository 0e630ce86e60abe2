//! What auth costs a request: the CPU time of gets on two members in this process, one without auth and one with it, in
//! turns. The user of the second has ten thousand permissions; what it takes longer is finding out who asks, judging the
//! key, and confirming that nothing changed meanwhile.
//!
//! `cargo bench -p forebay-server`

#![allow(clippy::print_stdout, reason = "a bench reports on its output")]

use forebay_edge::{Api, Body, Request, grpc};
use forebay_proto::{
    authpb::Permission,
    etcdserverpb::{
        AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
        AuthUserGrantRoleRequest, AuthenticateRequest, AuthenticateResponse, PutRequest, RangeRequest, RangeResponse,
    },
};
use forebay_server::{Config, PeerPorts, start};
use http::{HeaderMap, HeaderValue, Method};
use prometheus::Registry;
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

const GETS: u32 = 50_000;
const ROUNDS: usize = 5;
/// Together ten thousand permissions.
const ROLES: usize = 100;
const PERMISSIONS: usize = 100;

/// A member and what its caller shows.
struct Target {
    api: Api,
    metadata: HeaderMap,
    _dir: TempDir,
}

impl Target {
    async fn start() -> Target {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = dir.path().join("data");
        let config = Config { data_dir, unsafe_no_fsync: true, bcrypt_cost: 4, ..Config::default() };
        let member = start(config, PeerPorts::default(), &Registry::new()).await.expect("a member");
        let target = Target { api: member.api(), metadata: HeaderMap::new(), _dir: dir };
        let put = PutRequest { key: key(ROLES / 2, 7).into(), value: vec![7; 100].into(), ..Default::default() };
        target.call("KV/Put", &put).await;
        target
    }

    /// Adds users and permissions, turns auth on and logs in.
    async fn with_auth(mut self) -> Target {
        for name in ["root", "alice"] {
            let user = AuthUserAddRequest { name: name.into(), password: name.into(), ..Default::default() };
            self.call("Auth/UserAdd", &user).await;
        }
        let grant = |user: &str, role: String| AuthUserGrantRoleRequest { user: user.into(), role };
        self.call("Auth/UserGrantRole", &grant("root", "root".into())).await;
        for role in 0..ROLES {
            let name = format!("role-{role}");
            self.call("Auth/RoleAdd", &AuthRoleAddRequest { name: name.clone() }).await;
            for n in 0..PERMISSIONS {
                let (key, range_end) = (key(role, n), format!("{}/z", key(role, n)));
                let perm = Permission { perm_type: 2, key: key.into(), range_end: range_end.into() };
                let permit = AuthRoleGrantPermissionRequest { name: name.clone(), perm: Some(perm) };
                self.call("Auth/RoleGrantPermission", &permit).await;
            }
            self.call("Auth/UserGrantRole", &grant("alice", name)).await;
        }
        self.call("Auth/AuthEnable", &AuthEnableRequest {}).await;
        let login = AuthenticateRequest { name: "alice".into(), password: "alice".into() };
        let answer = self.call("Auth/Authenticate", &login).await;
        let token = AuthenticateResponse::decode(answer).expect("an answer").token;
        self.metadata.insert("token", HeaderValue::try_from(token).expect("a token is text"));
        self
    }

    async fn call(&self, method: &str, message: &impl Message) -> bytes::Bytes {
        let mut request = Request::new(Body::full(grpc::encode(message)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("/etcdserverpb.{method}").parse().expect("a path");
        *request.headers_mut() = self.metadata.clone();
        let (_, mut replies) = grpc::Replies::new(self.api.call(request).await);
        replies.next().await.unwrap_or_else(|status| panic!("{method}: {status}"))
    }

    /// Nanoseconds of this thread for a get.
    async fn measure(&self) -> f64 {
        let get = RangeRequest { key: key(ROLES / 2, 7).into(), ..Default::default() };
        let begin = cpu();
        for _ in 0..GETS {
            let answer = self.call("KV/Range", &get).await;
            debug_assert_eq!(RangeResponse::decode(answer).expect("an answer").count, 1);
        }
        (cpu() - begin) / f64::from(GETS)
    }
}

fn key(role: usize, n: usize) -> String {
    format!("/registry/{role:03}/{n:03}")
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let open = Target::start().await;
    let guarded = Target::start().await.with_auth().await;
    let mut added = Vec::new();
    for _ in 0..ROUNDS {
        let (without, with) = (open.measure().await, guarded.measure().await);
        println!("a get: {without:.0} ns without auth, {with:.0} ns with it, {:+.0} ns", with - without);
        added.push(with - without);
    }
    added.sort_by(f64::total_cmp);
    println!("auth with {} permissions: {:.0} ns a request, goal 1000", ROLES * PERMISSIONS, added[ROUNDS / 2]);
}
