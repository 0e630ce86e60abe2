//! What can go wrong with a database file.

use std::io;
use std::path::PathBuf;

/// Every way in which the engine refuses or fails.
///
/// Nothing here is worth a retry on the same [`Db`](super::Db) except [`Error::NoSpace`]: that commit was undone as a
/// whole, and the next one may fit once space was freed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation on the file.
    #[error("{}: {operation} at byte {offset}: {source}", path.display())]
    Io { path: PathBuf, operation: &'static str, offset: u64, source: io::Error },
    /// The file could not grow. Nothing of the transaction is in the file.
    #[error("{}: no space to grow to {length} bytes: {source}", path.display())]
    NoSpace { path: PathBuf, length: u64, source: io::Error },
    /// The file was to be written anew until somebody wanted to write to it.
    #[error("{}: not written anew, since writers would wait for it", path.display())]
    GivenUp { path: PathBuf },
    /// Another process has the file open.
    #[error("{}: locked by another process", path.display())]
    Locked { path: PathBuf },
    /// Neither meta page is usable, so this is no database or its head is lost.
    #[error("{}: no valid meta page (page 0 at byte 0: {first}; page 1: {second})", path.display())]
    NoMeta { path: PathBuf, first: String, second: String },
    /// The file ends before the pages that its meta page promises.
    #[error("{}: cut off at byte {length}: expected {promised} bytes, as the meta page says, found {length}", path.display())]
    Truncated { path: PathBuf, length: u64, promised: u64 },
    /// A page does not hold what its place in the tree requires.
    #[error("{}: page {page} at byte {offset}: expected {expected}, found {found}", path.display())]
    Corrupt { path: PathBuf, page: u64, offset: u64, expected: &'static str, found: String },
    /// An earlier write or fsync failed, so what the file holds is unknown until it is opened again.
    #[error("{}: refusing to write after an earlier write or fsync failed", path.display())]
    Poisoned { path: PathBuf },
    /// A change failed in a way that left the transaction half done. It can only be dropped.
    #[error("{}: refusing to commit after a change of the transaction failed", path.display())]
    Broken { path: PathBuf },
    /// A write transaction on a file opened read-only.
    #[error("{}: opened read-only", path.display())]
    ReadOnly { path: PathBuf },
    /// The bucket does not exist.
    #[error("bucket {:?} not found", String::from_utf8_lossy(.0))]
    NoBucket(Vec<u8>),
    /// A key names a bucket where a value is wanted, or the reverse.
    #[error("key {:?} holds a bucket where a value is wanted, or the reverse", String::from_utf8_lossy(.0))]
    WrongKind(Vec<u8>),
    /// Keys have 1 to 32768 bytes.
    #[error("key of {0} bytes, allowed are 1 to 32768")]
    KeySize(usize),
    /// Values have at most 1 GiB: a page of up to four then keeps its 32-bit offsets, which bbolt does not look after.
    #[error("value of {0} bytes, allowed are at most 1073741824")]
    ValueSize(usize),
}

impl Error {
    /// Whether the file is not what was written: no other attempt to open it will do.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::NoMeta { .. } | Self::Truncated { .. } | Self::Corrupt { .. })
    }

    /// Whether the disk is full, whichever call noticed it.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a page, before the page's number and file are known.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) expected: &'static str,
    pub(super) found: String,
}

impl Flaw {
    pub(super) fn new(expected: &'static str, found: impl Into<String>) -> Self {
        Self { expected, found: found.into() }
    }
}
