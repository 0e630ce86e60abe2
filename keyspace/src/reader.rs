//! Reading what was published, while the writer goes on.
//!
//! A reader takes the newest view, which is one pointer, and reads it without waiting for anybody. Only compaction can
//! disturb it, by removing from leaves that the view shares. It announces itself first: the compacted revision is raised
//! before anything is removed. So whoever finds, after reading, that no revision it read at is compacted has read the
//! truth; else it begins anew with a fresh view, or answers that its revision is compacted.

use std::{
    cell::Cell,
    collections::VecDeque,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use arc_swap::ArcSwap;
use forebay_proto::{Error, KeyRange};
use parking_lot::Mutex;

use crate::{
    hash::RevisionHash,
    record::{Batch, Revision, Version},
    tree::{Direction, Tree},
    watch::History,
};

/// How many changes a count at a past revision undoes at most; the history is locked while they are collected.
const COUNT_BACK_MAX: usize = 1 << 16;

/// How many keys, and how many changes, are collected by key rather than from the history.
const NARROW_MAX: usize = 256;

/// Looking at a key costs as much as looking at this many revisions of the history.
const KEY_IN_REVISIONS: usize = 8;

/// One published state.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) tree: Tree,
    pub(crate) revision: i64,
    pub(crate) placeholders: Arc<[Revision]>,
}

/// What the writer and its readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    published: ArcSwap<Published>,
    compacted: AtomicI64,
    /// Every change at a revision above the last compaction, and some at or below it; ascending.
    history: Mutex<VecDeque<Arc<Batch>>>,
    /// Hashes computed during compactions; at most [`crate::hash::KEPT_MAX`], ascending by revision.
    pub(crate) hashes: Mutex<Vec<RevisionHash>>,
}

impl Shared {
    pub(crate) fn new(published: Published, compacted: i64, history: VecDeque<Arc<Batch>>) -> Shared {
        Shared {
            published: ArcSwap::from_pointee(published),
            compacted: AtomicI64::new(compacted),
            history: Mutex::new(history),
            hashes: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.published.load().revision
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::SeqCst)
    }

    pub(crate) fn set_compacted(&self, compacted: i64) {
        self.compacted.store(compacted, Ordering::SeqCst);
    }

    pub(crate) fn publish(&self, batch: Arc<Batch>, published: Published) {
        // Together, so that the history never shows less than a view does, nor more than the next one will.
        let mut history = self.history.lock();
        history.push_back(batch);
        self.published.store(Arc::new(published));
    }

    /// Shows a state that differs from the last by its revision alone.
    pub(crate) fn advance(&self, published: Published) {
        self.published.store(Arc::new(published));
    }

    /// Shows the content of `other` from now on.
    pub(crate) fn take_over(&self, other: &Shared) {
        let restored = std::mem::take(&mut *other.history.lock());
        let mut history = self.history.lock();
        *history = restored;
        self.published.store(other.published.load_full());
        self.hashes.lock().clear();
        self.set_compacted(other.compacted());
    }

    /// Forgets the batches that are wholly below a revision.
    pub(crate) fn forget_below(&self, revision: i64) {
        let mut history = self.history.lock();
        let keep = history.partition_point(|batch| batch.last() < revision);
        let forgotten: Vec<_> = history.drain(..keep).collect();
        // Freeing a million versions takes a while that nobody else should wait for.
        drop(history);
        drop(forgotten);
    }

    /// The batches from the one that holds `from` on, as many as `take` wants.
    pub(crate) fn batches(&self, from: i64, take: impl FnMut(&&Arc<Batch>) -> bool) -> Vec<Arc<Batch>> {
        let history = self.history.lock();
        let first = history.partition_point(|batch| batch.last() < from);
        history.range(first..).take_while(take).cloned().collect()
    }
}

