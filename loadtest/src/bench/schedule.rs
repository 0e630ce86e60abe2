//! When requests are meant to be sent.
//!
//! A schedule says of each request its time, and not of each time what is sent: whoever is late stays late, and the
//! latency that is reported is counted from here (no coordinated omission).

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

/// How many requests a second, over the time of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate(Vec<Step>);

/// An equal part of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    from: f64,
    to: f64,
}

impl Rate {
    /// The same all the time.
    pub fn constant(per_second: f64) -> Rate {
        Rate(vec![Step { from: per_second, to: per_second }])
    }

    /// The same course with a part of the requests.
    pub fn part(&self, share: f64) -> Rate {
        Rate(self.0.iter().map(|step| Step { from: step.from * share, to: step.to * share }).collect())
    }

    /// Whether nothing is ever sent.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|step| step.from == 0.0 && step.to == 0.0)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = |Step { from, to }: &Step| if from == to { format!("{to}") } else { format!("{from}..{to}") };
        write!(f, "{}/s", self.0.iter().map(step).collect::<Vec<_>>().join(","))
    }
}

/// `2000`, `2000/s`, `100..5000` to climb, `500,1000,2000` for parts of equal length.
impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let number = |text: &str| {
            let text = text.trim();
            let (number, seconds) = match text.split_once('/') {
                None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
                Some((number, "m")) => (number, 60.0),
                Some(_) => return Err(format!("{text} is no rate; write 2000/s or 100/m")),
            };
            match number.parse::<f64>() {
                Ok(rate) if rate.is_finite() && (0.0..=1e9).contains(&rate) => Ok(rate / seconds),
                _ => Err(format!("{text} is no rate; write 2000/s, 100..5000 to climb, or 500,1000,2000 for steps")),
            }
        };
        let step = |text: &str| match text.split_once("..") {
            Some((from, to)) => Ok(Step { from: number(from)?, to: number(to)? }),
            None => number(text).map(|rate| Step { from: rate, to: rate }),
        };
        text.split(',').map(step).collect::<Result<_, String>>().map(Rate)
    }
}

/// The times of all requests of a run.
#[derive(Clone, Debug)]
pub struct Schedule {
    times: Times,
    total: u64,
}

#[derive(Clone, Debug)]
enum Times {
    /// By a rate.
    Rate(Vec<Part>),
    /// Each by itself, in their order.
    Each(Arc<[Duration]>),
}

#[derive(Clone, Copy, Debug)]
struct Part {
    begin: f64,
    length: f64,
    step: Step,
    /// How many requests are before it.
    before: f64,
}

impl Part {
    fn count(&self, elapsed: f64) -> f64 {
        let elapsed = elapsed.clamp(0.0, self.length);
        let climb = (self.step.to - self.step.from) / self.length;
        self.step.from * elapsed + climb * elapsed * elapsed / 2.0
    }
}

impl Schedule {
    /// A warm-up at the rate that the run begins with, and then the run.
    pub fn new(rate: &Rate, warm_up: Duration, run: Duration) -> Schedule {
        let first = rate.0[0];
        let idle = if first.from > 0.0 { first.from } else { first.to };
        let mut parts = vec![];
        let (mut begin, mut before) = (0.0, 0.0);
        let mut add = |step: Step, length: f64| {
            if length > 0.0 {
                let part = Part { begin, length, step, before };
                begin += length;
                before += part.count(length);
                parts.push(part);
            }
        };
        add(Step { from: idle, to: idle }, warm_up.as_secs_f64());
        for step in &rate.0 {
            add(*step, run.as_secs_f64() / rate.0.len() as f64);
        }
        Schedule { times: Times::Rate(parts), total: before.round() as u64 }
    }

    /// At these times, which are in order.
    pub fn at_times(times: impl Iterator<Item = Duration>) -> Schedule {
        let times: Arc<[Duration]> = times.collect();
        Schedule { total: times.len() as u64, times: Times::Each(times) }
    }

    /// How many requests there are in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The same, with no more than so many requests.
    pub fn at_most(self, total: u64) -> Schedule {
        Schedule { total: self.total.min(total), ..self }
    }

