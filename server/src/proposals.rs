//! Matches what raft applied with who proposed it.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use forebay_edge::trace::{self, Span};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Makes ids of requests that no other member and no earlier life of this one makes: 16 low bits of
/// the member id, 40 bits of the start time in milliseconds, 8 bits to count, overflowing upward.
#[derive(Debug)]
pub struct RequestIds(AtomicU64);

impl RequestIds {
    /// Ids of a member that started `start_ms` milliseconds after 1970.
    pub fn new(member_id: u64, start_ms: u64) -> RequestIds {
        let member = member_id & 0xffff;
        let time = start_ms & 0xff_ffff_ffff;
        RequestIds(AtomicU64::new(member << 48 | time << 8))
    }

    /// The next id; never 0.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Who waits for the outcome of which request.
///
/// A caller that goes away leaves its place behind; it is cleared when the request is applied or
/// its deadline passes.
pub struct Waiters<T> {
    waiting: Mutex<HashMap<u64, Waiter<T>, BuildHasherDefault<IdHasher>>>,
}

struct Waiter<T> {
    reply: oneshot::Sender<T>,
    deadline: Instant,
    /// Of the way through raft, if the call is traced.
    span: Option<Span>,
}

impl<T> Default for Waiters<T> {
    fn default() -> Waiters<T> {
        Waiters { waiting: Mutex::default() }
    }
}

impl<T> Waiters<T> {
    /// Begins to wait for `id`. The receiver fails when `deadline` passes first.
    pub fn register(&self, id: u64, deadline: Instant) -> oneshot::Receiver<T> {
        let (reply, receiver) = oneshot::channel();
        self.waiting.lock().insert(id, Waiter { reply, deadline, span: trace::part("raft") });
        receiver
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Gives up on a request that was not even queued.
    pub fn forget(&self, id: u64) {
        self.waiting.lock().remove(&id);
    }

    /// Gives the outcomes of a batch, which was committed and began to be applied at `began`, to whoever waits for them.
    pub fn complete(&self, outcomes: impl Iterator<Item = (u64, T)>, began: Instant) {
        let mut waiting = self.waiting.lock();
        for (id, outcome) in outcomes {
            if let Some(waiter) = waiting.remove(&id) {
                if let Some(raft) = waiter.span {
                    raft.since("apply", began);
                }
                // A caller that went away is not an error: its request was carried out.
                let _ = waiter.reply.send(outcome);
            }
        }
    }

    /// Gives the outcome to whoever waits for something that was not applied.
    pub fn refuse(&self, id: u64, outcome: T) {
        if let Some(waiter) = self.waiting.lock().remove(&id) {
            let _ = waiter.reply.send(outcome);
        }
    }

    /// Gives up on those whose deadline passed; their receivers fail.
    pub fn expire(&self, now: Instant) {
        self.waiting.lock().retain(|_, waiter| waiter.deadline > now);
    }

    /// Gives up on everybody: the member stops.
    pub fn clear(&self) {
        self.waiting.lock().clear();
    }
}

/// Request ids count up, so they are spread well enough without hashing.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("request ids are u64");
    }

    fn write_u64(&mut self, id: u64) {
        // hashbrown takes its control bits from the top.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_hold_the_member_and_count_up() {
        let ids = RequestIds::new(0x8e9e_05c5_2164_694d, 0x01_9300_1122_3344);
        let first = ids.next();
        assert_eq!(first >> 48, 0x694d);
        assert_eq!(ids.next(), first + 1);
    }

    #[test]
    fn an_outcome_reaches_its_waiter_and_no_other() {
        let waiters = Waiters::default();
        let now = Instant::now();
        let mut one = waiters.register(1, now + Duration::from_secs(5));
        let mut two = waiters.register(2, now + Duration::from_secs(1));
        waiters.complete([(1, "one"), (3, "nobody")].into_iter(), now);
        assert_eq!(one.try_recv(), Ok("one"));
        waiters.expire(now);
        assert_eq!(two.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        waiters.expire(now + Duration::from_secs(1));
        assert_eq!(two.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(waiters.waiting.lock().is_empty());
    }

    #[test]
    fn a_request_that_was_not_queued_leaves_nothing_behind() {
        let waiters = Waiters::<()>::default();
        let mut receiver = waiters.register(1, Instant::now() + Duration::from_secs(7));
        waiters.forget(1);
        assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(waiters.waiting.lock().is_empty());
    }
}
