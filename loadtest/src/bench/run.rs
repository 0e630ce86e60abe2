//! One run of a load against one target.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};

use super::{
    meter::{EVENT, Failure, Interval, Meter},
    misuse::Misuse,
    pace::Pacer,
    scenario::{BYSTANDER, Scenario, Shape, load},
    schedule::{Rate, Schedule},
    watchers::{Clock, Expected, Watchers},
    worker::Worker,
};
use crate::{
    abuse,
    client::{Connection, Target},
};

/// Sent later than this after it was meant to be, a request counts as late.
const LATE: Duration = Duration::from_millis(1);

/// How often what was measured is collected.
pub const TICK: Duration = Duration::from_secs(1);

/// How events may follow behind the last write where it is not known how many there will be.
const EVENTS_FOLLOW: Duration = Duration::from_millis(500);

/// How often it is looked whether all events are there.
const EVENTS_LOOK: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What kind of load.
    pub scenario: Scenario,
    /// The sizes of things.
    pub shape: Arc<Shape>,
    /// How many connections.
    pub connections: usize,
    /// How many clients share them: so many requests can be under way.
    pub clients: usize,
    /// How many requests a second; without, each client sends as soon as it has its answer.
    pub rate: Option<Rate>,
    /// How long it runs before anything is measured.
    pub warm_up: Duration,
    /// How long it is measured.
    pub duration: Duration,
    /// How many requests there are at most.
    pub total: u64,
    /// How long an answer may take.
    pub timeout: Duration,
    /// What is done to the target, by the scenario of abuse.
    pub misuse: Misuse,
    /// Where chance begins.
    pub seed: u64,
    /// When to begin, where several processes are to begin together; else at once.
    pub begin: Option<SystemTime>,
}

/// What one run measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// From the first measured request to the last answer.
    pub seconds: f64,
    /// All of it.
    pub all: Interval,
    /// By kind of operation, a second at a time.
    pub timeline: BTreeMap<String, Vec<Point>>,
}

/// A second of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// Seconds since the measured part began.
    pub at: f64,
    /// Operations that were answered in it.
    pub answered: u64,
    /// Of all kinds, those that failed.
    pub failed: u64,
    /// Milliseconds that half of them took at most.
    pub p50_ms: f64,
    /// Milliseconds that 99 of 100 took at most.
    pub p99_ms: f64,
    /// Milliseconds of the longest.
    pub max_ms: f64,
}

/// Milliseconds, as everything prints them.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Measured {
    /// Takes in what was measured in one more second.
    pub fn tick(&mut self, interval: &Interval) {
        self.seconds += TICK.as_secs_f64();
        for name in interval.series.keys() {
            self.timeline.entry(name.clone()).or_default();
        }
        for (name, points) in &mut self.timeline {
            let latencies = interval.series.get(name).cloned().unwrap_or_default();
            points.push(Point {
                at: self.seconds,
                answered: interval.answered_of(name),
                failed: interval.failed(),
                p50_ms: milliseconds(latencies.percentile(50.0)),
                p99_ms: milliseconds(latencies.percentile(99.0)),
                max_ms: milliseconds(latencies.max()),
            });
        }
        self.all.add(interval);
    }

    /// Answered operations of a kind, a second.
    pub fn rate(&self, series: &str) -> f64 {
        self.all.answered_of(series) as f64 / self.seconds.max(1e-9)
    }
}

impl Plan {
    /// What it is, in a sentence.
    pub fn describe(&self) -> String {
        let Plan { scenario, clients, connections, duration, total, .. } = self;
        let pace = match (&self.rate, scenario) {
            (_, Scenario::Replay) => "open loop as recorded".to_owned(),
            (_, Scenario::Abuse) => {
                let entries: Vec<&str> = self.misuse.entries.iter().map(|entry| entry.name()).collect();
                format!("{} beside {} puts a second", entries.join(", "), self.shape.bystander_rate)
            }
            (Some(rate), _) => format!("open loop at {rate}"),
            (None, _) => "closed loop".to_owned(),
        };
        let length = if *total == u64::MAX { format!("{duration:?}") } else { format!("{total} requests") };
        format!("{scenario}, {pace}, {clients} clients on {connections} connections, {length} a turn")
    }

    /// Writes the keys that have to be there.
    pub async fn prepare(&self, target: &Target) -> anyhow::Result<()> {
        if self.scenario == Scenario::Abuse {
            return abuse::preload(target, self.misuse.size).await;
        }
        let count = self.scenario.preload(&self.shape);
        if count > 0 {
            load(&target.connect(self.connections.min(4)).await?, &self.shape, count).await?;
        }
        Ok(())
    }

    /// A part of it, for one process of several.
    pub fn part(&self, index: usize, parts: usize) -> Plan {
        let share = |count: usize| (count / parts + usize::from(index < count % parts)).max(1);
        let shape = Shape {
            bystander_rate: self.shape.bystander_rate / parts as f64,
            recording: self.shape.recording.as_ref().map(|recording| Arc::new(recording.part(index, parts))),
            ..(*self.shape).clone()
        };
        Plan {
            shape: Arc::new(shape),
            misuse: Misuse { size: self.misuse.size / parts as f64, ..self.misuse.clone() },
            connections: share(self.connections),
            clients: share(self.clients),
            rate: self.rate.as_ref().map(|rate| rate.part(1.0 / parts as f64)),
            total: if self.total == u64::MAX { u64::MAX } else { self.total.div_ceil(parts as u64) },
            seed: self.seed.wrapping_add((index as u64) << 32),
            ..self.clone()
        }
    }

