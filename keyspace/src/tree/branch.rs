//! The inner nodes: shared between the writer's tree and every view, copied before they change.

use std::sync::Arc as StdArc;

use triomphe::Arc;

use super::{
    NODE_LEN,
    heads::Heads,
    leaf::{Entries, Leaf, Split},
};

/// An inner node.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    /// Behind a pointer because a change of counts, the usual one, leaves the separators as they are.
    separators: Arc<Separators>,
    pub(super) children: Children,
    /// Of each child how many keys are live below it.
    pub(super) live: Vec<usize>,
}

/// What lies below an inner node.
#[derive(Clone, Debug)]
pub(super) enum Children {
    /// Behind a pointer for the same reason: copying 64 pointers to leaves means touching 64 reference counts.
    Leaves(Arc<Vec<Arc<Leaf>>>),
    Branches(Vec<Arc<Branch>>),
}

/// The lowest key that belongs below each child but the first.
#[derive(Clone, Debug, Default)]
struct Separators {
    heads: Heads,
    keys: Vec<StdArc<[u8]>>,
}

impl Separators {
    fn of(keys: Vec<StdArc<[u8]>>) -> Arc<Separators> {
        Arc::new(Separators { heads: Heads::of(keys.iter().map(|key| &key[..])), keys })
    }
}

impl Branch {
    /// A node over one leaf without keys.
    pub(super) fn empty() -> Branch {
        let children = Children::Leaves(Arc::new(vec![Arc::new(Leaf::default())]));
        Branch { separators: Separators::of(Vec::new()), children, live: vec![0] }
    }

    /// A node over two that one was split into.
    pub(super) fn over(left: Arc<Branch>, separator: StdArc<[u8]>, right: Arc<Branch>) -> Branch {
        let live = vec![left.live.iter().sum(), right.live.iter().sum()];
        Branch { separators: Separators::of(vec![separator]), children: Children::Branches(vec![left, right]), live }
    }

