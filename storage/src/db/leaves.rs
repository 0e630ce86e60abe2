//! The leaf pages of a file, one after the other as they stand in it, whatever points to them: for a file that does not
//! open any more, and for versions that were deleted and not yet written over.

use std::io;
use std::path::Path;

use crate::disk::Disk;

use super::error::{Error, Result};
use super::page::{self, Header, Page};
use super::read_meta;
use super::store::{Pages, Store};

/// A walk over the leaf pages of a file.
#[derive(Debug)]
pub struct Leaves {
    store: Store,
    /// The pages that the file has, and the meta page promises.
    end: u64,
    next: u64,
}

impl Leaves {
    /// Takes no lock: what a member writes meanwhile may or may not be seen.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let failed = |operation: &'static str| {
            let path = path.to_path_buf();
            move |source: io::Error| Error::Io { path, operation, offset: 0, source }
        };
        let file = disk.open_read_only(path).map_err(failed("open"))?;
        let meta = read_meta(&*file, path)?;
        let pages = file.len().map_err(failed("stat"))? / meta.page_size as u64;
        let store = Store::new(path.to_path_buf(), file, meta, true);
        Ok(Self { store, end: pages.min(meta.high_water), next: 2 })
    }

    /// The next leaf page, or why a page is none that can be read; the walk goes on behind it.
    pub fn next_leaf(&mut self) -> Result<Option<Result<Leaf>>> {
        while self.next < self.end {
            let id = self.next;
            self.next += 1;
            let header = Header::read(&self.store.read_pages(id, 1)?);
            if header.flags != page::LEAF {
                continue;
            }
            let page = match Pages::new(&self.store, self.end).get(id) {
                Ok(page) => page,
                Err(error @ Error::Corrupt { .. }) => return Ok(Some(Err(error))),
                Err(error) => return Err(error),
            };
            self.next = id + u64::from(header.overflow) + 1;
            if page.count() > 0 {
                return Ok(Some(Ok(Leaf { id, page })));
            }
        }
        Ok(None)
    }
}

/// A leaf page with at least one entry.
#[derive(Debug)]
pub struct Leaf {
    id: u64,
    page: Page,
}

impl Leaf {
    pub(super) fn new(id: u64, page: Page) -> Self {
        debug_assert!(page.count() > 0, "a leaf without entries is passed over");
        Self { id, page }
    }

    /// The number of the page.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many entries it has: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a leaf without entries is passed over")]
    pub fn len(&self) -> usize {
        self.page.count()
    }

    /// The bytes of the page and its overflow pages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.page.bytes().len()
    }

    /// Keys and values as they stand on the page.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.page.count()).map(|index| self.page.key_and_value(index))
    }
}
