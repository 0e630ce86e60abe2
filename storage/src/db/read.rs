//! Read transactions: one committed state of the file, whatever is written meanwhile.

use std::sync::Arc;

use bytes::Bytes;

use super::error::{Error, Flaw, Result};
use super::meta::Meta;
use super::page::{self, BucketValue, Kind, Page};
use super::store::{DEPTH_LIMIT, Pages, Store};
use super::tree::{lookup, too_deep};

/// A consistent view of the last committed state. Its pages are not reused while it is open, so a reader that stays
/// open for long lets the file grow.
#[derive(Debug)]
pub struct ReadTxn {
    pub(super) store: Arc<Store>,
    pub(super) meta: Meta,
}

impl ReadTxn {
    pub(super) fn begin(store: Arc<Store>) -> Self {
        let meta = store.state(|state| {
            *state.pins.entry(state.meta.txid).or_default() += 1;
            state.meta
        });
        Self { store, meta }
    }

    #[must_use]
    pub fn txid(&self) -> u64 {
        self.meta.txid
    }

    /// The bytes of the file this state reaches to, which is also the length of its snapshot.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.meta.size()
    }

    /// A bucket of the root.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_>>> {
        self.root().bucket(name)
    }

    /// The names of the root's buckets, ascending.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut cursor = self.root().cursor();
        while let Some(entry) = cursor.next_entry()? {
            if entry.is_bucket {
                names.push(entry.key.to_vec());
            }
        }
        Ok(names)
    }

    /// The bucket that holds the others.
    #[must_use]
    pub fn root(&self) -> Bucket<'_> {
        Bucket { txn: self, root: Root::Page(self.meta.root), sequence: self.meta.sequence }
    }
}

impl Drop for ReadTxn {
    fn drop(&mut self) {
        self.store.state(|state| {
            let count = state.pins.get_mut(&self.meta.txid).expect("an open reader is pinned");
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.meta.txid);
            }
            state.closed += 1;
        });
    }
}

#[derive(Debug, Clone)]
enum Root {
    Page(u64),
    Inline(Page),
}

impl Root {
    fn page(&self, pages: &mut Pages<'_>) -> Result<Page> {
        match self {
            Root::Page(id) => pages.get(*id),
            Root::Inline(page) => Ok(page.clone()),
        }
    }
}

/// A bucket in a [`ReadTxn`].
#[derive(Debug, Clone)]
pub struct Bucket<'t> {
    txn: &'t ReadTxn,
    root: Root,
    pub(super) sequence: u64,
}

impl<'t> Bucket<'t> {
    fn pages(&self) -> Pages<'t> {
        Pages::new(&self.txn.store, self.txn.meta.high_water)
    }

    fn find(&self, key: &[u8]) -> Result<Option<(Bytes, u32)>> {
        match &self.root {
            Root::Page(id) => lookup(&mut self.pages(), *id, key),
            Root::Inline(page) => {
                Ok(page.search(key).ok().map(|index| (page.value_bytes(index), page.place(index).flags)))
            }
        }
    }

    /// The value of `key`, copied: it does not keep the page in memory.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.find(key)? {
            Some((_, flags)) if flags & page::BUCKET != 0 => Err(Error::WrongKind(key.to_vec())),
            found => Ok(found.map(|(value, _)| Bytes::copy_from_slice(&value))),
        }
    }

    /// A bucket nested in this one.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Self>> {
        let Some((value, flags)) = self.find(name)? else { return Ok(None) };
        if flags & page::BUCKET == 0 {
            return Err(Error::WrongKind(name.to_vec()));
        }
        let value = BucketValue::parse(&value).map_err(|flaw| self.corrupt(flaw))?;
        let root = value.inline.map_or(Root::Page(value.root), Root::Inline);
        Ok(Some(Self { txn: self.txn, root, sequence: value.sequence }))
    }

    fn corrupt(&self, flaw: Flaw) -> Error {
        let page = match self.root {
            Root::Page(id) => id,
            Root::Inline(_) => 0,
        };
        self.txn.store.corrupt(page, flaw)
    }

    /// A cursor before the first key.
    #[must_use]
    pub fn cursor(&self) -> Cursor<'t> {
        Cursor { pages: self.pages(), root: self.root.clone(), path: Vec::new(), leaf: None, next: 0 }
    }

    /// Walks the bucket from its last entry to its first.
    #[must_use]
    pub fn backward(&self) -> Backward<'t> {
        Backward { pages: self.pages(), root: self.root.clone(), path: Vec::new(), leaf: None, left: 0 }
    }

    /// Calls `f` for every entry in order; a nested bucket has an empty value. Reads far ahead.
    pub fn for_each(&self, mut f: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut cursor = self.cursor();
        cursor.pages = Pages::eager(&self.txn.store, self.txn.meta.high_water);
        while let Some(entry) = cursor.next_entry()? {
            f(entry.key, entry.value);
        }
        Ok(())
    }

    /// The last entry: key and value.
    pub fn last(&self) -> Result<Option<(Bytes, Bytes)>> {
        let mut pages = self.pages();
        let mut page = self.root.page(&mut pages)?;
        for _ in 0..DEPTH_LIMIT {
            let Some(last) = page.count().checked_sub(1) else { return Ok(None) };
            match page.kind {
                Kind::Branch => page = pages.get(page.child(last))?,
                Kind::Leaf => {
                    let (key, value) = page.key_and_value(last);
                    return Ok(Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))));
                }
            }
        }
        Err(too_deep(&pages, 0))
    }
}

