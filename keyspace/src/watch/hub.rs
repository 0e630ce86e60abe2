//! The hub: who watches what, and what has been published so far.
//!
//! Publishing stabs the index once per change, and leaves in the mailbox of each matching stream where in the shared
//! batch its events are. It encodes nothing and waits for nobody. A watcher is *synced* when the hub delivers to it, and
//! *unsynced* while its stream reads the history for it; it changes over under the hub's lock, at a revision boundary:
//!
//! ```text
//! history   ... 40 41 42 43 44 45        revision() = 45, what a reader can see
//! published ... 40 41 42 43              the notifier is behind for a moment
//! watcher read through 45: next = 46 > 43, so it is synced with live_from = 46, and 44 and 45 are not repeated
//! watcher read through 42: next = 43, so it goes on reading
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use forebay_proto::KeyRange;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::interval::{GroupId, IntervalIndex, Span};
use super::mailbox::{Item, Mailbox, Posted, Scope, Waker};
use super::slab::Slab;
use super::stream::WatchStream;
use crate::record::{Batch, Change, Version};

/// The revisions that watches read: everything since the last compaction, or a window of it.
///
/// Nothing here may call back into the hub.
pub trait History: Send + Sync + 'static {
    /// The newest revision a reader can see. It never goes down but in [`Hub::purge`], and a batch is seen here before it
    /// is published.
    fn revision(&self) -> i64;

    /// The revision of the last compaction. It is raised before the compaction takes anything out of
    /// [`History::changes`]; at this revision itself there may be a part of the changes, above it there are all.
    fn compacted(&self) -> i64;

    /// The lowest revision that [`History::changes`] can begin at, when a window drops more than compaction does. Like
    /// [`History::compacted`] it is raised before anything is taken out.
    fn retained(&self) -> i64 {
        self.compacted()
    }

    /// The batches that hold every change from revision `from` through the last batch returned; none only if there is no
    /// such change. It stops after the batch that completes `max_revisions`, so the first batch may begin below `from`
    /// and the last may go beyond.
    fn changes(&self, from: i64, max_revisions: usize) -> Vec<Arc<Batch>>;

    /// Every change of the keys of a range from revision `from` through the current one, if that is found quicker than by
    /// walking [`History::changes`]. It may hold a change of no other key.
    fn changes_of(&self, _range: &KeyRange, _from: i64) -> Option<Vec<Arc<Batch>>> {
        None
    }
}

/// What a watcher wants to see, and what a change is.
pub(super) mod kind {
    pub(in crate::watch) const PUT: u8 = 1;
    pub(in crate::watch) const DELETE: u8 = 2;
}

pub(super) fn kind_of(version: &Version) -> u8 {
    if version.is_tombstone() { kind::DELETE } else { kind::PUT }
}

/// `live_from` of an unsynced watcher: no revision reaches it.
const UNSYNCED: i64 = i64::MAX;

/// The handle on a hub; clones are the same hub.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) history: Arc<dyn History>,
    /// A response of this size or more is split, if its watcher asked for fragments.
    pub(super) fragment_bytes: usize,
    pub(super) events: AtomicU64,
    /// Below zero for a moment when a stream is quicker than the notifier.
    pub(super) pending: AtomicI64,
    /// How often the hub was purged. A stream of an earlier epoch is over.
    epoch: AtomicU64,
    pub(super) state: Mutex<State>,
}

/// Everything the hub's lock protects.
pub(super) struct State {
    index: IntervalIndex<Group>,
    members: Slab<Member>,
    /// Every revision up to this one is in the mailboxes of the synced watchers.
    published: i64,
    /// What the watchers that the last purge ended are told to be compacted at.
    purged_at: i64,
    streams: usize,
    unsynced: usize,
    /// Watchers that compaction ended and their clients have not cancelled.
    ended: usize,
    waiting: Vec<Notice>,
    /// Scratch: the groups that the revision at hand touches.
    touched: Vec<Touched>,
}

/// The watchers of one range.
struct Group {
    members: SmallVec<[u32; 4]>,
    /// Where in `touched` this group stands while a revision is delivered.
    touched: u32,
}

impl Default for Group {
    fn default() -> Group {
        Group { members: SmallVec::new(), touched: UNTOUCHED }
    }
}

