//! A look into the data directory of a member that is stopped: can its files be read to their ends?
//!
//! Only looks: the db file is opened for reading, and the log is not opened as its owner would, because that cuts off a
//! torn tail.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use forebay_storage::{
    db::{Db, Error, Options},
    schema,
};

/// What is in a directory.
#[derive(Clone, Debug, Default)]
pub(super) struct DataDir {
    pub(super) path: PathBuf,
    /// Why it is no data directory.
    pub(super) missing: Option<String>,
    /// What this user may not read.
    pub(super) forbidden: Option<PathBuf>,
    /// A process has the db file open.
    pub(super) is_in_use: bool,
    /// What is wrong with the db file.
    pub(super) db_error: Option<String>,
    pub(super) db: Option<Content>,
    pub(super) wal_segments: usize,
    /// Free bytes of the disk below it.
    pub(super) free_bytes: Option<u64>,
}

/// What the db file holds.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) size: u64,
    pub(super) in_use: u64,
    pub(super) keys: usize,
    pub(super) revision: i64,
    pub(super) alarms: usize,
}

pub(super) fn look(path: &Path) -> DataDir {
    let mut found = DataDir { path: path.to_owned(), ..DataDir::default() };
    let (wal, db) = (path.join("member/wal"), path.join("member/snap/db"));
    match fs::metadata(&db) {
        Ok(metadata) if metadata.is_file() => {}
        Err(error) if is_forbidden(&error) => {
            found.forbidden = Some(db);
            return found;
        }
        _ => {
            found.missing = Some(format!("there is no {}", db.display()));
            return found;
        }
    }
    match fs::read_dir(&wal) {
        Err(error) if is_forbidden(&error) => {
            found.forbidden = Some(wal);
            return found;
        }
        names => {
            let names = names.into_iter().flatten().flatten();
            found.wal_segments = names.filter(|name| name.path().extension().is_some_and(|end| end == "wal")).count();
        }
    }
    found.free_bytes = rustix::fs::statvfs(path).ok().map(|stat| stat.f_bavail * stat.f_frsize);
    match Db::open(&db, Options { read_only: true, ..Options::default() }) {
        Ok(db) => match content(&db) {
            Ok(content) => found.db = Some(content),
            Err(error) => found.db_error = Some(error.to_string()),
        },
        Err(Error::Locked { .. }) => found.is_in_use = true,
        Err(Error::Io { source, .. }) if is_forbidden(&source) => found.forbidden = Some(db),
        Err(error) => found.db_error = Some(error.to_string()),
    }
    found
}

fn is_forbidden(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn content(db: &Db) -> Result<Content, schema::Error> {
    let txn = db.begin_read();
    let status = schema::read_status(&txn)?;
    Ok(Content {
        size: db.size(),
        in_use: db.size_in_use(),
        keys: status.total_keys,
        revision: status.revision,
        alarms: schema::read_alarms(&txn)?.len(),
    })
}
