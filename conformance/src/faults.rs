//! Three real members under whatever can be done to a process from outside, with everything recorded that clients and
//! watchers see, and checked: linearizability and the watch guarantees, and at the end equal hashes on all members.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use forebay_loadtest::{
    check::{self, Report},
    client::{Connection, Target as Client},
    history::{Recording, Setup},
};
use forebay_proto::etcdserverpb::{
    DefragmentRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseTimeToLiveRequest, MoveLeaderRequest, PutRequest, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Status, transport::Channel};

use crate::{
    cluster::{Cluster, LIMIT},
    faraway::{Sky, Weather},
    network::Network,
    target::Kind,
};

/// How long a cluster is left alone after a fault: an election and a few operations.
const WELL: Duration = Duration::from_millis(1500);

/// Snapshots and compactions of the log all the time.
const BUSY: [&str; 2] = ["--snapshot-count=10", "--snapshot-catchup-entries=5"];

/// Connections to each of the members.
pub async fn connections(cluster: &Cluster) -> anyhow::Result<Vec<Connection>> {
    let mut all = Vec::new();
    for node in cluster.running() {
        let (endpoints, dial_timeout) = (vec![node.url()], Duration::from_secs(1));
        let client = Client { endpoints, tls: None, user: None, dial_timeout, source: None };
        all.extend(client.connect(1).await?);
    }
    Ok(all)
}

/// Begins to record what clients of all members see; nobody else writes.
pub async fn record(cluster: &Cluster, seed: u64) -> anyhow::Result<Recording> {
    let setup = Setup { seed, exclusive: true, compacts: true, timeout: Duration::from_secs(2), ..Setup::default() };
    Recording::begin(setup, &connections(cluster).await?).await
}

/// Ends a recording of a cluster that is well, and checks it.
pub async fn checked(cluster: &Cluster, recording: Recording) -> anyhow::Result<Report> {
    sleep(WELL).await;
    let report = check::check(&recording.end().await);
    ensure!(report.violations.is_empty(), "{}", report.summary());
    cluster.agree().await?;
    Ok(report)
}

async fn three() -> anyhow::Result<Cluster> {
    Cluster::start(&[Kind::Server; 3], &BUSY).await
}

/// K2: one member after the other is killed, whichever it is, and comes back.
pub async fn kills(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let mut cluster = three().await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let recording = record(&cluster, seed).await?;
    for cycle in 0..cycles {
        sleep(Duration::from_millis(rng.random_range(50..400))).await;
        let member = rng.random_range(0..3);
        cluster.kill(member);
        // Sometimes at once, sometimes so late that the others are far ahead.
        sleep(Duration::from_millis(rng.random_range(0..200))).await;
        cluster.restart_as(member, Kind::Server).await.with_context(|| format!("cycle {cycle} of seed {seed}"))?;
    }
    checked(&cluster, recording).await
}

/// K4: all members are killed at once.
pub async fn kills_of_all(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let mut cluster = three().await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let recording = record(&cluster, seed).await?;
    for cycle in 0..cycles {
        sleep(Duration::from_millis(rng.random_range(200..1000))).await;
        (0..3).for_each(|member| cluster.kill(member));
        for member in 0..3 {
            cluster.spawn(member)?;
        }
        cluster.serving().await.with_context(|| format!("cycle {cycle} of seed {seed}"))?;
    }
    checked(&cluster, recording).await
}

/// K8: members are defragmented while others write and compact; every other one ends in the middle of it.
pub async fn defragmentations(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let mut cluster = three().await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let recording = record(&cluster, seed).await?;
    for cycle in 0..cycles {
        let member = rng.random_range(0..3);
        let mut client = MaintenanceClient::new(cluster.members[member].channel.clone());
        let defragmentation = tokio::spawn(async move { client.defragment(DefragmentRequest {}).await });
        if cycle % 2 == 0 {
            defragmentation.await?.with_context(|| format!("cycle {cycle} of seed {seed}"))?;
        } else {
            sleep(Duration::from_millis(rng.random_range(0..30))).await;
            cluster.kill(member);
            cluster.restart_as(member, Kind::Server).await.with_context(|| format!("cycle {cycle} of seed {seed}"))?;
            // Who asked for it hears that it was done, or nothing.
            let _ = defragmentation.await?;
        }
    }
    checked(&cluster, recording).await
}

