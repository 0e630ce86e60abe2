//! From files to a running raft thread.
//!
//! Two steps, because between them the db file is opened, and which one depends on what the log says:
//! [`Opened::open`] reads the log, or bootstraps it; [`Opened::start`] brings it together with the state machine.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use forebay_proto::{
    etcdserverpb::Metadata,
    raftpb::{ConfChange, ConfChangeType, ConfState, Entry, HardState},
};
use forebay_storage::{
    disk::{Disk, create_dir_all_durably},
    snap::{MemberRecord, Snapshots, member_json},
    wal::{self, Recovered, Wal},
};
use prost::Message as _;

use crate::clock::Clock;

use super::{
    Applied, Leadership, RaftConfig, RaftError, RaftMetrics, RaftThread, StateMachine, Transport,
    backlog::Backlog,
    crowd::Crowd,
    driver::{Driver, SnapshotWork, spawn},
    handle::{RaftHandle, Shared},
    log::Log,
    node::{Node, NodeConfig},
    reads::Reads,
    translate::{conf_change_entry, conf_state_to_library, entry_to_library, hard_state_to_library},
};

/// How a member that has no log begins.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub member_id: u64,
    pub cluster_id: u64,
    /// All members of a new cluster, this one included. Empty when joining: the leader tells.
    pub members: Vec<MemberRecord>,
}

/// What a start depends on beside the files.
#[derive(Debug, Clone)]
pub(crate) struct Circumstances {
    pub(crate) clock: Clock,
    /// Decides the election timeouts.
    pub(crate) seed: u64,
    /// When it is. No two starts of a member have the same.
    pub(crate) since_1970: Duration,
}

impl Circumstances {
    fn real() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { clock: Clock::System, seed: rand::random(), since_1970 }
    }
}

/// A log that was read and is ready to go on.
#[derive(Debug)]
pub struct Opened {
    config: RaftConfig,
    wal: Wal,
    recovered: Recovered,
    snapshots: Snapshots,
    metadata: Metadata,
    shared: Arc<Shared>,
}

impl Opened {
    /// Reads the log of `config.wal_dir`; if there is none, creates it as `bootstrap` says.
    ///
    /// `bootstrap` is ignored by a member that has a log, but for one that crashed before its first entries were
    /// written: they are written now.
    pub fn open(config: RaftConfig, disk: Arc<dyn Disk>, bootstrap: Option<&Bootstrap>) -> Result<Self, RaftError> {
        let snapshots = Snapshots::open(disk.clone(), &config.snap_dir)?;
        let (wal, recovered) = if wal::exists(&*disk, &config.wal_dir)? {
            Wal::open(disk, &config.wal_dir, config.wal, None)?
        } else {
            let bootstrap = bootstrap.ok_or_else(|| RaftError::Invariant("a new log has a beginning".into()))?;
            if let Some(parent) = config.wal_dir.parent() {
                create_dir_all_durably(&*disk, parent)
                    .map_err(|error| RaftError::Library(format!("cannot create {}: {error}", parent.display())))?;
            }
            let metadata = Metadata { node_id: Some(bootstrap.member_id), cluster_id: Some(bootstrap.cluster_id) };
            drop(Wal::create(disk.clone(), &config.wal_dir, config.wal, metadata.encode_to_vec().into())?);
            Wal::open(disk, &config.wal_dir, config.wal, None)?
        };
        let metadata = Metadata::decode(recovered.metadata.clone())
            .map_err(|error| RaftError::Invariant(format!("the metadata of the WAL parses: {error}")))?;
        if metadata.node_id() == 0 {
            return Err(RaftError::Invariant("the WAL names its member".into()));
        }
        let shared = Arc::new(Shared::new(metadata.node_id()));
        let mut opened = Self { config, wal, recovered, snapshots, metadata, shared };
        let (member_id, cluster_id) = (opened.member_id(), opened.cluster_id());
        let is_ours = |plan: &&Bootstrap| (plan.member_id, plan.cluster_id) == (member_id, cluster_id);
        if let Some(bootstrap) = bootstrap.filter(is_ours) {
            opened.bootstrap(bootstrap)?;
        }
        Ok(opened)
    }

    /// Talks to the thread that will be started; what is said before waits for it.
    pub fn handle(&self) -> RaftHandle {
        RaftHandle::new(self.shared.clone())
    }

    /// The id of the member this log belongs to.
    pub fn member_id(&self) -> u64 {
        self.metadata.node_id()
    }

    /// The id of its cluster.
    pub fn cluster_id(&self) -> u64 {
        self.metadata.cluster_id()
    }

