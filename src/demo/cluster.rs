//! The processes of a demo: this binary again, as members and as a gateway. They end with the value.

use std::{
    env, fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use forebay_loadtest::process::free_address;
use forebay_proto::etcdserverpb::{RangeRequest, kv_client::KvClient};
use tonic::transport::Endpoint;

const MEMBERS: usize = 3;
/// How long a process may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Where clients look first.
const USUAL_PORT: u16 = 2379;

pub(super) struct Cluster {
    /// The members' client URLs.
    pub(super) members: Vec<String>,
    processes: Vec<Child>,
}

impl Cluster {
    /// A new cluster in a folder; waits until it can be read.
    pub(super) async fn start(dir: &Path) -> anyhow::Result<Cluster> {
        let ports = (0..2 * MEMBERS).map(|_| free_port()).collect::<anyhow::Result<Vec<_>>>()?;
        let (clients, peers) = ports.split_at(MEMBERS);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let initial: Vec<String> =
            peers.iter().enumerate().map(|(number, port)| format!("m{number}={}", url(port))).collect();
        let mut cluster = Cluster { members: clients.iter().map(url).collect(), processes: Vec::new() };
        for (number, peer) in peers.iter().enumerate() {
            let (client, peer) = (cluster.members[number].clone(), url(peer));
            let mut command = forebay("server")?;
            command.args(["--name", &format!("m{number}"), "--initial-cluster", &initial.join(",")]);
            command.arg("--data-dir").arg(dir.join(format!("m{number}")));
            for (flag, value) in [
                ("--listen-client-urls", &client),
                ("--advertise-client-urls", &client),
                ("--listen-peer-urls", &peer),
                ("--initial-advertise-peer-urls", &peer),
            ] {
                command.args([flag, value]);
            }
            cluster.spawn(command, &dir.join(format!("m{number}.log")))?;
        }
        for member in &cluster.members {
            answers(member, dir).await?;
        }
        Ok(cluster)
    }

    /// A gateway in front of all members, at etcd's port if that is free. Its URL.
    pub(super) async fn gateway(&mut self, dir: &Path, policy: &Path) -> anyhow::Result<String> {
        let port = match TcpListener::bind(("127.0.0.1", USUAL_PORT)) {
            Ok(_) => USUAL_PORT,
            Err(_) => free_port()?,
        };
        let url = format!("http://127.0.0.1:{port}");
        let mut command = forebay("gateway")?;
        command.args(["--endpoints", &self.members.join(","), "--listen-client-urls", &url, "--policy"]).arg(policy);
        self.spawn(command, &dir.join("gateway.log"))?;
        answers(&url, dir).await?;
        Ok(url)
    }

    /// Has the kernel count each process' peak of memory from now on.
    pub(super) fn forget_memory_peak(&self) -> anyhow::Result<()> {
        for child in &self.processes {
            let path = format!("/proc/{}/clear_refs", child.id());
            fs::write(&path, "5").with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    }

    /// The sum of the most memory that each process has had since.
    pub(super) fn memory_peak(&self) -> u64 {
        let peak = |child: &Child| {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.processes.iter().filter_map(peak).sum::<u64>() << 10
    }

    fn spawn(&mut self, mut command: Command, log: &Path) -> anyhow::Result<()> {
        let log = fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes.push(command.spawn().context("cannot start this binary again")?);
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.processes {
            // Either fails only for a child that is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// This binary in another role, without what the shell says to etcd or to us.
fn forebay(role: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args([role, "--log-level", "warn"]);
    for (name, _) in env::vars_os() {
        if ["ETCD", "FOREBAY_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Waits until a linearizable read is answered.
async fn answers(url: &str, dir: &Path) -> anyhow::Result<()> {
    let mut kv = KvClient::new(Endpoint::from_shared(url.to_owned())?.connect_lazy());
    let began = Instant::now();
    loop {
        match kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await {
            Ok(_) => return Ok(()),
            Err(status) => ensure!(
                began.elapsed() < START_LIMIT,
                "{url} does not answer: {status}; its log is in {}",
                dir.display()
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(free_address()?.port())
}