/// N4: the leader is stopped with reads on their way, and goes on when another leads.
pub async fn pauses(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let cluster = three().await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let recording = record(&cluster, seed).await?;
    for _ in 0..cycles {
        let leader = cluster.leader().await?;
        cluster.signal(leader, "STOP")?;
        sleep(Duration::from_millis(rng.random_range(500..4000))).await;
        cluster.signal(leader, "CONT")?;
        sleep(WELL).await;
    }
    checked(&cluster, recording).await
}

/// N5: the leader is moved all the time, and members are killed meanwhile.
pub async fn moves(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let mut cluster = three().await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let recording = record(&cluster, seed).await?;
    for cycle in 0..cycles {
        for _ in 0..5 {
            let leader = cluster.leader().await?;
            let target_id = cluster.members[(leader + 1 + rng.random_range(0..2)) % 3].id().await?;
            let mut client = MaintenanceClient::new(cluster.members[leader].channel.clone());
            // It may have lost the lead since.
            let _ = client.move_leader(MoveLeaderRequest { target_id }).await;
            sleep(Duration::from_millis(300)).await;
        }
        let member = rng.random_range(0..3);
        cluster.kill(member);
        cluster.restart_as(member, Kind::Server).await.with_context(|| format!("cycle {cycle} of seed {seed}"))?;
    }
    checked(&cluster, recording).await
}

/// N6: a follower is stopped until the others have left it behind for good, with watchers on it; it gets a snapshot.
pub async fn laggards(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let cluster = three().await?;
    let recording = record(&cluster, seed).await?;
    for _ in 0..cycles {
        let leader = cluster.leader().await?;
        let follower = (leader + 1) % 3;
        cluster.signal(follower, "STOP")?;
        let behind = cluster.members[leader].status().await?.raft_index + 200;
        let is_behind = async |cluster: &Cluster| Ok(cluster.members[leader].status().await?.raft_index > behind);
        cluster.wait("the others to go on", is_behind).await?;
        cluster.signal(follower, "CONT")?;
        sleep(WELL).await;
    }
    checked(&cluster, recording).await
}

/// N9: members are added as learners, promoted and removed, the leader too, while clients go on.
pub async fn replacements(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let mut cluster = three().await?;
    // Who is recorded stays; the fourth place changes.
    let recording = record(&cluster, seed).await?;
    for _ in 0..cycles {
        let added = cluster.join(0, Kind::Server, true).await?;
        let id = cluster.members[added].id().await?;
        cluster.promote(0, id).await?;
        cluster.serving().await?;
        cluster.move_leader(added).await?;
        // A cluster refuses while it is not sure that all members have been well for five seconds.
        cluster.wait("the leader to be removed", async |cluster| Ok(cluster.remove(0, id).await.is_ok())).await?;
        ensure!(cluster.ended(added).await?, "a removed member ends well");
        cluster.gone(added);
        cluster.leader().await?;
        sleep(WELL).await;
    }
    checked(&cluster, recording).await
}

/// How a network falls apart.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// The leader alone.
    Leader,
    /// A follower alone.
    Follower,
    /// Two that do not reach each other, and one that reaches both.
    Bridge,
    /// The leader is heard, and hears nobody.
    Deaf,
    /// The leader hears, and is heard by nobody.
    Mute,
}

impl Cut {
    /// All of them.
    pub const ALL: [Cut; 5] = [Cut::Leader, Cut::Follower, Cut::Bridge, Cut::Deaf, Cut::Mute];

    /// Whose messages do not reach whom.
    fn ways(self, leader: usize) -> Vec<(usize, usize)> {
        let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
        match self {
            Cut::Leader => vec![(leader, one), (leader, other), (one, leader), (other, leader)],
            Cut::Follower => vec![(one, leader), (one, other), (leader, one), (other, one)],
            Cut::Bridge => vec![(leader, one), (one, leader)],
            Cut::Deaf => vec![(one, leader), (other, leader)],
            Cut::Mute => vec![(leader, one), (leader, other)],
        }
    }
}

