//! Seats and fair queues, after Kubernetes' API priority and fairness.
//!
//! The upstream bears so many requests at once: those are the seats. Each priority level has a share of them and may
//! use what others leave idle. A request that finds no seat waits in one of its level's queues, chosen among a few that
//! belong to its flow ([`shuffle`]); a level takes the next request from the queue that has had the least work so far
//! ([`level`]). So a flow that sends a thousand requests waits behind itself.
//!
//! [`Scheduler`] is a state machine: the caller passes the time and tells each request what became of it.

mod level;
mod queue;
mod shuffle;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{LevelId, policy};
use level::Level;
use queue::Waiting;

/// Stands for a request from [`Scheduler::enqueue`] until [`Scheduler::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    slot: u32,
    /// Tells the requests apart that have had the same slot.
    generation: u32,
}

/// A request that wants a seat.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub level: LevelId,
    pub flow: u64,
    /// How much of the concurrency it takes, at least 1.
    pub seats: u32,
    /// How long it may wait; its level may allow less.
    pub patience: Duration,
}

/// What became of a request at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It has its seats.
    Admitted(Ticket),
    /// It waits. [`Scheduler::poll`] tells what becomes of it.
    Queued(Ticket),
    /// It is over; there is no ticket to finish.
    Rejected(Rejected),
}

/// Why a request got no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejected {
    /// Its queue holds as many as it may.
    QueueFull,
    /// It waited for as long as it may.
    TimedOut,
    /// Its queue is overloaded and sheds what has waited for longer than the target.
    Overloaded,
}

/// What became of a request that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It has its seats.
    Admitted(Ticket),
    /// It is over; the ticket means nothing any more.
    Rejected(Ticket, Rejected),
}

/// The seats of one upstream and the queues before them.
#[derive(Debug)]
pub struct Scheduler {
    /// Those of the policy and, behind them or among them, those of an earlier one that are not empty yet.
    levels: Vec<Level>,
    /// Where the policy's levels are.
    places: Vec<usize>,
    requests: Vec<Slot>,
    free: Vec<u32>,
    /// The concurrency that the levels share. At least 1.
    limit: u32,
    /// The seats that are taken, exempt requests aside. May exceed the limit after it fell.
    in_use: u32,
    /// When waiting ends. Holds tickets that are long over; they are skipped.
    deadlines: BinaryHeap<Reverse<(Instant, Ticket)>>,
    /// How many requests wait.
    waiting: usize,
    /// Requests that gave up their place and do not know it yet.
    evicted: Vec<Ticket>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Free,
    Waiting { level: u16, queue: u32 },
    Running { level: u16, queue: u32, seats: u32, charged: u64, since: Instant },
    Exempt,
}

/// What the scheduler is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Seats taken.
    pub seats: u32,
    /// Seats that are the level's own while all levels are busy.
    pub nominal: u32,
    /// Requests waiting.
    pub waiting: u32,
    /// Queues that shed.
    pub overloaded: u32,
}

/// This part of the seats is for queues that have none.
const SPARE_PART: u32 = 16;

impl Scheduler {
    /// No request waits or runs. `limit` is the concurrency to begin with.
    pub fn new(levels: &[policy::Level], limit: u32) -> Scheduler {
        let mut scheduler = Scheduler {
            levels: Vec::new(),
            places: Vec::new(),
            requests: Vec::new(),
            free: Vec::new(),
            limit: limit.max(1),
            in_use: 0,
            deadlines: BinaryHeap::new(),
            waiting: 0,
            evicted: Vec::new(),
        };
        scheduler.reconfigure(levels);
        scheduler
    }

    /// Takes over the levels of another policy. What waits and runs in a level of the same name stays there; a level that
    /// is gone serves those who wait in it, and takes nobody new. To be followed by [`Scheduler::poll`].
    pub fn reconfigure(&mut self, levels: &[policy::Level]) {
        for level in &mut self.levels {
            if levels.iter().all(|spec| spec.name != level.name) {
                level.retire();
            }
        }
        let mut places: Vec<usize> = Vec::new();
        for spec in levels {
            let same = self.levels.iter().position(|level| level.name == spec.name);
            let empty = || (0..self.levels.len()).find(|at| self.levels[*at].is_retired() && !places.contains(at));
            match same.or_else(empty) {
                Some(at) if same.is_some() => {
                    self.levels[at].reconfigure(spec);
                    places.push(at);
                }
                Some(at) => {
                    self.levels[at] = Level::new(spec);
                    places.push(at);
                }
                None => {
                    self.levels.push(Level::new(spec));
                    places.push(self.levels.len() - 1);
                }
            }
        }
        self.places = places;
        self.set_limit(self.limit);
    }

