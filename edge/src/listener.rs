//! Accepts connections on one port, under TLS if it has it, and serves HTTP/1.1 and HTTP/2 on them.
//!
//! Who is asked is the caller's business: it hands in one function from request to response.

mod frames;
mod host;
mod memory;
mod opening;
mod outgoing;
mod places;

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use forebay_proto::json::Route;
use futures::{
    FutureExt as _,
    future::{self, Either},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

pub(crate) use self::memory::{Collected, keeping};
pub use self::memory::{Held, Memory, SHORT, TooMany};
use self::{
    memory::Budget,
    opening::Opening,
    outgoing::Outgoing,
    places::{Place, Places},
};
use crate::{
    Body, Request, Response,
    tls::{Acceptor, Tls},
};

/// Where connections come in.
pub struct Port {
    /// The bound socket.
    pub listener: Listener,
    /// How TLS ends here; without it, requests come in clear.
    pub tls: Option<Acceptor>,
}

impl From<TcpListener> for Port {
    fn from(listener: TcpListener) -> Port {
        Port { listener: listener.into(), tls: None }
    }
}

/// A bound socket.
pub enum Listener {
    /// On an address of the network.
    Tcp(TcpListener),
    /// On disk: whoever may open the file may connect, and comes from this machine.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Listener {
        Listener::Tcp(listener)
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((Stream::Left(stream), address))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Right(stream), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
            }
        }
    }
}

type Stream = tokio_util::either::Either<TcpStream, UnixStream>;

/// What one connection may use. The defaults bound a hostile client; a larger value lets one client
/// take more of the process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open streams on one HTTP/2 connection; a client that wants more waits.
    pub max_concurrent_streams: u32,
    /// Bytes of all header fields of a request.
    pub max_header_bytes: u32,
    /// How long a client may take to send a request head over HTTP/1.1, and before that to shake hands under TLS and
    /// show which HTTP it speaks.
    pub header_timeout: Duration,
    /// Idle time after which a ping asks whether the client is still there.
    pub keepalive_interval: Duration,
    /// How long the client may take to answer that ping.
    pub keepalive_timeout: Duration,
    /// The least time from one ping of a client to the next; zero lets it ping as it likes.
    pub keepalive_min_time: Duration,
    /// Open connections. One more takes the place of one that is opening or idle; when all have requests, it waits in
    /// the kernel's backlog.
    pub max_connections: usize,
    /// Connections that have not shown yet which HTTP they speak. One more takes the place of the oldest.
    pub max_opening: usize,
    /// Open connections from one address; `None` is as many as there is room for, since a proxy is one address and
    /// many clients.
    pub max_connections_per_source: Option<usize>,
    /// How long a connection may be without requests. Clients of gRPC connect again by themselves.
    pub idle_timeout: Duration,
    /// Bytes of long answers that are on their way, and of long requests that are coming. With what an allocator and the
    /// connections add, a process grows by less than a quarter of a gibibyte from them. When it is used up, long ranges
    /// and such requests are refused, and other long answers and what is long on a stream waits. What takes more than an
    /// eighth of it at once has half of it.
    pub max_answer_bytes: usize,
    /// How long a client may take nothing of a long answer, or send nothing of a long request, while others are refused
    /// for want of its memory; and it has to take so much that what it holds would be gone within thirty times that.
    pub answer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_concurrent_streams: 1000,
            max_header_bytes: 64 << 10,
            header_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(2 * 3600),
            keepalive_timeout: Duration::from_secs(20),
            keepalive_min_time: Duration::ZERO,
            max_connections: 10_000,
            max_opening: 2_000,
            max_connections_per_source: None,
            idle_timeout: Duration::from_secs(30 * 60),
            max_answer_bytes: 128 << 20,
            answer_timeout: Duration::from_secs(10),
        }
    }
}

/// Receive window of one stream: a request of the largest default size fits without a round trip.
const STREAM_WINDOW: u32 = 2 << 20;
/// Receive window of a connection, shared by its streams.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What is sent of one stream and the client has no window for, at most; what is not sent yet is asked for by pieces. A
/// small value keeps what nobody reads where it is counted.
const STREAM_UNSENT: usize = 32 << 10;
/// Streams of one connection that we may reset before it is closed. Each request that is refused
/// before it was read whole is one, and an honest client may live long; a hostile one gets no
/// further with more.
const LOCAL_RESETS: usize = 100_000;
/// How often it is looked who holds memory that others want.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// How long accepting rests when there is no room.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection that is asked to leave may take to say so to its client.
const LEAVE: Duration = Duration::from_secs(2);

/// Tells the connections of a listener to finish: no new requests, then the end.
#[derive(Clone, Debug)]
pub struct Drain(watch::Sender<bool>);

impl Default for Drain {
    fn default() -> Drain {
        Drain(watch::Sender::new(false))
    }
}

impl Drain {
    /// Asks every connection to finish what it has and close.
    pub fn start(&self) {
        self.0.send_replace(true);
    }

    /// Whether [`Drain::start`] was called.
    pub fn has_started(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until [`Drain::start`] was called.
    pub async fn started(&self) {
        let mut receiver = self.0.subscribe();
        let _ = receiver.wait_for(|started| *started).await;
    }
}

/// What a request handler may know of the connection, as an extension of the request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
}

