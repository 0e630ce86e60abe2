//! The Watch service over a [`Hub`], for a member's keyspace and a gateway's mirror alike.
//!
//! One stream is one body: hyper polls it when the client can take more, and each poll reads the
//! client's requests and writes what the hub has. A client that does not read is not read from
//! either, and costs nothing but its cursor. A long message is written once there is memory for it.
//!
//! What differs between the two is a [`Source`].

mod feeds;
#[cfg(test)]
mod tests;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use forebay_keyspace::watch::{CatchUp, Fed, HeaderBase, Hub, Polled, WatchStream};
use forebay_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream, task::AtomicWaker};
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::Status;

use self::feeds::Feeds;
use crate::{
    Body, BoxError, Request, Response, grpc,
    grpc::Messages,
    listener::{Held, Memory, SHORT},
};

/// How much one data frame takes at most, beyond its last message. A large value saves system
/// calls in a fan-out, a small one lets other streams of the connection have their turn.
const FRAME_BYTES: usize = 32 << 10;

/// What the streams of one service share.
#[derive(Clone)]
pub struct Watches {
    /// Where the events come from.
    pub hub: Hub,
    /// The largest request message in bytes.
    pub max_message: usize,
    /// How often watchers that asked for it and heard nothing are told the revision.
    pub progress_interval: Duration,
}

/// What a Watch call has to ask beside its hub.
pub trait Source: Send + Sync + 'static {
    /// Who answers: read for every message, since the term changes.
    fn header(&self) -> HeaderBase;

    /// What becomes of a create request, once the hub's history shows everything that it must see; `None` is
    /// [`Admission::Serve`] at once. Requests that follow on the stream wait; events do not.
    fn admit(&self, _request: &WatchCreateRequest) -> Option<BoxFuture<'static, Admission>> {
        None
    }

    /// Resolves when the hub's history shows everything that was committed when this was called. A progress request
    /// waits for it; `None` is at once.
    fn fresh(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// What a watcher sees of revisions that the hub's history does not have, with the memory that it and what is written
    /// of it take. One item is taken at a time, when the one before is written. A stream that ends gives up, and with it
    /// the client's call ends, UNAVAILABLE; one that is dropped is not needed any more.
    fn catch_up(&self, _catch_up: CatchUp) -> BoxStream<'static, (Fed, Held)> {
        futures::stream::empty().boxed()
    }
}

/// What becomes of a create request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The hub serves it.
    Serve,
    /// The hub's history does not have its range: [`Source::catch_up`] delivers all it gets.
    Feed,
    /// Created and cancelled in one message, with this reason.
    Refuse(String),
}

impl Watches {
    /// Answers one Watch call. `ended` resolves when the stream must end for a reason of ours, such
    /// as a shutdown, and says with which status.
    pub fn serve(&self, request: Request, source: Arc<dyn Source>, ended: BoxFuture<'static, Status>) -> Response {
        let (parts, body) = request.into_parts();
        let waker = Arc::new(AtomicWaker::new());
        let woken = waker.clone();
        let jitter = rand::random_range(0..=self.progress_interval.as_millis() as u64 / 10);
        let period = self.progress_interval + Duration::from_millis(jitter);
        let mut progress = tokio::time::interval_at(Instant::now() + period, period);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        grpc::respond(Body::new(Stream {
            requests: Some(Messages::new(&parts.headers, body, self.max_message)),
            asked: None,
            stream: Some(self.hub.open(Arc::new(move || woken.wake()))),
            feeds: Feeds::default(),
            source,
            waker,
            progress,
            ended,
            out: BytesMut::new(),
            memory: Memory::of(&parts.extensions),
            asking: None,
            allowed: Held::default(),
        }))
    }
}

struct Stream {
    /// Until the client half-closes.
    requests: Option<Messages<WatchRequest>>,
    /// The request that waits for the source.
    asked: Option<Asked>,
    /// Until the trailers went out.
    stream: Option<WatchStream>,
    feeds: Feeds,
    source: Arc<dyn Source>,
    waker: Arc<AtomicWaker>,
    progress: Interval,
    ended: BoxFuture<'static, Status>,
    out: BytesMut,
    memory: Memory,
    /// The memory that a long message waits for.
    asking: Option<BoxFuture<'static, Held>>,
    /// That of the long message that is written next.
    allowed: Held,
}

