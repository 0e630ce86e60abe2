//! An engine for the file that etcd keeps its state in: bbolt's format, read and written.
//!
//! The file is a B+tree of buckets, copied on write: a commit writes changed pages to free places, syncs, then writes
//! one of two meta pages in turn and syncs again. Whatever instant the power goes, one meta page is whole and names a
//! whole tree. There is one writer and any number of readers; each reader keeps seeing the state it began with.
//!
//! Differences from bbolt, all invisible in the file: pages are read with pread instead of being mapped, so damage is
//! an [`Error`] and never a signal, and memory does not grow with the file; the structure is checked at open; a failed
//! write or fsync ends writing for good. The freelist is not written, as etcd configures bbolt.
//!
//! Start reading at [`Db`], then `write.rs` (commit), `tree.rs` (what happens to pages), `page.rs` (bytes).

mod bucket;
mod defragment;
mod error;
mod freelist;
mod leaves;
mod meta;
mod node;
mod page;
mod read;
mod sink;
mod snapshot;
mod store;
mod survey;
mod tree;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, OsDisk};
use crate::failpoint::{Point, reach};

use self::freelist::Freelist;
use self::meta::{META_LENGTH, Meta};
use self::store::Store;
use self::survey::Show;
use self::write::Writer;

pub use self::bucket::{APPEND_FILL, BucketMut};
pub use self::error::{Error, Result};
pub use self::leaves::{Leaf, Leaves};
pub use self::read::{Backward, Bucket, Cursor, Entry, ReadTxn};
pub use self::snapshot::SnapshotReader;
pub use self::write::WriteTxn;

/// How to open a database.
#[derive(Debug, Clone)]
pub struct Options {
    /// The page size of a new file; an existing one says its own.
    pub page_size: usize,
    /// A file that is too short grows by this much more than is needed. Large: fewer growths, each of which the file
    /// system must make durable. Small: less space taken from a disk that is nearly full.
    pub growth: u64,
    /// Whether commits wait until the disk has them. False is etcd's `--unsafe-no-fsync`: a crash may lose everything.
    pub sync: bool,
    /// Takes a shared lock and refuses write transactions.
    pub read_only: bool,
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Self {
        Self { page_size: 4096, growth: 16 << 20, sync: true, read_only: false, disk: Arc::new(OsDisk) }
    }
}

/// An open database file. Clones share it.
#[derive(Debug, Clone)]
pub struct Db {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    options: Options,
    /// The file that new readers read; replaced by a defragmentation.
    store: Mutex<Arc<Store>>,
    writer: Mutex<Writer>,
}

/// A database that waits to take the place of another.
#[derive(Debug)]
pub struct Replacement {
    from: PathBuf,
    writer: Writer,
}

impl Replacement {
    /// Begins a read transaction.
    #[must_use]
    pub fn begin_read(&self) -> ReadTxn {
        ReadTxn::begin(self.writer.store.clone())
    }
}

