//! Rebuilding a keyspace from the entries of bucket `key` of a db file.
//!
//! The entries come in the order of revisions, the tree is in the order of keys. Sorting them once and building the tree
//! from the bottom is several times faster than putting them one by one.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    reader::{Published, Shared},
    record::{Batch, Change, RecordError, Revision, Version},
    store::Keyspace,
    tree::{Chain, Tree},
};

/// The revision of a store that nothing was ever written to.
const FIRST_REVISION: i64 = 1;
/// What a store answers as its compacted revision before it is first compacted.
const NEVER_COMPACTED: i64 = -1;
/// How many changes a batch of restored history holds, give or take those of one revision.
const BATCH_LEN: usize = 1024;

/// Entries of bucket `key`. Several pieces may be read beside each other, and then put together in their order.
#[derive(Debug, Default)]
pub struct Piece {
    first: Option<Revision>,
    last: Option<Revision>,
    /// In the order they came.
    versions: Vec<Version>,
    placeholders: Vec<Revision>,
}

impl Piece {
    /// Takes the next entry; they come in ascending order of revision, as the file has them.
    pub fn record(&mut self, revision: Revision, tombstone: bool, record: &[u8]) -> Result<(), RecordError> {
        if let Some(last) = self.last.filter(|last| *last >= revision) {
            return Err(RecordError::Unordered(revision, last));
        }
        if !(FIRST_REVISION..i64::MAX).contains(&revision.main) || revision.sub < 0 {
            return Err(RecordError::Impossible(revision));
        }
        self.first.get_or_insert(revision);
        self.last = Some(revision);
        // What `etcdutl snapshot restore --bump-revision` leaves: a revision without a key.
        if record.is_empty() && !tombstone {
            self.placeholders.push(revision);
        } else {
            self.versions.push(Version::restore(revision, tombstone, record)?);
        }
        Ok(())
    }

    /// Takes what comes behind its own entries.
    fn append(&mut self, mut next: Piece) -> Result<(), RecordError> {
        if let (Some(last), Some(first)) = (self.last, next.first)
            && last >= first
        {
            return Err(RecordError::Unordered(first, last));
        }
        self.first = self.first.or(next.first);
        self.last = next.last.or(self.last);
        self.versions.append(&mut next.versions);
        self.placeholders.append(&mut next.placeholders);
        Ok(())
    }
}

/// Builds a keyspace from the entries of bucket `key`.
#[derive(Debug)]
pub struct Restore {
    compacted: i64,
    entries: Piece,
}

impl Restore {
    /// `compacted` is the revision of the last compaction that was *finished*. One that was only scheduled goes on with
    /// [`Keyspace::resume_compaction`] afterwards.
    pub fn new(compacted: Option<i64>) -> Restore {
        Restore { compacted: compacted.unwrap_or(NEVER_COMPACTED), entries: Piece::default() }
    }

    /// Takes the next entry; they come in ascending order of revision, as the file has them.
    pub fn record(&mut self, revision: Revision, tombstone: bool, record: &[u8]) -> Result<(), RecordError> {
        self.entries.record(revision, tombstone, record)
    }

    /// Takes the next entries.
    pub fn piece(&mut self, piece: Piece) -> Result<(), RecordError> {
        self.entries.append(piece)
    }

    /// The keyspace, published. `revision` is the lowest that it may be at; that of the last entry may be higher.
    pub fn finish(self, revision: i64) -> Keyspace {
        let Restore { compacted, entries: Piece { last, versions, placeholders, .. } } = self;
        let revision = revision.max(FIRST_REVISION).max(last.map_or(0, |last| last.main));
        let mut before = vec![None; versions.len()];
        let chains = chains(&versions, &mut before);
        let leftovers = chains.iter().flat_map(|chain| leftovers(chain, compacted)).cloned().collect();
        let tree = Tree::build(chains);
        let history = history(&versions, &before, compacted);
        let placeholders: Arc<[Revision]> = placeholders.into();
        let published = Published { tree: tree.clone(), revision, placeholders: placeholders.clone() };
        let shared = Arc::new(Shared::new(published, compacted, history));
        Keyspace::restored(tree, revision, compacted, placeholders, leftovers, shared)
    }
}

