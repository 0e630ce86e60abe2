//! One open file: its current state, the readers that pin older ones, and reading its pages.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::DiskFile;

use super::error::{Error, Flaw, Result};
use super::freelist::Pins;
use super::meta::Meta;
use super::page::{self, Header, Page};

/// Pages read in one go at most while walking a tree.
const AHEAD_PAGES: u64 = 256;
/// A buffer of [`AHEAD_PAGES`] is not kept for less than this.
const WINDOW_PAGES_MIN: u64 = 32;
/// Pages between two children that are read along, overflow pages mostly, rather than asked for one by one.
const GAP_PAGES: u64 = 8;
/// A page with more overflow than this must prove that its elements need it before memory is taken.
const OVERFLOW_UNPROVEN: u32 = 256;
/// Levels of branch pages and nested buckets. A tree this deep would hold more than any disk.
pub(super) const DEPTH_LIMIT: usize = 64;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) page_size: usize,
    pub(super) read_only: bool,
    poisoned: AtomicBool,
    state: Mutex<State>,
}

/// What the last commit left.
#[derive(Debug)]
pub(super) struct State {
    pub(super) meta: Meta,
    pub(super) free_pages: u64,
    pub(super) pins: Pins,
    /// Readers closed so far; see [`Freelist::release`](super::freelist::Freelist::release).
    pub(super) closed: u64,
}

impl Store {
    pub(super) fn new(path: PathBuf, file: Box<dyn DiskFile>, meta: Meta, read_only: bool) -> Self {
        let state = State { meta, free_pages: 0, pins: BTreeMap::new(), closed: 0 };
        Self {
            path,
            file,
            page_size: meta.page_size,
            read_only,
            poisoned: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    pub(super) fn state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock())
    }

    /// After this no commit is accepted.
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly { path: self.path.clone() });
        }
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned { path: self.path.clone() });
        }
        Ok(())
    }

    pub(super) fn corrupt(&self, page: u64, flaw: Flaw) -> Error {
        // A damaged pointer may say any page.
        let offset = page.saturating_mul(self.page_size as u64);
        Error::Corrupt { path: self.path.clone(), page, offset, expected: flaw.expected, found: flaw.found }
    }

    pub(super) fn io(&self, operation: &'static str, offset: u64) -> impl FnOnce(io::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Io { path, operation, offset, source }
    }

    /// Reads whole pages. The caller has bounded `count` by the file or by a constant.
    pub(super) fn read_pages(&self, page: u64, count: u64) -> Result<Bytes> {
        let mut bytes = vec![0; count as usize * self.page_size];
        self.read(&mut bytes, page * self.page_size as u64)?;
        Ok(bytes.into())
    }

    /// Fills `buffer` from `offset`.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let read = self.file.read_at(buffer, offset).map_err(self.io("read", offset))?;
        if read < buffer.len() {
            return Err(self.io("read", offset)(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }
}

/// Reads the pages of one state of the file, many at a time where a tree lays them out in a row.
#[derive(Debug, Clone)]
pub(super) struct Pages<'s> {
    pub(super) store: &'s Store,
    high_water: u64,
    window: Bytes,
    /// The page at which `window` begins.
    window_at: u64,
    /// How many pages the next read ahead may take: doubles as a walk goes on, so that a short one stays cheap.
    ahead: u64,
    /// Of a walk over everything.
    buffers: Option<Buffers>,
    bytes_read: usize,
}

/// Buffers that a walk reads into again once nobody looks at them any more. To get as much memory from the system as the
/// file has takes longer than to read it, and whoever copies out of pages finds them warm.
#[derive(Debug, Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn lend(&self, length: usize) -> Lent {
        let buffer = self.0.lock().pop().unwrap_or_else(|| vec![0; length]);
        debug_assert_eq!(buffer.len(), length, "the buffers of a walk have one length");
        Lent { buffer, home: self.clone() }
    }
}

/// A buffer that goes back when it is dropped.
struct Lent {
    buffer: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.0.lock().push(std::mem::take(&mut self.buffer));
    }
}

impl<'s> Pages<'s> {
    pub(super) fn new(store: &'s Store, high_water: u64) -> Self {
        Self { store, high_water, window: Bytes::new(), window_at: 0, ahead: 4, buffers: None, bytes_read: 0 }
    }

    /// For a walk over everything.
    pub(super) fn eager(store: &'s Store, high_water: u64) -> Self {
        Self { ahead: AHEAD_PAGES, buffers: Some(Buffers::default()), ..Self::new(store, high_water) }
    }

