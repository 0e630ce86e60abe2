//! The write transaction and its commit: changed pages are written beside the current state, then the state switches.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::failpoint::{Point, reach};

use super::bucket::{BucketMut, DEFAULT_FILL, Opened};
use super::error::{Error, Result};
use super::freelist::{Freelist, Run};
use super::meta::{META_LENGTH, Meta, NO_FREELIST};
use super::page::Header;
use super::sink::{Sink, Staged};
use super::store::{Pages, Store};
use super::tree::Tree;

/// What only the one writer touches.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) freelist: Freelist,
    /// The file's length as far as this process knows.
    pub(super) length: u64,
    pub(super) growth: u64,
    /// Whether commits wait for the disk.
    pub(super) sync: bool,
}

/// The one write transaction. Dropping it forgets its changes.
///
/// Changes gather in memory up to some 16 MiB a bucket; what is more goes to the file at once, out of sight of
/// everybody until the commit.
#[derive(Debug)]
pub struct WriteTxn<'db> {
    writer: MutexGuard<'db, Writer>,
    meta: Meta,
    root: Opened,
    staged: Staged,
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
        Ok(Self { writer, meta, root, staged: Staged::new(meta.high_water) })
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
        let mut pages = Pages::new(&self.writer.store, self.staged.high_water);
        self.root.delete_nested(&mut pages, name, &mut self.staged.freed)
    }

    fn root_bucket(&mut self) -> BucketMut<'_> {
        BucketMut::new(&mut self.writer, &mut self.staged, &mut self.root)
    }

    /// Makes the changes durable and visible: data pages, fsync, meta page, fsync.
    ///
    /// After [`Error::NoSpace`] the state is the one before the transaction. After any other failure of the disk it is
    /// unknown whether the commit is in the file, and the database accepts no further ones.
    pub fn commit(mut self) -> Result<()> {
        if self.root.is_broken() {
            return Err(Error::Broken { path: self.writer.store.path.clone() });
        }
        if !self.root.is_changed() {
            return Ok(());
        }
        let store = self.writer.store.clone();
        if self.meta.freelist != NO_FREELIST {
            // A file that bbolt wrote with its default options.
            let header = Header::read(&store.read_pages(self.meta.freelist, 1)?);
            self.staged.freed.push(Run { page: self.meta.freelist, count: u64::from(header.overflow) + 1 });
        }
        reach(Point::DbCommit);
        let root = self.write_pages(&store)?;
        reach(Point::DbCommitPages);
        let meta = Meta {
            root,
            freelist: NO_FREELIST,
            high_water: self.staged.high_water,
            txid: self.meta.txid + 1,
            ..self.meta
        };
        let sync = self.writer.sync;
        sync_file(&store, sync)?;
        reach(Point::DbCommitSynced);
        write_meta(&store, &meta)?;
        reach(Point::DbCommitMeta);
        sync_file(&store, sync)?;
        reach(Point::DbCommitted);
        self.publish(&store, meta);
        Ok(())
    }

    fn write_pages(&mut self, store: &Store) -> Result<u64> {
        let mut pages = Pages::new(store, self.staged.high_water);
        let mut sink = Sink::new(&mut self.writer, &mut self.staged);
        self.root.write_nested(&mut pages, &mut sink)?;
        let root = self.root.write_tree(&mut pages, &mut sink, DEFAULT_FILL)?;
        sink.flush()?;
        Ok(root)
    }

    fn publish(&mut self, store: &Store, meta: Meta) {
        let freelist = &mut self.writer.freelist;
        let mut written = std::mem::take(&mut self.staged.written);
        // What was written and given up again in one transaction was never seen by anybody.
        let written_here: HashSet<Run> = written.iter().copied().collect();
        let (unseen, freed): (Vec<_>, Vec<_>) = self.staged.freed.iter().partition(|run| written_here.contains(run));
        if !unseen.is_empty() {
            let unseen: HashSet<Run> = unseen.iter().copied().collect();
            written.retain(|run| !unseen.contains(run));
        }
        unseen.into_iter().for_each(|run| freelist.give_back(run));
        store.state(|state| {
            freelist.commit(meta.txid, &written, &freed, !state.pins.is_empty());
            // The meta page is durable: what no reader sees is free from now on, and counts as such.
            freelist.release(&state.pins, state.closed);
            state.meta = meta;
            state.free_pages = freelist.free_count();
        });
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        // A commit has emptied this.
        self.staged.taken().for_each(|run| self.writer.freelist.give_back(run));
    }
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
