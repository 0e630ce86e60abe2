//! `snapshot verify`: a backup is as good as its last restore, so this restores one.

use std::{path::Path, time::Duration};

use forebay_storage::schema::{self, Status};

use crate::{Error, Result, check, error::Context as _, files, hashkv, restore::Restore, status};

/// What was restored and found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What `snapshot status` says of the snapshot.
    pub status: Status,
    /// The hash of the history, the same before and after.
    pub hash: hashkv::HashKv,
}

/// Restores a snapshot into a directory in `scratch` that is removed again, checks every file of it, and compares the
/// history with the snapshot's. Takes the disk space of one more copy.
pub fn verify(snapshot: &Path, scratch: &Path, skip_hash_check: bool) -> Result<Verified> {
    let wait = Duration::from_secs(1);
    let status = status::status(snapshot)?;
    let before = hashkv::hash_file(snapshot, 0, wait)?;
    let dir = tempfile::Builder::new()
        .prefix("forebay-verify-")
        .tempdir_in(scratch)
        .context("make a directory in", scratch)?;
    let data_dir = dir.path().join("data");
    let url = "http://localhost:2380".to_owned();
    let restore = Restore {
        snapshot: snapshot.to_owned(),
        data_dir: data_dir.clone(),
        wal_dir: None,
        name: "default".to_owned(),
        peer_urls: vec![url.clone()],
        initial_cluster: vec![("default".to_owned(), vec![url])],
        token: "etcd-cluster".to_owned(),
        skip_hash_check,
        bump_revision: 0,
    };
    restore.run()?;
    check::must_be_whole(&data_dir, wait)?;
    let path = files::db_path(&data_dir);
    let db = files::open_read_only(&path, wait)?;
    let txn = db.begin_read();
    let after = hashkv::hash(&txn, &path, 0)?;
    let restored = schema::read_status(&txn).map_err(Error::schema(&path))?;
    if (after, restored.total_keys, restored.revision) != (before, status.total_keys, status.revision) {
        return Err(Error::refused(format!("restored is {after:?}, saved was {before:?}")));
    }
    Ok(Verified { status, hash: after })
}
