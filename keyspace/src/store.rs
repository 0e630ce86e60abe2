//! The keyspace's one writer.
//!
//! [`Keyspace`] is what raft entries (or an upstream's events) are applied to. Each write txn takes one main revision;
//! [`Keyspace::publish`] makes everything written since the last publish visible to all [`Reader`]s in one swap, so a
//! batch of entries costs one. Readers never hold the writer up for longer than it takes to copy one leaf's pointers.

use std::{collections::VecDeque, sync::Arc};

use forebay_proto::KeyRange;

use crate::{
    compact::Compaction,
    reader::{Published, Reader, Shared, Snapshot},
    record::{Batch, Change, Put, Revision, Version},
    restore::Restore,
    tree::{Direction, Tree},
};

/// The multi-version keyspace, and the right to change it.
#[derive(Debug)]
pub struct Keyspace {
    pub(crate) tree: Tree,
    /// The main revision of the last txn, published or not.
    pub(crate) revision: i64,
    /// The last revision compacted at, published or not.
    pub(crate) compacted: i64,
    /// Written and not yet published, ascending.
    pending: Vec<Change>,
    /// Accepted and not yet finished, oldest first.
    pub(crate) compactions: VecDeque<Compaction>,
    /// Entries of a db file that stand for a revision and no key, ascending; a restored snapshot may have them.
    pub(crate) placeholders: Arc<[Revision]>,
    /// Versions that a compaction before the restore should have removed and did not; per key ascending. The next one
    /// removes them.
    pub(crate) leftovers: VecDeque<Version>,
    /// Where records are encoded.
    scratch: Vec<u8>,
    pub(crate) shared: Arc<Shared>,
}

impl Default for Keyspace {
    fn default() -> Keyspace {
        Keyspace::new()
    }
}

impl Keyspace {
    /// An empty store at revision 1, never compacted.
    ///
    /// ```
    /// use forebay_keyspace::Keyspace;
    /// let mut keyspace = Keyspace::new();
    /// let reader = keyspace.reader();
    /// let mut txn = keyspace.write();
    /// txn.put(b"key", b"value", 0);
    /// assert_eq!(txn.end(), 2);
    /// assert_eq!(reader.revision(), 1, "not published yet");
    /// keyspace.publish();
    /// assert_eq!(reader.revision(), 2);
    /// ```
    pub fn new() -> Keyspace {
        Restore::new(None).finish(0)
    }

    pub(crate) fn restored(
        tree: Tree,
        revision: i64,
        compacted: i64,
        placeholders: Arc<[Revision]>,
        leftovers: VecDeque<Version>,
        shared: Arc<Shared>,
    ) -> Keyspace {
        let (pending, compactions, scratch) = (Vec::new(), VecDeque::new(), Vec::new());
        Keyspace { tree, revision, compacted, pending, compactions, placeholders, leftovers, scratch, shared }
    }

    /// A keyspace that another store's state was loaded into, and whose past begins with that.
    pub(crate) fn begun(tree: Tree, revision: i64) -> Keyspace {
        let placeholders: Arc<[Revision]> = Arc::default();
        let published = Published { tree: tree.clone(), revision, placeholders: placeholders.clone() };
        let shared = Arc::new(Shared::new(published, revision, VecDeque::new()));
        Keyspace::restored(tree, revision, revision, placeholders, VecDeque::new(), shared)
    }

    /// A handle to read with, which shows what was published.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// The main revision of the last txn, published or not.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The last revision compacted at, published or not; -1 before the first compaction.
    pub fn compacted_revision(&self) -> i64 {
        self.compacted
    }

