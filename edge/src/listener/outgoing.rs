//! An answer on its way to the network.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{memory::Memory, places::OpenRequest};
use crate::{Body, BoxError};

/// What is handed to a connection at a time: whether a client takes a long answer is seen by whether the next is asked for.
const PIECE: usize = 64 << 10;

/// The body of an answer. It keeps its request open until it is out or given up, and notes that it moves.
pub(super) struct Outgoing {
    body: Body,
    /// Of data that was too long for one piece.
    rest: Bytes,
    memory: Memory,
    _open: OpenRequest,
}

impl Outgoing {
    pub(super) fn new(body: Body, open: OpenRequest, memory: Memory) -> Outgoing {
        Outgoing { body, rest: Bytes::new(), memory, _open: open }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let len = self.rest.len().min(PIECE);
        self.memory.moved(len);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.body.size_hint().exact() {
            Some(exact) => SizeHint::with_exact(self.rest.len() as u64 + exact),
            None => SizeHint::default(),
        }
    }
}
