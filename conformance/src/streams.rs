//! The two streams that go both ways: watches and lease keep-alives.
//!
//! What a stream sends is collected by a task, because etcd answers the call itself only with its first
//! message. A case waits with a bound until it has seen what it knows must come, and then records
//! the stream by watch id: etcd promises an order within a watch, and none between two.

use std::{collections::BTreeMap, time::Duration};

use forebay_proto::etcdserverpb::{
    self as pb, lease_client::LeaseClient, watch_client::WatchClient, watch_request::RequestUnion,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use crate::{
    outcome::{Names, outcome},
    session::Session,
};

/// How long something that must come may take.
const PATIENCE: Duration = Duration::from_secs(6);

/// How long a stream must be quiet to be called so.
const QUIET: Duration = Duration::from_millis(250);

/// A Watch stream and everything that came on it.
#[derive(Debug)]
pub struct WatchStream {
    requests: Option<mpsc::UnboundedSender<pb::WatchRequest>>,
    responses: mpsc::UnboundedReceiver<Result<pb::WatchResponse, Status>>,
    /// Everything that came so far, in order.
    pub seen: Vec<pb::WatchResponse>,
    /// How the stream ended, once it has.
    pub end: Option<Result<(), Status>>,
    /// What was waited for and did not come.
    pub missed: Vec<String>,
}

/// How much of the messages' shape is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Every message of a watch as it came: for watches that follow the present, where one revision is
    /// one message.
    Messages,
    /// The events of a watch in their order: for watches that catch up, where the message
    /// boundaries depend on timing.
    Events,
}

impl WatchStream {
    pub(crate) fn open(session: &Session) -> WatchStream {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (incoming, responses) = mpsc::unbounded_channel();
        let request = session.prepare(UnboundedReceiverStream::new(outgoing));
        let mut client = WatchClient::new(session.channel.clone()).max_decoding_message_size(usize::MAX);
        tokio::spawn(async move {
            let mut stream = match client.watch(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(incoming.send(Err(status))),
            };
            while let Some(message) = stream.message().await.transpose() {
                let failed = message.is_err();
                if incoming.send(message).is_err() || failed {
                    return;
                }
            }
        });
        WatchStream { requests: Some(requests), responses, seen: Vec::new(), end: None, missed: Vec::new() }
    }

    /// Sends any request.
    pub fn send(&self, request: Option<RequestUnion>) {
        if let Some(requests) = &self.requests {
            // Fails when the stream has ended, which the record shows.
            let _ = requests.send(pb::WatchRequest { request_union: request });
        }
    }

    /// Creates a watch and waits for the answer to it.
    pub async fn create(&mut self, request: pb::WatchCreateRequest) -> Option<pb::WatchResponse> {
        let before = self.created();
        self.send(Some(RequestUnion::CreateRequest(request)));
        self.until("the created message", |stream| stream.created() > before).await;
        self.seen.iter().rev().find(|response| response.created).cloned()
    }

    /// Cancels a watch and waits for the answer to it.
    pub async fn cancel(&mut self, watch_id: i64) {
        let canceled = |stream: &WatchStream| stream.seen.iter().filter(|response| response.canceled).count();
        let before = canceled(self);
        self.send_cancel(watch_id);
        self.until("the canceled message", |stream| canceled(stream) > before).await;
    }

