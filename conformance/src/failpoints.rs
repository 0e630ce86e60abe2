//! K1: a member ends at every named place of its code, as by `kill -9`, and comes back; the cluster loses nothing.
//!
//! For each place a member is started that will end there. It lags far behind, so that its start leads through the log,
//! its db file and a snapshot of another member; then the cluster does everything that clusters do until the member has
//! come by the place. Clients and watchers are recorded all the time.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use forebay_loadtest::{
    check::{self, Report},
    history::{Recording, Setup},
};
use forebay_proto::{
    authpb::{Permission, UserAddOptions},
    etcdserverpb::{
        AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest, AuthStatusRequest,
        AuthUserAddRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest, AuthUserListRequest, CompactionRequest,
        DefragmentRequest, InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest,
        LeaseLeasesRequest, LeaseRevokeRequest, MemberAddRequest, MemberListRequest, MoveLeaderRequest,
        auth_client::AuthClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    },
    raftpb::{Entry, Message, MessageType},
};
use prost::Message as _;
use tokio::time::{sleep, timeout};

use crate::{
    cluster::{Cluster, LIMIT},
    faults,
    http::Call,
    target::{Kind, free_addresses, named_command},
};

/// Who ends, and who is there for it to lag behind and to fall behind it.
const ENDING: usize = 2;
const OTHER: usize = 1;
const BASE: usize = 0;

const ARGS: [&str; 6] = [
    "--snapshot-count=10",
    "--snapshot-catchup-entries=5",
    "--max-snapshots=1",
    "--max-wals=1",
    "--feature-gates=LeaseCheckpoint=true",
    // Members are added while one has only just come back.
    "--strict-reconfig-check=false",
];

/// Places that only a member without files comes by.
const OF_A_NEW_MEMBER: [&str; 3] = ["wal-create-built", "wal-created", "db-created"];

/// The place that only a member comes by that ended at another: a received db waits for being installed.
const AFTER_ANOTHER: (&str, &str) = ("start-install", "raft-restore");

/// How many places are recorded together. Whatever nobody answered may be each of the writes that this test does
/// beside those that are recorded: the longer a recording, the more there is to try.
const RECORDED: usize = 6;

/// What was found out.
#[derive(Debug)]
pub struct Struck {
    /// At how many places a member ended.
    pub struck: usize,
    /// Places that no member came by.
    pub missed: Vec<String>,
    /// What clients saw meanwhile.
    pub report: Report,
}

/// The names of all places: the binary tells them to whoever asks for one that does not exist.
pub fn names() -> anyhow::Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let [client, peer] = free_addresses()?;
    let mut command = named_command(Kind::Server, "asked", dir.path(), client, peer)?;
    let said = command.env("FOREBAY_FAILPOINT", "no-such-place").output()?;
    let text = [said.stdout, said.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let names = text.split_once("there are ").with_context(|| format!("no names in {text}"))?.1;
    let names = names.split(|c: char| !(c.is_ascii_lowercase() || c == '-' || c == ' ' || c == ',')).next();
    Ok(names
        .unwrap_or_default()
        .split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect())
}

/// Has a member end at each of these places, `repetitions` times.
pub async fn run(names: &[String], repetitions: usize, seed: u64) -> anyhow::Result<Struck> {
    let mut cluster = Cluster::start(&[Kind::Server; 3], &ARGS).await?;
    let (mut struck, mut missed, mut report) = (0, Vec::new(), Report::default());
    let names: Vec<&String> = names.iter().filter(|name| !OF_A_NEW_MEMBER.contains(&name.as_str())).collect();
    for names in names.chunks(RECORDED) {
        let setup = Setup { seed, compacts: true, timeout: Duration::from_secs(2), ..Setup::default() };
        let recording = Recording::begin(setup, &faults::connections(&cluster).await?).await?;
        for name in names {
            for repetition in 1..=repetitions {
                let began = Instant::now();
                let ended = end_at(&mut cluster, name, repetition).await.with_context(|| format!("at {name}"))?;
                if ended {
                    struck += 1;
                    cluster.restart_as(ENDING, Kind::Server).await.with_context(|| format!("after {name}"))?;
                } else {
                    missed.push((*name).clone());
                }
                let how = if ended { "struck" } else { "missed" };
                println!("{name}:{repetition} {how} after {:.1?}", began.elapsed());
            }
        }
        let part = check::check(&recording.end().await);
        ensure!(part.violations.is_empty(), "at one of {names:?}: {}", part.summary());
        report.operations += part.operations;
        report.placed += part.placed;
        report.uncompared += part.uncompared;
        report.events += part.events;
    }
    agree(&cluster).await?;
    Ok(Struck { struck, missed, report })
}

