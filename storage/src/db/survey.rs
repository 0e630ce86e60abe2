//! The walk over the whole tree at open: checks its structure and finds the pages in use.
//!
//! etcd's files carry no freelist, so every page must be found before the first write anyway; bbolt pages carry no
//! checksums, so the walk is also where damage is noticed before anything is served.

use super::error::{Flaw, Result};
use super::freelist::PageSet;
use super::leaves::Leaf;
use super::meta::{Meta, NO_FREELIST};
use super::page::{self, BucketValue, Header, Kind, Page};
use super::store::{DEPTH_LIMIT, Pages, Store};

/// The pages in use by the tree and, when there is one, by the freelist itself.
///
/// Verified on the way: page ids, flags, counts, offsets and overflow; no page used twice; keys ascending and between
/// the separators above them; buckets that parse, and nothing beside them in the root; a freelist that names no page in
/// use.
pub(super) fn used_pages(store: &Store, meta: &Meta, show: Option<Show<'_>>) -> Result<PageSet> {
    let mut survey = Survey { pages: Pages::eager(store, meta.high_water), used: PageSet::default(), show };
    survey.tree(meta.root, Place::Root, 0)?;
    if meta.freelist != NO_FREELIST {
        survey.freelist(meta)?;
    }
    Ok(survey.used)
}

/// Who is shown the leaves of a bucket, in order, as the walk comes by: what is read and checked need not be read again.
pub(super) struct Show<'v> {
    pub(super) bucket: &'v [u8],
    pub(super) leaf: &'v mut dyn FnMut(Leaf),
}

struct Survey<'s, 'v> {
    pages: Pages<'s>,
    used: PageSet,
    show: Option<Show<'v>>,
}

/// Which bucket a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The one that holds all others, and nothing else.
    Root,
    Bucket {
        is_shown: bool,
    },
}

impl Survey<'_, '_> {
    fn tree(&mut self, root: u64, place: Place, depth: usize) -> Result<()> {
        let page = self.pages.get(root)?;
        self.subtree(root, &page, (None, None), place, depth)
    }

    /// Keys of the subtree are at least `low` and below `high`.
    fn subtree(
        &mut self,
        id: u64,
        page: &Page,
        (low, high): (Option<&[u8]>, Option<&[u8]>),
        place: Place,
        depth: usize,
    ) -> Result<()> {
        let store = self.pages.store;
        if depth > DEPTH_LIMIT {
            return Err(store.corrupt(id, Flaw::new("a tree of at most 64 levels", "more")));
        }
        let count = (page.bytes().len() / store.page_size) as u64;
        self.mark(id, count)?;
        self.check_order(id, page, low, high)?;
        match page.kind {
            Kind::Branch => {
                for index in 0..page.count() {
                    let child = self.pages.get_child(page, index)?;
                    let next = if index + 1 < page.count() { Some(page.key(index + 1)) } else { high };
                    self.subtree(page.child(index), &child, (Some(page.key(index)), next), place, depth + 1)?;
                }
            }
            Kind::Leaf => {
                // Taken for a value, a bucket would have its pages given away as free.
                if place == Place::Root && (0..page.count()).any(|index| !page.is_bucket(index)) {
                    return Err(store.corrupt(id, Flaw::new("nothing but buckets in the root", "a value")));
                }
                self.show(id, page, place);
                for index in (0..page.count()).filter(|index| page.is_bucket(*index)) {
                    let bucket =
                        BucketValue::parse(&page.value_bytes(index)).map_err(|flaw| store.corrupt(id, flaw))?;
                    let is_named = self.show.as_ref().is_some_and(|show| show.bucket == page.key(index));
                    let within = Place::Bucket { is_shown: place == Place::Root && is_named };
                    match bucket.inline {
                        Some(inline) => {
                            self.check_order(id, &inline, None, None)?;
                            self.show(id, &inline, within);
                        }
                        None => self.tree(bucket.root, within, depth + 1)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn show(&mut self, id: u64, page: &Page, place: Place) {
        if let Some(show) = &mut self.show
            && place == (Place::Bucket { is_shown: true })
            && page.count() > 0
        {
            (show.leaf)(Leaf::new(id, page.clone()));
        }
    }

    fn mark(&mut self, id: u64, count: u64) -> Result<()> {
        for page in id..id + count {
            if !self.used.insert(page) {
                return Err(self.pages.store.corrupt(page, Flaw::new("one reference to the page", "two")));
            }
        }
        Ok(())
    }

    fn check_order(&self, id: u64, page: &Page, low: Option<&[u8]>, high: Option<&[u8]>) -> Result<()> {
        let wrong = |expected, index| Err(self.pages.store.corrupt(id, Flaw::new(expected, format!("key {index}"))));
        for index in 0..page.count() {
            let key = page.key(index);
            if key.is_empty() {
                return wrong("keys of at least one byte", index);
            }
            let ordered = match index.checked_sub(1) {
                Some(before) => page.key(before) < key,
                None => low.is_none_or(|low| low <= key),
            };
            if !ordered {
                return wrong("keys in ascending order", index);
            }
        }
        match page.count().checked_sub(1) {
            Some(last) if high.is_some_and(|high| page.key(last) >= high) => wrong("keys below the next page's", last),
            _ => Ok(()),
        }
    }

    /// The free pages are those not reachable, whatever the list says; but a list that names a page in use shows
    /// that one of the two is damaged.
    fn freelist(&mut self, meta: &Meta) -> Result<()> {
        let (store, id) = (self.pages.store, meta.freelist);
        let wrong = |expected, found: String| Err(store.corrupt(id, Flaw::new(expected, found)));
        if !(2..meta.high_water).contains(&id) {
            return wrong("a freelist page inside the file", format!("page {id} of {}", meta.high_water));
        }
        let header = Header::read(&store.read_pages(id, 1)?);
        if header.id != id || header.flags != page::FREELIST {
            return wrong("a freelist page", format!("page {} with flags {:#x}", header.id, header.flags));
        }
        let pages = u64::from(header.overflow) + 1;
        // A list has at most one entry a page, so a longer one is damage; this bounds the memory below.
        let most = (meta.high_water as usize * 8 + page::HEADER + 8).div_ceil(store.page_size) as u64 + 1;
        if pages > (meta.high_water - id).min(most) {
            return wrong("overflow inside the file", format!("{} overflow pages", header.overflow));
        }
        self.mark(id, pages)?;
        let bytes = store.read_pages(id, pages)?;
        let entries = &bytes[page::HEADER..];
        let (count, skip) = match header.count {
            u16::MAX => (page::u64_at(entries, 0), 1),
            count => (u64::from(count), 0),
        };
        if count > (entries.len() / 8 - skip) as u64 {
            return wrong("free pages inside the list", format!("{count}"));
        }
        for entry in entries.chunks_exact(8).skip(skip).take(count as usize) {
            let free = page::u64_at(entry, 0);
            if !(2..meta.high_water).contains(&free) || self.used.contains(free) {
                return wrong("free pages that are not in use", format!("page {free}"));
            }
        }
        Ok(())
    }
}
