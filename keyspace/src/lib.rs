//! The multi-version keyspace: what server and gateway have in common.
//!
//! A server applies raft entries to a keyspace, a gateway applies an upstream watch to one; ranges, txns and watches are
//! answered by the same code from there on. The crate decides and never does: no file, socket, thread, clock or random
//! number, and nothing whose order depends on a hash.

pub mod check;
pub mod record;
mod tree;
mod varint;
pub mod watch;

pub use record::{Batch, Change, Form, Put, RecordError, Revision, Version};
