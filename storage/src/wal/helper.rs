//! What a log must not wait for: preallocating the next segment, removing old ones.

use std::{io, path::PathBuf, sync::Arc};

use super::error::{Context as _, WalError};
use crate::{
    disk::{Disk, DiskFile, Work},
    failpoint::{Point, reach},
};

/// A preallocated file under a temporary name.
pub(super) struct Prepared {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
}

pub(super) struct Helper {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    /// The next segment, if it was asked for.
    next: Option<Work<Result<Prepared, WalError>>>,
    /// Segments that are to be removed, oldest first.
    superfluous: Vec<PathBuf>,
    /// Removes those of them that were there when it began; resolves to how many, the oldest, are gone.
    removal: Option<Work<usize>>,
    /// Segments asked for so far. Two temporary names alternate, so that one is never in use while it is made.
    count: u64,
}

impl Helper {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, segment_bytes: u64) -> Self {
        Self { disk, dir, segment_bytes, next: None, superfluous: Vec::new(), removal: None, count: 0 }
    }

    /// Begins to make the next segment, unless that is under way.
    pub(super) fn prepare(&mut self) {
        if self.next.is_some() {
            return;
        }
        let path = self.dir.join(format!("{}.tmp", self.count % 2));
        self.count += 1;
        let (disk, segment_bytes) = (self.disk.clone(), self.segment_bytes);
        self.next = self.begin(move || prepare(&*disk, path, segment_bytes));
    }

    /// The next segment; waits for it if it is not there yet.
    pub(super) fn take(&mut self) -> Result<Prepared, WalError> {
        self.prepare();
        let gone = |what: &str| WalError::Poisoned { cause: format!("the thread that prepares segments {what}") };
        self.next.take().ok_or_else(|| gone("cannot be started"))?.join().map_err(|_| gone("has panicked"))?
    }

    /// Removes segments in the background, oldest first and none before those older than it are gone: a gap would look as
    /// if the log had lost what was there. What is left is tried again at the next call.
    pub(super) fn remove(&mut self, paths: impl Iterator<Item = PathBuf>) {
        self.superfluous.extend(paths);
        if self.removal.as_ref().is_some_and(|removal| !removal.is_finished()) {
            return;
        }
        if let Some(Ok(gone)) = self.removal.take().map(Work::join) {
            self.superfluous.drain(..gone);
        }
        if self.superfluous.is_empty() {
            return;
        }
        let (disk, paths) = (self.disk.clone(), self.superfluous.clone());
        self.removal = self.begin(move || remove(&*disk, &paths));
    }

    fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<Work<T>> {
        let begun = Work::begin(&*self.disk, "wal-files", work);
        begun.inspect_err(|error| tracing::error!(%error, "cannot start a thread for WAL segments")).ok()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // A panic there has been reported by its own thread.
        let _ = self.removal.take().map(Work::join);
        if let Some(Ok(Ok(left))) = self.next.take().map(Work::join) {
            let _ = self.disk.remove(&left.path);
        }
    }
}

/// Removes files in this order until one of them stays; returns how many are gone.
fn remove(disk: &dyn Disk, paths: &[PathBuf]) -> usize {
    let is_gone = |path: &PathBuf| {
        reach(Point::WalRemove);
        match disk.remove(path) {
            Ok(()) => tracing::info!(path = %path.display(), "purged a WAL segment"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot purge a WAL segment");
                return false;
            }
        }
        true
    };
    paths.iter().take_while(|path| is_gone(path)).count()
}

fn prepare(disk: &dyn Disk, path: PathBuf, segment_bytes: u64) -> Result<Prepared, WalError> {
    let file = disk.create(&path).context("create", &path)?;
    file.preallocate(segment_bytes).context("allocate", &path)?;
    Ok(Prepared { path, file })
}
