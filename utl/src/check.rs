//! `check`: whether a file, or all files of a member, are whole and agree with each other.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use forebay_proto::{etcdserverpb::Metadata, mvccpb::KeyValue, raftpb::HardState};
use forebay_storage::{
    db::{Db, ReadTxn},
    disk::OsDisk,
    schema::{self, BUCKETS, KEY, RevisionKey},
    wal::{
        WalError,
        scan::{From, Scan, Scanned},
    },
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Context as _, Error, Result},
    files, migrate,
};

/// One thing that was looked at.
#[derive(Debug)]
pub struct Check {
    /// What.
    pub what: &'static str,
    /// What was found, or why it is wrong.
    pub found: Result<String>,
}

/// Looks at everything: of a data directory the db file, the log, and whether the two agree; of a file its digest if it
/// has one, and the db. What depends on something that is wrong is left out. A data directory may have its log elsewhere.
#[must_use]
pub fn check(path: &Path, wal_dir: Option<&Path>, wait: Duration) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut look = |what: &'static str, found: Result<String>| {
        let good = found.is_ok();
        checks.push(Check { what, found });
        good
    };
    let db_path = files::db_path(path);
    if !path.is_dir() {
        look("digest", digest(path));
    }
    let mut applied = None;
    match files::open_read_only(&db_path, wait) {
        Err(error) => {
            look("pages", Err(error));
        }
        Ok(db) => {
            look("pages", Ok(pages(&db)));
            let txn = db.begin_read();
            look("buckets", buckets(&txn, &db_path));
            look("keys", keys(&txn, &db_path));
            applied = schema::read_applied(&txn).ok();
        }
    }
    if path.is_dir() {
        let log = log(&wal_dir.map_or_else(|| files::wal_dir(path), Path::to_owned));
        let range = log.as_ref().ok().map(|log| (log.first.unwrap_or(0), log.last));
        if look("log", log.map(|log| log.to_string()))
            && let (Some((index, _)), Some((first, last))) = (applied, range)
        {
            look("agreement", agreement(&db_path, index, first, last));
        }
    }
    checks
}

/// All in one: the first thing that is wrong.
pub fn must_be_whole(path: &Path, wait: Duration) -> Result<()> {
    check(path, None, wait).into_iter().try_for_each(|check| check.found.map(drop))
}

fn digest(path: &Path) -> Result<String> {
    let (len, Some(expected)) = files::digest(path)? else {
        return Ok("none: a file of a data directory, not a saved snapshot".to_owned());
    };
    let file = std::fs::File::open(path).context("open", path)?;
    let mut hash = Sha256::new();
    std::io::copy(&mut std::io::Read::take(file, len), &mut hash).context("read", path)?;
    if hash.finalize()[..] == expected {
        return Ok(format!("sha256 matches {len} bytes"));
    }
    Err(Error::refused_with(
        format!("{}: expected the sha256 in its last {} bytes, found another", path.display(), files::DIGEST),
        "the file was changed after it was saved: use another copy of it, or an older snapshot",
    ))
}

fn pages(db: &Db) -> String {
    format!("{} bytes, {} of them in use, txid {}", db.size(), db.size_in_use(), db.txid())
}

fn buckets(txn: &ReadTxn, path: &Path) -> Result<String> {
    let names = txn.buckets()?;
    if let Some(missing) = BUCKETS.iter().find(|bucket| !names.iter().any(|name| name == *bucket)) {
        return Err(Error::refused_with(
            format!("{}: expected bucket {}, found none", path.display(), missing.escape_ascii()),
            "this is no etcd database",
        ));
    }
    let wrong = || Error::schema(path);
    let leases = schema::read_leases(txn).map_err(wrong())?.len();
    let alarms = schema::read_alarms(txn).map_err(wrong())?.len();
    let auth = schema::read_auth(txn).map_err(wrong())?;
    let membership = schema::read_membership(txn).map_err(wrong())?;
    let (index, term) = schema::read_applied(txn).map_err(wrong())?;
    schema::read_conf_state(txn).map_err(wrong())?;
    schema::read_compactions(txn).map_err(wrong())?;
    let version = schema::read_storage_version(txn).map_err(wrong())?;
    version.as_deref().map_or(Ok(()), |version| migrate::must_be_known(path, version))?;
    Ok(format!(
        "index {index} in term {term}, {} members, {leases} leases, {alarms} alarms, {} users, {} roles, storage version \
         {}",
        membership.members.len(),
        auth.users.len(),
        auth.roles.len(),
        version.as_deref().unwrap_or("3.5 or older")
    ))
}

/// The history of each key must be one that can have been written.
fn keys(txn: &ReadTxn, path: &Path) -> Result<String> {
    let (scheduled, finished) = schema::read_compactions(txn).map_err(Error::schema(path))?;
    let compacted = scheduled.max(finished).unwrap_or(0);
    // Create revision and version of keys that are not deleted.
    let mut live: HashMap<Vec<u8>, (i64, i64)> = HashMap::new();
    let (mut versions, mut last) = (0u64, 0);
    let mut wrong: Option<(String, String)> = None;
    if let Some(bucket) = txn.bucket(KEY)? {
        bucket.for_each(|key, value| {
            if wrong.is_none() {
                wrong =
                    version(key, value, compacted, &mut live).err().map(|why| (key.escape_ascii().to_string(), why));
            }
            last = RevisionKey::parse(key).map_or(last, |(main, _, _)| main);
            versions += 1;
        })?;
    }
    if let Some((key, why)) = wrong {
        return Err(Error::refused_with(
            format!("{}: bucket key, key {key}: {why}", path.display()),
            "a member of a cluster heals when it is removed, emptied and added anew; alone, restore a snapshot",
        ));
    }
    Ok(format!("{} keys, {versions} versions, revision {last}, compacted at {compacted}", live.len()))
}

