//! `hashkv`: the hash by which members compare their history, computed from a file.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::Duration,
};

use forebay_proto::mvccpb::KeyValue;
use forebay_storage::{
    db::ReadTxn,
    schema::{self, KEY, RevisionKey},
};
use prost::Message as _;
use serde::Serialize;

use crate::{Error, Result, files, table::Facts};

/// The hash of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HashKv {
    /// Over the versions of bucket `key` that count.
    pub hash: u32,
    /// The revision up to which.
    #[serde(rename = "hashRevision")]
    pub revision: i64,
    /// The last compaction, or -1.
    #[serde(rename = "compactRevision")]
    pub compact_revision: i64,
}

/// Hashes the history of a file up to `revision`; 0 for its last.
///
/// Unlike etcdutl, this does not finish a compaction that the file says was begun: nothing is written.
pub fn hash_file(path: &Path, revision: i64, wait: Duration) -> Result<HashKv> {
    let db = files::open_read_only(path, wait)?;
    hash(&db.begin_read(), path, revision)
}

/// Hashes what a read transaction sees. Takes memory for each key that has versions at or before the last compaction.
pub fn hash(txn: &ReadTxn, path: &Path, revision: i64) -> Result<HashKv> {
    let (scheduled, finished) = schema::read_compactions(txn).map_err(Error::schema(path))?;
    let compacted = scheduled.max(finished);
    let last = last_revision(txn)?.max(compacted.unwrap_or(0)).max(1);
    let revision = if revision == 0 { last } else { revision };
    if revision > last {
        return Err(Error::refused_with(
            "mvcc: required revision is a future revision",
            format!("the file ends with revision {last}"),
        ));
    }
    if compacted.is_some_and(|compacted| revision < compacted) {
        return Err(Error::refused_with(
            "mvcc: required revision has been compacted",
            format!("the file begins with revision {}", compacted.unwrap_or(0)),
        ));
    }
    let kept = kept(txn, path, revision)?;
    let mut hash = crc32c::crc32c(KEY);
    if let Some(bucket) = txn.bucket(KEY)? {
        bucket.for_each(|key, value| {
            let Some((main, sub, tombstone)) = RevisionKey::parse(key) else { return };
            let is_compacted = compacted.is_some_and(|compacted| main <= compacted);
            let counts = main <= revision
                && (!is_compacted || kept.counts(main, sub))
                && !(tombstone && compacted == Some(main));
            if counts {
                hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
            }
        })?;
    }
    Ok(HashKv { hash, revision, compact_revision: compacted.unwrap_or(-1) })
}

/// The last revision in bucket `key`; 0 if there is none.
pub(crate) fn last_revision(txn: &ReadTxn) -> Result<i64> {
    let last = txn.bucket(KEY)?.map(|bucket| bucket.last()).transpose()?.flatten();
    Ok(last.and_then(|(key, _)| RevisionKey::parse(&key)).map_or(0, |(main, _, _)| main))
}

/// Which versions a compaction at the hashed revision would keep.
struct Kept(HashSet<(i64, i64)>);

impl Kept {
    /// If it would keep nothing at all, everything counts.
    fn counts(&self, main: i64, sub: i64) -> bool {
        self.0.is_empty() || self.0.contains(&(main, sub))
    }
}

fn kept(txn: &ReadTxn, path: &Path, revision: i64) -> Result<Kept> {
    let mut newest: HashMap<Vec<u8>, (i64, i64)> = HashMap::new();
    let mut deleted: HashSet<Vec<u8>> = HashSet::new();
    let mut wrong = None;
    if let Some(bucket) = txn.bucket(KEY)? {
        bucket.for_each(|key, value| {
            let (Some((main, sub, tombstone)), Ok(record)) = (RevisionKey::parse(key), KeyValue::decode(value)) else {
                wrong = wrong.take().or_else(|| Some(key.escape_ascii().to_string()));
                return;
            };
            match tombstone {
                _ if main > revision => {}
                true => {
                    newest.remove(&record.key[..]);
                    // A key may be deleted and put again within one revision. etcd looks at the deletion then.
                    if main == revision {
                        deleted.insert(record.key.to_vec());
                    }
                }
                false if main == revision && deleted.contains(&record.key[..]) => {}
                false => drop(newest.insert(record.key.to_vec(), (main, sub))),
            }
        })?;
    }
    match wrong {
        Some(key) => Err(Error::refused(format!("{}: bucket key, key {key}: expected a version", path.display()))),
        None => Ok(Kept(newest.into_values().collect())),
    }
}

/// A hash as etcdutl prints it.
#[must_use]
pub fn facts(hash: &HashKv) -> Facts {
    let row = vec![hash.hash.to_string(), hash.revision.to_string(), hash.compact_revision.to_string()];
    Facts {
        json: serde_json::to_string(hash).expect("three numbers always serialize"),
        head: vec!["hash", "hash revision", "compact revision"],
        fields: ["Hash", "Hash revision", "Compact revision"].into_iter().zip(row.clone()).collect(),
        row,
    }
}