enum Asked {
    Create(WatchCreateRequest, BoxFuture<'static, Admission>),
    Progress(BoxFuture<'static, ()>),
}

impl Stream {
    /// Carries out what the client asks for, as far as it arrived. An error is how the stream ends.
    fn read_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        loop {
            match &mut self.asked {
                Some(Asked::Create(request, admission)) => match admission.poll_unpin(cx) {
                    Poll::Ready(admission) => create(stream, request, admission),
                    Poll::Pending => return Ok(()),
                },
                Some(Asked::Progress(fresh)) => match fresh.poll_unpin(cx) {
                    Poll::Ready(()) => stream.request_progress(),
                    Poll::Pending => return Ok(()),
                },
                None => {}
            }
            self.asked = None;
            let Some(requests) = &mut self.requests else { return Ok(()) };
            if !stream.accepts_requests() {
                // Polled again once the answers that wait went out.
                return Ok(());
            }
            match requests.poll_next(cx)? {
                Poll::Pending => return Ok(()),
                // Half-closed: watches go on.
                Poll::Ready(None) => self.requests = None,
                Poll::Ready(Some(request)) => match request.request_union {
                    Some(RequestUnion::CreateRequest(request)) => match self.source.admit(&request) {
                        None => create(stream, &request, Admission::Serve),
                        Some(admission) => self.asked = Some(Asked::Create(request, admission)),
                    },
                    Some(RequestUnion::CancelRequest(cancel)) => stream.cancel(cancel.watch_id),
                    Some(RequestUnion::ProgressRequest(_)) => match self.source.fresh() {
                        None => stream.request_progress(),
                        Some(fresh) => self.asked = Some(Asked::Progress(fresh)),
                    },
                    None => {}
                },
            }
        }
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
        loop {
            while let Some(order) = stream.take_order() {
                self.feeds.carry_out(order, |catch_up| self.source.catch_up(catch_up));
            }
            while let Poll::Ready((ticket, fed)) = self.feeds.poll(cx) {
                let Some(fed) = fed else {
                    return Poll::Ready(Err(Status::unavailable("etcdserver: the past of a watch cannot be read")));
                };
                stream.feed(ticket, fed);
            }
            match stream.poll(&self.source.header(), &mut self.out, FRAME_BYTES) {
                Polled::Wrote { .. } => {
                    let held = std::mem::take(&mut self.allowed);
                    return Poll::Ready(Ok(held.with(take(&mut self.out))));
                }
                Polled::Long(bytes) => {
                    // What a feed brought has its memory with it.
                    let fed = stream.long_fed().filter(|_| self.asking.is_none());
                    let brought = fed.map(|ticket| self.feeds.take_memory(ticket)).unwrap_or_default();
                    self.allowed = if brought.is_counted() {
                        brought
                    } else {
                        let memory = &self.memory;
                        let asking = self.asking.get_or_insert_with(|| {
                            let memory = memory.clone();
                            async move { memory.hold(bytes).await }.boxed()
                        });
                        std::task::ready!(asking.poll_unpin(cx))
                    };
                    self.asking = None;
                    stream.allow_long();
                }
                Polled::Over => return Poll::Ready(Err(Status::unavailable("etcdserver: the store began anew"))),
                // What was fed may have had nothing for the client, and the feed has to be asked for more.
                _ if stream.has_orders() => {}
                Polled::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Polled::Idle => return Poll::Pending,
            }
        }
    }
}

/// What was written. The buffer of a message that was long goes with it: a stream may be idle for long.
fn take(out: &mut BytesMut) -> Bytes {
    match out.len() {
        ..=SHORT => out.split().freeze(),
        _ => std::mem::take(out).freeze(),
    }
}

fn create(stream: &mut WatchStream, request: &WatchCreateRequest, admission: Admission) {
    match admission {
        Admission::Serve => {
            stream.create(request);
        }
        Admission::Feed => {
            stream.create_unmirrored(request);
        }
        Admission::Refuse(reason) => stream.refuse(reason),
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
