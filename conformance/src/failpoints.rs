//! K1: a member ends at every named place of its code, as by `kill -9`, and comes back; the cluster loses nothing.
//!
//! For each place a member is started that will end there. It lags far behind, so that its start leads through the log,
//! its db file and a snapshot of another member; then the cluster does everything that clusters do until the member has
//! come by the place. Clients and watchers are recorded all the time.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use forebay_loadtest::{
    check::{self, Report},
    history::{Recording, Setup},
};
use forebay_proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, LeaseGrantRequest, LeaseRevokeRequest, MemberAddRequest, MoveLeaderRequest,
    lease_client::LeaseClient, maintenance_client::MaintenanceClient,
};
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, LIMIT},
    faults,
    target::{Kind, free_addresses, named_command},
};

/// Who ends, and who is there for it to lag behind and to fall behind it.
const ENDING: usize = 2;
const OTHER: usize = 1;
const BASE: usize = 0;

const ARGS: [&str; 5] = [
    "--snapshot-count=10",
    "--snapshot-catchup-entries=5",
    "--max-snapshots=1",
    "--max-wals=1",
    "--feature-gates=LeaseCheckpoint=true",
];

/// Places that only a member without files comes by.
const OF_A_NEW_MEMBER: [&str; 3] = ["wal-create-built", "wal-created", "db-created"];

/// The place that only a member comes by that ended at another: a received db waits for being installed.
const AFTER_ANOTHER: (&str, &str) = ("start-install", "raft-restore");

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
    let setup = Setup { seed, compacts: true, timeout: Duration::from_secs(2), ..Setup::default() };
    let recording = Recording::begin(setup, &faults::connections(&cluster).await?).await?;
    let (mut struck, mut missed) = (0, Vec::new());
    for name in names.iter().filter(|name| !OF_A_NEW_MEMBER.contains(&name.as_str())) {
        for repetition in 1..=repetitions {
            let began = Instant::now();
            let ended = end_at(&mut cluster, name, repetition).await.with_context(|| format!("at {name}"))?;
            if ended {
                struck += 1;
                cluster.restart_as(ENDING, Kind::Server).await.with_context(|| format!("after {name}"))?;
            } else {
                missed.push(name.clone());
            }
            println!("{name}:{repetition} {} after {:.1?}", if ended { "struck" } else { "missed" }, began.elapsed());
        }
    }
    let report = check::check(&recording.end().await);
    ensure!(report.violations.is_empty(), "{}", report.summary());
    cluster.agree().await?;
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
    cluster.spawn_with(ENDING, &[("FOREBAY_FAILPOINT", &format!("{name}:{count}"))])?;
    let is_big = ["wal-cut", "wal-re"].iter().any(|prefix| name.starts_with(prefix));
    for round in 0..4 {
        for work in WORK.into_iter().filter(|work| is_big || !matches!(work, Work::Segments)) {
            if has_ended(cluster, ENDING)? {
                return Ok(true);
            }
            // Whoever ends meanwhile answers nobody: what is refused is refused.
            let _ = tokio::time::timeout(LIMIT, does(cluster, work, round)).await;
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
#[derive(Clone, Copy)]
enum Work {
    Puts,
    Leases,
    Compaction,
    Defragmentation,
    Segments,
    Lead,
    Laggard,
    Membership,
}

const WORK: [Work; 8] = [
    Work::Puts,
    Work::Leases,
    Work::Compaction,
    Work::Defragmentation,
    Work::Segments,
    Work::Lead,
    Work::Laggard,
    Work::Membership,
];

async fn does(cluster: &mut Cluster, work: Work, round: usize) -> anyhow::Result<()> {
    match work {
        Work::Puts => puts(cluster, BASE, 30).await,
        Work::Leases => {
            let mut leases = LeaseClient::new(cluster.members[BASE].channel.clone());
            for id in [1, 2] {
                let _ = leases.lease_grant(LeaseGrantRequest { id, ttl: 1 }).await;
            }
            let _ = leases.lease_revoke(LeaseRevokeRequest { id: 1 }).await;
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
            for _ in 0..150 {
                cluster.members[BASE].put("big", &"v".repeat(1 << 20)).await?;
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
    }
    Ok(())
}

async fn lead(cluster: &Cluster, member: usize) -> anyhow::Result<()> {
    let target_id = cluster.members[member].id().await?;
    for node in cluster.running() {
        let status = node.status().await?;
        if status.leader == status.header.map_or(0, |header| header.member_id) && status.leader != target_id {
            let mut client = MaintenanceClient::new(node.channel.clone());
            client.move_leader(MoveLeaderRequest { target_id }).await?;
        }
    }
    Ok(())
}

async fn puts(cluster: &Cluster, by: usize, count: usize) {
    for _ in 0..count {
        // Refused while somebody is elected.
        let _ = cluster.members[by].put("base", "value").await;
    }
}
