//! One watch stream: its watchers, and the order in which it writes.
//!
//! What a client must be able to rely on is decided by the order of [`WatchStream::poll`]: the pieces of a fragmented
//! response, then answers to requests, then what the hub delivered, then what lagging watchers read from the history.
//! A watcher's deliveries are therefore written before anything it reads itself, and its created message before both.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use forebay_proto::etcdserverpb::WatchCreateRequest;
use forebay_proto::etcdserverpb::watch_create_request::FilterType;
use forebay_proto::{Error, KeyRange};

use super::catch_up::{Read, read};
use super::encode::{Event, HeaderBase};
use super::feed::{Fed, Feeds, Order, Ticket};
use super::hub::{Shared, kind, kind_of};
use super::interval::Span;
use super::mailbox::{Item, Lagging, Mailbox, Scope, Waker, deliveries, purge};
use super::outbox::{Answer, Continued, Due, Outbox, Target, events_of};
use super::slab::Slab;
use crate::record::Version;

/// The watch id of answers that belong to no watcher.
pub(super) const NO_WATCHER: i64 = -1;

/// How many answers may wait before the caller should stop reading requests; see [`WatchStream::accepts_requests`].
const UNSENT_ANSWERS_MAX: usize = 64;

/// How many revisions one call of [`WatchStream::poll`] reads from the history at most, so that a watcher that is far
/// behind, and finds nothing, does not keep a thread to itself.
const POLL_REVISIONS_MAX: usize = 16 * 1024;

/// What [`WatchStream::poll`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// The buffer has grown by whole gRPC messages. Poll again when they are sent.
    Wrote {
        /// How many messages.
        messages: usize,
        /// How many events are in them.
        events: usize,
    },
    /// The next message takes this many bytes, which is much. Poll again after [`WatchStream::allow_long`].
    Long(usize),
    /// Nothing to write so far, but there is history left to read. Poll again soon, after letting others run.
    Yield,
    /// Nothing to write. The waker will be called.
    Idle,
    /// The store began anew, and all watchers were told that they are compacted. The stream is over: end it with a status
    /// that makes the client come back (UNAVAILABLE).
    Over,
}

/// One client's watch stream. Dropping it removes its watchers.
///
/// The caller owns it, passes requests in, and polls: after every call that takes `&mut self`, and when the waker was
/// called, until it is [`Polled::Idle`]. After each poll and each request it carries out the orders.
pub struct WatchStream {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    watchers: Slab<Watcher>,
    ids: HashMap<i64, u32>,
    /// The lowest id that was never given out by us; ids given by the client are skipped.
    next_id: i64,
    answers: VecDeque<Answer>,
    /// Answers to progress requests that are under way through the mailbox.
    progress_due: usize,
    taken: VecDeque<Item>,
    /// Unsynced watchers, in the order they get their turn.
    reading: VecDeque<u32>,
    /// How many of them get their turn before the mailbox is looked at again.
    lap: usize,
    /// Boxed: few streams ever have one.
    feeds: Option<Box<Feeds>>,
    outbox: Outbox,
    /// See [`super::Hub::purge`].
    epoch: u64,
    is_over: bool,
}

struct Watcher {
    target: Target,
    span: Span,
    wants: u8,
    sync: Sync,
    /// No progress below this revision, which is the one the client asked for, or 0.
    start_revision: i64,
    periodic_progress: Periodic,
}

/// Where a watcher gets its changes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    /// The hub delivers; the handle there.
    Synced(u32),
    /// It reads the history from `next` on; the handle in the hub.
    Unsynced { member: u32, next: i64 },
    /// A feed delivers from `next` on: for good, or until the history has that.
    Fed { member: u32, next: i64, lasting: bool },
    /// Compaction overtook it. Its id stays taken until the client cancels it.
    Ended,
}

/// What a watcher is told when nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Periodic {
    Off,
    /// It has got events since the last tick.
    Busy,
    Quiet,
    /// A notice is under way.
    Due,
}

