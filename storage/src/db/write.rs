//! Write transactions: changes gather in memory, a commit writes them beside the current state and then switches.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::error::{Error, Result};
use super::freelist::{Freelist, Run};
use super::meta::{META_LENGTH, Meta, NO_FREELIST};
use super::page::{self, BUCKET_HEADER, BucketValue};
use super::sink::Sink;
use super::store::{Pages, Store};
use super::tree::Tree;

/// How full pages are left when a node is cut.
const DEFAULT_FILL: f64 = 0.5;
/// For buckets whose keys only ever grow.
pub const APPEND_FILL: f64 = 0.9;

const KEY_MAX: usize = 32768;
const VALUE_MAX: usize = 1 << 30;

/// What only the one writer touches.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) freelist: Freelist,
    pub(super) length: u64,
    pub(super) growth: u64,
    /// Whether commits wait for the disk.
    pub(super) sync: bool,
}

/// The one write transaction. Dropping it forgets its changes.
///
/// Memory: every leaf that is touched stays in memory until the commit, so delete scattered keys in batches.
#[derive(Debug)]
pub struct WriteTxn<'db> {
    writer: MutexGuard<'db, Writer>,
    meta: Meta,
    root: Opened,
    /// Pages of deleted buckets.
    freed: Vec<Run>,
}

/// A bucket that this transaction has looked at.
#[derive(Debug)]
struct Opened {
    name: Vec<u8>,
    sequence: u64,
    tree: Tree,
    fill: f64,
    changed: bool,
    nested: Vec<Opened>,
}

impl<'db> WriteTxn<'db> {
    pub(super) fn begin(mut writer: MutexGuard<'db, Writer>) -> Result<Self> {
        writer.store.check_writable()?;
        let Writer { store, freelist, .. } = &mut *writer;
        let meta = store.state(|state| {
            freelist.release(&state.pins, state.closed);
            state.meta
        });
        let root = Opened::new(Vec::new(), meta.sequence, Tree::at(meta.root));
        Ok(Self { writer, meta, root, freed: Vec::new() })
    }

    /// A bucket of the root, which must exist.
    pub fn bucket(&mut self, name: &[u8]) -> Result<BucketMut<'_>> {
        self.root_bucket().into_bucket(name)
    }

    pub fn create_bucket_if_missing(&mut self, name: &[u8]) -> Result<BucketMut<'_>> {
        self.root_bucket().into_bucket_or_create(name)
    }

    /// Deletes a bucket with everything in it; false when there is none.
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<bool> {
        let mut pages = Pages::new(&self.writer.store, &self.meta);
        let opened = self.root.nested.iter().position(|bucket| bucket.name == name);
        let tree = match opened {
            Some(index) => self.root.nested.swap_remove(index),
            None => match self.root.open(&mut pages, name)? {
                Some(bucket) => bucket,
                None => return Ok(false),
            },
        };
        self.root.tree.delete(&mut pages, name, page::BUCKET)?;
        self.root.changed = true;
        tree.free(&mut pages, &mut self.freed)?;
        Ok(true)
    }

    pub(super) fn root_bucket(&mut self) -> BucketMut<'_> {
        BucketMut { pages: Pages::new(&self.writer.store, &self.meta), bucket: &mut self.root }
    }

    /// Makes the changes durable and visible: data pages, fsync, meta page, fsync.
    ///
    /// After [`Error::NoSpace`] the state is the one before the transaction. After any other failure of the disk it is
    /// unknown whether the commit is in the file, and the database accepts no further ones.
    pub fn commit(mut self) -> Result<()> {
        if !self.root.is_changed() {
            return Ok(());
        }
        let Writer { store, freelist, length, growth, sync } = &mut *self.writer;
        let store: &Store = store;
        let mut freed = std::mem::take(&mut self.freed);
        if self.meta.freelist != NO_FREELIST {
            let count = freelist_pages(store, self.meta.freelist)?;
            freed.push(Run { page: self.meta.freelist, count });
        }
        let mut pages = Pages::new(store, &self.meta);
        let mut sink = Sink::new(store, freelist, length, *growth, self.meta.high_water, freed);
        let written = (|| {
            self.root.write_nested(&mut pages, &mut sink)?;
            self.root.tree.rebalance(&mut pages, DEFAULT_FILL, &mut sink.freed)?;
            let root = self.root.tree.spill(&mut sink, DEFAULT_FILL)?;
            sink.flush()?;
            Ok(root)
        })();
        let root = match written {
            Ok(root) => root,
            Err(error) => {
                sink.undo();
                return Err(error);
            }
        };
        let meta =
            Meta { root, freelist: NO_FREELIST, high_water: sink.high_water, txid: self.meta.txid + 1, ..self.meta };
        let Sink { written, freed, .. } = sink;
        sync_file(store, *sync)?;
        write_meta(store, &meta)?;
        sync_file(store, *sync)?;
        store.state(|state| {
            freelist.commit(meta.txid, &written, &freed, !state.pins.is_empty());
            state.meta = meta;
            state.free_pages = freelist.free_count();
        });
        Ok(())
    }
}

/// The pages that the freelist of a file written by someone else takes.
fn freelist_pages(store: &Store, id: u64) -> Result<u64> {
    Ok(u64::from(page::Header::read(&store.read_pages(id, 1)?).overflow) + 1)
}