/// The versions by key. `before` is told of each version which one came before it.
fn chains(versions: &[Version], before: &mut [Option<u32>]) -> Vec<Chain> {
    let indices = 0..u32::try_from(versions.len()).expect("a store has fewer than 2^32 versions");
    let mut order: Vec<Place> = indices.map(|index| Place { head: 0, len: 0, index }).collect();
    sort(&mut order, 0, versions);
    let version = |place: &Place| &versions[place.index as usize];
    let keys = order.chunk_by(|a, b| version(a).key() == version(b).key());
    keys.map(|places| {
        for pair in places.windows(2) {
            before[pair[1].index as usize] = Some(pair[0].index);
        }
        Chain::of(places.iter().map(|place| version(place).clone()))
    })
    .collect()
}

/// A version, and eight bytes of its key to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Big-endian, filled up with zeros.
    head: u64,
    /// How many of the eight the key has; one that ends comes before one that goes on with zeros.
    len: u32,
    index: u32,
}

/// Sorts by key, then by index. All keys agree up to `depth`.
///
/// Eight bytes at a time, beside each other in memory: comparing keys where they lie would wait for memory at each of the
/// twenty comparisons that every key takes part in.
fn sort(places: &mut [Place], depth: usize, versions: &[Version]) {
    for place in &mut *places {
        let tail = &versions[place.index as usize].key()[depth..];
        let mut head = [0; 8];
        let len = tail.len().min(8);
        head[..len].copy_from_slice(&tail[..len]);
        (place.head, place.len) = (u64::from_be_bytes(head), len as u32);
    }
    places.sort_unstable();
    for alike in places.chunk_by_mut(|a, b| (a.head, a.len) == (b.head, b.len)) {
        // Keys that ended are equal, and in order.
        if alike.len() > 1 && alike[0].len == 8 {
            sort(alike, depth + 8, versions);
        }
    }
}

/// What a compaction that is said to be finished should have removed. There is none in a file that was always closed
/// well.
fn leftovers(chain: &Chain, compacted: i64) -> impl Iterator<Item = &Version> {
    let newest = chain.at(compacted).map(Version::revision);
    chain.versions().take_while(move |version| version.mod_revision() <= compacted).filter(move |version| match version
        .is_tombstone()
    {
        true => version.mod_revision() < compacted,
        false => Some(version.revision()) != newest,
    })
}

