//! gRPC framing of our own: five bytes before each message, a status behind the last.
//!
//! tonic's codecs would encode a response into a buffer of their own; ours are already bytes when
//! they get here (see `keyspace`), and the limits and texts of a refusal are grpc-go's, because
//! etcd's clients see grpc-go's.

mod inflate;
mod replies;
#[cfg(test)]
mod tests;

use std::{
    fmt::Write as _,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use base64::Engine as _;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::Body as _;
use prost::Message;
use tonic::Status;

pub use self::{inflate::inflated, replies::Replies};
use crate::{Body, Request, Response};

/// The trailer that holds a status' code.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The trailer that holds its text.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The trailer that holds more of it.
pub const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// The header that says how long the caller waits.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The header that says how messages are compressed.
pub const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// etcd's metadata: the release of the client's library.
pub const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");
/// etcd's metadata: whether the call is to fail when the member has no leader.
pub const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");

/// The bytes before a message: a compression flag and the length, big-endian.
pub const PREFIX: usize = 5;

/// A buffer for one message of `len` bytes with its prefix already written.
pub fn frame(len: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(PREFIX + len);
    out.put_slice(&prefix(len));
    out
}

/// What stands before a message of `len` bytes.
pub fn prefix(len: usize) -> [u8; PREFIX] {
    let [a, b, c, d] = u32::try_from(len).expect("gRPC messages are below 4 GiB").to_be_bytes();
    [0, a, b, c, d]
}

/// An encoded message with its prefix.
pub fn framed(message: &[u8]) -> Bytes {
    let mut out = frame(message.len());
    out.put_slice(message);
    out.freeze()
}

/// One framed message.
pub fn encode(message: &impl Message) -> Bytes {
    let mut out = frame(message.encoded_len());
    message.encode(&mut out).expect("the buffer has the encoded length");
    out.freeze()
}

/// A response that carries exactly these frames and the status OK.
pub fn reply(frames: Bytes) -> Response {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    respond(Body::with_trailers(frames, trailers))
}

/// A response with one message.
pub fn reply_message(message: &impl Message) -> Response {
    reply(encode(message))
}

/// A response whose body brings its own trailers.
pub fn respond(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A response without messages.
pub fn refuse(status: Status) -> Response {
    let mut response = respond(Body::empty());
    response.headers_mut().extend(trailers(&status));
    response
}

/// The trailers that carry a status.
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(status.code() as i32));
    if !status.message().is_empty() {
        trailers.insert(MESSAGE, percent_encoded(status.message()));
    }
    if !status.details().is_empty() {
        let details = base64::engine::general_purpose::STANDARD_NO_PAD.encode(status.details());
        let details = HeaderValue::try_from(details).expect("base64 is ASCII");
        trailers.insert(DETAILS, details);
    }
    trailers
}

/// A message as gRPC's HTTP/2 mapping wants it: printable ASCII as it is, the rest percent-encoded.
fn percent_encoded(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    HeaderValue::try_from(encoded).expect("printable ASCII is a header value")
}

/// Refuses an unknown path with grpc-go's words.
pub fn unknown_method(path: &str) -> Status {
    match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        None => Status::unimplemented(format!("malformed method name: {path:?}")),
        Some((service, method)) if KNOWN_SERVICES.contains(&service) => {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        }
        Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
    }
}

/// Services of which an unknown method is the method's fault.
const KNOWN_SERVICES: [&str; 9] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
];

/// The instant at which the caller stops waiting (`grpc-timeout`), if it set one.
///
/// A malformed timeout is refused as grpc-go does.
pub fn deadline(headers: &HeaderMap, now: Instant) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let timeout = parse_timeout(text).ok_or_else(|| {
        Status::internal(format!("malformed grpc-timeout: transport: timeout unit is not recognized: {text:?}"))
    })?;
    Ok(now.checked_add(timeout))
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Reads the one message of a unary call.
///
/// `max` bounds the message in bytes, checked on its prefix before anything is buffered.
pub async fn unary<M: Message + Default>(request: Request, max: usize) -> Result<(http::request::Parts, M), Status> {
    let (parts, bytes) = unary_bytes(request, max).await?;
    Ok((parts, M::decode(bytes).map_err(malformed)?))
}

/// As [`unary`], for a message that the caller decodes.
pub async fn unary_bytes(request: Request, max: usize) -> Result<(http::request::Parts, Bytes), Status> {
    let (parts, body) = request.into_parts();
    let mut messages = Messages::<()>::new(&parts.headers, body, max);
    match messages.next_bytes().await? {
        Some(bytes) => Ok((parts, bytes)),
        None => Err(Status::internal("EOF")),
    }
}

/// Refuses a message that cannot be decoded.
pub fn malformed(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("grpc: error unmarshalling request: {error}"))
}

/// Refuses a message that is compressed in a way that is not known here.
fn not_installed(encoding: &HeaderValue) -> Status {
    Status::unimplemented(format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}"))
}

