//! Private feeds: what a watcher sees of revisions that the shared history does not have.
//!
//! A mirror knows its upstream's recent past alone. A watcher that begins before that, or falls behind it, is fed by an
//! upstream watch of its own, which the stream's owner opens when [`super::WatchStream::take_order`] says so. Once what
//! it was fed reaches the history, at a revision boundary, it goes over to the history and from there to the hub:
//!
//! ```text
//! fed       ... 17 18 | 21 25        next = 26
//! history             ... 23 ... 40  begins at 23, so it goes on reading there at 26
//! ```
//!
//! A feed holds one response at a time, and is asked for the next when that is written: it costs what one response does,
//! and a slow client slows its own upstream watch alone.

use std::collections::{BTreeMap, VecDeque};

use forebay_proto::{
    etcdserverpb::WatchCreateRequest,
    mvccpb::{self, event::EventType},
};

use crate::record::{Revision, Version};

/// How many feeds a stream has open at once, those left aside that last. The watchers of a client that comes back after
/// a long time take turns.
const OPEN_MAX: usize = 16;

/// Names one feed of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    watcher: u32,
    /// Tells it from earlier feeds of this watcher, or of one that had its place.
    serial: u32,
}

impl Ticket {
    pub(super) fn watcher(self) -> u32 {
        self.watcher
    }
}

/// What the owner of a stream has to do about its feeds.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Open a feed.
    Open(CatchUp),
    /// What was fed is written: go on.
    More(Ticket),
    /// It is not needed any more.
    Close(Ticket),
}

/// A feed to be opened.
#[derive(Clone, Debug, PartialEq)]
pub struct CatchUp {
    /// How to name it.
    pub ticket: Ticket,
    /// What to watch at the upstream: range, start, filters, and whether with previous values. The rest is the owner's to
    /// choose.
    pub request: WatchCreateRequest,
    /// Whether it goes on as long as the watcher does, because the history will never have its range.
    pub lasting: bool,
}

/// What a feed delivers.
#[derive(Clone, Debug)]
pub enum Fed {
    /// Events of whole revisions, none cut.
    Events(Events),
    /// All events up to this revision were delivered before.
    Progress(i64),
    /// What comes next is compacted; the revision of the compaction.
    Compacted(i64),
}

/// Events as they came from an upstream.
#[derive(Clone, Debug)]
pub struct Events {
    /// Ascending; with the previous value, if there is one.
    events: Vec<(Version, Option<Version>)>,
}

/// An event that no store can have sent, or one that does not ascend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event at revision {revision} is nothing that a store can send")]
pub struct BadEvent {
    /// Its revision.
    pub revision: i64,
}

impl Events {
    /// Takes the events of a response. Fragments are joined before.
    pub fn new(events: &[mvccpb::Event]) -> Result<Events, BadEvent> {
        let (mut taken, mut scratch) = (Vec::with_capacity(events.len()), Vec::new());
        let mut last = Revision::default();
        for event in events {
            let kv = event.kv.as_ref().ok_or(BadEvent { revision: last.main })?;
            let bad = BadEvent { revision: kv.mod_revision };
            let sub = if kv.mod_revision == last.main { last.sub + 1 } else { 0 };
            let revision = Revision { main: kv.mod_revision, sub };
            let version = match EventType::try_from(event.r#type) {
                Ok(EventType::Put) => Version::of(kv, revision, &mut scratch).ok_or(bad)?,
                Ok(EventType::Delete) if !kv.key.is_empty() => Version::tombstone(revision, &kv.key, &mut scratch),
                _ => return Err(bad),
            };
            if revision <= last || revision.main == i64::MAX {
                return Err(bad);
            }
            let prev = event.prev_kv.as_ref().map(|prev| {
                let at = Revision { main: prev.mod_revision, sub: 0 };
                Version::of(prev, at, &mut scratch).ok_or(bad)
            });
            taken.push((version, prev.transpose()?));
            last = revision;
        }
        Ok(Events { events: taken })
    }

