//! The B+tree of one bucket inside a write transaction: the parts that are being changed are nodes in memory, the
//! rest are pages in the file.
//!
//! Changes only ever touch nodes. At commit [`Tree::rebalance`] merges what deletes left too small, then
//! [`Tree::spill`] writes every changed node to new pages, children before parents. Thresholds and cuts are bbolt's.

use bytes::Bytes;

use super::error::{Error, Flaw, Result};
use super::freelist::Run;
use super::node::{Branch, Child, Leaf, Node};
use super::page::{self, Kind, Page};
use super::sink::Sink;
use super::store::{DEPTH_LIMIT, Pages};

#[derive(Debug)]
pub(super) struct Tree {
    root: Child,
}

impl Tree {
    pub(super) fn empty() -> Self {
        Self { root: Child::Node(Box::new(Node::Leaf(Leaf::empty()))) }
    }

    pub(super) fn at(root: u64) -> Self {
        Self { root: Child::Page(root) }
    }

    /// The tree of an inline bucket.
    pub(super) fn inline(leaf: Page) -> Self {
        Self { root: Child::Node(Box::new(Node::Leaf(Leaf::from_page(leaf, None)))) }
    }

    /// The value of `key` and its flags.
    pub(super) fn get(&self, pages: &mut Pages<'_>, key: &[u8]) -> Result<Option<(Bytes, u32)>> {
        let mut child = &self.root;
        loop {
            match child {
                Child::Page(id) => return lookup(pages, *id, key),
                Child::Node(node) => match &**node {
                    Node::Branch(branch) => child = &branch.items[branch.child_index(key)].child,
                    Node::Leaf(leaf) => {
                        return Ok(leaf.search(key).ok().map(|index| {
                            let (_, value, flags) = leaf.item(index);
                            (Bytes::copy_from_slice(value), flags)
                        }));
                    }
                },
            }
        }
    }

    /// Puts a value, or with [`page::BUCKET`] a bucket. A key of the other kind is left alone.
    pub(super) fn put(&mut self, pages: &mut Pages<'_>, key: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let leaf = leaf_mut(&mut self.root, pages, key)?;
        let place = leaf.search(key);
        if let Ok(index) = place {
            check_kind(leaf, index, flags)?;
        }
        leaf.put(place, key, value, flags);
        Ok(())
    }

    /// Deletes a value, or with [`page::BUCKET`] a bucket's entry. False when the key is absent.
    pub(super) fn delete(&mut self, pages: &mut Pages<'_>, key: &[u8], flags: u32) -> Result<bool> {
        let leaf = leaf_mut(&mut self.root, pages, key)?;
        let Ok(index) = leaf.search(key) else { return Ok(false) };
        check_kind(leaf, index, flags)?;
        leaf.remove(index);
        Ok(true)
    }

    /// The root, when it is a leaf in memory: a candidate for being inline.
    pub(super) fn root_leaf(&self) -> Option<&Leaf> {
        match &self.root {
            Child::Node(node) => match &**node {
                Node::Leaf(leaf) => Some(leaf),
                Node::Branch(_) => None,
            },
            Child::Page(_) => None,
        }
    }

    /// Merges nodes that deletes left under half of `fill`, and takes out levels that became useless.
    pub(super) fn rebalance(&mut self, pages: &mut Pages<'_>, fill: f64, freed: &mut Vec<Run>) -> Result<()> {
        let threshold = (pages.store.page_size as f64 * fill) as usize / 2;
        let Child::Node(node) = &mut self.root else { return Ok(()) };
        let Node::Branch(branch) = &mut **node else { return Ok(()) };
        rebalance(branch, pages, threshold, freed)?;
        while let Child::Node(node) = &mut self.root
            && let Node::Branch(branch) = &mut **node
            && branch.items.len() <= 1
        {
            freed.extend(branch.origin);
            self.root = match branch.items.pop() {
                Some(pointer) => pointer.child,
                None => Self::empty().root,
            };
        }
        Ok(())
    }

