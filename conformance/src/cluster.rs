//! Clusters of several processes, each of its own kind: ours, real etcd's, or both.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use forebay_proto::etcdserverpb::{
    HashKvRequest, HashKvResponse, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MoveLeaderRequest,
    PutRequest, RangeRequest, RangeResponse, StatusRequest, StatusResponse, cluster_client::ClusterClient,
    kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use tempfile::TempDir;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{
    faraway::{Sky, Way, Weather},
    network::Network,
    target::{Kind, Process, data_dir, free_addresses, named_command},
};

/// How long the members of a cluster may take to agree on anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Several members. Their processes end with the value.
#[derive(Debug)]
pub struct Cluster {
    /// By the order in which they came.
    pub members: Vec<Node>,
    /// What every member is started with.
    args: Vec<String>,
    added: usize,
    // Dropped after the processes that are in it, and that write into it.
    network: Option<Network>,
    /// What happens on the way from one member to another, if it is a long one.
    sky: Option<Sky>,
    dir: TempDir,
}

/// One member.
#[derive(Debug)]
pub struct Node {
    /// What it is now.
    pub kind: Kind,
    name: String,
    client: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// How the other members get there, if they are far away.
    way: Option<Way>,
    initial_cluster: String,
    is_joining: bool,
    /// It was removed, and those who come later must not be told of it.
    is_gone: bool,
    process: Option<Process>,
    /// The connection to it.
    pub channel: Channel,
}

impl Node {
    /// Its KV service.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<StatusResponse, Status> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        Ok(client.status(StatusRequest {}).await?.into_inner())
    }

    /// Its id.
    pub async fn id(&self) -> anyhow::Result<u64> {
        Ok(self.status().await?.header.context("a status has a header")?.member_id)
    }

    /// Puts a key by way of this member.
    pub async fn put(&self, key: &str, value: &str) -> Result<i64, Status> {
        let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        Ok(self.kv().put(put).await?.into_inner().header.unwrap_or_default().revision)
    }

    /// Reads a key by way of this member; `serializable` takes what it has.
    pub async fn get(&self, key: &str, serializable: bool) -> Result<RangeResponse, Status> {
        let range = RangeRequest { key: key.to_owned().into(), serializable, ..Default::default() };
        Ok(self.kv().range(range).await?.into_inner())
    }

    /// The hash of its keys at a revision.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        Ok(client.hash_kv(HashKvRequest { revision }).await?.into_inner())
    }

    /// Its Cluster service.
    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    /// Where other members reach it.
    fn advertised_peer(&self) -> SocketAddr {
        self.way.as_ref().map_or(self.peer, |way| way.address)
    }

    /// Where it listens for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// Whether its process is meant to run.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// What it logged last.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, Process::log)
    }
}

impl Cluster {
    /// A new cluster of these kinds, one member each, that serves. `args` go to each.
    pub async fn start(kinds: &[Kind], args: &[&str]) -> anyhow::Result<Cluster> {
        Cluster::started(None, kinds, args).await
    }

    /// The same in a network of its own.
    pub async fn start_in(network: Network, kinds: &[Kind], args: &[&str]) -> anyhow::Result<Cluster> {
        Cluster::started(Some(network), kinds, args).await
    }

    /// The same with so much time between any two members, in each direction.
    pub async fn start_apart(delay: Duration, kinds: &[Kind], args: &[&str]) -> anyhow::Result<Cluster> {
        Cluster::start_under(&Sky::new(Weather { delay, ..Weather::default() }, 0), kinds, args).await
    }

    /// The same with a sky over what members send each other.
    pub async fn start_under(sky: &Sky, kinds: &[Kind], args: &[&str]) -> anyhow::Result<Cluster> {
        Cluster::laid_out(None, Some(sky.clone()), kinds, args)?.all_started().await
    }

    async fn started(network: Option<Network>, kinds: &[Kind], args: &[&str]) -> anyhow::Result<Cluster> {
        Cluster::planned(network, kinds, args)?.all_started().await
    }

    async fn all_started(mut self) -> anyhow::Result<Cluster> {
        for member in 0..self.members.len() {
            self.spawn(member)?;
        }
        self.serving().await?;
        Ok(self)
    }

    /// A new cluster of which no member runs yet.
    pub fn planned(network: Option<Network>, kinds: &[Kind], args: &[&str]) -> anyhow::Result<Cluster> {
        Cluster::laid_out(network, None, kinds, args)
    }

