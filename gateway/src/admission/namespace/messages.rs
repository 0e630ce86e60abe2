//! A body with every message rewritten.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use forebay_edge::{
    Body, BoxError,
    grpc::{self, PREFIX},
};
use http_body::Frame;

use crate::call::Failure;

/// Rewrites each message of a body, request or response, as it passes. Each is held whole meanwhile.
pub(crate) fn each_message(body: Body, rewrite: impl FnMut(Bytes) -> Result<Bytes, Failure> + Send + 'static) -> Body {
    if http_body::Body::is_end_stream(&body) {
        return body;
    }
    Body::new(Rewritten { body, buffer: BytesMut::new(), rewrite: Box::new(rewrite) })
}

struct Rewritten {
    body: Body,
    buffer: BytesMut,
    rewrite: Box<dyn FnMut(Bytes) -> Result<Bytes, Failure> + Send>,
}

impl Rewritten {
    fn next_message(&mut self) -> Option<Result<Bytes, Failure>> {
        let &[flag, a, b, c, d] = self.buffer.first_chunk::<PREFIX>()?;
        if flag != 0 {
            let status = tonic::Status::unimplemented("forebay: a confined client's messages cannot be compressed");
            return Some(Err(Failure::Refused(status)));
        }
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if self.buffer.len() < PREFIX + len {
            return None;
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(len).freeze();
        Some((self.rewrite)(message).map(|message| grpc::framed(&message)))
    }
}

impl http_body::Body for Rewritten {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(message) = this.next_message() {
                return Poll::Ready(Some(message.map(Frame::data).map_err(Into::into)));
            }
            match ready!(http_body::Body::poll_frame(Pin::new(&mut this.body), cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.buffer.extend_from_slice(&data),
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            }
        }
    }
}
