//! Reads a gRPC response: its messages, then its status.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use tonic::{Code, Status};

use super::Pieces;
use crate::{Body, Response};

/// The messages of a response, one after another.
pub struct Replies {
    body: Body,
    buffer: Pieces,
    /// The status, once it came.
    status: Option<Status>,
}

impl Replies {
    /// The header fields of a response, and its messages.
    pub fn new(response: Response) -> (HeaderMap, Replies) {
        let (head, body) = response.into_parts();
        // A response without messages carries the status in its head.
        let status = Status::from_header_map(&head.headers);
        (head.headers, Replies { body, buffer: Pieces::default(), status })
    }

    /// The next message, or the status that ends the response, which may be OK.
    pub async fn next(&mut self) -> Result<Bytes, Status> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The length of the next message, as soon as that is known; 0 if there is none.
    pub async fn next_len(&mut self) -> usize {
        loop {
            if let Some([_, len @ ..]) = self.buffer.peek_prefix() {
                return u32::from_be_bytes(len) as usize;
            }
            if self.status.is_some() {
                return 0;
            }
            std::future::poll_fn(|cx| self.poll_more(cx)).await;
        }
    }

    /// As [`Replies::next`]: call again when woken, and never after a status.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        loop {
            if let Some([flag, len @ ..]) = self.buffer.peek_prefix() {
                let len = u32::from_be_bytes(len) as usize;
                if flag != 0 {
                    let text = "grpc: compressed flag set with identity or empty encoding";
                    return Poll::Ready(Err(Status::internal(text)));
                }
                if let Some(message) = self.buffer.take_message(len) {
                    return Poll::Ready(Ok(message));
                }
            }
            if let Some(status) = self.status.take() {
                let cut_off = status.code() == Code::Ok && self.buffer.len() > 0;
                return Poll::Ready(Err(if cut_off { Status::internal("unexpected EOF") } else { status }));
            }
            ready!(self.poll_more(cx));
        }
    }

    /// Reads on, until there is more data or a status.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.buffer.push(data),
                Err(frame) => self.status = frame.trailers_ref().and_then(Status::from_header_map),
            },
            Some(Err(error)) => self.status = Some(Status::unavailable(format!("error reading from server: {error}"))),
            None => {
                let text = "server closed the stream without sending trailers";
                self.status = Some(Status::internal(text));
            }
        }
        Poll::Ready(())
    }
}
