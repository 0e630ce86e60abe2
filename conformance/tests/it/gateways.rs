//! Gateways that are killed, paused, cut off and restarted, over real members, and what their clients see. `WATCHERS=10000`
//! lets so many watch, `CLIENTS=10000` so many read and write.

use std::{
    collections::BTreeMap,
    future::{pending, ready},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use forebay_conformance::{
    cluster::Cluster,
    gateways::Gateway,
    peers::{self, Release},
    session,
    target::{Kind, Target},
};
use forebay_proto::etcdserverpb::{
    self as pb, auth_client::AuthClient, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient,
    watch_request::RequestUnion,
};
use futures::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use crate::{programs::setting, within};

const ETCD: Kind = Kind::Etcd(Release::V3_7);
/// How long what must happen may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether a test can run here.
fn can_run(test: &str, kinds: &[Kind]) -> bool {
    let missing = kinds.iter().chain([&Kind::Server]).find_map(|kind| kind.missing());
    if let Some(missing) = missing {
        peers::skip(test, missing);
    }
    missing.is_none()
}

fn channel(gateway: &Gateway) -> Channel {
    Channel::from_shared(format!("http://{}", gateway.client)).expect("a URL").connect_lazy()
}

fn put(key: &str, value: impl ToString) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_string().into(), ..Default::default() }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

/// Writes and returns the revision.
async fn written(channel: &Channel, key: &str, value: impl ToString) -> anyhow::Result<i64> {
    let response = KvClient::new(channel.clone()).put(put(key, value)).await?.into_inner();
    Ok(response.header.context("a header")?.revision)
}

fn value(response: &pb::RangeResponse) -> String {
    response.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).unwrap_or_default()
}

/// A stream with one watcher.
struct Watch {
    messages: Streaming<pb::WatchResponse>,
    /// Ends the requests: a client whose requests go on keeps its stream, though nobody listens any more.
    _open: oneshot::Sender<()>,
}

impl Watch {
    async fn message(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        self.messages.message().await
    }
}

async fn watch(channel: Channel, create: pb::WatchCreateRequest, token: Option<&str>) -> Result<Watch, Status> {
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let (open, dropped) = oneshot::channel();
    let end = stream::once(dropped).filter_map(|_| ready(None));
    let mut request = Request::new(stream::iter([request]).chain(end));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("a token is text"));
    }
    Ok(Watch { messages: WatchClient::new(channel).watch(request).await?.into_inner(), _open: open })
}

/// What a watcher saw that resumes as etcd's client does.
#[derive(Debug, Default)]
struct Seen {
    values: BTreeMap<i64, String>,
    /// Compactions that it was told of.
    compacted: Vec<i64>,
}

/// Watches `w` from a revision until it has seen the last one, which is known some day.
async fn follow(channel: Channel, mut next: i64, mut last: watch::Receiver<Option<i64>>) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let is_done = |next: i64, last: &watch::Receiver<Option<i64>>| last.borrow().is_some_and(|last| next > last);
    while !is_done(next, &last) {
        let create = pb::WatchCreateRequest { key: "w".into(), start_revision: next, ..Default::default() };
        let Ok(Ok(mut messages)) = timeout(Duration::from_secs(20), watch(channel.clone(), create, None)).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !is_done(next, &last) {
            let message = tokio::select! {
                message = messages.message() => message,
                changed = last.changed() => { changed?; continue }
            };
            // Broken off: it comes back.
            let Ok(Some(message)) = message else { break };
            if message.canceled {
                ensure!(message.compact_revision >= next, "cancelled at {next}: {message:?}");
                seen.compacted.push(message.compact_revision);
                next = message.compact_revision;
                break;
            }
            for event in message.events {
                let kv = event.kv.context("an event has a key")?;
                ensure!(kv.mod_revision >= next, "{} after {}", kv.mod_revision, next - 1);
                seen.values.insert(kv.mod_revision, String::from_utf8_lossy(&kv.value).into_owned());
                next = kv.mod_revision + 1;
            }
        }
    }
    Ok(seen)
}