    /// How many are due by then.
    pub fn due(&self, elapsed: Duration) -> u64 {
        let parts = match &self.times {
            Times::Rate(parts) => parts,
            Times::Each(times) => return (times.partition_point(|at| *at <= elapsed) as u64).min(self.total),
        };
        let elapsed = elapsed.as_secs_f64();
        let due = parts.iter().map(|part| part.count(elapsed - part.begin)).sum::<f64>();
        // The first is due at once.
        (due.floor() as u64 + 1).min(self.total)
    }

    /// When a request is due, the first of them being 0.
    pub fn at(&self, request: u64) -> Duration {
        let parts = match &self.times {
            Times::Rate(parts) => parts,
            Times::Each(times) => return times[usize::try_from(request).expect("it is one of them")],
        };
        let request = request as f64;
        let part = parts.iter().rev().find(|part| part.before <= request);
        let Some(Part { begin, length, step, before }) = part else { return Duration::ZERO };
        let (rest, climb) = (request - before, (step.to - step.from) / length);
        // from·t + climb·t²/2 = rest, in the form that bears a climb of nothing.
        let root = (step.from * step.from + 2.0 * climb * rest).max(0.0).sqrt();
        let elapsed = if rest == 0.0 { 0.0 } else { 2.0 * rest / (step.from + root) };
        Duration::from_secs_f64(begin + elapsed.min(*length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(rate: &str, warm_up: u32, run: u32) -> Schedule {
        Schedule::new(&rate.parse().expect("a rate"), warm_up * SECOND, run * SECOND)
    }

    #[test]
    fn a_constant_rate_is_evenly_spaced() {
        let schedule = schedule("4/s", 0, 10);
        assert_eq!(schedule.total(), 40);
        assert_eq!((schedule.at(0), schedule.at(1), schedule.at(39)), (Duration::ZERO, SECOND / 4, SECOND * 39 / 4));
        assert_eq!((schedule.due(Duration::ZERO), schedule.due(SECOND), schedule.due(SECOND * 99)), (1, 5, 40));
    }

    #[test]
    fn a_climb_sends_what_lies_under_it_and_later_ones_closer_together() {
        let schedule = schedule("0..100", 0, 10);
        assert_eq!(schedule.total(), 500);
        assert!(schedule.at(1) > schedule.at(499) - schedule.at(498));
        assert!((schedule.at(125).as_secs_f64() - 5.0).abs() < 0.01, "a quarter is sent in the first half");
    }

    #[test]
    fn when_a_request_is_due_and_what_is_due_agree() {
        for rate in ["1000", "0..1000", "1000..10", "10,1000,50..60", "60/m"] {
            let schedule = schedule(rate, 2, 9);
            for request in (0..schedule.total()).step_by(7) {
                let due = schedule.due(schedule.at(request) + Duration::from_micros(1));
                assert!((request..=request + 2).contains(&due), "{rate}: {request} is due among {due}");
            }
        }
    }

    #[test]
    fn times_that_were_recorded_are_kept() {
        let schedule = Schedule::at_times([0, 2, 2, 5].into_iter().map(Duration::from_secs));
        let due = [0, 1, 2, 4, 5, 9].map(|seconds| schedule.due(Duration::from_secs(seconds)));
        assert_eq!((schedule.total(), due), (4, [1, 1, 3, 3, 4, 4]));
        assert_eq!((schedule.at(2), schedule.at(3)), (SECOND * 2, SECOND * 5));
    }

    #[test]
    fn what_is_no_rate_says_how_to_write_one() {
        for text in ["", "fast", "1/h", "-5", "1..x", "1e99"] {
            let error = text.parse::<Rate>().expect_err(text);
            assert!(error.contains("write"), "{error}");
        }
    }

    #[test]
    fn parts_of_a_rate_make_the_whole() {
        let rate: Rate = "100..200".parse().expect("a rate");
        let part = Schedule::new(&rate.part(0.25), Duration::ZERO, SECOND * 4);
        assert_eq!(part.total() * 4, Schedule::new(&rate, Duration::ZERO, SECOND * 4).total());
    }
}
