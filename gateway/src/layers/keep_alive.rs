//! Keeps a client's keep-alive stream open while the path behind it changes.
//!
//! Losing this stream costs a client its lease, and clients of `KeepAliveOnce` reopen it without
//! back-off. So when the upstream's stream breaks, the client's stays: the gateway opens another,
//! sends the renewals again that were not answered, and goes on. A renewal is always the client's
//! own: once the client stops, so do the renewals. The client is told only when the path is not back
//! within a third of the shortest TTL seen, when renewing would come too late anyway.

use futures::FutureExt as _;
use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_edge::{
    Body, Request, Response,
    grpc::{self, Messages},
};
use forebay_proto::{
    Error,
    etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse},
};
use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    call::{Call, Failure, Handler},
    methods::Method,
    replies::{self, Replies, Reply},
};

/// Renewals that may be unanswered; beyond it the client waits.
const UNANSWERED_MAX: usize = 128;
/// A renewal is an id; clients have no reason to send more.
const REQUEST_BYTES_MAX: usize = 4096;
/// How long the path may be gone before a TTL was seen.
const GONE_DEFAULT: Duration = Duration::from_secs(2);
/// Rest between two attempts to open the path again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// The layer.
#[derive(Debug)]
pub(crate) struct KeepAlive<S> {
    inner: Arc<S>,
}

impl<S> KeepAlive<S> {
    /// Keeps the keep-alive streams of `inner` open.
    pub(crate) fn new(inner: S) -> KeepAlive<S> {
        KeepAlive { inner: Arc::new(inner) }
    }
}

impl<S: Handler> Handler for KeepAlive<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        if !call.method.is_keep_alive() {
            return self.inner.handle(call).boxed().await;
        }
        let session = Session::new(Arc::clone(&self.inner), call);
        let frames = stream::try_unfold(session, |mut session| async move {
            let frame = session.next().await?;
            Ok(frame.map(|frame| (frame, session)))
        });
        Ok(grpc::respond(Body::grpc_stream(frames)))
    }
}

/// One client's stream.
struct Session<S> {
    inner: Arc<S>,
    method: &'static Method,
    deadline: Option<Instant>,
    head: http::request::Parts,
    /// What the client sends; `None` when it has sent all.
    client: Option<Messages<LeaseKeepAliveRequest>>,
    /// Sent, or to be sent when there is a path, in order. etcd answers each once, in order.
    unanswered: VecDeque<Bytes>,
    path: Option<Path>,
    /// Shortest TTL seen.
    ttl: Option<Duration>,
    /// When the client is told that the path is gone; set while it is.
    gone_until: Option<Instant>,
}

/// An open upstream stream.
struct Path {
    /// Dropped when the client has sent all.
    renewals: Option<mpsc::Sender<Bytes>>,
    replies: Replies,
}

impl<S: Handler> Session<S> {
    fn new(inner: Arc<S>, call: Call) -> Session<S> {
        let (head, body) = call.request.into_parts();
        let client = Messages::new(&head.headers, body, REQUEST_BYTES_MAX);
        Session {
            inner,
            method: call.method,
            deadline: call.deadline,
            head,
            client: Some(client),
            unanswered: VecDeque::new(),
            path: None,
            ttl: None,
            gone_until: None,
        }
    }

