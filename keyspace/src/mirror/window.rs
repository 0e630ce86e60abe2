//! What the mirror's readers and watchers share.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{RangeRequest, range_request::SortTarget},
};

use super::Ranges;
use crate::{
    eval::{self, RangeResult, ResultChunks},
    reader::{Reader, Snapshot},
    record::Batch,
    watch::History,
};

/// No compaction is known of.
const NEVER: i64 = -1;

/// The keyspace, whose own compacted revision is the floor, and beside it the upstream's compaction.
#[derive(Debug)]
pub(super) struct Window {
    reader: Reader,
    ranges: Ranges,
    compacted: AtomicI64,
}

impl Window {
    pub(super) fn new(reader: Reader, ranges: Ranges) -> Window {
        Window { reader, ranges, compacted: AtomicI64::new(NEVER) }
    }

    pub(super) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    pub(super) fn set_compacted(&self, revision: i64) {
        self.compacted.fetch_max(revision, Ordering::SeqCst);
    }

    pub(super) fn forget_compacted(&self) {
        self.compacted.store(NEVER, Ordering::SeqCst);
    }

    fn floor(&self) -> i64 {
        self.reader.compacted_revision()
    }
}

impl History for Window {
    fn revision(&self) -> i64 {
        self.reader.revision()
    }

    fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::SeqCst)
    }

    fn retained(&self) -> i64 {
        // At the floor itself the state is known, and not which change led to it.
        self.floor() + 1
    }

    fn changes(&self, from: i64, max_revisions: usize) -> Vec<Arc<Batch>> {
        self.reader.history(from, max_revisions)
    }

    fn changes_of(&self, range: &KeyRange, from: i64) -> Option<Vec<Arc<Batch>>> {
        self.reader.history_of(range, from)
    }
}

/// Why the mirror does not answer a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The upstream would refuse it with this.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The revision lies before the window and is not known to be compacted: the upstream can tell.
    #[error("the revision lies before the window, which begins at {floor}")]
    Outside {
        /// The lowest revision that could be answered.
        floor: i64,
    },
    /// The range is not wholly mirrored: the upstream can tell.
    #[error("the range is not mirrored")]
    Unmirrored,
}

/// The right to read a mirror. Clones are the same.
#[derive(Clone, Debug)]
pub struct MirrorReader {
    window: Arc<Window>,
}

impl MirrorReader {
    pub(super) fn new(window: Arc<Window>) -> MirrorReader {
        MirrorReader { window }
    }

    /// The mirrored ranges.
    pub fn ranges(&self) -> &Ranges {
        &self.window.ranges
    }

    /// The revision up to which everything is known.
    pub fn revision(&self) -> i64 {
        self.window.reader.revision()
    }

    /// The oldest revision that can be read at. It rises; on a restart of the upstream it may fall.
    pub fn floor(&self) -> i64 {
        self.window.floor()
    }

    /// The upstream's last compaction, as far as it is known; -1 if none is.
    pub fn compacted_revision(&self) -> i64 {
        self.window.compacted()
    }

    /// Evaluates a Range; see [`MirrorReader::evaluate`].
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResult, Unanswered> {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        if !self.window.ranges.covers(&range) {
            return Err(Unanswered::Unmirrored);
        }
        self.evaluate(request.revision, |snapshot| eval::range(snapshot, request))
    }

    /// Evaluates a RangeStream, all at once: it answers as of one revision, and the window may move on before the client
    /// has taken it. `target_bytes` is the upstream's `--max-request-bytes`.
    pub fn range_chunks(&self, request: &RangeRequest, target_bytes: usize) -> Result<ResultChunks, Unanswered> {
        // A target without an order means nothing here; see [`crate::check::range_stream`].
        let in_order = RangeRequest { sort_target: SortTarget::Key.into(), ..request.clone() };
        Ok(ResultChunks::new(self.range(&in_order)?, request, target_bytes))
    }

    /// Evaluates on the current state something that reads mirrored keys at revision `asked`, 0 and below meaning the
    /// current one.
    pub fn evaluate<T>(
        &self,
        asked: i64,
        evaluation: impl Fn(&Snapshot<'_>) -> Result<T, Error>,
    ) -> Result<T, Unanswered> {
        if asked > 0 && asked < self.compacted_revision() {
            return Err(Unanswered::Refused(Error::Compacted));
        }
        self.window.reader.evaluate(evaluation).map_err(|error| match error {
            // Of the keyspace below: its compaction is our floor.
            Error::Compacted => Unanswered::Outside { floor: self.floor() },
            error => Unanswered::Refused(error),
        })
    }
}
