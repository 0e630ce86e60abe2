//! One queue: first in, first out, until it is overloaded.

use std::{collections::VecDeque, time::Instant};

use super::Ticket;
use crate::Codel;

/// A request in a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub ticket: Ticket,
    pub since: Instant,
    pub seats: u32,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In the order of arrival.
    waiting: VecDeque<Waiting>,
    /// The seats of all that wait.
    seats: u32,
    /// The seats of those that left it for a seat and run.
    pub running: u32,
    /// The virtual time at which the next request of this queue starts: how much work it has had, in seats ×
    /// nanoseconds. The level serves the queue that has had the least.
    pub start: u64,
    /// Since when the oldest has waited for longer than the target.
    late_since: Option<Instant>,
    /// Whether it has been late for an interval. Stays so until the queue is empty.
    overloaded: bool,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// What waits and runs, in seats.
    pub fn work(&self) -> u32 {
        self.seats + self.running
    }

    pub fn push(&mut self, waiting: Waiting) {
        self.seats += waiting.seats;
        self.waiting.push_back(waiting);
    }

    /// The next to be served. Under overload that is the newest: it still has somebody who waits for it, while the
    /// oldest will be too late whatever is done.
    pub fn next(&self) -> Option<Waiting> {
        if self.overloaded { self.waiting.back().copied() } else { self.waiting.front().copied() }
    }

    pub fn pop(&mut self) -> Option<Waiting> {
        let popped = if self.overloaded { self.waiting.pop_back() } else { self.waiting.pop_front() };
        popped.inspect(|waiting| self.left(waiting))
    }

    pub fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.ticket == ticket)?;
        self.waiting.remove(at).inspect(|waiting| self.left(waiting))
    }

    /// Looks at the oldest, and takes it out if the queue is overloaded and it has waited for longer than the target.
    pub fn shed(&mut self, now: Instant, codel: Codel) -> Option<Waiting> {
        let oldest = self.waiting.front()?;
        if now.saturating_duration_since(oldest.since) <= codel.target {
            self.late_since = None;
            return None;
        }
        let late_since = *self.late_since.get_or_insert(now);
        self.overloaded |= now.saturating_duration_since(late_since) >= codel.interval;
        if !self.overloaded {
            return None;
        }
        self.waiting.pop_front().inspect(|waiting| self.left(waiting))
    }

    /// Takes out the oldest if the queue is overloaded.
    pub fn evict(&mut self) -> Option<Waiting> {
        if !self.overloaded {
            return None;
        }
        self.waiting.pop_front().inspect(|waiting| self.left(waiting))
    }

    fn left(&mut self, waiting: &Waiting) {
        self.seats -= waiting.seats;
        if self.waiting.is_empty() {
            (self.late_since, self.overloaded) = (None, false);
        }
    }
}
