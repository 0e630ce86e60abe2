//! One member's raft, as a pure step: messages and ticks go in, values come out.
//!
//! The caller's loop is
//!
//! ```text
//! inputs…  →  ready()  →  send, persist  →  persisted(ready)  →  send, apply  →  applied()  →  ready() again
//! ```
//!
//! until `ready` says `None`. There is no clock (a tick is an input), no file and no randomness but the seed, so a
//! whole cluster runs in one test. Messages from other members are checked before the library sees them: it trusts
//! them, and ends the process over what a member of its own kind would never send.

use bytes::Bytes;
use forebay_proto::raftpb;
use raft::{
    Config, RawNode, SnapshotStatus, StateRole,
    eraftpb::{Entry, Message, MessageType},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{
    Progress, RaftError,
    log::Log,
    logger::logger,
    translate::{
        self, conf_change_to_library, entry_from_library, entry_to_library, hard_state_from_library,
        message_from_library, message_to_library, snapshot_from_library,
    },
};

/// The raft timing and identity of one member.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeConfig {
    pub(super) id: u64,
    pub(super) election_ticks: usize,
    pub(super) pre_vote: bool,
    /// Decides the election timeouts. Members need different ones.
    pub(super) seed: u64,
}

/// What is to be done before anything else is asked of the node.
#[derive(Debug)]
pub(super) struct Ready {
    /// To be sent at once, even before persisting: a leader's, which do not count its own copy.
    pub(super) send: Vec<raftpb::Message>,
    /// Replaces log and state machine; to be persisted before the rest.
    pub(super) snapshot: Option<raftpb::Snapshot>,
    pub(super) hard_state: Option<raftpb::HardState>,
    pub(super) entries: Vec<raftpb::Entry>,
    /// Whether the hard state and entries must be durable, not only written, before [`Node::persisted`].
    pub(super) sync: bool,
    inner: raft::Ready,
}

/// What may be done once a [`Ready`] is persisted.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Persisted {
    pub(super) send: Vec<raftpb::Message>,
    /// To be applied in order; then [`Node::applied`].
    pub(super) apply: Vec<raftpb::Entry>,
    /// The commit index if it moved. It is to be written with the next append, without a sync of its own.
    pub(super) commit: Option<u64>,
    /// Confirmed reads: the context they were asked with, and the index to have applied before answering.
    pub(super) reads: Vec<(u64, u64)>,
}

/// Why an input was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    /// There is no leader, or it takes no proposals now.
    #[error("proposal dropped")]
    ProposalDropped,
    /// A message no correct member sends, or one from a non-member.
    #[error("message rejected: {0}")]
    Message(String),
}

pub(super) struct Node {
    raw: RawNode<Log>,
    rng: SmallRng,
    /// What the election timeout was drawn for; the library draws a new one whenever this changes.
    drawn_for: (u64, StateRole, u64),
    timeout: usize,
    election_ticks: usize,
}

impl Node {
    /// A member that continues `log`; entries up to `applied` will not come out again.
    pub(super) fn new(config: NodeConfig, log: Log, applied: u64) -> Result<Self, RaftError> {
        /// As etcd: one message is at most this, and so many are under way to one follower.
        const MESSAGE_BYTES_MAX: u64 = 1 << 20;
        const MESSAGES_INFLIGHT_MAX: usize = 512;
        /// Bounds what is applied between two looks at the mailbox.
        const APPLY_BYTES_MAX: u64 = 16 << 20;
        let library = Config {
            id: config.id,
            election_tick: config.election_ticks,
            heartbeat_tick: 1,
            applied,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_INFLIGHT_MAX,
            max_committed_size_per_ready: APPLY_BYTES_MAX,
            check_quorum: true,
            pre_vote: config.pre_vote,
            ..Config::default()
        };
        let raw = RawNode::new(&library, log, &logger()).map_err(|error| RaftError::Library(error.to_string()))?;
        let mut node = Self {
            drawn_for: (u64::MAX, StateRole::Follower, 0),
            raw,
            rng: SmallRng::seed_from_u64(config.seed),
            timeout: 0,
            election_ticks: config.election_ticks,
        };
        node.redraw_timeout();
        Ok(node)
    }

