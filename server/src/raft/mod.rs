//! Consensus: one thread that turns proposals into a log that every member applies in the same order.
//!
//! ```text
//!             proposals, reads, peers' messages
//!                        │ mailbox
//!   RaftHandle ──────────▼──────────────────────────────────────────┐
//!              driver: take all that waits → node: one step          │
//!                      persist (one WAL append, one fsync)           │
//!                      send messages → Transport                     │
//!                      apply committed entries → StateMachine        │
//!                      answer reads                                  │
//!              └─────────────────────────────────────────────────────┘
//! ```
//!
//! - [`node`] is the pure step around the raft library: no thread, no clock, no file. Its outputs are values.
//! - [`log`] is the part of the log that is kept in memory, and what the library reads.
//! - [`translate`] is the only place that knows both the library's messages and etcd's.
//! - [`driver`] does what the node says, in order, on one thread; [`backlog`] and [`reads`] are what it holds back, and
//!   [`handle`] is how everybody else reaches it.
//! - [`start`] opens or bootstraps the files and brings node and state machine together.
//!
//! **Invariants.** Nothing is sent that promises what is not yet synced (but for a leader's entries, which promise
//! nothing). Nothing is applied that is not committed and synced here. A failed write, or a log that contradicts itself,
//! ends the thread with an error that names the invariant: a stopped member is better than a wrong one.

mod backlog;
mod crowd;
mod driver;
mod handle;
mod log;
mod logger;
mod metrics;
mod node;
mod reads;
mod start;
#[cfg(test)]
mod tests;
mod translate;

use std::{io, time::Duration};

use forebay_proto::raftpb::{ConfChange, ConfState, Entry, Message, Snapshot};
use forebay_storage::{
    snap::{Membership, SnapError},
    wal::WalError,
};

pub(crate) use self::driver::panic_text;
#[cfg(test)]
pub(crate) use self::{driver::Driver, start::Circumstances};
pub use self::{
    driver::RaftThread,
    handle::{Progress, Proposal, RaftHandle, Refused, Role, Status},
    metrics::RaftMetrics,
    start::{Bootstrap, Opened},
};

/// Any error, where only its text matters.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What raft needs to know. Durations and counts have etcd's names and defaults.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// `--heartbeat-interval`. Short: a lost leader is noticed soon; long: fewer messages.
    pub tick: Duration,
    /// `--election-timeout` in ticks. Few: short outages without a leader; many: a slow disk or network does not
    /// depose a leader that works.
    pub election_ticks: usize,
    /// `--pre-vote`: ask before disturbing the cluster with a new term.
    pub pre_vote: bool,
    /// `--snapshot-count`: entries between two snapshots. Many: rare work, long replay after a crash.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`: entries kept in memory behind a snapshot, so that a slow follower needs no whole
    /// db.
    pub snapshot_catchup_entries: u64,
    /// `--max-snapshots`: `.snap` files kept; 0 keeps all.
    pub snapshots_max: usize,
    /// Where segments live, usually `member/wal`.
    pub wal_dir: std::path::PathBuf,
    /// Where `.snap` files live, usually `member/snap`.
    pub snap_dir: std::path::PathBuf,
    /// `--max-wals` and the size of a segment.
    pub wal: forebay_storage::wal::Options,
    /// Skips syncs. Loses acknowledged writes in a power cut; for tests alone.
    pub unsafe_no_fsync: bool,
}

/// What applies the log. All calls come from the raft thread, in log order.
pub trait StateMachine: Send + 'static {
    /// How far the db that was opened already is. Asked once, before anything is applied.
    fn applied(&self) -> Applied;

    /// Applies committed normal entries, in order and completely. An entry without data is a leader's first: skip it,
    /// but count its index.
    ///
    /// Before this returns the effects must be visible to readers, and whoever waits for one of the entries answered:
    /// a read index is handed out only after the entries up to it went through here.
    fn apply(&mut self, entries: &[Entry]) -> Result<(), BoxError>;

    /// Whether a committed membership change is valid. All members must decide alike: from the log's effects alone.
    fn accepts(&self, change: &ConfChange) -> bool;

    /// Applies a membership change that was accepted, or answers one that was not. `conf_state` is the configuration
    /// after it, to be stored together with the entry's index.
    fn apply_conf_change(
        &mut self,
        entry: &Entry,
        change: &ConfChange,
        accepted: bool,
        conf_state: &ConfState,
    ) -> Result<(), BoxError>;

    /// A proposal will not enter the log through this member. (One that was handed on may still be lost without notice:
    /// only the proposer's timeout ends its wait.)
    fn dropped(&mut self, proposal: u64, reason: Dropped);

    /// Who leads has changed, as far as this member knows, or the term has.
    fn leader_changed(&mut self, leadership: Leadership);

    /// Begins to make everything applied so far durable. Must not wait for it.
    fn flush(&mut self);

    /// The index up to which the db file holds everything, crash or not.
    fn durable_index(&self) -> u64;

    /// The membership as applied so far; older members read it from the snapshot file.
    fn membership(&self) -> Membership;

    /// The db as applied so far and no further, unaffected by what is applied later; it is streamed to a follower that lags too far.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotData>, BoxError>;

    /// Replaces everything by the snapshot that was received from the leader; its db file waits beside ours as
    /// `<index>.snap.db`.
    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError>;
}

/// Where a db file stands in the log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    /// `consistent_index`: entries up to here are not applied again.
    pub index: u64,
    /// `confState` as of that index. `None` in files of 3.4, which do not hold it: then the log is asked.
    pub conf_state: Option<ConfState>,
}

/// The bytes of a db file on its way to a follower.
pub trait SnapshotData: io::Read + Send {
    /// How many bytes will be read.
    fn len(&self) -> u64;
    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Carries messages to other members. Must not wait: what cannot be queued is dropped, and reported through
/// [`RaftHandle::unreachable`] or [`RaftHandle::snapshot_sent`].
pub trait Transport: Send + 'static {
    /// Sends messages, each to the member in its `to` field.
    fn send(&mut self, messages: Vec<Message>);

    /// Sends a MsgSnap and the db that belongs to it.
    fn send_snapshot(&mut self, message: Message, db: Box<dyn SnapshotData>);

    /// Membership has, or may have, changed.
    fn set_members(&mut self, membership: &Membership);
}

/// The transport of a cluster of one.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, _messages: Vec<Message>) {}

    fn send_snapshot(&mut self, _message: Message, _db: Box<dyn SnapshotData>) {}

    fn set_members(&mut self, _membership: &Membership) {}
}

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// The leader's id, or 0.
    pub leader: u64,
    /// Whether that is this member, and everything of the terms before is applied here: from then on it knows what they
    /// decided, and may decide itself.
    pub is_settled: bool,
}

/// Why a proposal will not enter the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// The leader is handing over, or is no longer a member; or there was none for as long as a request may wait.
    #[error("raft proposal dropped")]
    Refused,
    /// The member stops.
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// Why the raft thread ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The log cannot be read or written any more.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// A snapshot file cannot be read or written.
    #[error(transparent)]
    Snap(#[from] SnapError),
    /// What was opened does not fit together, or the library contradicts itself.
    #[error("raft: broken invariant: {0}")]
    Invariant(String),
    /// The state machine cannot go on.
    #[error("apply: {0}")]
    Apply(BoxError),
    /// The library refused to start with what the files say.
    #[error("raft: {0}")]
    Library(String),
    /// This member was removed from the cluster.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// The thread panicked; it said why.
    #[error("raft: the thread panicked: {0}")]
    Panicked(String),
}