    /// Index of the snapshot the log begins with. A db file below it must be replaced by `<index>.snap.db` before
    /// [`Opened::start`].
    pub fn snapshot_index(&self) -> u64 {
        self.recovered.snapshot.index()
    }

    /// Writes the first entries of a new cluster: one per member, committed as they stand, equal on all members.
    fn bootstrap(&mut self, bootstrap: &Bootstrap) -> Result<(), RaftError> {
        let recovered = &self.recovered;
        let is_blank = recovered.snapshot.index() == 0
            && recovered.entries.is_empty()
            && recovered.hard_state == HardState::default();
        if !is_blank || bootstrap.members.is_empty() {
            return Ok(());
        }
        let entries = wal::first_entries(&bootstrap.members);
        let commit = entries.len() as u64;
        let hard_state = HardState { term: Some(1), vote: Some(0), commit: Some(commit) };
        self.wal.append(Some(&hard_state), &entries, !self.config.unsafe_no_fsync)?;
        self.recovered.entries = entries;
        self.recovered.hard_state = hard_state;
        Ok(())
    }

    /// Makes a cluster of this member alone: what is not known to be committed is dropped, and all others are removed.
    /// `applied` is how far the db is; `own` is what this member is added as, should it be no member.
    pub fn force_new_cluster(&mut self, applied: u64, own: &MemberRecord) -> Result<(), RaftError> {
        let id = self.member_id();
        let recovered = &mut self.recovered;
        let commit = recovered.hard_state.commit().max(applied);
        recovered.entries.retain(|entry| entry.index() <= commit);
        let conf_state = configuration(&Applied { index: commit, conf_state: None }, recovered)?;
        let change = |kind: ConfChangeType, node_id: u64, context: Option<String>| ConfChange {
            id: None,
            r#type: Some(kind as i32),
            node_id: Some(node_id),
            context: context.map(Bytes::from),
        };
        let others = conf_state.voters.iter().chain(&conf_state.learners).filter(|member| **member != id);
        let mut changes: Vec<_> =
            others.map(|other| change(ConfChangeType::ConfChangeRemoveNode, *other, None)).collect();
        if !conf_state.voters.contains(&id) {
            let json = member_json(&MemberRecord { id, ..own.clone() });
            let context = match conf_state.learners.contains(&id) {
                true => format!("{},\"isPromote\":true}}", json.trim_end_matches('}')),
                false => json,
            };
            // First, so that there is a voter at all times.
            changes.insert(0, change(ConfChangeType::ConfChangeAddNode, id, Some(context)));
        }
        let term = recovered.hard_state.term();
        let entries: Vec<Entry> = (commit + 1..)
            .zip(&changes)
            .map(|(index, change)| Entry { term: Some(term), index: Some(index), ..conf_change_entry(change) })
            .collect();
        let hard_state = HardState { commit: Some(commit + entries.len() as u64), ..recovered.hard_state };
        self.wal.append(Some(&hard_state), &entries, !self.config.unsafe_no_fsync)?;
        recovered.entries.extend(entries);
        recovered.hard_state = hard_state;
        Ok(())
    }

    /// Starts the raft thread. Entries that the state machine does not have yet are applied by it.
    pub fn start<S: StateMachine, T: Transport>(
        self,
        state_machine: S,
        transport: T,
        metrics: RaftMetrics,
    ) -> Result<RaftThread<S>, RaftError> {
        spawn(self.into_driver(state_machine, transport, metrics, Circumstances::real())?)
    }