    /// One heartbeat interval has passed.
    pub(super) fn tick(&mut self) {
        self.raw.tick();
        self.redraw_timeout();
    }

    /// Stands for election now. Does nothing while membership changes wait to be applied, or on the leader.
    pub(super) fn campaign(&mut self) {
        // The one error is a dropped proposal, and this is none.
        let _ = self.raw.campaign();
        self.redraw_timeout();
    }

    /// Appends all of `batch` to the log, in order, or hands it to the leader.
    pub(super) fn propose(&mut self, batch: impl IntoIterator<Item = Bytes>) -> Result<(), Rejected> {
        let entries = batch.into_iter().map(|data| Entry { data, ..Entry::default() });
        self.propose_entries(entries.collect())
    }

    /// Proposes a membership change. The leader turns it into an empty entry if another one is not yet applied.
    pub(super) fn propose_conf_change(&mut self, change: &raftpb::ConfChange) -> Result<(), Rejected> {
        let entry = entry_to_library(translate::conf_change_entry(change))
            .map_err(|unknown| Rejected::Message(unknown.to_string()))?;
        self.propose_entries(vec![entry])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(), Rejected> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        self.raw.step(message).map_err(|_| Rejected::ProposalDropped)
    }

    /// Asks for an index that is safe to read at; it comes out of [`Persisted::reads`] with the same context. It may
    /// never come: ask again with a fresh context.
    pub(super) fn read_index(&mut self, context: u64) {
        self.raw.read_index(context.to_be_bytes().to_vec());
    }

    /// Asks the leader, maybe this member, to hand over to `to`.
    pub(super) fn transfer_leader(&mut self, to: u64) {
        self.raw.transfer_leader(to);
        self.redraw_timeout();
    }

