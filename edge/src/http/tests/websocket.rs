use ::http::HeaderName;
use futures::{SinkExt as _, StreamExt as _};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use super::*;

/// A connection to a server in this process.
fn connect(front: Front) -> DuplexStream {
    connect_with(front, Memory::default())
}

fn connect_with(front: Front, memory: Memory) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let service = service_fn(move |request: ::http::Request<hyper::body::Incoming>| {
        let front = front.clone();
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(memory.clone());
        async move { Ok::<_, std::convert::Infallible>(front.client(request).await) }
    });
    tokio::spawn(
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).with_upgrades(),
    );
    ours
}

async fn open(
    front: &Front,
    path: &str,
    fields: &[(&'static str, &'static str)],
) -> Result<(WebSocketStream<DuplexStream>, HeaderMap), Error> {
    let mut handshake = format!("ws://here:2379{path}").into_client_request()?;
    for (name, value) in fields {
        handshake.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let (socket, response) = tokio_tungstenite::client_async(handshake, connect(front.clone())).await?;
    Ok((socket, response.headers().clone()))
}

async fn text(socket: &mut WebSocketStream<DuplexStream>) -> String {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => text.to_string(),
        other => panic!("a text was due, not {other:?}"),
    }
}

#[tokio::test]
async fn a_watch_takes_values_and_answers_lines() {
    let (front, _) = front();
    let (mut socket, _) = open(&front, "/v3/watch", &[]).await.unwrap();
    socket.send(Message::text(r#"{"create_request":{"start_revision":1}}"#)).await.unwrap();
    assert_eq!(text(&mut socket).await, r#"{"result":{"header":{"revision":"1"},"created":true}}"#);
    socket.send(Message::binary(r#"{"progress_request":{}}"#)).await.unwrap();
    assert_eq!(text(&mut socket).await, r#"{"result":{"watch_id":"-1"}}"#);
    socket.send(Message::text(r#"{"cancel_request":{}}"#)).await.unwrap();
    assert_eq!(text(&mut socket).await, r#"{"error":{"code":10,"message":"cancelled"}}"#);
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_))) | None));
}

#[tokio::test]
async fn a_call_is_made_when_its_one_value_is_there() {
    let (front, _) = front();
    let (mut socket, _) = open(&front, "/v3beta/kv/range", &[]).await.unwrap();
    socket.send(Message::text(r#"{"key":"YQ=="}"#)).await.unwrap();
    assert_eq!(text(&mut socket).await, r#"{"kvs":[{"key":"YQ=="}],"count":"1"}"#);
    let (mut socket, _) = open(&front, "/v3/nothing", &[]).await.unwrap();
    assert_eq!(text(&mut socket).await, r#"{"code":5,"message":"Not Found"}"#);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_reads_takes_its_memory_all_the_while() {
    for path in ["/v3/election/leader", "/v3/election/observe"] {
        let memory = Memory::with_budget(2 << 20);
        let handshake = format!("ws://here:2379{path}").into_client_request().unwrap();
        let connection = connect_with(front().0, memory.clone());
        let (mut socket, _) = tokio_tungstenite::client_async(handshake, connection).await.unwrap();
        socket.send(Message::text("{}")).await.unwrap();
        // The clock jumps ahead when nothing moves any more.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(memory.taken() >= 3 * LONG, "{path}");
        assert!(text(&mut socket).await.len() > LONG);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(memory.taken(), 0, "{path}");
    }
}

#[tokio::test]
async fn a_token_comes_as_a_cookie_or_as_a_subprotocol() {
    let (front, echo) = front();
    let cases: [(&[(&'static str, &'static str)], &str); 3] = [
        (&[("sec-websocket-protocol", "Bearer, abc.1")], "Bearer abc.1"),
        (&[("cookie", "a=b; token=xyz")], "Bearer xyz"),
        (&[("cookie", "token=xyz"), ("origin", "http://page"), ("accept", "no")], "Bearer xyz"),
    ];
    for (fields, token) in cases {
        let (mut socket, headers) = open(&front, "/v3/kv/range", fields).await.unwrap();
        let echoed = headers.get("sec-websocket-protocol").map(|protocol| protocol.to_str().unwrap());
        assert_eq!(echoed, fields[0].0.starts_with("sec").then_some("Bearer"));
        socket.send(Message::text(r#"{"key":"YQ=="}"#)).await.unwrap();
        text(&mut socket).await;
        let (_, metadata) = echo.calls.lock().unwrap().pop().unwrap();
        assert_eq!(metadata["authorization"], token);
        assert_eq!(metadata.contains_key("grpcgateway-origin"), fields.len() == 3);
        assert!(!metadata.contains_key("grpcgateway-accept"));
    }
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused() {
    let (front, _) = front();
    let handshake = |method: Method, version: &str, key: &str| {
        let mut request = get("/v3/watch");
        *request.method_mut() = method;
        for (name, value) in [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", version),
            ("sec-websocket-key", key),
        ] {
            request = with_header(request, name, value);
        }
        request
    };
    let key = "AAAAAAAAAAAAAAAAAAAAAA==";
    for (method, version, key, status) in [
        (Method::POST, "13", key, 405),
        (Method::GET, "12", key, 400),
        (Method::GET, "13", "", 400),
        (Method::GET, "13", "AAAA", 400),
        (Method::GET, "13", "!", 400),
    ] {
        let answer = ask(&front, handshake(method, version, key)).await;
        assert_eq!((answer.status.as_u16(), answer.header("sec-websocket-version")), (status, Some("13")));
    }
    let answer = ask(&front, handshake(Method::GET, "13", key)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("sec-websocket-accept")),
        (101, Some("ICX+Yqv66kxgM0FcWaLWlFLwTAI="))
    );
}

#[tokio::test]
async fn websockets_are_limited_and_a_closed_one_makes_room() {
    let (front, _) = front_with(Options { max_websockets: 1, ..Options::default() }, State::default());
    let (mut first, _) = open(&front, "/v3/watch", &[]).await.unwrap();
    assert!(matches!(open(&front, "/v3/watch", &[]).await, Err(Error::Http(response)) if response.status() == 503));
    first.close(None).await.unwrap();
    while first.next().await.is_some() {}
    let mut second = open(&front, "/v3/watch", &[]).await;
    while second.is_err() {
        tokio::task::yield_now().await;
        second = open(&front, "/v3/watch", &[]).await;
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_websocket() {
    let (front, _) = front_with(Options { max_message_bytes: 1000, ..Options::default() }, State::default());
    let (mut socket, _) = open(&front, "/v3/watch", &[]).await.unwrap();
    socket.send(Message::text("[".repeat(4001))).await.unwrap();
    assert!(!matches!(socket.next().await, Some(Ok(Message::Text(_)))));
}

#[tokio::test]
async fn a_page_of_a_refused_origin_gets_no_websocket() {
    let origins = Origins::Listed(Vec::new());
    let (front, _) = front_with(Options { origins, ..Options::default() }, State::default());
    let refused = open(&front, "/v3/watch", &[("origin", "http://evil.example")]).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 403));
}