    /// Writes what changed to new pages; returns the root page.
    pub(super) fn spill(&mut self, sink: &mut Sink<'_>, fill: f64) -> Result<u64> {
        let root = std::mem::replace(&mut self.root, Child::Page(0));
        let mut placed = match spill(root, sink, fill)? {
            Spilled::Kept(page) => vec![Placed { key: Vec::new(), page }],
            Spilled::Moved(placed) => placed,
        };
        // The root was cut into several pages: the tree gets a new level.
        while placed.len() > 1 {
            let mut branch = Branch::empty();
            for part in placed {
                branch.push(&part.key, Child::Page(part.page));
            }
            placed = write_branch(&branch, sink, fill)?;
        }
        let root = placed[0].page;
        self.root = Child::Page(root);
        Ok(root)
    }

    /// Frees every page of the tree, nested buckets included.
    pub(super) fn free(self, pages: &mut Pages<'_>, freed: &mut Vec<Run>) -> Result<()> {
        free(self.root, pages, freed, 0)
    }
}

/// Looks a key up in pages of the file.
pub(super) fn lookup(pages: &mut Pages<'_>, root: u64, key: &[u8]) -> Result<Option<(Bytes, u32)>> {
    let mut id = root;
    for _ in 0..DEPTH_LIMIT {
        let page = pages.get(id)?;
        match page.kind {
            Kind::Branch => id = page.child(page.child_index(key)),
            Kind::Leaf => {
                return Ok(page.search(key).ok().map(|index| (page.value_bytes(index), page.place(index).flags)));
            }
        }
    }
    Err(too_deep(pages, id))
}

pub(super) fn too_deep(pages: &Pages<'_>, id: u64) -> Error {
    pages.store.corrupt(id, Flaw::new("a tree of at most 64 levels", "more"))
}

fn check_kind(leaf: &Leaf, index: usize, flags: u32) -> Result<()> {
    let (key, _, found) = leaf.item(index);
    if found & page::BUCKET == flags & page::BUCKET { Ok(()) } else { Err(Error::WrongKind(key.to_vec())) }
}

/// The node of a child, read from its page if need be.
fn node_mut<'c>(child: &'c mut Child, pages: &mut Pages<'_>) -> Result<&'c mut Node> {
    if let Child::Page(id) = *child {
        let page = pages.get(id)?;
        let origin = Run { page: id, count: (page.bytes().len() / pages.store.page_size) as u64 };
        *child = Child::Node(Box::new(Node::from_page(page, Some(origin))));
    }
    match child {
        Child::Node(node) => Ok(node),
        Child::Page(_) => unreachable!("the page was just read into a node"),
    }
}

/// The leaf where `key` belongs, with every node above it in memory.
fn leaf_mut<'c>(root: &'c mut Child, pages: &mut Pages<'_>, key: &[u8]) -> Result<&'c mut Leaf> {
    let mut child = root;
    for _ in 0..DEPTH_LIMIT {
        match node_mut(child, pages)? {
            Node::Leaf(leaf) => return Ok(leaf),
            Node::Branch(branch) => {
                let index = branch.child_index(key);
                child = &mut branch.items[index].child;
            }
        }
    }
    Err(too_deep(pages, 0))
}

/// Merges underfull children of a branch with a neighbour, lowest level first. The branch may end up with one child
/// or none; that is for its parent to see.
fn rebalance(branch: &mut Branch, pages: &mut Pages<'_>, threshold: usize, freed: &mut Vec<Run>) -> Result<()> {
    for pointer in &mut branch.items {
        if let Child::Node(node) = &mut pointer.child
            && let Node::Branch(child) = &mut **node
        {
            rebalance(child, pages, threshold, freed)?;
        }
    }
    let mut index = 0;
    while index < branch.items.len() {
        let Child::Node(node) = &mut branch.items[index].child else {
            index += 1;
            continue;
        };
        if !node.take_underfull(threshold) {
            index += 1;
            continue;
        }
        if node.len() == 0 {
            freed.extend(node.origin());
            branch.items.remove(index);
            (branch.dirty, branch.shrunk) = (true, true);
            continue;
        }
        if branch.items.len() == 1 {
            break;
        }
        let left = index.saturating_sub(1);
        node_mut(&mut branch.items[left + 1].child, pages)?;
        let Child::Node(right) = branch.items.remove(left + 1).child else {
            unreachable!("the child was just read into a node")
        };
        (branch.dirty, branch.shrunk) = (true, true);
        freed.extend(right.origin());
        let merged = node_mut(&mut branch.items[left].child, pages)?;
        let page = merged.origin().map_or(0, |run| run.page);
        if !merged.absorb(*right) {
            return Err(pages.store.corrupt(page, Flaw::new("siblings of one kind", "a branch beside a leaf")));
        }
        // Two small ones may still be too small together: look at it again.
        merged.set_shrunk();
        index = left;
    }
    Ok(())
}

