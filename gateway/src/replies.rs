//! Reads a gRPC response message by message, for the few calls that the gateway looks into.

use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use forebay_edge::{Body, Response, grpc::PREFIX};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use tonic::Status;

use crate::{call::Failure, rescue};

/// Largest message that is read; those calls have small ones.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The messages of a response, then its status.
pub(crate) struct Replies {
    body: Pin<Box<Body>>,
    buffer: BytesMut,
    /// The trailers, or the head of a trailers-only response, once they came.
    trailers: Option<HeaderMap>,
    message_bytes_max: usize,
}

/// What came next.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A message without its prefix.
    Message(Bytes),
    /// The end, with the trailers.
    End(HeaderMap),
}

impl Replies {
    pub(crate) fn new(response: Response) -> Replies {
        Replies::with_limit(response, MESSAGE_BYTES_MAX)
    }

    /// Of which one message has so many bytes at most.
    pub(crate) fn with_limit(response: Response, message_bytes_max: usize) -> Replies {
        let (head, body) = response.into_parts();
        let trailers = rescue::code(&head.headers).is_some().then_some(head.headers);
        Replies { body: Box::pin(body), buffer: BytesMut::new(), trailers, message_bytes_max }
    }

    /// The next message or the end. May be dropped while it waits and called again.
    pub(crate) async fn next(&mut self) -> Result<Reply, Failure> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Reply::Message(message));
            }
            if let Some(trailers) = self.trailers.take() {
                return Ok(Reply::End(trailers));
            }
            self.read_on().await?;
        }
    }

    /// The length of the next message as soon as that is known; 0 at the end. May be dropped while it waits.
    pub(crate) async fn next_len(&mut self) -> Result<usize, Failure> {
        loop {
            if let Some([_, a, b, c, d]) = self.buffer.first_chunk::<PREFIX>() {
                return Ok(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            }
            if self.trailers.is_some() {
                return Ok(0);
            }
            self.read_on().await?;
        }
    }

    async fn read_on(&mut self) -> Result<(), Failure> {
        let Some(frame) = self.body.frame().await else {
            return Err(Failure::Broken("the upstream ended its response without a status".into()));
        };
        match frame.map_err(Failure::from_body)?.into_data() {
            Ok(data) => self.buffer.extend_from_slice(&data),
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
        Ok(())
    }

    fn take_message(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, a, b, c, d] = *prefix;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag != 0 || len > self.message_bytes_max {
            return Err(Failure::Broken("the upstream sent a message that cannot be read".into()));
        }
        if self.buffer.len() < PREFIX + len {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

/// The one message of a unary response, and the trailers behind it; or the status it failed with.
pub(crate) async fn unary(response: Response) -> Result<Result<(Bytes, HeaderMap), HeaderMap>, Failure> {
    let mut replies = Replies::new(response);
    let mut message = None;
    loop {
        match replies.next().await? {
            Reply::Message(bytes) => message = Some(bytes),
            Reply::End(trailers) => {
                return Ok(match message {
                    Some(message) => Ok((message, trailers)),
                    None => Err(trailers),
                });
            }
        }
    }
}

/// The status that trailers carry.
pub(crate) fn status(trailers: &HeaderMap) -> Status {
    Status::from_header_map(trailers).unwrap_or_else(|| Status::unknown("no status"))
}