impl Db {
    /// Opens the file, or creates it. Fails with [`Error::Locked`] when another process has it.
    ///
    /// Reads the whole file once: to find the free pages, and to check that every page is what its place requires.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<Self> {
        Self::open_and_show(path.into(), options, None)
    }

    /// As [`Db::open`]; the leaves of a bucket are shown in order, as the file is read. What was shown is worth nothing if
    /// this fails in the end.
    pub fn open_showing(
        path: impl Into<PathBuf>,
        options: Options,
        bucket: &[u8],
        leaf: &mut dyn FnMut(Leaf),
    ) -> Result<Self> {
        Self::open_and_show(path.into(), options, Some(Show { bucket, leaf }))
    }

    fn open_and_show(path: PathBuf, options: Options, show: Option<Show<'_>>) -> Result<Self> {
        if !options.read_only {
            defragment::remove_temporaries(&*options.disk, &path)?;
        }
        let writer = open_writer(&path, &path, &options, show)?;
        let store = Mutex::new(writer.store.clone());
        Ok(Self { shared: Arc::new(Shared { path, options, store, writer: Mutex::new(writer) }) })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Begins a read transaction on the last committed state.
    #[must_use]
    pub fn begin_read(&self) -> ReadTxn {
        ReadTxn::begin(self.store())
    }

    /// Begins the write transaction; waits while another one is open, or a defragmentation.
    pub fn begin_write(&self) -> Result<WriteTxn<'_>> {
        WriteTxn::begin(self.shared.writer.lock())
    }

    /// A copy of the last committed state as a stream.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotReader {
        SnapshotReader::new(self.begin_read())
    }

    /// Writes the database anew without its free pages and takes the new file into use. Writers wait meanwhile;
    /// readers go on, those already open on the old file.
    pub fn defragment(&self) -> Result<()> {
        self.defragment_while(&|| true)
    }

    /// The same as long as it is wanted, which is asked every now and then. If it is not, everything is as before.
    pub fn defragment_while(&self, is_wanted: &dyn Fn() -> bool) -> Result<()> {
        let mut writer = self.shared.writer.lock();
        writer.store.check_writable()?;
        let from = ReadTxn::begin(writer.store.clone());
        *writer = defragment::rewrite(&from, &self.shared.path, &self.shared.options, is_wanted)?;
        *self.shared.store.lock() = writer.store.clone();
        Ok(())
    }

    /// Writes nothing more and lets another process open the file. What is read from here on may be of that process, so
    /// only a reader that is about to end may still be there.
    pub fn close(&self) {
        let writer = self.shared.writer.lock();
        writer.store.poison();
        if let Err(error) = writer.store.file.unlock() {
            // The lock goes with the last handle then.
            tracing::warn!(%error, path = %self.shared.path.display(), "cannot unlock the db file");
        }
    }

    /// Opens the file at `from`, which is to take the place of this database. Errors name this database.
    ///
    /// Reads all of it, as [`Db::open_showing`] does. It must be on the same file system, and durable.
    pub fn open_replacement(&self, from: PathBuf, bucket: &[u8], leaf: &mut dyn FnMut(Leaf)) -> Result<Replacement> {
        let writer = open_writer(&from, &self.shared.path, &self.shared.options, Some(Show { bucket, leaf }))?;
        Ok(Replacement { from, writer })
    }

    /// Puts another file in the place of this database and takes it into use; which file it was before no crash leaves
    /// in doubt. Readers already open go on with what they began with.
    pub fn replace(&self, replacement: Replacement) -> Result<()> {
        let Replacement { from, writer: new } = replacement;
        let mut writer = self.shared.writer.lock();
        writer.store.check_writable()?;
        *writer = defragment::switch(&from, &writer.store, new, &self.shared.path, &self.shared.options)?;
        *self.shared.store.lock() = writer.store.clone();
        Ok(())
    }

    /// The size of the database as etcd reports it (`dbSize`): the bytes its pages reach to, free ones included. The
    /// file itself is up to 16 MiB longer.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.store().state(|state| state.meta.size())
    }

    /// The part of [`size`](Self::size) that is not free (`dbSizeInUse`).
    #[must_use]
    pub fn size_in_use(&self) -> u64 {
        let store = self.store();
        store.state(|state| state.meta.size() - state.free_pages * store.page_size as u64)
    }

    /// The transaction id of the last commit.
    #[must_use]
    pub fn txid(&self) -> u64 {
        self.store().state(|state| state.meta.txid)
    }

    /// How many read transactions are open on the current file.
    #[must_use]
    pub fn open_readers(&self) -> usize {
        self.store().state(|state| state.pins.values().sum())
    }

    fn store(&self) -> Arc<Store> {
        self.shared.store.lock().clone()
    }
}

/// Both meta pages are within, whatever the size of a page.
const HEAD_BYTES_MAX: u64 = 2 << 16;

