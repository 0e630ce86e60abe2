//! A running process that speaks etcd's protocol, on ports and in a folder of its own.

use std::{
    fmt,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use forebay_loadtest::process::{cpu_of, free_address, rss_of};
use forebay_proto::etcdserverpb::{
    MemberListRequest, SnapshotRequest, cluster_client::ClusterClient, maintenance_client::MaintenanceClient,
};
use tempfile::TempDir;

use crate::{
    http,
    peers::{self, Release},
    power::Disk,
    session,
};

/// How etcd and Forebay say that another process has the port.
const IN_USE: &str = "address already in use";

/// How long a process may take until it serves.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(20);

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Real etcd.
    Etcd(Release),
    /// `forebay server`.
    Server,
    /// `forebay gateway` in front of `forebay server`.
    GatewayOverServer,
    /// `forebay gateway` in front of real etcd.
    GatewayOverEtcd(Release),
    /// The same without a mirror, so that every call is passed on.
    PassThroughOverEtcd(Release),
}

impl Kind {
    /// The etcd whose behaviour is the measure.
    pub const REFERENCE: Kind = Kind::Etcd(Release::REFERENCE);

    /// Why this target cannot run here, if it cannot.
    pub fn missing(self) -> Option<&'static str> {
        let needs_forebay = !matches!(self, Kind::Etcd(_));
        match self {
            _ if needs_forebay && peers::forebay().is_none() => Some(peers::BUILD),
            Kind::Etcd(release) | Kind::GatewayOverEtcd(release) | Kind::PassThroughOverEtcd(release)
                if release.etcd().is_none() =>
            {
                Some(peers::INSTALL)
            }
            _ => None,
        }
    }

    /// The release of etcd behind it, if it is etcd.
    pub fn release(self) -> Option<Release> {
        match self {
            Kind::Etcd(release) | Kind::GatewayOverEtcd(release) | Kind::PassThroughOverEtcd(release) => Some(release),
            Kind::Server | Kind::GatewayOverServer => None,
        }
    }

    /// Whether a gateway stands between the client and the store.
    pub fn is_gateway(self) -> bool {
        matches!(self, Kind::GatewayOverServer | Kind::GatewayOverEtcd(_) | Kind::PassThroughOverEtcd(_))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Etcd(release) => write!(f, "etcd {release}"),
            Kind::Server => f.write_str("forebay server"),
            Kind::GatewayOverServer => f.write_str("forebay gateway over forebay server"),
            Kind::GatewayOverEtcd(release) => write!(f, "forebay gateway over etcd {release}"),
            Kind::PassThroughOverEtcd(release) => write!(f, "forebay gateway without a mirror over etcd {release}"),
        }
    }
}

/// One target: a single member, perhaps with a gateway before it. Ends with the value.
#[derive(Debug)]
pub struct Target {
    /// What it is.
    pub kind: Kind,
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where the member behind it listens for clients; the same as `client` without a gateway.
    pub member: SocketAddr,
    /// Where the member listens for peers.
    pub peer: SocketAddr,
    member_process: Process,
    gateway_process: Option<Process>,
    /// The disk of its own, if its power may be cut.
    disk: Option<Disk>,
    // Dropped after the processes that write into it.
    dir: TempDir,
}

impl Target {
    /// Starts a fresh target and waits until it serves. `args` go to the member.
    pub async fn start(kind: Kind, args: &[&str]) -> anyhow::Result<Target> {
        Target::prepared(kind, args, &|_, _| Ok(())).await
    }