const UNTOUCHED: u32 = u32::MAX;

struct Touched {
    group: GroupId,
    start: u32,
    end: u32,
    bytes: u32,
    kinds: u8,
}

/// What the hub knows of one watcher.
struct Member {
    /// The first revision to deliver.
    live_from: i64,
    mailbox: Arc<Mailbox>,
    /// The watcher's handle in its stream.
    watcher: u32,
    group: GroupId,
    /// Where it stands in its group.
    position: u32,
    wants: u8,
}

/// A progress notice that waits until its revision is published.
struct Notice {
    revision: i64,
    mailbox: Arc<Mailbox>,
    scope: Scope,
}

/// Gauges and counts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Open streams.
    pub streams: usize,
    /// Watchers on them, those included that compaction ended and nobody cancelled.
    pub watchers: usize,
    /// Watchers that read the history: too slow, or not yet caught up.
    pub unsynced: usize,
    /// Deliveries that no stream has handled yet; one is what one watcher gets of one revision.
    pub pending: u64,
    /// Events written since the hub was made.
    pub events: u64,
}

/// What etcd's gRPC server allows on top of `--max-request-bytes`.
const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

impl Hub {
    /// A hub over a history. What the history holds now counts as published.
    ///
    /// `max_request_bytes` is the server's flag: with 512 KiB on top it is the size at which responses are fragmented.
    pub fn new(history: Arc<dyn History>, max_request_bytes: usize) -> Hub {
        let state = State {
            index: IntervalIndex::new(),
            members: Slab::new(),
            published: history.revision(),
            purged_at: 0,
            streams: 0,
            unsynced: 0,
            ended: 0,
            waiting: Vec::new(),
            touched: Vec::new(),
        };
        let shared = Shared {
            history,
            fragment_bytes: max_request_bytes + GRPC_OVERHEAD_BYTES,
            events: AtomicU64::new(0),
            pending: AtomicI64::new(0),
            epoch: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        Hub { shared: Arc::new(shared) }
    }

    /// Opens a stream. `waker` is called, with no lock held, when a stream that said it was idle has something to send.
    pub fn open(&self, waker: Waker) -> WatchStream {
        let mut state = self.shared.state.lock();
        state.streams += 1;
        WatchStream::new(self.shared.clone(), waker, self.shared.epoch())
    }

    /// Delivers a batch that readers can already see. Called by one notifier, in revision order; revisions that were
    /// published before are passed over, so it may start over after [`Hub::resync`].
    pub fn publish(&self, batch: &Arc<Batch>) {
        let visible = self.shared.history.revision();
        assert!(batch.last() <= visible, "a batch is visible in the history before it is published");
        let mut wakes = Vec::new();
        let mut pending = 0;
        {
            let mut state = self.shared.state.lock();
            let from = batch.changes.len() - batch.since(state.published + 1).len();
            let mut start = from;
            for revision in batch.changes[from..].chunk_by(|a, b| a.version.mod_revision() == b.version.mod_revision())
            {
                pending += state.deliver(batch, start, revision, &mut wakes);
                start += revision.len();
            }
            state.advance(batch.last(), &mut wakes);
        }
        self.shared.pending.fetch_add(pending, Ordering::Relaxed);
        wakes.iter().for_each(|mailbox| mailbox.wake());
    }

    /// Says that there is no further change up to `revision`: progress of a mirror whose upstream is quiet.
    pub fn advance(&self, revision: i64) {
        let mut wakes = Vec::new();
        self.shared.state.lock().advance(revision, &mut wakes);
        wakes.iter().for_each(|mailbox| mailbox.wake());
    }

    /// The history was replaced (a snapshot from the leader, a mirror built anew): every watcher goes on from its next
    /// revision by reading it. If it does not reach back that far the watcher ends as compacted, or needs a feed.
    pub fn resync(&self) {
        let mut wakes = Vec::new();
        {
            let mut state = self.shared.state.lock();
            let State { members, published, unsynced, .. } = &mut *state;
            for (_, member) in members.iter_mut().filter(|(_, member)| member.live_from != UNSYNCED) {
                let next = member.live_from.max(*published + 1);
                member.lag(next, &mut wakes);
                *unsynced += 1;
            }
            state.advance(self.shared.history.revision(), &mut wakes);
        }
        wakes.iter().for_each(|mailbox| mailbox.wake());
    }

    /// The history begins anew with another that does not continue it, perhaps at a lower revision; `replace` puts that in
    /// place. Every watcher ends as compacted, and every stream after telling so: no revision on it could be believed.
    pub fn purge(&self, replace: impl FnOnce()) {
        let mut wakes = Vec::new();
        {
            let mut state = self.shared.state.lock();
            // Before anybody can read the new history: who has read it then finds out that it is over.
            self.shared.epoch.fetch_add(1, Ordering::SeqCst);
            replace();
            state.published = self.shared.history.revision();
            state.purged_at = state.published.max(1);
            state.waiting.clear();
            let State { members, unsynced, .. } = &mut *state;
            for (_, member) in members.iter_mut() {
                member.live_from = UNSYNCED;
                if member.mailbox.rouse() == Posted::Wake {
                    wakes.push(member.mailbox.clone());
                }
            }
            *unsynced = members.len();
        }
        wakes.iter().for_each(|mailbox| mailbox.wake());
    }

    /// The revision through which everything has been delivered.
    pub fn published(&self) -> i64 {
        self.shared.state.lock().published
    }

    /// Figures of this moment.
    pub fn stats(&self) -> HubStats {
        let state = self.shared.state.lock();
        HubStats {
            streams: state.streams,
            watchers: state.members.len() + state.ended,
            unsynced: state.unsynced,
            pending: self.shared.pending.load(Ordering::Relaxed).max(0) as u64,
            events: self.shared.events.load(Ordering::Relaxed),
        }
    }
}

/// Where a new watcher begins.
pub(super) struct Joined {
    /// Its handle in the hub.
    pub(super) member: u32,
    pub(super) span: Span,
    /// The store's revision at creation.
    pub(super) revision: i64,
    /// The revision its stream must read or be fed from, if the hub does not deliver to it.
    pub(super) catch_up_from: Option<i64>,
}

impl Shared {
    /// How often the hub was purged.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Registers a watcher; `start_revision` 0 means after the current one. One that is not `mirrored` is told nothing.
    pub(super) fn join(
        &self,
        range: &KeyRange,
        start_revision: i64,
        wants: u8,
        mailbox: &Arc<Mailbox>,
        watcher: u32,
        mirrored: bool,
    ) -> Joined {
        let mut state = self.state.lock();
        // Read under the lock: nothing above it can be published before the watcher is registered.
        let revision = self.history.revision();
        let next = if start_revision == 0 { revision + 1 } else { start_revision.min(UNSYNCED - 1) };
        let catch_up_from = (!mirrored || next <= state.published).then_some(next);
        let group = state.index.group(range);
        let live_from = if catch_up_from.is_some() { UNSYNCED } else { next };
        state.unsynced += usize::from(catch_up_from.is_some());
        let position = narrow(state.index.get(group).members.len());
        let mailbox = mailbox.clone();
        mailbox.joined();
        let member = state.members.insert(Member { live_from, mailbox, watcher, group, position, wants });
        state.index.get_mut(group).members.push(member);
        Joined { member, span: state.index.span(group).clone(), revision, catch_up_from }
    }

