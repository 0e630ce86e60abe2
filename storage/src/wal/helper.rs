//! The thread that does what a log must not wait for: preallocating the next segment, removing old ones.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use super::error::{Context as _, WalError};
use crate::disk::{Disk, DiskFile};

/// A preallocated file under a temporary name.
pub(super) struct Prepared {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
}

enum Job {
    Prepare(PathBuf),
    Remove(PathBuf),
}

pub(super) struct Helper {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    worker: Option<Worker>,
    /// Whether a segment was asked for and not yet taken.
    asked: bool,
    /// Segments asked for so far. Two temporary names alternate, so that one is never in use while it is made.
    count: u64,
}

struct Worker {
    jobs: Sender<Job>,
    prepared: Receiver<Result<Prepared, WalError>>,
    thread: JoinHandle<()>,
}

impl Helper {
    /// The thread itself starts with the first job: most logs of small clusters never need one.
    pub(super) fn start(disk: Arc<dyn Disk>, dir: PathBuf, segment_bytes: u64) -> Self {
        Self { disk, dir, segment_bytes, worker: None, asked: false, count: 0 }
    }

    /// Begins to make the next segment, unless that is under way.
    pub(super) fn prepare(&mut self) {
        if !self.asked {
            let path = self.dir.join(format!("{}.tmp", self.count % 2));
            self.count += 1;
            self.asked = self.send(Job::Prepare(path));
        }
    }

    /// The next segment; waits for it if it is not there yet.
    pub(super) fn take(&mut self) -> Result<Prepared, WalError> {
        self.prepare();
        self.asked = false;
        let gone = || WalError::Poisoned { cause: "the thread that prepares segments has ended".into() };
        self.worker.as_ref().ok_or_else(gone)?.prepared.recv().map_err(|_| gone())?
    }

    /// Removes a segment in the background.
    pub(super) fn remove(&mut self, path: PathBuf) {
        self.send(Job::Remove(path));
    }

    fn send(&mut self, job: Job) -> bool {
        if self.worker.is_none() {
            self.worker = self.spawn();
        }
        self.worker.as_ref().is_some_and(|worker| worker.jobs.send(job).is_ok())
    }

    fn spawn(&self) -> Option<Worker> {
        let (jobs, queue) = channel();
        let (done, prepared) = channel();
        let (disk, segment_bytes) = (self.disk.clone(), self.segment_bytes);
        let thread = std::thread::Builder::new().name("wal-files".into()).spawn(move || {
            for job in queue {
                match job {
                    Job::Prepare(path) => {
                        if done.send(prepare(&*disk, path, segment_bytes)).is_err() {
                            break;
                        }
                    }
                    Job::Remove(path) => match disk.remove(&path) {
                        Ok(()) => tracing::info!(path = %path.display(), "purged a WAL segment"),
                        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot purge a WAL segment"),
                    },
                }
            }
        });
        match thread {
            Ok(thread) => Some(Worker { jobs, prepared, thread }),
            Err(error) => {
                tracing::error!(%error, "cannot start the thread that prepares WAL segments");
                None
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let Some(Worker { jobs, prepared, thread }) = self.worker.take() else { return };
        drop(jobs);
        // A panic there has been reported by its own thread.
        let _ = thread.join();
        for left in prepared.try_iter().flatten() {
            let _ = self.disk.remove(&left.path);
        }
    }
}

fn prepare(disk: &dyn Disk, path: PathBuf, segment_bytes: u64) -> Result<Prepared, WalError> {
    let file = disk.create(&path).context("create", &path)?;
    file.allocate(segment_bytes).context("allocate", &path)?;
    Ok(Prepared { path, file })
}
