//! What `etcdutl snapshot status` says of a file.

use std::collections::HashSet;

use forebay_proto::mvccpb::KeyValue;
use prost::Message as _;

use super::{Error, KEY, RevisionKey, malformed, read_storage_version, snapshot_hash};
use crate::db::ReadTxn;

/// A file in five facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Over every bucket, key and value.
    pub hash: u32,
    /// The last revision in the file.
    pub revision: i64,
    /// Keys that are not deleted.
    pub total_keys: usize,
    /// Bytes of the database, free pages included.
    pub total_size: u64,
    /// The version of the schema, since 3.6.
    pub version: Option<String>,
}

/// Reads through the whole file. Takes memory for every live key.
pub fn read_status(txn: &ReadTxn) -> Result<Status, Error> {
    let mut live: HashSet<Vec<u8>> = HashSet::new();
    let mut revision = 0;
    let mut wrong = None;
    if let Some(bucket) = txn.bucket(KEY)? {
        bucket.for_each(|key, value| match (RevisionKey::parse(key), KeyValue::decode(value)) {
            (Some((main, _, tombstone)), Ok(record)) => {
                revision = main;
                if tombstone {
                    live.remove(&record.key[..]);
                } else {
                    live.insert(record.key.to_vec());
                }
            }
            _ => wrong = wrong.take().or_else(|| Some(key.to_vec())),
        })?;
    }
    if let Some(key) = wrong {
        return Err(malformed(KEY, &key, "a revision and a KeyValue"));
    }
    Ok(Status {
        hash: snapshot_hash(txn)?,
        revision,
        total_keys: live.len(),
        total_size: txn.size(),
        version: read_storage_version(txn)?,
    })
}
