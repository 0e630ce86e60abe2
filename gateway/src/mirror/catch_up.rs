//! Private upstream watches, for what a client's watcher sees of revisions that the mirror does not have.
//!
//! Such a watch is opened as the client, so the upstream judges its right. It asks for progress until it has some: a
//! range in which nothing happens would otherwise never be known to have come as far as the mirror.
//!
//! What is received takes memory of the client's listener, which is asked for before it is received: many clients that do
//! not read could otherwise have all of the past kept for each of them. Where there is none, the watch is closed, and
//! opened again where it was once there is.
//!
//! Receiving the past goes by [`Turns`](super::turns::Turns). A catch-up that loses its turn closes its watch, and opens
//! it again where it was, so that nothing lies in windows and buffers for clients that do not read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_edge::{
    Body, BoxError, grpc,
    listener::{Held, Memory},
};
use forebay_keyspace::watch::{CatchUp, Events, Fed};
use forebay_proto::{
    etcdserverpb::{
        WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use futures::stream::{BoxStream, StreamExt as _};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    task::JoinSet,
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
/// How long a turn lasts in which nothing comes.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// How long it lasts while the client does not take what came.
const UNTAKEN_MAX: Duration = Duration::from_millis(250);
/// How much a message takes, of each byte: its events, and what is written of them for the client.
const TIMES: usize = 2;
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
pub(super) fn catch_up(
    state: Arc<State>,
    identity: Identity,
    memory: Memory,
    wanted: CatchUp,
) -> BoxStream<'static, (Fed, Held)> {
    state.metrics.caught_up();
    let private = Private {
        asks_progress: state.caller.version().is_some_and(tells_progress),
        state: Arc::clone(&state),
        identity,
        memory,
        prepaid: (0, Held::default()),
        request: WatchCreateRequest { fragment: true, watch_id: 0, ..wanted.request },
        open: None,
        attempts: 0,
    };
    let (feeding, fed) = mpsc::channel(1);
    let mut task = JoinSet::new();
    task.spawn(async move { private.run(&state, feeding).await });
    let of_task = move |fed| {
        // Ends with the stream.
        let _ = &task;
        fed
    };
    ReceiverStream::new(fed).map(of_task).boxed()
}

struct Private {
    state: Arc<State>,
    identity: Identity,
    memory: Memory,
    /// Memory that was waited for, and for how long a message.
    prepaid: (usize, Held),
    /// Its start is what was not delivered yet.
    request: WatchCreateRequest,
    open: Option<Open>,
    /// Since something was delivered.
    attempts: u32,
    asks_progress: bool,
}

struct Open {
    requests: Requests,
    replies: Replies,
    /// The fragments of a response so far, and their size.
    fragments: Vec<Event>,
    bytes: usize,
    held: Held,
    /// Whether that is also for the message that comes now.
    is_paid: bool,
    /// When to ask for progress.
    ask_at: Instant,
    _counted: OpenWatches,
}

impl Open {
    async fn new(state: &State, identity: &Identity, request: &WatchCreateRequest) -> Option<Open> {
        let opening = open(&state.caller, identity, vec![request.clone()]);
        let (requests, replies) = time::timeout(OPEN_MAX, opening).await.ok()?.ok()?;
        let _counted = state.metrics.upstream_watches(1);
        let (fragments, held) = (Vec::new(), Held::default());
        Some(Open { requests, replies, fragments, bytes: 0, held, is_paid: false, ask_at: Instant::now(), _counted })
    }
}

/// What came of waiting for the upstream.
enum Received {
    /// Something to deliver, its memory, and the size of the events in it.
    Fed(Fed, Held, usize),
    /// There is no memory for the next message, which is this long.
    Full(usize),
    /// The stream broke.
    Broken,
    /// The upstream cannot tell.
    Refused,
}

impl Private {
    /// Delivers until it cannot, or nobody wants it any more.
    async fn run(mut self, state: &State, feeding: mpsc::Sender<(Fed, Held)>) {
        let mut is_long = false;
        while self.attempts < ATTEMPTS_MAX {
            if self.attempts > 0 {
                time::sleep(REOPEN_PAUSE).await;
            }
            self.attempts += 1;
            let mut turn = Some(state.turns.next(is_long).await);
            self.open = Open::new(state, &self.identity, &self.request).await;
            while self.open.is_some() {
                let received = match &turn {
                    None => self.receive().await,
                    Some(_) => match time::timeout(QUIET_MAX, self.receive()).await {
                        Ok(received) => received,
                        Err(_) => {
                            turn = None;
                            continue;
                        }
                    },
                };
                let (fed, held, bytes) = match received {
                    Received::Fed(fed, held, bytes) => (fed, held, bytes),
                    Received::Full(len) => {
                        // What is open, and the turn, are others' meanwhile.
                        self.open = None;
                        drop(turn.take());
                        tokio::select! {
                            held = self.memory.hold(TIMES * len) => self.prepaid = (len, held),
                            () = feeding.closed() => return,
                        }
                        self.attempts = 0;
                        break;
                    }
                    Received::Broken => break,
                    Received::Refused => return,
                };
                if matches!(fed, Fed::Progress(_)) {
                    // It has come to the present, and what happens from now on is no more than the client's due.
                    turn = None;
                }
                if turn.as_mut().is_some_and(|turn| turn.is_spent_by(bytes)) {
                    is_long = true;
                    // Given back first, so that those who wait have it.
                    drop(turn.take());
                    turn = state.turns.at_once();
                    if turn.is_none() {
                        self.open = None;
                    }
                }
                if let Ok(place) = time::timeout(UNTAKEN_MAX, feeding.reserve()).await {
                    let Ok(place) = place else { return };
                    place.send((fed, held));
                    continue;
                }
                if turn.take().is_some() {
                    self.open = None;
                }
                if feeding.send((fed, held)).await.is_err() {
                    return;
                }
            }
            self.open = None;
        }
    }

    /// The next thing to deliver. What was received is not lost if this is dropped.
    async fn receive(&mut self) -> Received {
        while let Some(open) = &mut self.open {
            let len = tokio::select! {
                len = open.replies.next_len() => len,
                () = time::sleep_until(open.ask_at), if self.asks_progress => {
                    ask_progress(&open.requests);
                    open.ask_at = Instant::now() + PROGRESS_PAUSE;
                    continue;
                }
            };
            let Ok(len) = len else { break };
            if !open.is_paid {
                match self.prepaid.0 {
                    prepaid if prepaid >= len => open.held.add(std::mem::take(&mut self.prepaid).1),
                    _ => match self.memory.try_hold(TIMES * len) {
                        Ok(held) => open.held.add(held),
                        Err(_) => return Received::Full(len),
                    },
                }
                open.is_paid = true;
            }
            let Ok(Reply::Message(message)) = open.replies.next().await else { break };
            open.is_paid = false;
            let bytes = message.len();
            let Ok(response) = WatchResponse::decode(message) else { return Received::Refused };
            if let Some(received) = self.take(response, bytes) {
                return received;
            }
        }
        Received::Broken
    }

    /// Takes a message; `None` if nothing is to be delivered yet.
    fn take(&mut self, response: WatchResponse, bytes: usize) -> Option<Received> {
        let header = response.header.unwrap_or_default();
        if response.canceled {
            // Anything but a compaction is the client's to hear about when it comes back.
            let is_compacted = response.compact_revision > 0;
            let fed =
                is_compacted.then_some(Received::Fed(Fed::Compacted(response.compact_revision), Held::default(), 0));
            return Some(fed.unwrap_or(Received::Refused));
        }
        if header.cluster_id != self.state.sight.now().cluster_id {
            return Some(Received::Refused);
        }
        let open = self.open.as_mut()?;
        if response.created {
            return None;
        }
        let is_progress = response.events.is_empty() && !response.fragment && open.fragments.is_empty();
        if is_progress {
            open.ask_at = Instant::now() + PROGRESS_LATER;
            if header.revision < self.request.start_revision {
                return None;
            }
            self.request.start_revision = header.revision + 1;
            self.attempts = 0;
            return Some(Received::Fed(Fed::Progress(header.revision), Held::default(), 0));
        }
        open.fragments.extend(response.events);
        open.bytes += bytes;
        if response.fragment {
            return None;
        }
        let (bytes, held) = (std::mem::take(&mut open.bytes), std::mem::take(&mut open.held));
        let Ok(events) = Events::new(&std::mem::take(&mut open.fragments)) else { return Some(Received::Refused) };
        self.request.start_revision = self.request.start_revision.max(events.last() + 1);
        self.attempts = 0;
        Some(Received::Fed(Fed::Events(events), held, bytes))
    }
}
