//! Which watchers see a key: a stabbing index over single keys and ranges.
//!
//! Equal ranges form one group, so that ten thousand watchers of one prefix cost one node. Single
//! keys stand in a hash map. Ranges stand in an AVL tree ordered by start, then end, in which every
//! node also knows the node with the highest end below it; a search leaves out each subtree that
//! ends at or before the key, and so costs O(log n) plus the matches, however many ranges there are
//! elsewhere. The tree is balanced by height rather than by chance, because clients choose the
//! ranges and must not be able to choose its shape.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use forebay_proto::KeyRange;
use triomphe::ThinArc;

use super::slab::Slab;

/// The keys of a group in one allocation, shared by the index and the watchers.
#[derive(Clone)]
pub(super) struct Span(ThinArc<Shape, u8>);

struct Shape {
    start_len: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Key,
    Range,
    From,
}

impl Span {
    pub(super) fn new(range: &KeyRange) -> Span {
        let (start, end, kind): (_, &[u8], _) = match range {
            KeyRange::Key(key) => (key, &[], Kind::Key),
            KeyRange::Range(start, end) => (start, end, Kind::Range),
            KeyRange::From(start) => (start, &[], Kind::From),
        };
        let start_len = u32::try_from(start.len()).expect("a key is shorter than 4 GiB");
        let bytes: Vec<u8> = [start, end].concat();
        Span(ThinArc::from_header_and_slice(Shape { start_len, kind }, &bytes))
    }

    pub(super) fn range(&self) -> KeyRange {
        let (start, end) = (Bytes::copy_from_slice(self.start()), Bytes::copy_from_slice(self.end()));
        match self.kind() {
            Kind::Key => KeyRange::Key(start),
            Kind::Range => KeyRange::Range(start, end),
            Kind::From => KeyRange::From(start),
        }
    }

    fn kind(&self) -> Kind {
        self.0.header.header.kind
    }

    fn start(&self) -> &[u8] {
        &self.0.slice[..self.0.header.header.start_len as usize]
    }

    fn end(&self) -> &[u8] {
        &self.0.slice[self.0.header.header.start_len as usize..]
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        match self.kind() {
            Kind::Key => self.start() == key,
            Kind::Range | Kind::From => self.start() <= key && self.ends_after(key),
        }
    }

    fn ends_after(&self, key: &[u8]) -> bool {
        self.kind() == Kind::From || key < self.end()
    }

    /// Orders by the end alone; no end is the highest.
    fn cmp_end(&self, other: &Span) -> Ordering {
        match (self.kind(), other.kind()) {
            (Kind::From, Kind::From) => Ordering::Equal,
            (Kind::From, _) => Ordering::Greater,
            (_, Kind::From) => Ordering::Less,
            _ => self.end().cmp(other.end()),
        }
    }

    fn cmp(&self, other: &Span) -> Ordering {
        self.start().cmp(other.start()).then_with(|| self.cmp_end(other))
    }
}

/// A single-key span in the hash map, found by the key alone.
struct SingleKey(Span);

impl Borrow<[u8]> for SingleKey {
    fn borrow(&self) -> &[u8] {
        self.0.start()
    }
}

impl Hash for SingleKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.start().hash(state);
    }
}

impl PartialEq for SingleKey {
    fn eq(&self, other: &SingleKey) -> bool {
        self.0.start() == other.0.start()
    }
}

impl Eq for SingleKey {}

/// Handle of a group; valid until that group is removed.
pub(super) type GroupId = u32;

/// The absent child.
const NIL: u32 = u32::MAX;

struct Node<G> {
    span: Span,
    group: G,
    left: u32,
    right: u32,
    /// The span with the highest end in this subtree. Kept here rather than by node, for a search looks at it at every
    /// node and pays a cache miss for each step of the way.
    widest: Span,
    height: u8,
}

/// One `G` for each distinct range. An empty range holds no key and must not be inserted.
pub(super) struct IntervalIndex<G> {
    nodes: Slab<Node<G>>,
    /// std's hasher is keyed, which keeps clients from piling their keys into one bucket. Its order
    /// never shows: the map is only looked up.
    keys: HashMap<SingleKey, GroupId>,
    root: u32,
}

impl<G: Default> IntervalIndex<G> {
    pub(super) fn new() -> IntervalIndex<G> {
        IntervalIndex { nodes: Slab::new(), keys: HashMap::new(), root: NIL }
    }

    /// The group of exactly this range, made if there is none.
    pub(super) fn group(&mut self, range: &KeyRange) -> GroupId {
        let span = Span::new(range);
        let known = match span.kind() {
            Kind::Key => self.keys.get(span.start()).copied(),
            Kind::Range | Kind::From => self.find(&span),
        };
        known.unwrap_or_else(|| self.insert(span))
    }