/// The right to read a keyspace. Clones are the same.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Reader {
        Reader { shared }
    }

    /// The published revision.
    pub fn revision(&self) -> i64 {
        self.shared.revision()
    }

    /// The last revision compacted at; -1 before the first compaction.
    pub fn compacted_revision(&self) -> i64 {
        self.shared.compacted()
    }

    /// The published state, to be read more than once. A view keeps what it shows in memory: do not keep it.
    pub fn view(&self) -> View {
        View { published: self.shared.published.load_full(), shared: self.shared.clone() }
    }

    /// Evaluates on the published state; again if a compaction overtook it.
    ///
    /// Each repetition takes another compaction, so it ends.
    pub fn evaluate<T>(&self, evaluation: impl Fn(&Snapshot<'_>) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let published = self.shared.published.load();
            let snapshot = snapshot(&published, &self.shared);
            let result = evaluation(&snapshot);
            if !snapshot.is_overtaken(self.shared.compacted()) {
                return result;
            }
        }
    }

    /// The batches from revision `from` on, ascending, until they span `max_revisions`. The first may begin before
    /// `from`. If `from` is at or below [`Reader::compacted_revision`] afterwards, changes may be missing.
    pub fn history(&self, from: i64, max_revisions: usize) -> Vec<Arc<Batch>> {
        let mut spanned = 0;
        self.shared.batches(from, |batch| {
            let goes_on = spanned < max_revisions;
            spanned += batch.revisions_since(from);
            goes_on
        })
    }

    /// As [`Reader::history`] of the keys of a range alone, through the current revision, in one batch. `None` if walking
    /// the history is quicker: the range has many keys, or `from` is not long ago.
    pub fn history_of(&self, range: &KeyRange, from: i64) -> Option<Vec<Arc<Batch>>> {
        let published = self.shared.published.load();
        let count = published.tree.count(range, published.revision);
        let revisions = usize::try_from(published.revision.saturating_sub(from)).ok()?;
        if count > NARROW_MAX || revisions < count.saturating_mul(KEY_IN_REVISIONS) {
            return None;
        }
        let mut changes = published.tree.changes(range, from, published.revision, NARROW_MAX)?;
        if from <= self.shared.compacted() {
            // Versions may be missing that the history still has.
            return None;
        }
        changes.sort_unstable_by_key(|change| change.version.revision());
        Some((!changes.is_empty()).then(|| Arc::new(Batch::new(changes))).into_iter().collect())
    }

    /// HashKV of the store up to `revision`, or to the current one if that is 0; also the current revision.
    pub fn hash(&self, revision: i64) -> Result<(RevisionHash, i64), Error> {
        if let Some(kept) = self.shared.hashes.lock().iter().find(|hash| hash.revision == revision) {
            return Ok((*kept, self.revision()));
        }
        loop {
            let (published, compacted) = (self.shared.published.load_full(), self.shared.compacted());
            if revision > 0 && revision < compacted {
                return Err(Error::Compacted);
            }
            if revision > published.revision {
                return Err(Error::FutureRev);
            }
            let upto = if revision == 0 { published.revision } else { revision };
            let hash = RevisionHash::of(&published, compacted, upto);
            if self.shared.compacted() == compacted {
                return Ok((hash, published.revision));
            }
        }
    }

    /// The hashes computed during the last compactions, ascending by revision.
    pub fn hashes(&self) -> Vec<RevisionHash> {
        self.shared.hashes.lock().clone()
    }
}

impl History for Reader {
    fn revision(&self) -> i64 {
        self.revision()
    }

    fn compacted(&self) -> i64 {
        self.compacted_revision()
    }

    fn changes(&self, from: i64, max_revisions: usize) -> Vec<Arc<Batch>> {
        self.history(from, max_revisions)
    }

    fn changes_of(&self, range: &KeyRange, from: i64) -> Option<Vec<Arc<Batch>>> {
        self.history_of(range, from)
    }
}

/// A published state.
#[derive(Clone, Debug)]
pub struct View {
    published: Arc<Published>,
    shared: Arc<Shared>,
}

impl View {
    /// The revision it shows.
    pub fn revision(&self) -> i64 {
        self.published.revision
    }

