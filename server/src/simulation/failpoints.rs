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

#[derive(Clone, Default)]
pub(super) struct Trap(Rc<Cell<Option<Set>>>);

#[derive(Clone, Copy)]
struct Set {
    /// Where the next member that comes by ends.
    at: Point,
    /// How many come by before.
    after: u32,
    /// Where one is to end after that.
    goal: Point,
}

impl Trap {
    /// A trap for the members that run on this thread.
    pub(super) fn new() -> Trap {
        let trap = Trap::default();
        let watching = trap.clone();
        failpoint::watch(move |point| watching.look(point));
        trap
    }

    /// Sets the trap elsewhere, unless a member is on its way from one place to the next.
    pub(super) fn set(&self, goal: Point, after: u32) {
        // Only who ended while it took a snapshot over has one to install when it starts.
        let at = if goal == Point::StartInstall { Point::RaftRestore } else { goal };
        if self.0.get().is_none_or(|set| set.at != Point::StartInstall) {
            self.0.set(Some(Set { at, after, goal }));
        }
    }

    pub(super) fn clear(&self) {
        self.0.set(None);
    }

    /// Does something that no trap may interrupt.
    pub(super) fn suspended<T>(&self, work: impl FnOnce() -> T) -> T {
        let set = self.0.take();
        let result = work();
        self.0.set(set);
        result
    }

    fn look(&self, point: Point) {
        let Some(set) = self.0.get().filter(|set| set.at == point) else { return };
        if set.after > 0 {
            return self.0.set(Some(Set { after: set.after - 1, ..set }));
        }
        self.0.set((set.goal != point).then_some(Set { at: set.goal, ..set }));
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
