//! `migrate`: the version of the schema that a db file says it has, which decides which releases of etcd take it.

use std::{path::Path, sync::Arc, time::Duration};

use forebay_proto::decode_raft_request;
use forebay_storage::{
    disk::OsDisk,
    schema::{self, META, STORAGE_VERSION},
    wal::scan::{From, Scan, Scanned},
};

use crate::{Error, Result, files};

/// Major and minor of a release.
pub type Version = (u64, u64);

/// The oldest that a file can be made for.
const OLDEST: Version = (3, 5);
/// The oldest that writes its version into the file.
const FIRST_NAMED: Version = (3, 6);
/// The newest whose files are known.
const NEWEST: Version = (3, 7);

/// Reads `3.6`.
pub fn parse(text: &str) -> Result<Version> {
    let numbers = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let version: Version = numbers
        .ok_or_else(|| Error::refused(format!("wrong target version format, expected \"X.Y\", got {text:?}")))?;
    if !(OLDEST..=NEWEST).contains(&version) {
        return Err(Error::refused_with(format!("target version {text:?} not supported"), "it may be 3.5, 3.6 or 3.7"));
    }
    Ok(version)
}

/// Refuses the version that a file says it is of, if it is newer than what is known here.
pub(crate) fn must_be_known(path: &Path, named: &str) -> Result<()> {
    let mut numbers = named.split('.').map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) > NEWEST => Err(Error::refused_with(
            format!(
                "{}: bucket meta, key storageVersion: expected at most {}.{}, found {named}",
                path.display(),
                NEWEST.0,
                NEWEST.1
            ),
            format!("start the release that wrote it and run: etcdctl downgrade enable {}.{}", NEWEST.0, NEWEST.1),
        )),
        _ => Ok(()),
    }
}

/// Makes the file of a stopped member say that it is of `target`, one release after the other; says what it did.
///
/// The schemas of 3.5 to 3.7 hold the same but for the field with the version. A log may hold what an older release
/// cannot apply: then its file is refused unless `force`.
pub fn migrate(data_dir: &Path, target: Version, force: bool, wait: Duration) -> Result<String> {
    let path = files::db_path(data_dir);
    let db = files::open_read_write(&path, wait)?;
    let named = schema::read_storage_version(&db.begin_read()).map_err(Error::schema(&path))?;
    named.as_deref().map_or(Ok(()), |named| must_be_known(&path, named))?;
    let current = named.as_deref().map_or(Ok(OLDEST), |text| {
        let minor = text.rsplit_once('.').map_or(text, |(minor, _)| minor);
        parse(minor)
    })?;
    let text = |(major, minor): Version| format!("{major}.{minor}");
    if current == target {
        return Ok(format!("storage version up-to-date: {}", text(target)));
    }
    if target < current {
        let needed = log_version(&files::wal_dir(data_dir))?;
        if needed > target && !force {
            return Err(Error::refused_with(
                format!("cannot downgrade storage, WAL contains newer entries, of {}", text(needed)),
                "start the member once more, let it take a snapshot (--snapshot-count) after `etcdctl downgrade`, and stop \
                 it; or give --force",
            ));
        }
    }
    let mut txn = db.begin_write()?;
    if target < FIRST_NAMED {
        txn.bucket(META)?.delete(STORAGE_VERSION)?;
    } else {
        schema::storage_version(&format!("{}.0", text(target))).put(&mut txn)?;
    }
    txn.commit()?;
    Ok(format!("migrated the storage version of {} from {} to {}", path.display(), text(current), text(target)))
}

/// The oldest release that knows every kind of entry of a log.
fn log_version(dir: &Path) -> Result<Version> {
    let mut newest = OLDEST;
    Scan::new(Arc::new(OsDisk), dir).run(From::Start, &mut |_, record| {
        if let Scanned::Entry(entry) = record
            && let Ok(request) = decode_raft_request(entry.data.unwrap_or_default())
            && (request.downgrade_version_test.is_some())
        {
            newest = newest.max(FIRST_NAMED);
        }
        Ok(())
    })?;
    Ok(newest)
}
