//! Removes what a compaction made superfluous, step by step, beside the traffic.
//!
//! Compacting takes effect at once: reads below the revision fail from then on. What is left to do
//! is to give memory and file space back, which a thread does in small steps with pauses, holding
//! the keyspace's lock for one step at a time.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use forebay_keyspace::{CompactStep, HashJob, Keyspace};
use forebay_storage::schema;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::backend::{Backend, Op};

/// How fast to go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Revisions of one step.
    pub limit: usize,
    /// Rest between two steps.
    pub pause: Duration,
}

/// The way to the compacting thread.
#[derive(Clone, Debug)]
pub struct Compactor(Sender<Scheduled>);

#[derive(Debug)]
struct Scheduled {
    revision: i64,
    hash: Option<HashJob>,
    done: oneshot::Sender<()>,
}

impl Compactor {
    /// Starts the thread. It ends when the last [`Compactor`] is gone.
    pub fn start(keyspace: Arc<Mutex<Keyspace>>, backend: Arc<Backend>, pace: Pace) -> (Compactor, JoinHandle<()>) {
        let (sender, receiver) = channel();
        let run = move || run(&receiver, &keyspace, &backend, pace);
        let thread = std::thread::Builder::new().name("compactor".into()).spawn(run).expect("a thread can be started");
        (Compactor(sender), thread)
    }

    /// Finishes the compaction at `revision`, which the keyspace has accepted. The receiver resolves
    /// when its removals are durable, and fails if the member stops before.
    pub fn schedule(&self, revision: i64, hash: Option<HashJob>) -> oneshot::Receiver<()> {
        let (done, finished) = oneshot::channel();
        // If the thread is gone the member stops, and the receiver says so.
        let _ = self.0.send(Scheduled { revision, hash, done });
        finished
    }
}

fn run(scheduled: &Receiver<Scheduled>, keyspace: &Mutex<Keyspace>, backend: &Backend, pace: Pace) {
    while let Ok(Scheduled { revision, hash, done }) = scheduled.recv() {
        if let Some(hash) = hash {
            hash.run();
        }
        while !step(revision, keyspace, backend, pace.limit) {
            std::thread::sleep(pace.pause);
        }
        // If the file cannot be written the member stops, and `done` is dropped.
        if backend.flush().is_ok() {
            let _ = done.send(());
        }
    }
}

/// One step of the oldest compaction; whether the one at `revision` is finished with it.
fn step(revision: i64, keyspace: &Mutex<Keyspace>, backend: &Backend, limit: usize) -> bool {
    // The file is told under the keyspace's lock, so that it hears of a removal before it hears of
    // anything that was applied after it.
    let mut keyspace = keyspace.lock();
    match keyspace.compact_step(limit) {
        CompactStep::Waiting => false,
        CompactStep::Removed(removed) => {
            backend.add_untracked([Op::Compacted(removed)]);
            false
        }
        CompactStep::Finished(finished, removed) => {
            let mark = Op::Put(schema::finished_compaction(finished));
            backend.add_untracked([Op::Compacted(removed), mark]);
            finished >= revision
        }
        CompactStep::Idle => true,
    }
}
