//! What a stream writes: answers, responses, and responses in pieces.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::BytesMut;

use super::encode::{Event, FRAME_HEAD, Frame, Head, HeaderBase};
use super::feed::Ticket;
use super::hub::kind_of;
use super::interval::Span;
use super::stream::NO_WATCHER;
use crate::record::{Batch, Version};

/// A message about a watcher that carries no events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Created { id: i64, revision: i64 },
    Refused { revision: i64, reason: Box<str> },
    Canceled { id: i64, revision: i64 },
    Compacted { id: i64, compact_revision: i64 },
    Progress { id: i64, revision: i64 },
}

/// Whom a response is for, and how it wants it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) id: i64,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
}

/// A response that is due.
pub(super) struct Due {
    pub(super) to: Target,
    pub(super) revision: i64,
    /// About how many bytes its events take.
    pub(super) bytes: usize,
    /// The feed that they came from.
    pub(super) fed: Option<Ticket>,
}

/// A response beyond this is written once there is memory for it.
const LONG: usize = 16 << 10;

/// What [`Outbox::continue_long`] did.
pub(super) enum Continued {
    /// Nothing is under way.
    Nothing,
    Wrote,
    /// There must be memory for so much first.
    Asks(usize),
}

/// The writing end of a stream.
///
/// Header revisions do not go down on a stream. A synced watcher's response may be older than what another has read
/// from the history, or than a created message; it then carries their revision, as a catch-up response does.
pub(super) struct Outbox {
    revision: i64,
    /// A response of this size or more is split for a watcher that wants fragments.
    fragment_bytes: usize,
    /// Boxed: few streams ever have one.
    long: Option<Box<Long>>,
    messages: usize,
    events: usize,
}

/// What is left of a long response, which may be sent in pieces. It keeps its versions alive by itself: its watcher may
/// be gone before it is written, and is cancelled only behind it.
struct Long {
    id: i64,
    revision: i64,
    /// At this size a piece ends.
    piece_bytes: usize,
    events: VecDeque<(Version, Option<Version>)>,
    /// Whether there is memory for the next piece.
    is_allowed: bool,
    /// The feed that it came from.
    fed: Option<Ticket>,
}

impl Long {
    /// How many events the next piece has, and its length.
    fn next(&self, base: &HeaderBase) -> (usize, usize) {
        // As etcd counts: the head of a piece that is not the last, and events while they stay below the limit.
        let mut size = Head { watch_id: self.id, revision: self.revision, fragment: true, ..Head::default() }.len(base);
        let mut count = 0;
        for (version, prev) in &self.events {
            let larger = size + Event { version, prev: prev.as_ref() }.len();
            if count > 0 && larger >= self.piece_bytes {
                break;
            }
            (size, count) = (larger, count + 1);
        }
        (count, size)
    }
}

impl Outbox {
    pub(super) fn new(fragment_bytes: usize) -> Outbox {
        Outbox { revision: 0, fragment_bytes, long: None, messages: 0, events: 0 }
    }

    /// The highest revision that any header has named.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// Messages and events since the last call.
    pub(super) fn take_counts(&mut self) -> (usize, usize) {
        (std::mem::take(&mut self.messages), std::mem::take(&mut self.events))
    }

    pub(super) fn answer(&mut self, answer: &Answer, base: &HeaderBase, out: &mut BytesMut) {
        let head = match answer {
            Answer::Created { id, revision } => {
                Head { watch_id: *id, created: true, revision: *revision, ..Head::default() }
            }
            Answer::Refused { revision, reason } => Head {
                watch_id: NO_WATCHER,
                created: true,
                canceled: true,
                revision: *revision,
                cancel_reason: reason,
                ..Head::default()
            },
            Answer::Canceled { id, revision } => {
                Head { watch_id: *id, canceled: true, revision: *revision, ..Head::default() }
            }
            // etcd leaves the header's revision at 0 here.
            Answer::Compacted { id, compact_revision } => {
                Head { watch_id: *id, canceled: true, compact_revision: *compact_revision, ..Head::default() }
            }
            Answer::Progress { id, revision } => Head { watch_id: *id, revision: *revision, ..Head::default() },
        };
        // Never raised to what was sent before: a client resumes from the revision of an answer, so it must be the one at
        // which the answer was decided. It is not lower, because the store's revision does not go down.
        self.revision = self.revision.max(head.revision);
        Frame::begin(&head, base, out).finish(out);
        self.messages += 1;
    }