    /// Cancels a watch without waiting.
    pub fn send_cancel(&self, watch_id: i64) {
        self.send(Some(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })));
    }

    /// Asks for progress without waiting.
    pub fn send_progress(&self) {
        self.send(Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})));
    }

    /// Asks for progress until it has come for a revision, so that every event up to it has come too.
    /// Only the last of these messages is kept: how often one must ask is a matter of timing.
    pub async fn barrier(&mut self, revision: i64) {
        let reached = |stream: &WatchStream| {
            stream.seen.iter().any(|response| is_progress(response) && revision_of(response) >= revision)
        };
        let before = self.seen.iter().filter(|response| is_progress(response)).count();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !reached(self) && tokio::time::Instant::now() < deadline && self.end.is_none() {
            self.send_progress();
            self.wait(Duration::from_millis(60), reached).await;
        }
        if !reached(self) {
            self.missed.push(format!("progress to revision {revision}"));
        }
        // Drop the answers of this barrier: whether two requests got one or two depends on timing.
        self.wait(Duration::from_millis(20), |_| false).await;
        let mut progress = 0;
        self.seen.retain(|response| {
            progress += usize::from(is_progress(response));
            !is_progress(response) || progress <= before
        });
    }

    /// Reads until `done`, or notes what was missed.
    pub async fn until(&mut self, what: &str, done: impl Fn(&WatchStream) -> bool) {
        if !self.wait(PATIENCE, done).await {
            self.missed.push(what.to_owned());
        }
    }

    /// Reads until a watch has had so many events.
    pub async fn until_events(&mut self, watch_id: i64, count: usize) {
        let what = format!("{count} events of watch {watch_id}");
        self.until(&what, |stream| stream.events(watch_id).count() >= count).await;
    }

    /// Reads whatever still comes until nothing has come for a while.
    pub async fn settle(&mut self) {
        loop {
            let before = self.seen.len();
            if !self.wait(QUIET, |stream| stream.seen.len() > before).await || self.end.is_some() {
                return;
            }
        }
    }

    /// Closes this side of the stream; the server's side stays open.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The events of one watch so far.
    pub fn events(&self, watch_id: i64) -> impl Iterator<Item = &forebay_proto::mvccpb::Event> {
        self.seen.iter().filter(move |response| response.watch_id == watch_id).flat_map(|response| &response.events)
    }

    fn created(&self) -> usize {
        self.seen.iter().filter(|response| response.created).count()
    }

    async fn wait(&mut self, limit: Duration, done: impl Fn(&WatchStream) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        while !done(self) {
            if self.end.is_some() {
                return false;
            }
            match tokio::time::timeout_at(deadline, self.responses.recv()).await {
                Ok(Some(Ok(response))) => self.seen.push(response),
                Ok(Some(Err(status))) => self.end = Some(Err(status)),
                Ok(None) => self.end = Some(Ok(())),
                Err(_) => return false,
            }
        }
        true
    }

    /// The stream as a tree: the messages of each watch, how it ended and what did not come.
    pub fn tree(&self, names: &Names, shape: Shape) -> Value {
        self.tree_by(names, |_| shape)
    }

    /// The same with a shape for each watch.
    pub fn tree_by(&self, names: &Names, shape: impl Fn(i64) -> Shape) -> Value {
        let mut watches: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for response in &self.seen {
            let messages = watches.entry(format!("watch {}", response.watch_id)).or_default();
            if shape(response.watch_id) == Shape::Messages || response.events.is_empty() {
                messages.push(names.tree(response));
            } else {
                messages.extend(response.events.iter().map(|event| names.tree(event)));
            }
        }
        let end = match &self.end {
            None => json!("open"),
            Some(Ok(())) => json!("closed"),
            Some(Err(status)) => outcome(names, Err::<&(), _>(status)),
        };
        json!({ "watches": watches, "end": end, "waited in vain for": self.missed })
    }
}

fn is_progress(response: &pb::WatchResponse) -> bool {
    response.watch_id == -1 && !response.created && !response.canceled && response.events.is_empty()
}

fn revision_of(response: &pb::WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

/// A LeaseKeepAlive stream.
#[derive(Debug)]
pub struct KeepAliveStream {
    requests: mpsc::UnboundedSender<pb::LeaseKeepAliveRequest>,
    responses: mpsc::UnboundedReceiver<Result<pb::LeaseKeepAliveResponse, Status>>,
}

impl KeepAliveStream {
    pub(crate) fn open(session: &Session) -> KeepAliveStream {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (incoming, responses) = mpsc::unbounded_channel();
        let request = session.prepare(UnboundedReceiverStream::new(outgoing));
        let mut client = LeaseClient::new(session.channel.clone());
        tokio::spawn(async move {
            let mut stream = match client.lease_keep_alive(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(incoming.send(Err(status))),
            };
            while let Some(message) = stream.message().await.transpose() {
                if incoming.send(message).is_err() {
                    return;
                }
            }
        });
        KeepAliveStream { requests, responses }
    }

    /// Renews a lease and records the answer.
    pub async fn renew(&mut self, session: &mut Session, id: i64) -> Option<pb::LeaseKeepAliveResponse> {
        let request = pb::LeaseKeepAliveRequest { id };
        // Fails when the stream has ended, which the answer shows.
        let _ = self.requests.send(request);
        let answer = match tokio::time::timeout(PATIENCE, self.responses.recv()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Status::unknown("conformance: the stream has ended")),
            Err(_) => Err(Status::unknown("conformance: no answer in time")),
        };
        session.record("keep_alive", &request, &answer);
        answer.ok()
    }
}

impl Session {
    /// Records everything that came on a stream.
    pub fn record_watch(&mut self, what: &str, stream: &WatchStream, shape: Shape) {
        let tree = stream.tree(&self.names, shape);
        self.note(format!("watch: {what}"), tree);
    }
}
