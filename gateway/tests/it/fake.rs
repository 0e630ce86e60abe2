//! An upstream that does what a test tells it, over in-memory connections, so that the clock can be
//! paused.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_edge::grpc;
use forebay_gateway::{
    Config, Gateway, Metrics, PoolConfig, Upstream,
    upstream::{Address, Connector, Io, Pool},
};
use forebay_proto::etcdserverpb::StatusResponse;
use futures::future::BoxFuture;
use h2::{Reason, RecvStream, server::SendResponse};
use parking_lot::Mutex;
use prometheus::Registry;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::{mpsc, watch},
    time,
};

/// What the upstream does with one call.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with one message and OK.
    Answer(&'static str),
    /// The same after a while.
    Slow(Duration, &'static str),
    /// Answers a status in a trailers-only response.
    Status(i32, &'static str),
    /// Answers one message, then a status in trailers.
    Trailers(&'static str, i32, &'static str),
    /// Resets the stream before the response head.
    Reset(Reason),
    /// Sends the head and one message, then resets.
    ResetAfter(&'static str, Reason),
    /// Never answers.
    Stall,
    /// Sends the head, then nothing.
    StallAfterHead,
    /// Ends the response without trailers.
    NoTrailers(&'static str),
    /// Answers an HTTP status without gRPC.
    Http(u16),
    /// Drops the connection.
    Drop,
    /// Answers every message with itself until the client half-closes.
    Echo,
    /// Echoes so many messages, then drops the connection.
    EchoThenDrop(usize),
    /// Echoes so many messages, then ends with a status.
    EchoThen(usize, i32, &'static str),
}

/// What a call looked like to the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) authority: String,
    /// The first message's bytes with its prefix, for calls that were read.
    pub(crate) body: Bytes,
}

/// One member.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Inner>);

struct Inner {
    up: AtomicBool,
    /// Accepts connections and never says a word.
    mute: AtomicBool,
    /// Stops answering on connections that are open, pings included.
    frozen: watch::Sender<()>,
    acts: Mutex<VecDeque<Act>>,
    seen: Mutex<Vec<Seen>>,
    status: Mutex<StatusResponse>,
    /// Changed to drop all connections.
    cut: watch::Sender<()>,
    connections: AtomicUsize,
    /// One item for each stream that the gateway reset.
    resets: (mpsc::UnboundedSender<Reason>, tokio::sync::Mutex<mpsc::UnboundedReceiver<Reason>>),
}

impl Fake {
    pub(crate) fn new(id: u64) -> Fake {
        let (sender, receiver) = mpsc::unbounded_channel();
        let status = StatusResponse { leader: id, version: "3.7.1".into(), ..StatusResponse::default() };
        Fake(Arc::new(Inner {
            up: AtomicBool::new(true),
            mute: AtomicBool::new(false),
            frozen: watch::Sender::new(()),
            acts: Mutex::default(),
            seen: Mutex::default(),
            status: Mutex::new(status),
            cut: watch::Sender::new(()),
            connections: AtomicUsize::new(0),
            resets: (sender, tokio::sync::Mutex::new(receiver)),
        }))
    }

    /// Adds what is done with the next calls; without any left, calls are answered "ok".
    pub(crate) fn then(&self, act: Act) -> &Fake {
        self.0.acts.lock().push_back(act);
        self
    }

    /// Drops what was still to be done.
    pub(crate) fn forget(&self) {
        self.0.acts.lock().clear();
    }

    /// Refuses connections and drops the present ones, or takes them again.
    pub(crate) fn set_up(&self, up: bool) {
        self.0.up.store(up, Ordering::SeqCst);
        if !up {
            self.0.cut.send_replace(());
        }
    }

    pub(crate) fn set_mute(&self, mute: bool) {
        self.0.mute.store(mute, Ordering::SeqCst);
    }

    /// Stops answering on the present connections, for good; new ones are served.
    pub(crate) fn freeze(&self) {
        self.0.frozen.send_replace(());
    }

    pub(crate) fn set_status(&self, change: impl FnOnce(&mut StatusResponse)) {
        change(&mut self.0.status.lock());
    }

    /// The calls so far, probes left out.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().clone()
    }

    /// Connections opened so far.
    pub(crate) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    /// Waits until the gateway resets a stream.
    pub(crate) async fn next_reset(&self) -> Reason {
        self.0.resets.1.lock().await.recv().await.expect("the sender lives here")
    }

    fn accept(&self) -> io::Result<DuplexStream> {
        if !self.0.up.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.0.connections.fetch_add(1, Ordering::SeqCst);
        let (near, far) = tokio::io::duplex(1 << 20);
        let fake = self.clone();
        let mut cut = self.0.cut.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = fake.serve(far) => {}
                _ = cut.changed() => {}
            }
        });
        Ok(near)
    }

    async fn serve(&self, io: DuplexStream) {
        if self.0.mute.load(Ordering::SeqCst) {
            let _io = io;
            return std::future::pending().await;
        }
        let Ok(mut connection) = h2::server::handshake(io).await else { return };
        let drop_connection = Arc::new(tokio::sync::Notify::new());
        let mut frozen = self.0.frozen.subscribe();
        loop {
            tokio::select! {
                _ = frozen.changed() => return std::future::pending().await,
                () = drop_connection.notified() => return,
                accepted = connection.accept() => {
                    let Some(Ok((request, respond))) = accepted else { return };
                    let fake = self.clone();
                    let drop_connection = Arc::clone(&drop_connection);
                    tokio::spawn(async move {
                        if fake.answer(request, respond).await.is_none() {
                            drop_connection.notify_one();
                        }
                    });
                }
            }
        }
    }

    /// Performs one call; `None` asks for the connection to be dropped.
    async fn answer(&self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
        let path = request.uri().path().to_owned();
        if path == "/grpc.health.v1.Health/Check" {
            reply(&mut respond, Some(Bytes::from_static(b"\x08\x01")), 0, "");
            return Some(());
        }
        let probing = request.headers().get("user-agent").is_none();
        if path == "/etcdserverpb.Maintenance/Status" && probing {
            let status = self.0.status.lock().encode_to_vec();
            reply(&mut respond, Some(status.into()), 0, "");
            return Some(());
        }
        let act = self.0.acts.lock().pop_front().unwrap_or(Act::Answer("ok"));
        let (head, mut body) = request.into_parts();
        let mut seen = Seen {
            path,
            headers: head.headers,
            authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
            body: Bytes::new(),
        };
        if !matches!(act, Act::Echo | Act::EchoThenDrop(_) | Act::EchoThen(..)) {
            seen.body = body.data().await.and_then(Result::ok).unwrap_or_default();
        }
        self.0.seen.lock().push(seen);
        match act {
            Act::Answer(message) => reply(&mut respond, Some(message.into()), 0, ""),
            Act::Slow(pause, message) => {
                time::sleep(pause).await;
                reply(&mut respond, Some(message.into()), 0, "");
            }
            Act::Status(code, text) => reply(&mut respond, None, code, text),
            Act::Trailers(message, code, text) => reply(&mut respond, Some(message.into()), code, text),
            Act::Reset(reason) => respond.send_reset(reason),
            Act::ResetAfter(message, reason) => {
                let mut stream = respond.send_response(head_of(200), false).unwrap();
                stream.send_data(grpc::framed(&Bytes::from(message)), false).unwrap();
                time::sleep(Duration::from_millis(1)).await;
                stream.send_reset(reason);
            }
            Act::Stall => self.until_reset(|cx| respond.poll_reset(cx)).await,
            Act::StallAfterHead => {
                let mut stream = respond.send_response(head_of(200), false).unwrap();
                self.until_reset(|cx| stream.poll_reset(cx)).await;
            }
            Act::NoTrailers(message) => {
                let mut stream = respond.send_response(head_of(200), false).unwrap();
                stream.send_data(grpc::framed(&Bytes::from(message)), true).unwrap();
            }
            Act::Http(status) => {
                respond.send_response(http::Response::builder().status(status).body(()).unwrap(), true).unwrap();
            }
            Act::Drop => return None,
            Act::Echo => return self.echo(&mut respond, &mut body, usize::MAX, None).await,
            Act::EchoThenDrop(count) => return self.echo(&mut respond, &mut body, count, None).await,
            Act::EchoThen(count, code, text) => {
                return self.echo(&mut respond, &mut body, count, Some((code, text))).await;
            }
        }
        Some(())
    }

    async fn until_reset(
        &self,
        mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Result<Reason, h2::Error>>,
    ) {
        if let Ok(reason) = std::future::poll_fn(|cx| poll(cx)).await {
            let _ = self.0.resets.0.send(reason);
        }
    }

    async fn echo(
        &self,
        respond: &mut SendResponse<Bytes>,
        body: &mut RecvStream,
        count: usize,
        end: Option<(i32, &'static str)>,
    ) -> Option<()> {
        let mut stream = respond.send_response(head_of(200), false).unwrap();
        let mut buffer = BytesMut::new();
        let mut echoed = 0;
        while echoed < count {
            match body.data().await {
                Some(Ok(data)) => {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    buffer.extend_from_slice(&data);
                }
                Some(Err(error)) => {
                    let _ = self.0.resets.0.send(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
                    return Some(());
                }
                None => {
                    let _ = stream.send_trailers(grpc_status(0, ""));
                    return Some(());
                }
            }
            while buffer.len() >= 5 {
                let len = 5 + u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize;
                if buffer.len() < len || echoed == count {
                    break;
                }
                let _ = stream.send_data(buffer.split_to(len).freeze(), false);
                echoed += 1;
            }
        }
        // Lets what was written reach the gateway before the end does.
        time::sleep(Duration::from_millis(1)).await;
        let (code, text) = end?;
        let _ = stream.send_trailers(grpc_status(code, text));
        Some(())
    }
}

fn head_of(status: u16) -> http::Response<()> {
    http::Response::builder().status(status).header("content-type", "application/grpc").body(()).unwrap()
}

fn grpc_status(code: i32, text: &str) -> http::HeaderMap {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", text.parse().unwrap());
    trailers.insert("x-trailer", "kept".parse().unwrap());
    trailers
}

fn reply(respond: &mut SendResponse<Bytes>, message: Option<Bytes>, code: i32, text: &str) {
    let mut head = head_of(200);
    let Some(message) = message else {
        head.headers_mut().extend(grpc_status(code, text));
        let _ = respond.send_response(head, true);
        return;
    };
    head.headers_mut().insert("x-header", "kept".parse().unwrap());
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let _ = stream.send_data(grpc::framed(&message), false);
    let _ = stream.send_trailers(grpc_status(code, text));
}

/// Connects to fakes by their host names `a`, `b`, `c`.
struct Fakes(Vec<Fake>);

impl Connector for Fakes {
    fn connect(&self, address: &Address) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let index = usize::from(address.authority.host().as_bytes()[0] - b'a');
        let opened = self.0[index].accept().map(|io| Box::new(io) as Box<dyn Io>);
        Box::pin(std::future::ready(opened))
    }
}

/// Speaks HTTP/2 by hand: answers the two calls of a probe, then says GOAWAY with that probe as the
/// last stream to whatever comes.
pub(crate) struct GoesAway(pub(crate) Arc<AtomicUsize>);

impl Connector for GoesAway {
    fn connect(&self, _: &Address) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let calls = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut preface = [0; 24];
            far.read_exact(&mut preface).await?;
            far.write_all(&frame(4, 0, 0, b"")).await?;
            loop {
                let mut head = [0; 9];
                far.read_exact(&mut head).await?;
                let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let id = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
                let mut payload = vec![0; len];
                far.read_exact(&mut payload).await?;
                match (head[3], id) {
                    // SETTINGS: acknowledged.
                    (4, _) if head[4] & 1 == 0 => far.write_all(&frame(4, 1, 0, b"")).await?,
                    // HEADERS of the probe: trailers-only, UNIMPLEMENTED.
                    (1, 1 | 3) => {
                        let block = b"\x88\x00\x0bgrpc-status\x0212";
                        far.write_all(&frame(1, 5, id, block)).await?;
                    }
                    // HEADERS of a call.
                    (1, _) => {
                        calls.fetch_add(1, Ordering::SeqCst);
                        far.write_all(&frame(7, 0, 0, b"\0\0\0\x03\0\0\0\0")).await?;
                    }
                    _ => {}
                }
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            io::Result::Ok(())
        });
        Box::pin(std::future::ready(Ok(Box::new(near) as Box<dyn Io>)))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_uint(payload.len() as u64, 3);
    frame.put_u8(kind);
    frame.put_u8(flags);
    frame.put_u32(stream);
    frame.put_slice(payload);
    frame
}

