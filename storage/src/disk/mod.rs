//! What the log and the snapshot files ask of a disk, and the disk of the operating system.
//!
//! Everything that must survive a crash goes through [`Disk`], so that a test can put [`sim::SimDisk`] under the same
//! code and lose, tear or refuse writes at will. The trait speaks in the terms durability is argued in: bytes are
//! durable after [`DiskFile::sync_data`], names are durable after [`Disk::sync_dir`], and not before.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    num::NonZeroU64,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::Path,
};

pub mod sim;
mod work;

pub use self::work::Work;

/// A file system, as far as the write-ahead log and snapshot files need one.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file that will not be written.
    fn open_read_only(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }
    /// Creates a file (mode 0600), or empties the one of that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Creates a directory and its parents (mode 0700); an existing one is no error.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or a directory; a file of the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes one file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with its content; a missing one is no error.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, ascending.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Whether the path names anything.
    fn exists(&self, path: &Path) -> bool;
    /// Makes the creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// What is left of the file system that holds a path.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Whether everything about this disk happens in the calling thread.
    fn is_simulated(&self) -> bool {
        false
    }
}

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What this user may still write.
    pub free: u64,
    pub total: u64,
}

/// An open file. Dropping it releases its lock.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// The length of the file, preallocated space included.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads at `offset` until `buf` is full or the file ends; returns how many bytes were read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the written bytes durable, and of the metadata what is needed to read them.
    ///
    /// After an error nothing is known about any byte written since the last success: the caller must not retry.
    fn sync_data(&self) -> io::Result<()>;
    /// Has the first `len` bytes read from the disk again, not from what the system keeps of them in memory. That differs
    /// after a failed sync, which the system does not repeat; a process that comes after it cannot know. To be called after
    /// [`DiskFile::sync_data`]: what waits to be written is not forgotten.
    fn forget(&self, len: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space so that the file reads as zeros up to `len`.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// As [`DiskFile::allocate`], if there is room; if not, the file grows as it is written.
    fn preallocate(&self, len: u64) -> io::Result<()> {
        match self.allocate(len) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            result => result,
        }
    }
    /// Takes an exclusive lock, or says `false` when another opener holds one.
    fn try_lock(&self) -> io::Result<bool>;
    /// Takes a lock that others may share, or says `false` when another opener holds an exclusive one.
    fn try_lock_shared(&self) -> io::Result<bool>;
    /// Gives a lock up while the file stays open.
    fn unlock(&self) -> io::Result<()>;
}

/// Creates a directory and its parents, and makes the names of those that are new durable.
pub fn create_dir_all_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let parents = parents_of_missing(path, |path| disk.exists(path));
    disk.create_dir_all(path)?;
    parents.iter().try_for_each(|parent| disk.sync_dir(parent))
}

/// The directories that get a new name when `path` is created, the innermost first.
fn parents_of_missing(path: &Path, exists: impl Fn(&Path) -> bool) -> Vec<&Path> {
    let named = path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty());
    let missing = named.take_while(|ancestor| !exists(ancestor));
    let parents = missing.filter_map(Path::parent);
    parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).collect()
}

/// The file system of the operating system.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OsFile(File::open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(OsFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }
}

#[derive(Debug)]
struct OsFile(File);

impl OsFile {
    fn flock(&self, operation: rustix::fs::FlockOperation) -> io::Result<bool> {
        match rustix::fs::flock(&self.0, operation) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget(&self, len: u64) -> io::Result<()> {
        // Zero would mean all.
        let Some(len) = NonZeroU64::new(len) else { return Ok(()) };
        Ok(rustix::fs::fadvise(&self.0, 0, Some(len), rustix::fs::Advice::DontNeed)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            // tmpfs of old kernels, overlay and network file systems: a hole reads as zeros too.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.0.set_len(len),
            result => Ok(result?),
        }
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.flock(rustix::fs::FlockOperation::NonBlockingLockExclusive)
    }

    fn try_lock_shared(&self) -> io::Result<bool> {
        self.flock(rustix::fs::FlockOperation::NonBlockingLockShared)
    }

    fn unlock(&self) -> io::Result<()> {
        self.flock(rustix::fs::FlockOperation::Unlock).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_that_gets_a_name_is_synced() {
        let parents = |path: &'static str, there: &'static [&str]| {
            parents_of_missing(Path::new(path), |path| there.iter().any(|there| path == Path::new(there)))
        };
        let paths = |names: &'static [&str]| names.iter().map(Path::new).collect::<Vec<_>>();
        assert_eq!(parents("/a/b/c", &["/", "/a"]), paths(&["/a/b", "/a"]));
        assert_eq!(parents("/a", &["/", "/a"]), paths(&[]));
        assert_eq!(parents("default.etcd", &[]), paths(&["."]));
        assert_eq!(parents("x/y", &["x"]), paths(&["x"]));
    }

    #[test]
    fn directories_are_made_where_they_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_dir_all_durably(&OsDisk, &path).unwrap();
        create_dir_all_durably(&OsDisk, &path).unwrap();
        assert!(path.is_dir());
    }
}
