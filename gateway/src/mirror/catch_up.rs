//! Private upstream watches, for what a client's watcher sees of revisions that the mirror does not have.
//!
//! Such a watch is opened as the client, so the upstream judges its right. It asks for progress until it has some: a
//! range in which nothing happens would otherwise never be known to have come as far as the mirror.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_edge::{Body, BoxError, grpc};
use forebay_keyspace::watch::{CatchUp, Events, Fed};
use forebay_proto::{
    etcdserverpb::{
        WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use futures::stream::{self, BoxStream, StreamExt as _};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{caller::Caller, feed::tells_progress, identity::Identity, metrics::OpenWatches, state::State};
use crate::replies::{Replies, Reply};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// How long progress is waited for before it is asked for again: a member tells none while a watcher is behind.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);
/// How often it is asked for once the watch has come to the present.
const PROGRESS_LATER: Duration = Duration::from_secs(5);
/// How often a stream that broke is opened again, without anything coming of it, before the client's call ends.
const ATTEMPTS_MAX: u32 = 10;
/// Rest before that.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// How long opening may take.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// The requests of a watch stream that is open.
pub(super) type Requests = mpsc::Sender<Result<Frame<Bytes>, BoxError>>;

/// Opens a watch stream of the upstream with these watchers.
pub(super) async fn open(
    caller: &Caller,
    identity: &Identity,
    creates: Vec<WatchCreateRequest>,
) -> Result<(Requests, Replies), Status> {
    // Room for every create, and for a progress request beside them.
    let (requests, sent) = mpsc::channel(creates.len() + 2);
    for create in creates {
        let sent = requests.try_send(Ok(framed(RequestUnion::CreateRequest(create))));
        sent.expect("the channel has room for every watcher");
    }
    let body = Body::new(StreamBody::new(ReceiverStream::new(sent)));
    Ok((requests, caller.stream(WATCH, body, identity).await?))
}

fn framed(request: RequestUnion) -> Frame<Bytes> {
    Frame::data(grpc::encode(&WatchRequest { request_union: Some(request) }))
}

/// Asks for progress; returns whether there was room for the request.
pub(super) fn ask_progress(requests: &Requests) -> bool {
    requests.try_send(Ok(framed(RequestUnion::ProgressRequest(WatchProgressRequest {})))).is_ok()
}

/// What the watcher sees, until it is dropped. It ends if the upstream cannot tell.
pub(super) fn catch_up(state: Arc<State>, identity: Identity, wanted: CatchUp) -> BoxStream<'static, Fed> {
    state.metrics.caught_up();
    let private = Private {
        asks_progress: state.caller.version().is_some_and(tells_progress),
        state,
        identity,
        request: WatchCreateRequest { fragment: true, watch_id: 0, ..wanted.request },
        open: None,
        ready: VecDeque::new(),
        attempts: 0,
    };
    stream::unfold(private, |mut private| async move { private.next().await.map(|fed| (fed, private)) }).boxed()
}

struct Private {
    state: Arc<State>,
    identity: Identity,
    /// Its start is what was not delivered yet.
    request: WatchCreateRequest,
    open: Option<Open>,
    ready: VecDeque<Fed>,
    /// Since something was delivered.
    attempts: u32,
    asks_progress: bool,
}

struct Open {
    requests: Requests,
    replies: Replies,
    /// The fragments of a response so far.
    fragments: Vec<Event>,
    /// When to ask for progress.
    ask_at: Instant,
    _counted: OpenWatches,
}

impl Open {
    async fn new(state: &State, identity: &Identity, request: &WatchCreateRequest) -> Option<Open> {
        let opening = open(&state.caller, identity, vec![request.clone()]);
        let (requests, replies) = time::timeout(OPEN_MAX, opening).await.ok()?.ok()?;
        let _counted = state.metrics.upstream_watches(1);
        Some(Open { requests, replies, fragments: Vec::new(), ask_at: Instant::now(), _counted })
    }
}

impl Private {
    async fn next(&mut self) -> Option<Fed> {
        loop {
            if let Some(fed) = self.ready.pop_front() {
                return Some(fed);
            }
            let Some(open) = &mut self.open else {
                if self.attempts == ATTEMPTS_MAX {
                    return None;
                }
                if self.attempts > 0 {
                    time::sleep(REOPEN_PAUSE).await;
                }
                self.attempts += 1;
                self.open = Open::new(&self.state, &self.identity, &self.request).await;
                continue;
            };
            let reply = tokio::select! {
                reply = open.replies.next() => reply,
                () = time::sleep_until(open.ask_at), if self.asks_progress => {
                    ask_progress(&open.requests);
                    open.ask_at = Instant::now() + PROGRESS_PAUSE;
                    continue;
                }
            };
            let response = match reply {
                Ok(Reply::Message(message)) => WatchResponse::decode(message).ok()?,
                Ok(Reply::End(_)) | Err(_) => {
                    self.open = None;
                    continue;
                }
            };
            self.receive(response)?;
        }
    }

    /// Takes a message; `None` gives up.
    fn receive(&mut self, response: WatchResponse) -> Option<()> {
        let header = response.header.unwrap_or_default();
        if response.canceled {
            // Anything but a compaction is the client's to hear about when it comes back.
            (response.compact_revision > 0).then(|| self.ready.push_back(Fed::Compacted(response.compact_revision)))?;
            return Some(());
        }
        let cluster_id = self.state.sight.now().cluster_id;
        if header.cluster_id != cluster_id {
            return None;
        }
        let open = self.open.as_mut()?;
        if response.created {
            return Some(());
        }
        let is_progress = response.events.is_empty() && !response.fragment && open.fragments.is_empty();
        if is_progress {
            open.ask_at = Instant::now() + PROGRESS_LATER;
            if header.revision >= self.request.start_revision {
                self.request.start_revision = header.revision + 1;
                self.ready.push_back(Fed::Progress(header.revision));
                self.attempts = 0;
            }
            return Some(());
        }
        open.fragments.extend(response.events);
        if response.fragment {
            return Some(());
        }
        let events = Events::new(&std::mem::take(&mut open.fragments)).ok()?;
        self.request.start_revision = self.request.start_revision.max(events.last() + 1);
        self.ready.push_back(Fed::Events(events));
        self.attempts = 0;
        Some(())
    }
}
