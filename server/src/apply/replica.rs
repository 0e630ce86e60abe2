//! Between the raft thread and the state machine: decodes entries, and tells everybody what they
//! did, in the order that keeps promises.

use std::{io::Read, sync::Arc, time::Instant};

use forebay_keyspace::watch::Hub;
use forebay_proto::{
    Error,
    raftpb::{ConfChange, ConfState, Entry, Snapshot},
};
use forebay_storage::{
    failpoint::{Point, reach},
    snap::Membership,
};
use parking_lot::Mutex;

use super::{Applied, Machine, Outcome, describe, entry};
use crate::{
    backend::Backend,
    clock::Clock,
    lease::Lessor,
    membership::{self, Change},
    metrics::{ApplyMetrics, Kind},
    peer::Prepared,
    proposals::Waiters,
    quotas::Quotas,
    raft::{self, BoxError, Dropped, Leadership, SnapshotData, StateMachine},
};

/// The state machine as raft sees it.
pub struct Replica {
    /// What the entries change.
    pub machine: Machine,
    /// Where it goes.
    pub backend: Arc<Backend>,
    /// Who watches it.
    pub hub: Hub,
    /// Who waits for it.
    pub waiters: Arc<Waiters<Applied>>,
    /// What is on its way under quotas.
    pub quotas: Arc<Quotas>,
    /// Promoted and demoted as leadership comes and goes.
    pub lessor: Arc<Mutex<Lessor>>,
    /// Added to every lease when this member becomes leader.
    pub lease_extension: std::time::Duration,
    /// Where it is counted.
    pub metrics: ApplyMetrics,
    /// Entries are logged that take longer.
    pub warning_apply_duration: std::time::Duration,
    /// Learners that the cluster may have at once.
    pub max_learners: usize,
    /// When leases begin to run.
    pub clock: Clock,
    /// A snapshot that was received and waits to be installed.
    pub prepared: Arc<Mutex<Option<Prepared>>>,
    /// How far the db file was when it was opened.
    pub restored: raft::Applied,
}

impl Replica {
    /// Tells everybody: readers first, then the file, watchers, and those who wait. Whoever is
    /// answered finds what it was told about.
    fn finish(&mut self, entry: &Entry, outcomes: Vec<(u64, Applied)>, began: Instant) {
        reach(Point::ApplyPublish);
        let batch = self.machine.publish(&self.backend, entry.index(), entry.term());
        reach(Point::ApplyPublished);
        if let Some(batch) = batch {
            self.hub.publish(&batch);
        }
        reach(Point::ApplyWatched);
        self.quotas.done(outcomes.iter().map(|(id, _)| *id));
        self.waiters.complete(outcomes.into_iter(), began);
        reach(Point::ApplyAnswered);
    }
}

impl StateMachine for Replica {
    fn applied(&self) -> raft::Applied {
        self.restored.clone()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), BoxError> {
        let Some(last) = entries.last() else { return Ok(()) };
        // The end of one entry is the beginning of the next.
        let began = self.clock.now();
        let mut now = began;
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(data) = entry.data.as_ref().filter(|data| !data.is_empty()) else { continue };
            let refused = |why: &dyn std::fmt::Display| format!("entry {} cannot be applied: {why}", entry.index());
            let request = entry::read(data.clone()).map_err(|error| refused(&error))?;
            let id = request.header.as_ref().map_or(request.id, |header| header.id);
            reach(Point::ApplyEntry);
            let applied = self.machine.apply(&request, entry.index(), now);
            let outcome = applied.ok_or_else(|| refused(&"this version does not carry out requests of its kind"))?;
            let took = self.clock.now() - now;
            now += took;
            self.metrics.seconds.observe(Kind::applied(&request), outcome.is_ok(), took);
            if took > self.warning_apply_duration {
                self.metrics.slow.inc();
                tracing::warn!(
                    ?took,
                    "expected-duration" = ?self.warning_apply_duration,
                    prefix = "",
                    request = %describe::Entry(&request),
                    error = outcome.as_ref().err().map(tracing::field::display),
                    "apply request took too long"
                );
            }
            outcomes.push((id, outcome));
        }
        self.finish(last, outcomes, began);
        Ok(())
    }

    fn accepts(&self, change: &ConfChange) -> bool {
        membership::decide(self.machine.membership(), change, self.max_learners).is_ok()
    }

    fn apply_conf_change(
        &mut self,
        entry: &Entry,
        change: &ConfChange,
        accepted: bool,
        conf_state: &ConfState,
    ) -> Result<(), BoxError> {
        reach(Point::ApplyMembership);
        let began = self.clock.now();
        let decided = membership::decide(self.machine.membership(), change, self.max_learners);
        let outcome = match decided {
            Ok(Change::Nothing) => Ok(Outcome::Done),
            Ok(decided) if accepted => {
                self.machine.change_membership(decided);
                Ok(Outcome::Done)
            }
            Ok(_) => Err(Error::MemberNotFound),
            Err(error) => Err(error),
        };
        self.machine.set_conf_state(conf_state);
        self.finish(entry, vec![(change.id(), outcome)], began);
        Ok(())
    }

    fn dropped(&mut self, proposal: u64, reason: Dropped) {
        let error = match reason {
            Dropped::Refused => Error::LeaderChanged,
            Dropped::Stopped => Error::Stopped,
        };
        self.quotas.done(std::iter::once(proposal));
        self.waiters.refuse(proposal, Err(error));
    }

    fn leader_changed(&mut self, leadership: Leadership) {
        let mut lessor = self.lessor.lock();
        match leadership.is_settled {
            true if lessor.primary_term() == Some(leadership.term) => {}
            true => lessor.promote(leadership.term, self.clock.now(), self.lease_extension),
            false => {
                lessor.demote();
                self.quotas.step_down();
            }
        }
    }

    fn flush(&mut self) {
        self.backend.begin_flush();
    }

    fn durable_index(&self) -> u64 {
        self.backend.durable_index()
    }

    fn membership(&self) -> Membership {
        self.machine.membership().clone()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotData>, BoxError> {
        let (size, db) = self.backend.snapshot()?;
        Ok(Box::new(Db { size, db }))
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let (index, term) = (metadata.index(), metadata.term());
        let prepared = self.prepared.lock().take().filter(|prepared| prepared.index == index);
        let Some(Prepared { replacement, state, .. }) = prepared else {
            return Err(format!("invariant: the db of an accepted snapshot is there (entry {index})").into());
        };
        let backend = &self.backend;
        self.machine.restore(state, || backend.replace(replacement, index, term))?;
        // Watchers go on from where they are, in the new history.
        self.hub.resync();
        Ok(())
    }
}

/// The db file on its way to a follower.
struct Db<R> {
    size: u64,
    db: R,
}

impl<R: Read> Read for Db<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.db.read(buffer)
    }
}

impl<R: Read + Send> SnapshotData for Db<R> {
    fn len(&self) -> u64 {
        self.size
    }
}
