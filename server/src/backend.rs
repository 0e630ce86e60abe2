//! Writes what apply decided to the db file, behind the requests.
//!
//! The WAL made it durable before anybody was answered, so the file may lag: changes are collected
//! and committed together with the index of the last entry that made them. After a crash the
//! entries behind that index are applied again, from the file's state, with the same result.

use std::{
    io::Read,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use forebay_keyspace::{Batch, Revision, Version};
use forebay_storage::{
    db::{self, BucketMut, Db},
    failpoint::{Point, reach},
    schema,
};
use parking_lot::{Condvar, Mutex};
use tonic::Status;

use crate::{metrics::BackendMetrics, raft::panic_text};

/// Changes that may wait for the file. A large value rides out a slow disk; a small one bounds the
/// work that a restart repeats. When it is reached, apply waits.
const PENDING_MAX: usize = 200_000;
/// Changes beyond which those hold back who can: what a compaction removes must not make apply wait.
const PENDING_MANY: usize = PENDING_MAX / 10;
/// The same for their bytes.
const PENDING_BYTES_MAX: usize = 256 << 20;

/// One change of the file.
#[derive(Clone, Debug)]
pub enum Op {
    /// New versions of keys.
    Batch(Arc<Batch>),
    /// Versions that a compaction removed; a tombstone is marked.
    Compacted(Vec<(Revision, bool)>),
    /// A value of another bucket.
    Put(schema::Value),
    /// The end of a value of another bucket.
    Delete { bucket: &'static [u8], key: Vec<u8> },
}

/// When to commit.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long changes are collected at most.
    pub interval: Duration,
    /// How many changes are collected at most.
    pub limit: usize,
}

/// The db file and the thread that writes it.
#[derive(Debug)]
pub struct Backend {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    db: Db,
    pace: Pace,
    pending: Mutex<Pending>,
    /// Something for the writer to do.
    work: Condvar,
    /// The bytes of what was handed over and is not in the file yet, also while it is committed.
    unwritten: AtomicU64,
    /// Held by whoever commits. Taken before `pending`.
    committing: Mutex<()>,
    /// Told once, when the file cannot be written.
    fail: Mutex<Option<Fail>>,
    metrics: BackendMetrics,
}

type Fail = Box<dyn FnOnce(String) + Send>;

#[derive(Debug, Default)]
struct Pending {
    ops: Vec<Op>,
    changes: usize,
    bytes: usize,
    /// The last entry whose effect is in `ops` or in the file.
    index: u64,
    term: u64,
    /// The index that the file holds.
    durable_index: u64,
    /// Whether there is anything to commit.
    dirty: bool,
    flush: bool,
    stop: bool,
    failed: Option<String>,
}

impl Backend {
    /// Starts the writer. `index` and `term` are of the last entry that the file holds. When the
    /// file cannot be written, `fail` is called once with a message that says why.
    pub fn start(
        db: Db,
        index: u64,
        term: u64,
        pace: Pace,
        metrics: BackendMetrics,
        fail: impl FnOnce(String) + Send + 'static,
    ) -> Backend {
        let backend = Backend::new(db, index, term, pace, metrics, fail);
        let writer = backend.shared.clone();
        let thread = std::thread::Builder::new().name("backend".into()).spawn(move || writer.run());
        *backend.thread.lock() = Some(thread.expect("a thread can be started"));
        backend
    }

    /// As [`Backend::start`], but without a thread: what is handed over waits for a flush.
    pub(crate) fn new(
        db: Db,
        index: u64,
        term: u64,
        pace: Pace,
        metrics: BackendMetrics,
        fail: impl FnOnce(String) + Send + 'static,
    ) -> Backend {
        let pending = Pending { index, term, durable_index: index, ..Pending::default() };
        let shared = Shared {
            db,
            pace,
            pending: Mutex::new(pending),
            work: Condvar::new(),
            unwritten: AtomicU64::new(0),
            committing: Mutex::new(()),
            fail: Mutex::new(Some(Box::new(fail))),
            metrics,
        };
        Backend { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Hands over what the entries up to `index` changed.
    pub fn add(&self, ops: impl IntoIterator<Item = Op>, index: u64, term: u64) {
        self.extend(ops, Some((index, term)));
    }

    fn extend(&self, ops: impl IntoIterator<Item = Op>, applied: Option<(u64, u64)>) {
        let mut pending = self.shared.pending.lock();
        while pending.is_full() && pending.failed.is_none() {
            drop(pending);
            // Whoever hands over more than the disk takes waits for it. If it fails the member stops.
            let _ = self.shared.commit();
            pending = self.shared.pending.lock();
        }
        let was_idle = !pending.dirty;
        let bytes_before = pending.bytes;
        for op in ops {
            pending.changes += op.changes();
            pending.bytes += op.bytes();
            pending.ops.push(op);
        }
        self.shared.unwritten.fetch_add((pending.bytes - bytes_before) as u64, Ordering::Relaxed);
        if let Some(applied) = applied {
            (pending.index, pending.term) = applied;
        }
        pending.dirty = true;
        if was_idle || pending.changes >= self.shared.pace.limit {
            self.shared.work.notify_one();
        }
    }

    /// Hands over changes that belong to no entry: what a compaction step removed.
    pub fn add_untracked(&self, ops: impl IntoIterator<Item = Op>) {
        self.extend(ops, None);
    }

    /// Whether whoever can wait should hand over nothing now.
    pub fn is_behind(&self) -> bool {
        self.shared.pending.lock().changes >= PENDING_MANY
    }

    /// Makes everything handed over so far durable in the file.
    pub fn flush(&self) -> Result<(), Status> {
        self.shared.commit().map_err(Status::unavailable)
    }

    /// The bytes that the file takes at least once everything handed over is in it. A slow disk makes the file lag,
    /// and a quota asked of the file alone would be overrun by as much.
    pub(crate) fn size(&self) -> u64 {
        let db = &self.shared.db;
        db.size().max(db.size_in_use() + self.shared.unwritten.load(Ordering::Relaxed))
    }

    /// Asks for a commit soon, without waiting for it.
    pub fn begin_flush(&self) {
        self.shared.pending.lock().flush = true;
        self.shared.work.notify_one();
    }

    /// The index of the last entry whose effect is durable in the file.
    pub fn durable_index(&self) -> u64 {
        self.shared.pending.lock().durable_index
    }

    /// The file, for what only reads.
    pub fn db(&self) -> &Db {
        &self.shared.db
    }

    /// Gives space back. Nothing waits for it but the caller, unless more is written meanwhile than may wait to be.
    pub fn defragment(&self) -> Result<(), Status> {
        self.defragment_while(&|| true)
    }

    /// Gives space back if there is much of it, and nobody would come to wait for that.
    pub fn give_back(&self) -> Result<(), Status> {
        match is_hollow(self.shared.db.size(), self.shared.db.size_in_use()) {
            true => self.defragment_while(&|| !self.shared.pending.lock().is_half_full()),
            false => Ok(()),
        }
    }

    fn defragment_while(&self, is_wanted: &dyn Fn() -> bool) -> Result<(), Status> {
        self.flush()?;
        let metrics = &self.shared.metrics;
        metrics.defragmenting.set(1);
        let timer = metrics.defragment_seconds.start_timer();
        let defragmented = self.shared.db.defragment_while(is_wanted).map_err(unknown);
        timer.observe_duration();
        metrics.defragmenting.set(0);
        defragmented
    }

    /// The hash of the whole file.
    pub fn hash(&self) -> Result<u32, Status> {
        self.flush()?;
        let _timer = self.shared.metrics.hash_seconds.start_timer();
        schema::hash(&self.shared.db.begin_read()).map_err(unknown)
    }

    /// A consistent copy of the file, with its size.
    pub fn snapshot(&self) -> Result<(u64, impl Read + use<>), Status> {
        self.flush()?;
        let reader = self.shared.db.snapshot();
        Ok((reader.size(), reader))
    }

    /// Goes on with another file, which holds everything up to the entry at `index`. Whoever else hands over changes
    /// must be kept from it meanwhile.
    pub fn replace(&self, replacement: db::Replacement, index: u64, term: u64) -> Result<(), Status> {
        self.flush()?;
        let _committing = self.shared.committing.lock();
        reach(Point::BackendReplace);
        self.shared.db.replace(replacement).map_err(unknown)?;
        // A member of another release may not have all buckets.
        let mut txn = self.shared.db.begin_write().map_err(unknown)?;
        schema::create(&mut txn).and_then(|()| txn.commit()).map_err(unknown)?;
        let mut pending = self.shared.pending.lock();
        (pending.index, pending.term, pending.durable_index) = (index, term, index);
        Ok(())
    }

    /// Writes what waits, ends the writer, and gives the file up to whoever opens it next.
    pub fn stop(&self) {
        self.shared.pending.lock().stop = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            thread.join().expect("the backend's writer does not panic");
        }
        // An error has been told.
        let _ = self.shared.commit();
        self.shared.db.close();
    }
}

impl Drop for Backend {
    /// A member that could not start leaves no thread and no lock behind.
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("db", &self.db).field("pending", &self.pending).finish_non_exhaustive()
    }
}

impl Pending {
    fn is_full(&self) -> bool {
        self.changes >= PENDING_MAX || self.bytes >= PENDING_BYTES_MAX
    }

    fn is_half_full(&self) -> bool {
        self.changes >= PENDING_MAX / 2 || self.bytes >= PENDING_BYTES_MAX / 2
    }
}

/// Beyond this much and three tenths of what is in use, free space is not kept for what comes next.
const SPARE_BYTES: u64 = 32 << 20;

fn is_hollow(size: u64, in_use: u64) -> bool {
    size.saturating_sub(in_use) > SPARE_BYTES.max(in_use * 3 / 10)
}

fn unknown(error: impl std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

impl Op {
    /// How many values of the file it touches.
    fn changes(&self) -> usize {
        match self {
            Op::Batch(batch) => batch.changes.len(),
            Op::Compacted(revisions) => revisions.len(),
            Op::Put(_) | Op::Delete { .. } => 1,
        }
    }

    /// How many bytes of keys and values it adds to the file. The other buckets are small.
    fn bytes(&self) -> usize {
        match self {
            Op::Batch(batch) => batch.changes.iter().map(|change| change.version.record().len()).sum(),
            Op::Compacted(_) | Op::Put(_) | Op::Delete { .. } => 0,
        }
    }
}

impl Shared {
    fn run(&self) {
        while self.wait() {
            if self.commit().is_err() {
                return;
            }
        }
    }

    /// Waits for changes, then for more of them, but not long. `false` when it is time to end.
    fn wait(&self) -> bool {
        let mut pending = self.pending.lock();
        while !pending.dirty && !pending.stop {
            self.work.wait(&mut pending);
        }
        let deadline = Instant::now() + self.pace.interval;
        while !pending.stop && !pending.flush && pending.changes < self.pace.limit {
            if self.work.wait_until(&mut pending, deadline).timed_out() {
                break;
            }
        }
        !pending.stop
    }

    /// Commits what waits. When this returns, what was handed over before is durable, whoever committed it.
    fn commit(&self) -> Result<(), String> {
        let _committing = self.committing.lock();
        let (ops, bytes, index, term) = {
            let mut pending = self.pending.lock();
            if let Some(message) = &pending.failed {
                return Err(message.clone());
            }
            pending.flush = false;
            if !mem::take(&mut pending.dirty) {
                return Ok(());
            }
            pending.changes = 0;
            (mem::take(&mut pending.ops), mem::take(&mut pending.bytes), pending.index, pending.term)
        };
        reach(Point::BackendCommit);
        // Whoever waits for the file must hear of a panic too.
        let written = catch_unwind(AssertUnwindSafe(|| self.write(&ops, index, term)))
            .map_err(|panic| panic_text(&*panic))
            .and_then(|result| result.map_err(|error| error.to_string()));
        // Freeing the batches is our work, not that of whoever waits for the lock.
        drop(ops);
        let failed = match written {
            Ok(()) => {
                reach(Point::BackendCommitted);
                self.unwritten.fetch_sub(bytes as u64, Ordering::Relaxed);
                self.pending.lock().durable_index = index;
                return Ok(());
            }
            Err(error) => format!("the db file cannot be written: {error}"),
        };
        self.pending.lock().failed = Some(failed.clone());
        if let Some(fail) = self.fail.lock().take() {
            fail(failed.clone());
        }
        Err(failed)
    }

    fn write(&self, ops: &[Op], index: u64, term: u64) -> Result<(), db::Error> {
        let start = Instant::now();
        let mut txn = self.db.begin_write()?;
        {
            let mut keys = txn.bucket(schema::KEY)?;
            // Revisions come in ascending order: pages are filled, not halved.
            keys.set_fill(db::APPEND_FILL);
            for op in ops {
                match op {
                    Op::Batch(batch) => put_versions(&mut keys, batch)?,
                    Op::Compacted(revisions) => {
                        for (revision, tombstone) in revisions {
                            keys.delete(&schema::RevisionKey::new(revision.main, revision.sub, *tombstone))?;
                        }
                    }
                    Op::Put(_) | Op::Delete { .. } => {}
                }
            }
        }
        for op in ops {
            match op {
                Op::Put(value) => value.put(&mut txn)?,
                Op::Delete { bucket, key } => {
                    txn.bucket(bucket)?.delete(key)?;
                }
                Op::Batch(_) | Op::Compacted(_) => {}
            }
        }
        let last = ops.iter().rev().find_map(|op| match op {
            Op::Batch(batch) => batch.changes.last().map(|change| revision_key(&change.version)),
            _ => None,
        });
        for value in schema::applied(index, term).into_iter().chain(last.map(|key| schema::last_written(&key))) {
            value.put(&mut txn)?;
        }
        let spilled = start.elapsed();
        txn.commit()?;
        let committed = start.elapsed();
        self.metrics.spill_seconds.observe(spilled.as_secs_f64());
        self.metrics.write_seconds.observe((committed - spilled).as_secs_f64());
        self.metrics.commit_seconds.observe(committed.as_secs_f64());
        Ok(())
    }
}

fn revision_key(version: &Version) -> schema::RevisionKey {
    let revision = version.revision();
    schema::RevisionKey::new(revision.main, revision.sub, version.is_tombstone())
}

fn put_versions(keys: &mut BucketMut<'_>, batch: &Batch) -> Result<(), db::Error> {
    for change in &batch.changes {
        keys.put(&revision_key(&change.version), change.version.record())?;
    }
    Ok(())
}
