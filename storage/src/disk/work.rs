//! Work on a disk that its caller does not wait for.

use std::{io, thread::JoinHandle};

use super::Disk;

/// Work that goes on beside its caller.
#[derive(Debug)]
pub enum Work<T> {
    /// On a thread of its own.
    Thread(JoinHandle<T>),
    /// It is done: the disk is simulated, and a simulation has one thread.
    Done(T),
}

impl<T: Send + 'static> Work<T> {
    /// Begins work on a disk.
    pub fn begin(disk: &dyn Disk, name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        if disk.is_simulated() {
            return Ok(Self::Done(work()));
        }
        Ok(Self::Thread(std::thread::Builder::new().name(name.to_owned()).spawn(work)?))
    }

    /// Whether [`Work::join`] would not wait.
    pub fn is_finished(&self) -> bool {
        match self {
            Self::Thread(thread) => thread.is_finished(),
            Self::Done(_) => true,
        }
    }

    /// Waits for the end; an error is what it panicked with.
    pub fn join(self) -> std::thread::Result<T> {
        match self {
            Self::Thread(thread) => thread.join(),
            Self::Done(result) => Ok(result),
        }
    }
}