    /// Asks for a progress notice at the current revision, once that is published, if `allowed` at that revision.
    pub(super) fn ask_progress(&self, mailbox: &Arc<Mailbox>, scope: Scope, allowed: impl FnOnce(i64) -> bool) -> bool {
        let mut state = self.state.lock();
        let revision = self.history.revision();
        if !allowed(revision) {
            return false;
        }
        state.notify(revision, mailbox, scope);
        true
    }

    /// Asks for a notice when a revision is published.
    pub(super) fn ask_reached(&self, revision: i64, mailbox: &Arc<Mailbox>, scope: Scope) {
        self.state.lock().notify(revision, mailbox, scope);
    }
}

impl State {
    /// Leaves one revision's changes, which begin at `start` of the batch, in the mailboxes of those who watch them.
    /// Returns how many deliveries that were.
    fn deliver(&mut self, batch: &Arc<Batch>, start: usize, changes: &[Change], wakes: &mut Vec<Arc<Mailbox>>) -> i64 {
        let State { index, members, touched, unsynced, .. } = self;
        for (at, change) in (narrow(start)..).zip(changes) {
            let prev = change.prev.as_ref().map_or(0, |prev| prev.record().len());
            let bytes = u32::try_from(change.version.record().len() + prev).unwrap_or(u32::MAX);
            index.stab(change.version.key(), |id, group| {
                if group.touched == UNTOUCHED {
                    group.touched = narrow(touched.len());
                    touched.push(Touched { group: id, start: at, end: at, bytes: 0, kinds: 0 });
                }
                let run = &mut touched[group.touched as usize];
                run.end = at + 1;
                run.bytes = run.bytes.saturating_add(bytes);
                run.kinds |= kind_of(&change.version);
            });
        }
        let revision = changes[0].version.mod_revision();
        let mut delivered = 0;
        for run in touched.drain(..) {
            let group = index.get_mut(run.group);
            group.touched = UNTOUCHED;
            for &handle in &group.members {
                let member = &mut members[handle];
                if revision < member.live_from || run.kinds & member.wants == 0 {
                    continue;
                }
                let (start, end, bytes) = (run.start, run.end, run.bytes);
                let item = Item::Changes { watcher: member.watcher, start, end, bytes, batch: batch.clone() };
                match member.mailbox.post(item) {
                    Posted::Queued => delivered += 1,
                    Posted::Wake => {
                        delivered += 1;
                        wakes.push(member.mailbox.clone());
                    }
                    Posted::Full => {
                        member.lag(revision, wakes);
                        *unsynced += 1;
                    }
                }
            }
        }
        delivered
    }