/// The changes since the compaction.
fn history(versions: &[Version], before: &[Option<u32>], compacted: i64) -> VecDeque<Arc<Batch>> {
    let first = versions.partition_point(|version| version.mod_revision() < compacted);
    let mut history = VecDeque::new();
    let mut batch = Vec::new();
    for (version, before) in versions.iter().zip(before).skip(first) {
        let begins = batch.last().is_none_or(|last: &Change| last.version.mod_revision() < version.mod_revision());
        if begins && batch.len() >= BATCH_LEN {
            history.push_back(Arc::new(Batch::new(std::mem::take(&mut batch))));
        }
        let prev = before.map(|before| &versions[before as usize]).filter(|before| !before.is_tombstone());
        batch.push(Change { version: version.clone(), prev: prev.cloned() });
    }
    if !batch.is_empty() {
        history.push_back(Arc::new(Batch::new(batch)));
    }
    history
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::{CompactStep, record::Put};

    #[test]
    fn keys_sort_as_bytes_do_and_their_versions_by_revision() {
        let mut random = StdRng::seed_from_u64(3);
        for round in 0..200 {
            let versions: Vec<Version> = (0..100)
                .map(|main| {
                    let len = random.random_range(1..20);
                    let key: Vec<u8> = (0..len).map(|at| if at < 9 { 0 } else { random.random_range(0..2) }).collect();
                    let revision = Revision { main, sub: 0 };
                    Version::put(
                        Put { revision, create_revision: 1, version: 1, lease: 0, key: &key, value: b"" },
                        &mut Vec::new(),
                    )
                })
                .collect();
            let mut before = vec![None; versions.len()];
            let sorted: Vec<_> = chains(&versions, &mut before)
                .iter()
                .flat_map(|chain| {
                    chain.versions().map(|version| (version.key().to_vec(), version.revision())).collect::<Vec<_>>()
                })
                .collect();
            let mut expected: Vec<_> =
                versions.iter().map(|version| (version.key().to_vec(), version.revision())).collect();
            expected.sort();
            assert_eq!(sorted, expected, "round {round}");
            for (index, before) in before.iter().enumerate() {
                let earlier = versions[..index].iter().rposition(|earlier| earlier.key() == versions[index].key());
                assert_eq!(before.map(|before| before as usize), earlier);
            }
        }
    }

    #[test]
    fn entries_out_of_order_or_broken_are_refused() {
        let at = |main| Revision { main, sub: 0 };
        let mut restore = Restore::new(None);
        restore.record(at(5), true, b"\x0a\x01k").unwrap();
        assert_eq!(restore.record(at(5), true, b"\x0a\x01k"), Err(RecordError::Unordered(at(5), at(5))));
        assert_eq!(restore.record(at(6), true, b""), Err(RecordError::NoKey(at(6))));
        assert_eq!(restore.record(at(7), true, b"\x0a\x02k"), Err(RecordError::Malformed(at(7))));
        for main in [i64::MIN, 0, i64::MAX] {
            assert_eq!(Restore::new(None).record(at(main), true, b"\x0a\x01k"), Err(RecordError::Impossible(at(main))));
        }
    }

    #[test]
    fn pieces_are_put_together_in_their_order() {
        let piece = |revisions: &[i64]| {
            let mut piece = Piece::default();
            for main in revisions {
                piece.record(Revision { main: *main, sub: 0 }, true, b"\x0a\x01k").unwrap();
            }
            piece
        };
        let mut restore = Restore::new(None);
        for revisions in [&[2, 3][..], &[], &[5], &[6, 9]] {
            restore.piece(piece(revisions)).unwrap();
        }
        let at = |main| Revision { main, sub: 0 };
        assert_eq!(restore.piece(piece(&[9, 10])), Err(RecordError::Unordered(at(9), at(9))));
        assert_eq!(restore.record(at(8), true, b"\x0a\x01k"), Err(RecordError::Unordered(at(8), at(9))));
        assert_eq!(restore.finish(0).revision(), 9);
    }

    #[test]
    fn the_next_compaction_removes_what_the_last_left() {
        let at = |main| Revision { main, sub: 0 };
        let mut restore = Restore::new(Some(9));
        for (main, key) in [(2, b"a"), (3, b"a"), (4, b"b"), (6, b"a"), (9, b"c")] {
            let put = Put { revision: at(main), create_revision: 2, version: 1, lease: 0, key, value: b"" };
            restore.record(at(main), false, Version::put(put, &mut Vec::new()).record()).unwrap();
        }
        restore.record(at(10), true, b"\x0a\x01a").unwrap();
        restore.record(at(11), true, b"\x0a\x01c").unwrap();
        let mut keyspace = restore.finish(9);
        assert_eq!(keyspace.compact_step(1), CompactStep::Idle);
        keyspace.resume_compaction(11).unwrap();
        keyspace.publish();
        let mut removed = Vec::new();
        loop {
            match keyspace.compact_step(1) {
                CompactStep::Removed(versions) => removed.extend(versions),
                CompactStep::Finished(11, versions) => break removed.extend(versions),
                step => panic!("{step:?}"),
            }
        }
        let puts = [2, 3, 6].map(|main| (at(main), false));
        assert_eq!(removed, [&puts[..], &[(at(10), true), (at(9), false)]].concat());
    }

    #[test]
    fn the_revision_is_the_highest_that_anything_names() {
        assert_eq!(Restore::new(None).finish(0).revision(), 1);
        assert_eq!(Restore::new(Some(9)).finish(9).revision(), 9);
        let mut restore = Restore::new(Some(9));
        restore.record(Revision { main: 12, sub: 0 }, true, b"\x0a\x01k").unwrap();
        let keyspace = restore.finish(9);
        assert_eq!((keyspace.revision(), keyspace.compacted_revision()), (12, 9));
    }
}