/// The messages of a request, one after another.
pub struct Messages<M> {
    body: Body,
    /// Received and not yet decoded.
    buffer: Pieces,
    encoding: Option<HeaderValue>,
    max: usize,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Messages<M> {
    /// Reads from a request's body; `max` bounds each message in bytes.
    pub fn new(headers: &HeaderMap, body: Body, max: usize) -> Messages<M> {
        let encoding = headers.get(ENCODING).filter(|value| *value != "identity").cloned();
        Messages { body, buffer: Pieces::default(), encoding, max, message: PhantomData }
    }

    /// The next message; `None` when the client half-closed. An error ends the stream; a client
    /// that went away is [`tonic::Code::Cancelled`].
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Messages::next`]: call again when woken, and never after `None` or an error.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<M>, Status>> {
        Poll::Ready(match ready!(self.poll_bytes(cx))? {
            None => Ok(None),
            Some(bytes) => M::decode(bytes).map(Some).map_err(malformed),
        })
    }

    /// The next message, undecoded.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, Status> {
        std::future::poll_fn(|cx| self.poll_bytes(cx)).await
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(prefix) = self.buffer.peek_prefix() {
                let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
                self.check(prefix[0], len)?;
                if let Some(message) = self.buffer.take_message(len) {
                    return Poll::Ready(Ok(Some(message)));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.push(data);
                    }
                }
                Some(Err(error)) => {
                    let refused = error.downcast::<Status>().map(|status| *status);
                    return Poll::Ready(Err(refused.unwrap_or_else(|_| Status::cancelled("context canceled"))));
                }
                None if self.buffer.len() == 0 => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Status::internal("unexpected EOF"))),
            }
        }
    }

    fn check(&self, flag: u8, len: usize) -> Result<(), Status> {
        if len > self.max {
            let text = format!("grpc: received message larger than max ({len} vs. {})", self.max);
            return Err(Status::resource_exhausted(text));
        }
        match (flag, &self.encoding) {
            (0, _) => Ok(()),
            (1, Some(encoding)) => Err(not_installed(encoding)),
            (1, None) => Err(Status::internal("grpc: compressed flag set with identity or empty encoding")),
            (flag, _) => Err(Status::internal(format!("grpc: received unexpected payload format {flag}"))),
        }
    }
}

/// Follows the messages of a body by their prefixes, without keeping any.
#[derive(Debug, Default)]
pub struct Follower {
    prefix: [u8; PREFIX],
    /// How much of the present message has come, its prefix included.
    came: usize,
}

impl Follower {
    /// Reads on; returns how much has come of a message that is not whole, its prefix included. `begins` is told the
    /// length of each message as soon as its prefix is whole.
    pub fn read(&mut self, mut piece: &[u8], mut begins: impl FnMut(usize)) -> usize {
        while !piece.is_empty() {
            let is_prefix = self.came < PREFIX;
            if is_prefix {
                let taken = piece.len().min(PREFIX - self.came);
                self.prefix[self.came..][..taken].copy_from_slice(&piece[..taken]);
                self.came += taken;
                piece = &piece[taken..];
            }
            if self.came >= PREFIX {
                let [_, a, b, c, d] = self.prefix;
                let len = u32::from_be_bytes([a, b, c, d]) as usize;
                if is_prefix {
                    begins(len);
                }
                let taken = piece.len().min(PREFIX + len - self.came);
                self.came += taken;
                piece = &piece[taken..];
                if self.came == PREFIX + len {
                    self.came = 0;
                }
            }
        }
        self.came
    }
}

/// Received bytes in the pieces in which they came. A message that lies in one piece is taken out
/// without a copy, which is the usual case.
#[derive(Default)]
pub(crate) struct Pieces {
    first: Bytes,
    rest: std::collections::VecDeque<Bytes>,
    len: usize,
}

impl Pieces {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        self.len += data.len();
        if self.first.is_empty() {
            self.first = data;
        } else if !data.is_empty() {
            self.rest.push_back(data);
        }
    }

    pub(crate) fn peek_prefix(&self) -> Option<[u8; PREFIX]> {
        if self.len < PREFIX {
            return None;
        }
        let mut prefix = [0; PREFIX];
        let pieces = std::iter::once(&self.first).chain(&self.rest);
        for (to, from) in prefix.iter_mut().zip(pieces.flat_map(|piece| piece.iter())) {
            *to = *from;
        }
        Some(prefix)
    }

    /// Takes the message behind the prefix out, once all of it is here.
    pub(crate) fn take_message(&mut self, len: usize) -> Option<Bytes> {
        if self.len < PREFIX + len {
            return None;
        }
        self.skip(PREFIX);
        if self.first.len() >= len {
            let message = self.first.split_to(len);
            self.len -= len;
            self.skip(0);
            return Some(message);
        }
        let mut message = BytesMut::with_capacity(len);
        while message.len() < len {
            let part = self.first.split_to(self.first.len().min(len - message.len()));
            self.len -= part.len();
            message.extend_from_slice(&part);
            self.skip(0);
        }
        Some(message.freeze())
    }

    /// Drops `count` bytes, then moves on to the next piece that is not empty.
    fn skip(&mut self, mut count: usize) {
        loop {
            let here = count.min(self.first.len());
            self.first.advance(here);
            self.len -= here;
            count -= here;
            if !self.first.is_empty() {
                return;
            }
            match self.rest.pop_front() {
                Some(next) => self.first = next,
                None => return,
            }
        }
    }
}
