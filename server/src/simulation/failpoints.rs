//! Members that end at a named place of the code.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
};

use forebay_storage::failpoint::{self, Point};

use crate::raft::panic_text;

/// How often a member has ended at each place, in all runs of the process.
static STRUCK: [AtomicU64; Point::ALL.len()] = [const { AtomicU64::new(0) }; Point::ALL.len()];

/// Where the next member that comes by ends, and how many come by before.
#[derive(Clone, Default)]
pub(super) struct Trap(Rc<Cell<Option<(Point, u32)>>>);

impl Trap {
    /// A trap for the members that run on this thread.
    pub(super) fn new() -> Trap {
        let trap = Trap::default();
        let watching = trap.clone();
        failpoint::watch(move |point| watching.look(point));
        trap
    }

    pub(super) fn set(&self, point: Point, after: u32) {
        self.0.set(Some((point, after)));
    }

    pub(super) fn clear(&self) {
        self.0.set(None);
    }

    /// Does something that no trap may interrupt.
    pub(super) fn suspended(&self, work: impl FnOnce()) {
        let set = self.0.take();
        work();
        self.0.set(set);
    }

    fn look(&self, point: Point) {
        let Some((_, after)) = self.0.get().filter(|(at, _)| *at == point) else { return };
        if after > 0 {
            return self.0.set(Some((point, after - 1)));
        }
        self.0.set(None);
        STRUCK[point as usize].fetch_add(1, Ordering::Relaxed);
        // Not a panic: nothing is wrong that anybody would want to read about.
        resume_unwind(Box::new(format!("injected fault at {}", point.name())));
    }
}

/// Runs a part of a member; `None` if it ended in a trap.
pub(super) fn unless_trapped<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Some(result),
        Err(panic) if panic_text(&*panic).contains("injected fault") => None,
        Err(panic) => resume_unwind(panic),
    }
}

/// Places where no member has ended yet.
pub(super) fn untouched() -> Vec<Point> {
    let is_untouched = |point: &Point| STRUCK[*point as usize].load(Ordering::Relaxed) == 0;
    Point::ALL.iter().copied().filter(is_untouched).collect()
}
