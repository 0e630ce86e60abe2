//! Proposals that the raft thread has taken and not yet stepped.
//!
//! With a leader they leave at once, in batches. Without one they wait, as in etcd, but no longer than their proposers
//! do: a write that comes true minutes after its client was told it timed out would surprise everybody.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::handle::{APPLY_GAP_MAX, Proposal};

/// Proposals in one step. More wait for the next: a batch delays its first entry by the time of its last. Fewer than
/// [`APPLY_GAP_MAX`], or a batch that is committed at once would look as if applying lagged.
const BATCH_ENTRIES_MAX: usize = 4096;
const _: () = assert!((BATCH_ENTRIES_MAX as u64) < APPLY_GAP_MAX);
/// Bytes of proposals in one step, but for a single larger one.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Invariant: `bytes` is the sum over `waiting`, which is in the order of arrival.
#[derive(Debug)]
pub(super) struct Backlog {
    waiting: VecDeque<(Instant, Proposal)>,
    bytes: usize,
    waits_max: Duration,
}

impl Backlog {
    /// A backlog in which nothing waits longer than `waits_max`.
    pub(super) fn new(waits_max: Duration) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, waits_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, proposals: impl Iterator<Item = Proposal>, now: Instant) {
        for proposal in proposals {
            self.bytes += proposal.data.len();
            self.waiting.push_back((now, proposal));
        }
    }

    /// How many of the first make the next batch.
    pub(super) fn batch_len(&self) -> usize {
        let mut bytes = 0;
        let fits = |(_, proposal): &&(Instant, Proposal)| {
            bytes += proposal.data.len();
            bytes <= BATCH_BYTES_MAX
        };
        let len = self.waiting.iter().take(BATCH_ENTRIES_MAX).take_while(fits).count();
        len.max(usize::from(!self.waiting.is_empty()))
    }

    /// The data of the first `len`.
    pub(super) fn data(&self, len: usize) -> impl Iterator<Item = Bytes> {
        self.waiting.iter().take(len).map(|(_, proposal)| proposal.data.clone())
    }

    /// Takes the first `len` out; returns their ids.
    pub(super) fn take(&mut self, len: usize) -> impl Iterator<Item = u64> {
        let bytes = &mut self.bytes;
        self.waiting.drain(..len).map(move |(_, proposal)| {
            *bytes -= proposal.data.len();
            proposal.id
        })
    }

    /// Takes those out that are bound to another term than this one, in which this member leads; returns their ids.
    pub(super) fn take_outdated(&mut self, leads_in: Option<u64>) -> Vec<u64> {
        let is_outdated = |proposal: &Proposal| proposal.term.is_some() && proposal.term != leads_in;
        if !self.waiting.iter().any(|(_, proposal)| is_outdated(proposal)) {
            return Vec::new();
        }
        let (outdated, waiting): (VecDeque<_>, VecDeque<_>) =
            self.waiting.drain(..).partition(|(_, proposal)| is_outdated(proposal));
        self.waiting = waiting;
        self.bytes -= outdated.iter().map(|(_, proposal)| proposal.data.len()).sum::<usize>();
        outdated.into_iter().map(|(_, proposal)| proposal.id).collect()
    }

    /// How many of the first have waited too long.
    pub(super) fn overdue(&self, now: Instant) -> usize {
        self.waiting.iter().take_while(|(since, _)| *since + self.waits_max <= now).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposals(ids: std::ops::Range<u64>, bytes: usize) -> impl Iterator<Item = Proposal> {
        ids.map(move |id| Proposal { id, data: vec![0; bytes].into(), term: None })
    }

    fn backlog() -> Backlog {
        Backlog::new(Duration::from_secs(7))
    }

    #[test]
    fn a_batch_is_bounded_by_entries_and_by_bytes_but_never_empty() {
        let now = Instant::now();
        let mut backlog = backlog();
        assert_eq!(backlog.batch_len(), 0);
        backlog.add(proposals(0..6_000, 1), now);
        assert_eq!(backlog.batch_len(), 4096);
        assert_eq!(backlog.take(4096).last(), Some(4095));
        assert_eq!((backlog.batch_len(), backlog.bytes()), (1904, 1904));
        drop(backlog.take(1904));
        backlog.add(proposals(0..9, 1 << 20), now);
        assert_eq!(backlog.batch_len(), 8);
        drop(backlog.take(9));
        backlog.add(proposals(0..2, 9 << 20), now);
        assert_eq!(backlog.batch_len(), 1, "a single one may be larger");
    }

    #[test]
    fn nothing_waits_longer_than_it_may() {
        let start = Instant::now();
        let mut backlog = backlog();
        backlog.add(proposals(0..3, 1), start);
        backlog.add(proposals(3..5, 1), start + Duration::from_secs(1));
        assert_eq!(backlog.overdue(start + Duration::from_secs(6)), 0);
        assert_eq!(backlog.overdue(start + Duration::from_secs(7)), 3);
        assert_eq!(backlog.overdue(start + Duration::from_secs(8)), 5);
    }

    #[test]
    fn what_is_bound_to_a_term_does_not_come_into_the_log_of_another() {
        let mut backlog = backlog();
        let bound = [None, Some(3), Some(4), None].into_iter().zip(1..);
        let proposals = bound.map(|(term, id)| Proposal { id, data: vec![0; 10].into(), term });
        backlog.add(proposals, Instant::now());
        assert_eq!(backlog.take_outdated(Some(4)), [2]);
        assert_eq!((backlog.len(), backlog.bytes()), (3, 30));
        assert_eq!(backlog.take_outdated(None), [3], "it does not lead");
        assert_eq!(backlog.take(2).collect::<Vec<_>>(), [1, 4]);
    }
}
