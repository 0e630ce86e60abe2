//! Removes what a compaction made superfluous, step by step, beside the traffic.
//!
//! Compacting takes effect at once: reads below the revision fail from then on. What is left to do
//! is to give memory and file space back, which a thread does in small steps with pauses, holding
//! the keyspace's lock for one step at a time.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use forebay_keyspace::{CompactStep, HashJob, Keyspace};
use forebay_storage::schema;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    backend::{Backend, Op},
    raft::panic_text,
};

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
    /// Starts the thread. It ends after its step when the last [`Compactor`] is gone; what it leaves
    /// undone is done after the next start. Should it panic, `fail` is called with what it said.
    pub fn start(
        keyspace: Arc<Mutex<Keyspace>>,
        backend: Arc<Backend>,
        pace: Pace,
        fail: impl FnOnce(String) + Send + 'static,
    ) -> (Compactor, JoinHandle<()>) {
        let (sender, receiver) = channel();
        let run = move || {
            let ended = catch_unwind(AssertUnwindSafe(|| run(&receiver, &keyspace, &backend, pace)));
            if let Err(panic) = ended {
                fail(format!("compaction cannot go on: {}", panic_text(&*panic)));
            }
        };
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
    let mut later = VecDeque::new();
    while let Some(Scheduled { revision, hash, done }) = later.pop_front().or_else(|| scheduled.recv().ok()) {
        if let Some(hash) = hash {
            hash.run();
        }
        while !step(revision, keyspace, backend, pace.limit) {
            // The pause is spent listening, because a member that stops must not wait for a long compaction, nor for
            // one that can never be published.
            match scheduled.recv_timeout(pace.pause) {
                Ok(another) => later.push_back(another),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
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

#[cfg(test)]
mod tests {
    use forebay_storage::db::{self, Db};
    use prometheus::{Histogram, HistogramOpts};

    use super::*;
    use crate::backend;

    #[test]
    fn the_end_does_not_wait_for_a_compaction_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path().join("db"), db::Options::default()).unwrap();
        let mut txn = db.begin_write().unwrap();
        schema::create(&mut txn).unwrap();
        txn.commit().unwrap();
        let fail = |message| panic!("{message}");
        let pace = backend::Pace { interval: Duration::from_millis(1), limit: 1 };
        let seconds = Histogram::with_opts(HistogramOpts::new("commit_seconds", "For nobody.")).unwrap();
        let backend = Arc::new(Backend::start(db, 0, 0, pace, seconds, fail));

        let mut keyspace = Keyspace::new();
        for _ in 0..100 {
            keyspace.write().put(b"key", b"value", 0);
        }
        keyspace.publish();
        let hash = keyspace.compact(101).unwrap();
        keyspace.publish();
        let keyspace = Arc::new(Mutex::new(keyspace));
        let pace = Pace { limit: 1, pause: Duration::from_secs(3600) };
        let (compactor, thread) = Compactor::start(keyspace.clone(), backend.clone(), pace, fail);
        let mut finished = compactor.schedule(101, hash);
        drop(compactor);
        thread.join().unwrap();
        assert_eq!(finished.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(keyspace.lock().compacting().collect::<Vec<_>>(), [101], "left for the next start");
        backend.stop();
    }
}