/// Has a member without files end at each of the places that only such a one comes by.
pub async fn run_new() -> anyhow::Result<usize> {
    for name in OF_A_NEW_MEMBER {
        let mut cluster = Cluster::planned(None, &[Kind::Server], &[])?;
        cluster.spawn_with(0, &[("FOREBAY_FAILPOINT", name)])?;
        ensure!(waits(&mut cluster, 0, LIMIT).await?, "no member ended at {name}");
        cluster.restart_as(0, Kind::Server).await.with_context(|| format!("after {name}"))?;
        cluster.members[0].put("a", "1").await?;
    }
    Ok(OF_A_NEW_MEMBER.len())
}

/// Whether a member has ended at the place that it was told to.
fn has_ended(cluster: &mut Cluster, member: usize) -> anyhow::Result<bool> {
    if !cluster.members[member].runs() {
        return Ok(true);
    }
    let log = cluster.members[member].log();
    match cluster.exit(member)? {
        None => Ok(false),
        Some(status) if status.signal() == Some(9) => Ok(true),
        Some(status) => bail!("the member ended with {status}:\n{log}"),
    }
}

async fn waits(cluster: &mut Cluster, member: usize, limit: Duration) -> anyhow::Result<bool> {
    let began = Instant::now();
    while !has_ended(cluster, member)? {
        if began.elapsed() > limit {
            return Ok(false);
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(true)
}

/// Starts the member that is to end there, and goes on until it has.
async fn end_at(cluster: &mut Cluster, name: &str, count: usize) -> anyhow::Result<bool> {
    if name == AFTER_ANOTHER.0 && !Box::pin(end_at(cluster, AFTER_ANOTHER.1, 1)).await? {
        return Ok(false);
    }
    cluster.kill(ENDING);
    puts(cluster, BASE, 30).await;
    users(cluster).await;
    cluster.spawn_with(ENDING, &[("FOREBAY_FAILPOINT", &format!("{name}:{count}"))])?;
    let likely = Work::likely(name);
    let mut all: Vec<Work> = WORK.into_iter().filter(|work| *work == likely || *work != Work::Segments).collect();
    all.sort_by_key(|work| *work != likely);
    for round in 0..4 {
        for work in all.iter().copied() {
            if has_ended(cluster, ENDING)? {
                return Ok(true);
            }
            // Whoever ends meanwhile answers nobody: what is refused is refused.
            let _ = timeout(LIMIT, does(cluster, work, round)).await;
        }
        if waits(cluster, ENDING, Duration::from_millis(500)).await? {
            return Ok(true);
        }
    }
    // It goes on without.
    cluster.kill(ENDING);
    cluster.restart_as(ENDING, Kind::Server).await?;
    Ok(false)
}

/// What a cluster does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Puts,
    Users,
    Leases,
    Compaction,
    Defragmentation,
    Segments,
    Lead,
    Laggard,
    Membership,
    Checkpoint,
}

impl Work {
    /// What most likely leads by a place; what else there is follows it.
    fn likely(name: &str) -> Work {
        let by_prefix = [
            ("wal-cut", Work::Segments),
            ("wal-re", Work::Segments),
            ("defrag-", Work::Defragmentation),
            ("compact-", Work::Compaction),
            ("raft-conf-", Work::Membership),
            ("apply-membership", Work::Membership),
            ("raft-snapshot-send", Work::Laggard),
            ("lease-checkpoint", Work::Checkpoint),
            ("lease-promote", Work::Lead),
            ("lease-demote", Work::Lead),
            ("lease-", Work::Leases),
        ];
        by_prefix.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or(Work::Puts, |(_, work)| *work)
    }
}

const WORK: [Work; 10] = [
    Work::Puts,
    Work::Users,
    Work::Leases,
    Work::Compaction,
    Work::Defragmentation,
    Work::Segments,
    Work::Lead,
    Work::Laggard,
    Work::Membership,
    Work::Checkpoint,
];

async fn does(cluster: &mut Cluster, work: Work, round: usize) -> anyhow::Result<()> {
    match work {
        Work::Puts => puts(cluster, BASE, 30).await,
        Work::Users => users(cluster).await,
        Work::Leases => {
            let mut leases = LeaseClient::new(cluster.members[BASE].channel.clone());
            for id in [1, 2] {
                let _ = timeout(PATIENCE, leases.lease_grant(LeaseGrantRequest { id, ttl: 1 })).await;
            }
            let _ = timeout(PATIENCE, leases.lease_revoke(LeaseRevokeRequest { id: 1 })).await;
        }
        Work::Compaction => {
            let revision = cluster.members[BASE].put("base", "1").await?;
            let compaction = CompactionRequest { revision: revision - 1, physical: false };
            cluster.members[BASE].kv().compact(compaction).await?;
        }
        Work::Defragmentation => {
            let mut client = MaintenanceClient::new(cluster.members[ENDING].channel.clone());
            client.defragment(DefragmentRequest {}).await?;
        }
        Work::Segments => {
            // Two segments and more.
            for _ in 0..150 {
                cluster.members[BASE].put("big", &"v".repeat(1 << 20)).await?;
                if has_ended(cluster, ENDING)? {
                    break;
                }
            }
            cluster.members[BASE].put("big", "").await?;
        }
        Work::Lead => {
            lead(cluster, ENDING).await?;
            sleep(Duration::from_millis(300)).await;
            // What it does on its own as leader, and as one that is none any more.
            if round > 0 {
                lead(cluster, BASE).await?;
            }
        }
        Work::Laggard => {
            lead(cluster, ENDING).await?;
            cluster.kill(OTHER);
            puts(cluster, BASE, 30).await;
            cluster.spawn(OTHER)?;
            cluster
                .wait("the other member", async |cluster| {
                    Ok(cluster.members[OTHER].get("base", true).await.is_ok()
                        && cluster.members[OTHER].put("back", "1").await.is_ok())
                })
                .await?;
            lead(cluster, BASE).await?;
        }
        Work::Membership => {
            let [peer] = free_addresses()?;
            let add = MemberAddRequest { peer_ur_ls: vec![format!("http://{peer}")], is_learner: true };
            let added = cluster.members[BASE].cluster().member_add(add).await?.into_inner();
            cluster.remove(BASE, added.member.context("it was added")?.id).await?;
        }
        Work::Checkpoint => checkpoint(cluster).await?,
    }
    Ok(())
}

/// A leader notes what is left of a lease every five minutes. So that nobody has to wait for that, a member is handed the
/// same proposal by its peer port.
async fn checkpoint(cluster: &Cluster) -> anyhow::Result<()> {
    let lease = LeaseGrantRequest { id: 3, ttl: 600 };
    // It may be there since the last time.
    let _ = LeaseClient::new(cluster.members[BASE].channel.clone()).lease_grant(lease).await;
    let header = cluster.members[BASE].status().await?.header.context("a status has a header")?;
    let from = cluster.members[OTHER].id().await?;
    let checkpoints = vec![LeaseCheckpoint { id: 3, remaining_ttl: 500 }];
    let request =
        InternalRaftRequest { lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }), ..Default::default() };
    let proposal = Message {
        r#type: Some(MessageType::MsgProp.into()),
        from: Some(from),
        to: Some(header.member_id),
        entries: vec![Entry { data: Some(request.encode_to_vec().into()), ..Default::default() }],
        ..Default::default()
    };
    let handed = Call::post("/raft", proposal.encode_to_vec())
        .header("X-Server-From", format!("{from:x}"))
        .header("X-Server-Version", "3.7.1")
        .header("X-Min-Cluster-Version", "3.0.0")
        .header("X-Etcd-Cluster-ID", format!("{:x}", header.cluster_id))
        .send(cluster.members[BASE].peer)
        .await?;
    ensure!(handed.status == 204, "the proposal was refused: {}", handed.body_text());
    Ok(())
}