impl WatchStream {
    pub(super) fn new(shared: Arc<Shared>, waker: Waker, epoch: u64) -> WatchStream {
        let outbox = Outbox::new(shared.fragment_bytes);
        WatchStream {
            shared,
            mailbox: Arc::new(Mailbox::new(waker)),
            watchers: Slab::new(),
            ids: HashMap::new(),
            next_id: 0,
            answers: VecDeque::new(),
            progress_due: 0,
            taken: VecDeque::new(),
            reading: VecDeque::new(),
            lap: 0,
            feeds: None,
            outbox,
            epoch,
            is_over: false,
        }
    }

    /// Creates a watcher, or says in its answer why not. Permission is asked before, see [`WatchStream::refuse`].
    /// Returns the watch id of the new watcher.
    pub fn create(&mut self, request: &WatchCreateRequest) -> Option<i64> {
        self.join(request, true)
    }

    /// As [`WatchStream::create`], of a range that the history does not have: a feed delivers all it gets.
    pub fn create_unmirrored(&mut self, request: &WatchCreateRequest) -> Option<i64> {
        self.join(request, false)
    }

    fn join(&mut self, request: &WatchCreateRequest, mirrored: bool) -> Option<i64> {
        self.note_purge();
        if self.is_over {
            return None;
        }
        // In etcd's order, which decides the reason when there are several.
        if request.start_revision < 0 {
            self.refuse(Error::Compacted.message());
            return None;
        }
        let range = watched(&request.key, &request.range_end);
        if range.is_empty() {
            self.refuse("mvcc: watcher range is empty");
            return None;
        }
        let Some(id) = self.take_id(request.watch_id) else {
            self.refuse("mvcc: duplicate watch ID provided on the WatchStream");
            return None;
        };
        let mut wants = kind::PUT | kind::DELETE;
        for filter in &request.filters {
            match FilterType::try_from(*filter) {
                Ok(FilterType::Noput) => wants &= !kind::PUT,
                Ok(FilterType::Nodelete) => wants &= !kind::DELETE,
                Err(_) => {}
            }
        }
        let watchers = &mut self.watchers;
        let handle = watchers.vacant();
        let joined = self.shared.join(&range, request.start_revision, wants, &self.mailbox, handle, mirrored);
        let member = joined.member;
        let sync = match joined.catch_up_from {
            None => Sync::Synced(member),
            Some(next) if mirrored => Sync::Unsynced { member, next },
            Some(next) => Sync::Fed { member, next, lasting: true },
        };
        let watcher = Watcher {
            target: Target { id, prev_kv: request.prev_kv, fragment: request.fragment },
            span: joined.span,
            wants,
            sync,
            start_revision: request.start_revision,
            periodic_progress: if request.progress_notify { Periodic::Quiet } else { Periodic::Off },
        };
        match sync {
            Sync::Unsynced { .. } => self.reading.push_back(handle),
            Sync::Fed { next, lasting, .. } => {
                self.feeds.get_or_insert_default().begin(handle, watcher.feed_request(next), lasting);
            }
            Sync::Synced(_) | Sync::Ended => {}
        }
        assert_eq!(watchers.insert(watcher), handle, "the next handle of a slab is the one it announced");
        self.ids.insert(id, handle);
        self.answers.push_back(Answer::Created { id, revision: joined.revision });
        Some(id)
    }

    /// Answers a create request that is not to be granted: created and cancelled in one message, with this reason.
    pub fn refuse(&mut self, reason: impl Into<Box<str>>) {
        let revision = self.shared.history.revision();
        self.answers.push_back(Answer::Refused { revision, reason: reason.into() });
    }

    /// Cancels a watcher. An unknown id gets no answer.
    pub fn cancel(&mut self, id: i64) {
        let Some(handle) = self.ids.remove(&id) else { return };
        let watcher = self.watchers.remove(handle);
        match watcher.sync.member() {
            Some(member) => self.shared.state.lock().leave(member),
            None => self.shared.state.lock().forget_ended(),
        }
        self.end_feed(handle);
        let dropped = self.mailbox.left(handle) + purge(&mut self.taken, handle, |_| ());
        self.shared.pending.fetch_sub(dropped as i64, Ordering::Relaxed);
        self.reading.retain(|reading| *reading != handle);
        let revision = self.shared.history.revision();
        self.answers.push_back(Answer::Canceled { id, revision });
    }