    /// Writes a response with these events or, if it is long, keeps it for [`Outbox::continue_long`]. Returns false if there
    /// are none, in which case nothing is sent.
    pub(super) fn respond<'a>(
        &mut self,
        due: &Due,
        events: impl Iterator<Item = Event<'a>> + Clone,
        base: &HeaderBase,
        out: &mut BytesMut,
    ) -> bool {
        let Due { to, revision, bytes, fed } = due;
        let revision = (*revision).max(self.revision);
        let head = Head { watch_id: to.id, revision, ..Head::default() };
        if *bytes > LONG {
            return self.keep(&head, to.fragment, *fed, events, base);
        }
        let frame = Frame::begin(&head, base, out);
        let mut count = 0;
        for event in events {
            event.write(out);
            count += 1;
        }
        if count == 0 {
            frame.take_back(out);
            return false;
        }
        frame.finish(out);
        self.revision = revision;
        self.messages += 1;
        self.events += count;
        true
    }

    fn keep<'a>(
        &mut self,
        head: &Head<'_>,
        fragment: bool,
        fed: Option<Ticket>,
        events: impl Iterator<Item = Event<'a>> + Clone,
        base: &HeaderBase,
    ) -> bool {
        let len = head.len(base) + events.clone().map(|event| event.len()).sum::<usize>();
        let events: VecDeque<_> = events.map(|event| (event.version.clone(), event.prev.cloned())).collect();
        if events.is_empty() {
            return false;
        }
        self.revision = head.revision;
        let is_split = fragment && events.len() > 1 && len >= self.fragment_bytes;
        let piece_bytes = if is_split { self.fragment_bytes } else { usize::MAX };
        let long = Long { id: head.watch_id, revision: head.revision, piece_bytes, events, is_allowed: false, fed };
        self.long = Some(Box::new(long));
        true
    }

    /// Whether a long response is not written to its end.
    pub(super) fn is_amid_long(&self) -> bool {
        self.long.is_some()
    }

    /// The feed that a long response which is under way came from.
    pub(super) fn long_fed(&self) -> Option<Ticket> {
        self.long.as_ref()?.fed
    }

    /// There is memory for the next piece of a long response.
    pub(super) fn allow_long(&mut self) {
        if let Some(long) = &mut self.long {
            long.is_allowed = true;
        }
    }

    /// Writes the next piece of a long response, if there is one under way. Nothing else may be written before the last:
    /// etcd's client puts the pieces together without looking whose they are.
    pub(super) fn continue_long(&mut self, base: &HeaderBase, out: &mut BytesMut) -> Continued {
        let Some(long) = &mut self.long else { return Continued::Nothing };
        let (count, size) = long.next(base);
        if !std::mem::take(&mut long.is_allowed) {
            return Continued::Asks(size);
        }
        let fragment = count < long.events.len();
        let head = Head { watch_id: long.id, revision: long.revision, fragment, ..Head::default() };
        out.reserve(size + FRAME_HEAD);
        let frame = Frame::begin(&head, base, out);
        for (version, prev) in long.events.drain(..count) {
            Event { version: &version, prev: prev.as_ref() }.write(out);
        }
        frame.finish(out);
        self.messages += 1;
        self.events += count;
        if !fragment {
            self.long = None;
        }
        Continued::Wrote
    }
}

/// The events of one watcher among changes of a batch. `prev_since` is the compacted revision, if it wants `prev_kv`.
pub(super) fn events_of<'a>(
    batch: &'a Batch,
    range: Range<usize>,
    span: &Span,
    wants: u8,
    prev_since: Option<i64>,
) -> impl Iterator<Item = Event<'a>> + Clone {
    let watched = move |at: &usize| is_watched(batch, *at, span, wants);
    range.filter(watched).map(move |at| event_of(batch, at, prev_since))
}

pub(super) fn is_watched(batch: &Batch, at: usize, span: &Span, wants: u8) -> bool {
    let change = &batch.changes[at];
    kind_of(&change.version) & wants != 0 && span.contains(change.version.key())
}

pub(super) fn event_of(batch: &Batch, at: usize, prev_since: Option<i64>) -> Event<'_> {
    let version = &batch.changes[at].version;
    Event { version, prev: prev_since.and_then(|compacted| prev_kv(batch, at, compacted)) }
}

/// What a read at `mod_revision - 1` would find: nothing if that revision is compacted, nor for the event that creates
/// the key.
fn prev_kv(batch: &Batch, at: usize, compacted: i64) -> Option<&Version> {
    let change = &batch.changes[at];
    let main = change.version.mod_revision();
    if main <= compacted || change.version.create_revision() == main {
        return None;
    }
    let prev = change.prev.as_ref()?;
    if prev.mod_revision() < main {
        return Some(prev);
    }
    // The key changed before in the same revision; what it was before that is what its first change replaced.
    let first = batch.since(main).iter().find(|other| other.version.key() == change.version.key());
    first.and_then(|first| first.prev.as_ref())
}