    /// Leaves a notice in a mailbox once a revision is published.
    fn notify(&mut self, revision: i64, mailbox: &Arc<Mailbox>, scope: Scope) {
        if revision <= self.published {
            // The caller is the stream's owner, awake and about to poll.
            mailbox.post_progress(scope, revision);
        } else {
            self.waiting.push(Notice { revision, mailbox: mailbox.clone(), scope });
        }
    }

    /// Everything up to `revision` is in the mailboxes; sends off the notices that waited for that.
    fn advance(&mut self, revision: i64, wakes: &mut Vec<Arc<Mailbox>>) {
        self.published = self.published.max(revision);
        let due = self.waiting.extract_if(.., |notice| notice.revision <= self.published);
        for Notice { revision, mailbox, scope } in due {
            if mailbox.post_progress(scope, revision) == Posted::Wake {
                wakes.push(mailbox);
            }
        }
    }

    /// Makes an unsynced watcher synced if everything below `next`, which it has read, is all that was published.
    pub(super) fn splice(&mut self, member: u32, next: i64) -> bool {
        let member = &mut self.members[member];
        assert_eq!(member.live_from, UNSYNCED, "only an unsynced watcher is spliced");
        if next <= self.published {
            return false;
        }
        member.live_from = next;
        self.unsynced -= 1;
        true
    }

    /// What a watcher that the last purge ended is told to be compacted at.
    pub(super) fn purged_at(&self) -> i64 {
        self.purged_at
    }

    /// Removes a watcher. Nothing is delivered to it afterwards.
    pub(super) fn leave(&mut self, handle: u32) {
        let Member { live_from, group, position, .. } = self.members.remove(handle);
        self.unsynced -= usize::from(live_from == UNSYNCED);
        let members = &mut self.index.get_mut(group).members;
        members.swap_remove(position as usize);
        match members.get(position as usize) {
            Some(&moved) => self.members[moved].position = position,
            None if members.is_empty() => {
                self.index.remove(group);
            }
            None => {}
        }
    }

    /// Compaction ended a watcher: it leaves, but its stream keeps the id.
    pub(super) fn end(&mut self, handle: u32) {
        self.leave(handle);
        self.ended += 1;
    }

    /// The client cancelled a watcher that compaction had ended.
    pub(super) fn forget_ended(&mut self) {
        self.ended -= 1;
    }

    pub(super) fn close_stream(&mut self) {
        self.streams -= 1;
    }
}

impl Member {
    fn lag(&mut self, next: i64, wakes: &mut Vec<Arc<Mailbox>>) {
        self.live_from = UNSYNCED;
        if self.mailbox.lag(self.watcher, next) == Posted::Wake {
            wakes.push(self.mailbox.clone());
        }
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("a batch and a group have fewer than 2^32 entries")
}
