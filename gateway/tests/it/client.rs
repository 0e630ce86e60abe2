//! A gRPC client that calls an [`Api`] in process and shows everything that came back.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use forebay_edge::{Api, Body, BoxError, Request, Response, grpc};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// An answer in full.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) messages: Vec<Bytes>,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    /// Code and text, wherever they stood.
    pub(crate) fn status(&self) -> (i32, String) {
        let headers = if self.trailers.contains_key("grpc-status") { &self.trailers } else { &self.headers };
        let code = headers.get("grpc-status").expect("an answer has a status").to_str().unwrap().parse().unwrap();
        let status = tonic::Status::from_header_map(headers).expect("a status");
        (code, status.message().to_owned())
    }
}

/// A request with one framed message.
pub(crate) fn request(path: &str, message: impl Into<Bytes>) -> Request {
    with_body(path, Body::full(grpc::framed(&message.into())))
}

/// A request with any body.
pub(crate) fn with_body(path: &str, body: Body) -> Request {
    http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "grpc-go/1.79.3")
        .body(body)
        .unwrap()
}

/// Adds a `grpc-timeout`.
pub(crate) fn within(mut request: Request, timeout: Duration) -> Request {
    let value = format!("{}u", timeout.as_micros()).parse().unwrap();
    request.headers_mut().insert("grpc-timeout", value);
    request
}

/// Calls and collects everything.
pub(crate) async fn call(api: &Api, request: Request) -> Answer {
    collect(api.call(request).await).await
}

/// Collects everything of a response.
pub(crate) async fn collect(response: Response) -> Answer {
    let (head, body) = response.into_parts();
    let mut answer = Answer { headers: head.headers, ..Answer::default() };
    let mut reader = Reader::new(body);
    while let Some(message) = reader.next().await {
        answer.messages.push(message);
    }
    answer.trailers = reader.trailers.unwrap_or_default();
    answer
}

/// Reads a response body message by message.
pub(crate) struct Reader {
    body: Body,
    buffer: BytesMut,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Reader {
    pub(crate) fn new(body: Body) -> Reader {
        Reader { body, buffer: BytesMut::new(), trailers: None }
    }

    /// The next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.buffer.len() >= grpc::PREFIX {
                let len = u32::from_be_bytes(self.buffer[1..5].try_into().unwrap()) as usize;
                if self.buffer.len() >= grpc::PREFIX + len {
                    self.buffer.advance(grpc::PREFIX);
                    return Some(self.buffer.split_to(len).freeze());
                }
            }
            let frame = self.body.frame().await?.expect("the gateway's bodies end in trailers");
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
    }

    /// Code and text once the body has ended.
    pub(crate) fn status(&self) -> (i32, String) {
        Answer { trailers: self.trailers.clone().expect("the body has ended"), ..Answer::default() }.status()
    }
}

/// The client's side of a stream of requests; dropping it half-closes.
pub(crate) struct Writer(mpsc::Sender<Result<Frame<Bytes>, BoxError>>);

impl Writer {
    pub(crate) fn new() -> (Writer, Body) {
        let (sender, receiver) = mpsc::channel(16);
        (Writer(sender), Body::new(StreamBody::new(ReceiverStream::new(receiver))))
    }

    pub(crate) async fn send(&self, message: impl Into<Bytes>) {
        self.0.send(Ok(Frame::data(grpc::framed(&message.into())))).await.expect("the gateway reads");
    }

    /// The client resets its stream.
    pub(crate) async fn reset(self) {
        self.0.send(Err("reset by the client".into())).await.expect("the gateway reads");
    }

    /// Waits until the gateway does not read any more.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}
