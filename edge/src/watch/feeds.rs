//! The private feeds that a stream has open; see [`forebay_keyspace::watch::Order`].

use std::{
    collections::HashMap,
    task::{Context, Poll},
};

use forebay_keyspace::watch::{CatchUp, Fed, Order, Ticket};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::{BoxStream, FuturesUnordered},
};

use crate::listener::Held;

/// What a watcher sees, with its memory.
type Feed = BoxStream<'static, (Fed, Held)>;
/// One delivery of a feed on its way, and the feed.
type Delivery = BoxFuture<'static, (Ticket, Option<(Fed, Held)>, Feed)>;

/// Feeds that were asked for the next thing, and feeds that wait until the last was written.
///
/// Only those that have something are looked at, however many there are.
#[derive(Default)]
pub(super) struct Feeds {
    asked: FuturesUnordered<Abortable<Delivery>>,
    /// To drop a feed that was asked and is not needed any more.
    aborts: HashMap<Ticket, AbortHandle>,
    /// With the memory of what they delivered last.
    resting: HashMap<Ticket, (Feed, Held)>,
}

impl Feeds {
    pub(super) fn carry_out(&mut self, order: Order, open: impl FnOnce(CatchUp) -> Feed) {
        match order {
            Order::Open(catch_up) => self.ask(catch_up.ticket, open(catch_up)),
            Order::More(ticket) => {
                if let Some((feed, _written)) = self.resting.remove(&ticket) {
                    self.ask(ticket, feed);
                }
            }
            Order::Close(ticket) => {
                self.resting.remove(&ticket);
                if let Some(abort) = self.aborts.remove(&ticket) {
                    abort.abort();
                }
            }
        }
    }

    fn ask(&mut self, ticket: Ticket, feed: Feed) {
        let (abort, registration) = AbortHandle::new_pair();
        let delivery = feed.into_future().map(move |(fed, feed)| (ticket, fed, feed)).boxed();
        self.asked.push(Abortable::new(delivery, registration));
        self.aborts.insert(ticket, abort);
    }

    /// The memory of what a feed delivered last.
    pub(super) fn take_memory(&mut self, ticket: Ticket) -> Held {
        self.resting.get_mut(&ticket).map(|(_, held)| std::mem::take(held)).unwrap_or_default()
    }

    /// The next delivery; none from a feed that gave up. Pending if there is no feed, too.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Ticket, Option<Fed>)> {
        loop {
            match self.asked.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok((ticket, fed, feed)))) => {
                    self.aborts.remove(&ticket);
                    let (fed, held) = fed.unzip();
                    self.resting.insert(ticket, (feed, held.unwrap_or_default()));
                    return Poll::Ready((ticket, fed));
                }
                Poll::Ready(Some(Err(_aborted))) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
