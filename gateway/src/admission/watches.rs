//! Watch streams: creates are let in one by one, what follows passes.
//!
//! A create that is too early waits in its stream, which is all the back-pressure that clientv3
//! needs: it sends one create at a time. One over a hard bound is answered as etcd answers a create
//! that it refuses. Neither ends the stream, which would take every other watch with it. A create
//! holds a seat until it is answered; what the watch delivers later is never held up.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use forebay_edge::{
    Body, BoxError, Request as HttpRequest, Response,
    grpc::{self, Messages},
};
use forebay_policies::{Client, Cost, Entry, Limit, Receipt, Request, Rpc, Verdict};
use forebay_proto::{KeyRange, etcdserverpb::WatchRequest};
use futures::{future::BoxFuture, stream, task::AtomicWaker};
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use tokio::{sync::Notify, time};
use tonic::Code;

use super::{
    Admission,
    loaded::Loaded,
    responses::{self, Follower, Passed},
    scan::{WatchAsked, scan_watch},
    seats::{Seat, now},
    settle::Held,
};
use crate::{call::Failure, rescue};

/// How long a create may wait for a rate. Its client waits with it, or goes away.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long it waits before it asks again where it was refused a seat.
const AGAIN: Duration = Duration::from_millis(500);

/// One client's stream.
pub(super) struct Session {
    admission: Admission,
    client: Client,
    state: Mutex<State>,
    /// Whoever reads the responses, when there is one of ours to read.
    reader: AtomicWaker,
    /// A create was refused.
    refused: Notify,
}

#[derive(Default)]
struct State {
    /// Creates that were not answered yet, in order.
    creates: VecDeque<Create>,
    /// Watches that are open, by id.
    open: HashMap<i64, Box<Open>>,
    /// The last header that the upstream sent.
    header: Bytes,
}

enum Create {
    /// The upstream answers it.
    Forwarded(Box<Open>, Option<Seat>),
    /// We do.
    Refused,
}

/// A watch that is counted as open until it is dropped.
struct Open {
    admission: Admission,
    keys: KeyRange,
    policy: Arc<Loaded>,
    receipt: Option<Receipt>,
}

impl Open {
    fn new(admission: Admission, keys: KeyRange, policy: Arc<Loaded>, receipt: Receipt) -> Open {
        admission.0.watched.lock().open(&keys);
        Open { admission, keys, policy, receipt: Some(receipt) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            self.admission.0.accounts.lock().settle(now(), &self.policy.policy, receipt, 0);
        }
        self.admission.0.watched.lock().close(&self.keys);
    }
}

impl Session {
    pub(super) fn new(admission: Admission, client: Client) -> Arc<Session> {
        Arc::new(Session {
            admission,
            client,
            state: Mutex::default(),
            reader: AtomicWaker::new(),
            refused: Notify::new(),
        })
    }

    /// The stream's requests, each when it may go.
    pub(super) fn requests(self: &Arc<Session>, request: HttpRequest, message_bytes_max: usize) -> HttpRequest {
        let (head, body) = request.into_parts();
        let messages = Messages::<WatchRequest>::new(&head.headers, body, message_bytes_max);
        let session = Arc::clone(self);
        let frames = stream::try_unfold((session, messages), |(session, mut messages)| async move {
            let frame = session.next_request(&mut messages).await?;
            Ok::<_, Failure>(frame.map(|frame| (Frame::data(frame), (session, messages))))
        });
        HttpRequest::from_parts(head, Body::new(StreamBody::new(frames)))
    }

    async fn next_request(&self, messages: &mut Messages<WatchRequest>) -> Result<Option<Bytes>, Failure> {
        loop {
            let next = messages.next_bytes().await.map_err(|status| match status.code() {
                Code::Cancelled => Failure::Broken("the client went away".into()),
                _ => Failure::Refused(status),
            })?;
            let Some(message) = next else { return Ok(None) };
            if let Some(WatchAsked::Create { keys, .. }) = scan_watch(&message) {
                let create = self.admit(keys, message.len()).await;
                let is_refused = matches!(create, Create::Refused);
                self.state.lock().creates.push_back(create);
                if is_refused {
                    self.refused.notify_one();
                    self.reader.wake();
                    continue;
                }
            }
            return Ok(Some(grpc::framed(&message)));
        }
    }

