use std::{collections::HashMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{Codel, builtin, testing::start, units::Percent};

const MS: Duration = Duration::from_millis(1);

/// A level of these shares, with Kubernetes' queues.
fn level(name: &str, shares: u32) -> policy::Level {
    let codel = Codel { target: 50 * MS, interval: 100 * MS };
    policy::Level { exempt: false, shares, queues: 64, hand_size: 6, codel, ..builtin::level(name) }
}

fn entry(level: usize, flow: u64, seats: u32) -> Entry {
    Entry { level: LevelId(level), flow, seats, patience: Duration::from_secs(2) }
}

/// Admits at once, or panics.
fn admit(scheduler: &mut Scheduler, now: Instant, entry: Entry) -> Ticket {
    match scheduler.enqueue(now, entry) {
        Enqueued::Admitted(ticket) => ticket,
        other => panic!("not admitted: {other:?}"),
    }
}

fn queue(scheduler: &mut Scheduler, now: Instant, entry: Entry) -> Ticket {
    match scheduler.enqueue(now, entry) {
        Enqueued::Queued(ticket) => ticket,
        other => panic!("not queued: {other:?}"),
    }
}

fn poll(scheduler: &mut Scheduler, now: Instant) -> Vec<Woken> {
    let mut woken = Vec::new();
    scheduler.poll(now, &mut woken);
    woken
}

#[test]
fn what_finds_a_seat_is_admitted_and_what_does_not_waits_for_one() {
    let (now, mut scheduler) = (start(), Scheduler::new(&[level("a", 1)], 2));
    let first = admit(&mut scheduler, now, entry(0, 1, 1));
    let second = admit(&mut scheduler, now, entry(0, 2, 1));
    let third = queue(&mut scheduler, now, entry(0, 3, 1));
    assert_eq!(poll(&mut scheduler, now), []);
    scheduler.finish(now + MS, second);
    assert_eq!(poll(&mut scheduler, now + MS), [Woken::Admitted(third)]);
    assert_eq!(scheduler.seats(), (2, 2));
    scheduler.finish(now + MS, first);
    scheduler.finish(now + MS, third);
    scheduler.finish(now + MS, third);
    assert_eq!(scheduler.seats(), (2, 0), "a ticket that is over is over");
}

#[test]
fn a_wait_ends_with_the_patience_of_its_caller_or_of_its_level() {
    let (now, mut scheduler) = (start(), Scheduler::new(&[level("a", 1)], 1));
    let running = admit(&mut scheduler, now, entry(0, 1, 1));
    let long = queue(&mut scheduler, now, Entry { patience: Duration::from_secs(60), ..entry(0, 1, 1) });
    let short = queue(&mut scheduler, now, Entry { patience: 30 * MS, ..entry(0, 1, 1) });
    assert_eq!(scheduler.poll_at(), Some(now + 30 * MS));
    assert_eq!(poll(&mut scheduler, now + 29 * MS), []);
    assert_eq!(poll(&mut scheduler, now + 30 * MS), [Woken::Rejected(short, Rejected::TimedOut)]);
    assert_eq!(scheduler.poll_at(), Some(now + 2_000 * MS));
    assert_eq!(poll(&mut scheduler, now + 2_000 * MS), [Woken::Rejected(long, Rejected::TimedOut)]);
    assert_eq!(scheduler.poll_at(), None);
    let impatient = scheduler.enqueue(now, Entry { patience: Duration::ZERO, ..entry(0, 1, 1) });
    assert_eq!(impatient, Enqueued::Rejected(Rejected::TimedOut));
    scheduler.finish(now + 2_000 * MS, running);
    assert_eq!(scheduler.seats(), (1, 0));
}

#[test]
fn a_caller_that_is_gone_does_not_hold_up_those_behind_it() {
    let (now, mut scheduler) = (start(), Scheduler::new(&[level("a", 1)], 1));
    let running = admit(&mut scheduler, now, entry(0, 1, 1));
    let gone = queue(&mut scheduler, now, entry(0, 1, 1));
    let waits = queue(&mut scheduler, now, entry(0, 1, 1));
    scheduler.finish(now, gone);
    scheduler.finish(now, running);
    assert_eq!(poll(&mut scheduler, now), [Woken::Admitted(waits)]);
}

#[test]
fn exempt_requests_neither_wait_nor_count() {
    let exempt = policy::Level { exempt: true, ..level("exempt", 1) };
    let (now, mut scheduler) = (start(), Scheduler::new(&[level("a", 1), exempt], 1));
    admit(&mut scheduler, now, entry(0, 1, 1));
    let tickets: Vec<Ticket> = (0..100).map(|_| admit(&mut scheduler, now, entry(1, 1, 1))).collect();
    assert_eq!(scheduler.seats(), (1, 1));
    tickets.into_iter().for_each(|ticket| scheduler.finish(now, ticket));
}

#[test]
fn a_level_borrows_what_is_idle_and_gives_it_back_first() {
    let (now, mut scheduler) = (start(), Scheduler::new(&[level("a", 30), level("b", 10)], 40));
    let borrowed: Vec<Ticket> = (0..40).map(|flow| admit(&mut scheduler, now, entry(1, flow, 1))).collect();
    let waiting = queue(&mut scheduler, now, entry(1, 1, 1));
    let late = queue(&mut scheduler, now, entry(0, 1, 1));
    scheduler.finish(now, borrowed[0]);
    assert_eq!(poll(&mut scheduler, now), [Woken::Admitted(late)], "a's request came later, but the seats are a's");
    scheduler.finish(now, waiting);
}

#[test]
fn what_a_level_does_not_lend_is_free_when_it_comes() {
    let kept = policy::Level { lendable: Percent(0), ..level("kept", 10) };
    let (now, mut scheduler) = (start(), Scheduler::new(&[kept, level("greedy", 30)], 40));
    let is_admitted = |flow| matches!(scheduler.enqueue(now, entry(1, flow, 1)), Enqueued::Admitted(_));
    assert_eq!((0..100).map(is_admitted).filter(|admitted| *admitted).count(), 30);
    for flow in 0..10 {
        admit(&mut scheduler, now, entry(0, flow, 1));
    }
}

#[test]
fn who_has_seats_leaves_the_last_ones_to_those_who_have_none() {
    let (now, mut scheduler) = (start(), Scheduler::new(&[level("a", 1)], 64));
    let taken = (0..100).filter(|_| matches!(scheduler.enqueue(now, entry(0, 1, 1)), Enqueued::Admitted(_))).count();
    assert_eq!(taken, 60);
    // Flows are hashes.
    let flow = |name: u64| name.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let newcomers: Vec<Ticket> = (2..6).map(|name| queue(&mut scheduler, now, entry(0, flow(name), 1))).collect();
    let woken = poll(&mut scheduler, now);
    assert_eq!(woken.len(), newcomers.len());
    assert!(newcomers.into_iter().all(|ticket| woken.contains(&Woken::Admitted(ticket))), "{woken:?}");
    assert_eq!(scheduler.seats(), (64, 64));
}

#[test]
fn a_level_borrows_no_more_than_it_may_and_is_never_stuck() {
    let modest = policy::Level { borrowing: Some(Percent(50)), ..level("modest", 10) };
    let (now, mut scheduler) = (start(), Scheduler::new(&[modest, level("b", 30)], 40));
    let taken = (0..100).filter(|_| matches!(scheduler.enqueue(now, entry(0, 1, 1)), Enqueued::Admitted(_))).count();
    assert_eq!(taken, 15);
    let modest = policy::Level { borrowing: Some(Percent(0)), ..level("modest", 10) };
    let mut scheduler = Scheduler::new(&[modest, level("b", 30)], 8);
    admit(&mut scheduler, now, entry(0, 1, 8));
}

#[test]
fn a_level_that_waits_for_seats_of_its_own_holds_nobody_else_up() {
    let modest = policy::Level { borrowing: Some(Percent(0)), ..level("modest", 10) };
    let (now, mut scheduler) = (start(), Scheduler::new(&[modest, level("b", 30)], 40));
    let narrow = admit(&mut scheduler, now, entry(0, 1, 1));
    let wide = queue(&mut scheduler, now, entry(0, 2, 10));
    let running: Vec<Ticket> = (0..30).map(|_| admit(&mut scheduler, now, entry(1, 1, 1))).collect();
    let other = queue(&mut scheduler, now, entry(1, 1, 12));
    running.into_iter().for_each(|ticket| scheduler.finish(now, ticket));
    assert_eq!(poll(&mut scheduler, now), [Woken::Admitted(other)]);
    scheduler.finish(now, narrow);
    assert_eq!(poll(&mut scheduler, now), [Woken::Admitted(wide)]);
}

#[test]
fn a_wide_request_finds_its_seats_among_narrow_ones() {
    let (mut now, mut scheduler) = (start(), Scheduler::new(&[level("a", 1), level("b", 1)], 10));
    let mut running: Vec<Ticket> = (0..10).map(|_| admit(&mut scheduler, now, entry(1, 1, 1))).collect();
    let wide = queue(&mut scheduler, now, entry(0, 1, 4));
    for _ in 0..20 {
        now += MS;
        scheduler.enqueue(now, entry(1, 1, 1));
        scheduler.finish(now, running.remove(0));
        for woken in poll(&mut scheduler, now) {
            match woken {
                Woken::Admitted(ticket) if ticket == wide => return,
                Woken::Admitted(ticket) => running.push(ticket),
                Woken::Rejected(..) => panic!("nothing waits for long"),
            }
        }
    }
    panic!("narrow requests keep the wide one out");
}

#[test]
fn a_request_wider_than_everything_runs_alone() {
    let (now, mut scheduler) = (start(), Scheduler::new(&[level("a", 1)], 4));
    let narrow = admit(&mut scheduler, now, entry(0, 1, 1));
    let wide = queue(&mut scheduler, now, entry(0, 2, 10));
    scheduler.finish(now, narrow);
    assert_eq!(poll(&mut scheduler, now), [Woken::Admitted(wide)]);
    queue(&mut scheduler, now, entry(0, 3, 1));
    scheduler.finish(now, wide);
    assert_eq!(poll(&mut scheduler, now).len(), 1);
}

#[test]
fn an_overloaded_queue_serves_the_newest_and_sheds_the_oldest_until_it_was_empty() {
    let spec = policy::Level { queues: 1, hand_size: 1, queue_length: 100, ..level("a", 1) };
    let (begin, mut scheduler) = (start(), Scheduler::new(&[spec], 1));
    let mut running = admit(&mut scheduler, begin, entry(0, 1, 1));
    let (mut shed, mut newest_first) = (0, 0);
    let mut now = begin;
    // Twice what is served: 10 ms each, one every 5 ms.
    for step in 0..200u32 {
        now = begin + step * 5 * MS;
        let newest = queue(&mut scheduler, now, entry(0, 1, 1));
        if step % 2 == 1 {
            scheduler.finish(now, running);
        }
        for woken in poll(&mut scheduler, now) {
            match woken {
                Woken::Admitted(ticket) => {
                    running = ticket;
                    newest_first += u32::from(ticket == newest);
                }
                Woken::Rejected(_, reason) => {
                    assert_eq!(reason, Rejected::Overloaded);
                    shed += 1;
                }
            }
        }
    }
    assert!(shed > 70 && newest_first > 70, "shed {shed}, newest first {newest_first}");
    assert_eq!(scheduler.occupancy(LevelId(0)).overloaded, 1);
    for _ in 0..30 {
        now += 10 * MS;
        scheduler.finish(now, running);
        match poll(&mut scheduler, now).into_iter().find(|woken| matches!(woken, Woken::Admitted(_))) {
            Some(Woken::Admitted(ticket)) => running = ticket,
            _ => break,
        }
    }
    assert_eq!(scheduler.occupancy(LevelId(0)), Occupancy { nominal: 1, ..Occupancy::default() });
}

#[test]
fn a_full_queue_rejects_and_a_full_overloaded_one_drops_its_oldest() {
    let spec = policy::Level { queues: 1, hand_size: 1, queue_length: 2, ..level("a", 1) };
    let (now, mut scheduler) = (start(), Scheduler::new(&[spec], 1));
    admit(&mut scheduler, now, entry(0, 1, 1));
    let oldest = queue(&mut scheduler, now, entry(0, 1, 1));
    queue(&mut scheduler, now + 500 * MS, entry(0, 1, 1));
    assert_eq!(scheduler.enqueue(now, entry(0, 1, 1)), Enqueued::Rejected(Rejected::QueueFull));
    poll(&mut scheduler, now + 500 * MS);
    let overloaded = poll(&mut scheduler, now + 600 * MS);
    assert_eq!(overloaded[0], Woken::Rejected(oldest, Rejected::Overloaded));
}

#[test]
fn another_policy_takes_over_and_nobody_is_lost() {
    let (now, mut scheduler) = (start(), Scheduler::new(&[level("old", 1), level("stays", 1)], 1));
    let running = admit(&mut scheduler, now, entry(0, 1, 1));
    let in_old = queue(&mut scheduler, now, entry(0, 2, 1));
    let in_stays = queue(&mut scheduler, now, entry(1, 3, 1));
    let fewer = policy::Level { queues: 1, hand_size: 1, ..level("stays", 1) };
    scheduler.reconfigure(&[fewer, level("new", 5)]);
    let in_new = queue(&mut scheduler, now, entry(1, 4, 1));
    let later = queue(&mut scheduler, now, entry(0, 5, 1));
    let mut left = vec![in_old, in_stays, in_new, later];
    scheduler.finish(now, running);
    while !left.is_empty() {
        let woken = poll(&mut scheduler, now);
        let [Woken::Admitted(ticket)] = woken[..] else { panic!("{woken:?}, {left:?} wait") };
        left.retain(|waiting| *waiting != ticket);
        scheduler.finish(now, ticket);
    }
    assert_eq!(scheduler.seats(), (1, 0));
    scheduler.reconfigure(&[level("a", 1), level("b", 1), level("c", 1)]);
    assert_eq!(scheduler.levels.len(), 3, "places of levels that are gone are used again");
}

/// Flows that always have something waiting: each gets as much of the seats' time as the other, whatever its requests
/// take, as long as their hands share no queue.
#[test]
fn flows_share_the_time_of_the_seats_whatever_their_requests_take() {
    let spec = policy::Level { queues: 256, hand_size: 1, ..level("a", 1) };
    let (begin, mut scheduler) = (start(), Scheduler::new(&[spec], 4));
    let lasts = [(3u64, 2 * MS), (70, 5 * MS), (130, 20 * MS)];
    let mut flows: HashMap<Ticket, usize> = HashMap::new();
    let mut ends: BinaryHeap<Reverse<(Instant, Ticket)>> = BinaryHeap::new();
    let mut served = [Duration::ZERO; 3];
    let mut now = begin;
    let mut waiting = [0; 3];
    while now < begin + Duration::from_secs(20) {
        for (at, (flow, _)) in lasts.iter().enumerate() {
            while waiting[at] < 8 {
                match scheduler.enqueue(now, entry(0, *flow, 1)) {
                    Enqueued::Queued(ticket) => {
                        waiting[at] += 1;
                        flows.insert(ticket, at);
                    }
                    Enqueued::Admitted(ticket) => {
                        flows.insert(ticket, at);
                        ends.push(Reverse((now + lasts[at].1, ticket)));
                    }
                    Enqueued::Rejected(reason) => panic!("{reason:?}"),
                }
            }
        }
        let Some(Reverse((end, ticket))) = ends.pop() else { panic!("nothing runs") };
        now = end;
        served[flows[&ticket]] += lasts[flows[&ticket]].1;
        scheduler.finish(now, ticket);
        for woken in poll(&mut scheduler, now) {
            match woken {
                Woken::Admitted(ticket) => {
                    waiting[flows[&ticket]] -= 1;
                    ends.push(Reverse((now + lasts[flows[&ticket]].1, ticket)));
                }
                // Their queues are never empty, so CoDel takes them for overloaded.
                Woken::Rejected(ticket, _) => waiting[flows[&ticket]] -= 1,
            }
        }
    }
    let total: Duration = served.iter().sum();
    for share in served {
        let part = share.as_secs_f64() / total.as_secs_f64();
        assert!((part - 1.0 / 3.0).abs() < 0.02, "{served:?}");
    }
}

/// Whatever comes: seats are counted right, everybody is told once, nobody waits beyond the deadline, and while
/// somebody waits something runs.
#[test]
fn nothing_is_lost_or_told_twice() {
    for seed in 0..40u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let levels = [
            policy::Level { queues: 2, hand_size: 1, queue_length: 4, ..level("a", 10) },
            policy::Level { lendable: Percent(0), ..level("b", 5) },
            policy::Level { exempt: true, ..level("c", 1) },
        ];
        let mut scheduler = Scheduler::new(&levels, 8);
        let mut now = start();
        let (mut running, mut waiting): (HashMap<Ticket, u32>, HashMap<Ticket, Instant>) = Default::default();
        let mut seats_of: HashMap<Ticket, u32> = HashMap::new();
        for step in 0..3_000 {
            now += Duration::from_micros(random.random_range(0..3_000));
            match random.random_range(0..10) {
                0..5 => {
                    let level = random.random_range(0..3);
                    let seats = random.random_range(1..12);
                    let patience = Duration::from_millis(random.random_range(1..300));
                    let counted = if level == 2 { 0 } else { seats };
                    match scheduler.enqueue(now, Entry { patience, ..entry(level, random.random(), seats) }) {
                        Enqueued::Admitted(ticket) => {
                            running.insert(ticket, counted);
                        }
                        Enqueued::Queued(ticket) => {
                            waiting.insert(ticket, now + patience);
                            seats_of.insert(ticket, counted);
                        }
                        Enqueued::Rejected(_) => {}
                    }
                }
                5..8 => {
                    let ticket = running.keys().min().copied();
                    if let Some(ticket) = ticket {
                        running.remove(&ticket);
                        scheduler.finish(now, ticket);
                    }
                }
                8 => {
                    if let Some(ticket) = waiting.keys().max().copied() {
                        waiting.remove(&ticket);
                        scheduler.finish(now, ticket);
                    }
                }
                _ => scheduler.set_limit(random.random_range(1..20)),
            }
            for woken in poll(&mut scheduler, now) {
                match woken {
                    Woken::Admitted(ticket) => {
                        let due = waiting.remove(&ticket).expect("it waited");
                        assert!(due >= now, "seed {seed}, step {step}: served after its patience");
                        running.insert(ticket, seats_of[&ticket]);
                    }
                    Woken::Rejected(ticket, _) => {
                        assert!(waiting.remove(&ticket).is_some(), "seed {seed}, step {step}");
                    }
                }
            }
            let taken: u32 = running.values().sum();
            assert_eq!(scheduler.seats().1, taken, "seed {seed}, step {step}");
            assert!(waiting.values().all(|due| *due > now), "seed {seed}, step {step}: forgotten");
            assert!(waiting.is_empty() || taken > 0, "seed {seed}, step {step}: somebody waits and nothing runs");
        }
    }
}
