//! Filling a mirror from a list.

use forebay_proto::mvccpb::KeyValue;

use super::{Desync, Key, Ranges};
use crate::{
    record::{Revision, Version},
    store::Keyspace,
    tree::{Chain, Tree},
};

/// What a live key takes beside its record: the version's header, and its places in the tree.
const KEY_COST: usize = 120;

/// What a live version takes in memory, nearly.
pub(super) fn cost(version: &Version) -> u64 {
    (version.record().len() + KEY_COST) as u64
}

/// A mirror that is being filled: the live records of some ranges, all at one revision.
#[derive(Debug)]
pub struct Load {
    ranges: Ranges,
    revision: i64,
    versions: Vec<Version>,
    bytes: u64,
    scratch: Vec<u8>,
}

impl Load {
    /// Nothing yet of these ranges at this revision, which is at least 1.
    pub fn new(ranges: Ranges, revision: i64) -> Load {
        assert!(revision > 0, "a store begins at revision 1");
        Load { ranges, revision, versions: Vec::new(), bytes: 0, scratch: Vec::new() }
    }

    /// The revision of the list.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// What the records so far take in memory, nearly.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many records there are so far.
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Adds a record. The order of keys is the quickest, any other does.
    pub fn add(&mut self, kv: &KeyValue) -> Result<(), Desync> {
        let key = || Key::of(&kv.key);
        // The list tells no order within a revision, and it takes none: they are all older than any change to come.
        let revision = Revision { main: kv.mod_revision, sub: 0 };
        let version = Version::of(kv, revision, &mut self.scratch);
        let version = version.ok_or_else(|| Desync::Malformed { key: key(), revision: kv.mod_revision })?;
        if kv.mod_revision > self.revision {
            return Err(Desync::Backwards { revision: self.revision, current: kv.mod_revision });
        }
        if !self.ranges.contains(&kv.key) {
            return Err(Desync::Foreign { key: key(), revision: kv.mod_revision });
        }
        self.bytes += cost(&version);
        self.versions.push(version);
        Ok(())
    }

    /// The ranges, what the records take, and the keyspace, whose past begins at the list.
    pub(super) fn finish(self) -> Result<(Ranges, u64, Keyspace), Desync> {
        let Load { ranges, revision, mut versions, bytes, .. } = self;
        versions.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        if let Some(twice) = versions.windows(2).find(|pair| pair[0].key() == pair[1].key()) {
            return Err(Desync::Twice { key: Key::of(twice[0].key()) });
        }
        let chains = versions.into_iter().map(|version| Chain::of([version].into_iter())).collect();
        let keyspace = Keyspace::begun(Tree::build(chains), revision);
        Ok((ranges, bytes, keyspace))
    }
}
