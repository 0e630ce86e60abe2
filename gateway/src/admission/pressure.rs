//! What is refused before it waits, because waiting would help nobody: when the upstream refuses much of what it is
//! sent, a part is refused here in its place; when everybody waits for long, the least important are refused.

use std::time::{Duration, Instant};

use forebay_policies::{
    LevelId,
    adaptive::Outcome,
    shed::{self, Shedder},
    throttle::{self, Throttle},
};
use parking_lot::Mutex;
use rand::Rng as _;

use super::seats::now;

/// A mean wait beyond this helps nobody: the queues have begun to shed long before.
const WAIT_MAX: Duration = Duration::from_millis(500);
const HOUR: u64 = 3600;

pub(super) struct Pressure {
    began: Instant,
    state: Mutex<State>,
}

struct State {
    throttle: Throttle,
    shedder: Shedder,
}

impl Pressure {
    pub(super) fn new() -> Pressure {
        let throttle = Throttle::new(throttle::Admission::default());
        let state = State { throttle, shedder: Shedder::new(WAIT_MAX) };
        Pressure { began: now(), state: Mutex::new(state) }
    }

    /// Why a request of this level and flow goes no further, if it does not. Levels that stand first in the policy are
    /// the most important.
    pub(super) fn refuses(&self, level: LevelId, flow: u64) -> Option<&'static str> {
        let now = now();
        let hour = now.saturating_duration_since(self.began).as_secs() / HOUR;
        let mut state = self.state.lock();
        if !state.shedder.admits(now, level.0, shed::cohort(flow, hour)) {
            return Some("shed");
        }
        let admitted = state.throttle.admits(now, rand::rng().random());
        (!admitted).then_some("upstream-overloaded")
    }

    /// A request has waited this long for its seat.
    pub(super) fn waited(&self, wait: Duration) {
        self.state.lock().shedder.record(now(), wait);
    }

    /// The upstream has answered.
    pub(super) fn answered(&self, outcome: Outcome) {
        self.state.lock().throttle.record(now(), outcome == Outcome::Served);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_refuses_is_sent_less_and_one_that_serves_everything() {
        let pressure = Pressure::new();
        let refused = || (0..200).filter(|flow| pressure.refuses(LevelId(0), *flow).is_some()).count();
        for _ in 0..500 {
            pressure.answered(Outcome::Served);
        }
        assert_eq!(refused(), 0);
        for _ in 0..2_000 {
            pressure.answered(Outcome::Overloaded);
        }
        assert!((100..200).contains(&refused()), "most, and never all: its recovery must be noticed");
    }
}