    /// The state that the next txn begins from, published or not.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.tree, self.revision, self.compacted, None)
    }

    /// Shows every version of the keys of a range, by key and oldest first, each with whether it is its key's newest. A
    /// lock is held meanwhile: `visit` should count and return.
    pub fn for_each_version(&self, range: &KeyRange, visit: &mut dyn FnMut(&Version, bool)) {
        self.tree.for_each_in(range, &mut |chain| {
            let newest = chain.newest().revision();
            chain.versions().for_each(|version| visit(version, version.revision() == newest));
        });
    }

    /// Begins a write txn.
    pub fn write(&mut self) -> WriteTxn<'_> {
        WriteTxn { main: self.revision + 1, sub: 0, keyspace: self }
    }

    /// Makes everything written and compacted so far visible; returns what was written, if anything was.
    pub fn publish(&mut self) -> Option<Arc<Batch>> {
        let batch = (!self.pending.is_empty()).then(|| Arc::new(Batch::new(std::mem::take(&mut self.pending))));
        if let Some(batch) = &batch {
            self.shared.publish(batch.clone(), self.published());
        }
        // After the view: a reader that finds its revision compacted must find a newer view to read instead.
        self.shared.set_compacted(self.compacted);
        batch
    }

    /// Adds a change that another store decided, at a revision above all before; `prev` is the live version it replaces.
    pub(crate) fn adopt(&mut self, version: Version, prev: Option<Version>) {
        self.revision = version.mod_revision();
        self.tree.update(version.key(), |_| version.clone());
        self.pending.push(Change { version, prev });
    }

    /// Goes to a revision that changed nothing here, and shows that.
    pub(crate) fn advance(&mut self, revision: i64) {
        assert!(self.pending.is_empty(), "what was written is published before the revision advances");
        self.revision = revision;
        self.shared.advance(self.published());
    }

    /// Compacts without a hash, and tells readers at once. The removal is up to [`Keyspace::compact_step`].
    pub(crate) fn raise_floor(&mut self, revision: i64) {
        drop(self.compact(revision).expect("a floor rises, and not above the current revision"));
        self.shared.set_compacted(revision);
    }

    /// What a publish would show.
    pub(crate) fn published(&self) -> Published {
        Published { tree: self.tree.clone(), revision: self.revision, placeholders: self.placeholders.clone() }
    }

    /// Whether readers see everything.
    pub(crate) fn is_published(&self) -> bool {
        self.pending.is_empty() && self.shared.compacted() == self.compacted
    }

    /// Takes over the content of another keyspace, which a snapshot from the leader was restored to. Readers of this one
    /// go on, with the new content.
    ///
    /// # Panics
    /// When that would take readers back in revision.
    pub fn replace(&mut self, restored: Keyspace) {
        assert!(restored.revision >= self.shared.revision(), "the revision of a store never goes back");
        self.begin_anew(restored);
    }

    /// As [`Keyspace::replace`], but of a store that is no continuation of this one, so that readers may go back.
    pub(crate) fn begin_anew(&mut self, restored: Keyspace) {
        assert!(restored.is_published(), "a restored keyspace has nothing unpublished");
        self.shared.take_over(&restored.shared);
        *self = Keyspace { shared: self.shared.clone(), ..restored };
    }
}

/// A write txn: its changes share one main revision, and take effect together.
///
/// What is written cannot be taken back, so everything that could be refused is checked before. Dropping it ends it.
#[derive(Debug)]
pub struct WriteTxn<'k> {
    keyspace: &'k mut Keyspace,
    main: i64,
    /// The sub revision of the next change, so also the number of changes.
    sub: i64,
}

impl WriteTxn<'_> {
    /// Writes a key; returns the live version that this replaces.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Option<Version> {
        let revision = self.next_revision();
        let Keyspace { tree, scratch, .. } = self.keyspace;
        let (version, before) = tree.update(key, |before| {
            let (create_revision, version) = match before {
                Some(before) if !before.is_tombstone() => (before.create_revision(), before.version() + 1),
                _ => (revision.main, 1),
            };
            Version::put(Put { revision, create_revision, version, lease, key, value }, scratch)
        });
        let prev = before.filter(|before| !before.is_tombstone());
        self.keyspace.pending.push(Change { version, prev: prev.clone() });
        prev
    }

    /// Deletes every live key of a range, in order; returns what they were.
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<Version> {
        let mut deleted = Vec::new();
        self.keyspace.tree.scan(range, self.revision(), Direction::Ascending, &mut |version| {
            deleted.push(version.clone());
            std::ops::ControlFlow::Continue(())
        });
        for prev in &deleted {
            let revision = self.next_revision();
            let Keyspace { tree, scratch, .. } = self.keyspace;
            let (version, _) = tree.update(prev.key(), |_| Version::tombstone(revision, prev.key(), scratch));
            self.keyspace.pending.push(Change { version, prev: Some(prev.clone()) });
        }
        deleted
    }

    /// The state as this txn left it so far.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.keyspace.tree, self.revision(), self.keyspace.compacted, None)
    }

    /// The main revision: the txn's own once it has changed something.
    pub fn revision(&self) -> i64 {
        if self.sub == 0 { self.main - 1 } else { self.main }
    }

    /// What the txn changed so far.
    pub fn changes(&self) -> &[Change] {
        &self.keyspace.pending[self.keyspace.pending.len() - self.sub as usize..]
    }

    /// Ends the txn; returns the revision of the store after it.
    pub fn end(self) -> i64 {
        self.revision()
    }

    fn next_revision(&mut self) -> Revision {
        self.sub += 1;
        Revision { main: self.main, sub: self.sub - 1 }
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        self.keyspace.revision = self.revision();
    }
}
