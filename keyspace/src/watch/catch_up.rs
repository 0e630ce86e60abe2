//! How an unsynced watcher reads the history: one bounded slice at a time, always to the end of a revision.

use std::sync::Arc;

use super::encode::Event;
use super::hub::History;
use super::interval::Span;
use super::outbox::{event_of, is_watched};
use crate::record::Batch;

/// How many revisions one response holds at most; etcd's number.
pub(super) const SLICE_REVISIONS_MAX: usize = 1000;

/// How many bytes of events a response holds at most, the last revision left aside. etcd has no such bound; a client
/// sees more responses than from etcd only when a thousand revisions are larger than this.
const SLICE_BYTES_MAX: usize = 16 << 20;

/// How many bytes all lagging watchers of a stream may write in one round between them, the last revision of each left
/// aside. With a slow client it bounds how long the watchers of its stream wait for each other.
const ROUND_BYTES_MAX: usize = 1 << 20;

/// What a watcher found.
pub(super) enum Read {
    Slice(Slice),
    /// The watcher's next revision is compacted; the revision of the compaction.
    Compacted(i64),
    /// The watcher's next revision lies before the window.
    Outside,
}

/// A part of the history as one watcher sees it.
pub(super) struct Slice {
    /// The store's revision when it was read.
    pub(super) current: i64,
    /// The revision to go on from.
    pub(super) next: i64,
    /// How many revisions were looked at.
    pub(super) revisions: usize,
    batches: Vec<Arc<Batch>>,
    /// Batch and change.
    watched: Vec<(u32, u32)>,
    compacted: i64,
}

impl Slice {
    /// About how long its events are.
    pub(super) fn bytes(&self, prev_kv: bool) -> usize {
        self.events(prev_kv).map(|event| event.len()).sum()
    }

    pub(super) fn events(&self, prev_kv: bool) -> impl Iterator<Item = Event<'_>> + Clone {
        let prev_since = prev_kv.then_some(self.compacted);
        self.watched.iter().map(move |&(batch, at)| event_of(&self.batches[batch as usize], at as usize, prev_since))
    }
}

/// Reads from revision `next` on for one of `readers` watchers of a stream.
pub(super) fn read(history: &dyn History, next: i64, span: &Span, wants: u8, readers: usize) -> Read {
    let bytes_max = if readers > 1 { ROUND_BYTES_MAX / readers } else { SLICE_BYTES_MAX };
    // Before the changes: if there are none, that much is known to be read. What became visible in between is left for
    // the next slice, so that a header is never older than its events.
    let current = history.revision();
    let batches = match next <= current {
        true => history.changes_of(&span.range(), next).unwrap_or_else(|| history.changes(next, SLICE_REVISIONS_MAX)),
        false => Vec::new(),
    };
    // After the changes: what was taken out by then has raised these before.
    let compacted = history.compacted();
    if next < compacted {
        return Read::Compacted(compacted);
    }
    if next < history.retained() {
        return Read::Outside;
    }
    let mut slice =
        Slice { current, next: next.max(current + 1), revisions: 0, batches, watched: Vec::new(), compacted };
    let (mut last, mut bytes) = (0, 0);
    'slice: for (batch, number) in slice.batches.iter().zip(0..) {
        let from = batch.changes.len() - batch.since(next).len();
        for (at, change) in batch.changes.iter().enumerate().skip(from) {
            let revision = change.version.mod_revision();
            if revision != last {
                if slice.revisions == SLICE_REVISIONS_MAX || bytes >= bytes_max || revision > current {
                    break 'slice;
                }
                slice.revisions += 1;
                slice.next = revision + 1;
                last = revision;
            }
            if is_watched(batch, at, span, wants) {
                slice.watched.push((number, at as u32));
                bytes += change.version.record().len();
            }
        }
    }
    Read::Slice(slice)
}