    /// Asks for a progress notice of the whole stream. There is none unless every watcher is synced and the store has
    /// reached the revision each of them starts at.
    pub fn request_progress(&mut self) {
        let watchers = &self.watchers;
        // Whether one lags without our knowing yet is found out when the notice is written.
        let asked = self.shared.ask_progress(&self.mailbox, Scope::Stream, |revision| {
            watchers.len() > 0 && watchers.iter().all(|(_, watcher)| watcher.is_synced_at(revision))
        });
        self.progress_due += usize::from(asked);
    }

    /// The time for periodic progress notices has come: those watchers that asked for them, are synced, and got no event
    /// since the last call, get one.
    pub fn tick_progress(&mut self) {
        for (handle, watcher) in self.watchers.iter_mut() {
            match watcher.periodic_progress {
                Periodic::Off | Periodic::Due => {}
                Periodic::Busy => watcher.periodic_progress = Periodic::Quiet,
                Periodic::Quiet => {
                    let allowed = |revision| watcher.is_synced_at(revision);
                    if self.shared.ask_progress(&self.mailbox, Scope::Watcher(handle), allowed) {
                        watcher.periodic_progress = Periodic::Due;
                    }
                }
            }
        }
    }

    /// What has to be done about feeds, if anything. Nothing while a long message waits: it may be what was fed.
    pub fn take_order(&mut self) -> Option<Order> {
        if self.outbox.is_amid_long() {
            return None;
        }
        self.feeds.as_mut()?.take_order()
    }

    /// Whether there is an order to be taken.
    pub fn has_orders(&self) -> bool {
        self.feeds.as_ref().is_some_and(|feeds| feeds.has_orders())
    }

    /// Takes what a feed delivered: one thing after [`Order::Open`], and one after each [`Order::More`].
    pub fn feed(&mut self, ticket: Ticket, fed: Fed) {
        if let Some(feeds) = &mut self.feeds {
            feeds.feed(ticket, fed);
        }
    }

    /// Whether the caller should go on reading requests. A client that asks and does not read the answers has to wait.
    pub fn accepts_requests(&self) -> bool {
        self.answers.len() + self.progress_due < UNSENT_ANSWERS_MAX
    }

    /// How many watchers the stream has, ended ones included.
    pub fn watchers(&self) -> usize {
        self.watchers.len()
    }

    /// The feed that the long message came from which [`Polled::Long`] told of.
    pub fn long_fed(&self) -> Option<Ticket> {
        self.outbox.long_fed()
    }

    /// There is memory for the long message that [`Polled::Long`] told of.
    pub fn allow_long(&mut self) {
        self.outbox.allow_long();
    }

    /// Appends gRPC messages to `out` until it has grown by `max_bytes` or there is no more. A message is never cut, so
    /// the last one may go beyond.
    pub fn poll(&mut self, base: &HeaderBase, out: &mut BytesMut, max_bytes: usize) -> Polled {
        let limit = out.len().saturating_add(max_bytes);
        let mut budget = POLL_REVISIONS_MAX;
        let mut handled = 0;
        let polled = loop {
            if out.len() >= limit || budget == 0 {
                break Polled::Yield;
            }
            match self.outbox.continue_long(base, out) {
                Continued::Wrote => continue,
                Continued::Asks(bytes) => break Polled::Long(bytes),
                Continued::Nothing => {}
            }
            self.note_purge();
            if let Some(answer) = self.answers.pop_front() {
                self.outbox.answer(&answer, base, out);
            } else if self.is_over {
                break Polled::Over;
            } else if let Some(item) = self.taken.pop_front() {
                match item {
                    Item::Changes { .. } => {
                        handled += 1;
                        self.write_changes(&item, base, out);
                    }
                    Item::Progress { scope, revision } => self.write_progress(scope, revision, base, out),
                }
            } else if let Some((ticket, fed)) = self.feeds.as_mut().and_then(|feeds| feeds.next_fed()) {
                self.write_fed(ticket, fed, base, out);
            } else if self.lap > 0 && !self.reading.is_empty() {
                self.lap -= 1;
                let read = self.read_next(base, out);
                budget = budget.saturating_sub(read);
            } else if !self.take() && self.reading.is_empty() {
                break Polled::Idle;
            }
        };
        self.shared.pending.fetch_sub(handled, Ordering::Relaxed);
        let (messages, events) = self.outbox.take_counts();
        if messages == 0 {
            return polled;
        }
        self.shared.events.fetch_add(events as u64, Ordering::Relaxed);
        // That it is over is told by the next call.
        Polled::Wrote { messages, events }
    }

