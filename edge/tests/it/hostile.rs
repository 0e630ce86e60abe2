//! Clients that mean harm, one kind a test, and beside each a normal one that must not notice.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_edge::{
    Api, Body, Request, Response, Service, grpc,
    http::{Front, Options},
    listener::{self, Drain, Limits, Port, serve},
    tls::{Acceptor, ClientOptions, Connector, Protocol, ServerOptions, Verify, self_signed},
};
use forebay_proto::etcdserverpb::PutResponse;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tonic::{Code, Status};

use crate::json::Healthy;

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
/// The length of the answer to a range.
const LONG: usize = 4 << 20;
/// What a normal client waits for an answer at most. An answer takes a millisecond; the rest is for a machine that has
/// other tests to run.
const BEARABLE: Duration = Duration::from_secs(3);

async fn answer(request: Request) -> Response {
    let mut trailers = grpc::trailers(&Status::ok(""));
    trailers.insert("x-end", "1".parse().unwrap());
    let len = if request.uri().path() == RANGE { LONG } else { 10 };
    grpc::respond(Body::with_trailers(Bytes::from(vec![0; len]), trailers))
}

async fn listen(limits: Limits, tls: Option<Acceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = Port { listener: listener.into(), tls };
    tokio::spawn(serve(port, answer, limits, Drain::default(), Duration::from_secs(1)));
    address
}

/// A client that does what clients do.
struct Normal(SendRequest<Empty<Bytes>>);

