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
        let peers = std::env::var_os("FOREBAY_PEERS").map(PathBuf::from);
        let peers = peers.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/forebay-peers")))?;
        let binary = peers.join(release).join("etcd");
        if !binary.is_file() {
            report(&format!("skipped: etcd {release} is not installed; run conformance/install-peers.sh"));
            return None;
        }
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
        let etcd = Etcd { process, url, _data: data };
        for _ in 0..200 {
            if let Ok(api) = connect(&etcd.url).await {
                let answer =
                    crate::client::call(&api, crate::client::request("/etcdserverpb.KV/Range", "\n\x01k")).await;
                if answer.status().0 == 0 {
                    return Some(etcd);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd {release} does not serve");
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
