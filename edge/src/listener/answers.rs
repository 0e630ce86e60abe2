//! The memory of what is on its way: answers, and requests, which are collected before they are carried out.
//!
//! A client that asks for much and reads slowly makes us hold it, and so does one that sends much and slowly. What is
//! long shares a budget: when it is used up, a read or a long request is refused with what etcd says when it has too
//! much to do, and a connection on which nothing has moved for long is cut, since it may never. What is short is not
//! counted.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::places::Place;

/// Answers and requests up to this length are not counted.
const SHORT: usize = 64 << 10;
/// A request is counted in pieces of this size, as it comes.
const STEP: usize = 256 << 10;

/// The long answers of a listener.
pub(super) struct Answers {
    budget: usize,
    /// How long a connection may take nothing of an answer while others want the memory.
    patience: Duration,
    start: Instant,
    /// Of all that are held; changed under the lock, and read without it by every range.
    bytes: AtomicUsize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    answers: HashMap<u64, Arc<Answer>>,
}

struct Answer {
    place: Place,
    bytes: usize,
    /// When the connection last took some of it.
    moved_ms: AtomicU64,
}

impl Answers {
    pub(super) fn new(budget: usize, patience: Duration) -> Arc<Answers> {
        Arc::new(Answers {
            budget,
            patience,
            start: Instant::now(),
            bytes: AtomicUsize::new(0),
            held: Mutex::default(),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the budget is used up. Then whoever stalls has been asked to leave.
    pub(super) fn are_too_many(&self) -> bool {
        let too_many = self.bytes.load(Ordering::Relaxed) >= self.budget;
        if too_many {
            let held = self.held.lock();
            let limit = self.now_ms().saturating_sub(u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX));
            let stalled = |answer: &&Arc<Answer>| answer.moved_ms.load(Ordering::Relaxed) < limit;
            held.answers.values().filter(stalled).for_each(|answer| answer.place.cut());
        }
        too_many
    }

    /// Counts an answer of this length for as long as what is returned lives. Of answers that exceed the budget each on
    /// its own, there is one at a time.
    pub(super) fn hold(self: &Arc<Answers>, bytes: usize, place: &Place) -> Result<Option<HeldAnswer>, TooMany> {
        if bytes <= SHORT {
            return Ok(None);
        }
        let mut held = self.held.lock();
        let others = self.bytes.load(Ordering::Relaxed);
        if others > 0 && others + bytes > self.budget {
            return Err(TooMany);
        }
        Ok(Some(self.insert(&mut held, bytes, place)))
    }

    /// As [`Answers::hold`], for what cannot be refused any more.
    pub(super) fn hold_anyway(self: &Arc<Answers>, bytes: usize, place: &Place) -> Option<HeldAnswer> {
        (bytes > SHORT).then(|| self.insert(&mut self.held.lock(), bytes, place))
    }

    fn insert(self: &Arc<Answers>, held: &mut Held, bytes: usize, place: &Place) -> HeldAnswer {
        let answer = Arc::new(Answer { place: place.clone(), bytes, moved_ms: AtomicU64::new(self.now_ms()) });
        let id = held.next;
        held.next += 1;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        held.answers.insert(id, Arc::clone(&answer));
        HeldAnswer { answers: Arc::clone(self), id, answer }
    }
}

/// There is no memory for one more answer.
#[derive(Debug)]
pub(crate) struct TooMany;

/// An answer that is counted.
pub(crate) struct HeldAnswer {
    answers: Arc<Answers>,
    id: u64,
    answer: Arc<Answer>,
}

impl HeldAnswer {
    /// The connection took some of it.
    pub(crate) fn moved(&self) {
        self.answer.moved_ms.store(self.answers.now_ms(), Ordering::Relaxed);
    }
}

/// Where a request is counted while it is collected: of gRPC by its body, else an extension by which the reader does.
#[derive(Clone)]
pub(crate) struct Intake {
    answers: Arc<Answers>,
    place: Place,
}

impl Intake {
    pub(super) fn new(answers: Arc<Answers>, place: Place) -> Intake {
        Intake { answers, place }
    }
}

/// What is held of a request that is being collected; given back when it is dropped.
#[derive(Default)]
pub(crate) struct Collected {
    intake: Option<Intake>,
    held: Vec<HeldAnswer>,
}

impl Collected {
    /// Nothing yet. Without an intake nothing is counted: the request was made in this process.
    pub(crate) fn new(intake: Option<Intake>) -> Collected {
        Collected { intake, held: Vec::new() }
    }

    /// So many bytes are held now, and some of them have just come.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), TooMany> {
        let Some(intake) = &self.intake else { return Ok(()) };
        let steps = bytes.saturating_sub(SHORT).div_ceil(STEP);
        self.held.truncate(steps);
        self.held.iter().for_each(HeldAnswer::moved);
        while self.held.len() < steps {
            if intake.answers.are_too_many() {
                return Err(TooMany);
            }
            self.held.extend(intake.answers.hold(STEP, &intake.place)?);
        }
        Ok(())
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        let mut held = self.answers.held.lock();
        self.answers.bytes.fetch_sub(self.answer.bytes, Ordering::Relaxed);
        held.answers.remove(&self.id);
    }
}