/// An entry of a bucket; `value` is empty when the entry is a nested bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'c> {
    pub key: &'c [u8],
    pub value: &'c [u8],
    pub is_bucket: bool,
}

/// Walks a bucket forward from its beginning or from where [`Cursor::seek`] put it.
#[derive(Debug)]
pub struct Cursor<'t> {
    pages: Pages<'t>,
    root: Root,
    /// Branch pages from the root down, each with the child that was taken.
    path: Vec<(Page, usize)>,
    /// None before the first step; then the leaf that `next` counts in.
    leaf: Option<Page>,
    next: usize,
}

impl Cursor<'_> {
    /// The next entry, or the first one after [`seek`](Self::seek).
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>> {
        if self.leaf.is_none() {
            let root = self.root.page(&mut self.pages)?;
            self.descend(root, None)?;
        }
        while self.leaf.as_ref().is_some_and(|leaf| self.next >= leaf.count()) {
            if !self.next_leaf()? {
                return Ok(None);
            }
        }
        let Some(leaf) = &self.leaf else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        let is_bucket = leaf.is_bucket(index);
        let (key, value) = leaf.key_and_value(index);
        Ok(Some(Entry { key, value: if is_bucket { &[] } else { value }, is_bucket }))
    }

    /// Places the cursor before the first key that is not below `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.path.clear();
        let root = self.root.page(&mut self.pages)?;
        self.descend(root, Some(key))
    }

    /// From `page` down to a leaf: to where `key` belongs, or to the first.
    fn descend(&mut self, mut page: Page, key: Option<&[u8]>) -> Result<()> {
        while page.kind == Kind::Branch {
            if self.path.len() > DEPTH_LIMIT {
                return Err(too_deep(&self.pages, 0));
            }
            let index = key.map_or(0, |key| page.child_index(key));
            let child = self.pages.get_child(&page, index)?;
            self.path.push((page, index));
            page = child;
        }
        self.next = match key {
            Some(key) => page.search(key).unwrap_or_else(|index| index),
            None => 0,
        };
        self.leaf = Some(page);
        Ok(())
    }

    /// Moves to the leaf after the current one; false at the end.
    fn next_leaf(&mut self) -> Result<bool> {
        while let Some((page, index)) = self.path.pop() {
            if index + 1 < page.count() {
                let child = self.pages.get_child(&page, index + 1)?;
                self.path.push((page, index + 1));
                self.descend(child, None)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Walks a bucket from its end to its beginning.
#[derive(Debug)]
pub struct Backward<'t> {
    pages: Pages<'t>,
    root: Root,
    /// Branch pages from the root down, each with the child that was taken.
    path: Vec<(Page, usize)>,
    /// None before the first step; then the leaf of which `left` entries are still to come.
    leaf: Option<Page>,
    left: usize,
}

impl Backward<'_> {
    /// The entry before the one that was returned last; first the last of the bucket.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>> {
        if self.leaf.is_none() {
            let root = self.root.page(&mut self.pages)?;
            self.descend(root)?;
        }
        while self.left == 0 {
            let Some((page, index)) = self.path.pop() else { return Ok(None) };
            if let Some(before) = index.checked_sub(1) {
                let child = self.pages.get(page.child(before))?;
                self.path.push((page, before));
                self.descend(child)?;
            }
        }
        self.left -= 1;
        let leaf = self.leaf.as_ref().expect("the descent ended in a leaf");
        let is_bucket = leaf.is_bucket(self.left);
        let (key, value) = leaf.key_and_value(self.left);
        Ok(Some(Entry { key, value: if is_bucket { &[] } else { value }, is_bucket }))
    }

    fn descend(&mut self, mut page: Page) -> Result<()> {
        while page.kind == Kind::Branch {
            if self.path.len() > DEPTH_LIMIT {
                return Err(too_deep(&self.pages, 0));
            }
            let last = page.count() - 1;
            let child = self.pages.get(page.child(last))?;
            self.path.push((page, last));
            page = child;
        }
        self.left = page.count();
        self.leaf = Some(page);
        Ok(())
    }
}
