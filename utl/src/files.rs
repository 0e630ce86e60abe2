//! Which files a path means, and opening them.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use forebay_storage::db::{self, Db, Options};

use crate::error::{Context as _, Error, Result};

/// Bytes of the SHA-256 behind a saved snapshot.
pub const DIGEST: usize = 32;

/// Between two attempts to get a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The db file that a path means: the one of a data directory, or the path itself.
#[must_use]
pub fn db_path(path: &Path) -> PathBuf {
    if path.is_dir() { snap_dir(path).join("db") } else { path.to_owned() }
}

/// Where a data directory has its db file and snapshot files.
#[must_use]
pub fn snap_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("member/snap")
}

/// Where a data directory has its log.
#[must_use]
pub fn wal_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("member/wal")
}

/// Opens a db file for reading; nothing of it is changed. Every page that is in use is checked on the way.
///
/// A member that runs holds the lock of its file, and goes on changing it: the file is refused once `wait` is over.
/// Zero waits for ever, as etcd's tools do.
pub fn open_read_only(path: &Path, wait: Duration) -> Result<Db> {
    exists(path)?;
    open(path, wait, &Options { read_only: true, ..Options::default() })
}

/// Opens a db file to be changed, waiting for its lock.
pub fn open_read_write(path: &Path, wait: Duration) -> Result<Db> {
    exists(path)?;
    open(path, wait, &Options::default())
}

/// A typing error must not create a database.
fn exists(path: &Path) -> Result<()> {
    std::fs::metadata(path).map(drop).context("open", path)
}

fn open(path: &Path, wait: Duration, options: &Options) -> Result<Db> {
    let began = Instant::now();
    loop {
        match Db::open(path, options.clone()) {
            Err(db::Error::Locked { .. }) if wait.is_zero() || began.elapsed() < wait => thread::sleep(LOCK_PAUSE),
            opened => return Ok(opened?),
        }
    }
}

/// Whether a file of this length is a db file with its digest behind it. Pages are multiples of a sector.
#[must_use]
pub fn has_digest(len: u64) -> bool {
    len % 512 == DIGEST as u64
}

/// Reads the digest behind a saved snapshot, and the length of the db file before it.
pub fn digest(path: &Path) -> Result<(u64, Option<[u8; DIGEST]>)> {
    let mut file = File::open(path).context("open", path)?;
    let len = file.metadata().context("look at", path)?.len();
    if !has_digest(len) {
        return Ok((len, None));
    }
    let mut digest = [0; DIGEST];
    file.seek(SeekFrom::End(-(DIGEST as i64))).context("read", path)?;
    file.read_exact(&mut digest).context("read", path)?;
    Ok((len - DIGEST as u64, Some(digest)))
}

/// Refuses a directory with something in it.
pub(crate) fn must_be_empty(dir: &Path) -> Result<()> {
    match std::fs::read_dir(dir) {
        Ok(mut names) => match names.next() {
            None => Ok(()),
            Some(_) => Err(Error::refused_with(
                format!("data-dir {dir:?} not empty or could not be read"),
                "name a directory that does not exist yet; nothing is ever written over",
            )),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { action: "list", path: dir.to_owned(), source }),
    }
}