/// A page and the first key in it.
struct Placed {
    key: Vec<u8>,
    page: u64,
}

enum Spilled {
    /// Unchanged, still in its page.
    Kept(u64),
    Moved(Vec<Placed>),
}

fn spill(child: Child, sink: &mut Sink<'_>, fill: f64) -> Result<Spilled> {
    let node = match child {
        Child::Page(id) => return Ok(Spilled::Kept(id)),
        Child::Node(node) => *node,
    };
    match node {
        Node::Leaf(leaf) => {
            if let (false, Some(origin)) = (leaf.dirty, leaf.origin) {
                return Ok(Spilled::Kept(origin.page));
            }
            sink.free(leaf.origin);
            write_leaf(&leaf, sink, fill).map(Spilled::Moved)
        }
        Node::Branch(mut branch) => {
            for mut pointer in std::mem::take(&mut branch.items) {
                match spill(pointer.child, sink, fill)? {
                    Spilled::Kept(page) => {
                        pointer.child = Child::Page(page);
                        branch.items.push(pointer);
                    }
                    Spilled::Moved(parts) => {
                        branch.dirty = true;
                        for part in parts {
                            branch.push(&part.key, Child::Page(part.page));
                        }
                    }
                }
            }
            if let (false, Some(origin)) = (branch.dirty, branch.origin) {
                return Ok(Spilled::Kept(origin.page));
            }
            sink.free(branch.origin);
            write_branch(&branch, sink, fill).map(Spilled::Moved)
        }
    }
}

fn write_leaf(leaf: &Leaf, sink: &mut Sink<'_>, fill: f64) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    for range in leaf.split(sink.page_size(), fill) {
        let key = if range.is_empty() { Vec::new() } else { leaf.item(range.start).0.to_vec() };
        let page_size = sink.page_size();
        let page = sink.page(leaf.written_size(range.clone()), |id, pages, out| {
            leaf.write(range, id, pages, page_size, out);
        })?;
        placed.push(Placed { key, page });
    }
    Ok(placed)
}

fn write_branch(branch: &Branch, sink: &mut Sink<'_>, fill: f64) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    for range in branch.split(sink.page_size(), fill) {
        let key = branch.key(range.start).to_vec();
        let page_size = sink.page_size();
        let page = sink.page(branch.written_size(range.clone()), |id, pages, out| {
            branch.write(range, id, pages, page_size, out);
        })?;
        placed.push(Placed { key, page });
    }
    Ok(placed)
}

fn free(child: Child, pages: &mut Pages<'_>, freed: &mut Vec<Run>, depth: usize) -> Result<()> {
    let node = match child {
        Child::Node(node) => *node,
        Child::Page(id) => {
            if depth > DEPTH_LIMIT {
                return Err(too_deep(pages, id));
            }
            let page = pages.get(id)?;
            let origin = Run { page: id, count: (page.bytes().len() / pages.store.page_size) as u64 };
            Node::from_page(page, Some(origin))
        }
    };
    freed.extend(node.origin());
    match node {
        Node::Branch(branch) => {
            for pointer in branch.items {
                free(pointer.child, pages, freed, depth + 1)?;
            }
        }
        Node::Leaf(leaf) => {
            for root in leaf.bucket_roots() {
                free(Child::Page(root), pages, freed, depth + 1)?;
            }
        }
    }
    Ok(())
}