async fn lead(cluster: &Cluster, member: usize) -> anyhow::Result<()> {
    let target_id = cluster.members[member].id().await?;
    for node in cluster.running() {
        let status = node.status().await?;
        if status.leader == status.header.map_or(0, |header| header.member_id) && status.leader != target_id {
            let mut client = MaintenanceClient::new(node.channel.clone());
            // Nobody answers when it ends as it is about to lead.
            timeout(3 * PATIENCE, client.move_leader(MoveLeaderRequest { target_id })).await??;
        }
    }
    Ok(())
}

/// How long anybody who asks for something in passing waits: who ends meanwhile answers nobody.
const PATIENCE: Duration = Duration::from_secs(1);

async fn puts(cluster: &Cluster, by: usize, count: usize) {
    for _ in 0..count {
        // Refused while somebody is elected.
        let _ = timeout(PATIENCE, cluster.members[by].put("base", "value")).await;
    }
}

/// Users and roles that come and go. Auth itself stays off: the others would have to log in.
async fn users(cluster: &Cluster) {
    let (name, role) = ("a user".to_owned(), "a role".to_owned());
    let options = Some(UserAddOptions { no_password: true });
    let permission = Permission { perm_type: 2, key: "a".into(), range_end: "b".into() };
    let mut auth = AuthClient::new(cluster.members[BASE].channel.clone());
    let changes = async {
        // What an earlier round left there is refused, and what it did not leave too.
        let _ = auth.user_delete(AuthUserDeleteRequest { name: name.clone() }).await;
        let _ = auth.role_delete(AuthRoleDeleteRequest { role: role.clone() }).await;
        let _ = auth.user_add(AuthUserAddRequest { name: name.clone(), options, ..Default::default() }).await;
        let _ = auth.role_add(AuthRoleAddRequest { name: role.clone() }).await;
        let grant = AuthRoleGrantPermissionRequest { name: role.clone(), perm: Some(permission) };
        let _ = auth.role_grant_permission(grant).await;
        let _ = auth.user_grant_role(AuthUserGrantRoleRequest { user: name, role }).await;
    };
    let _ = timeout(PATIENCE, changes).await;
}

/// All members know of the same keys, users, leases and members.
async fn agree(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.agree().await?;
    let is_same = async |cluster: &Cluster| {
        let mut known = Vec::new();
        for node in cluster.running() {
            let mut auth = AuthClient::new(node.channel.clone());
            let auth_revision = auth.auth_status(AuthStatusRequest {}).await?.into_inner().auth_revision;
            ensure!(auth_revision > 1, "no user was made");
            let users = auth.user_list(AuthUserListRequest {}).await?.into_inner().users;
            let leases = LeaseClient::new(node.channel.clone()).lease_leases(LeaseLeasesRequest {}).await?.into_inner();
            let leases: BTreeSet<i64> = leases.leases.iter().map(|lease| lease.id).collect();
            let list = node.cluster().member_list(MemberListRequest { linearizable: false }).await?.into_inner();
            known.push((auth_revision, users, leases, list.members));
        }
        ensure!(known.iter().all(|one| *one == known[0]), "the members differ: {known:?}");
        Ok(true)
    };
    // Leases end by themselves.
    cluster.wait("all members to know the same", is_same).await
}
