//! The JSON API: an HTTP request becomes a gRPC call, its messages become JSON.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use bytes::Bytes;
use forebay_proto::json::{Route, Values};
use futures::{StreamExt as _, TryStreamExt as _};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status};

use super::{ErrorShape, Shared, answer::with_type, metadata::Metadata};
use crate::{
    Body, BoxError, Request, Response,
    grpc::{PREFIX, Replies},
    listener::{Collected, Memory, SHORT, keeping},
    tls::Tls,
};

/// JSON bytes per byte of a message that are buffered at most: base64 makes four of three, escapes
/// and names take the rest.
const JSON_PER_MESSAGE: usize = 4;

/// Bytes of finished lines that are sent together, if more messages are ready than fit one.
const LINES_BYTES: usize = 32 << 10;

/// Whether a form asks to be taken for another method than `POST`, which none of the API is mapped to.
fn is_overridden(headers: &HeaderMap) -> bool {
    let is_form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    let method = headers.get("x-http-method-override").map(HeaderValue::as_bytes).unwrap_or_default();
    is_form && !method.is_empty() && !method.eq_ignore_ascii_case(b"POST")
}

impl Shared {
    /// The longest JSON value that is buffered.
    pub(super) fn json_bytes_max(&self) -> usize {
        self.options.max_message_bytes.saturating_mul(JSON_PER_MESSAGE)
    }

    /// Answers a request under `/v3/`.
    pub(super) async fn json(&self, path: &str, request: Request) -> Response {
        let shape = self.options.error_shape;
        match Route::find(path) {
            None => shape.unknown_route(),
            Some(_) if request.method() != Method::POST || is_overridden(request.headers()) => shape.wrong_method(),
            Some(route) if route.server_streaming() => match self.stream(route, request).await {
                Ok(response) => response,
                Err(status) => shape.unary(&status),
            },
            Some(route) => {
                let takes_trailers = takes_trailers(&request);
                let (response, end) = match self.unary(route, request).await {
                    Ok(answered) => answered,
                    Err(status) => (shape.unary(&status), status),
                };
                if takes_trailers { with_trailers(response, &end) } else { response }
            }
        }
    }

    /// The response, and the status that the call ended with.
    async fn unary(&self, route: &'static Route, request: Request) -> Result<(Response, Status), Status> {
        let Metadata { headers, timeout } = Metadata::of(&request)?;
        let memory = Memory::of(request.extensions()).for_json().collecting();
        let answer = async {
            let mut request = self.one_message(route, headers, request).await?;
            request.extensions_mut().insert(memory.clone());
            let _making = memory.making();
            let (headers, mut replies) = Replies::new(self.api.call(request).await);
            let len = replies.next_len().await;
            let mut held = memory.kept();
            if !held.is_counted() {
                // It comes from elsewhere, where nobody asked for our memory.
                memory.hold(len).await;
                held = memory.kept();
            }
            let message = replies.next().await.map_err(|status| match status.code() {
                Code::Ok => Status::internal("the method ended without a response"),
                _ => status,
            })?;
            match replies.next().await {
                Err(status) if status.code() == Code::Ok => Ok((headers, message, status, held)),
                Err(status) => Err(status),
                Ok(_) => Err(Status::internal("the method answered more than once")),
            }
        };
        let (headers, message, end, held) = within(timeout, answer).await?;
        let mut json = Vec::with_capacity(message.len() + message.len() / 2);
        route.response(&message, &mut json).map_err(|error| Status::internal(error.to_string()))?;
        let mut response = with_type(::http::StatusCode::OK, "application/json", json).map(|body| body.holding(held));
        forward_headers(&headers, response.headers_mut());
        Ok((response, end))
    }

