//! The multi-version keyspace: what server and gateway have in common.
//!
//! A server applies raft entries to a keyspace, a gateway applies an upstream watch to one; ranges, txns and watches are
//! answered by the same code from there on. The crate decides and never does: no file, socket, thread, clock or random
//! number, and nothing whose order depends on a hash.

pub mod check;
pub mod compact;
pub mod eval;
pub mod hash;
pub mod mirror;
pub mod reader;
pub mod record;
pub mod restore;
pub mod store;
mod tree;
mod varint;
pub mod watch;

pub use compact::CompactStep;
pub use hash::{HashJob, RevisionHash};
pub use reader::{Reader, Snapshot, View};
pub use record::{Batch, Change, Form, Put, RecordError, Revision, Version};
pub use restore::{Piece, Restore};
pub use store::{Keyspace, WriteTxn};
