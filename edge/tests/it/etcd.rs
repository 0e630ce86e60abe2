//! A real etcd, and an [`edge::Api`](forebay_edge::Api) that forwards to it.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use forebay_edge::{Body, Request, Response, Service, grpc};
use futures::{FutureExt as _, future::BoxFuture};
use http::{Uri, uri::Authority};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tonic::Status;

/// A member on ports of its own, ended when dropped.
pub struct Etcd {
    process: Child,
    pub client: Authority,
    _data: tempfile::TempDir,
}

impl Etcd {
    /// Starts etcd 3.7; `None` if it is not installed.
    pub async fn start() -> Option<Etcd> {
        let binary = peers()?.join("3.7/etcd");
        if !binary.exists() {
            return None;
        }
        let data = tempfile::tempdir().expect("a temporary directory");
        let [client, peer] = free_ports();
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let process = Command::new(binary)
            .args(["--log-level", "error", "--name", "default", "--initial-cluster-token", "edge"])
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("default={}", url(peer))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let client = Authority::try_from(format!("127.0.0.1:{client}")).expect("an address");
        let etcd = Etcd { process, client, _data: data };
        etcd.wait_until_healthy().await;
        Some(etcd)
    }

    async fn wait_until_healthy(&self) {
        let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new()).build_http();
        for _ in 0..200 {
            let uri = Uri::builder().scheme("http").authority(self.client.clone()).path_and_query("/health");
            let answer = client.get(uri.build().expect("a URI")).await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd is not healthy after ten seconds");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where `conformance/install-peers.sh` puts them.
fn peers() -> Option<PathBuf> {
    match std::env::var_os("FOREBAY_PEERS") {
        Some(directory) => Some(directory.into()),
        None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/forebay-peers")),
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound port").port())
}

/// Hands every call to etcd as it is, but for its deadline: that is the caller's to keep, and a reset
/// by etcd must not race it.
pub struct Forward {
    pub to: Authority,
    pub client: Client<HttpConnector, Body>,
}

impl Forward {
    pub fn to(etcd: &Etcd) -> Forward {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Forward { to: etcd.client.clone(), client }
    }
}

impl Service for Forward {
    fn call(&self, mut request: Request) -> BoxFuture<'static, Response> {
        let path = request.uri().path_and_query().cloned().expect("calls have a path");
        let uri = Uri::builder().scheme("http").authority(self.to.clone()).path_and_query(path).build();
        *request.uri_mut() = uri.expect("a URI");
        request.headers_mut().remove("grpc-timeout");
        let answer = self.client.request(request);
        async move {
            match answer.await {
                Ok(response) => response.map(Body::from),
                Err(error) => grpc::refuse(Status::unavailable(error.to_string())),
            }
        }
        .boxed()
    }
}
