use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the log cannot be opened or written.
///
/// None of these is repaired by trying again: the member stops, and the text says what a human should look at.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk refused.
    #[error("wal: cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Another process has this log open.
    #[error("wal: {path} is locked by another process")]
    Locked { path: PathBuf },
    /// A new log was asked for where there is one.
    #[error("wal: {path} already exists")]
    Exists { path: PathBuf },
    /// The directory holds no segments, or not the ones it must.
    #[error("wal: {path}: expected {expected}, found {found}")]
    Segments { path: PathBuf, expected: String, found: String },
    /// Bytes that were once synced are not what was written. Not a torn write, so nothing is cut off.
    #[error("wal: {path} is damaged at offset {offset}: expected {expected}, found {found}")]
    Corrupt { path: PathBuf, offset: u64, expected: String, found: String },
    /// The log does not hold the snapshot that was asked for.
    #[error("wal: {path}: expected a snapshot record for index {index} in term {term}, found {found}")]
    Snapshot { path: PathBuf, index: u64, term: u64, found: String },
    /// The log promises more than it holds: its end was lost.
    #[error(
        "wal: {path} ends at offset {offset}: expected entries up to index {commit}, which are committed, found them up \
         to {last}"
    )]
    CommitBeyondLog { path: PathBuf, offset: u64, commit: u64, last: u64 },
    /// An earlier write or sync failed, so nothing is known about what is on the disk.
    #[error("wal: closed after an earlier failure: {cause}")]
    Poisoned { cause: String },
}

impl WalError {
    /// Whether the log is not what was written: no other attempt to open it will do.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. } | Self::Segments { .. } | Self::Snapshot { .. } | Self::CommitBeyondLog { .. }
        )
    }
}

/// Adds what was tried, and on what, to an I/O error.
pub(super) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, WalError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, WalError> {
        self.map_err(|source| WalError::Io { action, path: path.to_owned(), source })
    }
}
