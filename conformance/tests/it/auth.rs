//! Users and tokens between members of both kinds, and from one to the other by their files.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use forebay_conformance::{
    cluster::Cluster,
    peers::{self, Release},
    session,
    target::{Kind, Target},
};
use forebay_proto::{
    Error,
    authpb::Permission,
    etcdserverpb::{
        AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest,
        AuthStatusRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserGetRequest,
        AuthUserGrantRoleRequest, AuthUserListRequest, AuthenticateRequest, HashKvRequest, PutRequest, RangeRequest,
        auth_client::AuthClient, kv_client::KvClient, maintenance_client::MaintenanceClient,
    },
};
use tonic::{Request, Status, transport::Channel};

const ETCD: Kind = Kind::Etcd(Release::V3_7);

/// Somebody at a member.
struct Person {
    channel: Channel,
    token: String,
}

impl Person {
    fn nobody(channel: &Channel) -> Person {
        Person { channel: channel.clone(), token: String::new() }
    }

    /// Logs in.
    async fn at(channel: &Channel, name: &str, password: &str) -> Result<Person, Status> {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let token = AuthClient::new(channel.clone()).authenticate(request).await?.into_inner().token;
        Ok(Person { channel: channel.clone(), token })
    }

    /// The same, asking another member.
    fn moved(&self, channel: &Channel) -> Person {
        Person { channel: channel.clone(), token: self.token.clone() }
    }

    /// Until these know its token: etcd refuses it meanwhile for everything but linearizable reads.
    async fn known_at(self, channels: &[Channel]) -> Result<Person, Status> {
        for channel in channels {
            self.moved(channel).get("a").await?;
        }
        Ok(self)
    }

    fn sign<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if !self.token.is_empty() {
            request.metadata_mut().insert("token", self.token.parse().expect("a token is metadata"));
        }
        request
    }

    fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }

    async fn get(&self, key: &str) -> Result<i64, Status> {
        let range = RangeRequest { key: key.to_owned().into(), ..Default::default() };
        Ok(KvClient::new(self.channel.clone()).range(self.sign(range)).await?.into_inner().count)
    }

    async fn put(&self, key: &str) -> Result<(), Status> {
        let put = PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
        KvClient::new(self.channel.clone()).put(self.sign(put)).await.map(drop)
    }

    async fn add_user(&self, name: &str, password: &str) -> Result<(), Status> {
        let add = AuthUserAddRequest { name: name.to_owned(), password: password.to_owned(), ..Default::default() };
        self.auth().user_add(self.sign(add)).await.map(drop)
    }

    async fn permit(&self, role: &str, kind: i32, key: &'static str, end: &'static str) -> Result<(), Status> {
        let perm = Some(Permission { perm_type: kind, key: key.into(), range_end: end.into() });
        let grant = AuthRoleGrantPermissionRequest { name: role.to_owned(), perm };
        self.auth().role_grant_permission(self.sign(grant)).await.map(drop)
    }

    async fn grant(&self, user: &str, role: &str) -> Result<(), Status> {
        let grant = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        self.auth().user_grant_role(self.sign(grant)).await.map(drop)
    }

    /// root, and alice who reads a..c.
    async fn make_people(&self) -> Result<(), Status> {
        self.add_user("root", "toor").await?;
        self.grant("root", "root").await?;
        self.add_user("alice", "secret").await?;
        self.auth().role_add(self.sign(AuthRoleAddRequest { name: "some".to_owned() })).await?;
        self.permit("some", 0, "a", "c").await?;
        self.grant("alice", "some").await?;
        self.auth().auth_enable(self.sign(AuthEnableRequest {})).await.map(drop)
    }

    /// All that root can be told about users and roles.
    async fn everything(&self) -> Result<String, Status> {
        let status = self.auth().auth_status(self.sign(AuthStatusRequest {})).await?.into_inner();
        let users = self.auth().user_list(self.sign(AuthUserListRequest {})).await?.into_inner().users;
        let mut told = format!("{} {} {users:?}", status.enabled, status.auth_revision);
        for name in users {
            let roles = self.auth().user_get(self.sign(AuthUserGetRequest { name })).await?.into_inner().roles;
            told += &format!(" {roles:?}");
        }
        let role = AuthRoleGetRequest { role: "some".to_owned() };
        let permissions = self.auth().role_get(self.sign(role)).await?.into_inner().perm;
        Ok(format!("{told} {permissions:?}"))
    }
}

