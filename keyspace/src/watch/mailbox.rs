//! What the notifier leaves for a stream: a bounded queue between the hub and one slow or quick client.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::record::Batch;

/// How many items wait for a stream before its watchers fall back to reading the history. A large value keeps a
/// stream that pauses briefly off the history; a small one bounds what ten thousand slow streams cost (an item is three
/// words, its events are shared with the history).
pub(super) const PENDING_ITEMS_MAX: usize = 1024;

/// A stream with many watchers on one range gets that many items per revision; it may hold this many revisions of them.
const PENDING_ITEMS_PER_WATCHER: usize = 2;

/// How many bytes of events wait for a stream; one item may exceed it alone. It bounds what a slow stream can keep alive
/// after a compaction has dropped it from the history.
pub(super) const PENDING_BYTES_MAX: usize = 1 << 20;

/// Called when a stream that had nothing to send has something.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Whom a notice that a revision is published is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every watcher of the stream; the answer to a progress request.
    Stream,
    /// One watcher, by its handle in the stream.
    Watcher(u32),
    /// The feed of a watcher, which is ahead of what is published. Nothing is written.
    Feed(u32),
}

/// Something to send, in the order it must be sent.
#[derive(Debug)]
pub(super) enum Item {
    /// Changes `start..end` of the batch, all of one revision; those between that the watcher does not watch are left
    /// out when they are written.
    Changes { watcher: u32, start: u32, end: u32, bytes: u32, batch: Arc<Batch> },
    /// All events up to this revision stand before this item.
    Progress { scope: Scope, revision: i64 },
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Changes { bytes, .. } => *bytes as usize,
            Item::Progress { .. } => 0,
        }
    }
}

/// A watcher that the queue had no room for, and the first revision it did not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lagging {
    pub(super) watcher: u32,
    pub(super) next: i64,
}

/// One per stream, shared by the stream and the hub. The hub's lock, when both are held, is taken first.
pub(super) struct Mailbox {
    waker: Waker,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    lagging: Vec<Lagging>,
    bytes: usize,
    watchers: usize,
    /// Set by the first item after the stream had run dry; until it runs dry again it needs no second call.
    awake: bool,
    closed: bool,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    /// It waits, as others did before it.
    Queued,
    /// It waits, and the stream has to be woken.
    Wake,
    /// There is no room: the watcher has to become lagging.
    Full,
}

impl Mailbox {
    pub(super) fn new(waker: Waker) -> Mailbox {
        Mailbox { waker, queue: Mutex::default() }
    }

    /// Calls the stream's owner. No lock may be held: what it does is not ours to know.
    pub(super) fn wake(&self) {
        (self.waker)();
    }

    /// Leaves changes for a watcher, unless the queue is full.
    pub(super) fn post(&self, item: Item) -> Posted {
        let mut queue = self.queue.lock();
        let items_max = PENDING_ITEMS_MAX.max(queue.watchers * PENDING_ITEMS_PER_WATCHER);
        let bytes = queue.bytes + item.bytes();
        if queue.items.len() >= items_max || (bytes > PENDING_BYTES_MAX && !queue.items.is_empty()) {
            return Posted::Full;
        }
        queue.bytes = bytes;
        queue.items.push_back(item);
        queue.rouse()
    }

    /// Leaves a progress notice. It is not bounded here: a stream has a bounded number of them under way.
    pub(super) fn post_progress(&self, scope: Scope, revision: i64) -> Posted {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Posted::Queued;
        }
        queue.items.push_back(Item::Progress { scope, revision });
        queue.rouse()
    }

    /// Tells the stream that a watcher has to read the history from `next` on.
    pub(super) fn lag(&self, watcher: u32, next: i64) -> Posted {
        let mut queue = self.queue.lock();
        queue.lagging.push(Lagging { watcher, next });
        queue.rouse()
    }

    /// The stream has to look what became of it.
    pub(super) fn rouse(&self) -> Posted {
        self.queue.lock().rouse()
    }

    /// Drops what waits; returns how many deliveries that were.
    pub(super) fn clear(&self) -> usize {
        let mut queue = self.queue.lock();
        queue.lagging.clear();
        queue.bytes = 0;
        deliveries(&std::mem::take(&mut queue.items))
    }

    /// Takes everything, in one step: what a lagging watcher still has queued comes before what it reads itself.
    /// Returns false if there was nothing; the next item will then wake the stream.
    pub(super) fn take(&self, items: &mut VecDeque<Item>, lagging: &mut Vec<Lagging>) -> bool {
        assert!(items.is_empty(), "a stream takes its mailbox when it has handled what it took before");
        let mut queue = self.queue.lock();
        if queue.items.is_empty() && queue.lagging.is_empty() {
            queue.awake = false;
            return false;
        }
        std::mem::swap(&mut queue.items, items);
        *lagging = std::mem::take(&mut queue.lagging);
        queue.bytes = 0;
        true
    }

    pub(super) fn joined(&self) {
        self.queue.lock().watchers += 1;
    }

    /// Drops what waits for a watcher that is gone; returns how many items that were.
    pub(super) fn left(&self, watcher: u32) -> usize {
        let mut queue = self.queue.lock();
        queue.watchers -= 1;
        let Queue { items, lagging, bytes, .. } = &mut *queue;
        lagging.retain(|lagging| lagging.watcher != watcher);
        purge(items, watcher, |item| *bytes -= item.bytes())
    }

    /// Drops everything for good; returns how many deliveries that were.
    pub(super) fn close(&self) -> usize {
        let mut queue = self.queue.lock();
        let dropped = deliveries(&queue.items);
        *queue = Queue { closed: true, ..Queue::default() };
        dropped
    }
}

impl Queue {
    fn rouse(&mut self) -> Posted {
        if std::mem::replace(&mut self.awake, true) { Posted::Queued } else { Posted::Wake }
    }
}

/// How many of the items are changes for a watcher.
pub(super) fn deliveries(items: &VecDeque<Item>) -> usize {
    items.iter().filter(|item| matches!(item, Item::Changes { .. })).count()
}

/// Drops the changes that wait for one watcher; returns how many items that were.
pub(super) fn purge(items: &mut VecDeque<Item>, gone: u32, mut dropped: impl FnMut(&Item)) -> usize {
    let before = items.len();
    items.retain(|item| {
        let keep = !matches!(item, Item::Changes { watcher, .. } if *watcher == gone);
        if !keep {
            dropped(item);
        }
        keep
    });
    before - items.len()
}
