//! Where a member gets the time from.

use std::time::Instant;

/// A monotonic clock. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// That of the operating system.
    #[default]
    System,
    /// One that a simulation moves.
    #[cfg(test)]
    Simulated(std::sync::Arc<parking_lot::Mutex<Instant>>),
}

impl Clock {
    /// The time, which never goes back.
    pub fn now(&self) -> Instant {
        match self {
            Clock::System => Instant::now(),
            #[cfg(test)]
            Clock::Simulated(now) => *now.lock(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn a_simulated_clock_stands_where_it_is_put() {
        let start = Instant::now();
        let hand = Arc::new(Mutex::new(start));
        let clock = Clock::Simulated(hand.clone());
        assert_eq!(clock.now(), start);
        *hand.lock() += Duration::from_secs(3600);
        assert_eq!(clock.now() - start, Duration::from_secs(3600));
    }
}
