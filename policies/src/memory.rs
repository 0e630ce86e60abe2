//! A bound for the bytes of requests and answers that are under way, which bounds the memory of a gateway.
//!
//! An answer reserves what it is predicted to have and tops up while it comes, if the prediction was low. A part of the
//! whole is kept for what must never wait. Of answers that are a large part of the whole there is one at a time for
//! each prefix: several would hold each other up half-way.

use std::collections::HashSet;

/// The bytes in flight.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    /// Of these, kept for [`Urgency::Critical`].
    kept: u64,
    used: u64,
    /// The prefixes that a giant answer is under way for.
    giants: HashSet<u64>,
}

/// Who asks for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    Ordinary,
    Critical,
}

/// Memory that was granted. To be given back with [`Budget::release`] exactly once.
#[derive(Debug)]
#[must_use = "what is granted is used until it is released"]
pub struct Grant {
    bytes: u64,
    giant: Option<u64>,
    urgency: Urgency,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There will be when others have released theirs.
    Full,
    /// Another giant answer for the same prefix is under way.
    GiantUnderWay,
}

/// An answer that is predicted to use this part of the whole is a giant.
const GIANT_PART: u64 = 8;
/// The part that is kept for critical requests.
const KEPT_PART: u64 = 5;

impl Budget {
    /// `total` bytes, none of them used.
    pub fn new(total: u64) -> Budget {
        Budget { total, kept: total / KEPT_PART, used: 0, giants: HashSet::new() }
    }

    /// Reserves what a request and its answer are predicted to use. What is more than there is at all is granted all
    /// there is: it is served in parts of that size. `prefix` stands for what the request lists.
    pub fn reserve(&mut self, bytes: u64, urgency: Urgency, prefix: u64) -> Result<Grant, Denied> {
        let available = self.available(urgency);
        let bytes = bytes.min(self.largest());
        let giant = (bytes >= self.total / GIANT_PART && urgency == Urgency::Ordinary).then_some(prefix);
        if giant.is_some_and(|prefix| self.giants.contains(&prefix)) {
            return Err(Denied::GiantUnderWay);
        }
        if bytes > available {
            return Err(Denied::Full);
        }
        self.giants.extend(giant);
        self.used += bytes;
        Ok(Grant { bytes, giant, urgency })
    }

    /// Adds to a grant when more has come than was predicted. When there is no more, the answer has to wait for its
    /// client to take what is there already.
    pub fn top_up(&mut self, grant: &mut Grant, bytes: u64) -> Result<(), Denied> {
        if bytes > self.available(grant.urgency) {
            return Err(Denied::Full);
        }
        self.used += bytes;
        grant.bytes += bytes;
        Ok(())
    }

    /// Gives back what a client has taken while the answer goes on.
    pub fn shrink(&mut self, grant: &mut Grant, bytes: u64) {
        let bytes = bytes.min(grant.bytes);
        grant.bytes -= bytes;
        self.used -= bytes;
    }

    /// The request is over.
    pub fn release(&mut self, grant: Grant) {
        self.used -= grant.bytes;
        if let Some(prefix) = grant.giant {
            self.giants.remove(&prefix);
        }
    }

    /// The bytes in use, and all there are.
    pub fn used(&self) -> (u64, u64) {
        (self.used, self.total)
    }

    /// The most that one request may have.
    pub fn largest(&self) -> u64 {
        (self.total - self.kept) / 2
    }

    fn available(&self, urgency: Urgency) -> u64 {
        let kept = if urgency == Urgency::Critical { 0 } else { self.kept };
        self.total.saturating_sub(self.used).saturating_sub(kept)
    }
}

impl Grant {
    /// How many bytes it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Urgency::{Critical, Ordinary};

    #[test]
    fn ordinary_requests_leave_a_fifth_to_critical_ones() {
        let mut budget = Budget::new(1_000);
        let grants: Vec<Grant> = (0..8).map(|_| budget.reserve(100, Ordinary, 0).expect("room")).collect();
        assert_eq!(budget.reserve(1, Ordinary, 0).expect_err("full"), Denied::Full);
        let critical = budget.reserve(200, Critical, 0).expect("kept for it");
        assert_eq!(budget.reserve(1, Critical, 0).expect_err("full"), Denied::Full);
        assert_eq!(budget.used(), (1_000, 1_000));
        grants.into_iter().chain([critical]).for_each(|grant| budget.release(grant));
        assert_eq!(budget.used(), (0, 1_000));
    }

    #[test]
    fn giants_of_one_prefix_come_one_at_a_time() {
        let mut budget = Budget::new(1_000);
        let first = budget.reserve(200, Ordinary, 7).expect("room");
        assert_eq!(budget.reserve(200, Ordinary, 7).expect_err("one at a time"), Denied::GiantUnderWay);
        let other = budget.reserve(200, Ordinary, 8).expect("another prefix");
        let small = budget.reserve(10, Ordinary, 7).expect("no giant");
        [first, other, small].into_iter().for_each(|grant| budget.release(grant));
        let again = budget.reserve(u64::MAX, Ordinary, 7).expect("cut to what one may have");
        assert_eq!(again.bytes(), budget.largest());
        budget.release(again);
    }

    #[test]
    fn an_answer_tops_up_and_gives_back_as_it_goes() {
        let mut budget = Budget::new(1_000);
        let mut grant = budget.reserve(100, Ordinary, 0).expect("room");
        budget.top_up(&mut grant, 700).expect("room");
        assert_eq!(budget.top_up(&mut grant, 1), Err(Denied::Full));
        budget.shrink(&mut grant, 500);
        assert_eq!((grant.bytes(), budget.used().0), (300, 300));
        budget.release(grant);
        assert_eq!(budget.used().0, 0);
    }
}
