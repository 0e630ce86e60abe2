//! Pages taken into memory by a write transaction, to be changed and written elsewhere.
//!
//! A node keeps the bytes of its page and appends new keys and values behind them; its items point into those bytes.
//! So a put allocates nothing, and a batch of appended revisions is two copies: into the node, and from it to pages.

use std::ops::Range;

use super::freelist::Run;
use super::page::{self, Header, Kind, Page};

/// A page is split only when it has more items than two pages need.
const KEYS_PER_PAGE: usize = 2;

#[derive(Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

/// A subtree: as it is in the file, or in memory.
#[derive(Debug)]
pub(super) enum Child {
    Page(u64),
    Node(Box<Node>),
}

#[derive(Debug, Default)]
pub(super) struct Leaf {
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// What the items take in a page, header included.
    size: usize,
    /// The pages this node was read from.
    pub(super) origin: Option<Run>,
    /// Whether it differs from those.
    pub(super) dirty: bool,
    /// Whether keys were deleted, so that it may have become too small.
    pub(super) shrunk: bool,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    at: usize,
    key_size: u32,
    value_size: u32,
    flags: u32,
}

impl Item {
    fn key(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.at..self.at + self.key_size as usize]
    }

    fn value(self, bytes: &[u8]) -> &[u8] {
        let at = self.at + self.key_size as usize;
        &bytes[at..at + self.value_size as usize]
    }

    fn size(self) -> usize {
        page::ELEMENT + self.key_size as usize + self.value_size as usize
    }
}

impl Node {
    pub(super) fn from_page(page: Page, origin: Option<Run>) -> Self {
        match page.kind {
            Kind::Leaf => Self::Leaf(Leaf::from_page(page, origin)),
            Kind::Branch => Self::Branch(Branch::from_page(page, origin)),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.items.len(),
            Self::Branch(branch) => branch.items.len(),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.size,
            Self::Branch(branch) => branch.size(),
        }
    }

    pub(super) fn origin(&self) -> Option<Run> {
        match self {
            Self::Leaf(leaf) => leaf.origin,
            Self::Branch(branch) => branch.origin,
        }
    }

    /// Whether it lost keys since this was asked last, and is now so small that it should be merged.
    pub(super) fn take_underfull(&mut self, threshold: usize) -> bool {
        let (shrunk, least) = match self {
            Self::Leaf(leaf) => (&mut leaf.shrunk, 1),
            Self::Branch(branch) => (&mut branch.shrunk, 2),
        };
        std::mem::take(shrunk) && (self.size() <= threshold || self.len() <= least)
    }

    /// Has [`take_underfull`](Self::take_underfull) look again.
    pub(super) fn set_shrunk(&mut self) {
        match self {
            Self::Leaf(leaf) => leaf.shrunk = true,
            Self::Branch(branch) => branch.shrunk = true,
        }
    }

    /// Appends the items of the right sibling. False when the two are of different kinds.
    pub(super) fn absorb(&mut self, right: Self) -> bool {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => left.absorb(&right),
            (Self::Branch(left), Self::Branch(right)) => left.absorb(right),
            _ => return false,
        }
        true
    }
}

impl Leaf {
    /// An empty leaf that is in no page yet.
    pub(super) fn empty() -> Self {
        Self { size: page::HEADER, dirty: true, ..Self::default() }
    }

    pub(super) fn from_page(page: Page, origin: Option<Run>) -> Self {
        let items: Vec<Item> = (0..page.count())
            .map(|index| {
                let place = page.place(index);
                Item { at: place.key_at, key_size: place.key_size, value_size: place.value_size, flags: place.flags }
            })
            .collect();
        let size = page::HEADER + items.iter().map(|item| item.size()).sum::<usize>();
        Self { bytes: page.into_vec(), items, size, origin, dirty: false, shrunk: false }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn has_buckets(&self) -> bool {
        self.items.iter().any(|item| item.flags & page::BUCKET != 0)
    }

    /// The root pages of the buckets in it that are not inline.
    pub(super) fn bucket_roots(&self) -> impl Iterator<Item = u64> + '_ {
        let buckets = self.items.iter().filter(|item| item.flags & page::BUCKET != 0);
        let roots = buckets.filter_map(|item| item.value(&self.bytes).first_chunk().copied().map(u64::from_le_bytes));
        roots.filter(|root| *root != 0)
    }

