//! Which pages a write transaction may use: free ones, and freed ones that no reader can see any more.
//!
//! A page freed by transaction `t` belongs to every state before `t`. It becomes free when no reader is left that
//! opened one of those states. A page that was also written after the last such reader opened is free at once, so one
//! long reader (a snapshot on its way to a slow client) does not hold back all churn behind it.

use std::collections::{BTreeMap, HashMap};

/// Open readers: transaction id and how many opened it.
pub(super) type Pins = BTreeMap<u64, usize>;

/// A row of pages: a page with its overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Run {
    pub(super) page: u64,
    pub(super) count: u64,
}

/// One bit a page, so that even the largest file costs a few hundred kilobytes.
#[derive(Debug, Default, Clone)]
pub(super) struct PageSet {
    words: Vec<u64>,
    count: u64,
}

impl PageSet {
    pub(super) fn contains(&self, page: u64) -> bool {
        self.words.get((page / 64) as usize).is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Adds a page; false when it was there.
    pub(super) fn insert(&mut self, page: u64) -> bool {
        let word = (page / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let absent = self.words[word] & (1 << (page % 64)) == 0;
        self.words[word] |= 1 << (page % 64);
        self.count += u64::from(absent);
        absent
    }

    fn remove(&mut self, page: u64) {
        debug_assert!(self.contains(page));
        self.words[(page / 64) as usize] &= !(1 << (page % 64));
        self.count -= 1;
    }

    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// The first page of the first row of `count` members at or after `from`.
    fn find_run(&self, from: u64, count: u64) -> Option<u64> {
        let end = self.words.len() as u64 * 64;
        let (mut page, mut length) = (from, 0);
        while page < end {
            let word = self.words[(page / 64) as usize] >> (page % 64);
            if word == 0 {
                length = 0;
                page = (page / 64 + 1) * 64;
                continue;
            }
            if word & 1 == 0 {
                length = 0;
                page += u64::from(word.trailing_zeros());
                continue;
            }
            let ones = u64::from(word.trailing_ones());
            length += ones;
            page += ones;
            if length >= count {
                return Some(page - length);
            }
        }
        None
    }
}

#[derive(Debug)]
struct Pending {
    run: Run,
    /// The transaction that wrote the pages; 0 when that was before the oldest reader, or is not known.
    born: u64,
    /// The transaction that freed them.
    died: u64,
}

impl Pending {
    /// Whether a reader sees the pages: one that opened a state from `born` on and before `died`.
    fn is_seen(&self, pins: &Pins) -> bool {
        pins.range(self.born..self.died).next().is_some()
    }
}

#[derive(Debug, Default)]
pub(super) struct Freelist {
    free: PageSet,
    /// No page below is free.
    lowest: u64,
    /// No row of `.0` free pages begins below `.1`; saves looking at the same holes for every large value.
    large: (u64, u64),
    pending: Vec<Pending>,
    /// The first of `pending` that was never held against the readers.
    unchecked: usize,
    /// How many readers had closed when `pending` was last gone through.
    closed: u64,
    /// When pages were written, for those written while a reader is open.
    born: HashMap<u64, u64>,
}

impl Freelist {
    /// Every page from 2 to `high_water` that is not in `used` is free.
    pub(super) fn new(used: &PageSet, high_water: u64) -> Self {
        let mut list = Self::default();
        for page in (2..high_water).filter(|page| !used.contains(*page)) {
            list.free.insert(page);
        }
        list
    }

    pub(super) fn free_count(&self) -> u64 {
        self.free.len()
    }

    #[cfg(test)]
    pub(super) fn pending_count(&self) -> u64 {
        self.pending.iter().map(|pending| pending.run.count).sum()
    }

    /// Begins a write transaction: frees what no reader sees. `closed` counts the readers that have closed so far.
    pub(super) fn release(&mut self, pins: &Pins, closed: u64) {
        if pins.is_empty() {
            self.born.clear();
        }
        let from = if closed == self.closed { self.unchecked } else { 0 };
        let kept = self.pending.split_off(from);
        for pending in kept {
            if pending.is_seen(pins) {
                self.pending.push(pending);
            } else {
                self.insert(pending.run);
            }
        }
        self.unchecked = self.pending.len();
        self.closed = closed;
    }

    /// Takes a row of `count` free pages, the first that fits.
    pub(super) fn allocate(&mut self, count: u64) -> Option<u64> {
        if self.free.len() < count {
            return None;
        }
        let from = if count > 1 && count >= self.large.0 { self.large.1.max(self.lowest) } else { self.lowest };
        let found = self.free.find_run(from, count);
        let after = found.map_or(u64::MAX, |page| page + count);
        if count == 1 {
            self.lowest = after;
        } else {
            self.large = (count, after);
        }
        let page = found?;
        (page..page + count).for_each(|page| self.free.remove(page));
        Some(page)
    }

    /// Undoes [`allocate`](Self::allocate).
    pub(super) fn give_back(&mut self, run: Run) {
        self.insert(run);
    }

    /// Ends transaction `txid`: what it wrote, and what it freed. `readers` says whether any are open.
    pub(super) fn commit(&mut self, txid: u64, written: &[Run], freed: &[Run], readers: bool) {
        for run in freed {
            let born = self.born.remove(&run.page).unwrap_or(0);
            self.pending.push(Pending { run: *run, born, died: txid });
        }
        if readers {
            self.born.extend(written.iter().map(|run| (run.page, txid)));
        }
    }

    fn insert(&mut self, run: Run) {
        for page in run.page..run.page + run.count {
            let absent = self.free.insert(page);
            assert!(absent, "page {page} freed twice");
        }
        self.lowest = self.lowest.min(run.page);
        self.large = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(used: &[u64], high_water: u64) -> Freelist {
        let mut set = PageSet::default();
        for page in used {
            set.insert(*page);
        }
        Freelist::new(&set, high_water)
    }

    fn run(page: u64, count: u64) -> Run {
        Run { page, count }
    }

    #[test]
    fn allocates_the_lowest_row_that_fits() {
        let mut free = list(&[4, 7, 200], 300);
        assert_eq!(free.allocate(3), Some(8));
        assert_eq!(free.allocate(1), Some(2));
        assert_eq!(free.allocate(2), Some(5));
        assert_eq!(free.allocate(1), Some(3));
        assert_eq!(free.allocate(189), Some(11));
        assert_eq!(free.allocate(100), None);
        assert_eq!(free.allocate(99), Some(201));
        assert_eq!(free.allocate(1), None);
        assert_eq!(free.free_count(), 0);
    }

    #[test]
    fn finds_rows_across_word_boundaries_and_what_was_given_back() {
        let mut free = list(&[], 1000);
        assert_eq!(free.allocate(998), Some(2));
        assert_eq!(free.allocate(2), None);
        for page in [62, 63, 64, 65, 127, 128] {
            free.give_back(run(page, 1));
        }
        assert_eq!(free.allocate(4), Some(62));
        assert_eq!(free.allocate(2), Some(127));
    }

    #[test]
    fn freed_pages_wait_for_the_readers_that_see_them() {
        let mut free = list(&[2, 3, 4, 5], 6);
        // Transaction 10 frees page 2 while a reader has state 9 open, another has state 10.
        free.commit(10, &[], &[run(2, 1)], true);
        free.release(&Pins::from([(9, 1), (10, 1)]), 0);
        assert_eq!(free.allocate(1), None);
        free.release(&Pins::from([(10, 1)]), 1);
        assert_eq!(free.allocate(1), Some(2));
    }

    #[test]
    fn pages_written_and_freed_behind_a_readers_back_are_free_at_once() {
        let mut free = list(&[2, 3, 4, 5], 6);
        let pins = Pins::from([(9, 1)]);
        free.commit(10, &[run(3, 2)], &[run(2, 1)], true);
        free.release(&pins, 0);
        free.commit(11, &[], &[run(3, 2)], true);
        free.release(&pins, 0);
        assert_eq!((free.free_count(), free.pending_count()), (2, 1));
        // A reader of state 10 does see them.
        let mut free = list(&[2, 3, 4, 5], 6);
        free.commit(10, &[run(3, 2)], &[], true);
        free.commit(11, &[], &[run(3, 2)], true);
        free.release(&Pins::from([(9, 1), (10, 1)]), 0);
        assert_eq!((free.free_count(), free.pending_count()), (0, 2));
    }
}
