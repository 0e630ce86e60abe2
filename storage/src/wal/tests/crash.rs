//! Power cuts and failing calls: whatever was acknowledged is there, everything else is whole or gone.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;

/// Appends until a fault stops it; returns the last index that was acknowledged.
fn append_until_stopped(wal: &mut Wal, from: u64, to: u64, rng: &mut StdRng) -> (u64, Option<WalError>) {
    let mut acknowledged = from - 1;
    let mut next = from;
    while next <= to {
        let batch: Vec<_> = (next..next + rng.random_range(1..4))
            .map(|index| entry(index, 1, &vec![index as u8; rng.random_range(0..900)]))
            .collect();
        match wal.append(Some(&state(1, acknowledged)), &batch, true) {
            Ok(_) => acknowledged = batch.last().unwrap().index(),
            Err(error) => return (acknowledged, Some(error)),
        }
        next = acknowledged + 1;
    }
    (acknowledged, None)
}

fn assert_holds(recovered: &Recovered, acknowledged: u64, seed: u64) {
    let found = indexes(recovered);
    let last = found.last().copied().unwrap_or(0);
    assert!(last >= acknowledged, "seed {seed}: acknowledged up to {acknowledged}, found up to {last}");
    assert_eq!(found, (1..=last).collect::<Vec<_>>(), "seed {seed}");
    for entry in &recovered.entries {
        assert!(entry.data().iter().all(|byte| *byte == entry.index() as u8), "seed {seed}: {entry:?}");
    }
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (disk, dir) = simulated();
        let mut wal = create(&disk, dir, SMALL);
        let to = rng.random_range(1..60);
        let (acknowledged, _) = append_until_stopped(&mut wal, 1, to, &mut rng);
        // One more batch is in flight: written, not synced.
        let in_flight: Vec<_> = (acknowledged + 1..acknowledged + 4)
            .map(|index| entry(index, 1, &vec![index as u8; rng.random_range(0..2000)]))
            .collect();
        wal.append(None, &in_flight, false).unwrap();
        let odds = rng.random_range(0.0..=1.0);
        let mut disk = disk.crash(|| rng.random_bool(odds));
        drop(wal);
        // Restarting must itself survive being cut short.
        for _ in 0..rng.random_range(0..3) {
            drop(open(&disk, dir, SMALL));
            disk = disk.crash(|| rng.random_bool(odds));
        }
        let (mut wal, recovered) = open(&disk, dir, SMALL).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_holds(&recovered, acknowledged, seed);
        let next = recovered.entries.last().map_or(0, Entry::index) + 1;
        let (acknowledged, _) = append_until_stopped(&mut wal, next, next + 5, &mut rng);
        drop(wal);
        assert_holds(&open(&disk, dir, SMALL).unwrap().1, acknowledged, seed);
    }
}

#[test]
fn k15_a_failing_call_is_final_and_loses_nothing_acknowledged() {
    for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
        for after in 0..80 {
            let mut rng = StdRng::seed_from_u64(after);
            let (disk, dir) = simulated();
            let mut wal = create(&disk, dir, SMALL);
            disk.fail_after(after, kind);
            let (acknowledged, error) = append_until_stopped(&mut wal, 1, 200, &mut rng);
            assert!(disk.has_failed(), "call {after} was never made");
            let Some(error) = error else {
                // Space was to be reserved ahead. What is written may find some all the same.
                assert_eq!(kind, std::io::ErrorKind::StorageFull, "call {after}");
                drop(wal);
                for disk in [disk.crash(|| rng.random_bool(0.5)), disk] {
                    assert_holds(&open(&disk, dir, SMALL).unwrap().1, acknowledged, after);
                }
                continue;
            };
            assert!(matches!(error, WalError::Io { .. }), "{error}");
            // The fault is over, but nothing may succeed any more: the bytes of before may be lost for good.
            let poisoned = wal.append(None, &[entry(acknowledged + 1, 1, b"")], true);
            assert!(matches!(poisoned, Err(WalError::Poisoned { .. })));
            assert!(matches!(wal.save_snapshot(&snapshot(0, 0)), Err(WalError::Poisoned { .. })));
            drop(wal);
            for disk in [disk.crash(|| rng.random_bool(0.5)), disk] {
                let (_wal, recovered) = open(&disk, dir, SMALL).unwrap_or_else(|error| panic!("call {after}: {error}"));
                assert_holds(&recovered, acknowledged, after);
            }
        }
    }
}