fn version(key: &[u8], value: &[u8], compacted: i64, live: &mut HashMap<Vec<u8>, (i64, i64)>) -> Result<(), String> {
    let (main, sub, tombstone) = RevisionKey::parse(key).ok_or("expected a revision as key")?;
    if main < 1 || sub < 0 {
        return Err(format!("expected a revision above 0, found {main} {sub}"));
    }
    // What a restore with a bumped revision leaves.
    if value.is_empty() {
        return Ok(());
    }
    let record = KeyValue::decode(value).map_err(|error| format!("expected a KeyValue, found {error}"))?;
    if tombstone {
        live.remove(&record.key[..]);
        return Ok(());
    }
    let (create, version) = (record.create_revision, record.version);
    if record.mod_revision != main || create > main || version < 1 {
        return Err(format!(
            "expected mod revision {main}, found created {create}, mod {}, version {version}",
            record.mod_revision
        ));
    }
    let expected = match live.get(&record.key[..]) {
        Some((create, version)) => Some((*create, version + 1)),
        None if version == 1 => Some((main, 1)),
        // Its earlier versions were compacted away.
        None if create <= compacted => None,
        None => {
            return Err(format!("expected the first version of a key created at {create}, found version {version}"));
        }
    };
    if let Some(expected) = expected.filter(|expected| *expected != (create, version)) {
        return Err(format!("expected created and version to be {expected:?}, found {:?}", (create, version)));
    }
    live.insert(record.key.to_vec(), (create, version));
    Ok(())
}

/// What a log holds.
#[derive(Debug, Default)]
struct Log {
    metadata: Metadata,
    state: HardState,
    /// The index before the first entry, as the first record that has one tells.
    first: Option<u64>,
    last: u64,
    entries: u64,
    torn: Option<(PathBuf, u64)>,
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { metadata, state, last, entries, torn, .. } = self;
        write!(
            f,
            "member {:x} of cluster {:x}, {entries} entries up to index {last}, committed {}, term {}",
            metadata.node_id(),
            metadata.cluster_id(),
            state.commit(),
            state.term()
        )?;
        match torn {
            Some((path, offset)) => write!(f, "; torn at {} byte {offset}: cut off at the next start", path.display()),
            None => Ok(()),
        }
    }
}

fn log(dir: &Path) -> Result<Log> {
    let mut log = Log::default();
    let mut metadata: Option<Vec<u8>> = None;
    let mut term = 0;
    let wrong = |expected: String, found: String| Err((expected, found));
    let end = Scan::new(Arc::new(OsDisk), dir).run(From::Start, &mut |_, record| {
        match record {
            Scanned::Crc(_) => {}
            Scanned::Metadata(bytes) => {
                if metadata.as_ref().is_some_and(|metadata| metadata != bytes) {
                    return wrong("the metadata of the segments before".into(), "another".into());
                }
                metadata = Some(bytes.to_vec());
                log.metadata = Metadata::decode(bytes)
                    .map_err(|error| ("the ids of member and cluster".to_owned(), error.to_string()))?;
            }
            Scanned::State(state) => {
                if (state.term(), state.commit()) < (log.state.term(), 0) || state.commit() < log.state.commit() {
                    return wrong(format!("a state not before {:?}", log.state), format!("{state:?}"));
                }
                log.state = state;
            }
            Scanned::Snapshot(snapshot) => {
                if log.entries == 0 {
                    log.first = Some(snapshot.index());
                }
                log.last = log.last.max(snapshot.index());
            }
            Scanned::Entry(entry) => {
                let index = entry.index();
                if log.entries == 0 {
                    let before = index.saturating_sub(1);
                    log.first = Some(log.first.map_or(before, |first| first.min(before)));
                    log.last = log.last.max(before);
                }
                if index > log.last.saturating_add(1) {
                    return wrong(format!("an entry up to index {}", log.last + 1), format!("index {index}"));
                }
                if index > log.last && entry.term() < term {
                    return wrong(format!("a term from {term} on"), format!("term {}", entry.term()));
                }
                (log.last, term) = (index, entry.term());
                log.entries += 1;
            }
        }
        Ok(())
    })?;
    let (commit, last) = (log.state.commit(), log.last);
    if commit > last {
        return Err(WalError::CommitBeyondLog { path: end.path, offset: end.offset, commit, last }.into());
    }
    log.torn = end.is_torn.then_some((end.path, end.offset));
    Ok(log)
}

fn agreement(path: &Path, index: u64, first: u64, last: u64) -> Result<String> {
    if (first..=last).contains(&index) {
        return Ok(format!("the db file is at index {index}, the log goes from {first} to {last}"));
    }
    Err(Error::refused_with(
        format!("{}: expected an index that the log knows, {first} to {last}, found {index}", path.display()),
        "the db file and the log are not of the same member, or one of them is older than the other: restore a snapshot \
         into a new --data-dir, or add the member to its cluster anew",
    ))
}
