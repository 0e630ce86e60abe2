//! Hands out requests when they are due, to whoever is free.
//!
//! The time is kept by a thread: tokio's timers wait in whole milliseconds, which is longer than many answers take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::schedule::Schedule;

/// The shortest time that it sleeps: several requests that are due within it go out together.
const SLEEP_MIN: Duration = Duration::from_micros(50);

/// A request to send.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Its place in the schedule.
    pub number: u64,
    /// When it was meant to be sent.
    pub intended: Instant,
}

/// What hands them out. Shared by all clients of a flow.
#[derive(Debug)]
pub enum Pacer {
    /// When they are due, however long answers take.
    Open {
        /// The times.
        schedule: Schedule,
        /// When the first second begins.
        begin: Instant,
        /// How many are taken.
        taken: AtomicU64,
        /// How many are due and not taken.
        due: Semaphore,
    },
    /// At once, to each client that has its answer.
    Closed {
        /// When no more are handed out.
        end: Instant,
        /// How many may still be taken.
        left: AtomicU64,
    },
}

impl Pacer {
    /// By a schedule, for so many clients.
    pub fn open(schedule: Schedule, begin: Instant, clients: usize) -> Arc<Pacer> {
        let (taken, due) = (AtomicU64::new(0), Semaphore::new(0));
        let pacer = Arc::new(Pacer::Open { schedule, begin, taken, due });
        let paced = Arc::clone(&pacer);
        thread::spawn(move || paced.release(clients));
        pacer
    }

    /// Until an end, and no more than so many.
    pub fn closed(end: Instant, total: u64) -> Arc<Pacer> {
        Arc::new(Pacer::Closed { end, left: AtomicU64::new(total) })
    }

    /// Lets requests go as they become due. Ends with the last, or when nobody takes them any more.
    fn release(self: Arc<Pacer>, clients: usize) {
        let Pacer::Open { schedule, begin, due, .. } = &*self else { return };
        let mut released = 0;
        while released < schedule.total() && Arc::strong_count(&self) > 1 {
            let elapsed = begin.elapsed();
            let now = schedule.due(elapsed);
            due.add_permits(usize::try_from(now - released).unwrap_or_default());
            released = now;
            if released < schedule.total() {
                // A run that was ended is not waited for.
                let wait = schedule.at(released).saturating_sub(elapsed);
                thread::sleep(wait.clamp(SLEEP_MIN, Duration::from_millis(100)));
            }
        }
        // Everybody who waits is to find out that there is nothing left.
        due.add_permits(clients);
    }

    /// The next request, when it is due; nothing once there are no more.
    pub async fn next(&self) -> Option<Slot> {
        match self {
            Pacer::Open { schedule, begin, taken, due } => {
                due.acquire().await.expect("nobody closes it").forget();
                let number = taken.fetch_add(1, Ordering::Relaxed);
                (number < schedule.total()).then(|| Slot { number, intended: *begin + schedule.at(number) })
            }
            Pacer::Closed { end, left } => {
                let intended = Instant::now();
                let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                let left = taken.ok().filter(|_| intended < *end)?;
                Some(Slot { number: u64::MAX - left, intended })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::schedule::Rate;

    #[tokio::test]
    async fn every_request_is_handed_out_once_and_not_before_it_is_due() {
        let schedule = Schedule::new(&Rate::constant(2000.0), Duration::ZERO, Duration::from_millis(200));
        let pacer = Pacer::open(schedule, Instant::now(), 3);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let pacer = Arc::clone(&pacer);
            clients.spawn(async move {
                let mut numbers = Vec::new();
                while let Some(slot) = pacer.next().await {
                    assert!(slot.intended <= Instant::now(), "{slot:?} is early");
                    numbers.push(slot.number);
                }
                numbers
            });
        }
        let mut numbers: Vec<u64> = clients.join_all().await.concat();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..400).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_closed_loop_ends_by_number_or_by_time() {
        let counted = Pacer::closed(Instant::now() + Duration::from_secs(60), 2);
        assert!(counted.next().await.is_some() && counted.next().await.is_some());
        assert!(counted.next().await.is_none());
        assert!(Pacer::closed(Instant::now(), u64::MAX).next().await.is_none());
    }
}
