//! Compaction: what nobody may read any more goes, in small steps.
//!
//! A compaction at revision R keeps of each key the newest version at or below R, unless that is a tombstone older than
//! R. (A tombstone exactly at R stays until the next compaction; etcd keeps it since 3.5.16, so that a watch from R sees
//! the deletion.) In a keyspace compacted at C before, all that goes is named by the history between:
//!
//! ```text
//! revision     C              R
//!              d   p1  p2  d2 d3
//!              |   |   |   |  '-- a tombstone at R: stays
//!              |   |   |   '----- deletes p2: p2 goes, and the tombstone
//!              |   |   '--------- replaces p1: p1 goes
//!              |   '------------- replaces what was kept at C: that goes
//!              '----------------- a tombstone at C: goes now
//! ```
//!
//! So a compaction costs what it removes, however many keys there are, and each version that goes is the oldest that its
//! key has.

use std::sync::Arc;

use forebay_proto::Error;

use crate::{
    hash::HashJob,
    record::{Change, Revision, Version},
    store::Keyspace,
    tree::Tree,
};

/// A compaction that was accepted.
#[derive(Debug)]
pub(crate) struct Compaction {
    /// The compaction before it.
    from: i64,
    revision: i64,
    /// The next change of the history to look at.
    cursor: Revision,
    /// A second holder of this is a hash that needs what is to be removed.
    held: Arc<()>,
}

/// What one step of a compaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactStep {
    /// Nothing is to be done.
    Idle,
    /// Not now: the compaction is not published, or its [`HashJob`] has not run. Call again after that.
    Waiting,
    /// These entries of bucket `key` went, ascending; the flag marks tombstones. Call again.
    Removed(Vec<(Revision, bool)>),
    /// These went too, and with that the compaction at this revision is finished.
    Finished(i64, Vec<(Revision, bool)>),
}

impl Keyspace {
    /// Accepts a compaction: from the next publish on, older revisions are answered as compacted. The removal is up to
    /// [`Keyspace::compact_step`].
    ///
    /// The job, if there is one, computes the hash of what is compacted. It may run on any thread, and removal waits for
    /// it; drop it to do without. There is none while an earlier compaction is unfinished, as etcd has it then.
    pub fn compact(&mut self, revision: i64) -> Result<Option<HashJob>, Error> {
        let is_first = self.compactions.is_empty();
        let from = self.compacted;
        let held = self.accept(revision)?;
        Ok(is_first.then(|| HashJob::new(self.published(), from, revision, self.shared.clone(), held)))
    }

    /// Accepts a compaction again that a restart interrupted. It has no job: some of what it would hash may be gone.
    pub fn resume_compaction(&mut self, revision: i64) -> Result<(), Error> {
        self.accept(revision).map(drop)
    }

    fn accept(&mut self, revision: i64) -> Result<Arc<()>, Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRev);
        }
        let from = std::mem::replace(&mut self.compacted, revision);
        let (cursor, held) = (Revision { main: from, sub: 0 }, Arc::new(()));
        self.compactions.push_back(Compaction { from, revision, cursor, held: held.clone() });
        Ok(held)
    }

    /// Goes on with compactions: looks at `limit` changes of the history, one at least, and removes what they made
    /// garbage, at most twice as many versions. The caller removes the same from its db file.
    pub fn compact_step(&mut self, limit: usize) -> CompactStep {
        self.compact_step_showing(limit, &mut |_| {})
    }

    /// As [`Keyspace::compact_step`], and shows every version of a key that goes.
    pub fn compact_step_showing(&mut self, limit: usize, show: &mut dyn FnMut(&Version)) -> CompactStep {
        let limit = limit.max(1);
        let is_published = self.is_published();
        let Some(compaction) = self.compactions.front_mut() else { return CompactStep::Idle };
        if !is_published || Arc::strong_count(&compaction.held) > 1 {
            return CompactStep::Waiting;
        }
        if !self.leftovers.is_empty() {
            let leftovers = self.leftovers.drain(..limit.min(self.leftovers.len()));
            let mut removed: Vec<_> = leftovers
                .map(|version| {
                    show(&version);
                    remove(&mut self.tree, &version)
                })
                .collect();
            removed.sort_unstable();
            return CompactStep::Removed(removed);
        }
        let Compaction { from, revision, cursor, .. } = *compaction;
        // One change more than the limit, if there is one, tells that this is not the end.
        let mut collected = 0;
        let batches = self.shared.batches(cursor.main, |batch| {
            let goes_on = collected <= limit && batch.first() <= revision;
            collected += batch.changes.iter().filter(|change| change.version.revision() >= cursor).count();
            goes_on
        });
        let changes =
            batches.iter().flat_map(|batch| &batch.changes).filter(|change| change.version.revision() >= cursor);
        let mut changes = changes.take_while(|change| change.version.mod_revision() <= revision);
        let mut removed = Vec::new();
        for change in changes.by_ref().take(limit) {
            for version in garbage(change, from, revision) {
                show(version);
                removed.push(remove(&mut self.tree, version));
            }
        }
        if let Some(next) = changes.next() {
            compaction.cursor = next.version.revision();
            removed.sort_unstable();
            return CompactStep::Removed(removed);
        }
        self.compactions.pop_front();
        let outdated = self.placeholders.partition_point(|placeholder| placeholder.main <= revision).saturating_sub(1);
        removed.extend(self.placeholders[..outdated].iter().map(|placeholder| (*placeholder, false)));
        self.placeholders = self.placeholders[outdated..].into();
        self.shared.forget_below(revision);
        removed.sort_unstable();
        CompactStep::Finished(revision, removed)
    }

    /// The compactions that are not finished, oldest first.
    pub fn compacting(&self) -> impl Iterator<Item = i64> {
        self.compactions.iter().map(|compaction| compaction.revision)
    }
}

fn remove(tree: &mut Tree, version: &Version) -> (Revision, bool) {
    let taken = tree.take(version.key(), version.revision());
    assert!(taken, "what is removed is a version that its key has: {version:?}");
    (version.revision(), version.is_tombstone())
}

/// What a change made garbage for a compaction at `revision` after one at `from`.
fn garbage(change: &Change, from: i64, revision: i64) -> impl Iterator<Item = &Version> {
    let at = change.version.revision();
    // What the change at `from` or below replaced went with the compaction before.
    let replaced = change.prev.as_ref().filter(|_| at.main > from);
    let tombstone = (change.version.is_tombstone() && at.main < revision).then_some(&change.version);
    replaced.into_iter().chain(tombstone)
}
