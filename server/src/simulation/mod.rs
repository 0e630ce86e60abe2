//! A whole cluster in one thread, from one seed.
//!
//! The members are real from the mailbox of the raft driver down to their files: driver, raft step, WAL, apply, keyspace,
//! lease table, watch hub, compaction, db file. What stands around them in a process is simulated: the network loses,
//! delays, repeats, reorders and is cut; disks lose and tear what was not synced, and change what was; clocks go wrong;
//! processes stop, end and come back; members join and leave. Then everything is healed, and the cluster must come to rest, all members alike.
//!
//! [`world`] is the queue of what is to happen, [`member`] one machine, [`faults`] and [`damage`] what goes wrong,
//! [`clients`] and [`watchers`] those who use the cluster; [`judge`] knows what must hold, and compares everything that anybody is told
//! with the plain [`model`] of the log. [`plan`] makes a different mixture of each seed.
//!
//! `SEED=n` runs one seed alone, `HOURS=n` as many as it takes to simulate that long.

mod clients;
mod damage;
mod failpoints;
mod faults;
mod judge;
mod member;
mod model;
mod plan;
mod rest;
mod watchers;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use self::{
    damage::Damages,
    plan::{Bug, Plan},
    world::World,
};
use crate::raft::panic_text;

/// How long a healed cluster may take to come to rest: elections, leases that run out, snapshots.
const REST: Duration = Duration::from_secs(120);

/// What a run was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Report {
    simulated: Duration,
    operations: u64,
    entries: u64,
    expired: u64,
    events: u64,
    damages: Damages,
    trace: u64,
}

impl Report {
    /// The order in which runs end changes nothing.
    fn add(&mut self, other: Report) {
        self.simulated += other.simulated;
        self.operations += other.operations;
        self.entries += other.entries;
        self.expired += other.expired;
        self.events += other.events;
        self.damages.done += other.damages.done;
        self.damages.refused += other.damages.refused;
        self.damages.unlike += other.damages.unlike;
        self.trace ^= other.trace;
    }
}

/// Runs a seed. Panics when something does not hold.
fn run(seed: u64, plan: Plan) -> Report {
    let chaos = plan.chaos;
    let mut world = World::new(seed, plan);
    world.run_to(chaos);
    world.heal();
    world.run_to(chaos + REST / 2);
    world.open = false;
    world.run_to(chaos + REST);
    world.check_rest();
    Report {
        simulated: world.now,
        operations: world.judge.checked,
        entries: world.judge.log_len(),
        expired: world.judge.expired,
        events: world.watchers.iter().map(|watcher| watcher.events).sum(),
        damages: world.damages,
        trace: world.trace(),
    }
}

/// Runs seeds on all processors until `hours` are simulated; `Err` says which did not hold, and why.
fn run_for(hours: f64, first: u64) -> Result<(Report, u64), String> {
    let (next, total, failed) = (AtomicU64::new(first), Mutex::new((Report::default(), 0)), Mutex::new(None));
    let wanted = Duration::from_secs_f64(hours * 3600.0);
    let work = || {
        while total.lock().0.simulated < wanted && failed.lock().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            match catch_unwind(AssertUnwindSafe(|| run(seed, Plan::of(seed)))) {
                Ok(report) => {
                    let mut total = total.lock();
                    total.0.add(report);
                    total.1 += 1;
                }
                Err(panic) => *failed.lock() = Some(format!("SEED={seed}: {}", panic_text(&*panic))),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    match failed.into_inner() {
        Some(failed) => Err(failed),
        None => Ok(total.into_inner()),
    }
}

fn number(name: &str) -> Option<f64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

#[test]
fn a_cluster_keeps_its_promises_whatever_happens_to_it() {
    if let Some(seed) = number("SEED") {
        println!("{:?}", run(seed as u64, Plan::of(seed as u64)));
        return;
    }
    let began = Instant::now();
    let (total, runs) = run_for(number("HOURS").unwrap_or(0.5), 0).unwrap_or_else(|failed| panic!("{failed}"));
    let (hours, took) = (total.simulated.as_secs_f64() / 3600.0, began.elapsed().as_secs_f64());
    println!(
        "{hours:.1} cluster-hours in {took:.1} s ({runs} runs): {} operations checked ({:.0} a second), {} entries, \
         {} events, {} leases expired; of {} disks that were damaged {} were refused, {} for their keys; trace {:016x}",
        total.operations,
        total.operations as f64 / took,
        total.entries,
        total.events,
        total.expired,
        total.damages.done,
        total.damages.refused,
        total.damages.unlike,
        total.trace
    );
    // Runs that do nothing prove nothing.
    assert!(total.operations as f64 > 1000.0 * hours && total.events > 0 && total.expired > 0);
}

#[test]
fn a_run_is_decided_by_its_seed() {
    for seed in [1, 2] {
        let plan = || Plan { chaos: Duration::from_secs(200), ..Plan::of(seed) };
        assert_eq!(run(seed, plan()), run(seed, plan()));
    }
}

#[test]
fn a_member_may_end_at_every_failpoint() {
    let mut runs = 0;
    while !failpoints::untouched().is_empty() && runs < 40 {
        run(runs, Plan::with_failpoints(runs, failpoints::untouched()));
        runs += 1;
        let untouched = failpoints::untouched();
        println!("after {runs} runs {} places are left: {:?}", untouched.len(), &untouched[..untouched.len().min(5)]);
    }
    let untouched = failpoints::untouched();
    assert!(untouched.is_empty(), "in {runs} runs no member ended at {untouched:?}");
    println!("members ended at all {} failpoints, in {runs} runs", forebay_storage::failpoint::Point::ALL.len());
}

#[test]
fn damaged_disks_are_refused_and_members_replaced() {
    let mut found = Report::default();
    for seed in 0..4 {
        found.add(run(seed, Plan::with_damage(seed)));
    }
    println!("{:?}", found.damages);
    let Damages { done, refused, unlike } = found.damages;
    assert!(done > refused && refused > unlike && unlike > 0, "{:?}", found.damages);
}

#[test]
fn bugs_that_are_planted_are_found() {
    for bug in Bug::ALL {
        let finds = |seed| catch_unwind(AssertUnwindSafe(|| run(seed, Plan::with_bug(seed, bug)))).is_err();
        assert!((0..50).any(finds), "nothing was found wrong with {bug:?}");
    }
}
