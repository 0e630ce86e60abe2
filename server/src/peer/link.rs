//! What this member has open to another one.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use forebay_edge::Body;
use forebay_proto::raftpb::{Message, MessageType};
use futures::{StreamExt as _, stream};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    client::{ClientError, PATIENCE, unread},
    codec::{Bounded, Kind, put_message},
    id_text,
    outgoing::{Slot, Unsent},
    peers::Network,
    reader,
};
use crate::raft::SnapshotData;

/// Messages that wait for the pipeline.
const PIPELINE_WAITING_MAX: usize = 64;
/// Requests of the pipeline that are under way at once.
const PIPELINE_CONNECTIONS: usize = 4;
/// How often a member is asked for a sign of life, to know how far away it is.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// Bytes of a db that are read at once for a member, and how many such pieces wait to be sent.
const CHUNK: usize = 128 << 10;
const CHUNKS_AHEAD: usize = 8;

/// One other member.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) network: Arc<Network>,
    urls: Mutex<Vec<String>>,
    /// Which of the URLs is used. When it does not answer, the next one is.
    picked: AtomicUsize,
    msgapp: Slot,
    message: Slot,
    pipeline: mpsc::Sender<Message>,
    /// Since when the member is reached without interruption.
    active_since: Mutex<Option<Instant>>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Whether it is dialled, as members are; a sender that is not known yet is only answered.
    is_member: Mutex<bool>,
}

impl Link {
    /// A link that can be sent to. Must be called in a tokio runtime.
    pub(super) fn new(network: &Arc<Network>, id: u64, urls: Vec<String>) -> Arc<Link> {
        let (pipeline, waiting) = mpsc::channel(PIPELINE_WAITING_MAX);
        let link = Arc::new(Link {
            id,
            network: network.clone(),
            urls: Mutex::new(urls),
            picked: AtomicUsize::new(0),
            msgapp: Slot::default(),
            message: Slot::default(),
            pipeline,
            active_since: Mutex::new(None),
            tasks: Mutex::new(Vec::new()),
            is_member: Mutex::new(false),
        });
        link.spawn(pump(link.clone(), waiting));
        link
    }

    /// Dials the member, from now on and again whenever a stream ends.
    pub(super) fn dial(self: &Arc<Link>) {
        if std::mem::replace(&mut *self.is_member.lock(), true) {
            return;
        }
        self.spawn(reader::read(self.clone(), Kind::MsgApp));
        self.spawn(reader::read(self.clone(), Kind::Message));
        self.spawn(probe(self.clone()));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().push(self.network.runtime.spawn(task).abort_handle());
    }

    /// Whether the member may open streams.
    pub(super) fn is_member(&self) -> bool {
        *self.is_member.lock()
    }

    /// Ends everything that is open.
    pub(super) fn close(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.msgapp.detach();
        self.message.detach();
        self.deactivate("it is no member any more");
    }

    pub(super) fn set_urls(&self, urls: &[String]) {
        let mut known = self.urls.lock();
        if *known != urls {
            *known = urls.to_vec();
        }
    }

    /// The URL that worked last, or the next one to try.
    pub(super) fn url(&self) -> String {
        let urls = self.urls.lock();
        urls.get(self.picked.load(Ordering::Relaxed) % urls.len().max(1)).cloned().unwrap_or_default()
    }

    /// The URL that [`Link::url`] named does not answer.
    pub(super) fn try_next_url(&self) {
        self.picked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn slot(&self, kind: Kind) -> &Slot {
        match kind {
            Kind::MsgApp => &self.msgapp,
            Kind::Message => &self.message,
        }
    }

    /// Sends a message by the best way there is. Never waits.
    pub(super) fn send(&self, message: Message) {
        let mut message = message;
        for kind in [Kind::MsgApp, Kind::Message] {
            if kind == Kind::MsgApp && message.r#type() != MessageType::MsgApp {
                continue;
            }
            match self.slot(kind).send(message) {
                Ok(()) => return,
                Err(Unsent::Full) => return self.lost(),
                Err(Unsent::Detached(unsent)) => message = *unsent,
            }
        }
        if self.pipeline.try_send(message).is_err() {
            self.lost();
        }
    }

    /// A message was lost: raft should probe before it sends more.
    pub(super) fn lost(&self) {
        self.network.metrics.sent_failures.with_label_values(&[&id_text(self.id)]).inc();
        self.network.raft.unreachable(self.id);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.network.metrics.sent_bytes.with_label_values(&[&id_text(self.id)]).inc_by(bytes as u64);
    }

    /// Since when the member is reached without interruption.
    pub(super) fn active_since(&self) -> Option<Instant> {
        *self.active_since.lock()
    }

