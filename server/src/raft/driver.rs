//! Does what the node says, on one thread.
//!
//! A turn of the loop takes everything that waits in the mailbox, steps the node with it (all proposals as one batch),
//! persists the outcome with one append and one sync, applies what is committed and answers. While it does, the next
//! batch gathers: the slower the disk, the larger the batches.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use forebay_proto::{
    raftpb::{
        ConfChange, ConfChangeType, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
    },
    walpb,
};
use forebay_storage::{
    disk::Work,
    failpoint::{Point, reach},
    snap::{SnapError, Snapshots},
    wal::{Wal, Written},
};
use prost::Message as _;
use raft::StateRole;
use tokio::sync::oneshot;

use super::{
    Dropped, Leadership, RaftConfig, RaftError, RaftMetrics, StateMachine, Transport,
    backlog::Backlog,
    crowd::Crowd,
    handle::{Control, Inbox, RaftHandle, Role, Shared},
    node::{Node, Ready, Rejected},
    reads::Reads,
};
use crate::clock::Clock;

/// Bytes of applied entries kept for slow followers, whatever `snapshot_catchup_entries` says.
const CATCHUP_BYTES_MAX: usize = 256 << 20;

/// The running raft thread.
#[derive(Debug)]
pub struct RaftThread<S> {
    handle: RaftHandle,
    thread: JoinHandle<Result<S, RaftError>>,
}

impl<S> RaftThread<S> {
    /// Waits until the thread has ended. After [`RaftHandle::stop`] the state machine comes back; anything else that
    /// ends the thread is an error.
    pub fn join(self) -> Result<S, RaftError> {
        self.thread.join().unwrap_or_else(|panic| Err(RaftError::Panicked(panic_text(&*panic))))
    }

    /// Talks to the thread.
    pub fn handle(&self) -> &RaftHandle {
        &self.handle
    }
}

/// Everything the thread owns. It is told when to take a turn, and reads no clock but its own, so that a simulation
/// runs many of them in one thread.
pub(crate) struct Driver<S, T> {
    pub(super) config: RaftConfig,
    pub(super) clock: Clock,
    pub(super) next_tick: Instant,
    pub(super) node: Node,
    pub(super) wal: Wal,
    pub(super) snapshots: Snapshots,
    pub(super) state_machine: S,
    pub(super) transport: T,
    pub(super) metrics: RaftMetrics,
    pub(super) shared: Arc<Shared>,
    pub(super) reads: Reads,
    pub(super) backlog: Backlog,
    pub(super) crowd: Crowd,
    /// How many more proposals are being waited for, and until when.
    pub(super) gathering: Option<(usize, Instant)>,
    /// Whether the commit index moved since the hard state was last written.
    pub(super) commit_unwritten: bool,
    pub(super) leadership: Leadership,
    pub(super) snapshot: SnapshotWork,
    /// Index of the last snapshot that was made or received.
    pub(super) snapshot_index: u64,
    /// When this member ends, since it is none any more. A leader first lets the others know that they may apply its
    /// removal, or they would have to elect another one to find out.
    pub(super) leaves_at: Option<Instant>,
    /// Members that a db is being sent to.
    pub(super) sending_to: BTreeSet<u64>,
    /// Who waits until the snapshots that were stepped are dealt with.
    pub(super) snapshots_done: Vec<oneshot::Sender<()>>,
}

/// Making a snapshot takes a db that is durable, then a file; neither is waited for.
pub(super) enum SnapshotWork {
    None,
    /// Until the db file holds everything up to the snapshot's index.
    Flushing(Snapshot),
    /// Until its file is written.
    Saving {
        metadata: SnapshotMetadata,
        file: Work<Result<Duration, SnapError>>,
    },
}

/// Starts the thread.
pub(super) fn spawn<S: StateMachine, T: Transport>(mut driver: Driver<S, T>) -> Result<RaftThread<S>, RaftError> {
    let shared = driver.shared.clone();
    let handle = RaftHandle::new(shared.clone());
    let thread = std::thread::Builder::new().name("raft".into()).spawn(move || {
        shared.mailbox.set_reader(std::thread::current());
        let result = catch_unwind(AssertUnwindSafe(|| driver.run()));
        // From here on nobody may wait for this thread.
        shared.sole_read_index.store(0, Ordering::Release);
        let left = shared.mailbox.close();
        let result = result.unwrap_or_else(|panic| Err(RaftError::Panicked(panic_text(&*panic))));
        let result = result.map(|()| {
            driver.drop_all(left);
            driver.state_machine
        });
        if let Err(error) = &result {
            tracing::error!(%error, "the raft thread has ended");
        }
        shared.replayed.send_replace(true);
        shared.stopped.send_replace(true);
        result
    });
    let thread = thread.map_err(|error| RaftError::Library(format!("cannot start its thread: {error}")))?;
    Ok(RaftThread { handle, thread })
}