    /// The bytes of all pages that were handed out.
    pub(super) fn bytes_read(&self) -> usize {
        self.bytes_read
    }

    pub(super) fn get(&mut self, id: u64) -> Result<Page> {
        self.get_within(id, 1)
    }

    /// The child of a branch page. Reads on over the children that follow it in the file.
    pub(super) fn get_child(&mut self, parent: &Page, index: usize) -> Result<Page> {
        let id = parent.child(index);
        if self.windowed(id).is_some() {
            return self.get_within(id, 1);
        }
        let (mut last, mut widest) = (id, 1);
        for next in (index + 1..parent.count()).map(|index| parent.child(index)) {
            if next <= last || next - last > GAP_PAGES || next - id + widest > self.ahead {
                break;
            }
            widest = widest.max(next - last);
            last = next;
        }
        self.ahead = (self.ahead * 2).min(AHEAD_PAGES);
        // The last child of the row may have as much overflow as the others.
        self.get_within(id, last - id + widest)
    }

    /// The bytes from page `id` to the end of the window.
    fn windowed(&self, id: u64) -> Option<Bytes> {
        let at = usize::try_from(id.checked_sub(self.window_at)?).ok()?.checked_mul(self.store.page_size)?;
        (at < self.window.len()).then(|| self.window.slice(at..))
    }

    fn get_within(&mut self, id: u64, ahead: u64) -> Result<Page> {
        let store = self.store;
        if !(2..self.high_water).contains(&id) {
            let found = format!("page {id} of {}", self.high_water);
            return Err(store.corrupt(id, Flaw::new("a page inside the file", found)));
        }
        let bytes = match self.windowed(id) {
            Some(bytes) => bytes,
            None => {
                self.window = self.read_window(id, ahead.min(self.high_water - id))?;
                self.window_at = id;
                self.window.clone()
            }
        };
        let header = Header::read(&bytes);
        if header.id != id {
            return Err(store.corrupt(id, Flaw::new("its own page id", header.id.to_string())));
        }
        let count = u64::from(header.overflow) + 1;
        if count > self.high_water - id {
            let found = format!("{} overflow pages", header.overflow);
            return Err(store.corrupt(id, Flaw::new("overflow inside the file", found)));
        }
        let length = count as usize * store.page_size;
        let bytes = if length <= bytes.len() {
            bytes.slice(..length)
        } else {
            if header.overflow > OVERFLOW_UNPROVEN {
                self.prove_overflow(id, &header)?;
            }
            store.read_pages(id, count)?
        };
        self.bytes_read += length;
        Page::parse(bytes).map_err(|flaw| store.corrupt(id, flaw))
    }

    fn read_window(&self, id: u64, count: u64) -> Result<Bytes> {
        let store = self.store;
        let buffers = self.buffers.as_ref().filter(|_| (WINDOW_PAGES_MIN..=AHEAD_PAGES).contains(&count));
        let Some(buffers) = buffers else { return store.read_pages(id, count) };
        let length = count as usize * store.page_size;
        let mut lent = buffers.lend(AHEAD_PAGES as usize * store.page_size);
        store.read(&mut lent.buffer[..length], id * store.page_size as u64)?;
        Ok(Bytes::from_owner(lent).slice(..length))
    }

    /// Refuses a page whose last element does not reach into its last pages, before they are read: a flipped bit in
    /// the overflow count must not make us take memory of the file's size. (Old versions of bolt took one page more
    /// than needed.)
    fn prove_overflow(&self, id: u64, header: &Header) -> Result<()> {
        let store = self.store;
        let table = page::HEADER + usize::from(header.count) * page::ELEMENT;
        let table_pages = (table.div_ceil(store.page_size) as u64).min(u64::from(header.overflow) + 1);
        let bytes = store.read_pages(id, table_pages)?;
        let end = (header.count > 0 && table <= bytes.len()).then(|| {
            let element = table - page::ELEMENT;
            let word = |n: usize| u64::from(page::u32_at(&bytes, element + n * 4));
            match header.flags {
                page::LEAF => element as u64 + word(1) + word(2) + word(3),
                _ => element as u64 + word(0) + word(1),
            }
        });
        let pages = end.map_or(0, |end| end.div_ceil(store.page_size as u64));
        if u64::from(header.overflow) > pages {
            let found = format!("{} overflow pages for elements of {pages} pages", header.overflow);
            return Err(store.corrupt(id, Flaw::new("as much overflow as the elements need", found)));
        }
        Ok(())
    }
}
