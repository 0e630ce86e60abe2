//! Building a tree at once from sorted keys, which a restart does with all of them.

use std::sync::Arc as StdArc;

use smallvec::SmallVec;
use triomphe::Arc;

use super::{
    NODE_LEN, Tree,
    branch::{Branch, Children},
    chain::Chain,
    leaf::{Entries, Leaf, separator},
};

/// How full nodes are built: some room, or the first puts of new keys would split them all.
const FILL_LEN: usize = NODE_LEN - NODE_LEN / 8;

/// A finished node, on its way into its parent.
struct Built<N> {
    /// Stands between this node and the one before.
    separator: StdArc<[u8]>,
    node: Arc<N>,
    live: usize,
}

impl Tree {
    /// The tree of these keys, which ascend.
    pub(crate) fn build(chains: Vec<Chain>) -> Tree {
        assert!(chains.is_sorted_by(|a, b| a.key() < b.key()), "a tree is built of ascending keys");
        let mut leaves = Vec::with_capacity(chains.len() / FILL_LEN + 1);
        let mut last_key = Vec::new();
        let mut chains = chains.into_iter().peekable();
        while let Some(first) = chains.peek() {
            let separator = if leaves.is_empty() { [].into() } else { separator(&last_key, first.key()).into() };
            let entries = Entries::of(chains.by_ref().take(FILL_LEN).collect::<SmallVec<_>>());
            last_key.clear();
            last_key.extend_from_slice(entries.key(entries.len() - 1));
            leaves.push(Built { separator, live: entries.live(), node: Arc::new(Leaf::new(entries)) });
        }
        if leaves.is_empty() {
            return Tree::new();
        }
        let mut level = parents(leaves, |leaves| Children::Leaves(Arc::new(leaves)));
        while level.len() > 1 {
            level = parents(level, Children::Branches);
        }
        Tree { root: level.remove(0).node }
    }
}

fn parents<N>(nodes: Vec<Built<N>>, children: impl Fn(Vec<Arc<N>>) -> Children) -> Vec<Built<Branch>> {
    let mut parents = Vec::with_capacity(nodes.len() / FILL_LEN + 1);
    let mut nodes = nodes.into_iter().peekable();
    while nodes.peek().is_some() {
        let mut separators = Vec::with_capacity(FILL_LEN);
        let (mut below, mut live) = (Vec::with_capacity(FILL_LEN), Vec::with_capacity(FILL_LEN));
        for built in nodes.by_ref().take(FILL_LEN) {
            separators.push(built.separator);
            below.push(built.node);
            live.push(built.live);
        }
        // The first stands before the parent, not within.
        let separator = separators.remove(0);
        let total = live.iter().sum();
        parents.push(Built { separator, live: total, node: Arc::new(Branch::of(separators, children(below), live)) });
    }
    parents
}
