//! How long the window is, and keeping it that long.
//!
//! Changes are counted by the batch as they come. When there are too many, the floor rises over the oldest batches;
//! removing what that made unreadable is done a little with each batch that follows.

use std::collections::VecDeque;

use crate::{
    compact::CompactStep,
    record::{Batch, Change},
    store::Keyspace,
};

/// What a change takes beside the records: its place in a batch and in its key's chain, and a version's header.
const CHANGE_COST: usize = 160;

/// How many changes a step looks at beside twice those that came: so the backlog shrinks whatever comes.
const STEP_CHANGES: usize = 64;

/// How long the window is. A short one sends watchers that resume, and reads of old revisions, to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What superseded versions and the changes themselves may take in memory. The last batch is kept however large.
    pub bytes: u64,
    /// How many revisions of changes are kept.
    pub revisions: u64,
}

/// What the window holds, and how much of it.
#[derive(Debug)]
pub(super) struct Trim {
    limits: Limits,
    /// The batches above the floor, oldest first.
    stretches: VecDeque<Stretch>,
    bytes: u64,
    revisions: u64,
}

#[derive(Debug)]
struct Stretch {
    /// The last revision.
    last: i64,
    bytes: u64,
    revisions: u64,
}

impl Trim {
    pub(super) fn new(limits: Limits) -> Trim {
        Trim { limits, stretches: VecDeque::new(), bytes: 0, revisions: 0 }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// What the window takes in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts a batch that was published; returns how high the floor has to be at least.
    pub(super) fn add(&mut self, batch: &Batch) -> i64 {
        let bytes = batch.changes.iter().map(cost).sum();
        let revisions = batch.revisions_since(0) as u64;
        self.stretches.push_back(Stretch { last: batch.last(), bytes, revisions });
        (self.bytes, self.revisions) = (self.bytes + bytes, self.revisions + revisions);
        let mut floor = 0;
        while (self.bytes > self.limits.bytes || self.revisions > self.limits.revisions) && self.stretches.len() > 1 {
            floor = self.forget();
        }
        floor
    }

    /// Takes note that the floor is there.
    pub(super) fn forget_through(&mut self, floor: i64) {
        while self.stretches.front().is_some_and(|stretch| stretch.last <= floor) {
            self.forget();
        }
    }

    fn forget(&mut self) -> i64 {
        let Stretch { last, bytes, revisions } = self.stretches.pop_front().expect("the caller looked");
        (self.bytes, self.revisions) = (self.bytes - bytes, self.revisions - revisions);
        last
    }

    /// Removes some of what lies below the floor, after `added` changes were published.
    pub(super) fn step(&self, keyspace: &mut Keyspace, added: usize) {
        // The floor rises with each batch; two rises are seen to, so that a backlog of them shrinks too.
        for _ in 0..2 {
            match keyspace.compact_step(2 * added + STEP_CHANGES) {
                CompactStep::Finished(..) => {}
                CompactStep::Idle | CompactStep::Waiting | CompactStep::Removed(_) => return,
            }
        }
    }
}

/// What a change keeps in memory that the live records do not.
fn cost(change: &Change) -> u64 {
    let tombstone = if change.version.is_tombstone() { change.version.record().len() } else { 0 };
    let prev = change.prev.as_ref().map_or(0, |prev| prev.record().len());
    (CHANGE_COST + tombstone + prev) as u64
}
