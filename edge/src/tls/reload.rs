//! Something made of files, made anew when they change.
//!
//! Files are looked at whenever the thing is asked for, which costs a few system calls beside the handshake it is asked
//! for. Nothing watches directories or needs a signal, and a mounted secret that is swapped by its link is seen as
//! any other change.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use super::Error;

type Build<T> = Box<dyn Fn() -> Result<T, Error> + Send + Sync>;

pub(super) struct Reloading<T> {
    paths: Vec<PathBuf>,
    build: Build<T>,
    built: Mutex<Built<T>>,
}

struct Built<T> {
    stamps: Vec<Option<Stamp>>,
    value: Arc<T>,
}

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    };
    paths.iter().map(stamp).collect()
}

impl<T> Reloading<T> {
    /// Makes the thing once; later changes of `paths` make it anew.
    pub(super) fn new(
        paths: Vec<PathBuf>,
        build: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Reloading<T>, Error> {
        // Looked at before they are read: a change in between is seen next time.
        let stamps = stamps(&paths);
        let value = Arc::new(build()?);
        Ok(Reloading { paths, build: Box::new(build), built: Mutex::new(Built { stamps, value }) })
    }

    /// The thing as the files have it now, or had it when they could last be used.
    pub(super) fn get(&self) -> Arc<T> {
        let mut built = self.built.lock();
        let stamps = stamps(&self.paths);
        if stamps != built.stamps {
            built.stamps = stamps;
            match (self.build)() {
                Ok(value) => {
                    tracing::info!(files = ?self.paths, "read the changed TLS files");
                    built.value = Arc::new(value);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot use the changed TLS files; what they held before stays in use");
                }
            }
        }
        Arc::clone(&built.value)
    }
}
