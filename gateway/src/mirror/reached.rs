//! Waiting for a revision: each waiter is woken once, when its revision is there.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::atomic::{AtomicI64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The revision that readers can see, and those who wait for a later one.
#[derive(Debug, Default)]
pub(super) struct Reached {
    revision: AtomicI64,
    waiting: Mutex<BinaryHeap<Reverse<Waiting>>>,
}

/// Ordered by revision alone.
#[derive(Debug)]
struct Waiting {
    revision: i64,
    wake: oneshot::Sender<()>,
}

impl Reached {
    /// The revision that readers can see.
    pub(super) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Readers can see this revision from now on.
    pub(super) fn advance(&self, revision: i64) {
        let mut waiting = self.waiting.lock();
        self.revision.fetch_max(revision, Ordering::AcqRel);
        while waiting.peek().is_some_and(|Reverse(first)| first.revision <= revision) {
            if let Some(Reverse(due)) = waiting.pop() {
                // One that has gone away does not mind.
                let _ = due.wake.send(());
            }
        }
    }

    /// Waits until readers can see `revision`. The caller bounds the time.
    pub(super) async fn wait(&self, revision: i64) {
        if self.revision() >= revision {
            return;
        }
        let woken = {
            let mut waiting = self.waiting.lock();
            // Again, under the lock that `advance` takes.
            if self.revision() >= revision {
                return;
            }
            let (wake, woken) = oneshot::channel();
            waiting.push(Reverse(Waiting { revision, wake }));
            woken
        };
        // The sender is dropped only after it was used, or with `self`.
        let _ = woken.await;
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.revision == other.revision
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        self.revision.cmp(&other.revision)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_waiter_is_woken_at_its_revision_and_not_before() {
        let reached = Reached::default();
        reached.advance(5);
        assert!(poll!(pin!(reached.wait(5))).is_ready());
        let (mut six, mut eight) = (pin!(reached.wait(6)), pin!(reached.wait(8)));
        assert!(poll!(&mut six).is_pending() && poll!(&mut eight).is_pending());
        reached.advance(7);
        assert!(poll!(&mut six).is_ready() && poll!(&mut eight).is_pending());
        reached.advance(6);
        assert_eq!(reached.revision(), 7, "what is reached stays reached");
        reached.advance(9);
        assert!(poll!(&mut eight).is_ready());
    }
}