    pub(super) fn activate(&self) {
        let mut since = self.active_since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.show_active(1);
            tracing::info!(remote_peer_id = id_text(self.id), "peer became active");
        }
    }

    pub(super) fn deactivate(&self, reason: impl std::fmt::Display) {
        if self.active_since.lock().take().is_some() {
            self.show_active(0);
            tracing::warn!(remote_peer_id = id_text(self.id), %reason, "peer became inactive (message send to peer failed)");
        }
    }

    fn show_active(&self, active: i64) {
        let (local, remote) = (id_text(self.network.identity.member_id), id_text(self.id));
        self.network.metrics.active.with_label_values(&[&local, &remote]).set(active);
    }

    /// Sends a snapshot, and says to raft how that went.
    pub(super) fn send_snapshot(self: &Arc<Link>, message: Message, db: Box<dyn SnapshotData>) {
        let link = self.clone();
        let sending = async move {
            let label = id_text(link.id);
            let index = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref()).map(|m| m.index());
            tracing::info!(remote_peer_id = label, index, bytes = db.len(), "sending database snapshot");
            let arrived = match post_snapshot(&link, message, db).await {
                Ok(()) => {
                    tracing::info!(remote_peer_id = label, index, "sent database snapshot");
                    link.network.metrics.snapshots_sent.with_label_values(&[&label]).inc();
                    true
                }
                Err(error) => {
                    tracing::warn!(remote_peer_id = label, %error, "failed to send database snapshot");
                    link.network.metrics.snapshots_sent_failures.with_label_values(&[&label]).inc();
                    link.try_next_url();
                    false
                }
            };
            link.network.raft.snapshot_sent(link.id, arrived);
        };
        // Not one of the link's tasks: raft must hear of its end even when the link closes.
        self.network.runtime.spawn(sending);
    }
}

/// Posts what goes through the pipeline.
async fn pump(link: Arc<Link>, mut waiting: mpsc::Receiver<Message>) {
    let mut posting = JoinSet::new();
    while let Some(message) = waiting.recv().await {
        if posting.len() >= PIPELINE_CONNECTIONS {
            let _ = posting.join_next().await;
        }
        posting.spawn(post(link.clone(), message));
    }
}

async fn post(link: Arc<Link>, message: Message) {
    let body = message.encode_to_vec();
    let mut headers = link.network.identity.headers();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    let bytes = body.len();
    let url = link.url();
    let asking = link.network.client.ask(&url, Method::POST, "/raft", headers, Body::full(body), PATIENCE);
    match asking.await.and_then(|answer| accepted(&link, answer.status, &answer.text())) {
        Ok(()) => {
            link.activate();
            link.sent(bytes);
        }
        Err(error) => {
            link.try_next_url();
            link.deactivate(error);
            link.lost();
        }
    }
}

/// Whether what was posted was taken.
fn accepted(link: &Link, status: StatusCode, text: &str) -> Result<(), ClientError> {
    if status == StatusCode::NO_CONTENT {
        return Ok(());
    }
    if status == StatusCode::FORBIDDEN && text.contains("removed member") {
        link.network.raft.removed();
    }
    Err(ClientError::Status(status, text.to_owned()))
}

async fn post_snapshot(link: &Arc<Link>, message: Message, mut db: Box<dyn SnapshotData>) -> Result<(), ClientError> {
    let mut head = BytesMut::new();
    put_message(&message, &mut head);
    let (sender, chunks) = mpsc::channel::<Result<Bytes, std::io::Error>>(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let chunk = db.read(&mut chunk).map(|len| {
                chunk.truncate(len);
                Bytes::from(chunk)
            });
            let is_last = chunk.as_ref().map_or(true, Bytes::is_empty);
            let ends_well = is_last && chunk.is_ok();
            // Nobody listens any more when the connection is gone.
            if ends_well || sender.blocking_send(chunk).is_err() || is_last {
                return;
            }
        }
    });
    let counting = link.clone();
    let frames = stream::once(async move { Ok(head.freeze()) })
        .chain(ReceiverStream::new(chunks))
        .inspect(move |chunk| counting.sent(chunk.as_ref().map_or(0, Bytes::len)));
    let body = Body::new(StreamBody::new(frames.map(|chunk| chunk.map(Frame::data))));
    let mut headers = link.network.identity.headers();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // The member answers when it has all of it, however long that takes; a dead connection is noticed by TCP.
    let answer = link.network.client.send(&link.url(), Method::POST, "/raft/snapshot", headers, body).await?;
    let (parts, body) = answer.into_parts();
    let text = Bounded::new(body, PATIENCE).all(4 << 10).await.map_err(unread)?;
    accepted(link, parts.status, String::from_utf8_lossy(&text).trim_end())
}

/// Measures how far away the member is.
async fn probe(link: Arc<Link>) {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        if link.network.client.get(&link.url(), "/raft/probing", PATIENCE).await.is_ok() {
            let seconds = began.elapsed().as_secs_f64();
            link.network.metrics.round_trip_seconds.with_label_values(&[&id_text(link.id)]).observe(seconds);
        }
    }
}
