//! The tree against a sorted map, and what views of it must not notice.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::record::Put;

/// Writes to a tree as the store does: a revision each.
struct Writer {
    tree: Tree,
    revision: i64,
    scratch: Vec<u8>,
    /// Superseded versions and tombstones, with the revision from which nobody sees them.
    garbage: Vec<(i64, Version)>,
}

impl Writer {
    fn new() -> Writer {
        Writer { tree: Tree::new(), revision: 1, scratch: Vec::new(), garbage: Vec::new() }
    }

    fn put(&mut self, key: &[u8]) {
        self.revision += 1;
        let revision = Revision { main: self.revision, sub: 0 };
        let (_, before) = self.tree.update(key, |before| {
            let version = before.map_or(0, Version::version) + 1;
            let put = Put { revision, create_revision: 1, version, lease: 0, key, value: b"" };
            Version::put(put, &mut self.scratch)
        });
        self.garbage.extend(before.filter(|before| !before.is_tombstone()).map(|before| (self.revision, before)));
    }

    fn delete(&mut self, key: &[u8]) {
        self.revision += 1;
        let revision = Revision { main: self.revision, sub: 0 };
        let (tombstone, before) = self.tree.update(key, |_| Version::tombstone(revision, key, &mut self.scratch));
        self.garbage.push((self.revision, before.expect("only what exists is deleted")));
        self.garbage.push((self.revision + 1, tombstone));
    }

    fn compact(&mut self) {
        for (from, version) in std::mem::take(&mut self.garbage) {
            if from <= self.revision {
                assert!(self.tree.take(version.key(), version.revision()), "{version:?}");
            } else {
                self.garbage.push((from, version));
            }
        }
    }
}

fn keys(tree: &Tree, range: &KeyRange, at: i64, direction: Direction) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    tree.scan(range, at, direction, &mut |version| {
        keys.push(version.key().to_vec());
        ControlFlow::Continue(())
    });
    keys
}

fn model_keys(model: &BTreeMap<Vec<u8>, i64>, range: &KeyRange) -> Vec<Vec<u8>> {
    model.keys().filter(|key| range.contains(key)).cloned().collect()
}

fn check(tree: &Tree, at: i64, model: &BTreeMap<Vec<u8>, i64>, random: &mut StdRng, note: &str) {
    assert_eq!(keys(tree, &KeyRange::all(), at, Direction::Ascending), model_keys(model, &KeyRange::all()), "{note}");
    assert_eq!(tree.count(&KeyRange::all(), at), model.len(), "{note}");
    for _ in 0..10 {
        let mut key = || Bytes::from(random_key(random));
        let (start, end) = (key(), key());
        for range in [KeyRange::Range(start.clone(), end.clone()), KeyRange::From(start), KeyRange::Key(end)] {
            let mut want = model_keys(model, &range);
            assert_eq!(tree.count(&range, at), want.len(), "{note}: {range:?}");
            assert_eq!(keys(tree, &range, at, Direction::Ascending), want, "{note}: {range:?}");
            want.reverse();
            assert_eq!(keys(tree, &range, at, Direction::Descending), want, "{note}: {range:?}");
        }
    }
}

fn random_key(random: &mut StdRng) -> Vec<u8> {
    let stem: &[u8] = [b"/registry/pods/".as_slice(), b"/registry/", b""][random.random_range(0..3)];
    let mut key = stem.to_vec();
    key.extend(random.random_range(0..1500u32).to_string().as_bytes());
    key
}

#[test]
fn the_tree_and_its_views_agree_with_a_sorted_map() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut writer = Writer::new();
        let mut model = BTreeMap::new();
        let mut views = Vec::new();
        for step in 0..6000 {
            // Grows for a while, then mostly deletes, so that leaves and branches both split and join.
            let delete = random.random_bool(if step % 3000 < 1800 { 0.2 } else { 0.9 });
            if delete {
                let from = Bound::Included(random_key(&mut random));
                let found = model.range((from, Bound::Unbounded)).next().map(|(key, _): (&Vec<u8>, &i64)| key.clone());
                if let Some(key) = found {
                    writer.delete(&key);
                    model.remove(&key);
                }
            } else {
                let key = random_key(&mut random);
                writer.put(&key);
                model.insert(key, writer.revision);
            }
            if random.random_bool(0.01) {
                views.push((writer.tree.clone(), writer.revision, model.clone()));
            }
            if random.random_bool(0.005) {
                for (tree, at, model) in views.drain(..) {
                    check(&tree, at, &model, &mut random, &format!("seed {seed}, step {step}, view at {at}"));
                }
                writer.compact();
                check(&writer.tree, writer.revision, &model, &mut random, &format!("seed {seed}, step {step}"));
            }
        }
    }
}

#[test]
fn ascending_keys_fill_their_leaves() {
    let mut writer = Writer::new();
    for number in 0..64 * 64 * 3 {
        writer.put(format!("{number:08}").as_bytes());
    }
    let leaves = |branches: &[Arc<Branch>]| branches.iter().map(|branch| branch.len()).sum::<usize>();
    match &writer.tree.root.children {
        Children::Branches(branches) => assert_eq!(leaves(branches), 64 * 3),
        Children::Leaves(_) => panic!("twelve thousand keys need two levels of branches"),
    }
}

#[test]
fn deleted_and_compacted_keys_leave_nothing_behind() {
    for keys in [
        (0..20_000).map(|number| format!("{number:08}")).collect::<Vec<_>>(),
        (0..20_000u64).map(|number| format!("{:08}", number * 7919 % 20_000)).collect(),
    ] {
        let mut writer = Writer::new();
        keys.iter().for_each(|key| writer.put(key.as_bytes()));
        keys.iter().for_each(|key| writer.delete(key.as_bytes()));
        writer.put(b"last");
        writer.delete(b"last");
        writer.put(b"last");
        writer.compact();
        let mut left = 0;
        writer.tree.for_each(&mut |_| left += 1);
        assert_eq!(left, 1, "one key, of twenty thousand");
        assert!(nodes(&writer.tree.root) <= 8, "{} nodes for one key", nodes(&writer.tree.root));
    }
}

fn nodes(node: &Branch) -> usize {
    match &node.children {
        Children::Leaves(leaves) => 1 + leaves.len(),
        Children::Branches(branches) => 1 + branches.iter().map(|branch| nodes(branch)).sum::<usize>(),
    }
}

#[test]
fn a_put_on_an_existing_key_copies_no_node() {
    let mut writer = Writer::new();
    for number in 0..5000 {
        writer.put(number.to_string().as_bytes());
    }
    let view = writer.tree.clone();
    writer.put(b"77");
    assert!(Arc::ptr_eq(&view.root, &writer.tree.root));
    writer.put(b"new");
    assert!(!Arc::ptr_eq(&view.root, &writer.tree.root), "the view keeps its counts");
    assert_eq!((view.count(&KeyRange::all(), 5001), writer.tree.count(&KeyRange::all(), 5003)), (5000, 5001));
}