/// N1, N2: members in namespaces, between which ways are cut.
pub async fn cuts(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let cluster = Cluster::start_in(Network::new(3)?, &[Kind::Server; 3], &BUSY).await?;
    let network = cluster.network().context("it was given one")?;
    let recording = record(&cluster, seed).await?;
    for _ in 0..cycles {
        for cut in Cut::ALL {
            let leader = cluster.leader().await?;
            for (from, to) in cut.ways(leader) {
                network.cut(from, to)?;
            }
            let is_alone = matches!(cut, Cut::Leader | Cut::Deaf | Cut::Mute);
            let elected = cluster.wait("another leader, or the same", async |cluster| {
                let others = [(leader + 1) % 3, (leader + 2) % 3];
                let mut named = Vec::new();
                for other in others {
                    named.push(cluster.members[other].status().await?.leader);
                }
                let of_old = cluster.members[leader].id().await?;
                Ok(!is_alone || named[0] != 0 && named[0] == named[1] && named[0] != of_old)
            });
            elected.await.with_context(|| format!("{cut:?}"))?;
            sleep(WELL).await;
            network.heal();
            cluster.leader().await.with_context(|| format!("after {cut:?}"))?;
            sleep(WELL).await;
        }
    }
    checked(&cluster, recording).await
}

/// N3: what members send each other is slow, is lost, waits for a narrow way, or is cut off again and again.
pub async fn weathers(cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let sky = Sky::new(Weather::default(), seed);
    let cluster = Cluster::start_under(&sky, &[Kind::Server; 3], &BUSY).await?;
    let recording = record(&cluster, seed).await?;
    let ms = Duration::from_millis;
    let bad = [
        Weather { delay: ms(25), jitter: ms(100), ..Weather::default() },
        Weather { loss: 0.5, ..Weather::default() },
        // A megabit.
        Weather { bytes_per_second: Some(125_000), ..Weather::default() },
        Weather { delay: ms(25), jitter: ms(50), loss: 0.2, bytes_per_second: Some(125_000) },
    ];
    for _ in 0..cycles {
        for weather in bad {
            sky.set(weather);
            sleep(WELL).await;
            for _ in 0..10 {
                sky.storm();
                sleep(ms(50)).await;
            }
            sky.set(Weather::default());
            cluster.leader().await.with_context(|| format!("after {weather:?}"))?;
            sleep(WELL).await;
        }
    }
    checked(&cluster, recording).await
}

/// What a leader that takes many leases over is like.
#[derive(Debug)]
pub struct TakenOver {
    /// From the end of the old leader until a write was acknowledged.
    pub written: Duration,
    /// The same until a lease was renewed.
    pub renewed: Duration,
}