    /// A stream has a head once its first message is there, because only then its status is known.
    async fn stream(&self, route: &'static Route, request: Request) -> Result<Response, Status> {
        let shape = self.options.error_shape;
        let Metadata { headers, timeout } = Metadata::of(&request)?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let memory = Memory::of(request.extensions()).for_json();
        let first = within(timeout, async {
            let mut request = if route.client_streaming() {
                self.message_stream(route, headers, request)
            } else {
                self.one_message(route, headers, request).await?
            };
            request.extensions_mut().insert(memory);
            let (headers, mut replies) = Replies::new(self.api.call(request).await);
            let first = replies.next().await;
            Ok((headers, replies, first))
        });
        let (headers, replies, first) = match first.await {
            // Given up by its caller after it began, so in the shape of a stream.
            Err(status) if status.code() == Code::DeadlineExceeded && timeout != Some(Duration::ZERO) => {
                return Ok(shape.stream(&status));
            }
            first => first?,
        };
        let mut lines = Lines::new(route, shape, replies, deadline);
        let mut response = match first {
            Err(status) if status.code() == Code::Ok => return Ok(Response::new(Body::empty())),
            Err(status) => return Ok(shape.stream(&status)),
            Ok(message) => {
                lines.push(message);
                with_lines(lines)
            }
        };
        forward_headers(&headers, response.headers_mut());
        Ok(response)
    }

    /// A call with the one message that the body describes; nothing makes an empty one.
    async fn one_message(&self, route: &Route, headers: HeaderMap, request: Request) -> Result<Request, Status> {
        let bytes_max = self.json_bytes_max();
        let (parts, mut body) = request.into_parts();
        let announced = body.size_hint().lower();
        let mut values = Values::default();
        let mut value = None;
        let mut received = 0_usize;
        let mut collected = Collected::new(Memory::of(&parts.extensions));
        let too_large = |bytes: u64| {
            let max = self.options.max_message_bytes;
            Status::resource_exhausted(format!("grpc: received message larger than max ({bytes} vs. {max})"))
        };
        if announced > bytes_max as u64 {
            return Err(too_large(announced));
        }
        // What follows the first value is read and dropped, as etcd does.
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Status::invalid_argument(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            received += data.len();
            if received > bytes_max {
                return Err(too_large(received as u64));
            }
            collected.set(received)?;
            if value.is_none() {
                values.push(&data);
                value = values.take_next().map_err(invalid)?;
            }
        }
        if value.is_none() {
            value = values.finish().map_err(invalid)?;
        }
        let frame = framed(|out| value.map_or(Ok(()), |value| route.request(&value, out))).map_err(invalid)?;
        Ok(call(route, headers, parts.extensions, Body::full(frame)))
    }

    /// A call with one message for each value in the body, as they come.
    fn message_stream(&self, route: &'static Route, headers: HeaderMap, request: Request) -> Request {
        let (parts, body) = request.into_parts();
        let collected = Collected::new(Memory::of(&parts.extensions));
        let (values, bytes_max) = (Values::default(), self.json_bytes_max());
        let messages = Messages { route, body: Some(body), values, collected, bytes_max };
        call(route, headers, parts.extensions, Body::new(messages))
    }
}

fn invalid(error: forebay_proto::json::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A gRPC call. What the listener knows of the connection goes with it, but not a certificate: JSON
/// requests have a token or no user.
fn call(route: &Route, headers: HeaderMap, mut extensions: ::http::Extensions, body: Body) -> Request {
    extensions.remove::<Tls>();
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = route.grpc_path.parse().expect("the paths of the table are paths");
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    *request.extensions_mut() = extensions;
    request
}

/// A message behind its prefix; `encode` appends the message.
fn framed<E>(encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Bytes, E> {
    let mut frame = vec![0; PREFIX];
    encode(&mut frame)?;
    let len = u32::try_from(frame.len() - PREFIX).expect("JSON bodies are bounded far below 4 GiB");
    frame[1..PREFIX].copy_from_slice(&len.to_be_bytes());
    Ok(frame.into())
}

/// Ends a call that takes longer than its caller waits.
async fn within<T>(timeout: Option<Duration>, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match timeout {
        None => answer.await,
        // Not even begun: a call that nobody waits for must not change anything.
        Some(Duration::ZERO) => Err(deadline_exceeded()),
        Some(timeout) => tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(deadline_exceeded())),
    }
}

fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// Passes response metadata on under a prefix.
fn forward_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        let is_ours = name.as_str().starts_with("grpc-") || [header::DATE, header::CONTENT_LENGTH].contains(name);
        if !is_ours && let Ok(prefixed) = HeaderName::try_from(format!("grpc-metadata-{name}")) {
            to.append(prefixed, value.clone());
        }
    }
}

/// Whether a client reads what stands behind a body.
fn takes_trailers(request: &Request) -> bool {
    let te = request.headers().get(header::TE).map(HeaderValue::as_bytes).unwrap_or_default();
    te.to_ascii_lowercase().windows(8).any(|word| word == b"trailers")
}

