//! A server under test as an operating system process: started, measured from outside, ended.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::elsewhere;

/// A running server; ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where it listens for clients.
    pub address: SocketAddr,
    log: PathBuf,
}

impl Process {
    /// Starts `program` and waits until it accepts connections on `address`. What it prints goes to
    /// `log`.
    pub fn start(program: &Path, args: &[String], address: SocketAddr, log: PathBuf) -> anyhow::Result<Process> {
        let output = File::create(&log)?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = elsewhere::as_server(|| command.spawn())
            .flatten()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut process = Process { child, address, log };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            if let Some(status) = process.child.try_wait()? {
                let log = fs::read_to_string(&process.log).unwrap_or_default();
                bail!("{} ended with {status} before it listened:\n{log}", program.display());
            }
            if Instant::now() > deadline {
                bail!("{} does not listen on {address} after 20 s", program.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// The operating system's number of it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// User and system CPU time so far, by the operating system's accounting.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Bytes that it has had written to the disk, by the operating system's accounting.
    pub fn written(&self) -> anyhow::Result<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("no write_bytes")?;
        Ok(line.trim().parse()?)
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> anyhow::Result<u64> {
        rss_of(self.child.id())
    }

    /// The most that [`Process::rss`] ever was.
    pub fn rss_max(&self) -> anyhow::Result<u64> {
        memory(self.child.id(), "VmHWM:")
    }
}

/// User and system CPU time of a process so far, by the operating system's accounting.
pub fn cpu_of(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The command name may hold spaces; the numbered fields follow its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no command in stat")?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).context("stat is too short")?.parse::<u64>().context("stat");
    // 100 ticks a second is fixed in Linux's interface to user space.
    Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

/// The memory that a process has resident, in bytes.
pub fn rss_of(process: u32) -> anyhow::Result<u64> {
    memory(process, "VmRSS:")
}

fn memory(process: u32, of: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(of)).context("no such line in status")?;
    let kib: u64 = line.split_whitespace().next().context("the line has no value")?.parse()?;
    Ok(kib * 1024)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that nothing listens at and that this process was not given before.
///
/// The ports are below those that systems take for outgoing connections. Of these, one could be taken before the server
/// that it is for has bound it: most of all by whoever waits for that server, whose attempt to connect may meet itself.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    // Processes that run at the same time begin far from each other.
    let first = std::process::id().wrapping_mul(7919);
    for _ in 0..count {
        let n = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % count;
        let port = u16::try_from(PORTS.start + n).expect("ports have 16 bits");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// etcd's flags for a single member that listens on these addresses; with `https`, under a certificate that it makes
/// itself, which is then in [`own_certificate`].
pub fn etcd_flags(data_dir: &Path, scheme: &str, client: SocketAddr, peer: SocketAddr) -> Vec<String> {
    vec![
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls={scheme}://{client}"),
        format!("--advertise-client-urls={scheme}://{client}"),
        format!("--auto-tls={}", scheme == "https"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
        "--quota-backend-bytes=8589934592".into(),
        "--log-level=error".into(),
    ]
}

/// Where a member has the certificate that it made.
pub fn own_certificate(data_dir: &Path) -> PathBuf {
    data_dir.join("fixtures").join("client").join("cert.pem")
}
