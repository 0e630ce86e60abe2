//! The part of the log that is kept in memory: what the library reads, and what followers are sent.
//!
//! ```text
//!   compacted │ kept for slow followers │ not yet applied │
//!             ▲                         ▲                 ▲
//!          base (index, term)        applied            last
//! ```
//!
//! It holds nothing that is not in the WAL. A follower that needs entries below the base gets a snapshot instead; the
//! snapshot it is told of is always the applied state of this very moment, since the db that goes with it is.

use std::collections::VecDeque;

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
    util::limit_size,
};

/// Invariant: `entries` are without a gap and begin at `base_index + 1`; `base_index <= applied_index`.
#[derive(Debug, Default)]
pub(super) struct Log {
    base_index: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    applied_index: u64,
    applied_term: u64,
    hard_state: HardState,
    conf_state: ConfState,
    /// Bytes of data in `entries`.
    bytes: usize,
}

impl Log {
    /// A log as it was when the member stopped.
    pub(super) fn new(base: (u64, u64), entries: Vec<Entry>, hard_state: HardState, conf_state: ConfState) -> Self {
        let (base_index, base_term) = base;
        Self {
            base_index,
            base_term,
            applied_index: base_index,
            applied_term: base_term,
            bytes: entries.iter().map(bytes_of).sum(),
            entries: entries.into(),
            hard_state,
            conf_state,
        }
    }

    /// Takes entries that are now in the WAL; those they contradict are gone.
    ///
    /// The caller has checked that they follow what is there: the library never leaves a gap.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        assert!(
            self.base_index < first && first <= self.last() + 1,
            "invariant: the log has no gap (kept {} to {}, appended {first})",
            self.base_index + 1,
            self.last(),
        );
        let kept = (first - self.base_index - 1) as usize;
        self.bytes -= self.entries.drain(kept..).map(|entry| bytes_of(&entry)).sum::<usize>();
        self.bytes += entries.iter().map(bytes_of).sum::<usize>();
        self.entries.extend(entries);
    }

    /// Starts over from a snapshot of the leader.
    pub(super) fn restore(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        (self.base_index, self.base_term) = (metadata.index, metadata.term);
        (self.applied_index, self.applied_term) = (metadata.index, metadata.term);
        self.entries.clear();
        self.bytes = 0;
        self.conf_state = metadata.get_conf_state().clone();
    }

    /// Notes how far the state machine is.
    pub(super) fn set_applied(&mut self, index: u64) {
        assert!(
            self.applied_index <= index && index <= self.last(),
            "invariant: applied {} goes up to {index} within a log that ends at {}",
            self.applied_index,
            self.last(),
        );
        self.applied_term = self.term_of(index).expect("checked to be within the log");
        self.applied_index = index;
    }

    pub(super) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    pub(super) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Index and term of the last applied entry.
    pub(super) fn applied(&self) -> (u64, u64) {
        (self.applied_index, self.applied_term)
    }

    /// Keeps, of what is applied, the last `entries_max` entries, and fewer if they hold more than `bytes_max` bytes.
    ///
    /// It waits until a tenth more is there, so that it is not done for every entry.
    pub(super) fn compact(&mut self, entries_max: u64, bytes_max: usize) {
        let applied = self.applied_index - self.base_index;
        let (entries_enough, bytes_enough) =
            (entries_max.saturating_add(entries_max / 10), bytes_max.saturating_add(bytes_max / 10));
        if applied <= entries_enough && self.bytes <= bytes_enough {
            return;
        }
        let mut forgotten = 0;
        while forgotten < applied && (applied - forgotten > entries_max || self.bytes > bytes_max) {
            let entry = self.entries.pop_front().expect("applied entries are in the log");
            self.bytes -= bytes_of(&entry);
            (self.base_index, self.base_term) = (entry.index, entry.term);
            forgotten += 1;
        }
    }

    /// Index of the last entry, or of the base.
    pub(super) fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base_index {
            return Some(self.base_term);
        }
        let position = index.checked_sub(self.base_index + 1)?;
        self.entries.get(usize::try_from(position).ok()?).map(|entry| entry.term)
    }
}

fn bytes_of(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len()
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "invariant: entries up to {high} are asked of a log up to {}", self.last());
        let position = |index: u64| (index - self.base_index - 1) as usize;
        let mut entries: Vec<_> = self.entries.range(position(low)..position(high)).cloned().collect();
        limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base_index {
            return Err(StorageError::Compacted.into());
        }
        self.term_of(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied_index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.applied_index, self.applied_term);
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, term);
        entry
    }

    fn log(base: u64, last: u64) -> Log {
        let entries = (base + 1..=last).map(|index| entry(index, 1 + index / 10)).collect();
        Log::new((base, 1 + base / 10), entries, HardState::default(), ConfState::default())
    }

    fn indexes(log: &Log, low: u64, high: u64) -> raft::Result<Vec<u64>> {
        let entries = log.entries(low, high, None, GetEntriesContext::empty(false))?;
        Ok(entries.iter().map(|entry| entry.index).collect())
    }

    #[test]
    fn reads_only_what_is_kept() {
        let log = log(5, 25);
        assert_eq!(indexes(&log, 6, 8).unwrap(), [6, 7]);
        assert_eq!(indexes(&log, 26, 26).unwrap(), [0; 0]);
        assert!(matches!(indexes(&log, 5, 8), Err(raft::Error::Store(StorageError::Compacted))));
        assert_eq!((log.term(5).unwrap(), log.term(19).unwrap(), log.term(20).unwrap()), (1, 2, 3));
        assert!(log.term(4).is_err() && log.term(26).is_err());
    }

    #[test]
    fn later_entries_replace_what_they_contradict() {
        let mut log = log(0, 9);
        log.append(vec![entry(7, 5)]);
        assert_eq!((log.last(), log.term(7).unwrap()), (7, 5));
    }

    #[test]
    #[should_panic(expected = "invariant: the log has no gap")]
    fn a_gap_is_an_invariant_broken() {
        log(0, 9).append(vec![entry(11, 1)]);
    }

    #[test]
    fn compaction_keeps_some_entries_and_everything_that_is_not_applied() {
        let mut log = log(0, 30);
        log.set_applied(20);
        log.compact(19, 1000);
        assert_eq!(log.first_index().unwrap(), 1, "not worth it yet");
        log.compact(5, 1000);
        assert_eq!((log.first_index().unwrap(), log.term(15).unwrap(), log.last()), (16, 2, 30));
        log.compact(0, 0);
        assert_eq!((log.first_index().unwrap(), log.last()), (21, 30));
    }

    #[test]
    fn compaction_bounds_bytes_as_well() {
        let mut log = Log::default();
        let heavy = |index| Entry { data: vec![0; 100].into(), ..entry(index, 1) };
        log.append((1..=20).map(heavy).collect());
        log.append(vec![heavy(15)]);
        log.set_applied(15);
        log.compact(1000, 500);
        assert_eq!((log.first_index().unwrap(), log.bytes), (11, 500));
    }

    #[test]
    fn a_snapshot_is_the_applied_state() {
        let mut log = log(0, 30);
        assert!(log.snapshot(12, 2).is_err());
        log.set_applied(12);
        let snapshot = log.snapshot(12, 2).unwrap();
        assert_eq!((snapshot.get_metadata().index, snapshot.get_metadata().term), (12, 2));
    }
}