    /// Changes the concurrency. What runs goes on. To be followed by [`Scheduler::poll`].
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit.max(1);
        let shares: u64 = self.levels.iter().map(|level| u64::from(level.shares)).sum();
        for level in &mut self.levels {
            level.nominal = (u64::from(self.limit) * u64::from(level.shares)).div_ceil(shares.max(1)) as u32;
            level.kept = level.nominal - level.lendable.of(u64::from(level.nominal)) as u32;
        }
    }

    /// A request asks for seats. To be followed by [`Scheduler::poll`] when it has to wait.
    pub fn enqueue(&mut self, now: Instant, entry: Entry) -> Enqueued {
        let at = self.places[entry.level.0];
        if self.levels[at].exempt {
            return Enqueued::Admitted(self.issue(State::Exempt));
        }
        let seats = entry.seats.max(1);
        let queue = self.levels[at].choose(entry.flow);
        let level = &self.levels[at];
        let is_its_turn = self.waiting == 0 || level.waiting == 0 && level.in_use < level.nominal;
        if is_its_turn && self.fits(at, queue, seats) {
            let running = self.start(at, queue, seats, now);
            return Enqueued::Admitted(self.issue(running));
        }
        let deadline = now + entry.patience.min(self.levels[at].max_wait);
        if deadline == now {
            return Enqueued::Rejected(Rejected::TimedOut);
        }
        if !self.levels[at].has_room(queue) {
            let Some(evicted) = self.levels[at].evict(queue) else { return Enqueued::Rejected(Rejected::QueueFull) };
            self.waiting -= 1;
            self.release(evicted.ticket);
            self.evicted.push(evicted.ticket);
        }
        let ticket = self.issue(State::Waiting { level: at as u16, queue });
        self.levels[at].push(queue, Waiting { ticket, since: now, seats });
        self.deadlines.push(Reverse((deadline, ticket)));
        self.waiting += 1;
        self.forget_old_deadlines();
        Enqueued::Queued(ticket)
    }

    /// A request is over: it was answered, or its caller is gone and it need not wait any longer. To be followed by
    /// [`Scheduler::poll`], since seats may be free. A ticket that was rejected is over already.
    pub fn finish(&mut self, now: Instant, ticket: Ticket) {
        match self.state(ticket) {
            None | Some(State::Free) => return,
            Some(State::Exempt) => {}
            Some(State::Waiting { level, queue }) => self.leave(level, queue, ticket),
            Some(State::Running { level, queue, seats, charged, since }) => {
                self.levels[usize::from(level)].settle(queue, seats, charged, now.saturating_duration_since(since));
                self.in_use -= seats;
            }
        }
        self.release(ticket);
    }

    /// Hands out free seats and ends waits that took too long. To be called after the other calls, and at
    /// [`Scheduler::poll_at`].
    pub fn poll(&mut self, now: Instant, woken: &mut Vec<Woken>) {
        woken.extend(self.evicted.drain(..).map(|ticket| Woken::Rejected(ticket, Rejected::Overloaded)));
        while let Some(&Reverse((deadline, ticket))) = self.deadlines.peek() {
            let waiting = self.state(ticket);
            if deadline > now && matches!(waiting, Some(State::Waiting { .. })) {
                break;
            }
            self.deadlines.pop();
            if let Some(State::Waiting { level, queue }) = waiting {
                self.leave(level, queue, ticket);
                self.release(ticket);
                woken.push(Woken::Rejected(ticket, Rejected::TimedOut));
            }
        }
        if self.waiting == 0 {
            return;
        }
        while let Some((at, queue)) = self.next() {
            let Waiting { ticket, seats, .. } = self.levels[at].pop(queue);
            self.waiting -= 1;
            let running = self.start(at, queue, seats, now);
            self.requests[ticket.slot as usize].state = running;
            woken.push(Woken::Admitted(ticket));
        }
        for at in 0..self.levels.len() {
            while let Some(Waiting { ticket, .. }) = self.levels[at].shed(now) {
                self.waiting -= 1;
                self.release(ticket);
                woken.push(Woken::Rejected(ticket, Rejected::Overloaded));
            }
        }
    }

    /// When [`Scheduler::poll`] has something to do even if nothing else happens.
    pub fn poll_at(&mut self) -> Option<Instant> {
        while let Some(&Reverse((deadline, ticket))) = self.deadlines.peek() {
            if matches!(self.state(ticket), Some(State::Waiting { .. })) {
                return Some(deadline);
            }
            self.deadlines.pop();
        }
        None
    }

    /// The concurrency, and how much of it is taken.
    pub fn seats(&self) -> (u32, u32) {
        (self.limit, self.in_use)
    }

    /// What goes on in a level.
    pub fn occupancy(&self, level: LevelId) -> Occupancy {
        let level = &self.levels[self.places[level.0]];
        Occupancy {
            seats: level.in_use,
            nominal: level.nominal,
            waiting: level.waiting,
            overloaded: level.overloaded_queues(),
        }
    }

    /// The level and the queue that the next seats belong to, if the request there fits.
    ///
    /// That is the level with the least of its share in use. If its next request does not fit, others wait with it while
    /// it has not got its share, or wide requests would never find their seats. They pass it when it has, and when it
    /// waits for seats of its own.
    fn next(&self) -> Option<(usize, u32)> {
        let mut passed: SmallVec<[usize; 8]> = SmallVec::new();
        loop {
            let waiting = (0..self.levels.len()).filter(|at| self.levels[*at].waiting > 0 && !passed.contains(at));
            let at = waiting.min_by(|a, b| self.levels[*a].compare_use(&self.levels[*b]))?;
            let level = &self.levels[at];
            let (queue, seats) = level.next();
            if self.fits(at, queue, seats) {
                return Some((at, queue));
            }
            if level.in_use < level.nominal && level.may_take(seats) {
                return None;
            }
            passed.push(at);
        }
    }

    /// Whether a queue of a level may take so many seats more. A request that is wider than everything has to run alone.
    fn fits(&self, at: usize, queue: u32, seats: u32) -> bool {
        let others = self.levels.iter().enumerate().filter(|(other, _)| *other != at);
        let kept: u32 = others.map(|(_, level)| level.kept.saturating_sub(level.in_use)).sum();
        // Whoever runs already leaves the last seats to those who come anew: they need not wait until one is given back.
        let spare = if self.levels[at].runs(queue) { self.limit / SPARE_PART } else { 0 };
        let wanted = self.in_use.saturating_add(kept).saturating_add(spare).saturating_add(seats);
        let has_room = self.in_use == 0 || wanted <= self.limit;
        has_room && self.levels[at].may_take(seats)
    }

    fn start(&mut self, at: usize, queue: u32, seats: u32, now: Instant) -> State {
        self.in_use += seats;
        let charged = self.levels[at].start(queue, seats);
        State::Running { level: at as u16, queue, seats, charged, since: now }
    }

    /// Takes a request out of its queue.
    fn leave(&mut self, level: u16, queue: u32, ticket: Ticket) {
        self.levels[usize::from(level)].remove(queue, ticket);
        self.waiting -= 1;
    }

    fn issue(&mut self, state: State) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.requests.push(Slot { generation: 0, state: State::Free });
            self.requests.len() as u32 - 1
        });
        let entry = &mut self.requests[slot as usize];
        entry.state = state;
        Ticket { slot, generation: entry.generation }
    }

    fn release(&mut self, ticket: Ticket) {
        let entry = &mut self.requests[ticket.slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Free;
        self.free.push(ticket.slot);
    }

    fn state(&self, ticket: Ticket) -> Option<State> {
        let entry = self.requests.get(ticket.slot as usize)?;
        (entry.generation == ticket.generation).then_some(entry.state)
    }

    /// Keeps the deadlines of requests that did not wait for theirs from piling up.
    fn forget_old_deadlines(&mut self) {
        if self.deadlines.len() > 2 * self.waiting + 1024 {
            let mut deadlines = std::mem::take(&mut self.deadlines);
            deadlines.retain(|Reverse((_, ticket))| matches!(self.state(*ticket), Some(State::Waiting { .. })));
            self.deadlines = deadlines;
        }
    }
}

#[cfg(test)]
mod tests;