    /// Waits until a create may go.
    async fn admit(&self, keys: KeyRange, bytes: usize) -> Create {
        let shared = &self.admission.0;
        loop {
            let policy = shared.loaded.load_full();
            let request = Request {
                keys: std::slice::from_ref(&keys),
                bytes: bytes as u64,
                ..Request::new(&self.client, Rpc::Watch)
            };
            let cost = Cost::predict(&request, None);
            let class = policy.policy.classify(&request, &cost);
            let charge = shared.accounts.lock().charge(now(), &policy.policy, &class, &request, &cost, PATIENCE);
            shared.count_shadow(&policy.policy, charge.shadow);
            let rule = policy.policy.rule(class.rule).name.clone();
            let receipt = match charge.verdict {
                Verdict::Pass(wait, receipt) => {
                    if !wait.is_zero() {
                        shared.metrics.rate_wait.observe(wait.as_secs_f64());
                        time::sleep(wait).await;
                    }
                    receipt
                }
                Verdict::Refuse(refusal) => {
                    shared.metrics.refused.with_label_values(&[&rule, refusal.limit.name()]).inc();
                    match (refusal.limit, refusal.retry_after) {
                        (Limit::Requests | Limit::Load, Some(after)) => {
                            time::sleep(after).await;
                            continue;
                        }
                        _ => return Create::Refused,
                    }
                }
            };
            let open = Open::new(self.admission.clone(), keys.clone(), Arc::clone(&policy), receipt);
            let entry = Entry { level: class.level, flow: class.flow, seats: 1, patience: super::WAIT_MAX };
            match policy.reads.take(entry).await {
                Ok(seat) => {
                    shared.metrics.waited_for_seat(seat.waited);
                    return Create::Forwarded(Box::new(open), Some(seat));
                }
                Err(_) => time::sleep(AGAIN).await,
            }
        }
    }

    /// Waits for a create that is refused.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    /// Passes the stream's responses on, with ours between them.
    pub(super) fn responses(self: &Arc<Session>, upstream: Upstream, held: Held) -> Body {
        let session = Arc::clone(self);
        let (follower, piece) = (Follower::default(), Bytes::new());
        Body::new(Responses { session, upstream, follower, piece, fragmented: false, held })
    }

    /// Whether the next create to be answered is ours to answer.
    fn answers_next(&self) -> bool {
        matches!(self.state.lock().creates.front(), Some(Create::Refused))
    }

    /// Our answer, if it is our turn.
    fn answer(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        state.creates.pop_front_if(|create| matches!(create, Create::Refused))?;
        Some(responses::refused(&state.header))
    }

    /// A response of the upstream passed.
    fn passed(&self, passed: Passed) {
        if !passed.created && !passed.canceled {
            return;
        }
        let mut state = self.state.lock();
        if passed.created {
            if let Some(Create::Forwarded(open, _seat)) = state.creates.pop_front()
                && !passed.canceled
            {
                state.open.insert(passed.watch_id, open);
            }
            state.header = passed.header;
        } else {
            state.open.remove(&passed.watch_id);
        }
    }
}

/// Where the upstream's responses come from.
pub(super) enum Upstream {
    /// It has not said a word, and we had to.
    Opening(BoxFuture<'static, Result<Response, Failure>>),
    Open(Body),
    Ended,
}

struct Responses {
    session: Arc<Session>,
    upstream: Upstream,
    follower: Follower,
    /// What was received and not passed on.
    piece: Bytes,
    /// Whether the rest of a revision is to follow.
    fragmented: bool,
    held: Held,
}

impl Responses {
    /// Waits for more of the upstream's, or for its end.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match &mut self.upstream {
                Upstream::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(response) => {
                        let (head, body) = response.into_parts();
                        self.upstream = Upstream::Open(body);
                        if rescue::code(&head.headers).is_some() {
                            self.upstream = Upstream::Ended;
                            return Poll::Ready(Some(Ok(Frame::trailers(head.headers))));
                        }
                    }
                    Err(failure) => {
                        self.upstream = Upstream::Ended;
                        return Poll::Ready(Some(Err(failure.into())));
                    }
                },
                Upstream::Open(body) => return http_body::Body::poll_frame(Pin::new(body), cx),
                Upstream::Ended => return Poll::Ready(None),
            }
        }
    }

    /// Takes of the piece what may pass before something of ours.
    fn take(&mut self) -> Bytes {
        let mut taken = 0;
        while taken < self.piece.len() {
            let (read, passed) = self.follower.read(&self.piece[taken..]);
            taken += read;
            if let Some(passed) = passed {
                self.fragmented = passed.fragment;
                self.session.passed(passed);
                if !self.fragmented && self.session.answers_next() {
                    break;
                }
            }
        }
        self.piece.split_to(taken)
    }
}

impl http_body::Body for Responses {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        this.session.reader.register(cx.waker());
        if this.follower.is_between()
            && !this.fragmented
            && let Some(answer) = this.session.answer()
        {
            return Poll::Ready(Some(Ok(Frame::data(answer))));
        }
        if this.piece.is_empty() {
            match ready!(this.poll_upstream(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.piece = data,
                    Err(frame) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            this.held.trailers(trailers);
                        }
                        return Poll::Ready(Some(Ok(frame)));
                    }
                },
                other => return Poll::Ready(other),
            }
        }
        let data = this.take();
        this.held.passed(&data);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.upstream, Upstream::Ended)
    }
}