fn is(answer: Result<i64, Status>, error: Error) -> bool {
    answer.is_err_and(|status| status.message() == error.message())
}

async fn mixed(kinds: &[Kind]) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(kinds, &[]).await?;
    let channels: Vec<Channel> = cluster.members.iter().map(|node| node.channel.clone()).collect();
    Person::nobody(&channels[0]).make_people().await?;

    // Who logs in at one member is known at all of them.
    for from in &channels {
        let root = Person::at(from, "root", "toor").await?.known_at(&channels).await?;
        let alice = Person::at(from, "alice", "secret").await?.known_at(&channels).await?;
        for (to, kind) in channels.iter().zip(kinds) {
            let (root, alice) = (root.moved(to), alice.moved(to));
            root.put("a").await.with_context(|| format!("root at {kind}"))?;
            ensure!(alice.get("a").await? == 1, "alice at {kind}");
            ensure!(is(alice.get("c").await, Error::PermissionDenied), "alice at {kind} sees too much");
            ensure!(is(alice.put("a").await.map(|()| 0), Error::PermissionDenied), "alice at {kind} writes");
        }
    }
    // What one changes, all know; and they tell it alike.
    let root = Person::at(&channels[1], "root", "toor").await?.known_at(&channels).await?;
    for (n, at) in channels.iter().enumerate() {
        let root = root.moved(at);
        root.add_user(&format!("user{n}"), "x").await?;
        for (key, end) in [("x", ""), ("x", "z"), ("x", "y"), ("b", "\0")] {
            root.permit("some", n as i32 % 3, key, end).await?;
        }
    }
    let mut told = Vec::new();
    for at in &channels {
        // It is ordered like a write, so nobody lags.
        told.push(root.moved(at).everything().await?);
    }
    ensure!(told.iter().all(|one| *one == told[0]), "{told:#?}");
    // A password that is changed at one ends the tokens at all.
    let alice = Person::at(&channels[0], "alice", "secret").await?.known_at(&channels).await?;
    let change = AuthUserChangePasswordRequest {
        name: "alice".to_owned(),
        password: "changed".to_owned(),
        ..Default::default()
    };
    root.auth().user_change_password(root.sign(change)).await?;
    for at in &channels {
        // A linearizable question, so that the member has heard of it.
        root.moved(at).get("a").await?;
        ensure!(is(alice.moved(at).get("a").await, Error::InvalidAuthToken));
        Person::at(at, "alice", "changed").await?;
    }
    // A member that comes late, by a snapshot or the log, judges like the others.
    cluster.kill(2);
    // It may have led.
    cluster.wait("a grant", async |_| Ok(root.permit("some", 1, "A", "").await.is_ok())).await?;
    cluster.restart_as(2, kinds[2]).await?;
    let late = Person::at(&channels[2], "alice", "changed").await?;
    late.put("A").await?;
    ensure!(is(late.get("A").await, Error::PermissionDenied));

    root.moved(&channels[0]).auth().auth_disable(root.sign(AuthDisableRequest {})).await?;
    cluster.agree().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_both_judges_alike() {
    if let Some(missing) = ETCD.missing().or(Kind::Server.missing()) {
        return peers::skip("auth::a_cluster_of_both_judges_alike", missing);
    }
    mixed(&[ETCD, Kind::Server, Kind::Server]).await.unwrap();
    mixed(&[Kind::Server, ETCD, ETCD]).await.unwrap();
}

