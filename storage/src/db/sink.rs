//! Where a transaction puts its pages: takes them from the freelist or the end of the file, and writes them in long
//! rows.

use super::error::{Error, Result};
use super::freelist::Run;
use super::write::Writer;

/// Page images gathered before they are written.
const BUFFER: usize = 4 << 20;

/// The pages that a transaction has written and given up so far. None of them matters before the meta page is
/// written, so a transaction that ends without it only has to give back what it took.
#[derive(Debug)]
pub(super) struct Staged {
    /// The high-water page of the committed state.
    low: u64,
    /// The high-water page now.
    pub(super) high_water: u64,
    pub(super) written: Vec<Run>,
    pub(super) freed: Vec<Run>,
}

impl Staged {
    pub(super) fn new(high_water: u64) -> Self {
        Self { low: high_water, high_water, written: Vec::new(), freed: Vec::new() }
    }

    /// The pages that were taken from the freelist.
    pub(super) fn taken(&mut self) -> impl Iterator<Item = Run> {
        let low = self.low;
        self.written.drain(..).filter(move |run| run.page < low)
    }
}

#[derive(Debug)]
pub(super) struct Sink<'w> {
    writer: &'w mut Writer,
    pub(super) staged: &'w mut Staged,
    buffer: Vec<u8>,
    /// Rows of pages in `buffer`, in its order.
    rows: Vec<Run>,
}

impl<'w> Sink<'w> {
    pub(super) fn new(writer: &'w mut Writer, staged: &'w mut Staged) -> Self {
        Self { writer, staged, buffer: Vec::new(), rows: Vec::new() }
    }

    pub(super) fn page_size(&self) -> usize {
        self.writer.store.page_size
    }

    /// Gives up the pages of a node that is written elsewhere.
    pub(super) fn free(&mut self, origin: Option<Run>) {
        self.staged.freed.extend(origin);
    }

    /// Takes pages for `size` bytes and has `write` append their image: id, number of pages, where to.
    pub(super) fn page(&mut self, size: usize, write: impl FnOnce(u64, usize, &mut Vec<u8>)) -> Result<u64> {
        let page_size = self.page_size();
        let count = size.div_ceil(page_size);
        let run = Run { page: self.allocate(count as u64), count: count as u64 };
        self.staged.written.push(run);
        match self.rows.last_mut() {
            Some(row) if row.page + row.count == run.page => row.count += run.count,
            _ => self.rows.push(run),
        }
        let before = self.buffer.len();
        write(run.page, count, &mut self.buffer);
        assert_eq!(self.buffer.len() - before, count * page_size, "a page image fills its pages");
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(run.page)
    }

    fn allocate(&mut self, count: u64) -> u64 {
        self.writer.freelist.allocate(count).unwrap_or_else(|| {
            let page = self.staged.high_water;
            self.staged.high_water += count;
            page
        })
    }

    /// Writes what was gathered. A failed write poisons the store; a file that cannot grow does not.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.grow()?;
        let store = &self.writer.store;
        let mut at = 0;
        for row in self.rows.drain(..) {
            let bytes = &self.buffer[at..at + row.count as usize * store.page_size];
            at += bytes.len();
            let offset = row.page * store.page_size as u64;
            store.file.write_at(bytes, offset).map_err(|source| {
                store.poison();
                store.io("write", offset)(source)
            })?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Grows the file if need be: generously, or when the disk has no room for that, by what is needed.
    fn grow(&mut self) -> Result<()> {
        let Writer { store, length, growth, .. } = &mut *self.writer;
        let needed = self.staged.high_water * store.page_size as u64;
        if needed <= *length {
            return Ok(());
        }
        let generous = needed + store.page_size as u64 + *growth;
        let grow = |length| store.file.allocate(length).map(|()| length);
        *length = grow(generous).or_else(|_| grow(needed)).map_err(|source| Error::NoSpace {
            path: store.path.clone(),
            length: needed,
            source,
        })?;
        Ok(())
    }
}
