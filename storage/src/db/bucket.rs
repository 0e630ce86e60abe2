//! Buckets inside a write transaction.

use bytes::Bytes;

use super::error::{Error, Result};
use super::freelist::Run;
use super::node::Leaf;
use super::page::{self, BUCKET_HEADER, BucketValue};
use super::sink::{Sink, Staged};
use super::store::Pages;
use super::tree::Tree;
use super::write::Writer;

/// How full pages are left when a node is cut.
pub(super) const DEFAULT_FILL: f64 = 0.5;
/// For buckets whose keys only ever grow.
pub const APPEND_FILL: f64 = 0.9;

const KEY_MAX: usize = 32768;
const VALUE_MAX: usize = 1 << 30;

/// Bytes that the changed nodes of one bucket may take before they are written to the file ahead of the commit. Large:
/// pages that many changes of one transaction meet are written once. Small: less memory.
const WEIGHT_MAX: usize = 16 << 20;

/// A bucket that the transaction has looked at.
#[derive(Debug)]
pub(super) struct Opened {
    name: Vec<u8>,
    sequence: u64,
    tree: Tree,
    fill: f64,
    changed: bool,
    /// Bytes taken into memory since the tree was last written.
    weight: usize,
    /// The tree was left half written by an error.
    broken: bool,
    nested: Vec<Opened>,
}

impl Opened {
    pub(super) fn new(name: Vec<u8>, sequence: u64, tree: Tree) -> Self {
        Self { name, sequence, tree, fill: DEFAULT_FILL, changed: false, weight: 0, broken: false, nested: Vec::new() }
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changed || self.nested.iter().any(Self::is_changed)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken || self.nested.iter().any(Self::is_broken)
    }

    /// A nested bucket as the file has it.
    fn open(&self, pages: &mut Pages<'_>, name: &[u8]) -> Result<Option<Self>> {
        let Some((value, flags)) = self.tree.get(pages, name)? else { return Ok(None) };
        if flags & page::BUCKET == 0 {
            return Err(Error::WrongKind(name.to_vec()));
        }
        let value = BucketValue::parse(&value).map_err(|flaw| pages.store.corrupt(0, flaw))?;
        let tree = value.inline.map_or(Tree::at(value.root), Tree::inline);
        Ok(Some(Self::new(name.to_vec(), value.sequence, tree)))
    }

    pub(super) fn delete_nested(&mut self, pages: &mut Pages<'_>, name: &[u8], freed: &mut Vec<Run>) -> Result<bool> {
        let bucket = match self.nested.iter().position(|bucket| bucket.name == name) {
            Some(index) => self.nested.swap_remove(index),
            None => match self.open(pages, name)? {
                Some(bucket) => bucket,
                None => return Ok(false),
            },
        };
        self.tree.delete(pages, name, page::BUCKET)?;
        self.changed = true;
        // Entries of buckets nested in it are as the file has them: those are written by a commit alone.
        bucket.tree.free(pages, freed)?;
        Ok(true)
    }

    /// Writes changed nested buckets and their entries in this one.
    pub(super) fn write_nested(&mut self, pages: &mut Pages<'_>, sink: &mut Sink<'_>) -> Result<()> {
        for bucket in self.nested.iter_mut().filter(|bucket| bucket.is_changed()) {
            bucket.write_nested(pages, sink)?;
            let value = bucket.write(pages, sink)?;
            self.tree.put(pages, &bucket.name, &value, page::BUCKET)?;
        }
        Ok(())
    }

    /// Writes the bucket and returns its value: its pages, or when it is one leaf without buckets and fits into a
    /// quarter of a page, just that leaf.
    fn write(&mut self, pages: &mut Pages<'_>, sink: &mut Sink<'_>) -> Result<Vec<u8>> {
        let mut value = Vec::with_capacity(BUCKET_HEADER);
        self.tree.rebalance(pages, self.fill, &mut sink.staged.freed)?;
        match self.tree.root_leaf() {
            Some(leaf) if leaf.size() <= sink.page_size() / 4 && !leaf.has_buckets() => {
                value.extend_from_slice(&0_u64.to_le_bytes());
                value.extend_from_slice(&self.sequence.to_le_bytes());
                leaf.write_inline(&mut value);
                sink.free(leaf.origin);
            }
            _ => {
                let root = self.tree.spill(sink, self.fill)?;
                value.extend_from_slice(&root.to_le_bytes());
                value.extend_from_slice(&self.sequence.to_le_bytes());
            }
        }
        Ok(value)
    }

    /// Writes the tree to pages and returns its root.
    pub(super) fn write_tree(&mut self, pages: &mut Pages<'_>, sink: &mut Sink<'_>, fill: f64) -> Result<u64> {
        self.tree.rebalance(pages, fill, &mut sink.staged.freed)?;
        self.tree.spill(sink, fill)
    }
}

