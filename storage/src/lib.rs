//! etcd's files: the write-ahead log, snapshot files and the db file.
//!
//! Synchronous and without opinion: what to write and when is the server's business, how it survives a crash is ours.

pub mod db;
pub mod disk;
pub mod failpoint;
pub mod identity;
pub mod schema;
pub mod snap;
pub mod wal;
