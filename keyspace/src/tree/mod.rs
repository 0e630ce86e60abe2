//! The ordered map from keys to their versions.
//!
//! A B-tree whose two kinds of node are shared in two ways:
//!
//! - **Inner nodes are persistent.** They hold separators and, per child, the number of live keys below it. The writer
//!   copies a node that a view shares before it changes it; so a view is one pointer, and the count of any range is
//!   exact in it and costs O(log n).
//! - **Leaves are changed in place**, behind a short lock. That is safe because every version says at which revision it
//!   begins: a reader passes over versions above its own revision, so it may see a leaf that is ahead of it. A leaf that
//!   has to be split or joined is replaced, and the old one stays as it was for the views that have it.
//!
//! So a put on an existing key copies no node at all, and a put of a new key copies a few inner nodes, once for
//! everything that is published together. A tree that is persistent down to the leaves would touch the reference counts
//! of all keys of a leaf (64 cache misses) for each put after a publish.
//!
//! What compaction removes it removes from leaves that views may share. A reader whose revision is not compacted by the
//! time it has finished has missed nothing; the readers of this crate check that and read again.

mod branch;
mod build;
mod chain;
mod heads;
mod leaf;
#[cfg(test)]
mod tests;

use std::{ops::ControlFlow, sync::Arc as StdArc};

use forebay_proto::KeyRange;
use smallvec::SmallVec;
use triomphe::Arc;

pub(crate) use self::chain::Chain;
use self::{
    branch::{Branch, Children},
    chain::Taken,
    leaf::Updated,
};
use crate::record::{Change, Revision, Version};

/// Keys in a leaf and children of an inner node, at most. More makes a tree flatter and a split or a copy dearer.
const NODE_LEN: usize = 64;

/// How many keys of a leaf a scan looks at before it hands them on: few enough for a limit of one, and enough that the
/// cache misses of looking run in parallel.
const SCAN_LEN: usize = 16;

/// Which child to take at each inner node, from the root down.
type Path = SmallVec<[usize; 8]>;

/// The ordered map. A clone is a view: it shares everything, and keeps its counts.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: Arc<Branch>,
}

/// From which end a scan begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ascending,
    Descending,
}

/// `lower <= key < upper`, each if there is one.
#[derive(Clone, Copy, Debug)]
struct Bounds<'k> {
    lower: Option<&'k [u8]>,
    upper: Option<&'k [u8]>,
}

impl<'k> Bounds<'k> {
    /// What the child at `index` need still check, `first` and `last` being the children that hold the ends.
    fn below(self, index: usize, first: usize, last: usize) -> Bounds<'k> {
        Bounds { lower: self.lower.filter(|_| index == first), upper: self.upper.filter(|_| index == last) }
    }

    fn children(self, node: &Branch) -> (usize, usize) {
        let first = self.lower.map_or(0, |lower| node.child_of(lower));
        let last = self.upper.map_or(node.len() - 1, |upper| node.child_of(upper));
        (first, last)
    }

    fn is_everything(self) -> bool {
        self.lower.is_none() && self.upper.is_none()
    }
}

impl Tree {
    pub(crate) fn new() -> Tree {
        Tree { root: Arc::new(Branch::empty()) }
    }

    /// What a reader at main revision `at` sees of a key.
    pub(crate) fn get(&self, key: &[u8], at: i64) -> Option<Version> {
        let mut node = &*self.root;
        loop {
            let index = node.child_of(key);
            match &node.children {
                Children::Branches(branches) => node = &branches[index],
                Children::Leaves(leaves) => {
                    let entries = leaves[index].read();
                    let index = entries.search(key).ok()?;
                    return entries.chains()[index].live_at(at).cloned();
                }
            }
        }
    }

    /// Shows what a reader at main revision `at` sees of a range, in the order of keys, until `visit` breaks.
    ///
    /// A leaf is locked during `visit`: it should clone and return.
    pub(crate) fn scan(
        &self,
        range: &KeyRange,
        at: i64,
        direction: Direction,
        visit: &mut dyn FnMut(&Version) -> ControlFlow<()>,
    ) {
        // Whether the visitor broke off is its own business.
        let _ = match range {
            KeyRange::Key(key) => match self.get(key, at) {
                Some(version) => visit(&version),
                None => ControlFlow::Continue(()),
            },
            _ if range.is_empty() => ControlFlow::Continue(()),
            _ => scan(&self.root, bounds(range), at, direction, visit),
        };
    }

