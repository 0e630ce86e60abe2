//! What is done to etcd's files while no member serves them: snapshots are looked at, restored and verified, files are
//! checked, hashed, defragmented and migrated, buckets and logs are printed, and space is put down to prefixes.
//!
//! The modules in reading order: [`files`] finds and opens what a path means, [`status`], [`restore`], [`verify`],
//! [`hashkv`], [`check`] and [`migrate`] are etcdutl's commands, [`heal`] replaces a damaged member, [`buckets`] and [`logs`] the dump tools', [`space`] is
//! the answer to what fills a database. [`table`], [`gotext`] and [`prototext`] print as etcd's tools do.
//!
//! Nothing holds a file in memory. What grows with a database is named where it does: some facts for each key.

pub mod error;
pub mod files;
mod prefixes;

pub mod buckets;
pub mod check;
pub mod hashkv;
pub mod heal;
pub mod logs;
pub mod migrate;
pub mod restore;
pub mod space;
pub mod status;
pub mod verify;

pub mod gotext;
pub mod prototext;
pub mod table;

pub use error::{Error, Result};
