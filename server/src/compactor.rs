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
use forebay_storage::{
    failpoint::{Point, reach},
    schema,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    backend::{Backend, Op},
    metrics::CompactionMetrics,
    quotas::Quotas,
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
        quotas: Arc<Quotas>,
        backend: Arc<Backend>,
        pace: Pace,
        metrics: CompactionMetrics,
        fail: impl FnOnce(String) + Send + 'static,
    ) -> (Compactor, JoinHandle<()>) {
        let (compactor, compaction) = Compactor::new(keyspace, quotas, backend, pace.limit, metrics);
        let run = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(compaction, pace.pause))) {
                fail(format!("compaction cannot go on: {}", panic_text(&*panic)));
            }
        };
        let thread = std::thread::Builder::new().name("compactor".into()).spawn(run).expect("a thread can be started");
        (compactor, thread)
    }

    /// As [`Compactor::start`], but without a thread: the work is done by whoever has it.
    pub(crate) fn new(
        keyspace: Arc<Mutex<Keyspace>>,
        quotas: Arc<Quotas>,
        backend: Arc<Backend>,
        limit: usize,
        metrics: CompactionMetrics,
    ) -> (Compactor, Compaction) {
        let (sender, scheduled) = channel();
        let waiting = VecDeque::new();
        (Compactor(sender), Compaction { scheduled, waiting, current: None, keyspace, quotas, backend, limit, metrics })
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

fn run(mut compaction: Compaction, pause: Duration) {
    loop {
        // The pause is spent listening, because a member that stops must not wait for a long compaction, nor for one that
        // can never be published.
        let another = match compaction.step() {
            true => compaction.scheduled.recv_timeout(pause),
            false => compaction.scheduled.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match another {
            Ok(another) => compaction.waiting.push_back(another),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The work of compacting.
#[derive(Debug)]
pub(crate) struct Compaction {
    scheduled: Receiver<Scheduled>,
    waiting: VecDeque<Scheduled>,
    current: Option<Current>,
    keyspace: Arc<Mutex<Keyspace>>,
    quotas: Arc<Quotas>,
    backend: Arc<Backend>,
    limit: usize,
    metrics: CompactionMetrics,
}

/// A compaction under way.
#[derive(Debug)]
struct Current {
    revision: i64,
    done: oneshot::Sender<()>,
    began: Instant,
    is_first: bool,
}

impl Compaction {
    /// Takes one step. Returns whether there is more to do.
    pub(crate) fn step(&mut self) -> bool {
        self.waiting.extend(self.scheduled.try_iter());
        let Some(mut current) = self.current.take().or_else(|| self.begin()) else { return false };
        if self.backend.is_behind() {
            self.current = Some(current);
            return true;
        }
        let stepped = step(current.revision, &self.keyspace, &self.quotas, &self.backend, self.limit);
        stepped.observe(&self.metrics, std::mem::take(&mut current.is_first));
        if stepped.is_last {
            self.finish(current);
        } else {
            self.current = Some(current);
        }
        self.current.is_some() || !self.waiting.is_empty()
    }

    fn begin(&mut self) -> Option<Current> {
        let Scheduled { revision, hash, done } = self.waiting.pop_front()?;
        if let Some(hash) = hash {
            hash.run();
        }
        Some(Current { revision, done, began: Instant::now(), is_first: true })
    }

    fn finish(&self, current: Current) {
        self.metrics.total_millis.observe(millis(current.began.elapsed()));
        self.metrics.last.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64);
        // If the file cannot be written the member stops, and `done` is dropped.
        if self.backend.flush().is_err() {
            return;
        }
        let _ = current.done.send(());
        // A little is left free for the writes until the next one; what is more is given back. Nobody waits for that, and
        // what is written anew is no more than a few times what was freed.
        if let Err(status) = self.backend.give_back() {
            tracing::warn!(error = status.message(), "cannot give free space of the db file back");
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
fn step(revision: i64, keyspace: &Mutex<Keyspace>, quotas: &Quotas, backend: &Backend, limit: usize) -> Stepped {
    // The file is told under the keyspace's lock, so that it hears of a removal before it hears of
    // anything that was applied after it.
    reach(Point::CompactStep);
    let mut keyspace = keyspace.lock();
    let start = Instant::now();
    let (is_last, removed) = match keyspace.compact_step_showing(limit, &mut |version| quotas.compacted(version)) {
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
            reach(Point::CompactFinish);
            (finished >= revision, count)
        }
        CompactStep::Idle => (true, 0),
    };
    reach(Point::CompactStepped);
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
        let quotas = Arc::new(Quotas::new(keyspace.clone()));
        let (compactor, thread) =
            Compactor::start(keyspace.clone(), quotas, backend.clone(), pace, metrics.compaction, fail);
        let mut finished = compactor.schedule(101, hash);
        drop(compactor);
        thread.join().unwrap();
        assert_eq!(finished.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(keyspace.lock().compacting().collect::<Vec<_>>(), [101], "left for the next start");
        backend.stop();
    }
}