    fn find(&self, span: &Span) -> Option<GroupId> {
        let mut at = self.root;
        while at != NIL {
            let node = &self.nodes[at];
            at = match span.cmp(&node.span) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(at),
            };
        }
        None
    }

    fn insert(&mut self, span: Span) -> GroupId {
        let (widest, group) = (span.clone(), G::default());
        let id = self.nodes.insert(Node { span: span.clone(), group, left: NIL, right: NIL, widest, height: 1 });
        if span.kind() == Kind::Key {
            self.keys.insert(SingleKey(span), id);
        } else {
            self.root = self.link(self.root, id);
        }
        id
    }

    /// Removes a group and gives up its handle.
    pub(super) fn remove(&mut self, id: GroupId) -> G {
        let span = self.nodes[id].span.clone();
        if span.kind() == Kind::Key {
            self.keys.remove(span.start());
        } else {
            self.root = self.unlink(self.root, id);
        }
        self.nodes.remove(id).group
    }

    pub(super) fn span(&self, id: GroupId) -> &Span {
        &self.nodes[id].span
    }

    pub(super) fn get(&self, id: GroupId) -> &G {
        &self.nodes[id].group
    }

    pub(super) fn get_mut(&mut self, id: GroupId) -> &mut G {
        &mut self.nodes[id].group
    }

    /// Calls `found` once for each group whose range holds the key: a single key first, then ranges
    /// by start and end.
    pub(super) fn stab(&mut self, key: &[u8], mut found: impl FnMut(GroupId, &mut G)) {
        if let Some(&id) = self.keys.get(key) {
            found(id, &mut self.nodes[id].group);
        }
        self.visit(self.root, key, &mut found);
    }

    fn visit(&mut self, at: u32, key: &[u8], found: &mut impl FnMut(GroupId, &mut G)) {
        if at == NIL {
            return;
        }
        let node = &self.nodes[at];
        if !node.widest.ends_after(key) {
            return;
        }
        self.visit(node.left, key, found);
        let node = &mut self.nodes[at];
        if node.span.start() > key {
            return;
        }
        if node.span.ends_after(key) {
            found(at, &mut node.group);
        }
        let right = node.right;
        self.visit(right, key, found);
    }

    /// Puts the new node below `at`, and returns who stands at that place afterwards.
    fn link(&mut self, at: u32, new: u32) -> u32 {
        if at == NIL {
            return new;
        }
        if self.nodes[new].span.cmp(&self.nodes[at].span) == Ordering::Less {
            self.nodes[at].left = self.link(self.nodes[at].left, new);
        } else {
            self.nodes[at].right = self.link(self.nodes[at].right, new);
        }
        self.balance(at)
    }

    /// Takes `gone` out of the subtree at `at`, and returns who stands at that place afterwards.
    fn unlink(&mut self, at: u32, gone: u32) -> u32 {
        assert_ne!(at, NIL, "a range group stands in the tree");
        let (left, right) = (self.nodes[at].left, self.nodes[at].right);
        match self.nodes[gone].span.cmp(&self.nodes[at].span) {
            Ordering::Less => self.nodes[at].left = self.unlink(left, gone),
            Ordering::Greater => self.nodes[at].right = self.unlink(right, gone),
            Ordering::Equal if left == NIL => return right,
            Ordering::Equal if right == NIL => return left,
            Ordering::Equal => {
                let (heir, rest) = self.take_first(right);
                self.nodes[heir].left = left;
                self.nodes[heir].right = rest;
                return self.balance(heir);
            }
        }
        self.balance(at)
    }

    /// Splits the first node off a subtree that is not empty.
    fn take_first(&mut self, at: u32) -> (u32, u32) {
        let (left, right) = (self.nodes[at].left, self.nodes[at].right);
        if left == NIL {
            return (at, right);
        }
        let (first, rest) = self.take_first(left);
        self.nodes[at].left = rest;
        (first, self.balance(at))
    }

    fn height(&self, at: u32) -> u8 {
        if at == NIL { 0 } else { self.nodes[at].height }
    }

    /// Restores the height rule at a node whose children keep it and differ by at most two.
    fn balance(&mut self, at: u32) -> u32 {
        let (left, right) = (self.nodes[at].left, self.nodes[at].right);
        if self.height(left) > self.height(right) + 1 {
            if self.height(self.nodes[left].left) < self.height(self.nodes[left].right) {
                self.nodes[at].left = self.rotate_left(left);
            }
            return self.rotate_right(at);
        }
        if self.height(right) > self.height(left) + 1 {
            if self.height(self.nodes[right].right) < self.height(self.nodes[right].left) {
                self.nodes[at].right = self.rotate_right(right);
            }
            return self.rotate_left(at);
        }
        self.summarise(at);
        at
    }

    fn rotate_left(&mut self, at: u32) -> u32 {
        let up = self.nodes[at].right;
        self.nodes[at].right = self.nodes[up].left;
        self.nodes[up].left = at;
        self.summarise(at);
        self.summarise(up);
        up
    }

    fn rotate_right(&mut self, at: u32) -> u32 {
        let up = self.nodes[at].left;
        self.nodes[at].left = self.nodes[up].right;
        self.nodes[up].right = at;
        self.summarise(at);
        self.summarise(up);
        up
    }

    /// Recomputes what a node knows about its subtree from its children.
    fn summarise(&mut self, at: u32) {
        let (left, right) = (self.nodes[at].left, self.nodes[at].right);
        let mut widest = &self.nodes[at].span;
        for child in [left, right].into_iter().filter(|child| *child != NIL) {
            let other = &self.nodes[child].widest;
            if other.cmp_end(widest) == Ordering::Greater {
                widest = other;
            }
        }
        let widest = widest.clone();
        let height = 1 + self.height(left).max(self.height(right));
        let node = &mut self.nodes[at];
        (node.widest, node.height) = (widest, height);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl<G: Default> IntervalIndex<G> {
        /// Checks order, heights and ends below `at`; returns the height.
        fn check(&self, at: u32) -> u8 {
            if at == NIL {
                return 0;
            }
            let node = &self.nodes[at];
            let (left, right) = (self.check(node.left), self.check(node.right));
            assert!(left.abs_diff(right) <= 1, "heights of siblings differ by at most one");
            assert_eq!(node.height, 1 + left.max(right));
            let mut widest = node.span.clone();
            for child in [node.left, node.right] {
                if child == NIL {
                    continue;
                }
                let below = &self.nodes[child];
                let order = if child == node.left { Ordering::Less } else { Ordering::Greater };
                assert_eq!(below.span.cmp(&node.span), order);
                if below.widest.cmp_end(&widest) == Ordering::Greater {
                    widest = below.widest.clone();
                }
            }
            assert_eq!(node.widest.cmp_end(&widest), Ordering::Equal);
            node.height
        }
    }

    /// Short keys over three letters collide often enough to be interesting.
    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', 0xff]), 0..4).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            key().prop_map(KeyRange::Key),
            key().prop_map(KeyRange::From),
            (key(), key())
                .prop_map(|(a, b)| KeyRange::Range(a, b))
                .prop_filter("an empty range is refused before it gets here", |range| !range.is_empty()),
        ]
    }

    fn stabbed(index: &mut IntervalIndex<Option<KeyRange>>, key: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        index.stab(key, |_, range| found.push(format!("{range:?}")));
        found.sort();
        found
    }

    proptest! {
        #[test]
        fn finds_exactly_the_ranges_that_hold_the_key(
            steps in prop::collection::vec((range(), any::<bool>()), 1..120),
            probes in prop::collection::vec(key(), 1..20),
        ) {
            let mut index: IntervalIndex<Option<KeyRange>> = IntervalIndex::new();
            let mut model: Vec<KeyRange> = Vec::new();
            for (range, keep) in steps {
                let id = index.group(&range);
                if keep {
                    *index.get_mut(id) = Some(range.clone());
                    if !model.contains(&range) {
                        model.push(range);
                    }
                } else {
                    prop_assert_eq!(index.remove(id).is_some(), model.contains(&range));
                    model.retain(|other| *other != range);
                }
                index.check(index.root);
            }
            prop_assert_eq!(index.nodes.len(), model.len());
            for probe in &probes {
                let mut expected: Vec<String> =
                    model.iter().filter(|range| range.contains(probe)).map(|range| format!("{:?}", Some(range))).collect();
                expected.sort();
                prop_assert_eq!(stabbed(&mut index, probe), expected);
            }
            for range in &model {
                let span = Span::new(range);
                for probe in &probes {
                    prop_assert_eq!(span.contains(probe), range.contains(probe));
                }
            }
        }
    }

    #[test]
    fn ranges_in_key_order_stay_shallow() {
        let mut index: IntervalIndex<()> = IntervalIndex::new();
        let ids: Vec<GroupId> = (0u32..10_000)
            .map(|n| {
                let start = Bytes::from(n.to_be_bytes().to_vec());
                let end = Bytes::from((n + 1).to_be_bytes().to_vec());
                index.group(&KeyRange::Range(start, end))
            })
            .collect();
        assert!(index.check(index.root) <= 16);
        for id in &ids[..9_000] {
            index.remove(*id);
        }
        assert!(index.check(index.root) <= 12);
        let mut found = 0;
        index.stab(&9_500u32.to_be_bytes(), |_, ()| found += 1);
        assert_eq!(found, 1);
    }
}
