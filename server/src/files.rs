//! The db file of a member that starts: opened, read, and exchanged for one that came from the leader if it was to be.

use std::path::Path;

use forebay_storage::{
    db::{self, Db},
    disk::Disk,
    failpoint::{Point, reach},
    schema,
};

use crate::{
    config::Config,
    load, peer,
    start::StartError,
    state::{State, Unreadable, must_have_all_buckets},
};

/// Opens the db file, made if there is none, and reads what it holds.
pub(crate) fn open(config: &Config, options: db::Options) -> Result<(Db, State), StartError> {
    let path = config.snap_path().join("db");
    let (db, keys) = load::while_opening(|show| Db::open_showing(&path, options, schema::KEY, show))
        .map_err(|error| unreadable(&path, error))?;
    must_have_all_buckets(&db.begin_read()).map_err(|error| unreadable(&path, error))?;
    let mut txn = db.begin_write()?;
    schema::create(&mut txn)?;
    txn.commit()?;
    if let Some(threshold) = config.bootstrap_defrag_threshold_bytes {
        defragment_if_it_frees(&db, threshold)?;
    }
    let state = State::read(&db.begin_read(), keys, config.lease_rules()).map_err(|error| unreadable(&path, error))?;
    reach(Point::StartOpened);
    Ok((db, state))
}

/// Defragments the file unless that would free less than `threshold` bytes.
fn defragment_if_it_frees(db: &Db, threshold: u64) -> db::Result<()> {
    let (size, in_use) = (db.size(), db.size_in_use());
    if size - in_use < threshold {
        tracing::info!(size, in_use, threshold, "Skipping defragmentation");
        return Ok(());
    }
    db.defragment()?;
    tracing::info!(before = size, after = db.size(), "defragmented the db file");
    Ok(())
}

fn unreadable(path: &Path, error: Unreadable) -> StartError {
    let path = path.to_owned();
    match error {
        Unreadable::Schema(schema::Error::Db(error)) => StartError::Db(error),
        error @ Unreadable::Newer { .. } => StartError::Newer { path, reason: error.to_string() },
        error => StartError::Damaged { path, reason: error.to_string() },
    }
}

/// Puts a db in place that was received from the leader, if the log says that it was to be installed when the member
/// ended; and removes all others.
pub(crate) fn install_received(
    config: &Config,
    disk: &dyn Disk,
    db: &Db,
    state: State,
    snapshot_index: u64,
) -> Result<State, StartError> {
    let snap = config.snap_path();
    let state = if state.applied.index < snapshot_index {
        let received = snap.join(peer::file_name(snapshot_index));
        if !disk.exists(&received) {
            let index = state.applied.index;
            let reason = format!("it is at entry {index}, but the log begins at {snapshot_index}");
            return Err(StartError::Damaged { path: db.path().to_owned(), reason });
        }
        drop(state);
        reach(Point::StartInstall);
        let (replacement, keys) = load::while_opening(|show| db.open_replacement(received, schema::KEY, show))
            .map_err(|error| unreadable(db.path(), error))?;
        let state = State::read(&replacement.begin_read(), keys, config.lease_rules())
            .map_err(|error| unreadable(db.path(), error))?;
        db.replace(replacement)?;
        state
    } else {
        state
    };
    peer::remove_received(disk, &snap).map_err(|source| StartError::Directory { path: snap, source })?;
    Ok(state)
}
