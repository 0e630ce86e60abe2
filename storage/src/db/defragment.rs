//! Putting another file in the place of the database: itself without its holes, or one that came from elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::Disk;
use crate::failpoint::{Point, reach};

use super::bucket::{APPEND_FILL, BucketMut};
use super::error::{Error, Result};
use super::read::{Bucket, ReadTxn};
use super::store::Store;
use super::write::{WriteTxn, Writer};
use super::{Options, open_writer};

/// Copies everything `from` sees into a new file beside `path`, durably, and puts it in the place of `path`.
///
/// A crash at any point leaves the old file or the new one under `path`, and at most a temporary file that
/// [`remove_temporaries`] finds. When the names cannot be switched for certain, the old file is poisoned: what would be
/// written to it could be gone after the next start.
pub(super) fn rewrite(from: &ReadTxn, path: &Path, options: &Options, is_wanted: &dyn Fn() -> bool) -> Result<Writer> {
    let disk = &*options.disk;
    remove_temporaries(disk, path)?;
    reach(Point::DefragOpen);
    let temporary = temporary_path(path);
    let writer = match write_copy(from, path, &temporary, options, is_wanted) {
        Ok(writer) => writer,
        Err(error) => {
            // The first error is the one to report; the next start removes the file if this does not.
            let _ = disk.remove(&temporary);
            return Err(error);
        }
    };
    switch(&temporary, &from.store, writer, path, options)
}

/// Renames the file of `writer`, at `from`, to `path`, which `old` is, durably.
pub(super) fn switch(from: &Path, old: &Store, writer: Writer, path: &Path, options: &Options) -> Result<Writer> {
    let disk = &*options.disk;
    let switched = disk.rename(from, path).map_err(writer.store.io("rename", 0)).and_then(|()| {
        reach(Point::DbSwitched);
        if options.sync {
            disk.sync_dir(directory(path)).map_err(writer.store.io("fsync of the directory", 0))?;
        }
        reach(Point::DbSwitchedDurably);
        Ok(())
    });
    match switched {
        Ok(()) => Ok(writer),
        Err(error) => {
            old.poison();
            Err(error)
        }
    }
}

fn write_copy(
    from: &ReadTxn,
    path: &Path,
    temporary: &Path,
    options: &Options,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Writer> {
    // Nothing needs to be durable before the whole is.
    let lazily = Options { page_size: from.meta.page_size, sync: false, ..options.clone() };
    let writer = Mutex::new(open_writer(temporary, path, &lazily, None)?);
    let store = writer.lock().store.clone();
    copy(from, &writer, Keeper { store, path, sync: options.sync, is_wanted, copied: 0 })?;
    let mut writer = writer.into_inner();
    writer.sync = options.sync;
    reach(Point::DefragCopied);
    if options.sync {
        writer.store.file.sync_data().map_err(writer.store.io("fsync", 0))?;
    }
    reach(Point::DefragSynced);
    Ok(writer)
}

/// How many bytes of entries are copied between two syncs, and two questions whether to go on. A large value makes every other sync on this disk, those of
/// the log above all, wait for as much to be written at once.
const SYNC_EVERY: usize = 16 << 20;

/// Has the disk keep up with what is copied.
struct Keeper<'a> {
    store: Arc<Store>,
    path: &'a Path,
    sync: bool,
    is_wanted: &'a dyn Fn() -> bool,
    copied: usize,
}

impl Keeper<'_> {
    fn copied(&mut self, bytes: usize) -> Result<()> {
        self.copied += bytes;
        if self.copied < SYNC_EVERY {
            return Ok(());
        }
        self.copied = 0;
        if !(self.is_wanted)() {
            return Err(Error::GivenUp { path: self.path.to_owned() });
        }
        if self.sync {
            self.store.file.sync_data().map_err(self.store.io("fsync", 0))?;
        }
        Ok(())
    }
}

fn copy(from: &ReadTxn, to: &Mutex<Writer>, mut keeper: Keeper<'_>) -> Result<()> {
    // One transaction, however large: it writes ahead what would take too much memory.
    let mut txn = WriteTxn::begin(to.lock())?;
    for name in from.buckets()? {
        let bucket = from.bucket(&name)?.ok_or_else(|| Error::NoBucket(name.clone()))?;
        copy_bucket(&bucket, txn.create_bucket_if_missing(&name)?, &mut keeper)?;
    }
    txn.commit()
}

fn copy_bucket(from: &Bucket<'_>, mut to: BucketMut<'_>, keeper: &mut Keeper<'_>) -> Result<()> {
    to.set_sequence(from.sequence);
    to.set_fill(APPEND_FILL);
    let mut cursor = from.cursor();
    while let Some(entry) = cursor.next_entry()? {
        if entry.is_bucket {
            let nested = from.bucket(entry.key)?.ok_or_else(|| Error::NoBucket(entry.key.to_vec()))?;
            copy_bucket(&nested, to.reborrow().into_bucket_or_create(entry.key)?, keeper)?;
        } else {
            to.put(entry.key, entry.value)?;
            keeper.copied(entry.key.len() + entry.value.len())?;
        }
    }
    Ok(())
}

/// `db.tmp.` and a name, as etcd calls its own: whoever starts on this directory next removes it.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp.defragment");
    path.with_file_name(name)
}

pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes what a defragmentation left that was cut short.
pub(super) fn remove_temporaries(disk: &dyn Disk, path: &Path) -> Result<()> {
    let mut prefix = path.file_name().unwrap_or_default().to_os_string();
    prefix.push(".tmp.");
    let failed = |operation: &'static str| {
        let path = path.to_path_buf();
        move |source| Error::Io { path, operation, offset: 0, source }
    };
    for name in disk.list(directory(path)).map_err(failed("list the directory"))? {
        if name.as_bytes().starts_with(prefix.as_encoded_bytes()) {
            disk.remove(&path.with_file_name(name)).map_err(failed("remove a temporary file"))?;
        }
    }
    Ok(())
}