    /// A node of these parts; there is one separator less than children.
    pub(super) fn of(separators: Vec<StdArc<[u8]>>, children: Children, live: Vec<usize>) -> Branch {
        assert_eq!(separators.len() + 1, live.len(), "separators stand between children");
        Branch { separators: Separators::of(separators), children, live }
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// The child that a key belongs below.
    pub(super) fn child_of(&self, key: &[u8]) -> usize {
        let keys = &self.separators.keys;
        self.separators.heads.search(key, |index| &keys[index]).map_or_else(|index| index, |index| index + 1)
    }

    /// Puts the halves of a leaf in its place. Splits this node if that is one too many.
    pub(super) fn replace_leaf(&mut self, index: usize, split: Split) -> Option<(StdArc<[u8]>, Arc<Branch>)> {
        let Children::Leaves(leaves) = &mut self.children else {
            unreachable!("leaves hang below the lowest branches")
        };
        let leaves = Arc::make_mut(leaves);
        let live = [split.left.as_ref().map_or(self.live[index], Entries::live), split.right.live()];
        if let Some(left) = split.left {
            leaves[index] = Arc::new(Leaf::new(left));
        }
        leaves.insert(index + 1, Arc::new(Leaf::new(split.right)));
        self.inserted(index, split.separator.into(), live)
    }

    /// Puts the second half of a branch beside it. Splits this node if that is one too many.
    pub(super) fn insert_branch(
        &mut self,
        index: usize,
        separator: StdArc<[u8]>,
        right: Arc<Branch>,
    ) -> Option<(StdArc<[u8]>, Arc<Branch>)> {
        let Children::Branches(branches) = &mut self.children else { unreachable!("branches hang below branches") };
        let live = [branches[index].live.iter().sum(), right.live.iter().sum()];
        branches.insert(index + 1, right);
        self.inserted(index, separator, live)
    }

    fn inserted(
        &mut self,
        index: usize,
        separator: StdArc<[u8]>,
        live: [usize; 2],
    ) -> Option<(StdArc<[u8]>, Arc<Branch>)> {
        self.live.splice(index..=index, live);
        let mut keys = self.separators.keys.clone();
        keys.insert(index, separator);
        if self.live.len() <= NODE_LEN {
            self.separators = Separators::of(keys);
            return None;
        }
        // As with leaves: ascending keys leave full nodes behind.
        let at = if index + 2 == self.live.len() { index + 1 } else { self.live.len() / 2 };
        let right = Branch {
            separators: Separators::of(keys.split_off(at)),
            children: self.children.split_off(at),
            live: self.live.split_off(at),
        };
        let middle = keys.pop().expect("a separator stands between two children");
        self.separators = Separators::of(keys);
        Some((middle, Arc::new(right)))
    }

    /// Joins a child that lost keys with a neighbour, or drops it when it has none; the tree must not fill up with
    /// nodes that are nearly empty. Keys below `index` have just been removed.
    pub(super) fn shrink_child(&mut self, index: usize) {
        if self.children.size(index) == 0 && self.len() > 1 {
            self.children.remove(index);
            self.live.remove(index);
            self.remove_separator(index.saturating_sub(1));
            return;
        }
        let fits = |left: usize| self.children.size(left) + self.children.size(left + 1) <= NODE_LEN / 2;
        let is_small = self.children.size(index) < NODE_LEN / 4;
        let left = match index {
            _ if !is_small => return,
            _ if index > 0 && fits(index - 1) => index - 1,
            _ if index + 1 < self.len() && fits(index) => index,
            _ => return,
        };
        let separator = self.separators.keys[left].clone();
        self.children.merge(left, separator);
        let live = self.live.remove(left + 1);
        self.live[left] += live;
        self.remove_separator(left);
    }

    fn remove_separator(&mut self, index: usize) {
        let mut keys = self.separators.keys.clone();
        keys.remove(index);
        self.separators = Separators::of(keys);
    }

    /// A node with the children of two neighbours; `separator` stood between them.
    fn merged(&self, separator: StdArc<[u8]>, right: &Branch) -> Branch {
        let keys = self.separators.keys.iter().cloned().chain([separator]).chain(right.separators.keys.iter().cloned());
        let children = match (&self.children, &right.children) {
            (Children::Leaves(left), Children::Leaves(right)) => {
                Children::Leaves(Arc::new(left.iter().chain(right.iter()).cloned().collect()))
            }
            (Children::Branches(left), Children::Branches(right)) => {
                Children::Branches(left.iter().chain(right).cloned().collect())
            }
            _ => unreachable!("neighbours are of one height"),
        };
        let live = self.live.iter().chain(&right.live).copied().collect();
        Branch { separators: Separators::of(keys.collect()), children, live }
    }

    /// Whether there is no key below, not even a deleted one.
    fn is_hollow(&self) -> bool {
        match &self.children {
            Children::Leaves(leaves) => leaves.iter().all(|leaf| leaf.read().len() == 0),
            Children::Branches(branches) => branches.len() == 1 && branches[0].is_hollow(),
        }
    }
}

impl Children {
    /// The children of a child; 0 only if it can be dropped.
    fn size(&self, index: usize) -> usize {
        match self {
            Children::Leaves(leaves) => leaves[index].read().len(),
            Children::Branches(branches) if branches[index].len() == 1 && branches[index].is_hollow() => 0,
            Children::Branches(branches) => branches[index].len(),
        }
    }

    fn remove(&mut self, index: usize) {
        match self {
            Children::Leaves(leaves) => {
                Arc::make_mut(leaves).remove(index);
            }
            Children::Branches(branches) => {
                branches.remove(index);
            }
        }
    }

    fn merge(&mut self, left: usize, separator: StdArc<[u8]>) {
        match self {
            Children::Leaves(leaves) => {
                let leaves = Arc::make_mut(leaves);
                let right = leaves.remove(left + 1);
                leaves[left] = Arc::new(leaves[left].merged(&right));
            }
            Children::Branches(branches) => {
                let right = branches.remove(left + 1);
                branches[left] = Arc::new(branches[left].merged(separator, &right));
            }
        }
    }

    fn split_off(&mut self, at: usize) -> Children {
        match self {
            Children::Leaves(leaves) => Children::Leaves(Arc::new(Arc::make_mut(leaves).split_off(at))),
            Children::Branches(branches) => Children::Branches(branches.split_off(at)),
        }
    }
}
