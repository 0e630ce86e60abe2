//! The JSON API over a websocket: each message from the client is a value of the request's body,
//! each line of the response is a message to it.
//!
//! A page in a browser can stream this way, and cannot set header fields; so a token may come as a
//! subprotocol or as a cookie.

use std::sync::Arc;

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        AUTHORIZATION, CONNECTION, COOKIE, HOST, ORIGIN, REFERER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use forebay_proto::json::Route;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    Shared,
    answer::{empty, plain_error},
};
use crate::{Body, BoxError, Request, Response, listener::Memory};

/// Header fields of the handshake that go with the call.
const FORWARDED: [HeaderName; 3] = [ORIGIN, REFERER, HOST];

/// Bytes of a connection's buffers at rest; larger messages take more while they last.
const BUFFER_BYTES: usize = 4 << 10;

/// Whether a request asks to speak websocket from now on.
pub(super) fn is_upgrade(request: &Request) -> bool {
    has_token(request.headers(), &CONNECTION, "upgrade") && has_token(request.headers(), &UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// The answer to a handshake that failed.
pub(super) fn refusal(status: StatusCode) -> Response {
    let mut response = plain_error(status, status.canonical_reason().unwrap_or_default());
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// Answers the handshake and serves the connection in a task of its own; or says how to refuse it.
pub(super) fn upgrade(shared: Arc<Shared>, path: &str, request: &mut Request) -> Result<Response, StatusCode> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    let Some(key) = key.filter(|_| has_token(headers, &SEC_WEBSOCKET_VERSION, "13")) else {
        return Err(StatusCode::BAD_REQUEST);
    };
    // A websocket is no longer one of the listener's connections, so it has a limit of its own.
    let Ok(permit) = shared.websockets.clone().try_acquire_owned() else {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    };

    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is printable");
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|protocol| protocol.to_str().ok());
    if protocol.is_some_and(|protocol| protocol.starts_with("Bearer")) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }

    let (values, body) = mpsc::channel(1);
    let call = call(request, body);
    let path = path.to_owned();
    let memory = Memory::of(request.extensions());
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _permit = permit;
        let Ok(connection) = upgrade.await else { return };
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_message_size(Some(shared.json_bytes_max()))
            .max_frame_size(Some(shared.json_bytes_max()));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, Some(config)).await;
        let (mut sink, stream) = socket.split();
        let one_value = Route::find(&path).is_none_or(|route| !route.client_streaming());
        // When one side ends, so does the other: a call whose client left is dropped, and with it
        // whatever it holds.
        tokio::select! {
            () = receive(stream, values, one_value) => {}
            () = memory.was_cut() => {}
            _ = answer(&shared, &path, call, &mut sink) => {
                let _ = sink.close().await;
            }
        }
    });
    Ok(response)
}

/// The request that the websocket carries.
fn call(handshake: &Request, body: mpsc::Receiver<Bytes>) -> Request {
    let frames = stream::unfold(body, |mut body| async move { body.recv().await.map(|value| (value, body)) });
    let mut call = Request::new(Body::new(StreamBody::new(frames.map(|value| Ok::<_, BoxError>(Frame::data(value))))));
    *call.method_mut() = Method::POST;
    *call.extensions_mut() = handshake.extensions().clone();
    for name in FORWARDED {
        if let Some(value) = handshake.headers().get(&name) {
            call.headers_mut().insert(name, value.clone());
        }
    }
    if let Some(token) = token(handshake.headers()) {
        call.headers_mut().insert(AUTHORIZATION, token);
    }
    call
}

/// The value of `Authorization` that the handshake carries in another place.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let cookie = cookies.flat_map(|cookies| cookies.split(';')).find_map(|cookie| cookie.trim().strip_prefix("token="));
    let protocol = || headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?.split_once("Bearer,").map(|(_, token)| token);
    let token = cookie.or_else(protocol)?.trim_matches([' ', '"']);
    HeaderValue::try_from(format!("Bearer {token}")).ok()
}

/// Hands messages on as values until the client leaves. A method that takes one value has its body
/// end behind it, so that the call begins.
async fn receive(
    mut stream: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    values: mpsc::Sender<Bytes>,
    one_value: bool,
) {
    let mut values = Some(values);
    while let Some(Ok(message)) = stream.next().await {
        let value = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        if let Some(open) = &values {
            // White space ends a value that does not end itself, a number.
            let mut line = BytesMut::from(value);
            line.extend_from_slice(b"\n");
            // A call that takes no more values may go on answering.
            if open.send(line.freeze()).await.is_err() || one_value {
                values = None;
            }
        }
    }
}

/// Makes the call and sends each line of its response.
async fn answer(
    shared: &Shared,
    path: &str,
    call: Request,
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
) -> Result<(), BoxError> {
    let mut body = shared.json(path, call).await.into_body();
    let mut rest = BytesMut::new();
    // What is not sent yet, whose memory is counted as long.
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        rest.extend_from_slice(&data);
        pieces.push(data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest.split_to(end + 1).freeze();
            send(sink, line.slice(..end)).await?;
        }
        if rest.is_empty() {
            pieces.clear();
        }
    }
    send(sink, rest.freeze()).await
}

async fn send(
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    line: Bytes,
) -> Result<(), BoxError> {
    if !line.is_empty() {
        sink.send(Message::Text(Utf8Bytes::try_from(line)?)).await?;
    }
    Ok(())
}
