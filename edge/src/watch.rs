//! The Watch service over a [`Hub`], for a member's keyspace and a gateway's mirror alike.
//!
//! One stream is one body: hyper polls it when the client can take more, and each poll reads the
//! client's requests and writes what the hub has. A client that does not read is not read from
//! either, and costs nothing but its cursor.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use forebay_keyspace::watch::{HeaderBase, Hub, Polled, WatchStream};
use forebay_proto::etcdserverpb::{WatchRequest, watch_request::RequestUnion};
use futures::{FutureExt as _, future::BoxFuture, task::AtomicWaker};
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::Status;

use crate::{Body, BoxError, Request, Response, grpc, grpc::Messages};

/// How much one data frame takes at most, beyond its last message. A large value saves system
/// calls in a fan-out, a small one lets other streams of the connection have their turn.
const FRAME_BYTES: usize = 32 << 10;

/// What the streams of one service share.
#[derive(Clone)]
pub struct Watches {
    /// Where the events come from.
    pub hub: Hub,
    /// Who answers: read for every message, since the term changes.
    pub header: Arc<dyn Fn() -> HeaderBase + Send + Sync>,
    /// The largest request message in bytes.
    pub max_message: usize,
    /// How often watchers that asked for it and heard nothing are told the revision.
    pub progress_interval: Duration,
}

impl Watches {
    /// Answers one Watch call. `ended` resolves when the stream must end for a reason of ours, such
    /// as a shutdown, and says with which status.
    pub fn serve(&self, request: Request, ended: BoxFuture<'static, Status>) -> Response {
        let (parts, body) = request.into_parts();
        let waker = Arc::new(AtomicWaker::new());
        let woken = waker.clone();
        let jitter = rand::random_range(0..=self.progress_interval.as_millis() as u64 / 10);
        let period = self.progress_interval + Duration::from_millis(jitter);
        let mut progress = tokio::time::interval_at(Instant::now() + period, period);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        grpc::respond(Body::new(Stream {
            requests: Some(Messages::new(&parts.headers, body, self.max_message)),
            stream: Some(self.hub.open(Arc::new(move || woken.wake()))),
            header: self.header.clone(),
            waker,
            progress,
            ended,
            out: BytesMut::new(),
        }))
    }
}

struct Stream {
    /// Until the client half-closes.
    requests: Option<Messages<WatchRequest>>,
    /// Until the trailers went out.
    stream: Option<WatchStream>,
    header: Arc<dyn Fn() -> HeaderBase + Send + Sync>,
    waker: Arc<AtomicWaker>,
    progress: Interval,
    ended: BoxFuture<'static, Status>,
    out: BytesMut,
}

impl Stream {
    /// Carries out what the client asks for, as far as it arrived. An error is how the stream ends.
    fn read_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while let Some(requests) = &mut self.requests {
            if !stream.accepts_requests() {
                // Polled again once the answers that wait went out.
                return Ok(());
            }
            match requests.poll_next(cx)? {
                Poll::Pending => return Ok(()),
                // Half-closed: watches go on.
                Poll::Ready(None) => self.requests = None,
                Poll::Ready(Some(request)) => match request.request_union {
                    Some(RequestUnion::CreateRequest(create)) => {
                        stream.create(&create);
                    }
                    Some(RequestUnion::CancelRequest(cancel)) => stream.cancel(cancel.watch_id),
                    Some(RequestUnion::ProgressRequest(_)) => stream.request_progress(),
                    None => {}
                },
            }
        }
        Ok(())
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        self.waker.register(cx.waker());
        if let Poll::Ready(status) = self.ended.poll_unpin(cx) {
            return Poll::Ready(Err(status));
        }
        self.read_requests(cx)?;
        let ticked = self.progress.poll_tick(cx).is_ready();
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        if ticked {
            stream.tick_progress();
            // The interval is to wake us for its next tick too.
            let _ = self.progress.poll_tick(cx);
        }
        match stream.poll(&(self.header)(), &mut self.out, FRAME_BYTES) {
            Polled::Wrote { .. } => Poll::Ready(Ok(self.out.split().freeze())),
            Polled::Yield => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Polled::Idle => Poll::Pending,
            Polled::Overrun => Poll::Ready(Err(Status::unavailable("the watch lags behind what is kept; resume it"))),
        }
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.stream.is_none() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(match std::task::ready!(self.poll_data(cx)) {
            Ok(data) => Frame::data(data),
            Err(status) => {
                self.stream = None;
                let trailers: HeaderMap = grpc::trailers(&status);
                Frame::trailers(trailers)
            }
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }
}