    /// The id of a new watcher; `None` if the client asks for one that is in use.
    fn take_id(&mut self, asked: i64) -> Option<i64> {
        if asked != 0 {
            return (!self.ids.contains_key(&asked)).then_some(asked);
        }
        while self.ids.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }

    /// Looks into the mailbox. Called when everything taken before is written.
    fn take(&mut self) -> bool {
        let mut lagging = Vec::new();
        let found = self.mailbox.take(&mut self.taken, &mut lagging);
        for Lagging { watcher: handle, next } in lagging {
            let watcher = &mut self.watchers[handle];
            let Sync::Synced(member) = watcher.sync else { unreachable!("only a synced watcher starts to lag") };
            watcher.sync = Sync::Unsynced { member, next };
            self.reading.push_back(handle);
        }
        self.lap = self.reading.len();
        if !found {
            // Idle, as most streams are most of the time: they should cost little then.
            self.answers = VecDeque::new();
            if self.taken.capacity() > TAKEN_KEPT {
                self.taken = VecDeque::new();
            }
        }
        found
    }

    fn write_changes(&mut self, item: &Item, base: &HeaderBase, out: &mut BytesMut) {
        let Item::Changes { watcher, start, end, batch, bytes } = item else { return };
        let watcher = &mut self.watchers[*watcher];
        let compacted = self.shared.history.compacted();
        let range = *start as usize..*end as usize;
        let revision = batch.changes[range.start].version.mod_revision();
        let events = events_of(batch, range, &watcher.span, watcher.wants, watcher.target.prev_kv.then_some(compacted));
        let due = Due { to: watcher.target, revision, bytes: *bytes as usize, fed: None };
        if self.outbox.respond(&due, events, base, out) {
            watcher.got_events();
        }
    }

    /// Writes a notice that everything up to `revision` was written, if that is still so for all it speaks for: since it
    /// was asked for, watchers may have been created, cancelled, or ended by compaction.
    fn write_progress(&mut self, scope: Scope, revision: i64, base: &HeaderBase, out: &mut BytesMut) {
        let (id, holds) = match scope {
            Scope::Feed(handle) => {
                if let Some(feeds) = &mut self.feeds {
                    feeds.release(handle);
                }
                return;
            }
            Scope::Stream => {
                self.progress_due -= 1;
                let all = self.watchers.iter().all(|(_, watcher)| watcher.is_complete_to(revision));
                (NO_WATCHER, all && self.watchers.len() > 0)
            }
            Scope::Watcher(handle) => match self.watchers.get_mut(handle) {
                Some(watcher) if watcher.periodic_progress == Periodic::Due => {
                    watcher.periodic_progress = Periodic::Quiet;
                    (watcher.target.id, watcher.is_complete_to(revision))
                }
                _ => return,
            },
        };
        if !holds {
            return;
        }
        if revision >= self.outbox.revision() {
            self.outbox.answer(&Answer::Progress { id, revision }, base, out);
            return;
        }
        // A created message with a newer revision went out in the meantime, and revisions do not go down on a stream. The
        // answer is a notice at that newer revision, as soon as it is published.
        match scope {
            Scope::Stream => self.request_progress(),
            Scope::Watcher(_) | Scope::Feed(_) => {}
        }
    }