impl<S: StateMachine, T: Transport> Driver<S, T> {
    fn run(&mut self) -> Result<(), RaftError> {
        self.begin()?;
        let mut inbox = Inbox::default();
        loop {
            let rests_until = self.rest()?;
            let missing = self.gathering.map_or(1, |(missing, _)| missing);
            self.shared.mailbox.take(&mut inbox, rests_until, missing);
            if !self.turn(&mut inbox)? {
                return Ok(());
            }
        }
    }

    /// Applies what is known to be committed. To be called once, before anything else.
    pub(crate) fn begin(&mut self) -> Result<(), RaftError> {
        reach(Point::RaftStart);
        self.work()?;
        if self.node.is_only_voter() {
            // Nobody else can answer, so there is nobody to wait for.
            self.node.campaign();
            self.work()?;
        }
        self.shared.replayed.send_replace(true);
        self.next_tick = self.clock.now() + self.config.tick;
        Ok(())
    }

    /// Until when there is nothing to do unless something comes in; `None` if there is something now.
    pub(crate) fn rest(&mut self) -> Result<Option<Instant>, RaftError> {
        let busy = (self.gathering.is_none() && !self.backlog.is_empty() && self.node.leader() != 0)
            || (self.reads.wants_round() && self.reads_may_begin());
        if busy {
            return Ok(None);
        }
        if let Some((_, until)) = self.gathering {
            return Ok(Some(until.min(self.next_tick)));
        }
        self.write_commit()?;
        Ok(Some(self.next_tick))
    }

    /// A turn with whatever has come in by now.
    #[cfg(test)]
    pub(crate) fn turn_now(&mut self) -> Result<bool, RaftError> {
        let mut inbox = Inbox::default();
        self.shared.mailbox.take(&mut inbox, None, 1);
        self.turn(&mut inbox)
    }

    /// Deals with what came in, and with the time. Returns whether to go on.
    pub(super) fn turn(&mut self, inbox: &mut Inbox) -> Result<bool, RaftError> {
        reach(Point::RaftTurn);
        let now = self.clock.now();
        if now >= self.next_tick {
            self.node.tick();
            self.give_up_waiting(now);
            // After a pause one tick is enough: the messages that waited show what happened meanwhile.
            self.next_tick = (self.next_tick + self.config.tick).max(now);
        }
        let goes_on = self.take_in(inbox, now);
        let gathers = self.node.role() == StateRole::Leader;
        self.gathering = gathers.then(|| self.crowd.worth_waiting(self.backlog.len(), now)).flatten();
        if self.gathering.is_none() {
            let batch = self.step_backlog();
            self.crowd.leaves(batch);
        }
        if let Some(context) = self.reads_may_begin().then(|| self.reads.begin(now)).flatten() {
            self.node.read_index(context);
        }
        self.work()?;
        for done in self.snapshots_done.drain(..) {
            // Whoever sent it may be gone.
            let _ = done.send(());
        }
        self.snapshot_step()?;
        if !goes_on {
            self.write_commit()?;
        }
        Ok(goes_on)
    }

    /// Steps the node with what came in, but for proposals. Returns whether to go on.
    fn take_in(&mut self, inbox: &mut Inbox, now: Instant) -> bool {
        let mut goes_on = true;
        for control in inbox.controls.drain(..) {
            match control {
                Control::ConfChange(change) => {
                    if self.node.propose_conf_change(&change).is_err() {
                        self.dropped(change.id(), Dropped::Refused);
                    }
                }
                Control::TransferLeader(to) => self.node.transfer_leader(to),
                Control::Campaign => self.node.campaign(),
                Control::AdvanceTicks(ticks) => (0..ticks).for_each(|_| self.node.tick()),
                Control::Unreachable(id) => self.node.unreachable(id),
                Control::Gone(id) => self.node.gone(id),
                Control::SnapshotSent { to, arrived } => {
                    self.sending_to.remove(&to);
                    self.node.snapshot_sent(to, arrived);
                }
                Control::Snapshot { message, done } => {
                    self.step_message(*message);
                    self.snapshots_done.push(done);
                }
                Control::Progress(reply) => {
                    // Whoever asked may be gone.
                    let _ = reply.send(self.node.progress());
                }
                Control::Removed => self.leaves_at = Some(now),
                Control::Stop => goes_on = false,
            }
        }
        for message in inbox.messages.drain(..) {
            self.step_message(message);
        }
        self.backlog.add(inbox.proposals.drain(..), now);
        self.reads.join(inbox.reads.drain(..));
        inbox.clear();
        goes_on
    }

