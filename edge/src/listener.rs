//! Accepts connections on one port and serves HTTP/1.1 and HTTP/2 on them.
//!
//! Who is asked is the caller's business: it hands in one function from request to response.

mod opening;

use std::{convert::Infallible, future::Future, io, net::SocketAddr, time::Duration};

use futures::FutureExt as _;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use self::opening::Opening;
use crate::{Body, Request, Response};

/// What one connection may use. The defaults bound a hostile client; a larger value lets one client
/// take more of the process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open streams on one HTTP/2 connection; a client that wants more waits.
    pub max_concurrent_streams: u32,
    /// Bytes of all header fields of a request.
    pub max_header_bytes: u32,
    /// How long a client may take to send a request head over HTTP/1.1, and before that to show which HTTP it speaks.
    pub header_timeout: Duration,
    /// Idle time after which a ping asks whether the client is still there.
    pub keepalive_interval: Duration,
    /// How long the client may take to answer that ping.
    pub keepalive_timeout: Duration,
    /// Open connections; further ones wait in the kernel's backlog.
    pub max_connections: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_concurrent_streams: 1000,
            max_header_bytes: 64 << 10,
            header_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(2 * 3600),
            keepalive_timeout: Duration::from_secs(20),
            max_connections: 10_000,
        }
    }
}

/// Receive window of one stream: a request of the largest default size fits without a round trip.
const STREAM_WINDOW: u32 = 2 << 20;
/// Receive window of a connection, shared by its streams.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Streams of one connection that we may reset before it is closed. Each request that is refused
/// before it was read whole is one, and an honest client may live long; a hostile one gets no
/// further with more.
const LOCAL_RESETS: usize = 100_000;
/// How long accepting rests when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
pub async fn serve<H, F>(listener: TcpListener, handler: H, limits: Limits, drain: Drain, grace: Duration)
where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let builder = http_builder(&limits);
    let mut connections = JoinSet::new();
    let drained = drain.started().shared();
    loop {
        let room = connections.len() < limits.max_connections;
        let accepted = tokio::select! {
            _ = drained.clone() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept(), if room => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let _ = stream.set_nodelay(true);
                let stream = Opening::new(stream, limits.header_timeout);
                let serving = connection(stream, address, handler.clone(), builder.clone(), drain.clone());
                connections.spawn(serving);
            }
            Err(error) => {
                // A connection that died in the backlog is nobody's problem; being out of
                // descriptors passes once others close.
                tracing::debug!(%error, "failed to accept a connection");
                if !is_connection_error(&error) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(grace, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
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
        .auto_date_header(false) // grpc-go sends none
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

async fn connection<H, F>(
    stream: Opening<TcpStream>,
    address: SocketAddr,
    handler: H,
    builder: Builder<TokioExecutor>,
    drain: Drain,
) where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(Peer { address });
        handler(request.map(Body::from)).map(Ok::<_, Infallible>)
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        _ = drain.started() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, peer = %address, "connection ended");
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Whether a request is a gRPC call and not one for the HTTP side of the port.
pub fn is_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