    /// Evaluates on this state. What compaction has overtaken is answered as compacted, even if it was not when this
    /// began.
    pub fn evaluate<T>(&self, evaluation: impl FnOnce(&Snapshot<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let snapshot = snapshot(&self.published, &self.shared);
        let result = evaluation(&snapshot);
        if snapshot.is_overtaken(self.shared.compacted()) { Err(Error::Compacted) } else { result }
    }
}

fn snapshot<'s>(published: &'s Published, shared: &'s Shared) -> Snapshot<'s> {
    Snapshot::new(&published.tree, published.revision, shared.compacted(), Some(shared))
}

/// A state to evaluate on: a published one, or what a write txn has come to.
#[derive(Debug)]
pub struct Snapshot<'s> {
    tree: &'s Tree,
    revision: i64,
    compacted: i64,
    /// Absent in a write txn, whose changes are not in the history yet.
    shared: Option<&'s Shared>,
    /// The lowest revision that was read at.
    lowest: Cell<i64>,
}

impl<'s> Snapshot<'s> {
    pub(crate) fn new(tree: &'s Tree, revision: i64, compacted: i64, shared: Option<&'s Shared>) -> Snapshot<'s> {
        Snapshot { tree, revision, compacted, shared, lowest: Cell::new(i64::MAX) }
    }

    /// The current revision of this state.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision that this state is compacted at, -1 before the first compaction.
    pub fn compacted_revision(&self) -> i64 {
        self.compacted
    }

    /// The revision to read at when a request asks for `asked`: the current one for 0 and below.
    pub fn at(&self, asked: i64) -> Result<i64, Error> {
        match asked {
            // If a compaction has overtaken it since it was published, whoever reads it finds out when he is done.
            ..=0 => Ok(self.revision),
            _ if asked > self.revision => Err(Error::FutureRev),
            _ if asked < self.compacted => Err(Error::Compacted),
            _ => Ok(asked),
        }
    }

    /// A key as it was at `at`.
    pub fn get(&self, key: &[u8], at: i64) -> Option<Version> {
        self.note(at);
        self.tree.get(key, at)
    }

    /// Shows the keys of a range as they were at `at`, ascending, until `visit` breaks. A lock is held meanwhile:
    /// `visit` should clone and return.
    pub fn scan(&self, range: &KeyRange, at: i64, visit: &mut dyn FnMut(&Version) -> ControlFlow<()>) {
        self.note(at);
        self.tree.scan(range, at, Direction::Ascending, visit);
    }

    /// As [`Snapshot::scan`], descending.
    pub fn scan_back(&self, range: &KeyRange, at: i64, visit: &mut dyn FnMut(&Version) -> ControlFlow<()>) {
        self.note(at);
        self.tree.scan(range, at, Direction::Descending, visit);
    }

    /// How many keys of a range there were at `at`: O(log n) at the current revision.
    ///
    /// At a past one it undoes what happened since, or walks the range, whichever touches less.
    pub fn count(&self, range: &KeyRange, at: i64) -> usize {
        self.note(at);
        let now = self.tree.count(range, self.revision);
        if at == self.revision {
            return now;
        }
        if let Some(shared) = self.shared {
            let (mut changes, limit) = (0, now.min(COUNT_BACK_MAX));
            let since = shared.batches(at + 1, |batch| {
                changes += batch.changes.len();
                changes <= limit && batch.first() <= self.revision
            });
            if changes <= limit {
                return self.count_back(now, range, at, &since);
            }
        }
        let mut count = 0;
        self.tree.scan(range, at, Direction::Ascending, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        count
    }

    /// Undoes creations and deletions after `at`.
    fn count_back(&self, now: usize, range: &KeyRange, at: i64, since: &[Arc<Batch>]) -> usize {
        let changes = since.iter().flat_map(|batch| batch.since(at + 1));
        let visible = changes.take_while(|change| change.version.mod_revision() <= self.revision);
        visible.filter(|change| range.contains(change.version.key())).fold(now, |count, change| {
            match change.version.version() {
                // A tombstone: only what is live is deleted.
                0 => count + 1,
                // A creation.
                1 => count - 1,
                _ => count,
            }
        })
    }

    fn note(&self, at: i64) {
        self.lowest.set(self.lowest.get().min(at));
    }

    fn is_overtaken(&self, compacted: i64) -> bool {
        self.lowest.get() < compacted
    }
}