/// Watchers that are up to date, and some that begin where a compaction will have been, live through the end of their
/// gateway.
async fn outlive(kind: Kind) -> anyhow::Result<()> {
    let watchers = setting("WATCHERS").unwrap_or(300);
    let target = Target::start(kind, &[]).await?;
    let direct = session::connect(&target).await?;
    let mut gateway = Gateway::start(&[target.url()], &[]).await?;
    let mut all = BTreeMap::new();
    let first = written(&direct, "w", "first").await?;
    all.insert(first, "first".to_owned());
    let (last, told) = watch::channel(None);
    // A connection has room for a thousand streams.
    let channels: Vec<Channel> = (0..watchers.div_ceil(500)).map(|_| channel(&gateway)).collect();
    let mut following = JoinSet::new();
    for watcher in 0..watchers {
        following.spawn(follow(channels[watcher as usize % channels.len()].clone(), first, told.clone()));
    }
    let write = async |all: &mut BTreeMap<i64, String>| {
        for number in 0..20 {
            all.insert(written(&direct, "w", number).await?, number.to_string());
        }
        anyhow::Ok(())
    };
    write(&mut all).await?;
    let begun = Instant::now();
    while gateway.metric("forebay_mirror_watchers").await? != Some(watchers as f64) {
        ensure!(begun.elapsed() < LIMIT, "the watchers are not there");
        sleep(Duration::from_millis(50)).await;
    }
    // What they have not read by now they will have read when they come back, or be told that it is gone.
    sleep(Duration::from_secs(1)).await;
    gateway.kill();
    write(&mut all).await?;
    let compacted = first + 5;
    KvClient::new(direct.clone()).compact(pb::CompactionRequest { revision: compacted, physical: true }).await?;
    let late = tokio::spawn(follow(channels[0].clone(), first, told.clone()));
    gateway.restart().await?;
    write(&mut all).await?;
    last.send_replace(all.last_key_value().map(|(revision, _)| *revision));
    let ended = timeout(LIMIT, following.join_all()).await.context("a watcher hangs")?;
    for seen in ended {
        let seen = seen?;
        let from = seen.compacted.last().copied().unwrap_or(first);
        ensure!(seen.compacted.iter().all(|at| *at == compacted), "{:?}", seen.compacted);
        let missed: Vec<_> = all.range(from..).filter(|(at, value)| seen.values.get(at) != Some(value)).collect();
        ensure!(missed.is_empty(), "a watcher missed {missed:?}");
        ensure!(seen.values.keys().all(|at| all.contains_key(at)), "a watcher saw what was not");
    }
    let late = timeout(LIMIT, late).await.context("the late watcher hangs")???;
    ensure!(late.compacted == [compacted] && late.values.len() == all.range(compacted..).count(), "{late:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_watchers_outlive_a_killed_gateway_over_etcd() {
    if can_run("gateways::g1_watchers_outlive_a_killed_gateway_over_etcd", &[ETCD]) {
        within(outlive(ETCD)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_watchers_outlive_a_killed_gateway_over_the_server() {
    if can_run("gateways::g1_watchers_outlive_a_killed_gateway_over_the_server", &[]) {
        within(outlive(Kind::Server)).await;
    }
}

/// Passes connections on, but for the times when it holds every byte back.
struct Link {
    url: String,
    held: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Link {
    async fn to(upstream: std::net::SocketAddr) -> anyhow::Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let held = watch::Sender::new(false);
        let holds = held.subscribe();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let holds = holds.clone();
                open.spawn(async move {
                    let Ok(server) = TcpStream::connect(upstream).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let (up, down) = (pump(from_client, to_server, holds.clone()), pump(from_server, to_client, holds));
                    // One that has ended ends the other.
                    tokio::select! { () = up => {} () = down => {} }
                });
            }
        });
        Ok(Link { url, held, _task: task })
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut holds: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if holds.wait_for(|held| !held).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_a_gateway_that_was_paused_or_cut_off_answers_nothing_old() {
    if !can_run("gateways::g3_a_gateway_that_was_paused_or_cut_off_answers_nothing_old", &[ETCD]) {
        return;
    }
    within(async {
        let target = Target::start(ETCD, &[]).await?;
        let direct = session::connect(&target).await?;
        let link = Link::to(target.client).await?;
        let gateway = Gateway::start(std::slice::from_ref(&link.url), &[]).await?;
        let through = channel(&gateway);
        let ask = async |serializable| {
            let request = pb::RangeRequest { serializable, ..get("k") };
            timeout(Duration::from_secs(5), KvClient::new(through.clone()).range(request)).await
        };
        for round in 0..3 {
            written(&direct, "k", round).await?;
            ensure!(ask(false).await??.into_inner().kvs.len() == 1, "it serves");

            gateway.pause()?;
            let paused = written(&direct, "k", format!("paused {round}")).await?;
            let (read, ()) = tokio::join!(ask(false), async {
                sleep(Duration::from_millis(200)).await;
                gateway.resume().expect("it can be resumed");
            });
            let read = read??.into_inner();
            ensure!(
                value(&read) == format!("paused {round}")
                    && read.header.is_some_and(|header| header.revision >= paused)
            );

            link.held.send_replace(true);
            written(&direct, "k", format!("cut {round}")).await?;
            // Longer than a serializable read may be behind.
            sleep(Duration::from_millis(1200)).await;
            for serializable in [false, true] {
                if let Ok(Ok(read)) = ask(serializable).await {
                    let read = value(&read.into_inner());
                    ensure!(read == format!("cut {round}"), "read {read:?}, serializable: {serializable}");
                }
            }
            link.held.send_replace(false);
            let begun = Instant::now();
            while !matches!(ask(false).await, Ok(Ok(read)) if value(read.get_ref()) == format!("cut {round}")) {
                ensure!(begun.elapsed() < LIMIT, "it does not come back");
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    })
    .await;
}

/// Users of a cluster, made at the cluster itself.
struct Users {
    auth: AuthClient<Channel>,
    root: String,
}

impl Users {
    /// `alice` may read `a`, `bob` may read `b`, `root` everything; passwords are names.
    async fn enable(direct: &Channel) -> anyhow::Result<Users> {
        let mut auth = AuthClient::new(direct.clone());
        for (user, role, key) in [("root", "root", ""), ("alice", "reads-a", "a"), ("bob", "reads-b", "b")] {
            let options = Some(forebay_proto::authpb::UserAddOptions::default());
            let added =
                pb::AuthUserAddRequest { name: user.into(), password: user.into(), options, ..Default::default() };
            auth.user_add(added).await?;
            auth.role_add(pb::AuthRoleAddRequest { name: role.into() }).await?;
            if !key.is_empty() {
                let perm = forebay_proto::authpb::Permission { key: key.into(), ..Default::default() };
                auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) })
                    .await?;
            }
            auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() }).await?;
        }
        auth.auth_enable(pb::AuthEnableRequest {}).await?;
        let root = Users::log_in(direct.clone(), "root").await?;
        Ok(Users { auth, root })
    }

    async fn log_in(channel: Channel, name: &str) -> anyhow::Result<String> {
        let request = pb::AuthenticateRequest { name: name.into(), password: name.into() };
        Ok(AuthClient::new(channel).authenticate(request).await?.into_inner().token)
    }
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().expect("a token is text"));
    request
}