    /// The same on a data directory that `prepare` has filled. It is told where, and the member's peer URL.
    pub async fn prepared(
        kind: Kind,
        args: &[&str],
        prepare: &dyn Fn(&Path, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Target> {
        // A free port can be taken by somebody else before the process binds it: try again then.
        let mut last = None;
        for _ in 0..3 {
            match Target::try_start(kind, args, prepare).await {
                Ok(target) => return Ok(target),
                Err(error) if format!("{error:#}").to_lowercase().contains(IN_USE) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.expect("three attempts leave an error"))
    }

    /// A member whose data directory is a disk of its own with so many MiB, which [`Target::enlarge_disk`] doubles.
    /// `None` where this user may make none.
    pub async fn on_small_disk(kind: Kind, mib: u32, args: &[&str]) -> anyhow::Result<Option<Target>> {
        let may = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
        if !may.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let dir = TempDir::with_prefix("conformance-")?;
        let [member, peer, _] = free_addresses()?;
        let data = data_dir(dir.path());
        std::fs::create_dir(&data)?;
        let command = member_command(kind, dir.path(), member, peer)?;
        // Nobody else sees the disk, and it goes with the member.
        let script = format!(
            "mount -t tmpfs -o size={mib}m,mode=0700 none \"$0\" || exit\n\
             while kill -0 $$ 2>/dev/null; do\n\
             [ -e \"$0.enlarge\" ] && mount -o remount,size={}m \"$0\" && rm \"$0.enlarge\"\n\
             sleep 0.1\n\
             done &\n\
             exec \"$@\"",
            2 * mib
        );
        let mut within = Command::new("unshare");
        within.args(["--mount", "sh", "-c", &script]).arg(&data).arg(command.get_program()).args(command.get_args());
        within.args(args);
        let member_process = Process::start(within, member, dir.path().join("member.log")).await?;
        Ok(Some(Target { kind, client: member, member, peer, member_process, gateway_process: None, disk: None, dir }))
    }

    /// Doubles the disk of a member that was started on a small one.
    pub async fn enlarge_disk(&self) -> anyhow::Result<()> {
        let asked = self.dir.path().join("data.enlarge");
        std::fs::write(&asked, "")?;
        let started = Instant::now();
        while asked.exists() {
            ensure!(started.elapsed() < START_LIMIT, "the disk did not grow within {START_LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        Ok(())
    }

    /// A member whose data directory is on a disk of its own, for [`Target::cut_power`]. Nobody else sees that disk.
    pub async fn on_cut_disk(kind: Kind, args: &[&str]) -> anyhow::Result<Target> {
        let dir = TempDir::with_prefix("conformance-")?;
        let disk = Disk::make(dir.path())?;
        let [member, peer, _] = free_addresses()?;
        let mut command = member_command(kind, disk.folder(), member, peer)?;
        command.args(args);
        let log = dir.path().join("member.log");
        let member_process = Process::start(disk.mounted(&command), member, log).await?;
        Ok(Target { kind, client: member, member, peer, member_process, gateway_process: None, disk: Some(disk), dir })
    }

    /// Cuts the power of such a member in the middle of whatever it does. [`Target::restart`] gives it back.
    ///
    /// `now` is called right before: what the member says after that, a machine without power does not. A sync that the end
    /// of the file system overtakes may succeed for it, and nothing of it is there; so etcd loses what it acknowledges
    /// within that moment, and so does our server.
    pub async fn cut_power(&mut self, now: impl FnOnce()) -> anyhow::Result<()> {
        let disk = self.disk.as_ref().context("the member has a disk of its own")?;
        disk.cut(self.member_process.child.id(), now)?;
        self.member_process.kill();
        disk.released().await
    }

    /// Checks, after a restart, that the disk lost what it had to lose.
    pub fn was_cut(&self) -> anyhow::Result<()> {
        let disk = self.disk.as_ref().context("the member has a disk of its own")?;
        disk.was_cut(self.member_process.child.id())
    }

    async fn try_start(
        kind: Kind,
        args: &[&str],
        prepare: &dyn Fn(&Path, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Target> {
        let dir = TempDir::with_prefix("conformance-")?;
        let [member, peer, gateway] = free_addresses()?;
        prepare(&data_dir(dir.path()), &format!("http://{peer}"))?;
        let mut command = member_command(kind, dir.path(), member, peer)?;
        command.args(args);
        let member_process = Process::start(command, member, dir.path().join("member.log")).await?;
        let mut target =
            Target { kind, client: member, member, peer, member_process, gateway_process: None, disk: None, dir };
        if kind.is_gateway() {
            target.client = gateway;
            target.gateway_process = Some(target.start_gateway(args).await?);
        }
        target.is_itself().await?;
        Ok(target)
    }

    /// Whoever answers at the address is the process that was started, and not one that was faster.
    async fn is_itself(&self) -> anyhow::Result<()> {
        let mut client = ClusterClient::new(session::connect(self).await?);
        let members = client.member_list(MemberListRequest::default()).await?.into_inner().members;
        let own = format!("http://{}", self.peer);
        ensure!(members.iter().any(|member| member.peer_ur_ls.contains(&own)), "{}: {IN_USE}", self.client);
        Ok(())
    }

    /// Of the member's `args` those that a gateway has to be told too.
    async fn start_gateway(&self, args: &[&str]) -> anyhow::Result<Process> {
        let mut command = Command::new(peers::forebay().context(peers::BUILD)?);
        command.arg("gateway").args(["--endpoints", &format!("http://{}", self.member)]);
        command.args(["--listen-client-urls", &format!("http://{}", self.client)]);
        command.args(args.chunks(2).filter(|pair| SHARED.contains(&pair[0])).flatten());
        let mirrors = !matches!(self.kind, Kind::PassThroughOverEtcd(_));
        if mirrors {
            // The user that the cases make and with which they enable auth.
            let password = self.dir.path().join("password");
            std::fs::write(&password, ROOT_PASSWORD)?;
            command.args(["--upstream-user", "root", "--upstream-password-file"]).arg(password);
        } else {
            command.arg("--mirror=off");
        }
        let process = Process::start(command, self.client, self.dir.path().join("gateway.log")).await?;
        if mirrors {
            self.is_mirrored().await?;
        }
        Ok(process)
    }

    /// Waits until the gateway answers from its mirror: until then it would be compared passing calls on.
    async fn is_mirrored(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !http::Call::get("/metrics").send(self.client).await?.body_text().contains("\nforebay_mirror_serving 1") {
            ensure!(started.elapsed() < START_LIMIT, "the gateway has no mirror after {START_LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        Ok(())
    }

    /// The URL for a gRPC client.
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// Where the member keeps its files.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.dir.path())
    }

    /// A place for files of the test's own.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Ends the member as an operator does, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.member_process.terminate().await
    }

    /// Whether the member has ended by itself.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.member_process.exit()?.is_some())
    }

    /// Everything that member and gateway logged.
    pub fn logs(&self) -> String {
        let files = ["member.log", "gateway.log"].map(|name| self.dir.path().join(name));
        files
            .iter()
            .filter_map(|file| std::fs::read(file).ok())
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .collect()
    }

    /// The memory that member and gateway have resident, in bytes.
    pub fn rss(&self) -> anyhow::Result<u64> {
        self.processes().map(|process| rss_of(process.child.id())).sum()
    }

    /// The CPU time that member and gateway took so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        self.processes().map(|process| cpu_of(process.child.id())).sum()
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        std::iter::once(&self.member_process).chain(&self.gateway_process)
    }

    /// What the member logged last.
    pub fn log(&self) -> String {
        self.member_process.log()
    }

    /// Ends the member with SIGKILL, in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.member_process.kill();
    }

    /// Starts another kind of member on what is left in the data directory, and waits until it serves.
    pub async fn restart_as(&mut self, kind: Kind, args: &[&str]) -> anyhow::Result<()> {
        self.kill();
        let mut command = member_command(kind, self.dir.path(), self.member, self.peer)?;
        command.args(args);
        self.member_process = Process::start(command, self.member, self.dir.path().join("member.log")).await?;
        self.kind = kind;
        Ok(())
    }

    /// The folder of its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Saves a snapshot of what the member holds.
    pub async fn save(&self, snapshot: &Path) -> anyhow::Result<()> {
        let mut client = MaintenanceClient::new(session::connect(self).await?);
        let mut parts = client.snapshot(SnapshotRequest {}).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await? {
            bytes.extend_from_slice(&part.blob);
        }
        Ok(std::fs::write(snapshot, bytes)?)
    }

    /// Kills the member, puts what a snapshot holds in the place of its data, as an operator does with etcd's tool, and
    /// waits until it serves.
    pub async fn restore(&mut self, snapshot: &Path) -> anyhow::Result<()> {
        self.kill();
        let data = self.dir.path().join("data");
        std::fs::remove_dir_all(&data)?;
        let peer = format!("http://{}", self.peer);
        let mut command = Command::new(Release::REFERENCE.etcdutl().context(peers::INSTALL)?);
        command.args(["snapshot", "restore"]).arg(snapshot).arg("--data-dir").arg(&data);
        command.args(["--name", NAME, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("{NAME}={peer}")]);
        let done = command.output().with_context(|| format!("cannot run {command:?}"))?;
        ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        self.member_process.restart().await
    }

    /// Starts the member again on what is left in its data directory, and waits until it serves.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.member_process.restart().await
    }
}

/// What runs a member of this kind, all its files in `dir`.
fn member_command(kind: Kind, dir: &Path, member: SocketAddr, peer: SocketAddr) -> anyhow::Result<Command> {
    let mut command = named_command(kind, NAME, dir, member, peer)?;
    command.args(["--initial-cluster", &format!("{NAME}=http://{peer}")]);
    Ok(command)
}

/// What runs a member of this name, but for the cluster that it is of.
pub(crate) fn named_command(
    kind: Kind,
    name: &str,
    dir: &Path,
    member: SocketAddr,
    peer: SocketAddr,
) -> anyhow::Result<Command> {
    let mut command = match kind {
        Kind::Etcd(release) | Kind::GatewayOverEtcd(release) | Kind::PassThroughOverEtcd(release) => {
            Command::new(release.etcd().context(peers::INSTALL)?)
        }
        Kind::Server | Kind::GatewayOverServer => {
            let mut command = Command::new(peers::forebay().context(peers::BUILD)?);
            command.arg("server");
            command
        }
    };
    command.args(["--name", name, "--log-level", "error"]);
    if kind.release() == Some(Release::V3_4) {
        command.args(["--logger", "zap"]);
    }
    command.arg("--data-dir").arg(data_dir(dir));
    for flag in ["--listen-client-urls", "--advertise-client-urls"] {
        command.args([flag, &format!("http://{member}")]);
    }
    for flag in ["--listen-peer-urls", "--initial-advertise-peer-urls"] {
        command.args([flag, &format!("http://{peer}")]);
    }
    Ok(command)
}

pub(crate) fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// What decides how clients are answered, and what is said of them, and so has to be the same in a gateway.
const SHARED: [&str; 5] =
    ["--max-request-bytes", "--watch-progress-notify-interval", "--cors", "--host-whitelist", "--log-level"];

/// The password of user root, where there is one.
pub const ROOT_PASSWORD: &str = "toor";

/// The name of the one member.
pub const NAME: &str = "conformance";

/// A child process, killed and reaped when it goes.
#[derive(Debug)]
pub(crate) struct Process {
    command: Command,
    serves_at: SocketAddr,
    log: PathBuf,
    child: Child,
}

impl Process {
    pub(crate) async fn start(command: Command, serves_at: SocketAddr, log: PathBuf) -> anyhow::Result<Process> {
        let mut process = Process::spawn(command, serves_at, log)?;
        process.serving().await?;
        Ok(process)
    }

    /// Starts it and does not wait: the members of a new cluster need each other to serve.
    pub(crate) fn spawn(mut command: Command, serves_at: SocketAddr, log: PathBuf) -> anyhow::Result<Process> {
        let child = spawn(&mut command, &log)?;
        Ok(Process { command, serves_at, log, child })
    }

    /// Waits until a page answers, of a process that is no member.
    pub(crate) async fn answering(&mut self, path: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        while !http::Call::get(path).send(self.serves_at).await.is_ok_and(|response| response.status == 200) {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none() && started.elapsed() < START_LIMIT, "no {path} ({ended:?}):\n{}", tail(&self.log));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(started.elapsed() < START_LIMIT, "{:?} goes on; log:\n{}", self.command, tail(&self.log));
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    /// Asks it to end, as an operator does, and waits until it has.
    pub(crate) async fn terminate(&mut self) -> anyhow::Result<()> {
        self.signal("TERM")?;
        self.ended().await.map(drop)
    }

    /// Sends it a signal, by its name.
    pub(crate) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let status = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "cannot signal {:?}", self.command);
        Ok(())
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The last lines of what it logged.
    pub(crate) fn log(&self) -> String {
        tail(&self.log)
    }

    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.child = spawn(&mut self.command, &self.log)?;
        self.serving().await
    }

    pub(crate) fn kill(&mut self) {
        // Either fails only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the cluster version is known and the member can read and write.
    pub(crate) async fn serving(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{:?} ended with {status}:\n{}", self.command, tail(&self.log));
            }
            let Err(last) = is_serving(self.serves_at).await else { return Ok(()) };
            if started.elapsed() > START_LIMIT {
                let log = tail(&self.log);
                bail!("{:?} does not serve after {START_LIMIT:?}; last answer: {last:#}; log:\n{log}", self.command);
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Variables such as ETCD_NAME would be read as flags.
    for (name, _) in std::env::vars_os() {
        if ["ETCD", "FOREBAY_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.spawn().with_context(|| format!("cannot run {command:?}"))
}

async fn is_serving(at: SocketAddr) -> anyhow::Result<()> {
    // A member that is out of space serves reads, and one that is told to be corrupt answers: that is enough.
    for path in ["/version", "/health?exclude=NOSPACE&exclude=CORRUPT"] {
        let response = http::Call::get(path).send(at).await.with_context(|| format!("GET {path}"))?;
        let (status, body) = (response.status, response.body_text());
        ensure!(status == 200 && !body.contains("not_decided"), "GET {path}: {status} {body}");
    }
    Ok(())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// See [`free_address`].
pub(crate) fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let addresses = (0..N).map(|_| free_address()).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(addresses.try_into().expect("there are as many as were asked for"))
}