    fn step_message(&mut self, message: Message) {
        match self.node.step(message) {
            // The proposer's own member takes care of it: it times out there.
            Ok(()) | Err(Rejected::ProposalDropped) => {}
            Err(rejected) => {
                self.metrics.messages_rejected.inc();
                tracing::debug!(%rejected, "ignored a message of a peer");
            }
        }
    }

    /// Proposes as much of the backlog as makes a batch. Returns how many that were.
    fn step_backlog(&mut self) -> usize {
        let leads_in = (self.node.role() == StateRole::Leader).then(|| self.node.term());
        for id in self.backlog.take_outdated(leads_in) {
            self.dropped(id, Dropped::Refused);
        }
        let len = if self.node.leader() != 0 { self.backlog.batch_len() } else { 0 };
        if len > 0 {
            let refused = self.node.propose(self.backlog.data(len)).is_err();
            for id in self.backlog.take(len) {
                if refused {
                    self.metrics.proposals_failed.inc();
                    self.state_machine.dropped(id, Dropped::Refused);
                }
            }
        }
        self.shared.held.note(&self.backlog, &self.reads);
        len
    }

    /// Lets go of those who waited for a leader as long as anybody waits.
    fn give_up_waiting(&mut self, now: Instant) {
        self.reads.forget_gone();
        for id in self.backlog.take(self.backlog.overdue(now)).collect::<Vec<_>>() {
            self.dropped(id, Dropped::Refused);
        }
    }

    /// A leader that has not committed in its term would not answer, nor is there anybody to ask without one.
    fn reads_may_begin(&self) -> bool {
        if self.node.role() == StateRole::Leader { self.node.is_settled_leader() } else { self.node.leader() != 0 }
    }

    /// Carries out everything the node has to say.
    fn work(&mut self) -> Result<(), RaftError> {
        while let Some(ready) = self.node.ready() {
            self.carry_out(ready)?;
        }
        if self.leaves_at.is_some_and(|at| at <= self.clock.now()) {
            return Err(RaftError::Removed);
        }
        Ok(())
    }

    fn carry_out(&mut self, mut ready: Ready) -> Result<(), RaftError> {
        self.observe_leadership();
        reach(Point::RaftSendFirst);
        self.send(std::mem::take(&mut ready.send))?;
        reach(Point::RaftPersist);
        self.persist(&ready)?;
        reach(Point::RaftPersisted);
        let snapshot = ready.snapshot.take();
        let persisted = self.node.persisted(ready);
        self.commit_unwritten |= persisted.commit.is_some();
        if let Some(snapshot) = snapshot {
            self.restore(&snapshot)?;
        }
        self.shared.commit.store(self.node.commit(), Ordering::Release);
        self.metrics.proposals_committed.set(self.node.commit() as i64);
        reach(Point::RaftSendLast);
        self.send(persisted.send)?;
        reach(Point::RaftSent);
        for (context, index) in persisted.reads {
            self.reads.confirm(context, index);
        }
        self.apply(persisted.apply)?;
        self.observe_leadership();
        self.reads.answer(self.node.applied_mark().0);
        self.publish();
        Ok(())
    }

    fn persist(&mut self, ready: &Ready) -> Result<(), RaftError> {
        if let Some(snapshot) = &ready.snapshot {
            // The file first: a mark in the log without it would stop an older member.
            self.snapshots.save(snapshot)?;
            reach(Point::RaftPersistSnapshot);
            let metadata = snapshot.metadata.clone().unwrap_or_default();
            let written = self.wal.save_snapshot(&mark(&metadata))?;
            self.observe_write(written);
        }
        let sync = ready.sync && !self.config.unsafe_no_fsync;
        if !ready.sync && ready.entries.is_empty() {
            self.commit_unwritten |= ready.hard_state.is_some();
            return Ok(());
        }
        let hard_state = ready.hard_state.or_else(|| self.commit_unwritten.then(|| self.node.hard_state()));
        self.append(hard_state, &ready.entries, sync)
    }

    /// Writes a commit index that no append has taken along, when there is nothing better to do. Losing it costs a
    /// restarted member nothing but asking for it again, hence no sync.
    fn write_commit(&mut self) -> Result<(), RaftError> {
        if self.commit_unwritten {
            reach(Point::RaftRest);
            self.append(Some(self.node.hard_state()), &[], false)?;
        }
        Ok(())
    }

    fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry], sync: bool) -> Result<(), RaftError> {
        let written = self.wal.append(hard_state.as_ref(), entries, sync)?;
        self.commit_unwritten &= hard_state.is_none();
        self.observe_write(written);
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) -> Result<(), RaftError> {
        if messages.is_empty() {
            return Ok(());
        }
        let (snapshots, rest): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| message.r#type() == MessageType::MsgSnap);
        self.transport.send(rest);
        for mut message in snapshots {
            // What the message says must be what the db holds, and that may have moved on since it was made.
            message.snapshot = Some(self.snapshot_of_now());
            reach(Point::RaftSnapshotSend);
            let db = self.state_machine.snapshot().map_err(RaftError::Apply)?;
            self.sending_to.insert(message.to());
            self.transport.send_snapshot(message, db);
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), RaftError> {
        let is_conf_change = |entry: &Entry| entry.r#type == Some(EntryType::EntryConfChange as i32);
        for run in entries.chunk_by(|a, b| !is_conf_change(a) && !is_conf_change(b)) {
            let (first, last) = (&run[0], &run[run.len() - 1]);
            reach(Point::RaftApply);
            match first.r#type() {
                EntryType::EntryConfChange => self.apply_conf_change(first)?,
                EntryType::EntryNormal => self.state_machine.apply(run).map_err(RaftError::Apply)?,
                EntryType::EntryConfChangeV2 => {
                    let what = format!("no entry is a joint conf change, but {} is", first.index());
                    return Err(RaftError::Invariant(what));
                }
            }
            self.node.applied(last.index());
            reach(Point::RaftApplied);
            self.shared.applied.store(last.index(), Ordering::Release);
            self.reads.answer(last.index());
        }
        // Whoever is being sent a db needs what comes after it.
        let keep = if self.sending_to.is_empty() { self.config.snapshot_catchup_entries } else { u64::MAX };
        self.node.compact(keep, CATCHUP_BYTES_MAX);
        Ok(())
    }

    fn apply_conf_change(&mut self, entry: &Entry) -> Result<(), RaftError> {
        let data = entry.data.clone().unwrap_or_default();
        let change = ConfChange::decode(data)
            .map_err(|error| RaftError::Invariant(format!("the conf change at {} parses: {error}", entry.index())))?;
        // Whatever the change, from here on this member alone may not be able to vouch for a read.
        self.shared.sole_read_index.store(0, Ordering::Release);
        reach(Point::RaftConfChange);
        let accepted = self.state_machine.accepts(&change);
        if accepted && change.r#type() != ConfChangeType::ConfChangeUpdateNode {
            self.node.apply_conf_change(&change)?;
        }
        reach(Point::RaftConfChanged);
        let conf_state = self.node.conf_state();
        self.state_machine.apply_conf_change(entry, &change, accepted, &conf_state).map_err(RaftError::Apply)?;
        self.transport.set_members(&self.state_machine.membership());
        let removes_self =
            change.r#type() == ConfChangeType::ConfChangeRemoveNode && change.node_id() == self.node.id();
        if accepted && removes_self {
            self.leaves_at = Some(self.clock.now() + self.config.tick * self.config.election_ticks as u32);
        }
        Ok(())
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), RaftError> {
        reach(Point::RaftRestore);
        self.state_machine.restore(snapshot).map_err(RaftError::Apply)?;
        reach(Point::RaftRestored);
        self.transport.set_members(&self.state_machine.membership());
        let index = snapshot.metadata.as_ref().map_or(0, SnapshotMetadata::index);
        self.snapshot_index = index;
        self.wal.release_to(index);
        self.shared.applied.store(index, Ordering::Release);
        self.reads.answer(index);
        Ok(())
    }

    /// Moves the making of a snapshot one step on, without waiting for anything.
    fn snapshot_step(&mut self) -> Result<(), RaftError> {
        match std::mem::replace(&mut self.snapshot, SnapshotWork::None) {
            SnapshotWork::None => {
                let (index, _) = self.node.applied_mark();
                if index - self.snapshot_index >= self.config.snapshot_count {
                    reach(Point::RaftSnapshot);
                    let snapshot = self.snapshot_of_now();
                    self.state_machine.flush();
                    self.snapshot_index = index;
                    self.snapshot = SnapshotWork::Flushing(snapshot);
                }
            }
            SnapshotWork::Flushing(snapshot) => {
                let metadata = snapshot.metadata.clone().unwrap_or_default();
                self.snapshot = if self.state_machine.durable_index() < metadata.index() {
                    SnapshotWork::Flushing(snapshot)
                } else {
                    reach(Point::RaftSnapshotDurable);
                    let file = self
                        .snapshots
                        .begin_save(snapshot, self.config.snapshots_max)
                        .map_err(|error| RaftError::Library(format!("cannot start a thread: {error}")))?;
                    SnapshotWork::Saving { metadata, file }
                };
            }
            SnapshotWork::Saving { metadata, file } if !file.is_finished() => {
                self.snapshot = SnapshotWork::Saving { metadata, file };
            }
            SnapshotWork::Saving { metadata, file } => {
                let took = file.join().map_err(|panic| RaftError::Panicked(panic_text(&*panic)))??;
                self.metrics.snapshot_save_seconds.observe(took.as_secs_f64());
                let written = self.wal.save_snapshot(&mark(&metadata))?;
                self.observe_write(written);
                self.wal.release_to(metadata.index());
                tracing::info!(index = metadata.index(), term = metadata.term(), "saved snapshot");
            }
        }
        Ok(())
    }

    /// A snapshot of everything that is applied, but for the db.
    fn snapshot_of_now(&self) -> Snapshot {
        let (index, term) = self.node.applied_mark();
        let conf_state = Some(self.node.conf_state());
        Snapshot {
            data: Some(self.state_machine.membership().to_snapshot_data().into()),
            metadata: Some(SnapshotMetadata { conf_state, index: Some(index), term: Some(term) }),
        }
    }

    /// Tells everybody who leads, if that changed.
    fn observe_leadership(&mut self) {
        let (term, leader) = (self.node.term(), self.node.leader());
        let leads = self.node.role() == StateRole::Leader;
        let now = Leadership { term, leader, is_settled: leads && self.node.applied_mark().1 == term };
        let before = std::mem::replace(&mut self.leadership, now);
        if now == before {
            return;
        }
        if (now.term, now.leader) != (before.term, before.leader) {
            // The round under way was lost with the old leader or the old term.
            self.reads.abandon_round();
        }
        if now.leader != 0 && now.leader != before.leader {
            self.metrics.leader_changes_seen.inc();
        }
        self.metrics.has_leader.set(i64::from(now.leader != 0));
        self.metrics.is_leader.set(i64::from(leads));
        if !leads {
            self.shared.sole_read_index.store(0, Ordering::Release);
        }
        self.state_machine.leader_changed(now);
        self.publish();
    }

    fn publish(&self) {
        let (node, shared) = (&self.node, &*self.shared);
        let role = match node.role() {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate => Role::Candidate,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Follower if node.is_learner() => Role::Learner,
            StateRole::Follower => Role::Follower,
        };
        let (applied, _) = node.applied_mark();
        shared.term.store(node.term(), Ordering::Release);
        shared.leader.store(node.leader(), Ordering::Release);
        shared.role.store(role as u8, Ordering::Release);
        shared.commit.store(node.commit(), Ordering::Release);
        shared.applied.store(applied, Ordering::Release);
        // What was acknowledged is applied: this thread does both in that order.
        let is_sole = node.is_only_voter() && node.is_settled_leader();
        shared.sole_read_index.store(if is_sole { applied } else { 0 }, Ordering::Release);
        self.metrics.proposals_applied.set(applied as i64);
        self.metrics.is_learner.set(i64::from(node.is_learner()));
    }

    fn observe_write(&self, written: Written) {
        self.metrics.wal_write_seconds.observe(written.write.as_secs_f64());
        self.metrics.wal_write_bytes.add(written.bytes as f64);
        if let Some(sync) = written.sync {
            self.metrics.wal_fsync_seconds.observe(sync.as_secs_f64());
        }
    }

    fn dropped(&mut self, proposal: u64, reason: Dropped) {
        self.metrics.proposals_failed.inc();
        self.state_machine.dropped(proposal, reason);
    }

    /// The end: nothing that still waits will be proposed. Readers find out by their channel.
    fn drop_all(&mut self, inbox: Inbox) {
        let changes = inbox.controls.into_iter().filter_map(|control| match control {
            Control::ConfChange(change) => Some(change.id()),
            _ => None,
        });
        let late = inbox.proposals.into_iter().map(|proposal| proposal.id);
        let ids: Vec<_> = self.backlog.take(self.backlog.len()).chain(late).chain(changes).collect();
        for id in ids {
            self.dropped(id, Dropped::Stopped);
        }
    }
}

/// The record that lets the log be read from a snapshot on.
fn mark(metadata: &SnapshotMetadata) -> walpb::Snapshot {
    walpb::Snapshot { index: metadata.index, term: metadata.term, conf_state: metadata.conf_state.clone() }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