    /// How many keys of a range are live. `at` is the revision that this tree was published at, or is being written.
    pub(crate) fn count(&self, range: &KeyRange, at: i64) -> usize {
        match range {
            KeyRange::Key(key) => usize::from(self.get(key, at).is_some()),
            _ if range.is_empty() => 0,
            _ => count(&self.root, bounds(range), at),
        }
    }

    /// What changed in a range at main revisions `from..=upto`, by key, unless that takes looking at more than `max` keys
    /// or may be more than `max` changes of one. Leaves are locked meanwhile, one at a time.
    pub(crate) fn changes(&self, range: &KeyRange, from: i64, upto: i64, max: usize) -> Option<Vec<Change>> {
        let (mut keys, mut changes) = (0, Vec::new());
        let mut visit = |chain: &Chain| {
            keys += 1;
            let fits = keys <= max && changes.len() <= max && chain.changes(from, upto, max, &mut changes);
            if fits { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        self.walk(range, &mut visit).is_continue().then_some(changes)
    }

    /// Shows the keys of a range with all their versions, in the order of keys. A leaf is locked during `visit`.
    pub(crate) fn for_each_in(&self, range: &KeyRange, visit: &mut dyn FnMut(&Chain)) {
        let walked = self.walk(range, &mut |chain| {
            visit(chain);
            ControlFlow::Continue(())
        });
        debug_assert!(walked.is_continue(), "nobody breaks off");
    }

    fn walk(&self, range: &KeyRange, visit: &mut dyn FnMut(&Chain) -> ControlFlow<()>) -> ControlFlow<()> {
        match range {
            KeyRange::Key(key) => {
                let end = [key, &b"\0"[..]].concat();
                walk(&self.root, Bounds { lower: Some(key), upper: Some(&end) }, visit)
            }
            _ if range.is_empty() => ControlFlow::Continue(()),
            _ => walk(&self.root, bounds(range), visit),
        }
    }

    /// Shows every key with all its versions, in the order of keys. A leaf is locked during `visit`.
    pub(crate) fn for_each(&self, visit: &mut dyn FnMut(&Chain)) {
        for_each(&self.root, visit);
    }

    /// Adds what `make` returns for the newest version of the key, which may be a tombstone. Returns the version added
    /// and the one before.
    pub(crate) fn update(
        &mut self,
        key: &[u8],
        make: impl FnOnce(Option<&Version>) -> Version,
    ) -> (Version, Option<Version>) {
        let mut path = Path::new();
        let mut node = &*self.root;
        let updated = loop {
            let index = node.child_of(key);
            path.push(index);
            match &node.children {
                Children::Branches(branches) => node = &branches[index],
                Children::Leaves(leaves) => break leaves[index].update(key, make),
            }
        };
        match updated {
            Updated::Done { version, before } => {
                let was_live = before.as_ref().is_some_and(|before| !before.is_tombstone());
                match (was_live, !version.is_tombstone()) {
                    (false, true) => change_live(&mut self.root, &path, |live| *live += 1),
                    (true, false) => change_live(&mut self.root, &path, |live| *live -= 1),
                    _ => {}
                }
                (version, before)
            }
            Updated::Full(version) => {
                if let Some((separator, right)) = split(&mut self.root, &path, version.clone()) {
                    self.root = Arc::new(Branch::over(self.root.clone(), separator, right));
                }
                (version, None)
            }
        }
    }

    /// Takes the version of a key of this revision, see [`Chain::take`], and the key if nothing is left of it.
    /// Returns whether it did. The version must be one that no reader is to see any more, neither live nor newest live.
    pub(crate) fn take(&mut self, key: &[u8], revision: Revision) -> bool {
        let mut path = Path::new();
        let mut node = &*self.root;
        let (taken, is_thin) = loop {
            let index = node.child_of(key);
            path.push(index);
            match &node.children {
                Children::Branches(branches) => node = &branches[index],
                Children::Leaves(leaves) => {
                    let taken = leaves[index].take(key, revision);
                    break (taken, taken == Taken::Last && leaves[index].read().len() < NODE_LEN / 4);
                }
            }
        };
        if is_thin {
            shrink(&mut self.root, &path);
            while let Children::Branches(branches) = &self.root.children
                && let [only] = &branches[..]
            {
                self.root = only.clone();
            }
        }
        taken != Taken::Nothing
    }
}

fn bounds(range: &KeyRange) -> Bounds<'_> {
    match range {
        KeyRange::Key(_) => unreachable!("a single key is looked up, not scanned for"),
        KeyRange::Range(start, end) => Bounds { lower: Some(start), upper: Some(end) },
        KeyRange::From(start) if start.is_empty() => Bounds { lower: None, upper: None },
        KeyRange::From(start) => Bounds { lower: Some(start), upper: None },
    }
}

fn scan(
    node: &Branch,
    bounds: Bounds<'_>,
    at: i64,
    direction: Direction,
    visit: &mut dyn FnMut(&Version) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let (first, last) = bounds.children(node);
    for step in 0..=last - first {
        let index = match direction {
            Direction::Ascending => first + step,
            Direction::Descending => last - step,
        };
        let bounds = bounds.below(index, first, last);
        match &node.children {
            Children::Branches(branches) => scan(&branches[index], bounds, at, direction, visit)?,
            Children::Leaves(leaves) => {
                let entries = leaves[index].read();
                let chains = entries.between(bounds.lower, bounds.upper);
                match direction {
                    Direction::Ascending => {
                        for chains in chains.chunks(SCAN_LEN) {
                            let seen: SmallVec<[&Version; SCAN_LEN]> =
                                chains.iter().filter_map(|chain| chain.live_at(at)).collect();
                            seen.into_iter().try_for_each(&mut *visit)?;
                        }
                    }
                    Direction::Descending => {
                        for chains in chains.rchunks(SCAN_LEN) {
                            let seen: SmallVec<[&Version; SCAN_LEN]> =
                                chains.iter().rev().filter_map(|chain| chain.live_at(at)).collect();
                            seen.into_iter().try_for_each(&mut *visit)?;
                        }
                    }
                }
            }
        }
    }
    ControlFlow::Continue(())
}

fn count(node: &Branch, bounds: Bounds<'_>, at: i64) -> usize {
    let (first, last) = bounds.children(node);
    (first..=last)
        .map(|index| {
            let bounds = bounds.below(index, first, last);
            match &node.children {
                _ if bounds.is_everything() => node.live[index],
                Children::Branches(branches) => count(&branches[index], bounds, at),
                Children::Leaves(leaves) => {
                    let entries = leaves[index].read();
                    let chains = entries.between(bounds.lower, bounds.upper);
                    chains.iter().filter(|chain| chain.live_at(at).is_some()).count()
                }
            }
        })
        .sum()
}

/// Shows the chains within bounds, ascending, until `visit` breaks.
fn walk(node: &Branch, bounds: Bounds<'_>, visit: &mut dyn FnMut(&Chain) -> ControlFlow<()>) -> ControlFlow<()> {
    let (first, last) = bounds.children(node);
    for index in first..=last {
        let bounds = bounds.below(index, first, last);
        match &node.children {
            Children::Branches(branches) => walk(&branches[index], bounds, visit)?,
            Children::Leaves(leaves) => {
                let entries = leaves[index].read();
                entries.between(bounds.lower, bounds.upper).iter().try_for_each(&mut *visit)?;
            }
        }
    }
    ControlFlow::Continue(())
}

fn for_each(node: &Branch, visit: &mut dyn FnMut(&Chain)) {
    match &node.children {
        Children::Branches(branches) => branches.iter().for_each(|branch| for_each(branch, visit)),
        Children::Leaves(leaves) => leaves.iter().for_each(|leaf| leaf.read().chains().iter().for_each(&mut *visit)),
    }
}

fn change_live(node: &mut Arc<Branch>, path: &[usize], change: fn(&mut usize)) {
    let node = Arc::make_mut(node);
    change(&mut node.live[path[0]]);
    if let Children::Branches(branches) = &mut node.children {
        change_live(&mut branches[path[0]], &path[1..], change);
    }
}

/// Adds a key to the full leaf at the end of the path. Returns the second half of the node if that splits it.
fn split(node: &mut Arc<Branch>, path: &[usize], version: Version) -> Option<(StdArc<[u8]>, Arc<Branch>)> {
    let node = Arc::make_mut(node);
    let index = path[0];
    match &mut node.children {
        Children::Leaves(leaves) => {
            let halves = leaves[index].split(version);
            node.replace_leaf(index, halves)
        }
        Children::Branches(branches) => {
            let is_live = usize::from(!version.is_tombstone());
            match split(&mut branches[index], &path[1..], version) {
                None => {
                    node.live[index] += is_live;
                    None
                }
                Some((separator, right)) => node.insert_branch(index, separator, right),
            }
        }
    }
}

fn shrink(node: &mut Arc<Branch>, path: &[usize]) {
    let node = Arc::make_mut(node);
    if let Children::Branches(branches) = &mut node.children {
        shrink(&mut branches[path[0]], &path[1..]);
    }
    node.shrink_child(path[0]);
}