    pub(super) fn item(&self, index: usize) -> (&[u8], &[u8], u32) {
        let item = self.items[index];
        (item.key(&self.bytes), item.value(&self.bytes), item.flags)
    }

    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        // Revisions are appended: look at the end first.
        match self.items.last() {
            Some(last) if last.key(&self.bytes) < key => Err(self.items.len()),
            _ => self.items.binary_search_by(|item| item.key(&self.bytes).cmp(key)),
        }
    }

    pub(super) fn put(&mut self, place: Result<usize, usize>, key: &[u8], value: &[u8], flags: u32) {
        let item = Item { at: self.bytes.len(), key_size: key.len() as u32, value_size: value.len() as u32, flags };
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.size += item.size();
        self.dirty = true;
        match place {
            Ok(index) => {
                self.size -= self.items[index].size();
                self.items[index] = item;
            }
            Err(index) => self.items.insert(index, item),
        }
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.size -= self.items.remove(index).size();
        self.dirty = true;
        self.shrunk = true;
    }

    fn absorb(&mut self, right: &Self) {
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&right.bytes);
        self.items.extend(right.items.iter().map(|item| Item { at: item.at + shift, ..*item }));
        self.size += right.size - page::HEADER;
        self.dirty = true;
    }

    pub(super) fn split(&self, page_size: usize, fill: f64) -> Vec<Range<usize>> {
        split(self.items.len(), |index| self.items[index].size(), page_size, fill)
    }

    /// Appends the page holding the items of `range` to `out`, padded with zeros to `pages` pages.
    pub(super) fn write(&self, range: Range<usize>, id: u64, pages: usize, page_size: usize, out: &mut Vec<u8>) {
        let items = &self.items[range];
        let end = out.len() + pages * page_size;
        write_header(id, page::LEAF, items.len(), pages, out);
        self.write_items(items, out);
        out.resize(end, 0);
    }

    /// The leaf as it stands in the value of an inline bucket.
    pub(super) fn write_inline(&self, out: &mut Vec<u8>) {
        write_header(0, page::LEAF, self.items.len(), 1, out);
        self.write_items(&self.items, out);
    }

    fn write_items(&self, items: &[Item], out: &mut Vec<u8>) {
        let mut position = (items.len() * page::ELEMENT) as u32;
        for item in items {
            out.extend_from_slice(&item.flags.to_le_bytes());
            out.extend_from_slice(&position.to_le_bytes());
            out.extend_from_slice(&item.key_size.to_le_bytes());
            out.extend_from_slice(&item.value_size.to_le_bytes());
            position = next_position(position, item.key_size, item.value_size);
        }
        for item in items {
            out.extend_from_slice(&self.bytes[item.at..item.at + item.key_size as usize + item.value_size as usize]);
        }
    }

    pub(super) fn written_size(&self, range: Range<usize>) -> usize {
        page::HEADER + self.items[range].iter().map(|item| item.size()).sum::<usize>()
    }
}

#[derive(Debug)]
pub(super) struct Branch {
    bytes: Vec<u8>,
    pub(super) items: Vec<Pointer>,
    pub(super) origin: Option<Run>,
    pub(super) dirty: bool,
    pub(super) shrunk: bool,
}

/// A child and the place of the key it begins with.
#[derive(Debug)]
pub(super) struct Pointer {
    key_at: usize,
    key_size: u32,
    pub(super) child: Child,
}

impl Pointer {
    fn size(&self) -> usize {
        page::ELEMENT + self.key_size as usize
    }
}

impl Branch {
    fn from_page(page: Page, origin: Option<Run>) -> Self {
        let items = (0..page.count())
            .map(|index| {
                let place = page.place(index);
                Pointer { key_at: place.key_at, key_size: place.key_size, child: Child::Page(page.child(index)) }
            })
            .collect();
        Self { bytes: page.into_vec(), items, origin, dirty: false, shrunk: false }
    }

    /// A node with no children yet and in no page.
    pub(super) fn empty() -> Self {
        Self { bytes: Vec::new(), items: Vec::new(), origin: None, dirty: true, shrunk: false }
    }

    pub(super) fn push(&mut self, key: &[u8], child: Child) {
        let key_at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.items.push(Pointer { key_at, key_size: key.len() as u32, child });
    }

    fn size(&self) -> usize {
        page::HEADER + self.items.iter().map(Pointer::size).sum::<usize>()
    }

    pub(super) fn key(&self, index: usize) -> &[u8] {
        let pointer = &self.items[index];
        &self.bytes[pointer.key_at..pointer.key_at + pointer.key_size as usize]
    }

    /// The child that holds `key` if any does: the last one that does not begin after it, else the first.
    pub(super) fn child_index(&self, key: &[u8]) -> usize {
        let last = self.items.len() - 1;
        if self.key(last) <= key {
            return last;
        }
        let after = self
            .items
            .partition_point(|pointer| &self.bytes[pointer.key_at..pointer.key_at + pointer.key_size as usize] <= key);
        after.saturating_sub(1)
    }