    /// Lets the next unsynced watcher read a slice of the history. Returns how many revisions it looked at.
    fn read_next(&mut self, base: &HeaderBase, out: &mut BytesMut) -> usize {
        let readers = self.reading.len();
        let handle = self.reading.pop_front().expect("a reader's turn comes while there are readers");
        let watcher = &mut self.watchers[handle];
        let Sync::Unsynced { member, next } = watcher.sync else { unreachable!("only unsynced watchers read") };
        let slice = match read(&*self.shared.history, next, &watcher.span, watcher.wants, readers) {
            Read::Slice(slice) => slice,
            Read::Compacted(compact_revision) => {
                self.end(handle, compact_revision);
                return 1;
            }
            Read::Outside => {
                watcher.sync = Sync::Fed { member, next, lasting: false };
                self.feeds.get_or_insert_default().begin(handle, watcher.feed_request(next), false);
                return 1;
            }
        };
        if self.epoch != self.shared.epoch() {
            // What was read may be of the history that came in place of ours.
            return 1;
        }
        let events = slice.events(watcher.target.prev_kv);
        let due =
            Due { to: watcher.target, revision: slice.current, bytes: slice.bytes(watcher.target.prev_kv), fed: None };
        if self.outbox.respond(&due, events, base, out) {
            watcher.got_events();
        }
        let next = slice.next;
        if self.shared.state.lock().splice(member, next) {
            watcher.sync = Sync::Synced(member);
        } else {
            watcher.sync = Sync::Unsynced { member, next };
            self.reading.push_back(handle);
        }
        slice.revisions.max(1)
    }

    /// Writes what a feed delivered, and lets its watcher go over to the history once that has what comes next.
    ///
    /// The upstream of the feed may be ahead of the history. Nothing is written before the history is there: a header may
    /// not name a revision that a later one on this stream goes below.
    fn write_fed(&mut self, ticket: Ticket, fed: Fed, base: &HeaderBase, out: &mut BytesMut) {
        let handle = ticket.watcher();
        let watcher = &mut self.watchers[handle];
        let Sync::Fed { member, next, lasting } = watcher.sync else { unreachable!("who is not fed has no feed") };
        let feeds = self.feeds.as_mut().expect("what was fed came through a feed");
        let current = self.shared.history.revision();
        let next = match fed {
            Fed::Compacted(compact_revision) => return self.end(handle, compact_revision),
            Fed::Progress(revision) => next.max(revision.saturating_add(1)),
            Fed::Events(events) if lasting && events.last() > current => {
                self.shared.ask_reached(events.last(), &self.mailbox, Scope::Feed(handle));
                feeds.hold(ticket, Fed::Events(events));
                return;
            }
            Fed::Events(events) => {
                // What lies beyond comes from the history.
                let upto = events.last().min(current);
                let shown = events.between(next, upto).iter().filter(|(version, _)| watcher.watches(version));
                let prev_kv = watcher.target.prev_kv;
                let shown = shown.map(|(version, prev)| Event { version, prev: prev.as_ref().filter(|_| prev_kv) });
                let bytes = shown.clone().map(|event| event.len()).sum();
                let due = Due { to: watcher.target, revision: current, bytes, fed: Some(ticket) };
                if self.outbox.respond(&due, shown, base, out) {
                    watcher.got_events();
                }
                next.max(upto + 1)
            }
        };
        if lasting || next < self.shared.history.retained() {
            watcher.sync = Sync::Fed { member, next, lasting };
            feeds.go_on(ticket);
        } else {
            watcher.sync = Sync::Unsynced { member, next };
            feeds.end(handle);
            self.reading.push_back(handle);
        }
    }

