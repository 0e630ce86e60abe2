//! The ports of a role: bound before anything else, so that a port in use is said before any file is touched, and
//! closed together at the end.

use std::{collections::HashSet, io, os::unix::fs::FileTypeExt as _, path::Path, time::Duration};

use anyhow::Context as _;
use forebay_edge::{
    Api, Request, Response,
    grpc::inflated,
    http::Front,
    listener::{self, Drain, Limits, Listener, Port, is_grpc},
    tls::Acceptor,
};
use forebay_gateway::{ADMIN, Admission};
use forebay_server::PeerPorts;
use futures::future::BoxFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpSocket, UnixListener},
    task::JoinSet,
};

use super::tls::PeerTls;
use crate::{
    console,
    flags::url::{Address, Url},
    openapi,
};

/// Connections that wait to be accepted; the standard library's number.
const BACKLOG: u32 = 1024;

/// What a port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serves {
    /// gRPC and HTTP.
    Both,
    /// gRPC alone, because HTTP has ports of its own.
    Grpc,
    /// HTTP alone.
    Http,
    /// Metrics and health alone.
    Metrics,
}

/// Ports that are bound and not served yet.
pub(super) struct Bound(Vec<BoundPort>);

struct BoundPort {
    listener: Listener,
    serves: Serves,
    is_tls: bool,
}

impl Bound {
    /// Binds every URL of the three lists. With URLs for HTTP, those for clients serve gRPC alone. With `shares_ports`
    /// other processes that say so too may listen on the same ports.
    pub(super) async fn new(
        clients: &[Url],
        http: &[Url],
        metrics: &[Url],
        shares_ports: bool,
    ) -> anyhow::Result<Bound> {
        let for_clients = if http.is_empty() { Serves::Both } else { Serves::Grpc };
        let all = (clients.iter().map(|url| (url, for_clients)))
            .chain(http.iter().map(|url| (url, Serves::Http)))
            .chain(metrics.iter().map(|url| (url, Serves::Metrics)));
        raise_open_files();
        let mut bound = Vec::new();
        let mut seen = HashSet::new();
        for (url, serves) in all {
            if seen.insert(url.as_str().to_owned()) {
                bound.push(BoundPort { listener: bind(url, shares_ports).await?, serves, is_tls: url.is_tls() });
            }
        }
        Ok(Bound(bound))
    }
}

/// Lets the process open as many files as it may. Every connection is one, and the limit that a shell hands down is
/// often a thousand.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Binds the ports where other members come in.
pub(super) async fn peers(urls: &[Url], tls: PeerTls) -> anyhow::Result<PeerPorts> {
    let mut ports = Vec::new();
    let mut seen = HashSet::new();
    for url in urls {
        if seen.insert(url.as_str().to_owned()) {
            let tls = tls.acceptor.clone().filter(|_| url.is_tls());
            ports.push(Port { listener: bind(url, false).await?, tls });
        }
    }
    Ok(PeerPorts { ports, connector: tls.connector })
}

async fn bind(url: &Url, shares_port: bool) -> anyhow::Result<Listener> {
    let (host, port) = match url.address() {
        Address::Tcp { host, port } => (host, port),
        Address::Unix(path) => {
            return listen_on_disk(path).map(Listener::Unix).with_context(|| format!("cannot listen on {url}"));
        }
    };
    match listen(host, *port, shares_port).await {
        Ok(listener) => Ok(listener.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => anyhow::bail!(
            "port {port} of {url} is in use: another process listens there; stop it, or listen elsewhere with \
             --listen-client-urls and --advertise-client-urls, or --listen-peer-urls and \
             --initial-advertise-peer-urls"
        ),
        Err(error) => Err(error).with_context(|| format!("cannot listen on {url}")),
    }
}

/// Listens with SO_REUSEADDR, as every Go program does, and with SO_REUSEPORT if the port is shared.
async fn listen(host: &str, port: u16, shares_port: bool) -> io::Result<TcpListener> {
    if !shares_port {
        return TcpListener::bind((host, port)).await;
    }
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Listens on a socket on disk. One that a process left there which is gone is replaced, as etcd replaces any.
fn listen_on_disk(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // A file of any other kind refuses connections too.
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let refuses = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if !is_socket || !std::os::unix::net::UnixStream::connect(path).is_err_and(refuses) {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// Who answers what comes in.
#[derive(Clone)]
pub(super) struct Fronts {
    /// gRPC calls.
    pub(super) grpc: Api,
    /// The largest message of one, in bytes.
    pub(super) max_message_bytes: usize,
    /// Everything else, on client ports and on those for metrics.
    pub(super) http: Front,
    /// What operators ask of a gateway.
    pub(super) admission: Option<Admission>,
}

/// Ports that are served.
pub(super) struct Ports {
    drain: Drain,
    serving: JoinSet<()>,
}

impl Ports {
    /// Serves every port, those that have it under `tls`. `grace` is how long open requests may take once the ports
    /// close.
    pub(super) fn serve(
        bound: Bound,
        tls: Option<&Acceptor>,
        fronts: &Fronts,
        limits: &Limits,
        grace: Duration,
    ) -> Ports {
        let drain = Drain::default();
        let mut serving = JoinSet::new();
        for BoundPort { listener, serves, is_tls } in bound.0 {
            let tls = is_tls.then(|| tls.cloned().expect("invariant: a certificate was asked for every https URL"));
            let port = Port { listener, tls };
            let fronts = fronts.clone();
            let handler = move |request: Request| answer(&fronts, serves, request);
            serving.spawn(listener::serve(port, handler, limits.clone(), drain.clone(), grace));
        }
        Ports { drain, serving }
    }

    /// Takes nothing new, lets what is open finish, and closes.
    pub(super) async fn close(mut self) {
        self.drain.start();
        while self.serving.join_next().await.is_some() {}
    }
}

fn answer(fronts: &Fronts, serves: Serves, request: Request) -> BoxFuture<'static, Response> {
    let http = fronts.http.clone();
    if let Some(admission) = &fronts.admission
        && serves != Serves::Grpc
        && request.uri().path().starts_with(ADMIN)
    {
        let admission = admission.clone();
        return Box::pin(async move { admission.admin(request).await });
    }
    if serves != Serves::Grpc
        && !is_grpc(&request)
        && let Some(page) = console::answer(&request).or_else(|| openapi::answer(&request))
    {
        return Box::pin(std::future::ready(page));
    }
    match serves {
        Serves::Grpc => fronts.grpc.call(inflated(request, fronts.max_message_bytes)),
        Serves::Both if is_grpc(&request) => fronts.grpc.call(inflated(request, fronts.max_message_bytes)),
        Serves::Both | Serves::Http => Box::pin(async move { http.client(request).await }),
        Serves::Metrics => Box::pin(async move { http.metrics(request).await }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_on_disk_is_taken_over_from_the_dead_and_never_from_the_living() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let living = listen_on_disk(&path).unwrap();
        assert_eq!(listen_on_disk(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(living);
        listen_on_disk(&path).unwrap();
        // What is no socket is somebody's file.
        let file = dir.path().join("file");
        std::fs::write(&file, "theirs").unwrap();
        assert_eq!(listen_on_disk(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&file).unwrap(), b"theirs");
    }

    #[tokio::test]
    async fn a_port_is_shared_only_by_those_who_say_so() {
        let first = listen("127.0.0.1", 0, true).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = listen("localhost", port, true).await.unwrap();
        assert_eq!(second.local_addr().unwrap().port(), port);
        assert_eq!(listen("127.0.0.1", port, false).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