/// Opens the file at `path`, creating it unless it is to be read only; errors will name it `name`.
fn open_writer(path: &Path, name: &Path, options: &Options, show: Option<Show<'_>>) -> Result<Writer> {
    let failed = |operation: &'static str| {
        let path = name.to_path_buf();
        move |source| Error::Io { path, operation, offset: 0, source }
    };
    let disk = &*options.disk;
    let (file, locked) = if options.read_only {
        let file = disk.open_read_only(path).map_err(failed("open"))?;
        let locked = file.try_lock_shared();
        (file, locked)
    } else {
        let file = if disk.exists(path) { disk.open(path) } else { disk.create(path) }.map_err(failed("open"))?;
        let locked = file.try_lock();
        (file, locked)
    };
    if !locked.map_err(failed("lock"))? {
        return Err(Error::Locked { path: name.to_path_buf() });
    }
    if !options.read_only && options.sync {
        // What the last process wrote is durable now or never. The only pages that a failed fsync of its may have left in
        // memory, and that are believed, are meta pages: others count once a meta page that was written after them does.
        file.sync_data().map_err(failed("fsync"))?;
        file.forget(HEAD_BYTES_MAX).map_err(failed("fadvise"))?;
    }
    let mut length = file.len().map_err(failed("stat"))?;
    if !options.read_only && is_uncreated(&*file, length, options.page_size).map_err(failed("read"))? {
        let image = meta::fresh_image(options.page_size);
        file.write_at(&image, 0).map_err(failed("write"))?;
        reach(Point::DbCreated);
        if options.sync {
            file.sync_data().map_err(failed("fsync"))?;
            disk.sync_dir(defragment::directory(path)).map_err(failed("fsync of the directory"))?;
        }
        length = length.max(image.len() as u64);
    }
    let meta = read_meta(&*file, name)?;
    if meta.size() > length {
        return Err(Error::Truncated { path: name.to_path_buf(), length, promised: meta.size() });
    }
    let store = Store::new(name.to_path_buf(), file, meta, options.read_only);
    let used = survey::used_pages(&store, &meta, show)?;
    let freelist = Freelist::new(&used, meta.high_water);
    store.state(|state| state.free_pages = freelist.free_count());
    if !options.read_only && options.sync {
        // The process before this one may have ended between giving the file its name and making that durable.
        disk.sync_dir(defragment::directory(path)).map_err(failed("fsync of the directory"))?;
    }
    Ok(Writer { store: Arc::new(store), freelist, length, growth: options.growth, sync: options.sync })
}

/// Whether the file is new, or its creation was cut short before anything could be committed. What the disk says of its
/// length is not enough to write over it.
fn is_uncreated(file: &dyn DiskFile, length: u64, page_size: usize) -> std::io::Result<bool> {
    let image_bytes = page_size * 4;
    if length > image_bytes as u64 {
        return Ok(false);
    }
    let mut content = vec![0; image_bytes + 1];
    let read = file.read_at(&mut content, 0)?;
    if read as u64 != length {
        return Err(std::io::Error::other(format!("the disk says the file has {length} bytes, and gave {read}")));
    }
    content.truncate(read);
    Ok(meta::is_torn_creation(&content, page_size))
}

/// The newest valid meta page.
fn read_meta(file: &dyn DiskFile, name: &Path) -> Result<Meta> {
    let read = |offset: u64| {
        let mut bytes = [0; META_LENGTH];
        let read = file.read_at(&mut bytes, offset).map_err(|error| error.to_string())?;
        if read < META_LENGTH {
            return Err(format!("the file ends {read} bytes into it"));
        }
        let meta = Meta::read(&bytes).map_err(|flaw| format!("expected {}, found {}", flaw.expected, flaw.found))?;
        // Page 1 stands at the page size, so the meta there must say the same.
        if offset != 0 && offset != meta.page_size as u64 {
            return Err(format!("page size {} at byte {offset}", meta.page_size));
        }
        Ok(meta)
    };
    let first = read(0);
    let second = match &first {
        Ok(first) => read(first.page_size as u64),
        // The page size is not known then: every one is tried.
        Err(_) => (10..=16).map(|shift| read(1 << shift)).find(Result::is_ok).unwrap_or_else(|| read(4096)),
    };
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(if first.txid > second.txid { first } else { second }),
        (Ok(meta), Err(_)) | (Err(_), Ok(meta)) => Ok(meta),
        (Err(first), Err(second)) => Err(Error::NoMeta { path: name.to_path_buf(), first, second }),
    }
}
