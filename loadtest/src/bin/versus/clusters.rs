//! Clusters of several members, ours and etcd's, in turns: throughput over all members, how long nobody writes after the
//! leader was killed, and how long a member takes to catch up that was away.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use forebay_loadtest::{
    client::{Connection, Target},
    process::{Process, etcd_flags, free_address},
    work::Work,
};
use forebay_proto::etcdserverpb::{
    PutRequest, RangeRequest, StatusRequest, StatusResponse, kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    CLIENTS, CONNECTIONS, KEYS, Options,
    report::{Figures, median},
};

/// How long a cluster may take for anything that is not measured by the length of a run.
const LIMIT: Duration = Duration::from_secs(300);

/// Bytes of the values that a member has to catch up with.
const BIG: usize = 64 << 10;

struct Member {
    args: Vec<String>,
    address: std::net::SocketAddr,
    log: PathBuf,
    process: Option<Process>,
    connection: Option<Connection>,
}

struct Cluster {
    name: &'static str,
    program: PathBuf,
    members: Vec<Member>,
}

impl Member {
    async fn connect(&mut self) -> anyhow::Result<Connection> {
        if self.connection.is_none() {
            let began = Instant::now();
            self.connection = loop {
                match Target::at(self.address).connect(1).await {
                    Ok(mut connections) => break connections.pop(),
                    Err(error) if began.elapsed() > LIMIT => return Err(error),
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            };
        }
        Ok(self.connection.clone().expect("it was connected above"))
    }

    async fn status(&mut self) -> anyhow::Result<StatusResponse> {
        let connection = self.connect().await?;
        Ok(MaintenanceClient::new(connection).status(StatusRequest {}).await?.into_inner())
    }

    /// The revision that it has.
    async fn revision(&mut self) -> anyhow::Result<i64> {
        let range = RangeRequest { key: "\0".into(), serializable: true, ..Default::default() };
        let answer = KvClient::new(self.connect().await?).range(range).await?.into_inner();
        Ok(answer.header.context("an answer has a header")?.revision)
    }
}

impl Cluster {
    async fn start(
        name: &'static str,
        program: &Path,
        command: &[&str],
        scratch: &Path,
        size: usize,
    ) -> anyhow::Result<Self> {
        let mut addresses = Vec::new();
        for _ in 0..size {
            addresses.push((free_address()?, free_address()?));
        }
        let entries = addresses.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://{peer}"));
        let initial = entries.collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for (n, (address, peer)) in addresses.iter().copied().enumerate() {
            let dir = scratch.join(format!("{name}-{n}"));
            let mut args: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
            args.extend(etcd_flags(&dir, "http", address, peer));
            args.retain(|arg| !arg.starts_with("--initial-cluster="));
            args.extend([format!("--name=m{n}"), format!("--initial-cluster={initial}")]);
            let log = scratch.join(format!("{name}-{n}.log"));
            members.push(Member { args, address, log, process: None, connection: None });
        }
        let mut cluster = Cluster { name, program: program.to_owned(), members };
        // Only together do they listen for clients, so each is spawned before any is waited for.
        let mut starts = JoinSet::new();
        for (n, member) in cluster.members.iter().enumerate() {
            let (program, args, address, log) =
                (program.to_owned(), member.args.clone(), member.address, member.log.clone());
            starts.spawn_blocking(move || Process::start(&program, &args, address, log).map(|process| (n, process)));
        }
        while let Some(started) = starts.join_next().await {
            let (n, process) = started??;
            cluster.members[n].process = Some(process);
        }
        cluster.leader().await?;
        KEYS.load(&cluster.connections().await?, "key/").await.with_context(|| format!("loading {name}"))?;
        Ok(cluster)
    }

    /// Connections that are spread over all members that run.
    async fn connections(&self) -> anyhow::Result<Vec<Connection>> {
        let running = self.members.iter().filter(|member| member.process.is_some());
        let endpoints = running.map(|member| member.address.to_string()).collect();
        let target = Target { endpoints, tls: None, user: None, dial_timeout: Duration::from_secs(5), source: None };
        target.connect(CONNECTIONS.next_multiple_of(self.members.len())).await
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        self.members.iter().filter_map(|member| member.process.as_ref()).map(Process::cpu).sum()
    }