/// L4: the leader of a cluster with so many leases is killed. The next one knows all of them, and ends none early.
pub async fn many_leases(count: i64) -> anyhow::Result<TakenOver> {
    const GRANTERS: i64 = 64;
    let mut cluster = Cluster::start(&[Kind::Server; 3], &[]).await?;
    let ttl = 600;
    let mut granters = JoinSet::new();
    for first in 1..=GRANTERS {
        let mut leases = LeaseClient::new(cluster.members[first as usize % 3].channel.clone());
        granters.spawn(async move {
            for id in (first..=count).step_by(GRANTERS as usize) {
                leases.lease_grant(LeaseGrantRequest { id, ttl }).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(granted) = granters.join_next().await {
        granted??;
    }
    let leader = cluster.leader().await?;
    let other = (leader + 1) % 3;
    cluster.kill(leader);
    let began = Instant::now();
    let soon = Duration::from_millis(200);
    while !matches!(timeout(soon, cluster.members[other].put("a", "1")).await, Ok(Ok(_))) {
        ensure!(began.elapsed() < LIMIT, "nobody takes over");
    }
    let written = began.elapsed();
    let channel = cluster.members[other].channel.clone();
    while !matches!(timeout(soon, renew(channel.clone(), count)).await, Ok(Ok(Some(answer))) if answer.ttl == ttl) {
        ensure!(began.elapsed() < LIMIT, "nobody renews a lease");
    }
    let renewed = began.elapsed();
    for node in cluster.running() {
        // Whoever has carried this out knows what came before.
        node.put("a", "2").await?;
        let mut leases = LeaseClient::new(node.channel.clone()).max_decoding_message_size(usize::MAX);
        let mut listed: Vec<i64> = leases
            .lease_leases(LeaseLeasesRequest {})
            .await?
            .into_inner()
            .leases
            .iter()
            .map(|lease| lease.id)
            .collect();
        listed.sort_unstable();
        ensure!(listed.iter().copied().eq(1..=count), "{} of {count} leases are left", listed.len());
    }
    let mut leases = LeaseClient::new(channel);
    for id in (1..=count).step_by(997) {
        let left = leases.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: false }).await?.into_inner().ttl;
        let least = ttl - began.elapsed().as_secs() as i64 - 1;
        ensure!(left >= least, "lease {id} has {left} s left and was promised {least}");
    }
    Ok(TakenOver { written, renewed })
}

/// How long a lease lives after it was renewed.
const TTL: Duration = Duration::from_secs(10);

/// How leases fared.
#[derive(Debug)]
pub struct Kept {
    /// Answered renewals, of all leases.
    pub renewals: u64,
    /// Leases that nobody could renew in time.
    pub lapsed: usize,
    /// From the last renewal until the last lease was gone.
    pub gone_after: Duration,
}

/// L1: leases that are renewed by way of each member live on while leaders are killed and stopped, and end when nobody
/// renews them any more.
pub async fn leases(cycles: usize, seed: u64) -> anyhow::Result<Kept> {
    let mut cluster = three().await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let over = Arc::new(AtomicBool::new(false));
    let mut keepers = JoinSet::new();
    for (member, id) in (1..).enumerate().take(3) {
        let channel = cluster.members[member].channel.clone();
        let asked = Instant::now();
        let grant = LeaseGrantRequest { id, ttl: TTL.as_secs() as i64 };
        LeaseClient::new(channel.clone()).lease_grant(grant).await?;
        let (key, value) = (format!("kept/{id}").into(), "1".into());
        cluster.members[member].kv().put(PutRequest { key, value, lease: id, ..Default::default() }).await?;
        keepers.spawn(keep(channel, id, asked, over.clone()));
    }
    for cycle in 0..cycles {
        let leader = cluster.leader().await?;
        if cycle % 2 == 0 {
            cluster.kill(leader);
            sleep(WELL).await;
            cluster.restart_as(leader, Kind::Server).await?;
        } else {
            cluster.signal(leader, "STOP")?;
            sleep(Duration::from_millis(rng.random_range(500..4000))).await;
            cluster.signal(leader, "CONT")?;
            sleep(WELL).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    let (mut renewals, mut lapsed, mut last) = (0, 0, Instant::now());
    while let Some(kept) = keepers.join_next().await {
        let (count, renewed) = kept??;
        (renewals, last) = (renewals + count, last.max(renewed));
        lapsed += usize::from(renewed.elapsed() >= TTL);
    }
    let mut leases = LeaseClient::new(cluster.members[0].channel.clone());
    for id in 1..=3 {
        while leases.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: false }).await?.into_inner().ttl >= 0 {
            ensure!(last.elapsed() < TTL + LIMIT, "lease {id} outlives {:?}", last.elapsed());
            sleep(Duration::from_millis(50)).await;
        }
    }
    let gone_after = last.elapsed();
    for id in 1..=3 {
        let left = cluster.members[0].get(&format!("kept/{id}"), false).await?.count;
        ensure!(left == 0, "the key of lease {id} is still there");
    }
    Ok(Kept { renewals, lapsed, gone_after })
}

/// Renews a lease until it is over; how often that was answered, and when what was answered last had been asked.
async fn keep(
    channel: Channel,
    id: i64,
    mut renewed: Instant,
    over: Arc<AtomicBool>,
) -> anyhow::Result<(u64, Instant)> {
    let mut renewals = 0;
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        // Nobody answers while nobody leads.
        if let Ok(Ok(Some(answer))) = timeout(Duration::from_secs(1), renew(channel.clone(), id)).await {
            if answer.ttl > 0 {
                (renewals, renewed) = (renewals + 1, asked);
            } else {
                let lived = renewed.elapsed();
                ensure!(lived >= TTL, "lease {id} was gone {lived:?} after it had been renewed");
            }
        }
        sleep(Duration::from_millis(300)).await;
    }
    Ok((renewals, renewed))
}

async fn renew(channel: Channel, id: i64) -> Result<Option<LeaseKeepAliveResponse>, Status> {
    let once = futures::stream::iter([LeaseKeepAliveRequest { id }]);
    LeaseClient::new(channel).lease_keep_alive(once).await?.into_inner().message().await
}
