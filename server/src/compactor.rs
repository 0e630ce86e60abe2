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
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use forebay_keyspace::{CompactStep, HashJob, Keyspace};
use forebay_storage::schema;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    backend::{Backend, Op},
    metrics::CompactionMetrics,
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
        metrics: CompactionMetrics,
        fail: impl FnOnce(String) + Send + 'static,
    ) -> (Compactor, JoinHandle<()>) {
        let (sender, receiver) = channel();
        let run = move || {
            let ended = catch_unwind(AssertUnwindSafe(|| run(&receiver, &keyspace, &backend, pace, &metrics)));
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

fn run(
    scheduled: &Receiver<Scheduled>,
    keyspace: &Mutex<Keyspace>,
    backend: &Backend,
    pace: Pace,
    metrics: &CompactionMetrics,
) {
    let mut later = VecDeque::new();
    while let Some(Scheduled { revision, hash, done }) = later.pop_front().or_else(|| scheduled.recv().ok()) {
        if let Some(hash) = hash {
            hash.run();
        }
        let start = Instant::now();
        let mut is_first = true;
        loop {
            let stepped = step(revision, keyspace, backend, pace.limit);
            stepped.observe(metrics, std::mem::take(&mut is_first));
            if stepped.is_last {
                break;
            }
            // The pause is spent listening, because a member that stops must not wait for a long compaction, nor for
            // one that can never be published.
            match scheduled.recv_timeout(pace.pause) {
                Ok(another) => later.push_back(another),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        metrics.total_millis.observe(millis(start.elapsed()));
        metrics.last.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64);
        // If the file cannot be written the member stops, and `done` is dropped.
        if backend.flush().is_ok() {
            let _ = done.send(());
        }
    }
}

/// What one step did.
struct Stepped {
    /// Whether the compaction that was asked for is finished with it.
    is_last: bool,
    /// Versions that it removed.
    removed: usize,
    /// How long it kept writers waiting.
    took: Duration,
}

impl Stepped {
    fn observe(&self, metrics: &CompactionMetrics, is_first: bool) {
        metrics.keys.inc_by(self.removed as u64);
        metrics.step_millis.observe(millis(self.took));
        if is_first {
            metrics.index_millis.observe(millis(self.took));
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One step of the oldest compaction, on the way to the one at `revision`.
fn step(revision: i64, keyspace: &Mutex<Keyspace>, backend: &Backend, limit: usize) -> Stepped {
    // The file is told under the keyspace's lock, so that it hears of a removal before it hears of
    // anything that was applied after it.
    let mut keyspace = keyspace.lock();
    let start = Instant::now();
    let (is_last, removed) = match keyspace.compact_step(limit) {
        CompactStep::Waiting => (false, 0),
        CompactStep::Removed(removed) => {
            let count = removed.len();
            backend.add_untracked([Op::Compacted(removed)]);
            (false, count)
        }
        CompactStep::Finished(finished, removed) => {
            let count = removed.len();
            let mark = Op::Put(schema::finished_compaction(finished));
            backend.add_untracked([Op::Compacted(removed), mark]);
            (finished >= revision, count)
        }
        CompactStep::Idle => (true, 0),
    };
    Stepped { is_last, removed, took: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use forebay_storage::db::{self, Db};
    use prometheus::Registry;

    use super::*;
    use crate::{backend, metrics::Metrics};

    #[test]
    fn the_end_does_not_wait_for_a_compaction_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path().join("db"), db::Options::default()).unwrap();
        let mut txn = db.begin_write().unwrap();
        schema::create(&mut txn).unwrap();
        txn.commit().unwrap();
        let fail = |message| panic!("{message}");
        let pace = backend::Pace { interval: Duration::from_millis(1), limit: 1 };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let backend = Arc::new(Backend::start(db, 0, 0, pace, metrics.backend, fail));

        let mut keyspace = Keyspace::new();
        for _ in 0..100 {
            keyspace.write().put(b"key", b"value", 0);
        }
        keyspace.publish();
        let hash = keyspace.compact(101).unwrap();
        keyspace.publish();
        let keyspace = Arc::new(Mutex::new(keyspace));
        let pace = Pace { limit: 1, pause: Duration::from_secs(3600) };
        let (compactor, thread) = Compactor::start(keyspace.clone(), backend.clone(), pace, metrics.compaction, fail);
        let mut finished = compactor.schedule(101, hash);
        drop(compactor);
        thread.join().unwrap();
        assert_eq!(finished.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(keyspace.lock().compacting().collect::<Vec<_>>(), [101], "left for the next start");
        backend.stop();
    }
}