    /// Messages to a member are being lost.
    pub(super) fn unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
    }

    /// The process of a member has ended. If it led, nobody waits for it any longer than chance has it, so that not all
    /// stand for election at once. Should it lead on all the same, its next heartbeat undoes this; a pre-vote meanwhile
    /// fails at the others, whom it reaches, and without pre-votes nothing is risked.
    pub(super) fn gone(&mut self, id: u64) {
        let raft = &mut self.raw.raft;
        if raft.pre_vote && raft.state == StateRole::Follower && raft.leader_id == id {
            raft.election_elapsed = raft.election_elapsed.max(self.election_ticks);
        }
    }

    /// The snapshot to a member arrived, or did not.
    pub(super) fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
    }

    /// A message from another member.
    pub(super) fn step(&mut self, message: raftpb::Message) -> Result<(), Rejected> {
        let message = message_to_library(message).map_err(|unknown| Rejected::Message(unknown.to_string()))?;
        self.vet(&message).map_err(Rejected::Message)?;
        let is_proposal = message.msg_type == MessageType::MsgPropose;
        let result = self.raw.step(message);
        self.redraw_timeout();
        result.map_err(
            |error| {
                if is_proposal { Rejected::ProposalDropped } else { Rejected::Message(error.to_string()) }
            },
        )
    }

    /// Whether a message is one a correct member can send. Each line keeps the library from a panic or, worse, from
    /// believing it.
    fn vet(&self, message: &Message) -> Result<(), String> {
        use MessageType::*;
        /// Leaves room for all the counting that may follow.
        const COUNTER_MAX: u64 = 1 << 62;
        let raft = &self.raw.raft;
        let (kind, last) = (message.msg_type, raft.raft_log.last_index());
        let require = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{kind:?}: {what}")) };
        // What is passed on to a leader keeps its first sender, and leaders change; a transfer names the next leader.
        let is_passed_on = matches!(kind, MsgPropose | MsgReadIndex | MsgTransferLeader);
        let names_other = message.from != raft.id || is_passed_on;
        require(message.from != 0 && names_other, "it names no other member as its sender")?;
        let is_local = matches!(kind, MsgHup | MsgBeat | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum);
        require(!is_local, "it never travels")?;
        let may_lack_term = matches!(kind, MsgPropose | MsgReadIndex);
        require(may_lack_term == (message.term == 0), "its term")?;
        let largest = message.term.max(message.index).max(message.log_term).max(message.reject_hint);
        require(largest <= COUNTER_MAX, "a counter no log ever reaches")?;
        let is_stale = message.term < raft.term;
        match kind {
            MsgPropose => require(!message.entries.is_empty(), "no entries"),
            MsgReadIndex | MsgReadIndexResp => require(message.entries.len() == 1, "not one context"),
            // A follower would pass it on, and the library refuses to send a message twice.
            MsgTransferLeader => require(raft.state == StateRole::Leader, "this member does not lead"),
            MsgHeartbeat => require(is_stale || message.commit <= last, "a commit beyond this log"),
            MsgAppend => {
                require((message.log_term == 0) == (message.index == 0), "its predecessor")?;
                let follows = message.entries.iter().zip(1..).all(|(entry, n)| entry.index == message.index + n);
                require(follows, "entries with a gap")?;
                let terms_fit = message.entries.iter().all(|e| message.log_term <= e.term && e.term <= message.term);
                require(terms_fit, "terms of its entries")
            }
            MsgAppendResponse => {
                // A leader that has removed itself stays for a while, and the library looks for its own progress.
                let is_member = raft.state != StateRole::Leader || raft.prs().get(raft.id).is_some();
                require(is_member, "a member that was removed does not lead")?;
                // Answers to a leader that since lost its lead, or its unsynced entries, are of no account.
                let counts = !is_stale && !message.reject && raft.state == StateRole::Leader;
                require(!counts || message.index <= last, "an index beyond this log")
            }
            MsgSnapshot => {
                let metadata = message.get_snapshot().get_metadata();
                let term_fits = 0 < metadata.term && metadata.term <= message.term;
                require(0 < metadata.index && metadata.index <= COUNTER_MAX && term_fits, "its metadata")?;
                let conf_state = metadata.get_conf_state();
                let mut ids: Vec<_> = conf_state.voters.iter().chain(&conf_state.learners).collect();
                ids.sort_unstable();
                let distinct = ids.windows(2).all(|pair| pair[0] != pair[1]) && ids.first() != Some(&&0);
                require(!conf_state.voters.is_empty() && distinct, "its conf state")
            }
            _ => Ok(()),
        }
    }

    /// What is to be done now, if anything.
    pub(super) fn ready(&mut self) -> Option<Ready> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut inner = self.raw.ready();
        Some(Ready {
            send: inner.take_messages().iter().map(message_from_library).collect(),
            snapshot: (!inner.snapshot().is_empty()).then(|| snapshot_from_library(inner.snapshot())),
            hard_state: inner.hs().map(hard_state_from_library),
            entries: inner.entries().iter().map(entry_from_library).collect(),
            sync: inner.must_sync(),
            inner,
        })
    }

    /// Everything in `ready` is persisted, and its messages are on their way.
    pub(super) fn persisted(&mut self, mut ready: Ready) -> Persisted {
        let log = self.raw.mut_store();
        let restored = ready.inner.snapshot().get_metadata().index;
        if restored > 0 {
            log.restore(ready.inner.snapshot());
        }
        log.append(ready.inner.take_entries());
        let mut send = ready.inner.take_persisted_messages();
        let mut apply = ready.inner.take_committed_entries();
        let reads = ready.inner.take_read_states();
        let mut light = self.raw.advance_append(ready.inner);
        send.extend(light.take_messages());
        apply.extend(light.take_committed_entries());
        if restored > 0 {
            // A snapshot is applied as a whole; without being told, the library would look for its entries.
            self.raw.advance_apply_to(restored);
        }
        let context = |bytes: Vec<u8>| bytes.try_into().ok().map(u64::from_be_bytes);
        Persisted {
            send: send.iter().map(message_from_library).collect(),
            apply: apply.iter().map(entry_from_library).collect(),
            commit: light.commit_index(),
            reads: reads.into_iter().filter_map(|read| Some((context(read.request_ctx)?, read.index))).collect(),
        }
    }

    /// Puts an accepted membership change into effect; returns the configuration after it.
    ///
    /// An `UpdateNode` changes nothing here, nor does a change that was not accepted: do not call it for that.
    pub(super) fn apply_conf_change(&mut self, change: &raftpb::ConfChange) -> Result<raftpb::ConfState, RaftError> {
        let change = conf_change_to_library(change)
            .ok_or_else(|| RaftError::Invariant(format!("a committed conf change is of a known type: {change:?}")))?;
        let conf_state = self
            .raw
            .apply_conf_change(&change)
            .map_err(|error| RaftError::Invariant(format!("an accepted conf change can be applied: {error}")))?;
        self.raw.mut_store().set_conf_state(conf_state);
        Ok(self.conf_state())
    }

    /// Everything up to `index` is applied.
    pub(super) fn applied(&mut self, index: u64) {
        self.raw.mut_store().set_applied(index);
        self.raw.advance_apply_to(index);
    }

    /// Forgets applied entries beyond these limits: a follower that needs them gets a snapshot.
    pub(super) fn compact(&mut self, entries_max: u64, bytes_max: usize) {
        self.raw.mut_store().compact(entries_max, bytes_max);
    }

    pub(super) fn conf_state(&self) -> raftpb::ConfState {
        translate::conf_state_from_library(self.raw.store().conf_state())
    }

    /// Index and term of the last applied entry.
    pub(super) fn applied_mark(&self) -> (u64, u64) {
        self.raw.store().applied()
    }

    /// How far each member's log agrees with this one's, which only a leader knows.
    pub(super) fn progress(&self) -> Option<Progress> {
        let leads = self.role() == StateRole::Leader;
        leads.then(|| self.raw.raft.prs().iter().map(|(id, progress)| (*id, progress.matched)).collect())
    }

    pub(super) fn id(&self) -> u64 {
        self.raw.raft.id
    }

    pub(super) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The leader's id, or 0.
    pub(super) fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    pub(super) fn role(&self) -> StateRole {
        self.raw.raft.state
    }

    pub(super) fn is_learner(&self) -> bool {
        self.raw.raft.prs().conf().learners().contains(&self.raw.raft.id)
    }

    pub(super) fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub(super) fn hard_state(&self) -> raftpb::HardState {
        hard_state_from_library(&self.raw.raft.hard_state())
    }

    /// Whether this member is all there is to a quorum.
    pub(super) fn is_only_voter(&self) -> bool {
        let voters = &self.raw.store().conf_state().voters;
        voters.len() == 1 && voters[0] == self.raw.raft.id
    }

    /// Whether a leader may answer reads: an entry of its own term is committed.
    pub(super) fn is_settled_leader(&self) -> bool {
        self.role() == StateRole::Leader && self.raw.raft.commit_to_current_term()
    }

    /// Replaces the library's election timeout, which it draws by itself, by one from our seed.
    fn redraw_timeout(&mut self) {
        let raft = &self.raw.raft;
        let drawn_for = (raft.term, raft.state, raft.leader_id);
        if self.drawn_for != drawn_for {
            self.drawn_for = drawn_for;
            self.timeout = self.rng.random_range(self.election_ticks..2 * self.election_ticks);
        }
        if self.raw.raft.randomized_election_timeout() != self.timeout {
            self.raw.raft.set_randomized_election_timeout(self.timeout);
        }
    }
}
