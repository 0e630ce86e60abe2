//! The seats of the upstream and the queues before them: [`Scheduler`] with tasks that wait.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use forebay_policies::{
    Enqueued, Entry, Level, LevelId, Occupancy, Rejected, Scheduler, Ticket, Woken,
    adaptive::{AdaptiveLimit, Gradient, Outcome},
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time};

/// The seats for one kind of work.
pub(super) struct Seats {
    state: Mutex<State>,
    /// How long each level lets its requests wait.
    waits_max: Vec<Duration>,
}

struct State {
    scheduler: Scheduler,
    /// Finds out how many seats there are.
    limit: AdaptiveLimit,
    /// Who waits, by ticket.
    waiting: HashMap<Ticket, oneshot::Sender<Result<(), Rejected>>>,
    /// Kept between polls.
    woken: Vec<Woken>,
}

/// A seat that is taken, or a place in a queue; given back when it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    ticket: Ticket,
    /// What the request had to wait.
    pub(super) waited: Duration,
}

impl Seats {
    pub(super) fn new(levels: &[Level], gradient: Gradient) -> Arc<Seats> {
        let limit = AdaptiveLimit::new(gradient);
        let scheduler = Scheduler::new(levels, limit.limit());
        let state = State { scheduler, limit, waiting: HashMap::new(), woken: Vec::new() };
        let waits_max = levels.iter().map(|level| level.max_wait).collect();
        Arc::new(Seats { state: Mutex::new(state), waits_max })
    }

    /// Takes seats, in turn.
    pub(super) async fn take(self: &Arc<Seats>, entry: Entry) -> Result<Seat, Rejected> {
        let began = now();
        let (ticket, mut verdict) = {
            let mut state = self.state.lock();
            match state.scheduler.enqueue(began, entry) {
                Enqueued::Admitted(ticket) => {
                    return Ok(Seat { seats: Arc::clone(self), ticket, waited: Duration::ZERO });
                }
                Enqueued::Rejected(rejected) => return Err(rejected),
                Enqueued::Queued(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    state.poll(began);
                    (ticket, receiver)
                }
            }
        };
        // From here on, a caller that is gone leaves the queue.
        let mut seat = Seat { seats: Arc::clone(self), ticket, waited: Duration::ZERO };
        let patience = entry.patience.min(self.waits_max[entry.level.0]);
        let verdict = match time::timeout(patience, &mut verdict).await {
            Ok(verdict) => verdict,
            Err(_elapsed) => {
                self.state.lock().poll(now());
                verdict.await
            }
        };
        seat.waited = now().saturating_duration_since(began);
        verdict.expect("whoever waits is told what became of it").map(|()| seat)
    }

    /// Seats there are, and seats that are taken.
    pub(super) fn seats(&self) -> (u32, u32) {
        self.state.lock().scheduler.seats()
    }

    /// What goes on in a level.
    pub(super) fn occupancy(&self, level: LevelId) -> Occupancy {
        self.state.lock().scheduler.occupancy(level)
    }
}

impl Seat {
    /// The upstream has answered a request of so many units of cost.
    pub(super) fn answered(&self, lasted: Duration, units: u64, outcome: Outcome) {
        let now = now();
        let mut state = self.seats.state.lock();
        let (_, in_flight) = state.scheduler.seats();
        if let Some(limit) = state.limit.record(now, lasted, units, in_flight, outcome) {
            state.scheduler.set_limit(limit);
            state.poll(now);
        }
    }
}

impl State {
    /// Tells everybody whose wait is over.
    fn poll(&mut self, now: Instant) {
        self.scheduler.poll(now, &mut self.woken);
        for woken in self.woken.drain(..) {
            let (ticket, verdict) = match woken {
                Woken::Admitted(ticket) => (ticket, Ok(())),
                Woken::Rejected(ticket, rejected) => (ticket, Err(rejected)),
            };
            if let Some(waiter) = self.waiting.remove(&ticket) {
                // Whoever is gone since gives the ticket back when it gets the lock.
                let _ = waiter.send(verdict);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = now();
        let mut state = self.seats.state.lock();
        state.waiting.remove(&self.ticket);
        state.scheduler.finish(now, self.ticket);
        state.poll(now);
    }
}

/// The clock of the decisions, which follows a paused one.
pub(super) fn now() -> Instant {
    time::Instant::now().into_std()
}