/// Serves connections until `drain` starts, then lets open requests finish for at most `grace`.
pub async fn serve<H, F>(port: impl Into<Port>, handler: H, limits: Limits, drain: Drain, grace: Duration)
where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let Port { listener, tls } = port.into();
    let budget = Budget::new(limits.max_answer_bytes, limits.answer_timeout);
    let builder = http_builder(&limits);
    let (opening, pings_apart) = (limits.header_timeout, limits.keepalive_min_time);
    let server = Server { handler, builder, budget: budget.clone(), opening, pings_apart, tls, drain };
    let places = Places::new(limits);
    let mut connections = JoinSet::new();
    let drained = server.drain.clone();
    let drained = drained.started().shared();
    let mut look_after = tokio::time::interval(LOOK_AFTER);
    look_after.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            _ = drained.clone() => break,
            _ = look_after.tick() => {
                budget.look_after();
                continue;
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Some(place) = places.take(address.ip()) {
                    connections.spawn(server.clone().connection(stream, address, place));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "failed to accept a connection");
                // A connection that died in the backlog is nobody's problem; being out of descriptors passes once
                // somebody has left.
                if !is_connection_error(&error) {
                    places.make_room();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(grace, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
}

/// Accepts a connection once there is room for one.
async fn accept(listener: &Listener, places: &Places) -> io::Result<(Stream, SocketAddr)> {
    while !places.has_room() {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    listener.accept().await
}

fn http_builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_UNSENT)
        .auto_date_header(false) // grpc-go sends none
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// What the connections of a listener have in common.
#[derive(Clone)]
struct Server<H> {
    handler: H,
    builder: Builder<TokioExecutor>,
    budget: Arc<Budget>,
    /// How long a connection may take until it has shown which HTTP it speaks.
    opening: Duration,
    pings_apart: Duration,
    tls: Option<Acceptor>,
    drain: Drain,
}

impl<H, F> Server<H>
where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    async fn connection(self, stream: Stream, address: SocketAddr, place: Place) {
        let (deadline, pings_apart) = (Instant::now() + self.opening, self.pings_apart);
        let Some(tls) = self.tls.clone() else {
            return self.http(Opening::new(stream, deadline, place.clone(), pings_apart), address, None, place).await;
        };
        let shaken = tokio::select! {
            shaken = tokio::time::timeout_at(deadline, tls.accept(stream, address)) => shaken,
            _ = place.dismissed() => return,
            _ = self.drain.started() => return,
        };
        match shaken {
            Ok(Ok((stream, tls))) => {
                self.http(Opening::new(stream, deadline, place.clone(), pings_apart), address, Some(tls), place).await;
            }
            Ok(Err(error)) => tracing::warn!(%error, peer = %address, "rejected connection"),
            Err(_) => tracing::debug!(peer = %address, "the client did not shake hands in time"),
        }
    }

    async fn http<S>(self, stream: Opening<S>, address: SocketAddr, tls: Option<Tls>, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (handler, budget, seat) = (self.handler, self.budget, place.clone());
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            let memory = Memory::new(&budget, seat.clone());
            let extensions = request.extensions_mut();
            extensions.insert(Peer { address });
            extensions.insert(memory.clone());
            if let Some(tls) = &tls {
                extensions.insert(tls.clone());
            }
            let open = seat.open();
            let is_grpc = content_type_is_grpc(request.headers());
            let only_reads = only_reads(is_grpc, request.method(), request.uri().path());
            let request = match is_grpc {
                true => request.map(|body| Body::of_messages(body, memory.clone())),
                false => request.map(Body::from),
            };
            let answer = match host::fault(&request) {
                None => Either::Left(handler(request)),
                Some(fault) => Either::Right(future::ready(crate::http::bad_request(fault))),
            };
            answer.map(move |response| {
                let response = match memory.try_hold(response.body().uncounted()) {
                    Ok(held) if held.is_counted() => response.map(|body| body.holding(held)),
                    Ok(_) => response,
                    Err(_) if only_reads => too_many_requests(is_grpc),
                    // What it answers may have happened; a refusal would be a lie. Nor is it long.
                    Err(_) => response,
                };
                Ok::<_, Infallible>(response.map(|body| Outgoing::new(body, open, memory)))
            })
        });
        let serving = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            _ = self.drain.started() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
            _ = place.was_cut() => {
                tracing::warn!(peer = %address, "cut a connection on which nothing moves");
                return;
            }
            _ = place.dismissed() => {
                serving.as_mut().graceful_shutdown();
                match tokio::time::timeout(LEAVE, serving).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, peer = %address, "connection ended");
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Whether a request is a gRPC call and not one for the HTTP side of the port.
pub fn is_grpc(request: &Request) -> bool {
    content_type_is_grpc(request.headers())
}

fn content_type_is_grpc(headers: &http::HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The methods that change nothing, and whose answers may be long.
const READS: [&str; 9] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Auth/UserGet",
    "/etcdserverpb.Auth/UserList",
    "/etcdserverpb.Auth/RoleGet",
    "/etcdserverpb.Auth/RoleList",
    "/etcdserverpb.Cluster/MemberList",
    "/v3electionpb.Election/Leader",
];

/// Whether a request is known to change nothing, so that it may be refused when it has been carried out.
fn only_reads(is_grpc: bool, method: &http::Method, path: &str) -> bool {
    match is_grpc {
        true => READS.contains(&path),
        false => method == http::Method::GET || Route::find(path).is_some_and(|route| READS.contains(&route.grpc_path)),
    }
}

/// What etcd says when it has too much to do.
fn too_many_requests(is_grpc: bool) -> Response {
    let status = TooMany.into();
    if is_grpc { crate::grpc::refuse(status) } else { crate::http::refused(&status) }
}