#[test]
fn k16_what_a_failed_fsync_left_in_memory_is_not_believed_by_the_next_process() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    wal.append(None, &[entry(1, 1, b"durable")], true).unwrap();
    disk.fail_after(1, std::io::ErrorKind::Other);
    let refused = wal.append(None, &[entry(2, 1, &[2; 2000])], true).unwrap_err().to_string();
    assert!(refused.contains("cannot sync"), "{refused}");
    drop(wal);
    // No power was lost: a read finds the entry in memory. Whoever believes in it acknowledges it to the leader.
    let disk = disk.killed();
    let (mut wal, recovered) = open(&disk, dir, SMALL).unwrap();
    assert_eq!(indexes(&recovered), [1]);
    wal.append(None, &[entry(2, 2, b"another")], true).unwrap();
    let (_wal, recovered) = open(&disk.crash(|| false), dir, SMALL).unwrap();
    assert_eq!(recovered.entries, [entry(1, 1, b"durable"), entry(2, 2, b"another")]);
}

#[test]
fn k16_a_process_after_one_that_failed_makes_durable_what_it_builds_on() {
    for after in 0..80 {
        let mut rng = StdRng::seed_from_u64(after);
        let (disk, dir) = simulated();
        let mut wal = create(&disk, dir, SMALL);
        disk.fail_after(after, std::io::ErrorKind::Other);
        append_until_stopped(&mut wal, 1, 200, &mut rng);
        drop(wal);
        // The process has ended, and what it wrote is seen, synced or not. The machine ends only after the next one.
        let disk = disk.killed();
        let (mut wal, recovered) = open(&disk, dir, SMALL).unwrap();
        let next = recovered.entries.len() as u64 + 1;
        let (acknowledged, error) = append_until_stopped(&mut wal, next, next + rng.random_range(1..40), &mut rng);
        assert!(error.is_none(), "{error:?}");
        let (_wal, recovered) = open(&disk.crash(|| rng.random_bool(0.3)), dir, SMALL)
            .unwrap_or_else(|error| panic!("call {after}: {error}"));
        assert_holds(&recovered, acknowledged, after);
    }
}

#[test]
fn a_creation_cut_short_leaves_no_log_or_a_whole_one() {
    for after in 0..20 {
        let (disk, dir) = simulated();
        disk.fail_after(after, std::io::ErrorKind::StorageFull);
        let made = Wal::create(Arc::new(disk.clone()), dir, SMALL, Bytes::from_static(b"meta"));
        let succeeded = made.is_ok();
        drop(made);
        let crashes = [disk.crash(|| false), disk.crash(|| true)];
        for crashed in crashes.into_iter().chain(disk.has_failed().then_some(disk)) {
            if exists(&crashed, dir).unwrap() {
                assert_eq!(open(&crashed, dir, SMALL).unwrap().1.metadata, "meta");
            } else {
                assert!(!succeeded);
                create(&crashed, dir, SMALL);
            }
        }
    }
}

#[test]
fn an_unsynced_hard_state_may_be_lost_but_not_what_was_synced_before_it() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    wal.append(Some(&state(3, 0)), &[entry(1, 3, b"x")], true).unwrap();
    wal.append(Some(&state(3, 1)), &[], false).unwrap();
    assert_eq!(open(&disk.crash(|| false), dir, SMALL).unwrap().1.hard_state, state(3, 0));
    assert_eq!(open(&disk.crash(|| true), dir, SMALL).unwrap().1.hard_state, state(3, 1));
}