async fn rights_end(kind: Kind) -> anyhow::Result<()> {
    let target = Target::start(kind, &[]).await?;
    let direct = session::connect(&target).await?;
    let password = target.scratch().join("gateway-password");
    std::fs::write(&password, "root")?;
    let password = password.display().to_string();
    let gateway =
        Gateway::start(&[target.url()], &["--upstream-user=root", "--upstream-password-file", &password]).await?;
    for key in ["a", "b"] {
        written(&direct, key, "v").await?;
    }
    let mut users = Users::enable(&direct).await?;
    let begun = Instant::now();
    let through = channel(&gateway);
    let (alice, bob) = (Users::log_in(through.clone(), "alice").await?, Users::log_in(through.clone(), "bob").await?);
    let read = async |token: &str, key| KvClient::new(through.clone()).range(with(token, get(key))).await;
    while gateway.metric("forebay_mirror_serving").await? != Some(1.0) || read(&alice, "a").await.is_err() {
        ensure!(begun.elapsed() < LIMIT, "there is no mirror again");
        sleep(Duration::from_millis(50)).await;
    }
    let of = |key: &'static str| pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    let mut alices = watch(through.clone(), of("a"), Some(&alice)).await?;
    let mut bobs = watch(through.clone(), of("b"), Some(&bob)).await?;
    for messages in [&mut alices, &mut bobs] {
        ensure!(messages.message().await?.is_some_and(|message| message.created && !message.canceled), "a watch");
    }
    ensure!(read(&alice, "b").await.is_err_and(|status| status.code() == Code::PermissionDenied), "not hers");

    let revoke = pb::AuthUserRevokeRoleRequest { name: "alice".into(), role: "reads-a".into() };
    users.auth.user_revoke_role(with(&users.root, revoke)).await?;
    ensure!(read(&alice, "a").await.is_err(), "no cached answer after that");
    let ended = timeout(LIMIT, alices.message()).await.context("her watch goes on")?;
    ensure!(ended.is_err_and(|status| status.code() == Code::Unavailable), "her watch ends so that she comes back");
    let mut again = watch(through.clone(), of("a"), Some(&alice)).await?;
    ensure!(again.message().await?.is_some_and(|message| message.canceled), "and is refused");

    users.auth.user_delete(with(&users.root, pb::AuthUserDeleteRequest { name: "alice".into() })).await?;
    ensure!(read(&alice, "a").await.is_err(), "nor for who is not there any more");
    // Auth changed, and with it the revision that tokens are checked against.
    KvClient::new(direct.clone()).put(with(&users.root, put("b", "more"))).await?;
    let event = timeout(LIMIT, bobs.message()).await.context("his watch is silent")?;
    ensure!(event?.is_some_and(|message| message.events.len() == 1), "on the stream that he had");
    ensure!(value(&read(&bob, "b").await?.into_inner()) == "more", "and his token is as good");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_rights_that_end_at_etcd_end_at_the_gateway_and_others_keep_theirs() {
    if can_run("gateways::g6_rights_that_end_at_etcd_end_at_the_gateway_and_others_keep_theirs", &[ETCD]) {
        within(rights_end(ETCD)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_rights_that_end_at_the_server_end_at_the_gateway_and_others_keep_theirs() {
    if can_run("gateways::g6_rights_that_end_at_the_server_end_at_the_gateway_and_others_keep_theirs", &[]) {
        within(rights_end(Kind::Server)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_lease_ends_with_the_client_that_kept_it_through_a_gateway() {
    const TTL: i64 = 6;
    if !can_run("gateways::g7_a_lease_ends_with_the_client_that_kept_it_through_a_gateway", &[ETCD]) {
        return;
    }
    within(async {
        let target = Target::start(ETCD, &[]).await?;
        let mut direct = LeaseClient::new(session::connect(&target).await?);
        let gateway = Gateway::start(&[target.url()], &[]).await?;
        direct.lease_grant(pb::LeaseGrantRequest { id: 7, ttl: TTL }).await?;
        let link = Link::to(gateway.client).await?;
        let client = tokio::spawn({
            let connection = Channel::from_shared(link.url.clone())?.connect_lazy();
            async move {
                let mut client = LeaseClient::new(connection);
                let renewals = stream::unfold((), |()| async {
                    sleep(Duration::from_millis(200)).await;
                    Some((pb::LeaseKeepAliveRequest { id: 7 }, ()))
                });
                let mut answers = client.lease_keep_alive(renewals).await?.into_inner();
                while let Some(answer) = answers.message().await? {
                    ensure!(answer.ttl == TTL, "a renewal is answered");
                }
                pending::<anyhow::Result<()>>().await
            }
        });
        sleep(Duration::from_secs(3)).await;
        ensure!(!client.is_finished(), "the lease is kept: {:?}", client.await);
        // As when its machine is gone: a client that is only dropped here goes on sending what it was given to send.
        drop(link);
        let died = Instant::now();
        while direct.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 7, keys: false }).await?.into_inner().ttl > 0 {
            // It takes one length and what etcd needs to see it; more is for machines that have other things to do.
            ensure!(died.elapsed() < Duration::from_secs(5 * TTL as u64), "somebody keeps it");
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g13_gateways_are_restarted_one_by_one_and_etcds_own_client_sees_no_call_fail() {
    let test = "gateways::g13_gateways_are_restarted_one_by_one_and_etcds_own_client_sees_no_call_fail";
    let Some(benchmark) = peers::tool("tools/benchmark") else { return peers::skip(test, peers::INSTALL) };
    if !can_run(test, &[ETCD]) {
        return;
    }
    within(async {
        let clients = setting("CLIENTS").unwrap_or(200);
        let target = Target::start(ETCD, &[]).await?;
        let upstream = [target.url()];
        let (one, other) = tokio::join!(Gateway::start(&upstream, &[]), Gateway::start(&upstream, &[]));
        let mut gateways = [one?, other?];
        let endpoints = gateways.each_ref().map(|gateway| gateway.client.to_string()).join(",");
        let mut load = JoinSet::new();
        for work in [&["put", "--key-space-size=1000"][..], &["range", "k"]] {
            let mut command = Command::new(&benchmark);
            command.args([format!("--endpoints={endpoints}"), format!("--clients={}", clients / 2)]);
            // For so long at least that both are restarted meanwhile.
            command.arg("--conns=50").args(work).args(["--rate=1000", "--total=12000"]);
            load.spawn_blocking(move || command.output());
        }
        for gateway in &mut gateways {
            sleep(Duration::from_secs(1)).await;
            gateway.stop().await?;
            gateway.restart().await?;
        }
        while let Some(done) = load.join_next().await {
            let output = done??;
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success() && told.contains("Requests/sec"), "{told}");
            ensure!(!told.contains("Error distribution"), "calls failed: {told}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g14_a_cluster_of_both_kinds_is_mirrored_as_one() {
    if !can_run("gateways::g14_a_cluster_of_both_kinds_is_mirrored_as_one", &[ETCD]) {
        return;
    }
    within(async {
        let cluster = Cluster::start(&[ETCD, Kind::Server, ETCD], &[]).await?;
        let upstream: Vec<String> = cluster.members.iter().map(|node| node.url()).collect();
        let gateway = Gateway::start(&upstream, &[]).await?;
        let through = channel(&gateway);
        let of_all = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
        let mut messages = watch(through.clone(), of_all, None).await?;
        ensure!(messages.message().await?.is_some_and(|message| message.created), "a watch");
        for round in 0..30 {
            let revision = cluster.members[round % 3].put("k", &round.to_string()).await?;
            let read = KvClient::new(through.clone()).range(get("k")).await?.into_inner();
            ensure!(value(&read) == round.to_string(), "written at {revision}: {read:?}");
            let event = timeout(LIMIT, messages.message()).await??.context("the watch goes on")?;
            ensure!(
                event.events.len() == 1 && event.header.is_some_and(|header| header.revision >= revision),
                "{event:?}"
            );
        }
        Ok(())
    })
    .await;
}
