//! Counts calls by their real end, which for streams is long after the response head.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use forebay_edge::{Body, BoxError, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    call::{Call, Failure, Handler},
    methods::{Method, Shape},
    metrics::Metrics,
    rescue,
};

/// The layer. It stands above the rescue and counts what clients are told.
#[derive(Debug)]
pub(crate) struct Observe<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> Observe<S> {
    /// Counts the calls of `inner`.
    pub(crate) fn new(inner: S, metrics: Metrics) -> Observe<S> {
        Observe { inner, metrics }
    }
}

impl<S: Handler> Handler for Observe<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        let mut ending = Ending::begin(call.method, self.metrics.clone());
        let response = self.inner.handle(call).await?;
        if let Some(code) = rescue::code(response.headers()) {
            ending.code = code;
            return Ok(response);
        }
        if let Some((_, trailers)) = response.body().whole() {
            ending.code = rescue::code(trailers).unwrap_or(Code::Unknown);
            return Ok(response);
        }
        Ok(response.map(|inner| Body::new(ObservedBody { inner, ending: Some(ending) })))
    }
}

/// One call; counted when it is dropped, which is when the call ends in any way.
struct Ending {
    method: &'static Method,
    metrics: Metrics,
    began: Instant,
    /// Until a status is seen the client has gone away.
    code: Code,
}

impl Ending {
    fn begin(method: &'static Method, metrics: Metrics) -> Ending {
        metrics.began();
        Ending { method, metrics, began: Instant::now(), code: Code::Cancelled }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let unary = (self.method.shape == Shape::Unary).then(|| self.began.elapsed());
        self.metrics.ended(self.method, self.code, unary);
    }
}

struct ObservedBody {
    inner: Body,
    /// Taken when the trailers pass; a body may be held long after.
    ending: Option<Ending>,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(rescue::code)
            && let Some(mut ending) = self.ending.take()
        {
            ending.code = code;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
