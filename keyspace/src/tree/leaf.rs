//! The leaves: keys and their versions, changed in place.

use parking_lot::{RwLock, RwLockReadGuard};
use smallvec::SmallVec;

use super::{
    NODE_LEN,
    chain::{Chain, Taken},
    heads::Heads,
};
use crate::record::{Revision, Version};

/// A leaf behind its lock. Readers share the lock while they clone what they want, at most a leaf's worth; the one
/// writer holds it for one change. Nobody takes another lock meanwhile.
#[derive(Debug, Default)]
pub(super) struct Leaf(RwLock<Entries>);

/// The keys of a leaf with their versions.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    heads: Heads,
    /// Invariant: ascending by key, as many as heads.
    chains: SmallVec<[Chain; NODE_LEN]>,
}

/// What became of an update.
pub(super) enum Updated {
    /// The version is in; `before` was the newest until then.
    Done { version: Version, before: Option<Version> },
    /// The key is new and the leaf has no room for it.
    Full(Version),
}

impl Leaf {
    pub(super) fn new(entries: Entries) -> Leaf {
        Leaf(RwLock::new(entries))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.0.read()
    }

    /// Adds what `make` returns for the newest version of the key.
    ///
    /// There is one writer, so nothing changes between the look and the change; readers need not wait while a large
    /// value is copied.
    pub(super) fn update(&self, key: &[u8], make: impl FnOnce(Option<&Version>) -> Version) -> Updated {
        let entries = self.read();
        let place = entries.search(key);
        let before = place.ok().map(|index| entries.chains[index].newest().clone());
        let is_full = entries.chains.len() == NODE_LEN;
        drop(entries);
        let version = make(before.as_ref());
        match place {
            Ok(index) => self.0.write().chains[index].push(version.clone()),
            Err(_) if is_full => return Updated::Full(version),
            Err(index) => self.0.write().insert(index, version.clone()),
        }
        Updated::Done { version, before }
    }

    /// Takes the version of a key of this revision, see [`Chain::take`]; a key without versions goes too.
    pub(super) fn take(&self, key: &[u8], revision: Revision) -> Taken {
        let mut entries = self.0.write();
        let Ok(index) = entries.search(key) else { return Taken::Nothing };
        let taken = entries.chains[index].take(revision);
        if taken == Taken::Last {
            entries.chains.remove(index);
            entries.heads.remove(index);
        }
        taken
    }

    /// Two leaves with the content of this one and a new key.
    ///
    /// This leaf stays as it is: views that have it must not see half of it.
    pub(super) fn split(&self, version: Version) -> Split {
        let entries = self.read();
        let index = entries.search(version.key()).expect_err("a key that a leaf has needs no split");
        // Keys that only ever ascend leave full leaves behind instead of half ones.
        if index == entries.chains.len() {
            let separator = separator(entries.key(index - 1), version.key());
            return Split { separator, left: None, right: Entries::of([Chain::new(version)].into_iter().collect()) };
        }
        let at = entries.chains.len() / 2;
        let mut left = Entries::of(entries.chains[..at].iter().cloned().collect());
        let mut right = Entries::of(entries.chains[at..].iter().cloned().collect());
        match index.checked_sub(at) {
            Some(index) => right.insert(index, version),
            None => left.insert(index, version),
        }
        let separator = separator(left.key(left.len() - 1), right.key(0));
        Split { separator, left: Some(left), right }
    }

    /// One leaf with the content of two neighbours, which stay as they are.
    pub(super) fn merged(&self, right: &Leaf) -> Leaf {
        let left = self.read();
        let mut chains = left.chains.clone();
        drop(left);
        chains.extend(right.read().chains.iter().cloned());
        Leaf::new(Entries::of(chains))
    }
}

/// The two halves of a leaf.
pub(super) struct Split {
    pub(super) separator: Box<[u8]>,
    /// `None` when it is the leaf as it was.
    pub(super) left: Option<Entries>,
    pub(super) right: Entries,
}

impl Entries {
    pub(super) fn of(chains: SmallVec<[Chain; NODE_LEN]>) -> Entries {
        Entries { heads: Heads::of(chains.iter().map(Chain::key)), chains }
    }

    pub(super) fn len(&self) -> usize {
        self.chains.len()
    }

    pub(super) fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// How many keys are live by their newest version.
    pub(super) fn live(&self) -> usize {
        self.chains.iter().filter(|chain| !chain.newest().is_tombstone()).count()
    }

    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        self.heads.search(key, |index| self.chains[index].key())
    }

    /// The chains with `lower <= key < upper`.
    pub(super) fn between(&self, lower: Option<&[u8]>, upper: Option<&[u8]>) -> &[Chain] {
        let index = |key| self.search(key).unwrap_or_else(|index| index);
        let low = lower.map_or(0, index);
        let high = upper.map_or(self.chains.len(), index);
        self.chains.get(low..high).unwrap_or_default()
    }

    pub(super) fn key(&self, index: usize) -> &[u8] {
        self.chains[index].key()
    }

    fn insert(&mut self, index: usize, version: Version) {
        self.chains.insert(index, Chain::new(version));
        if !self.heads.insert(index, self.chains[index].key()) {
            self.heads = Heads::of(self.chains.iter().map(Chain::key));
        }
    }
}

/// The shortest key above `left` and not above `right`.
pub(super) fn separator(left: &[u8], right: &[u8]) -> Box<[u8]> {
    let shared = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    right[..shared + 1].into()
}
