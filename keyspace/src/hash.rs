//! HashKV: what members compare to find out whether they hold the same.
//!
//! The hash runs over the entries of bucket `key` in the order of revisions, as they are on disk once the last compaction
//! is through. Members compact at their own pace, so what is about to go does not count, and else:
//!
//! 1. above the compacted revision every entry counts;
//! 2. at or below it an entry counts if a compaction at the hashed revision would keep it (if that would keep nothing at
//!    all, this rule is off);
//! 3. a tombstone at the compacted revision never counts, because etcd before 3.5.16 did not keep it.
//!
//! Under the exception of rule 2 an etcd whose compaction is under way counts what is about to go, and so has another
//! hash than one whose compaction is through.

use std::sync::Arc;

use crate::{
    reader::{Published, Shared},
    record::{Revision, Version},
    tree::Chain,
};

/// How many hashes of compactions are kept.
pub(crate) const KEPT_MAX: usize = 10;

/// A hash of the keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionHash {
    /// CRC-32C.
    pub hash: u32,
    /// The compaction it was computed after; -1 if there was none.
    pub compact_revision: i64,
    /// The last revision it covers.
    pub revision: i64,
}

/// What counts as kept by a compaction at the hashed revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// A tombstone at the very revision is kept: the hash of a compaction.
    Tombstones,
    /// It is not: a hash at any other time.
    LiveOnly,
}

impl RevisionHash {
    pub(crate) fn of(published: &Published, compacted: i64, revision: i64) -> RevisionHash {
        hash(published, compacted, revision, Keep::LiveOnly)
    }
}

/// Computes the hash that goes with a compaction. Until it has run, or is dropped, nothing is removed.
#[derive(Debug)]
pub struct HashJob {
    published: Published,
    /// The compaction before.
    compacted: i64,
    revision: i64,
    shared: Arc<Shared>,
    /// Holds the removal back.
    _held: Arc<()>,
}

impl HashJob {
    pub(crate) fn new(
        published: Published,
        compacted: i64,
        revision: i64,
        shared: Arc<Shared>,
        held: Arc<()>,
    ) -> HashJob {
        HashJob { published, compacted, revision, shared, _held: held }
    }

    /// Computes the hash, keeps it for [`crate::Reader::hash`], and lets the removal go on. Takes up to a second
    /// for a million versions: not for the thread that applies.
    pub fn run(self) -> RevisionHash {
        let hash = hash(&self.published, self.compacted, self.revision, Keep::Tombstones);
        let mut hashes = self.shared.hashes.lock();
        let index = hashes.partition_point(|kept| kept.revision < hash.revision);
        hashes.insert(index, hash);
        let outdated = hashes.len().saturating_sub(KEPT_MAX);
        hashes.drain(..outdated);
        hash
    }
}

fn hash(published: &Published, compacted: i64, revision: i64, keep: Keep) -> RevisionHash {
    let mut entries: Vec<(Revision, Option<Version>)> = Vec::new();
    // At or below the compacted revision, and not to be kept by another compaction.
    let mut doomed: Vec<(Revision, Option<Version>)> = Vec::new();
    let mut is_any_kept = false;
    published.tree.for_each(&mut |chain| {
        let kept = kept(chain, revision, keep);
        is_any_kept |= kept.is_some();
        let stayed = chain.live_at(compacted).map(Version::revision);
        for version in chain.versions().take_while(|version| version.mod_revision() <= revision) {
            let at = version.revision();
            let counts = at.main > compacted || kept == Some(at);
            if at.main > compacted || stayed == Some(at) {
                if counts { &mut entries } else { &mut doomed }.push((at, Some(version.clone())));
            }
        }
    });
    let placeholders = published.placeholders.iter().filter(|placeholder| placeholder.main <= revision);
    let last = placeholders.clone().next_back();
    let stayed = placeholders.clone().rfind(|placeholder| placeholder.main <= compacted);
    is_any_kept |= last.is_some();
    for placeholder in placeholders.filter(|placeholder| placeholder.main > compacted || Some(*placeholder) == stayed) {
        let counts = placeholder.main > compacted || Some(placeholder) == last;
        if counts { &mut entries } else { &mut doomed }.push((*placeholder, None));
    }
    if !is_any_kept {
        entries.append(&mut doomed);
    }
    entries.sort_unstable_by_key(|(revision, _)| *revision);
    let mut crc = crc32c::crc32c(b"key");
    for (revision, version) in entries {
        crc = crc32c::crc32c_append(crc, &revision.to_bytes());
        if let Some(version) = version {
            if version.is_tombstone() {
                crc = crc32c::crc32c_append(crc, b"t");
            }
            crc = crc32c::crc32c_append(crc, version.record());
        }
    }
    RevisionHash { hash: crc, compact_revision: compacted, revision }
}

/// The version of a key that a compaction at `revision` keeps, as etcd's hash counts.
fn kept(chain: &Chain, revision: i64, keep: Keep) -> Option<Revision> {
    // A key may be deleted and put again within one revision. etcd looks at the deletion then.
    let deleted = chain.versions().find(|version| version.is_tombstone() && version.mod_revision() == revision);
    match deleted.or_else(|| chain.live_at(revision)) {
        Some(version) if version.is_tombstone() && keep == Keep::LiveOnly => None,
        version => version.map(Version::revision),
    }
}