    /// The next framed response, or the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let Some(path) = &mut self.path else {
                // A path is opened for a renewal, not before.
                if self.unanswered.is_empty() {
                    let Some(client) = &mut self.client else { return Ok(None) };
                    match client.next_bytes().await? {
                        Some(renewal) => self.unanswered.push_back(renewal),
                        None => return Ok(None),
                    }
                }
                self.path = self.open().await?;
                continue;
            };
            let listening = self.unanswered.len() < UNANSWERED_MAX;
            let reply = tokio::select! {
                biased;
                reply = path.replies.next() => reply,
                renewal = next_renewal(&mut self.client), if self.client.is_some() && listening => {
                    match renewal? {
                        Some(renewal) => {
                            self.unanswered.push_back(renewal.clone());
                            if let Some(renewals) = &path.renewals {
                                // The channel holds as many as may be unanswered. Should it be
                                // closed, the path is broken, which its replies are about to say.
                                let _ = renewals.try_send(renewal);
                            }
                        }
                        None => {
                            self.client = None;
                            path.renewals = None;
                        }
                    }
                    continue;
                }
            };
            match reply {
                Ok(Reply::Message(message)) => return Ok(Some(self.answered(&message))),
                Ok(Reply::End(trailers)) => {
                    let status = replies::status(&trailers);
                    if status.code() == Code::Ok {
                        return Ok(None);
                    }
                    if !is_gone(&status) {
                        return Err(status);
                    }
                    self.lost(&status)?;
                }
                Err(failure) => self.lost(&Status::unavailable(failure.to_string()))?,
            }
        }
    }

    /// Notes what a response teaches and frames it for the client.
    fn answered(&mut self, message: &Bytes) -> Bytes {
        self.unanswered.pop_front();
        self.gone_until = None;
        if let Ok(response) = LeaseKeepAliveResponse::decode(message.clone())
            && let Ok(seconds @ 1..) = u64::try_from(response.ttl)
        {
            let ttl = Duration::from_secs(seconds);
            self.ttl = Some(self.ttl.map_or(ttl, |shortest| shortest.min(ttl)));
        }
        grpc::framed(message)
    }

    /// The path is gone: an error if it has been for too long.
    fn lost(&mut self, status: &Status) -> Result<(), Status> {
        tracing::debug!(%status, "lost the path of a keep-alive stream");
        self.path = None;
        let patience = self.ttl.map_or(GONE_DEFAULT, |ttl| ttl / 3);
        let until = *self.gone_until.get_or_insert_with(|| Instant::now() + patience);
        if Instant::now() < until { Ok(()) } else { Err(Error::TimeoutDueToConnectionLost.into()) }
    }

    /// Opens the upstream's stream with everything unanswered; `None` if that did not work yet.
    async fn open(&mut self) -> Result<Option<Path>, Status> {
        if self.gone_until.is_some() {
            time::sleep(REOPEN_PAUSE).await;
        }
        let (renewals, receiver) = mpsc::channel(UNANSWERED_MAX);
        for renewal in &self.unanswered {
            renewals.try_send(renewal.clone()).expect("the channel holds as many as may be unanswered");
        }
        let frames = futures::StreamExt::map(ReceiverStream::new(receiver), |renewal: Bytes| {
            Ok::<_, std::convert::Infallible>(Frame::data(grpc::framed(&renewal)))
        });
        let request = Request::from_parts(self.head.clone(), Body::new(StreamBody::new(frames)));
        let call = Call { method: self.method, deadline: self.deadline, request: Box::new(request) };
        let opening = Arc::clone(&self.inner);
        // The shared head of an upstream comes with its first response, so waiting for it here
        // holds up nothing but further renewals, which the client's own window bounds.
        match opening.handle(call).await {
            Ok(response) => {
                let renewals = self.client.is_some().then_some(renewals);
                Ok(Some(Path { renewals, replies: Replies::new(response) }))
            }
            Err(Failure::Refused(status)) => Err(status),
            Err(failure) => {
                self.lost(&Status::unavailable(failure.to_string()))?;
                Ok(None)
            }
        }
    }
}

async fn next_renewal(client: &mut Option<Messages<LeaseKeepAliveRequest>>) -> Result<Option<Bytes>, Status> {
    match client {
        Some(client) => client.next_bytes().await,
        None => Ok(None),
    }
}

/// Whether a status speaks of the path and not of the renewal. A lost leader is told to the client,
/// which hears of it only if it asked to.
fn is_gone(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Internal | Code::Cancelled)
        && status.message() != Error::NoLeader.message()
}
