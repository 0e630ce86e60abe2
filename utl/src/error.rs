//! Why a command fails, and what repairs it.

use std::{
    io,
    path::{Path, PathBuf},
};

use forebay_storage::{db, schema, snap::SnapError, wal::WalError};

/// Every way in which a command fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The db file cannot be read or written.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// The db file holds something else than etcd's state.
    #[error("{}: {source}", path.display())]
    Schema {
        /// Which.
        path: PathBuf,
        /// What it holds.
        source: schema::Error,
    },
    /// The log cannot be read or written.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// A snapshot file of raft cannot be read or written.
    #[error(transparent)]
    Snap(#[from] SnapError),
    /// Whoever reads the output takes no more.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// What was asked for cannot be.
    #[error("{text}")]
    Refused {
        /// Why.
        text: String,
        /// What to do instead.
        hint: Option<String>,
    },
}

/// What a command comes to.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A refusal without advice.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::Refused { text: text.into(), hint: None }
    }

    /// A refusal, and what to do.
    pub fn refused_with(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { text: text.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn schema(path: &Path) -> impl FnOnce(schema::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Schema { path, source }
    }

    /// What repairs it, as a command where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        const RESTORE: &str = "in a cluster it heals from the others: forebay utl heal --data-dir DIR --endpoints \
                               HOST:PORT of another member. Alone, restore a snapshot: forebay utl snapshot restore FILE \
                               --data-dir DIR";
        match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::Db(db::Error::Locked { .. }) | Self::Wal(WalError::Locked { .. }) => Some(
                "a member is running on it. Stop it, or take a copy: forebay utl snapshot save FILE --endpoints HOST:PORT"
                    .to_owned(),
            ),
            Self::Db(db::Error::NoMeta { .. }) => {
                Some(format!("this is no db file, or one that lost its head: {RESTORE}"))
            }
            Self::Schema { .. } => Some(RESTORE.to_owned()),
            Self::Db(error) if error.is_damage() => Some(RESTORE.to_owned()),
            Self::Wal(error) if error.is_damage() => Some(RESTORE.to_owned()),
            Self::Snap(SnapError::Broken { .. }) => {
                Some("an older snapshot file is used in its place if there is one; the member sets it aside".to_owned())
            }
            _ => None,
        }
    }
}

/// Adds what was tried, and on what, to an I/O error.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}
