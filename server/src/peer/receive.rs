//! Snapshots of the leader: a raft message, and behind it the db file that it speaks of.
//!
//! Everything slow happens here, beside raft: the file is written, checked and read into a keyspace. Raft's thread only
//! exchanges it for what is there, and does so after it has accepted the message. One snapshot is received at a time, so
//! that not more than one is ever held.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use forebay_proto::raftpb::{Message, MessageType, SnapshotMetadata};
use forebay_storage::{
    db::{Db, Replacement},
    disk::Disk,
    schema,
};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    codec::{Bounded, Source, StreamError},
    id_text,
    peers::Network,
};
use crate::{backend::Backend, lease::Rules, load, state::State};

/// The largest message before a db. It holds the membership, not the keys.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// How long the sender may pause: it reads its db from a disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How many frames may wait for the disk.
const FRAMES_AHEAD: usize = 16;
/// So much is made durable while more is under way, and not all of it at last.
const SYNCED_BYTES: usize = 64 << 20;

/// A snapshot that is ready to be installed.
pub(crate) struct Prepared {
    pub(crate) index: u64,
    pub(crate) replacement: Replacement,
    pub(crate) state: State,
}

impl Prepared {
    /// Reads and checks the db file at `path`, which is to be at entry `index`.
    pub(crate) fn open(db: &Db, path: PathBuf, index: u64, leases: Rules) -> Result<Prepared, SaveError> {
        let (replacement, keys) = load::while_opening(|show| db.open_replacement(path, schema::KEY, show))?;
        let state = State::read(&replacement.begin_read(), keys, leases)?;
        if state.applied.index != index {
            return Err(SaveError::Index { file: state.applied.index, message: index });
        }
        Ok(Prepared { index, replacement, state })
    }
}

/// Receives snapshots.
pub(crate) struct Receiver {
    backend: Arc<Backend>,
    leases: Rules,
    /// Where raft's thread finds what it installs.
    prepared: Arc<Mutex<Option<Prepared>>>,
    turn: tokio::sync::Mutex<()>,
}

/// A refusal: the status and its text.
pub(super) type Refusal = (StatusCode, String);

impl Receiver {
    pub(crate) fn new(backend: Arc<Backend>, leases: Rules, prepared: Arc<Mutex<Option<Prepared>>>) -> Receiver {
        Receiver { backend, leases, prepared, turn: tokio::sync::Mutex::default() }
    }

    /// Receives one snapshot and has raft look at it. The sender is told that it arrived when it is installed, or found
    /// to be needless.
    pub(super) async fn receive<B: Source>(&self, network: &Network, mut bytes: Bounded<B>) -> Result<(), Refusal> {
        let message = bytes
            .message(MESSAGE_BYTES_MAX)
            .await
            .map_err(|error| (StatusCode::BAD_REQUEST, format!("failed to decode raft message ({error})")))?;
        if message.r#type() != MessageType::MsgSnap {
            return Err((StatusCode::BAD_REQUEST, "wrong raft message type".into()));
        }
        network.vet(&message).map_err(|refused| (StatusCode::FORBIDDEN, refused.to_string()))?;
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.clone()).unwrap_or_default();
        let unsaved = |error: &dyn std::fmt::Display| {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to save KV snapshot ({error})"))
        };
        let Ok(_turn) = self.turn.try_lock() else {
            return Err(unsaved(&"another one is being received"));
        };
        let from = id_text(message.from());
        tracing::info!(remote_snapshot_sender_id = from, index = metadata.index(), "receiving database snapshot");
        let file = self.save(&metadata, bytes).await.map_err(|error| unsaved(&error))?;
        self.prepare(&file, &metadata).await.map_err(|error| unsaved(&error))?;
        let handled = self.step(network, message).await;
        // What raft had no use for.
        *self.prepared.lock() = None;
        drop(file);
        handled
    }

    async fn step(&self, network: &Network, message: Message) -> Result<(), Refusal> {
        let stopped = |_| (StatusCode::INTERNAL_SERVER_ERROR, "failed to process raft message (stopped)".to_owned());
        network.raft.step_snapshot(message).map_err(|_| stopped(()))?.await.map_err(|_| stopped(()))
    }

    /// Writes the db beside ours, durably.
    async fn save<B: Source>(&self, metadata: &SnapshotMetadata, mut bytes: Bounded<B>) -> Result<Received, SaveError> {
        let dir = self.backend.db().path().parent().unwrap_or(Path::new(".")).to_owned();
        let path = dir.join(file_name(metadata.index()));
        let temporary = Received(dir.join(format!("tmp.{}", file_name(metadata.index()))));
        // It is there before anybody else writes to it: whatever becomes of this call, the name goes away with it.
        let file = tokio::fs::File::create(&temporary.0).await?.into_std().await;
        let (frames, received) = mpsc::channel(FRAMES_AHEAD);
        let writing = tokio::task::spawn_blocking(move || write(file, received));
        while let Some(data) = bytes.frame().await? {
            // Whoever writes ends before the last frame only by an error, which it tells.
            if frames.send(data).await.is_err() {
                break;
            }
        }
        drop(frames);
        writing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        tokio::fs::rename(&temporary.0, &path).await?;
        tokio::fs::File::open(&dir).await?.sync_all().await?;
        Ok(Received(path))
    }

    /// Reads what was received.
    async fn prepare(&self, file: &Received, metadata: &SnapshotMetadata) -> Result<(), SaveError> {
        let (path, index) = (file.0.clone(), metadata.index());
        let (backend, leases) = (self.backend.clone(), self.leases);
        let reading = tokio::task::spawn_blocking(move || Prepared::open(backend.db(), path, index, leases));
        let prepared = reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        *self.prepared.lock() = Some(prepared);
        Ok(())
    }
}

/// Writes what comes to a file, until nothing comes any more, durably.
fn write(mut file: fs::File, mut received: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let mut unsynced = 0;
    while let Some(data) = received.blocking_recv() {
        file.write_all(&data)?;
        unsynced += data.len();
        if unsynced >= SYNCED_BYTES {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    file.sync_all()
}

/// Why a db was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("{0}")]
    State(#[from] crate::state::Unreadable),
    #[error("the db is at entry {file}, the message at {message}")]
    Index { file: u64, message: u64 },
}

/// A file that goes away with this, unless it was renamed.
struct Received(PathBuf);

impl Drop for Received {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The name of a received db, as etcd calls it: a member that crashes before it is installed finds it by that.
pub(crate) fn file_name(index: u64) -> String {
    format!("{index:016x}.snap.db")
}

/// Removes received dbs, and what was being received, of an earlier life.
pub(crate) fn remove_received(disk: &dyn Disk, snap_dir: &Path) -> io::Result<()> {
    for name in disk.list(snap_dir)? {
        if name.ends_with(".snap.db") || name.starts_with("tmp") {
            disk.remove(&snap_dir.join(name))?;
        }
    }
    Ok(())
}