    /// The place of the leader that all running members name.
    async fn leader(&mut self) -> anyhow::Result<usize> {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            let (mut running, mut told) = (0, Vec::new());
            for (place, member) in self.members.iter_mut().enumerate().filter(|(_, member)| member.process.is_some()) {
                running += 1;
                if let Ok(StatusResponse { header: Some(header), leader, .. }) = member.status().await {
                    told.push((place, header.member_id, leader));
                }
            }
            let agreed = told
                .first()
                .map(|(_, _, leader)| *leader)
                .filter(|first| told.len() == running && told.iter().all(|(_, _, leader)| leader == first));
            if let Some((place, ..)) = told.iter().find(|(_, id, _)| Some(*id) == agreed) {
                return Ok(*place);
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("{} has no leader", self.name)
    }

    fn kill(&mut self, member: usize) {
        self.members[member].process = None;
        self.members[member].connection = None;
    }

    /// Starts a member again, and does not wait for more than that it listens.
    async fn restart(&mut self, member: usize) -> anyhow::Result<()> {
        let (program, Member { args, address, log, .. }) = (self.program.clone(), &self.members[member]);
        let (args, address, log) = (args.clone(), *address, log.clone());
        let started = tokio::task::spawn_blocking(move || Process::start(&program, &args, address, log));
        self.members[member].process = Some(started.await??);
        Ok(())
    }

    /// Waits until a member has what another one has.
    async fn caught_up(&mut self, member: usize, revision: i64) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.members[member].revision().await.is_ok_and(|found| found >= revision) {
            ensure!(began.elapsed() < LIMIT, "{} does not catch up", self.name);
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Runs some work over all members.
    async fn measured(&mut self, work: Work, duration: Duration) -> anyhow::Result<Figures> {
        let connections = self.connections().await?;
        let before = self.cpu()?;
        let counted = work.run(&connections, CLIENTS, KEYS, duration).await.context(self.name)?;
        Ok(Figures::of(&counted, self.cpu()? - before, Duration::ZERO))
    }

    /// Kills the leader; how long it takes until a write is acknowledged that was asked for afterwards.
    async fn failover(&mut self) -> anyhow::Result<Duration> {
        let leader = self.leader().await?;
        let other = (leader + 1) % self.members.len();
        let connection = self.members[other].connect().await?;
        self.kill(leader);
        let began = Instant::now();
        loop {
            // A write that found no leader may be held for seconds: others are sent meanwhile.
            let put = PutRequest { key: "failover".into(), value: "1".into(), ..Default::default() };
            let mut client = KvClient::new(connection.clone());
            let answered = tokio::time::timeout(Duration::from_millis(100), client.put(put)).await;
            if matches!(answered, Ok(Ok(_))) {
                break;
            }
            ensure!(began.elapsed() < LIMIT, "{} does not go on without its leader", self.name);
            sleep(Duration::from_millis(5)).await;
        }
        let took = began.elapsed();
        let revision = self.members[other].revision().await?;
        self.restart(leader).await?;
        self.caught_up(leader, revision).await?;
        Ok(took)
    }

    /// Has a follower miss so many bytes; how long it takes from its start until it has them.
    async fn catch_up(&mut self, bytes: usize) -> anyhow::Result<Duration> {
        let leader = self.leader().await?;
        let follower = (leader + 1) % self.members.len();
        self.kill(follower);
        let value = Bytes::from((0..BIG).map(|n| (n * 131 % 251) as u8).collect::<Vec<_>>());
        let (count, writers) = (bytes / BIG, 8);
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let (value, mut client) = (value.clone(), KvClient::new(self.members[leader].connect().await?));
            tasks.spawn(async move {
                for n in (writer..count).step_by(writers) {
                    let key = format!("big/{n:08}").into();
                    client.put(PutRequest { key, value: value.clone(), ..Default::default() }).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        let revision = self.members[leader].revision().await?;
        // What others wrote, and the cluster before this one, is not to wait for the disk meanwhile.
        let synced = tokio::task::spawn_blocking(|| Command::new("sync").status()).await??;
        ensure!(synced.success(), "sync ended with {synced}");
        let began = Instant::now();
        self.restart(follower).await?;
        self.caught_up(follower, revision).await?;
        Ok(began.elapsed())
    }
}

/// Compares clusters of so many members, and prints what it finds.
pub async fn compare(options: &Options, members: usize) -> anyhow::Result<()> {
    options.check_rows(&["put", "get", "failover", "catch-up"])?;
    let scratch = tempfile::tempdir()?;
    let mut clusters = Vec::new();
    if let Some(etcd) = &options.etcd {
        clusters.push(Cluster::start("etcd", etcd, &[], scratch.path(), members).await?);
    }
    if let Some(forebay) = &options.forebay {
        clusters.push(Cluster::start("forebay", forebay, &["server"], scratch.path(), members).await?);
    }
    for (row, work) in [("put", Work::Put), ("get", Work::Get)] {
        if !options.runs(row) {
            continue;
        }
        let mut rounds = Vec::new();
        for _ in 0..options.rounds {
            let mut round = Vec::new();
            for cluster in &mut clusters {
                round.push(cluster.measured(work, options.duration()).await?);
            }
            rounds.push(round);
        }
        for (place, cluster) in clusters.iter().enumerate() {
            let all =
                |of: fn(&Figures) -> f64| median(rounds.iter().map(|round| of(&round[place]))).unwrap_or_default();
            let multiple = |of: fn(&Figures) -> f64| {
                median(rounds.iter().map(|round| of(&round[place]) / of(&round[0]))).unwrap_or_default()
            };
            println!(
                "{row:<14} {:<11} {:>11.0} /s {:>9.2} us CPU of all   x {}: rate {:.2} cpu {:.3}",
                cluster.name,
                all(Figures::rate),
                all(Figures::cpu_us),
                clusters[0].name,
                multiple(Figures::rate),
                multiple(Figures::cpu_us)
            );
        }
    }
    if options.runs("failover") {
        let mut took = vec![Vec::new(); clusters.len()];
        for _ in 0..options.rounds {
            for (took, cluster) in took.iter_mut().zip(&mut clusters) {
                took.push(cluster.failover().await?.as_secs_f64());
            }
        }
        for (took, cluster) in took.iter().zip(&clusters) {
            let worst = took.iter().copied().fold(0.0, f64::max);
            println!(
                "failover       {:<11} {:>8.2} s median {worst:>8.2} s at worst",
                cluster.name,
                median(took.iter().copied()).unwrap_or_default()
            );
        }
    }
    if options.runs("catch-up") {
        for cluster in &mut clusters {
            let took = cluster.catch_up(options.behind_mib << 20).await?.as_secs_f64();
            println!("catch-up       {:<11} {took:>8.2} s for {} MiB", cluster.name, options.behind_mib);
        }
    }
    Ok(())
}
