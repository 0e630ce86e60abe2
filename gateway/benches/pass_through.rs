//! What passing a call on costs: the CPU time of client and a canned upstream, directly and with the
//! gateway between them, in one run. The difference is the gateway's.
//!
//! `cargo bench -p forebay-gateway`

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use forebay_edge::{
    Api, Body, Request, Response, Service, grpc,
    listener::{Drain, Limits, serve},
};
use forebay_gateway::{
    Config, Gateway, Metrics, PoolConfig, Upstream,
    upstream::{Address, Pool, TcpConnector},
};
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::Registry;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

/// Calls in flight.
const CALLERS: usize = 32;
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> Result<()> {
    layers_alone(200_000).await?;
    for (name, response_bytes, calls) in [("small range", 150, 60_000), ("530 KB range", 530_000, 1_500)] {
        let frame = grpc::encode(&Value(Bytes::from(vec![7; response_bytes])));
        let upstream = listen(move |request: Request| {
            let frame = frame.clone();
            async move {
                // A server that answers before it has the request resets its rest.
                let _ = request.into_body().collect().await;
                grpc::reply(frame)
            }
        });
        let upstream = upstream.await?;
        let gateway = gateway(&upstream).await?;
        for _ in 0..ROUNDS {
            let direct = measure(&upstream, calls).await?;
            let through = measure(&gateway, calls).await?;
            report(name, &direct, &through);
        }
    }
    Ok(())
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value(#[prost(bytes = "bytes", tag = "1")] Bytes);

struct Measured {
    cpu_per_call: Duration,
    calls_per_second: f64,
    p50: Duration,
    p99: Duration,
}

#[expect(clippy::print_stdout, reason = "a bench reports on stdout")]
fn report(name: &str, direct: &Measured, through: &Measured) {
    for (path, measured) in [("direct", direct), ("gateway", through)] {
        println!(
            "{name:13} {path:8} {:>6.1} us CPU/call  {:>7.0} calls/s  p50 {:>6} us  p99 {:>6} us",
            measured.cpu_per_call.as_secs_f64() * 1e6,
            measured.calls_per_second,
            measured.p50.as_micros(),
            measured.p99.as_micros(),
        );
    }
    let gateway = through.cpu_per_call.saturating_sub(direct.cpu_per_call);
    println!("{name:13} the gateway's share: {:.1} us CPU/call", gateway.as_secs_f64() * 1e6);
}

/// The stack over a canned answer in the process: no sockets, no HTTP/2.
#[expect(clippy::print_stdout, reason = "a bench reports on stdout")]
async fn layers_alone(calls: u32) -> Result<()> {
    let answer = grpc::encode(&Value(Bytes::from(vec![7; 150])));
    let local = Api::new(Canned(answer));
    let gateway = Gateway::new(&Config::default(), Upstream::Local(local.clone()), Metrics::new(&Registry::new())?);
    for (name, api) in [("no stack", local), ("the layers", gateway.api())] {
        let cpu = cpu_time()?;
        for _ in 0..calls {
            let request = http::Request::post("/etcdserverpb.KV/Range")
                .header("content-type", "application/grpc")
                .header("user-agent", "grpc-go/1.79.3")
                .header("grpc-timeout", "5S")
                .body(Body::empty())?;
            api.call(request).await.into_body().collect().await.map_err(anyhow::Error::from_boxed)?;
        }
        let per_call = (cpu_time()? - cpu) / calls;
        println!("{name:22} {:>6.2} us CPU/call", per_call.as_secs_f64() * 1e6);
    }
    Ok(())
}

struct Canned(Bytes);

impl Service for Canned {
    fn call(&self, _: Request) -> BoxFuture<'static, Response> {
        Box::pin(std::future::ready(grpc::reply(self.0.clone())))
    }
}

/// Serves on a free port; returns its authority.
async fn listen<H, F>(handler: H) -> Result<String>
where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let authority = listener.local_addr()?.to_string();
    tokio::spawn(serve(listener, handler, Limits::default(), Drain::default(), Duration::ZERO));
    Ok(authority)
}

async fn gateway(upstream: &str) -> Result<String> {
    let config = Config::default();
    let metrics = Metrics::new(&Registry::new())?;
    let addresses = Address::list(upstream)?;
    let pool = Pool::connect(&config, PoolConfig::default(), addresses, Arc::new(TcpConnector), metrics.clone());
    pool.ready().await;
    let api: Api = Gateway::new(&config, Upstream::Remote(pool), metrics).api();
    listen(move |request| api.call(request)).await
}

/// Calls as fast as answers come, over four connections.
async fn measure(authority: &str, calls: usize) -> Result<Measured> {
    let mut senders = Vec::new();
    for _ in 0..4 {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(64 << 20);
        let (sender, connection) = builder.handshake(io).await?;
        tokio::spawn(connection);
        senders.push(sender);
    }
    let uri: http::Uri = format!("http://{authority}/etcdserverpb.KV/Range").parse()?;
    let cpu = cpu_time()?;
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call_again(senders[caller % senders.len()].clone(), uri.clone(), calls / CALLERS));
    }
    let mut latencies = Vec::with_capacity(calls);
    while let Some(called) = callers.join_next().await {
        latencies.extend(called??);
    }
    let wall = began.elapsed();
    let cpu = cpu_time()? - cpu;
    latencies.sort_unstable();
    Ok(Measured {
        cpu_per_call: cpu / u32::try_from(latencies.len())?,
        calls_per_second: latencies.len() as f64 / wall.as_secs_f64(),
        p50: latencies[latencies.len() / 2],
        p99: latencies[latencies.len() * 99 / 100],
    })
}

async fn call_again(mut sender: SendRequest<Body>, uri: http::Uri, calls: usize) -> Result<Vec<Duration>> {
    let question = grpc::encode(&Value(Bytes::from_static(b"/registry/pods/default/some-pod")));
    let mut latencies = Vec::with_capacity(calls);
    for _ in 0..calls {
        let request = http::Request::post(uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "grpc-go/1.79.3")
            .header("grpc-timeout", "5S")
            .body(Body::full(question.clone()))?;
        let began = Instant::now();
        sender.ready().await?;
        let answer = sender.send_request(request).await?.into_body().collect().await?;
        let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status"));
        anyhow::ensure!(status.is_some_and(|status| status == "0"), "status {status:?}");
        latencies.push(began.elapsed());
    }
    Ok(latencies)
}

/// CPU time of the process, in the kernel's ticks of 10 ms.
fn cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').context("a process has a name")?.1;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(Duration::from_millis(10 * ticks.sum::<Result<u64, _>>()?))
}
