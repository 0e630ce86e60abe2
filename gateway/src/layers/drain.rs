//! Shutting down without failing what was begun.
//!
//! Connections are told by the listener (GOAWAY). Here: new calls are not taken, unary calls run to
//! their end, and streams, which have none, are ended so that their clients go elsewhere.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use forebay_edge::{Body, BoxError, Response};
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio::{sync::watch, time};

use crate::{
    call::{Call, Failure, Handler},
    methods::Shape,
};

/// The switch, shared by the layer and the gateway's owner.
#[derive(Clone, Debug)]
pub(crate) struct Draining {
    started: watch::Sender<bool>,
    /// Counts the calls under way: each holds a clone.
    calls: Arc<watch::Sender<()>>,
}

impl Default for Draining {
    fn default() -> Draining {
        Draining { started: watch::Sender::new(false), calls: Arc::new(watch::Sender::new(())) }
    }
}

impl Draining {
    /// Takes no new calls and waits for those under way, at most for `bound`.
    ///
    /// Returns whether all of them ended.
    pub(crate) async fn drain(&self, bound: Duration) -> bool {
        self.started.send_replace(true);
        time::timeout(bound, self.calls.closed()).await.is_ok()
    }

    fn has_started(&self) -> bool {
        *self.started.borrow()
    }

    fn call(&self) -> watch::Receiver<()> {
        self.calls.subscribe()
    }

    fn started(&self) -> BoxFuture<'static, ()> {
        let mut started = self.started.subscribe();
        Box::pin(async move {
            // An error means that the gateway is gone, which ends its streams as well.
            let _ = started.wait_for(|started| *started).await;
        })
    }
}

/// The layer.
#[derive(Debug)]
pub(crate) struct Drain<S> {
    inner: S,
    draining: Draining,
}

impl<S> Drain<S> {
    /// Stops calls of `inner` once `draining` starts.
    pub(crate) fn new(inner: S, draining: Draining) -> Drain<S> {
        Drain { inner, draining }
    }
}

impl<S: Handler> Handler for Drain<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        if self.draining.has_started() {
            return Err(Failure::Draining);
        }
        let running = self.draining.call();
        let unary = call.method.shape == Shape::Unary;
        if unary {
            let response = self.inner.handle(call).await?;
            if response.body().whole().is_some() {
                return Ok(response);
            }
            return Ok(response.map(|inner| Body::new(RunningBody { inner, stop: None, _running: running })));
        }
        let mut stop = self.draining.started();
        let response = tokio::select! {
            response = self.inner.handle(call) => response?,
            () = &mut stop => return Err(Failure::Stopped),
        };
        Ok(response.map(|inner| Body::new(RunningBody { inner, stop: Some(stop), _running: running })))
    }
}

/// A body that counts as under way until it is dropped.
struct RunningBody {
    inner: Body,
    /// Ends the body; streams have one.
    stop: Option<BoxFuture<'static, ()>>,
    _running: watch::Receiver<()>,
}

impl http_body::Body for RunningBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // The stop comes first: a busy stream must not talk past it.
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Failure::Stopped.into())));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
