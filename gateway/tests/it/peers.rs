//! Runs real etcd, if it is installed.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use forebay_edge::{Api, Body, Request, Response, Service};
use futures::future::BoxFuture;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// The releases that the gateway must serve.
pub(crate) const RELEASES: [&str; 3] = ["3.4", "3.5", "3.7"];

/// A member on a free port; it ends when this is dropped.
pub(crate) struct Etcd {
    process: Child,
    pub(crate) url: String,
    _data: TempDir,
}

impl Etcd {
    /// Starts a member of a release and waits until it serves; `None` if it is not installed.
    pub(crate) async fn start(release: &str) -> Option<Etcd> {
        let binary = installed(release)?;
        let data = tempfile::tempdir().expect("a temporary directory");
        let [url, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let process = Command::new(binary)
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "fatal"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        serves(&url).await;
        Some(Etcd { process, url, _data: data })
    }
}

/// The binary of a release, if it is installed.
fn installed(release: &str) -> Option<PathBuf> {
    let peers = std::env::var_os("FOREBAY_PEERS").map(PathBuf::from);
    let peers = peers.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/forebay-peers")))?;
    let binary = peers.join(release).join("etcd");
    if !binary.is_file() {
        report(&format!("skipped: etcd {release} is not installed; run conformance/install-peers.sh"));
        return None;
    }
    Some(binary)
}

/// Waits until a member answers reads.
async fn serves(url: &str) {
    for _ in 0..400 {
        if let Ok(api) = connect(url).await {
            let answer = crate::client::call(&api, crate::client::request("/etcdserverpb.KV/Range", "\n\x01k")).await;
            if answer.status().0 == 0 {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("etcd at {url} does not serve");
}

/// A cluster on free ports; it ends when this is dropped.
pub(crate) struct Cluster {
    members: Vec<Member>,
}

struct Member {
    command: Command,
    process: Child,
    url: String,
    _data: TempDir,
}

impl Cluster {
    /// Starts as many members of a release and waits until all serve; `None` if it is not installed.
    pub(crate) async fn start(release: &str, members: usize) -> Option<Cluster> {
        let binary = installed(release)?;
        let local = || format!("http://127.0.0.1:{}", free_port());
        let peers: Vec<String> = (0..members).map(|_| local()).collect();
        let named: Vec<String> = peers.iter().enumerate().map(|(n, peer)| format!("m{n}={peer}")).collect();
        let mut cluster = Cluster { members: Vec::new() };
        for (n, peer) in peers.iter().enumerate() {
            let (data, url) = (tempfile::tempdir().expect("a temporary directory"), local());
            let mut command = Command::new(&binary);
            command
                .arg("--data-dir")
                .arg(data.path())
                .args(["--name", &format!("m{n}"), "--initial-cluster", &named.join(","), "--log-level", "fatal"])
                .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
                .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let process = command.spawn().expect("etcd starts");
            cluster.members.push(Member { command, process, url, _data: data });
        }
        for member in &cluster.members {
            serves(&member.url).await;
        }
        Some(cluster)
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url.clone()).collect()
    }

    /// Stops a member as an operator does, starts it again and waits until it serves.
    pub(crate) async fn restart(&mut self, member: usize) {
        let Member { command, process, url, .. } = &mut self.members[member];
        let pid = rustix::process::Pid::from_child(process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        while process.try_wait().expect("a child").is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        *process = command.spawn().expect("etcd starts");
        serves(url).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[expect(clippy::print_stdout, reason = "a skipped test must say so")]
fn report(text: &str) {
    println!("{text}");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

/// An API on the other side of a connection of its own.
pub(crate) async fn connect(url: &str) -> std::io::Result<Api> {
    let authority = url.strip_prefix("http://").expect("an http URL").to_owned();
    let io = TokioIo::new(TcpStream::connect(&authority).await?);
    let (sender, connection) = handshake(TokioExecutor::new(), io).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(Api::new(Remote { sender, authority }))
}

struct Remote {
    sender: SendRequest<Body>,
    authority: String,
}

impl Service for Remote {
    fn call(&self, mut request: Request) -> BoxFuture<'static, Response> {
        let path = request.uri().path().to_owned();
        *request.uri_mut() = format!("http://{}{path}", self.authority).parse().expect("a URI");
        let mut sender = self.sender.clone();
        Box::pin(async move { sender.send_request(request).await.expect("a response").map(Body::from) })
    }
}