    fn laid_out(network: Option<Network>, sky: Option<Sky>, kinds: &[Kind], args: &[&str]) -> anyhow::Result<Cluster> {
        let dir = TempDir::with_prefix("conformance-cluster-")?;
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut cluster = Cluster { members: Vec::new(), args, added: 0, network, sky, dir };
        for kind in kinds {
            let node = cluster.node(*kind)?;
            cluster.members.push(node);
        }
        let initial = cluster.initial_cluster();
        for member in &mut cluster.members {
            member.initial_cluster.clone_from(&initial);
        }
        Ok(cluster)
    }

    /// The network that it was started in.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    fn node(&mut self, kind: Kind) -> anyhow::Result<Node> {
        let [client, peer] = match &self.network {
            Some(network) => network.place(self.added)?,
            None => free_addresses()?,
        };
        self.added += 1;
        let way = self.sky.clone().map(|sky| Way::to(peer, sky)).transpose()?;
        let channel = Endpoint::from_shared(format!("http://{client}"))?.connect_timeout(LIMIT).connect_lazy();
        let name = format!("m{}", self.added);
        Ok(Node {
            kind,
            name,
            client,
            peer,
            way,
            initial_cluster: String::new(),
            is_joining: false,
            is_gone: false,
            process: None,
            channel,
        })
    }

    fn initial_cluster(&self) -> String {
        let entries = self.members.iter().filter(|node| !node.is_gone);
        let entries = entries.map(|node| format!("{}=http://{}", node.name, node.advertised_peer()));
        entries.collect::<Vec<_>>().join(",")
    }

    /// Starts a member's process on what there is in its directory, and does not wait.
    pub fn spawn(&mut self, member: usize) -> anyhow::Result<()> {
        self.spawn_with(member, &[])
    }

    /// The same with variables in its environment.
    pub fn spawn_with(&mut self, member: usize, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        let node = &mut self.members[member];
        let dir = self.dir.path().join(&node.name);
        std::fs::create_dir_all(&dir)?;
        let mut command = named_command(node.kind, &node.name, &dir, node.client, node.peer)?;
        // Of a flag that is given twice, the last one counts.
        command.args(["--initial-advertise-peer-urls", &format!("http://{}", node.advertised_peer())]);
        command.args(["--initial-cluster", &node.initial_cluster]);
        command.args(["--initial-cluster-state", if node.is_joining { "existing" } else { "new" }]);
        command.args(&self.args);
        if let Some(network) = &self.network {
            command = network.inside(member, &command);
        }
        command.envs(variables.iter().copied());
        node.process = Some(Process::spawn(command, node.client, dir.join("log"))?);
        Ok(())
    }

    /// Waits until every member that runs serves.
    pub async fn serving(&mut self) -> anyhow::Result<()> {
        for node in &mut self.members {
            if let Some(process) = &mut node.process {
                process.serving().await?;
            }
        }
        Ok(())
    }

    /// Where a member keeps its files.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        data_dir(&self.dir.path().join(&self.members[member].name))
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].process.take() {
            process.kill();
        }
    }

    /// Sends a signal to a member.
    pub fn signal(&self, member: usize, signal: &str) -> anyhow::Result<()> {
        self.members[member].process.as_ref().context("it runs")?.signal(signal)
    }

    /// How a member has ended, if it has.
    pub fn exit(&mut self, member: usize) -> anyhow::Result<Option<ExitStatus>> {
        let node = &mut self.members[member];
        let status = node.process.as_mut().context("it runs")?.exit()?;
        if status.is_some() {
            node.process = None;
        }
        Ok(status)
    }

    /// A member that was removed: those who come later are not told of it.
    pub fn gone(&mut self, member: usize) {
        self.members[member].is_gone = true;
    }

    /// Asks a member to end, and waits until it has.
    pub async fn stop(&mut self, member: usize) -> anyhow::Result<()> {
        let mut process = self.members[member].process.take().context("it runs")?;
        process.terminate().await
    }

    /// Waits until a member has ended by itself, and says whether it called that a success.
    pub async fn ended(&mut self, member: usize) -> anyhow::Result<bool> {
        let mut process = self.members[member].process.take().context("it runs")?;
        Ok(process.ended().await?.success())
    }

    /// Waits until a member has refused to start, and returns what it said.
    pub async fn refused(&mut self, member: usize) -> anyhow::Result<String> {
        let mut process = self.members[member].process.take().context("it runs")?;
        ensure!(!process.ended().await?.success(), "the member ended and called it a success");
        Ok(process.log())
    }

    /// Starts a member that has ended, as this kind, and waits until it serves.
    pub async fn restart_as(&mut self, member: usize, kind: Kind) -> anyhow::Result<()> {
        self.members[member].kind = kind;
        self.spawn(member)?;
        self.serving().await
    }

    /// Adds a member and starts it, by way of member `by`. Waits until it serves.
    pub async fn join(&mut self, by: usize, kind: Kind, is_learner: bool) -> anyhow::Result<usize> {
        let mut node = self.node(kind)?;
        let add = MemberAddRequest { peer_ur_ls: vec![format!("http://{}", node.advertised_peer())], is_learner };
        // A cluster refuses while it is not sure that all members have long been well.
        let began = Instant::now();
        while let Err(status) = self.members[by].cluster().member_add(add.clone()).await {
            ensure!(began.elapsed() < LIMIT, "no member can be added: {status}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        node.is_joining = true;
        self.members.push(node);
        let member = self.members.len() - 1;
        let initial = self.initial_cluster();
        self.members[member].initial_cluster = initial;
        self.spawn(member)?;
        if is_learner {
            // It does not answer health checks, but says what it is.
            self.wait("the learner to answer", async |cluster| Ok(cluster.members[member].status().await?.is_learner))
                .await?;
        } else {
            self.serving().await?;
        }
        Ok(member)
    }

    /// Removes a member, by way of another one. Its place in the list stays.
    pub async fn remove(&self, by: usize, id: u64) -> Result<(), Status> {
        self.members[by].cluster().member_remove(MemberRemoveRequest { id }).await.map(drop)
    }

    /// Removes a member that has ended for good, by way of another one. Its place in the list stays.
    pub async fn replace(&mut self, by: usize, member: usize, id: u64) -> anyhow::Result<()> {
        self.remove(by, id).await?;
        self.gone(member);
        Ok(())
    }

    /// Makes a learner a voter once it is ready.
    pub async fn promote(&self, by: usize, id: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Err(status) = self.members[by].cluster().member_promote(MemberPromoteRequest { id }).await {
            ensure!(began.elapsed() < LIMIT, "the learner is not promoted: {status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Waits for something to become true. An error counts as not yet.
    pub async fn wait(&self, what: &str, until: impl AsyncFn(&Cluster) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let last = until(self).await;
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                let logs = self.members.iter().map(|node| format!("{} ({}):\n{}", node.name, node.kind, node.log()));
                bail!("waited too long for {what}: {last:?}\n{}", logs.collect::<Vec<_>>().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The members that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.members.iter().filter(|node| node.runs())
    }

    /// The leader that all running members name, by its place.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let found = std::cell::Cell::new(None);
        self.wait("one leader", async |cluster| {
            let mut named = Vec::new();
            for node in cluster.running() {
                named.push(node.status().await?.leader);
            }
            for (place, node) in cluster.members.iter().enumerate().filter(|(_, node)| node.runs()) {
                if named.iter().all(|leader| *leader == named[0]) && node.id().await? == named[0] {
                    found.set(Some(place));
                }
            }
            Ok(found.get().is_some())
        })
        .await?;
        found.get().context("a leader was found")
    }

    /// Has another member lead.
    pub async fn move_leader(&self, to: usize) -> anyhow::Result<()> {
        let leader = self.leader().await?;
        if leader != to {
            let target_id = self.members[to].id().await?;
            let mut client = MaintenanceClient::new(self.members[leader].channel.clone());
            client.move_leader(MoveLeaderRequest { target_id }).await?;
        }
        self.wait("the leader to move", async |cluster| Ok(cluster.leader().await? == to)).await
    }

    /// All running members hold the same keys at every revision; returns the revision.
    pub async fn agree(&self) -> anyhow::Result<i64> {
        let revision = std::cell::Cell::new(0);
        self.wait("all members to be at one revision", async |cluster| {
            let mut revisions = Vec::new();
            for node in cluster.running() {
                revisions.push(node.get("\0", true).await?.header.unwrap_or_default().revision);
            }
            revision.set(revisions[0]);
            Ok(revisions.iter().all(|revision| *revision == revisions[0]))
        })
        .await?;
        let mut hashes = Vec::new();
        for node in self.running() {
            hashes.push((&node.name, node.kind, node.hash_kv(revision.get()).await?.hash));
        }
        ensure!(hashes.iter().all(|(_, _, hash)| *hash == hashes[0].2), "the members differ: {hashes:?}");
        Ok(revision.get())
    }
}