/// A failed fsync says nothing about which writes are durable and is never tried again: the kernel may have dropped
/// the pages and report success the second time.
fn sync_file(store: &Store, sync: bool) -> Result<()> {
    if !sync {
        return Ok(());
    }
    store.file.sync_data().map_err(|source| {
        store.poison();
        store.io("fsync", 0)(source)
    })
}

fn write_meta(store: &Store, meta: &Meta) -> Result<()> {
    let id = meta.txid % 2;
    let mut image = vec![0; store.page_size.max(META_LENGTH)];
    meta.write(id, &mut image);
    let offset = id * store.page_size as u64;
    store.file.write_at(&image, offset).map_err(|source| {
        store.poison();
        store.io("write", offset)(source)
    })
}

impl Opened {
    fn new(name: Vec<u8>, sequence: u64, tree: Tree) -> Self {
        Self { name, sequence, tree, fill: DEFAULT_FILL, changed: false, nested: Vec::new() }
    }

    fn is_changed(&self) -> bool {
        self.changed || self.nested.iter().any(Self::is_changed)
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

    /// Writes changed nested buckets and their entries in this one.
    fn write_nested(&mut self, pages: &mut Pages<'_>, sink: &mut Sink<'_>) -> Result<()> {
        for bucket in self.nested.iter_mut().filter(|bucket| bucket.is_changed()) {
            bucket.write_nested(pages, sink)?;
            bucket.tree.rebalance(pages, bucket.fill, &mut sink.freed)?;
            let value = bucket.write(sink)?;
            self.tree.put(pages, &bucket.name, &value, page::BUCKET)?;
        }
        Ok(())
    }

    /// Writes the bucket's pages, or none when it fits into its entry: one leaf, no buckets, a quarter of a page.
    fn write(&mut self, sink: &mut Sink<'_>) -> Result<Vec<u8>> {
        let mut value = Vec::with_capacity(BUCKET_HEADER);
        match self.tree.root_leaf() {
            Some(leaf) if leaf.size() <= sink.page_size() / 4 && !leaf.has_buckets() => {
                value.extend_from_slice(&0_u64.to_le_bytes());
                value.extend_from_slice(&self.sequence.to_le_bytes());
                leaf.write_inline(&mut value);
                sink.freed.extend(leaf.origin);
            }
            _ => {
                let root = self.tree.spill(sink, self.fill)?;
                value.extend_from_slice(&root.to_le_bytes());
                value.extend_from_slice(&self.sequence.to_le_bytes());
            }
        }
        Ok(value)
    }

    fn free(self, pages: &mut Pages<'_>, freed: &mut Vec<Run>) -> Result<()> {
        // Entries of nested buckets in the tree are as the file has them: nothing was written yet.
        self.tree.free(pages, freed)
    }
}

/// A bucket in a [`WriteTxn`].
#[derive(Debug)]
pub struct BucketMut<'t> {
    pages: Pages<'t>,
    bucket: &'t mut Opened,
}

impl BucketMut<'_> {
    /// How full pages are left when they are cut, from 0.1 to 1; [`APPEND_FILL`] for keys that only grow.
    pub fn set_fill(&mut self, fill: f64) {
        self.bucket.fill = fill.clamp(0.1, 1.0);
    }

    pub(super) fn set_sequence(&mut self, sequence: u64) {
        self.bucket.changed |= self.bucket.sequence != sequence;
        self.bucket.sequence = sequence;
    }

    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.bucket.tree.get(&mut self.pages, key)? {
            Some((_, flags)) if flags & page::BUCKET != 0 => Err(Error::WrongKind(key.to_vec())),
            found => Ok(found.map(|(value, _)| value)),
        }
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        if value.len() > VALUE_MAX {
            return Err(Error::ValueSize(value.len()));
        }
        self.bucket.tree.put(&mut self.pages, key, value, 0)?;
        self.bucket.changed = true;
        Ok(())
    }

    /// Deletes a key; false when it is absent.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        let found = self.bucket.tree.delete(&mut self.pages, key, 0)?;
        self.bucket.changed |= found;
        Ok(found)
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
        let index = match self.open(name)? {
            Some(index) => index,
            None => {
                // The entry is put now, so that the name is taken; its real value is written by the commit.
                let mut value = Vec::new();
                value.extend_from_slice(&[0; BUCKET_HEADER]);
                super::node::Leaf::empty().write_inline(&mut value);
                self.bucket.tree.put(&mut self.pages, name, &value, page::BUCKET)?;
                self.bucket.changed = true;
                let mut created = Opened::new(name.to_vec(), 0, Tree::empty());
                created.changed = true;
                self.bucket.nested.push(created);
                self.bucket.nested.len() - 1
            }
        };
        Ok(self.nested(index))
    }

    pub(super) fn reborrow(&mut self) -> BucketMut<'_> {
        BucketMut { pages: self.pages.clone(), bucket: self.bucket }
    }

    fn open(&mut self, name: &[u8]) -> Result<Option<usize>> {
        if let Some(index) = self.bucket.nested.iter().position(|bucket| bucket.name == name) {
            return Ok(Some(index));
        }
        let Some(opened) = self.bucket.open(&mut self.pages, name)? else { return Ok(None) };
        self.bucket.nested.push(opened);
        Ok(Some(self.bucket.nested.len() - 1))
    }

    fn nested(self, index: usize) -> Self {
        BucketMut { pages: self.pages, bucket: &mut self.bucket.nested[index] }
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if (1..=KEY_MAX).contains(&key.len()) { Ok(()) } else { Err(Error::KeySize(key.len())) }
}