/// Passes the metadata behind a call on, behind the body.
fn with_trailers(mut response: Response, end: &Status) -> Response {
    let mut trailers = HeaderMap::new();
    for (name, value) in end.metadata().as_ref() {
        if ![header::DATE, header::CONTENT_LENGTH].contains(name)
            && let Ok(prefixed) = HeaderName::try_from(format!("grpc-trailer-{name}"))
        {
            response.headers_mut().append(header::TRAILER, HeaderValue::from(prefixed.clone()));
            trailers.append(prefixed, value.clone());
        }
    }
    if trailers.is_empty() {
        return response;
    }
    // A stream, because a body of known length has no room for trailers in HTTP/1.1.
    response.map(|body| {
        let frames = body.into_data_stream().map_ok(Frame::data);
        Body::new(StreamBody::new(frames.chain(futures::stream::once(async { Ok(Frame::trailers(trailers)) }))))
    })
}

fn with_lines(lines: Lines) -> Response {
    let mut response = Response::new(Body::new(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The messages of a client stream. Values that are not what the method takes end it, like its end:
/// the answers to what came before still go out, as with etcd.
struct Messages {
    route: &'static Route,
    /// Taken when the stream ended.
    body: Option<Body>,
    values: Values,
    collected: Collected,
    bytes_max: usize,
}

impl Messages {
    /// The next message, if what is buffered has one; `Err` if it has none and never will.
    fn take_message(&mut self, at_end: bool) -> Result<Option<Bytes>, forebay_proto::json::Error> {
        let value = if at_end { self.values.finish() } else { self.values.take_next() }?;
        value.map(|value| framed(|out| self.route.request(&value, out))).transpose()
    }
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let at_end = self.body.is_none();
            match self.take_message(at_end) {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) if self.values.buffered() > self.bytes_max => break,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a client stream is not JSON");
                    break;
                }
            }
            let Some(body) = &mut self.body else { break };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.values.push(&data);
                        let buffered = self.values.buffered();
                        if let Err(full) = self.collected.set(buffered) {
                            return Poll::Ready(Some(Err(Status::from(full).into())));
                        }
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.body = None,
            }
        }
        self.body = None;
        self.values = Values::default();
        Poll::Ready(None)
    }
}

/// A response stream as lines of JSON. Each line goes out as soon as there is no other behind it.
struct Lines {
    route: &'static Route,
    shape: ErrorShape,
    /// Taken when the stream ended.
    replies: Option<Replies>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Finished lines.
    ready: Vec<u8>,
    /// What they were made of, whose memory is counted for them, too.
    messages: Vec<Bytes>,
}

impl Lines {
    fn new(route: &'static Route, shape: ErrorShape, replies: Replies, deadline: Option<Instant>) -> Lines {
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        Lines { route, shape, replies: Some(replies), deadline, ready: Vec::new(), messages: Vec::new() }
    }

    fn push(&mut self, message: Bytes) {
        let start = self.ready.len();
        self.ready.extend_from_slice(b"{\"result\":");
        match self.route.response(&message, &mut self.ready) {
            Ok(()) => {
                self.ready.extend_from_slice(b"}\n");
                self.messages.push(message);
            }
            Err(error) => {
                self.ready.truncate(start);
                self.end(&Status::internal(error.to_string()));
            }
        }
    }

    fn end(&mut self, status: &Status) {
        self.replies = None;
        if status.code() != Code::Ok {
            self.ready.extend(self.shape.line(status));
        }
    }
}

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            self.deadline = None;
            if self.replies.is_some() {
                self.end(&deadline_exceeded());
            }
        }
        while self.ready.len() < LINES_BYTES {
            let Some(replies) = &mut self.replies else { break };
            match replies.poll_next(cx) {
                Poll::Ready(Ok(message)) => self.push(message),
                Poll::Ready(Err(status)) => self.end(&status),
                Poll::Pending if self.ready.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        let (lines, messages) = (std::mem::take(&mut self.ready), std::mem::take(&mut self.messages));
        let lines = if lines.len() > SHORT { keeping(lines, messages) } else { Bytes::from(lines) };
        Poll::Ready((!lines.is_empty()).then(|| Ok(Frame::data(lines))))
    }
}