/// A bucket in a [`WriteTxn`](super::WriteTxn).
#[derive(Debug)]
pub struct BucketMut<'t> {
    writer: &'t mut Writer,
    staged: &'t mut Staged,
    bucket: &'t mut Opened,
}

impl<'t> BucketMut<'t> {
    pub(super) fn new(writer: &'t mut Writer, staged: &'t mut Staged, bucket: &'t mut Opened) -> Self {
        Self { writer, staged, bucket }
    }

    /// How full pages are left when they are cut, from 0.1 to 1; [`APPEND_FILL`] for keys that only grow.
    pub fn set_fill(&mut self, fill: f64) {
        self.bucket.fill = fill.clamp(0.1, 1.0);
    }

    pub(super) fn set_sequence(&mut self, sequence: u64) {
        self.bucket.changed |= self.bucket.sequence != sequence;
        self.bucket.sequence = sequence;
    }

    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>> {
        let mut pages = Pages::new(&self.writer.store, self.staged.high_water);
        match self.bucket.tree.get(&mut pages, key)? {
            Some((_, flags)) if flags & page::BUCKET != 0 => Err(Error::WrongKind(key.to_vec())),
            found => Ok(found.map(|(value, _)| value)),
        }
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        if value.len() > VALUE_MAX {
            return Err(Error::ValueSize(value.len()));
        }
        let mut pages = Pages::new(&self.writer.store, self.staged.high_water);
        self.bucket.tree.put(&mut pages, key, value, 0)?;
        self.bucket.weight += pages.bytes_read() + key.len() + value.len();
        self.bucket.changed = true;
        self.relieve()
    }

    /// Deletes a key; false when it is absent.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        let mut pages = Pages::new(&self.writer.store, self.staged.high_water);
        let found = self.bucket.tree.delete(&mut pages, key, 0)?;
        self.bucket.weight += pages.bytes_read();
        self.bucket.changed |= found;
        self.relieve()?;
        Ok(found)
    }

    /// Writes the tree to the file when it takes too much memory. After an error the transaction cannot be committed.
    fn relieve(&mut self) -> Result<()> {
        if self.bucket.weight < WEIGHT_MAX {
            return Ok(());
        }
        self.bucket.broken = true;
        let store = self.writer.store.clone();
        let mut pages = Pages::new(&store, self.staged.high_water);
        let mut sink = Sink::new(self.writer, self.staged);
        self.bucket.write_tree(&mut pages, &mut sink, self.bucket.fill)?;
        sink.flush()?;
        (self.bucket.broken, self.bucket.weight) = (false, 0);
        Ok(())
    }

    /// A bucket nested in this one, which must exist.
    pub fn into_bucket(mut self, name: &[u8]) -> Result<Self> {
        match self.open(name)? {
            Some(index) => Ok(self.nested(index)),
            None => Err(Error::NoBucket(name.to_vec())),
        }
    }

    pub fn into_bucket_or_create(mut self, name: &[u8]) -> Result<Self> {
        check_key(name)?;
        if let Some(index) = self.open(name)? {
            return Ok(self.nested(index));
        }
        // The entry is put now, so that the name is taken; its real value is written by the commit.
        let mut value = vec![0; BUCKET_HEADER];
        Leaf::empty().write_inline(&mut value);
        let mut pages = Pages::new(&self.writer.store, self.staged.high_water);
        self.bucket.tree.put(&mut pages, name, &value, page::BUCKET)?;
        let mut created = Opened::new(name.to_vec(), 0, Tree::empty());
        (self.bucket.changed, created.changed) = (true, true);
        self.bucket.nested.push(created);
        let last = self.bucket.nested.len() - 1;
        Ok(self.nested(last))
    }

    pub(super) fn reborrow(&mut self) -> BucketMut<'_> {
        BucketMut { writer: self.writer, staged: self.staged, bucket: self.bucket }
    }

    fn open(&mut self, name: &[u8]) -> Result<Option<usize>> {
        if let Some(index) = self.bucket.nested.iter().position(|bucket| bucket.name == name) {
            return Ok(Some(index));
        }
        let mut pages = Pages::new(&self.writer.store, self.staged.high_water);
        let Some(opened) = self.bucket.open(&mut pages, name)? else { return Ok(None) };
        self.bucket.nested.push(opened);
        Ok(Some(self.bucket.nested.len() - 1))
    }

    fn nested(self, index: usize) -> Self {
        BucketMut { writer: self.writer, staged: self.staged, bucket: &mut self.bucket.nested[index] }
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if (1..=KEY_MAX).contains(&key.len()) { Ok(()) } else { Err(Error::KeySize(key.len())) }
}