    fn absorb(&mut self, right: Self) {
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&right.bytes);
        self.items.extend(right.items.into_iter().map(|pointer| Pointer { key_at: pointer.key_at + shift, ..pointer }));
        self.dirty = true;
    }

    pub(super) fn split(&self, page_size: usize, fill: f64) -> Vec<Range<usize>> {
        split(self.items.len(), |index| self.items[index].size(), page_size, fill)
    }

    /// As [`Leaf::write`]. Every child must be a page by now.
    pub(super) fn write(&self, range: Range<usize>, id: u64, pages: usize, page_size: usize, out: &mut Vec<u8>) {
        let items = &self.items[range];
        let end = out.len() + pages * page_size;
        write_header(id, page::BRANCH, items.len(), pages, out);
        let mut position = (items.len() * page::ELEMENT) as u32;
        for pointer in items {
            let Child::Page(child) = pointer.child else { panic!("children are written before their branch") };
            out.extend_from_slice(&position.to_le_bytes());
            out.extend_from_slice(&pointer.key_size.to_le_bytes());
            out.extend_from_slice(&child.to_le_bytes());
            position = next_position(position, pointer.key_size, 0);
        }
        for pointer in items {
            out.extend_from_slice(&self.bytes[pointer.key_at..pointer.key_at + pointer.key_size as usize]);
        }
        out.resize(end, 0);
    }

    pub(super) fn written_size(&self, range: Range<usize>) -> usize {
        page::HEADER + self.items[range].iter().map(Pointer::size).sum::<usize>()
    }
}

fn write_header(id: u64, flags: u16, count: usize, pages: usize, out: &mut Vec<u8>) {
    let count = u16::try_from(count).expect("a page holds fewer than 65535 items");
    let overflow = u32::try_from(pages - 1).expect("a page has fewer than 2^32 overflow pages");
    let at = out.len();
    out.resize(at + page::HEADER, 0);
    Header { id, flags, count, overflow }.write(&mut out[at..]);
}

/// Positions count from their own element, so the next one is an element closer.
fn next_position(position: u32, key_size: u32, value_size: u32) -> u32 {
    let next = u64::from(position) - page::ELEMENT as u64 + u64::from(key_size) + u64::from(value_size);
    u32::try_from(next).expect("the items of a page take less than 4 GiB")
}

/// bbolt's rule for cutting a node into pages: nothing that fits or has too few items is cut; otherwise a page is
/// filled up to `fill`, with at least two items, and at least two left for the next.
fn split(count: usize, size_of: impl Fn(usize) -> usize, page_size: usize, fill: f64) -> Vec<Range<usize>> {
    let threshold = (page_size as f64 * fill) as usize;
    let (mut pages, mut start) = (Vec::new(), 0);
    loop {
        let mut size = page::HEADER;
        let fits = (start..count).all(|index| {
            size += size_of(index);
            size < page_size
        });
        if count - start <= KEYS_PER_PAGE * 2 || fits {
            pages.push(start..count);
            return pages;
        }
        let mut size = page::HEADER;
        let mut cut = start;
        for index in start..count - KEYS_PER_PAGE {
            cut = index;
            size += size_of(index);
            if index - start >= KEYS_PER_PAGE && size > threshold {
                break;
            }
        }
        pages.push(start..cut);
        start = cut;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_cut_where_bbolt_cuts_them() {
        let split = |count, size: usize, fill| {
            let pages = split(count, |_| size, 4096, fill);
            pages.iter().map(ExactSizeIterator::len).collect::<Vec<_>>()
        };
        // 300 bytes an item: 13 fit a page of 4096, 6 fill half of it, 12 fill nine tenths.
        assert_eq!(split(13, 300, 0.5), [13]);
        assert_eq!(split(14, 300, 0.5), [6, 8]);
        assert_eq!(split(30, 300, 0.9), [12, 12, 6]);
        // However large, four items stay together, and a page takes at least two.
        assert_eq!(split(4, 10_000, 0.5), [4]);
        assert_eq!(split(7, 10_000, 0.5), [2, 2, 3]);
    }

    #[test]
    fn a_leaf_written_to_a_page_reads_back() {
        let mut leaf = Leaf::empty();
        for key in [b"b", b"a", b"c", b"d"] {
            leaf.put(leaf.search(key), key, &[key[0]; 1500], 0);
        }
        leaf.put(leaf.search(b"b"), b"b", b"short", 0);
        leaf.remove(3);
        let mut out = Vec::new();
        leaf.write(0..3, 9, 1, 4096, &mut out);
        assert_eq!(out.len(), 4096);
        let page = Page::parse(out.into()).unwrap();
        let keys: Vec<_> = (0..3).map(|index| page.key_and_value(index)).collect();
        assert_eq!(keys, [(&b"a"[..], &[b'a'; 1500][..]), (b"b", b"short"), (b"c", &[b'c'; 1500])]);
        assert_eq!(Leaf::from_page(page, None).size(), leaf.size());
    }
}
