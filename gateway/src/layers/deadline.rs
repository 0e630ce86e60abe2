//! Ends a call at its caller's deadline.
//!
//! The gateway does this itself, although the upstream knows the deadline too: only so can the
//! rescue decide what a mutation that was cut off ends in.

use futures::FutureExt as _;
use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use forebay_edge::{Body, BoxError, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{self, Instant, Sleep};

use crate::call::{Call, Failure, Handler};

/// The layer.
#[derive(Debug)]
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    /// Bounds the calls of `inner`.
    pub(crate) fn new(inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

impl<S: Handler> Handler for Deadline<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        let Some(deadline) = call.deadline else { return self.inner.handle(call).boxed().await };
        let response = match time::timeout_at(deadline, self.inner.handle(call).boxed()).await {
            Ok(answered) => answered?,
            Err(_elapsed) => return Err(Failure::DeadlineExceeded),
        };
        if http_body::Body::is_end_stream(response.body()) || response.body().whole().is_some() {
            return Ok(response);
        }
        Ok(response.map(|inner| Body::new(TimedBody { inner, deadline, sleep: None })))
    }
}

/// A body that fails at the deadline.
struct TimedBody {
    inner: Body,
    deadline: Instant,
    /// Set up at the first wait; most unary bodies never wait.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let deadline = this.deadline;
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(time::sleep_until(deadline)));
        sleep.as_mut().poll(cx).map(|()| Some(Err(Failure::DeadlineExceeded.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
