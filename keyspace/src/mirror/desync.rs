//! What an upstream can say that contradicts what it said before.

use std::fmt;

use bytes::Bytes;

/// Why a mirror can no longer be right. Fatal for the mirror, not for its clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Desync {
    /// A key that was not asked for.
    #[error("key {key} at revision {revision} lies outside the mirrored ranges")]
    Foreign {
        /// Which.
        key: Key,
        /// The revision that told of it.
        revision: i64,
    },
    /// The upstream went back in revision, or told of a revision twice.
    #[error("revision {revision} comes after revision {current}")]
    Backwards {
        /// What came.
        revision: i64,
        /// What was known.
        current: i64,
    },
    /// A deletion of what is not there.
    #[error("key {key} is deleted at revision {revision} but was not there")]
    Unknown {
        /// Which.
        key: Key,
        /// When.
        revision: i64,
    },
    /// A put that does not continue the live record.
    #[error(
        "key {key} at revision {revision} is (create_revision, version) {told:?}, but {expected:?} would follow what is known"
    )]
    Discontinuous {
        /// Which.
        key: Key,
        /// When.
        revision: i64,
        /// The create_revision and version that came.
        told: (i64, i64),
        /// Those that would continue.
        expected: (i64, i64),
    },
    /// A list that has a key twice.
    #[error("key {key} is listed twice")]
    Twice {
        /// Which.
        key: Key,
    },
    /// A record or an event that no store writes: no key, no version, or revisions that cannot be.
    #[error("key {key} at revision {revision} is nothing that a store can hold")]
    Malformed {
        /// Which.
        key: Key,
        /// When.
        revision: i64,
    },
}

impl Desync {
    /// One word, for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Desync::Foreign { .. } => "foreign",
            Desync::Backwards { .. } => "backwards",
            Desync::Unknown { .. } => "unknown",
            Desync::Discontinuous { .. } => "discontinuous",
            Desync::Twice { .. } => "twice",
            Desync::Malformed { .. } => "malformed",
        }
    }
}

/// How much of a key is kept to be shown.
const SHOWN_MAX: usize = 128;

/// A key as it may be shown in a log: its beginning, escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key(Bytes);

impl Key {
    pub(super) fn of(key: &[u8]) -> Key {
        Key(Bytes::copy_from_slice(&key[..key.len().min(SHOWN_MAX)]))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}