    /// The last revision; 0 if there are no events.
    pub fn last(&self) -> i64 {
        self.events.last().map_or(0, |(version, _)| version.mod_revision())
    }

    /// The events at revisions `>= from` and `<= upto`.
    pub(super) fn between(&self, from: i64, upto: i64) -> &[(Version, Option<Version>)] {
        let events = &self.events[..self.events.partition_point(|(version, _)| version.mod_revision() <= upto)];
        &events[events.partition_point(|(version, _)| version.mod_revision() < from)..]
    }
}

/// The feeds of one stream.
#[derive(Default)]
pub(super) struct Feeds {
    /// By watcher, from when one is needed.
    of: BTreeMap<u32, Feed>,
    serials: u32,
    /// To be opened, in turn.
    waiting: VecDeque<CatchUp>,
    /// How many are open that do not last.
    open: usize,
    orders: VecDeque<Order>,
    fed: VecDeque<(Ticket, Fed)>,
}

struct Feed {
    serial: u32,
    lasting: bool,
    is_open: bool,
    /// What came before its time.
    held: Option<Fed>,
}

impl Feeds {
    /// A watcher needs a feed.
    pub(super) fn begin(&mut self, watcher: u32, request: WatchCreateRequest, lasting: bool) {
        self.serials = self.serials.wrapping_add(1);
        let ticket = Ticket { watcher, serial: self.serials };
        let before = self.of.insert(watcher, Feed { serial: self.serials, lasting, is_open: false, held: None });
        assert!(before.is_none(), "a watcher has one feed at a time");
        self.waiting.push_back(CatchUp { ticket, request, lasting });
        self.open_next();
    }

    /// A watcher needs its feed no more, if it has one.
    pub(super) fn end(&mut self, watcher: u32) {
        let Some(Feed { serial, lasting, is_open, .. }) = self.of.remove(&watcher) else { return };
        let ticket = Ticket { watcher, serial };
        self.orders.retain(|order| *order != Order::More(ticket));
        self.fed.retain(|(of, _)| *of != ticket);
        if !is_open {
            self.waiting.retain(|waiting| waiting.ticket != ticket);
            return;
        }
        let unopened = self.orders.iter().position(|order| matches!(order, Order::Open(of) if of.ticket == ticket));
        match unopened {
            Some(unopened) => drop(self.orders.remove(unopened)),
            None => self.orders.push_back(Order::Close(ticket)),
        }
        self.open -= usize::from(!lasting);
        self.open_next();
    }

    fn open_next(&mut self) {
        while let Some(next) = self.waiting.iter().position(|next| next.lasting || self.open < OPEN_MAX) {
            let next = self.waiting.remove(next).expect("it was found there");
            let feed = self.of.get_mut(&next.ticket.watcher).expect("who waits for a feed has one");
            feed.is_open = true;
            self.open += usize::from(!feed.lasting);
            self.orders.push_back(Order::Open(next));
        }
    }

    pub(super) fn feed(&mut self, ticket: Ticket, fed: Fed) {
        // It may have been closed while this was on its way.
        if self.of.get(&ticket.watcher).is_some_and(|feed| feed.serial == ticket.serial) {
            self.fed.push_back((ticket, fed));
        }
    }

    pub(super) fn next_fed(&mut self) -> Option<(Ticket, Fed)> {
        self.fed.pop_front()
    }

    /// Keeps what was fed until [`Feeds::release`].
    pub(super) fn hold(&mut self, ticket: Ticket, fed: Fed) {
        let feed = self.of.get_mut(&ticket.watcher).expect("what was fed came through a feed");
        feed.held = Some(fed);
    }

    /// What a watcher's feed held back is due, if it holds something back.
    pub(super) fn release(&mut self, watcher: u32) {
        let Some(feed) = self.of.get_mut(&watcher) else { return };
        let ticket = Ticket { watcher, serial: feed.serial };
        self.fed.extend(feed.held.take().map(|fed| (ticket, fed)));
    }

    pub(super) fn go_on(&mut self, ticket: Ticket) {
        self.orders.push_back(Order::More(ticket));
    }

    pub(super) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    pub(super) fn take_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }
}
