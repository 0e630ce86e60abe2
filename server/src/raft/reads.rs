//! Rounds of read indexes: who waits for which.
//!
//! A round answers those who were waiting when it began, and nobody else: a read that came later may have to see a
//! write that the round does not cover. One round is under way at a time; while it is, the next one gathers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::handle::ReadWaiter;

/// A round without an answer is asked again, as a new one with a new index: the question or the answer may be lost.
const RETRY_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Reads {
    waiting: Vec<ReadWaiter>,
    round: Option<Round>,
    /// Rounds that have their index, in order, until it is applied.
    confirmed: VecDeque<(u64, Vec<ReadWaiter>)>,
    /// No other member, and no earlier life of this one, asks with the same context.
    next_context: u64,
}

#[derive(Debug)]
struct Round {
    context: u64,
    began: Instant,
    waiters: Vec<ReadWaiter>,
}

impl Reads {
    pub(super) fn new(first_context: u64) -> Self {
        Self { waiting: Vec::new(), round: None, confirmed: VecDeque::new(), next_context: first_context }
    }

    /// Lets more readers wait for the next round.
    pub(super) fn join(&mut self, waiters: impl Iterator<Item = ReadWaiter>) {
        self.waiting.extend(waiters);
    }

    /// How many wait for a round, under way or not.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.round.as_ref().map_or(0, |round| round.waiters.len())
    }

    /// Lets go of readers that stopped waiting.
    pub(super) fn forget_gone(&mut self) {
        self.waiting.retain(|waiter| !waiter.is_gone());
    }

    /// Whether somebody waits for a round to begin, and none is under way.
    pub(super) fn wants_round(&self) -> bool {
        self.round.is_none() && !self.waiting.is_empty()
    }

    /// Begins a round if there is reason to, and returns the context to ask with.
    pub(super) fn begin(&mut self, now: Instant) -> Option<u64> {
        if self.round.as_ref().is_some_and(|round| now >= round.began + RETRY_AFTER) {
            self.abandon_round();
        }
        if self.round.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.forget_gone();
        if self.waiting.is_empty() {
            return None;
        }
        let context = self.next_context;
        self.next_context += 1;
        self.round = Some(Round { context, began: now, waiters: std::mem::take(&mut self.waiting) });
        Some(context)
    }

    /// Forgets the round under way; its readers join the next one. For when its answer can no longer come.
    pub(super) fn abandon_round(&mut self) {
        if let Some(round) = self.round.take() {
            self.waiting.extend(round.waiters);
        }
    }

    /// The round of `context` may be answered once `index` is applied. Answers to rounds of before mean nothing.
    pub(super) fn confirm(&mut self, context: u64, index: u64) {
        if let Some(round) = self.round.take_if(|round| round.context == context) {
            self.confirmed.push_back((index, round.waiters));
        }
    }

    /// Answers what `applied` allows.
    pub(super) fn answer(&mut self, applied: u64) {
        while let Some((_, waiters)) = self.confirmed.pop_front_if(|(index, _)| *index <= applied) {
            for waiter in waiters {
                waiter.answer(applied);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::handle::tests::read_waiter;

    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_round_answers_only_those_who_were_waiting() {
        let mut reads = Reads::new(10);
        let (early, mut early_answer) = read_waiter();
        reads.join([early].into_iter());
        assert_eq!(reads.begin(start()), Some(10));
        let (late, mut late_answer) = read_waiter();
        reads.join([late].into_iter());
        assert_eq!(reads.begin(start()), None, "one round at a time");
        reads.confirm(10, 5);
        reads.answer(4);
        assert!(early_answer.try_recv().is_err(), "not applied yet");
        reads.answer(6);
        assert_eq!(early_answer.try_recv(), Ok(6));
        assert!(late_answer.try_recv().is_err());
        assert_eq!(reads.begin(start()), Some(11));
        reads.confirm(11, 6);
        reads.answer(6);
        assert_eq!(late_answer.try_recv(), Ok(6));
    }

    #[test]
    fn a_lost_round_is_asked_again_with_a_new_index() {
        let mut reads = Reads::new(10);
        let (waiter, mut answer) = read_waiter();
        reads.join([waiter].into_iter());
        let began = start();
        assert_eq!(reads.begin(began), Some(10));
        assert_eq!(reads.begin(began + RETRY_AFTER / 2), None);
        assert_eq!(reads.begin(began + RETRY_AFTER), Some(11));
        reads.confirm(10, 3);
        reads.answer(9);
        assert!(answer.try_recv().is_err(), "the answer to the first question is stale");
        reads.confirm(11, 8);
        reads.answer(9);
        assert_eq!(answer.try_recv(), Ok(9));
    }

    #[test]
    fn readers_that_gave_up_are_not_asked_for() {
        let mut reads = Reads::new(10);
        let (waiter, answer) = read_waiter();
        reads.join([waiter].into_iter());
        drop(answer);
        assert_eq!(reads.begin(start()), None);
    }
}