    /// Brings log, state machine and transport together.
    pub(crate) fn into_driver<S: StateMachine, T: Transport>(
        self,
        state_machine: S,
        transport: T,
        metrics: RaftMetrics,
        circumstances: Circumstances,
    ) -> Result<Driver<S, T>, RaftError> {
        let Circumstances { clock, seed, since_1970 } = circumstances;
        let applied = state_machine.applied();
        let id = self.member_id();
        let snapshot = &self.recovered.snapshot;
        let snapshot_index = snapshot.index();
        let last = snapshot_index + self.recovered.entries.len() as u64;
        if applied.index < snapshot_index || last < applied.index {
            return Err(RaftError::Invariant(format!(
                "the db is at an index the WAL knows (db {}, WAL {snapshot_index} to {last})",
                applied.index
            )));
        }
        let conf_state = configuration(&applied, &self.recovered)?;
        // What is applied is committed, even if the log was not told before the crash.
        let mut hard_state = hard_state_to_library(&self.recovered.hard_state);
        hard_state.commit = hard_state.commit.max(applied.index);
        let mut entries = Vec::with_capacity(self.recovered.entries.len());
        for entry in self.recovered.entries {
            let index = entry.index();
            entries.push(entry_to_library(entry).map_err(|unknown| {
                RaftError::Invariant(format!("every entry is of a known kind, but {index} is {unknown}"))
            })?);
        }
        let conf_state = conf_state_to_library(&conf_state)
            .map_err(|unknown| RaftError::Invariant(format!("the configuration is not {unknown}")))?;
        let mut log = Log::new((snapshot_index, snapshot.term()), entries, hard_state, conf_state);
        log.set_applied(applied.index);
        let node_config =
            NodeConfig { id, election_ticks: self.config.election_ticks, pre_vote: self.config.pre_vote, seed };
        let node = Node::new(node_config, log, applied.index)?;
        // etcd's request timeout.
        let waits_max = Duration::from_secs(5) + 2 * self.config.tick * self.config.election_ticks as u32;
        Ok(Driver {
            next_tick: clock.now(),
            clock,
            config: self.config,
            node,
            wal: self.wal,
            snapshots: self.snapshots,
            state_machine,
            transport,
            metrics,
            shared: self.shared,
            reads: Reads::new(first_context(id, since_1970)),
            backlog: Backlog::new(waits_max),
            crowd: Crowd::default(),
            gathering: None,
            commit_unwritten: false,
            leadership: Leadership::default(),
            snapshot: SnapshotWork::None,
            snapshot_index,
            leaves_at: None,
            sending_to: BTreeSet::new(),
            snapshots_done: Vec::new(),
        })
    }
}

/// The configuration as of the applied index: from the db if it knows, else from the log.
fn configuration(applied: &Applied, recovered: &Recovered) -> Result<ConfState, RaftError> {
    if let Some(conf_state) = &applied.conf_state {
        return Ok(conf_state.clone());
    }
    let mut conf_state = recovered.snapshot.conf_state.clone().unwrap_or_default();
    let is_change = |entry: &&Entry| entry.r#type == Some(1) && entry.index() <= applied.index;
    for entry in recovered.entries.iter().filter(is_change) {
        let change = ConfChange::decode(entry.data.clone().unwrap_or_default())
            .map_err(|error| RaftError::Invariant(format!("the conf change at {} parses: {error}", entry.index())))?;
        let id = change.node_id();
        if change.r#type() != ConfChangeType::ConfChangeUpdateNode {
            conf_state.voters.retain(|voter| *voter != id);
            conf_state.learners.retain(|learner| *learner != id);
        }
        match change.r#type() {
            ConfChangeType::ConfChangeAddNode => conf_state.voters.push(id),
            ConfChangeType::ConfChangeAddLearnerNode => conf_state.learners.push(id),
            ConfChangeType::ConfChangeRemoveNode | ConfChangeType::ConfChangeUpdateNode => {}
        }
    }
    Ok(conf_state)
}

/// Contexts of read rounds travel to the leader, which tells them apart by value: 16 bits of the member, 40 of the
/// start time, 8 to count, overflowing upward.
fn first_context(id: u64, since_1970: Duration) -> u64 {
    id << 48 | (since_1970.as_millis() as u64 & 0xff_ffff_ffff) << 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_db_without_a_configuration_gets_it_from_the_log() {
        let change = |index, kind: ConfChangeType, id| {
            let change = ConfChange { r#type: Some(kind as i32), node_id: Some(id), ..ConfChange::default() };
            Entry { term: Some(1), index: Some(index), ..conf_change_entry(&change) }
        };
        let recovered = Recovered {
            metadata: Bytes::new(),
            hard_state: HardState::default(),
            snapshot: Default::default(),
            entries: vec![
                change(1, ConfChangeType::ConfChangeAddNode, 1),
                change(2, ConfChangeType::ConfChangeAddLearnerNode, 2),
                change(3, ConfChangeType::ConfChangeUpdateNode, 1),
                change(4, ConfChangeType::ConfChangeAddNode, 2),
                change(5, ConfChangeType::ConfChangeRemoveNode, 1),
            ],
            repair: None,
        };
        let at = |index| {
            let conf_state = configuration(&Applied { index, conf_state: None }, &recovered).unwrap();
            (conf_state.voters, conf_state.learners)
        };
        assert_eq!(at(0), (vec![], vec![]));
        assert_eq!(at(3), (vec![1], vec![2]));
        assert_eq!(at(4), (vec![1, 2], vec![]));
        assert_eq!(at(5), (vec![2], vec![]));
    }
}