/// How many writes are refused by members that hear later of the token that the leader has just given for them.
async fn refused_far_away(kind: Kind) -> anyhow::Result<usize> {
    let cluster = Cluster::start_apart(Duration::from_millis(20), &[kind; 3], &[]).await?;
    let leader = cluster.leader().await?;
    let channels: Vec<Channel> = cluster.members.iter().map(|node| node.channel.clone()).collect();
    Person::nobody(&channels[leader]).make_people().await?;
    let mut refused = 0;
    for _ in 0..10 {
        let root = Person::at(&channels[leader], "root", "toor").await?;
        for (n, channel) in channels.iter().enumerate() {
            if n == leader {
                continue;
            }
            match root.moved(channel).put("a").await {
                Err(status) if status.message() == Error::InvalidAuthToken.message() => refused += 1,
                other => other?,
            }
        }
    }
    Ok(refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_at_every_member_as_soon_as_it_is_given() {
    if let Some(missing) = ETCD.missing().or(Kind::Server.missing()) {
        return peers::skip("auth::a_token_is_good_at_every_member_as_soon_as_it_is_given", missing);
    }
    assert_eq!(refused_far_away(Kind::Server).await.unwrap(), 0);
    // Since 3.6 its tokens name the entry before the one that gives them, and it waits for that.
    assert!(refused_far_away(ETCD).await.unwrap() > 0, "etcd waits for what gives a token");
}

/// What a member knows of users and keys.
async fn content(root: &Person) -> anyhow::Result<(String, u32)> {
    let hash = MaintenanceClient::new(root.channel.clone()).hash_kv(root.sign(HashKvRequest::default())).await?;
    Ok((root.everything().await?, hash.into_inner().hash))
}

async fn takes_turns(args: &[&str]) -> anyhow::Result<()> {
    let mut target = Target::start(ETCD, args).await?;
    Person::nobody(&session::connect(&target).await?).make_people().await?;
    let mut last: Option<(Person, (String, u32))> = None;
    for (n, kind) in [ETCD, Kind::Server, ETCD, Kind::Server].into_iter().enumerate() {
        if n > 0 {
            target.restart_as(kind, args).await?;
        }
        let channel = session::connect(&target).await?;
        let root = Person::at(&channel, "root", "toor").await?;
        if let Some((before, told)) = &last {
            ensure!(content(&root).await? == *told, "{kind} knows what the one before knew");
            // Signed tokens are good wherever the key is. The others may be known, if their entries were applied again.
            if before.token.split('.').count() == 3 {
                let read = before.moved(&channel).get("a").await;
                ensure!(read.is_ok(), "{kind} takes the token of the other kind: {read:?}");
            }
        }
        let alice = Person::at(&channel, "alice", "secret").await?;
        root.put("a").await?;
        ensure!(alice.get("a").await? == 1 && is(alice.get("c").await, Error::PermissionDenied), "{kind}");
        root.add_user(&format!("by {kind} in round {n}"), "x").await?;
        let root = Person::at(&channel, "root", "toor").await?;
        last = Some((root.moved(&channel), content(&root).await?));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_with_auth_on_moves_both_ways() {
    if let Some(missing) = ETCD.missing().or(Kind::Server.missing()) {
        return peers::skip("auth::a_directory_with_auth_on_moves_both_ways", missing);
    }
    takes_turns(&[]).await.unwrap();
    // Most of it stands in the log alone when the process is killed.
    takes_turns(&["--backend-batch-interval=1h", "--backend-batch-limit=1000000"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_token_of_one_kind_is_read_by_the_other() {
    if let Some(missing) = ETCD.missing().or(Kind::Server.missing()) {
        return peers::skip("auth::a_signed_token_of_one_kind_is_read_by_the_other", missing);
    }
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "what both know").unwrap();
    takes_turns(&[&format!("--auth-token=jwt,priv-key={},sign-method=HS256", secret.display())]).await.unwrap();
}