    /// Ends a watcher as compacted.
    fn end(&mut self, handle: u32, compact_revision: i64) {
        let watcher = &mut self.watchers[handle];
        let Some(member) = std::mem::replace(&mut watcher.sync, Sync::Ended).member() else { return };
        self.shared.state.lock().end(member);
        self.answers.push_back(Answer::Compacted { id: watcher.target.id, compact_revision });
        self.end_feed(handle);
    }

    fn end_feed(&mut self, handle: u32) {
        if let Some(feeds) = &mut self.feeds {
            feeds.end(handle);
        }
    }

    /// If the hub was purged, nothing that waits may be written but what all watchers have to be told.
    fn note_purge(&mut self) {
        if self.epoch == self.shared.epoch() || self.is_over {
            return;
        }
        let compact_revision = self.shared.state.lock().purged_at();
        let handles: Vec<u32> = self.watchers.iter().map(|(handle, _)| handle).collect();
        handles.into_iter().for_each(|handle| self.end(handle, compact_revision));
        let dropped = self.mailbox.clear() + deliveries(&std::mem::take(&mut self.taken));
        self.shared.pending.fetch_sub(dropped as i64, Ordering::Relaxed);
        self.reading.clear();
        self.is_over = true;
    }
}

/// A queue that was longer than this gives its memory back when the stream is idle.
const TAKEN_KEPT: usize = 64;

impl Drop for WatchStream {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            for (_, watcher) in self.watchers.iter() {
                match watcher.sync.member() {
                    Some(member) => state.leave(member),
                    None => state.forget_ended(),
                }
            }
            state.close_stream();
        }
        let dropped = self.mailbox.close() + deliveries(&self.taken);
        self.shared.pending.fetch_sub(dropped as i64, Ordering::Relaxed);
    }
}

impl Sync {
    /// The watcher's handle in the hub, until it is ended.
    fn member(self) -> Option<u32> {
        match self {
            Sync::Synced(member) | Sync::Unsynced { member, .. } | Sync::Fed { member, .. } => Some(member),
            Sync::Ended => None,
        }
    }
}

impl Watcher {
    fn watches(&self, version: &Version) -> bool {
        kind_of(version) & self.wants != 0 && self.span.contains(version.key())
    }

    /// What a feed has to watch at the upstream.
    fn feed_request(&self, next: i64) -> WatchCreateRequest {
        let (key, range_end) = match self.span.range() {
            KeyRange::Key(key) => (key, Bytes::new()),
            KeyRange::Range(start, end) => (start, end),
            KeyRange::From(start) => (start, Bytes::from_static(b"\0")),
        };
        let filters = [(kind::PUT, FilterType::Noput), (kind::DELETE, FilterType::Nodelete)];
        let filters = filters.into_iter().filter(|(kind, _)| self.wants & kind == 0);
        WatchCreateRequest {
            key,
            range_end,
            start_revision: next,
            filters: filters.map(|(_, filter)| filter.into()).collect(),
            prev_kv: self.target.prev_kv,
            ..WatchCreateRequest::default()
        }
    }

    /// Whether progress may be asked for. One that is fed for good counts as synced; whether the feed has come that far
    /// is found out when the notice is written.
    fn is_synced_at(&self, revision: i64) -> bool {
        let synced = matches!(self.sync, Sync::Synced(_) | Sync::Fed { lasting: true, .. });
        synced && self.start_revision <= revision
    }

    fn got_events(&mut self) {
        if self.periodic_progress == Periodic::Quiet {
            self.periodic_progress = Periodic::Busy;
        }
    }

    /// Whether all events up to `revision`, which is published, are written, given that all taken so far are.
    fn is_complete_to(&self, revision: i64) -> bool {
        let complete = match self.sync {
            Sync::Synced(_) => true,
            Sync::Unsynced { next, .. } | Sync::Fed { next, .. } => next > revision,
            Sync::Ended => false,
        };
        complete && self.start_revision <= revision
    }
}

/// What a create request watches: an empty key means from the first one on, see [`KeyRange::new`] for the end.
fn watched(key: &Bytes, range_end: &Bytes) -> KeyRange {
    let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key.clone() };
    KeyRange::new(key, range_end.clone())
}