    /// Runs it. `tick` hears of every second that was measured, and at last of what was left.
    /// Returns how long the measured part lasted.
    pub async fn run(&self, target: &Target, mut tick: impl FnMut(&Interval)) -> anyhow::Result<f64> {
        let connections: Arc<[Connection]> = target.connect(self.connections).await?.into();
        let (meter, clock) = (Arc::new(Meter::default()), Clock::new());
        // Watchers are created before anything begins; how long that takes is not part of it.
        let mut watchers = None;
        if self.scenario.watches() {
            watchers = Some(Watchers::create(self.scenario, &self.shape, &connections).await?);
        }
        let wait = self.begin.and_then(|begin| begin.duration_since(SystemTime::now()).ok()).unwrap_or_default();
        tokio::time::sleep(wait).await;
        let begin = Instant::now();
        let measured_from = begin + self.warm_up;
        let expected = Arc::new(Expected::default());
        // A value that is too short does not say when it was meant to be written.
        let counts_events = matches!(self.scenario, Scenario::Watch | Scenario::WatchLatency)
            && self.shape.value_size >= size_of::<u64>();
        if let Some(watchers) = &mut watchers {
            watchers.listen(&meter, &expected, clock, measured_from);
        }
        let misusing = (self.scenario == Scenario::Abuse).then(|| {
            tokio::spawn(self.misuse.clone().run(target.clone(), measured_from, self.duration, Arc::clone(&meter)))
        });
        let mut clients = JoinSet::new();
        let mut number = 0;
        for flow in self.scenario.flows(&self.shape, self.clients) {
            let rate = flow.own_rate.map(Rate::constant).or_else(|| self.rate.clone());
            let schedule = match (&self.shape.recording, rate.filter(|rate| !rate.is_zero())) {
                (Some(recording), _) => Some(Schedule::at_times(recording.times())),
                (None, Some(rate)) => Some(Schedule::new(&rate, self.warm_up, self.duration)),
                (None, None) => None,
            };
            let pacer = match schedule {
                Some(schedule) => Pacer::open(schedule.at_most(self.total), begin, flow.clients),
                None => Pacer::closed(measured_from + self.duration, self.total),
            };
            for client in 0..flow.clients {
                let place = (client, flow.clients);
                let mut worker = Worker::new(&self.shape, &connections, number, self.seed, place);
                let (pacer, meter, limit, flow) = (Arc::clone(&pacer), Arc::clone(&meter), self.timeout, flow.clone());
                let misuse =
                    (misusing.is_some() && flow.series == BYSTANDER).then(|| (self.misuse.clone(), self.duration));
                let own = number;
                let expected = counts_events.then(|| Arc::clone(&expected));
                clients.spawn(async move {
                    while let Some(slot) = pacer.next().await {
                        let is_late = slot.intended.elapsed() > LATE;
                        let since_epoch = clock.since_epoch(slot.intended);
                        let expected = expected.as_ref().filter(|_| slot.intended >= measured_from);
                        if let Some(expected) = expected {
                            expected.sent(since_epoch);
                        }
                        let outcome = timeout(limit, worker.act(flow.action, slot.number, since_epoch)).await;
                        if slot.intended < measured_from {
                            continue;
                        }
                        if let (Some(expected), Ok(Ok(_))) = (expected, &outcome) {
                            expected.answered(since_epoch, worker.heard_by);
                        }
                        if is_late {
                            meter.late(own);
                        }
                        let beside = misuse
                            .as_ref()
                            .and_then(|(misuse, run)| misuse.series_at(slot.intended - measured_from, *run))
                            .filter(|_| !matches!(outcome, Ok(Err(_))));
                        if let Some(series) = beside {
                            meter.record(own, series, slot.intended.elapsed());
                        }
                        match outcome {
                            Ok(Ok(other)) => meter.record(own, other.unwrap_or(flow.series), slot.intended.elapsed()),
                            Ok(Err(status)) => meter.fail(own, Failure::from(&status)),
                            Err(_) => {
                                let text = format!("no answer within {limit:?}");
                                let failure = Failure { code: "(none)".to_owned(), text };
                                meter.give_up(own, flow.series, slot.intended.elapsed(), failure);
                            }
                        }
                    }
                });
                number += 1;
            }
        }
        let mut next_tick = measured_from + TICK;
        loop {
            let wait = tokio::time::sleep_until(next_tick.into());
            let is_done = tokio::select! {
                () = async { while clients.join_next().await.is_some() {} } => true,
                () = wait => false,
            };
            if is_done {
                break;
            }
            tick(&meter.drain());
            next_tick += TICK;
        }
        if let Some(misusing) = misusing {
            misusing.await.context("the abuse panicked")?.context("the abuse")?;
        }
        let elapsed = measured_from.elapsed().as_secs_f64();
        if counts_events {
            self.wait_for_events(&expected, &meter, clock).await;
        } else if watchers.is_some() {
            tokio::time::sleep(EVENTS_FOLLOW).await;
        }
        drop(watchers);
        tick(&meter.drain());
        Ok(elapsed)
    }

    /// Waits until every watcher has heard of every put, as long as for an answer; what is missing then has failed.
    async fn wait_for_events(&self, expected: &Expected, meter: &Meter, clock: Clock) {
        let until = Instant::now() + self.timeout;
        while Instant::now() < until && !expected.missing().is_empty() {
            tokio::time::sleep(EVENTS_LOOK).await;
        }
        let now = clock.since_epoch(Instant::now());
        for (at, count) in expected.missing() {
            for _ in 0..count {
                let text = format!("an event did not come within {:?}", self.timeout);
                let failure = Failure { code: "(none)".to_owned(), text };
                meter.give_up(0, EVENT, now.saturating_sub(at), failure);
            }
        }
    }
}
