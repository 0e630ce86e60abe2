//! Where a commit puts its pages: takes them from the freelist or the end of the file, and writes them in long rows.

use super::error::{Error, Result};
use super::freelist::{Freelist, Run};
use super::store::Store;

/// Page images gathered before they are written.
const BUFFER: usize = 4 << 20;

/// Pages of one commit on their way into the file. None of them is part of the committed state yet, so everything up
/// to the meta page can be undone with [`Sink::undo`].
#[derive(Debug)]
pub(super) struct Sink<'w> {
    store: &'w Store,
    freelist: &'w mut Freelist,
    /// The file's length as far as this process knows.
    length: &'w mut u64,
    growth: u64,
    /// The high-water page at the beginning, and now.
    low: u64,
    pub(super) high_water: u64,
    pub(super) written: Vec<Run>,
    pub(super) freed: Vec<Run>,
    buffer: Vec<u8>,
    /// Rows of pages in `buffer`, in its order.
    rows: Vec<Run>,
}

impl<'w> Sink<'w> {
    pub(super) fn new(
        store: &'w Store,
        freelist: &'w mut Freelist,
        length: &'w mut u64,
        growth: u64,
        high_water: u64,
        freed: Vec<Run>,
    ) -> Self {
        Self {
            store,
            freelist,
            length,
            growth,
            low: high_water,
            high_water,
            written: Vec::new(),
            freed,
            buffer: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(super) fn page_size(&self) -> usize {
        self.store.page_size
    }

    /// Takes pages for `size` bytes and has `write` append their image: id, number of pages, where to.
    pub(super) fn page(&mut self, size: usize, write: impl FnOnce(u64, usize, &mut Vec<u8>)) -> Result<u64> {
        let count = size.div_ceil(self.store.page_size);
        let run = Run { page: self.allocate(count as u64), count: count as u64 };
        self.written.push(run);
        match self.rows.last_mut() {
            Some(row) if row.page + row.count == run.page => row.count += run.count,
            _ => self.rows.push(run),
        }
        let before = self.buffer.len();
        write(run.page, count, &mut self.buffer);
        assert_eq!(self.buffer.len() - before, count * self.store.page_size, "a page image fills its pages");
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(run.page)
    }

    fn allocate(&mut self, count: u64) -> u64 {
        self.freelist.allocate(count).unwrap_or_else(|| {
            let page = self.high_water;
            self.high_water += count;
            page
        })
    }

    /// Writes what was gathered. A failed write poisons the store; a file that cannot grow does not.
    pub(super) fn flush(&mut self) -> Result<()> {
        let page_size = self.store.page_size as u64;
        if self.high_water * page_size > *self.length {
            self.grow()?;
        }
        let mut at = 0;
        for row in self.rows.drain(..) {
            let bytes = &self.buffer[at..at + row.count as usize * self.store.page_size];
            at += bytes.len();
            let offset = row.page * page_size;
            self.store.file.write_at(bytes, offset).map_err(|source| {
                self.store.poison();
                self.store.io("write", offset)(source)
            })?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Grows the file generously, or when the disk has no room for that, by what is needed.
    fn grow(&mut self) -> Result<()> {
        let needed = self.high_water * self.store.page_size as u64;
        let generous = needed + self.store.page_size as u64 + self.growth;
        let grow = |length| self.store.file.allocate(length).map(|()| length);
        let length = grow(generous).or_else(|_| grow(needed)).map_err(|source| Error::NoSpace {
            path: self.store.path.clone(),
            length: needed,
            source,
        })?;
        *self.length = length;
        Ok(())
    }

    /// Gives back every page that was taken.
    pub(super) fn undo(self) {
        for run in self.written.into_iter().filter(|run| run.page < self.low) {
            self.freelist.give_back(run);
        }
    }
}
