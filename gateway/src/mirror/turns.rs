//! Turns at receiving the past from the upstream.
//!
//! A catch-up may be of one event or of all there ever was. Thousands that begin at once, with all of them under way, would
//! fill the connections that every other call goes by too, and the upstream's processors. So few receive at a time. One
//! that turns out long gives place to those that have only begun, and goes on among its like, so that a client that comes
//! back after a moment does not wait for those that read everything.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Catch-ups that receive their first bytes.
const SHORT_MAX: usize = 8;
/// Catch-ups that go on after that.
const LONG_MAX: usize = 2;
/// What a catch-up receives before it counts as long: what a member sends at once, if objects are small.
const SHORT_BYTES: usize = 256 << 10;
/// What a long one receives before the next has its turn.
const LONG_BYTES: usize = 4 << 20;

/// The turns of a gateway's catch-ups.
pub(super) struct Turns {
    short: Semaphore,
    long: Semaphore,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { short: Semaphore::new(SHORT_MAX), long: Semaphore::new(LONG_MAX) }
    }
}

/// Leave to receive. Whoever does not receive, because its client does not or because nothing comes, gives it back.
pub(super) struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    /// What may still be received in it.
    bytes: usize,
}

impl Turns {
    /// Waits for a turn of a catch-up that has not received anything yet, or has.
    pub(super) async fn next(&self, is_long: bool) -> Turn<'_> {
        let (turns, bytes) = if is_long { (&self.long, LONG_BYTES) } else { (&self.short, SHORT_BYTES) };
        let permit = turns.acquire().await.expect("nobody closes the turns");
        Turn { _permit: permit, bytes }
    }

    /// A turn to go on without a pause, if nobody waits for one.
    pub(super) fn at_once(&self) -> Option<Turn<'_>> {
        // Who waits comes first: what is given back goes to them.
        self.long.try_acquire().ok().map(|permit| Turn { _permit: permit, bytes: LONG_BYTES })
    }
}

impl Turn<'_> {
    /// Takes note of what was received; returns whether that was all that this turn is for.
    pub(super) fn is_spent_by(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.bytes == 0
    }
}