/// A gateway in front of fakes.
pub(crate) struct Setup {
    pub(crate) gateway: Gateway,
    pub(crate) pool: Pool,
    pub(crate) fakes: Vec<Fake>,
    pub(crate) registry: Registry,
}

impl Setup {
    /// With so many members, all reachable, and one connection each.
    pub(crate) async fn new(members: u64) -> Setup {
        Setup::with(members, Config::default()).await
    }

    pub(crate) async fn with(members: u64, config: Config) -> Setup {
        let fakes: Vec<_> = (1..=members).map(Fake::new).collect();
        let setup = Setup::start(fakes, config);
        setup.all_connected().await;
        setup
    }

    /// Without waiting for connections.
    pub(crate) fn start(fakes: Vec<Fake>, config: Config) -> Setup {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let names: Vec<_> = (0..fakes.len()).map(|i| char::from(b'a' + i as u8).to_string()).collect();
        let addresses = Address::list(&names.join(",")).unwrap();
        let pool_config = PoolConfig { connections: 1, ..PoolConfig::default() };
        let connector = Arc::new(Fakes(fakes.clone()));
        let pool = Pool::connect(&config, pool_config, addresses, connector, metrics.clone());
        let gateway = Gateway::new(&config, Upstream::Remote(pool.clone()), metrics);
        Setup { gateway, pool, fakes, registry }
    }

    pub(crate) async fn all_connected(&self) {
        time::timeout(Duration::from_secs(60), async {
            while self.pool.health().iter().any(|(_, health)| health.is_none()) {
                time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("all endpoints connect");
    }

    /// The value of a counter or gauge with exactly these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let matching = metrics.filter(|metric| {
            labels.iter().all(|(name, value)| {
                metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
            })
        });
        matching.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}
