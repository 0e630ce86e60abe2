//! The versions of one key.

use std::collections::VecDeque;

use crate::record::{Change, Revision, Version};

/// The versions of one key, never none: the newest at hand, older ones until they are compacted.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    newest: Version,
    /// Ascending; never empty. A queue because compaction takes from the front.
    #[expect(clippy::box_collection, reason = "most keys have none, and leaves hold 64 of these side by side")]
    older: Option<Box<VecDeque<Version>>>,
}

/// What is left of a chain after a version was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was no version of the key but perhaps the newest of several.
    Nothing,
    /// Other versions remain.
    Some,
    /// It was the only one: the key has to go.
    Last,
}

impl Chain {
    pub(super) fn new(version: Version) -> Chain {
        Chain { newest: version, older: None }
    }

    /// The chain of these versions, oldest first; there is one at least.
    pub(crate) fn of(mut versions: impl DoubleEndedIterator<Item = Version> + ExactSizeIterator) -> Chain {
        let newest = versions.next_back().expect("a key has a version");
        let older = (versions.len() > 0).then(|| Box::new(versions.collect()));
        Chain { newest, older }
    }

    pub(super) fn key(&self) -> &[u8] {
        self.newest.key()
    }

    pub(crate) fn newest(&self) -> &Version {
        &self.newest
    }

    /// Every version, oldest first.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Version> {
        self.older.iter().flat_map(|older| older.iter()).chain([&self.newest])
    }

    /// The newest version at main revision `at`, a tombstone included.
    pub(crate) fn at(&self, at: i64) -> Option<&Version> {
        if self.newest.mod_revision() <= at {
            return Some(&self.newest);
        }
        let older = self.older.as_ref()?;
        let above = older.partition_point(|version| version.mod_revision() <= at);
        older.get(above.checked_sub(1)?)
    }

    /// What a reader at main revision `at` sees of the key.
    pub(crate) fn live_at(&self, at: i64) -> Option<&Version> {
        self.at(at).filter(|version| !version.is_tombstone())
    }

    /// Adds what changed at main revisions `from..=upto`, unless that may be more than `max` changes. Returns whether it did.
    pub(super) fn changes(&self, from: i64, upto: i64, max: usize, changes: &mut Vec<Change>) -> bool {
        if self.newest.mod_revision() < from {
            return true;
        }
        let skipped = |older: &VecDeque<Version>| older.partition_point(|version| version.mod_revision() < from);
        if self.older.as_ref().is_some_and(|older| older.len() - skipped(older) >= max) {
            return false;
        }
        // One more than is asked for is what the first change replaced.
        let mut prev: Option<&Version> = None;
        let older = self.older.iter().flat_map(|older| older.range(skipped(older).saturating_sub(1)..));
        for version in older.chain([&self.newest]) {
            if (from..=upto).contains(&version.mod_revision()) {
                let prev = prev.filter(|prev| !prev.is_tombstone()).cloned();
                changes.push(Change { version: version.clone(), prev });
            }
            prev = Some(version);
        }
        true
    }

    /// Adds the newest version.
    pub(super) fn push(&mut self, version: Version) {
        assert!(self.newest.revision() < version.revision(), "the versions of a key ascend: {self:?}, {version:?}");
        let before = std::mem::replace(&mut self.newest, version);
        self.older.get_or_insert_default().push_back(before);
    }

    /// Takes the version of this revision, unless it is the newest and there are others.
    ///
    /// It is the oldest, or one of few after it: a txn may delete a key, put it and delete it, and a compaction at its
    /// revision leaves both tombstones.
    pub(super) fn take(&mut self, revision: Revision) -> Taken {
        let Some(older) = &mut self.older else {
            return if self.newest.revision() == revision { Taken::Last } else { Taken::Nothing };
        };
        let Some(index) = older.iter().position(|version| version.revision() >= revision) else {
            return Taken::Nothing;
        };
        if older[index].revision() != revision {
            return Taken::Nothing;
        }
        older.remove(index);
        if older.is_empty() {
            self.older = None;
        } else if older.len() < older.capacity() / 4 {
            older.shrink_to(older.len() * 2);
        }
        Taken::Some
    }
}