impl Normal {
    async fn connect(address: SocketAddr) -> Normal {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(64 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Normal(sender)
    }

    /// The status of a call.
    async fn call(&mut self, path: &str) -> Code {
        let request = http::Request::post(format!("http://edge{path}"))
            .header("content-type", "application/grpc")
            .body(Empty::new())
            .unwrap();
        let (head, body) = self.0.send_request(request).await.expect("a connection that goes on").into_parts();
        let body = body.collect().await.expect("a whole answer");
        let trailers = body.trailers().unwrap_or(&head.headers);
        Code::from_bytes(trailers["grpc-status"].as_bytes())
    }

    async fn is_served(&mut self) {
        let code = tokio::time::timeout(BEARABLE, self.call(PUT)).await.expect("in bearable time");
        assert_eq!(code, Code::Ok);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The header block of a call, without Huffman codes.
fn head(path: &str) -> Vec<u8> {
    let literal = |name: u8, value: &str| {
        let mut field = vec![name, u8::try_from(value.len()).unwrap()];
        field.extend(value.as_bytes());
        field
    };
    // POST and http from the static table, then path, authority and content type with their names from it. None is
    // put into the dynamic table.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(0x04, path));
    block.extend(literal(0x01, "edge"));
    block.extend([0x0f]);
    block.extend(literal(0x10, "application/grpc"));
    block
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn call(stream: u32, path: &str) -> Vec<u8> {
    frame(1, END_STREAM | END_HEADERS, stream, &head(path))
}

/// An HTTP/2 connection by hand, with these settings.
async fn by_hand(address: SocketAddr, settings: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, settings)).await.unwrap();
    stream
}

/// Settings that close every stream's window.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// Reads on until an answer begins.
async fn answer_begins(stream: &mut TcpStream) {
    try_answer_begins(stream).await.unwrap();
}

/// The same of a connection that may be ended before.
async fn try_answer_begins(stream: &mut TcpStream) -> std::io::Result<()> {
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await?;
        let [a, b, c, kind, ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        if kind == 1 {
            return Ok(());
        }
    }
}

/// Reads until the other side ends the connection; whether that was within `time`.
async fn ends_within(time: Duration, stream: &mut TcpStream) -> bool {
    let mut buffer = vec![0; 64 << 10];
    let end = async {
        // An end and a reset are the same here.
        while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
    };
    tokio::time::timeout(time, end).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_stay_silent_are_gone_after_the_deadline_under_tls_too() {
    let dir = tempfile::tempdir().unwrap();
    let pair = self_signed(dir.path(), &["localhost".to_owned()], 1).unwrap();
    let acceptor = Acceptor::new(ServerOptions::new(pair)).unwrap();
    let limits = Limits { header_timeout: Duration::from_secs(1), ..Limits::default() };
    for tls in [None, Some(acceptor)] {
        let address = listen(limits.clone(), tls.clone()).await;
        let mut silent = JoinSet::new();
        for n in 0..500 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Some say nothing, some stop within what a greeting begins with, under either protocol.
            stream
                .write_all([b"".as_slice(), b"PRI * HT", b"GET / HTTP/1.1\r\nHo", b"\x16\x03\x01"][n % 4])
                .await
                .unwrap();
            silent.spawn(async move { ends_within(Duration::from_secs(10), &mut stream).await });
        }
        if tls.is_none() {
            Normal::connect(address).await.is_served().await;
        }
        assert!(silent.join_all().await.into_iter().all(|ended| ended), "TLS: {}", tls.is_some());
    }
}

#[tokio::test]
async fn a_client_that_shakes_hands_and_then_stays_silent_is_gone_too() {
    let dir = tempfile::tempdir().unwrap();
    let pair = self_signed(dir.path(), &["localhost".to_owned()], 1).unwrap();
    let options = ClientOptions {
        verify: Verify::Authorities(pair.certificate.clone()),
        identity: None,
        server_name: None,
        protocol: Protocol::default(),
        speaks: vec!["h2"],
    };
    let connector = Connector::new(options).unwrap();
    let limits = Limits { header_timeout: Duration::from_secs(1), ..Limits::default() };
    let address = listen(limits, Some(Acceptor::new(ServerOptions::new(pair)).unwrap())).await;
    let mut stream = connector.connect(TcpStream::connect(address).await.unwrap(), "localhost").await.unwrap();
    let mut buffer = [0; 1024];
    let end = async { while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {} };
    assert!(tokio::time::timeout(Duration::from_secs(10), end).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_own_connection_and_nobody_elses() {
    let address = listen(Limits::default(), None).await;
    let mut normal = Normal::connect(address).await;
    let long_field = [vec![0x00, 0x01, b'x', 0x7f, 0x81, 0x07], vec![b'y'; 1024]].concat();
    type Make = Box<dyn Fn(u32) -> Vec<u8> + Send>;
    let floods: Vec<(&str, Vec<u8>, Make)> = vec![
        ("ping", vec![], Box::new(|_| frame(6, 0, 0, &[7; 8]))),
        ("settings", vec![], Box::new(|_| frame(4, 0, 0, &[]))),
        ("window update", vec![], Box::new(|_| frame(8, 0, 0, &[0, 0, 0, 1]))),
        ("priority", vec![], Box::new(|n| frame(2, 0, 2 * n + 1, &[0, 0, 0, 0, 1]))),
        ("unknown", vec![], Box::new(|_| frame(99, 0, 0, &[7; 64]))),
        ("empty data", frame(1, END_HEADERS, 1, &head(PUT)), Box::new(|_| frame(0, 0, 1, &[]))),
        ("rapid reset", vec![], Box::new(|n| [call(2 * n + 1, RANGE), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat())),
        ("continuation", frame(1, END_STREAM, 1, &head(PUT)), Box::new(|_| frame(9, 0, 1, &[]))),
        ("endless head", frame(1, END_STREAM, 1, &head(PUT)), Box::new(move |_| frame(9, 0, 1, &long_field))),
        ("streams in reverse", vec![], Box::new(|n| call(1_000_001 - 2 * (n % 500_000), PUT))),
        ("streams of the server", vec![], Box::new(|n| call(2 * n + 2, PUT))),
    ];
    for (what, begin, make) in floods {
        let stream = by_hand(address, &[]).await;
        let (mut reader, mut writer) = stream.into_split();
        // The flood reads what it is sent, or it would only stop itself.
        let drain = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while reader.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
        });
        let started = Instant::now();
        let flood = async {
            if writer.write_all(&begin).await.is_err() {
                return;
            }
            for n in 0.. {
                let some: Vec<u8> = (n * 100..(n + 1) * 100).flat_map(&make).collect();
                if writer.write_all(&some).await.is_err() {
                    return;
                }
            }
        };
        let beside = async {
            loop {
                normal.is_served().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = flood => {}
            _ = beside => unreachable!("it goes on"),
            _ = tokio::time::sleep(Duration::from_secs(20)) => panic!("{what} goes on after {:?}", started.elapsed()),
        }
        drain.abort();
        normal.is_served().await;
    }
}

#[tokio::test]
async fn who_pings_too_often_is_told_so_in_the_words_of_grpc_go() {
    let limits = Limits { keepalive_min_time: Duration::from_secs(5), ..Limits::default() };
    let address = listen(limits, None).await;
    let mut eager = by_hand(address, &[]).await;
    let mut said = Vec::new();
    for _ in 0..4 {
        eager.write_all(&frame(6, 0, 0, &[7; 8])).await.unwrap();
    }
    tokio::time::timeout(BEARABLE, eager.read_to_end(&mut said)).await.expect("it is ended").unwrap();
    // GOAWAY, whose code is 11; clients of grpc-go look for the text.
    assert!(said.ends_with(b"\0\0\0\x0btoo_many_pings"), "{}", said.escape_ascii());
    Normal::connect(address).await.is_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_take_no_more_than_their_budget() {
    let limits = Limits { max_answer_bytes: 3 * LONG, answer_timeout: Duration::from_secs(2), ..Limits::default() };
    let address = listen(limits, None).await;
    let mut greedy = by_hand(address, &NO_WINDOW).await;
    let calls: Vec<u8> = (0..50).flat_map(|n| call(2 * n + 1, RANGE)).collect();
    greedy.write_all(&calls).await.unwrap();
    answer_begins(&mut greedy).await;
    let mut normal = Normal::connect(address).await;
    // Whoever asks for little is served all the while; a range is refused first, because the budget is taken, and served
    // as soon as the greedy one has been waited for.
    let started = Instant::now();
    let mut refused = 0;
    loop {
        normal.is_served().await;
        match normal.call(RANGE).await {
            Code::Ok if refused > 0 => break,
            Code::Ok => {}
            code => {
                assert_eq!(code, Code::ResourceExhausted);
                refused += 1;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(20), "after {refused} refusals");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ends_within(Duration::from_secs(5), &mut greedy).await, "it is cut when others want its memory");
}

/// Reads on until the answer of a stream has brought so much, or is refused; whether it brought it.
async fn answer_brings(stream: &mut TcpStream, id: u32, len: usize) -> bool {
    let mut came = 0;
    while came < len {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let [a, b, c, kind, flags, id_a, id_b, id_c, id_d] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if u32::from_be_bytes([id_a, id_b, id_c, id_d]) != id {
            continue;
        }
        match kind {
            0 => came += payload.len(),
            _ if flags & END_STREAM != 0 => return false,
            _ => {}
        }
    }
    true
}

#[tokio::test]
async fn answers_of_which_a_byte_is_not_read_take_their_memory_all_the_same() {
    let patience = Duration::from_secs(60);
    let address =
        listen(Limits { max_answer_bytes: 8 * LONG, answer_timeout: patience, ..Limits::default() }, None).await;
    let all_but_a_byte = u32::try_from(LONG - 1).unwrap().to_be_bytes();
    let mut greedy = by_hand(address, &[&[0, 4], &all_but_a_byte[..]].concat()).await;
    greedy.write_all(&frame(8, 0, 0, &0x7000_0000_u32.to_be_bytes())).await.unwrap();
    let mut brought = 0;
    for n in 0..12 {
        greedy.write_all(&call(2 * n + 1, RANGE)).await.unwrap();
        brought += usize::from(answer_brings(&mut greedy, 2 * n + 1, LONG - 1).await);
    }
    assert_eq!(brought, 8);
    let mut normal = Normal::connect(address).await;
    assert_eq!(normal.call(RANGE).await, Code::ResourceExhausted);
    drop(greedy);
    let again = async { while normal.call(RANGE).await != Code::Ok {} };
    tokio::time::timeout(BEARABLE, again).await.expect("who has gone gives everything back");
}

#[tokio::test]
async fn only_reads_are_refused_for_want_of_memory_once_they_were_carried_out() {
    const ANSWER: usize = 20 << 10;
    let answer = |request: Request| async move {
        let len = if request.uri().path() == "/greedy" { LONG } else { ANSWER };
        let bytes = Bytes::from(vec![0; len]);
        match listener::is_grpc(&request) {
            true => grpc::reply(bytes),
            false => Response::new(Body::full(bytes)),
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Duration::from_secs(60);
    let limits = Limits { max_answer_bytes: 8 * LONG, answer_timeout: patience, ..Limits::default() };
    tokio::spawn(serve(listener, answer, limits, Drain::default(), Duration::from_secs(1)));
    let mut greedy = by_hand(address, &NO_WINDOW).await;
    for n in 0..8 {
        greedy.write_all(&call(2 * n + 1, "/greedy")).await.unwrap();
        answer_begins(&mut greedy).await;
    }
    let mut normal = Normal::connect(address).await;
    for (path, code) in [
        (RANGE, Code::ResourceExhausted),
        ("/v3electionpb.Election/Leader", Code::ResourceExhausted),
        ("/etcdserverpb.KV/Txn", Code::Ok),
        ("/v3lockpb.Lock/Lock", Code::Ok),
        ("/etcdserverpb.KV/DeleteRange", Code::Ok),
    ] {
        assert_eq!(normal.call(path).await, code, "{path}");
    }
    for (request, status) in [
        ("POST /v3/kv/range", 429),
        ("GET /metrics", 429),
        ("POST /v3/kv/txn", 200),
        ("POST /v3beta/kv/txn", 200),
        ("POST /v3/lease/grant", 200),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = answer_within(BEARABLE, &mut stream).await.unwrap();
        assert_eq!(answer, format!("HTTP/1.1 {status}"), "{request}");
    }
}

/// Puts that come as JSON, each answered when it is there.
#[derive(Clone)]
struct Puts;

impl Service for Puts {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        async move {
            let whole = request.into_body().collect().await;
            whole.map_or_else(
                |_| grpc::refuse(Status::unavailable("cut off")),
                |_| grpc::reply_message(&PutResponse::default()),
            )
        }
        .boxed()
    }
}

/// An HTTP/1.1 request that announces a long value, and sends a part of it.
async fn put_a_part(address: SocketAddr, part: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /v3/kv/put HTTP/1.1\r\nHost: edge\r\nContent-Length: 4000000\r\n\r\n{\"value\":\"";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'A'; part]).await.unwrap();
    stream
}

/// What the answer to a request begins with, if one comes.
async fn answer_within(time: Duration, stream: &mut TcpStream) -> Option<String> {
    let mut answer = [0; 12];
    let read = tokio::time::timeout(time, stream.read_exact(&mut answer)).await;
    read.ok()?.ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_as_json_that_never_end_take_no_more_than_their_budget() {
    let limits = Limits { max_answer_bytes: 1 << 20, answer_timeout: Duration::from_secs(2), ..Limits::default() };
    let front = Front::new(Api::new(Puts), Arc::new(Healthy), Options::default(), &Registry::new()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = move |request| {
        let front = front.clone();
        async move { front.client(request).await }
    };
    let port = Port { listener: listener.into(), tls: None };
    tokio::spawn(serve(port, serving, limits, Drain::default(), Duration::from_secs(1)));
    let mut slow = put_a_part(address, 700 << 10).await;
    assert_eq!(answer_within(Duration::from_millis(300), &mut slow).await, None, "it is waited for");
    let short =
        b"POST /v3/kv/put HTTP/1.1\r\nHost: edge\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{\"key\":\"YQ\"}";
    let started = Instant::now();
    let mut refused = 0;
    loop {
        // Whoever sends little is served all the while.
        let mut normal = TcpStream::connect(address).await.unwrap();
        normal.write_all(short).await.unwrap();
        assert_eq!(answer_within(BEARABLE, &mut normal).await.as_deref(), Some("HTTP/1.1 200"));
        let mut another = put_a_part(address, 700 << 10).await;
        match answer_within(Duration::from_millis(300), &mut another).await {
            None if refused > 0 => break,
            None => {}
            Some(answer) => {
                assert_eq!(answer, "HTTP/1.1 429");
                refused += 1;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(20), "after {refused} refusals");
    }
    assert!(ends_within(Duration::from_secs(5), &mut slow).await, "it is cut when others want its memory");
}

/// A call over gRPC that announces a long message and sends a part of it: its status, or none if the connection ends.
async fn call_a_part(address: SocketAddr, part: usize) -> tokio::task::JoinHandle<Option<Code>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    let begun = [&grpc::prefix(2 << 20)[..], &vec![0; part]].concat();
    let begun = futures::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(begun)))]);
    let body = StreamBody::new(begun.chain(futures::stream::pending()));
    let request = http::Request::post(format!("http://edge{PUT}")).header("content-type", "application/grpc");
    let answer = sender.send_request(request.body(body).unwrap());
    tokio::spawn(async move {
        let (_connection, _sender) = (tokio::spawn(connection), sender);
        let answer = answer.await.ok()?;
        Some(Code::from_bytes(answer.headers().get("grpc-status")?.as_bytes()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_take_no_more_than_their_budget() {
    let limits = Limits { max_answer_bytes: 1 << 20, answer_timeout: Duration::from_secs(2), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reading = |request| async {
        let read = grpc::unary_bytes(request, 2 << 20).await;
        read.map_or_else(grpc::refuse, |_| grpc::reply_message(&PutResponse::default()))
    };
    tokio::spawn(serve(listener, reading, limits, Drain::default(), Duration::from_secs(1)));
    let mut slow = call_a_part(address, 700 << 10).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut slow).await.is_err(), "it is waited for");
    let started = Instant::now();
    let mut refused = 0;
    loop {
        let mut another = call_a_part(address, 700 << 10).await;
        match tokio::time::timeout(Duration::from_millis(300), &mut another).await {
            Err(_) if refused > 0 => break,
            Err(_) => another.abort(),
            Ok(answer) => {
                assert_eq!(answer.unwrap(), Some(Code::ResourceExhausted));
                refused += 1;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(20), "after {refused} refusals");
    }
    let cut = tokio::time::timeout(Duration::from_secs(5), slow).await.expect("it is cut when others want its memory");
    assert_eq!(cut.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_house_makes_room_for_whoever_comes_and_never_at_the_cost_of_a_call() {
    let limits = Limits { max_connections: 20, ..Limits::default() };
    let address = listen(limits, None).await;
    // A call that is under way: its answer waits for a window.
    let mut busy = by_hand(address, &NO_WINDOW).await;
    busy.write_all(&call(1, RANGE)).await.unwrap();
    answer_begins(&mut busy).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(by_hand(address, &[]).await);
        let mut newcomer = Normal::connect(address).await;
        newcomer.is_served().await;
    }
    // A window for all of it.
    let window = u32::try_from(2 * LONG).unwrap().to_be_bytes();
    busy.write_all(&[frame(8, 0, 0, &window), frame(8, 0, 1, &window)].concat()).await.unwrap();
    let mut got = 0;
    let mut buffer = vec![0; 64 << 10];
    while got < LONG {
        let len = tokio::time::timeout(BEARABLE, busy.read(&mut buffer)).await.expect("it goes on").unwrap();
        assert!(len > 0, "the busy connection was ended after {got} bytes");
        got += len;
    }
}

#[tokio::test]
async fn a_source_has_no_more_connections_than_its_bound() {
    let limits = Limits { max_connections_per_source: Some(3), ..Limits::default() };
    let address = listen(limits, None).await;
    let mut busy = Vec::new();
    for _ in 0..3 {
        let mut stream = by_hand(address, &NO_WINDOW).await;
        stream.write_all(&call(1, RANGE)).await.unwrap();
        answer_begins(&mut stream).await;
        busy.push(stream);
    }
    let mut fourth = by_hand(address, &[]).await;
    assert!(ends_within(BEARABLE, &mut fourth).await);
    drop(busy.pop());
    // The server learns in its own time that one has gone.
    let served = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let asked =
                [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &NO_WINDOW), &call(1, RANGE)].concat();
            if stream.write_all(&asked).await.is_ok() && try_answer_begins(&mut stream).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BEARABLE, served).await.expect("the place of a connection that has gone is another's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_end_are_held_at_their_bound_and_others_are_served() {
    const BOUND: usize = 50;
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    /// A call that is under way.
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            OPEN.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let handler = |request: Request| async move {
        if request.uri().path() == RANGE {
            MOST.fetch_max(OPEN.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _counted = Counted;
            std::future::pending::<()>().await;
        }
        answer(request).await
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { max_concurrent_streams: BOUND as u32, ..Limits::default() };
    tokio::spawn(serve(listener, handler, limits, Drain::default(), Duration::from_secs(1)));
    let mut normal = Normal::connect(address).await;
    let (mut reader, mut writer) = by_hand(address, &[]).await.into_split();
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while reader.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
    });
    let open = async |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while OPEN.load(Ordering::SeqCst) != count {
            assert!(Instant::now() < deadline, "{} calls are open, not {count}", OPEN.load(Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    for n in 0..20_000 {
        if n == BOUND as u32 {
            open(BOUND).await;
        }
        // It may well be thrown out before the end.
        if writer.write_all(&call(2 * n + 1, RANGE)).await.is_err() {
            break;
        }
        if n % 1000 == 0 {
            normal.is_served().await;
        }
    }
    normal.is_served().await;
    assert_eq!(MOST.load(Ordering::SeqCst), BOUND);
    drop(writer);
    drain.abort();
    // Nor do calls go on whose client is gone.
    open(0).await;
}

#[tokio::test]
async fn heads_that_come_slowly_are_given_up() {
    let limits = Limits { header_timeout: Duration::from_secs(1), ..Limits::default() };
    let address = listen(limits, None).await;
    let started = Instant::now();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"POST /etcdserverpb.KV/Put HTTP/1.1\r\nHost: edge\r\nx-slow: ").await.unwrap();
    // A byte now and then is no reason to wait on.
    while !ends_within(Duration::from_millis(100), &mut slow).await && slow.write_all(b"y").await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "a slow head is waited for for ever");
    }
    assert!(started.elapsed() >= Duration::from_secs(1), "after {:?}", started.elapsed());
    Normal::connect(address).await.is_served().await;
}

#[tokio::test]
async fn a_request_that_names_two_hosts_is_refused_and_the_host_that_counts_is_one() {
    let hosts = vec!["good".to_owned()];
    let options = Options { hosts, ..Options::default() };
    let front = Front::new(Api::new(Puts), Arc::new(Healthy), options, &Registry::new()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = move |request| {
        let front = front.clone();
        async move { front.client(request).await }
    };
    tokio::spawn(serve(listener, serving, Limits::default(), Drain::default(), Duration::from_secs(1)));
    // As a real etcd 3.7 answers them.
    for (target, fields, status) in [
        ("/version", "Host: good\r\n", 200),
        ("/version", "Host: bad\r\n", 421),
        ("/version", "Host: good\r\nHost: bad\r\n", 400),
        ("/version", "Host: bad\r\nHost: good\r\n", 400),
        ("/version", "Host: good\r\nhost: good\r\n", 400),
        ("/version", "", 400),
        ("/version", "Host: \r\n", 421),
        ("/version", "Host: good/x\r\n", 400),
        ("/version", "Host: u@good\r\n", 400),
        ("http://good/version", "Host: bad\r\n", 200),
        ("http://bad/version", "Host: good\r\n", 421),
        ("http://good/version", "", 400),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer_within(BEARABLE, &mut stream).await.unwrap();
        assert_eq!(answer, format!("HTTP/1.1 {status}"), "{request}");
    }
    // Under HTTP/2 the field may say again what `:authority` says, and nothing else.
    let mut normal = Normal::connect(address).await.0;
    for (host, status) in [("good", 200), ("bad", 400)] {
        let request = http::Request::get("http://good/version").header("host", host).body(Empty::new()).unwrap();
        assert_eq!(normal.send_request(request).await.unwrap().status(), status, "{host}");
    }
}

#[tokio::test]
async fn heads_that_are_too_long_are_refused_and_the_next_is_answered() {
    let address = listen(Limits::default(), None).await;
    let mut normal = Normal::connect(address).await;
    let huge = http::Request::post(format!("http://edge{PUT}"))
        .header("content-type", "application/grpc")
        .header("x-huge", "y".repeat(100 << 10))
        .body(Empty::new())
        .unwrap();
    match normal.0.send_request(huge).await {
        Ok(response) => assert_eq!(response.status(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(!error.is_timeout(), "{error}"),
    }
    Normal::connect(address).await.is_served().await;

    let mut many = TcpStream::connect(address).await.unwrap();
    many.write_all(b"GET / HTTP/1.1\r\nHost: edge\r\n").await.unwrap();
    for n in 0..100_000 {
        if many.write_all(format!("x-{n}: y\r\n").as_bytes()).await.is_err() {
            break;
        }
    }
    let mut said = Vec::new();
    let _ = tokio::time::timeout(BEARABLE, many.read_to_end(&mut said)).await.expect("it is refused at once");
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&said));
}
