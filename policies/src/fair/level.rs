//! One priority level: its seats, and its queues in fair order.

use std::{
    cmp::Ordering,
    time::{Duration, Instant},
};

use super::{
    Ticket,
    queue::{Queue, Waiting},
    shuffle,
};
use crate::{Codel, policy, units::Percent};

#[derive(Debug)]
pub(super) struct Level {
    pub name: String,
    pub exempt: bool,
    pub shares: u32,
    pub lendable: Percent,
    borrowing: Option<Percent>,
    pub max_wait: Duration,
    queue_length: usize,
    hand_size: u32,
    codel: Codel,
    /// Flows are dealt the first of these many queues. There are more when there used to be.
    dealt: u32,
    queues: Vec<Queue>,
    /// The queues in which somebody waits, in no order.
    active: Vec<u32>,
    /// How many wait in all queues.
    pub waiting: u32,
    /// Seats in use.
    pub in_use: u32,
    /// Seats that are this level's while all levels are busy.
    pub nominal: u32,
    /// Seats that others may not use while they are idle.
    pub kept: u32,
    /// The virtual time: the start of what was started last. A queue that was idle begins here, so that nobody saves
    /// up for later what was not used.
    clock: u64,
    /// What a request is taken to last until it has ended, in nanoseconds: a moving mean.
    estimate: u64,
}

impl Level {
    pub fn new(spec: &policy::Level) -> Level {
        let mut level = Level {
            name: String::new(),
            exempt: false,
            shares: 0,
            lendable: Percent(100),
            borrowing: None,
            max_wait: Duration::ZERO,
            queue_length: 0,
            hand_size: 1,
            codel: spec.codel,
            dealt: 1,
            queues: Vec::new(),
            active: Vec::new(),
            waiting: 0,
            in_use: 0,
            nominal: 0,
            kept: 0,
            clock: 0,
            estimate: 1_000_000,
        };
        level.reconfigure(spec);
        level
    }

    /// Behaves as the policy says from now on; those who wait and run stay.
    pub fn reconfigure(&mut self, spec: &policy::Level) {
        self.name.clone_from(&spec.name);
        self.exempt = spec.exempt;
        self.shares = if spec.exempt { 0 } else { spec.shares };
        self.lendable = spec.lendable;
        self.borrowing = spec.borrowing;
        self.max_wait = spec.max_wait;
        self.queue_length = spec.queue_length as usize;
        self.hand_size = spec.hand_size;
        self.codel = spec.codel;
        self.dealt = spec.queues;
        let queues = self.queues.len().max(spec.queues as usize);
        self.queues.resize_with(queues, Queue::default);
    }

    /// No policy has the level any more.
    pub fn retire(&mut self) {
        self.name.clear();
        self.shares = 0;
    }

    /// Whether no policy has the level and nobody is in it.
    pub fn is_retired(&self) -> bool {
        self.name.is_empty() && self.waiting == 0 && self.in_use == 0
    }

    /// The queue of a flow's hand with the least work in it. If it was idle, it begins at the virtual time.
    pub fn choose(&mut self, flow: u64) -> u32 {
        let hand = shuffle::hand(flow, self.dealt, self.hand_size);
        let at = hand.min_by_key(|at| self.queues[*at as usize].work()).expect("invariant: a hand is not empty");
        let queue = &mut self.queues[at as usize];
        if queue.work() == 0 {
            queue.start = queue.start.max(self.clock);
        }
        at
    }

    /// Whether the level may take so many seats more, as far as it is concerned.
    pub fn may_take(&self, seats: u32) -> bool {
        let borrowed = |borrowing: Percent| borrowing.of(u64::from(self.nominal)) as u32;
        let bound = self.borrowing.map_or(u32::MAX, |borrowing| self.nominal.saturating_add(borrowed(borrowing)));
        self.in_use == 0 || self.in_use.saturating_add(seats) <= bound
    }

    /// Whether requests of the queue have seats.
    pub fn runs(&self, queue: u32) -> bool {
        self.queues[queue as usize].running > 0
    }

    /// Whether the queue takes one more.
    pub fn has_room(&self, queue: u32) -> bool {
        self.queues[queue as usize].len() < self.queue_length
    }

    /// Makes room in an overloaded queue, which serves the newest first and will not come to its oldest.
    pub fn evict(&mut self, at: u32) -> Option<Waiting> {
        let evicted = self.queues[at as usize].evict()?;
        self.left(at);
        Some(evicted)
    }

    pub fn push(&mut self, at: u32, waiting: Waiting) {
        let queue = &mut self.queues[at as usize];
        if queue.is_empty() {
            self.active.push(at);
        }
        queue.push(waiting);
        self.waiting += 1;
    }

    /// The queue that has had the least work, and the seats of its next request.
    pub fn next(&self) -> (u32, u32) {
        let queue = self.active.iter().copied().min_by_key(|at| self.queues[*at as usize].start);
        let at = queue.expect("invariant: a level in which somebody waits has an active queue");
        let next = self.queues[at as usize].next().expect("invariant: somebody waits in an active queue");
        (at, next.seats)
    }

    pub fn pop(&mut self, at: u32) -> Waiting {
        let popped = self.queues[at as usize].pop().expect("invariant: somebody waits in an active queue");
        self.left(at);
        popped
    }

    pub fn remove(&mut self, at: u32, ticket: Ticket) {
        if self.queues[at as usize].remove(ticket).is_some() {
            self.left(at);
        }
    }

    /// One request that an overloaded queue gives up, if there is one.
    pub fn shed(&mut self, now: Instant) -> Option<Waiting> {
        let found = self.active.iter().find_map(|at| Some((*at, self.queues[*at as usize].shed(now, self.codel)?)));
        let (at, waiting) = found?;
        self.left(at);
        Some(waiting)
    }

    /// A request of the queue begins. Returns what the queue is charged for it until it ends.
    pub fn start(&mut self, at: u32, seats: u32) -> u64 {
        let queue = &mut self.queues[at as usize];
        self.clock = self.clock.max(queue.start);
        let charged = self.estimate.saturating_mul(u64::from(seats));
        queue.start = queue.start.saturating_add(charged);
        queue.running += seats;
        self.in_use += seats;
        charged
    }

    /// A request of the queue has ended, and the queue is charged what it was.
    pub fn settle(&mut self, at: u32, seats: u32, charged: u64, lasted: Duration) {
        let lasted = u64::try_from(lasted.as_nanos()).unwrap_or(u64::MAX);
        let queue = &mut self.queues[at as usize];
        queue.start = queue.start.saturating_sub(charged).saturating_add(lasted.saturating_mul(u64::from(seats)));
        queue.running -= seats;
        self.in_use -= seats;
        self.estimate = self.estimate - self.estimate / 16 + lasted / 16;
    }

    /// Orders levels by how much of their share is in use.
    pub fn compare_use(&self, other: &Level) -> Ordering {
        let ours = u64::from(self.in_use) * u64::from(other.nominal);
        ours.cmp(&(u64::from(other.in_use) * u64::from(self.nominal)))
    }

    pub fn overloaded_queues(&self) -> u32 {
        self.active.iter().filter(|at| self.queues[**at as usize].is_overloaded()).count() as u32
    }

    fn left(&mut self, at: u32) {
        self.waiting -= 1;
        if self.queues[at as usize].is_empty() {
            self.active.retain(|active| *active != at);
        }
    }
}
