//! Torn tails are cut, damage is refused, and no bytes make the reader panic.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::disk::sim::Wrong;

/// A log with one segment, and where each of its records ends.
fn sample() -> (SimDisk, &'static Path, PathBuf, Vec<u8>, Vec<usize>) {
    let (disk, dir) = simulated();
    let options = Options { segment_bytes: 1 << 20, ..SMALL };
    let mut wal = create(&disk, dir, options);
    let mut ends = vec![wal.offset as usize];
    for index in 1..=12u64 {
        wal.append(None, &[entry(index, 1 + index / 4, &vec![index as u8; 90 + 61 * index as usize])], true).unwrap();
        ends.push(wal.offset as usize);
        wal.append(Some(&state(1 + index / 4, index)), &[], true).unwrap();
        ends.push(wal.offset as usize);
    }
    drop(wal);
    let path = dir.join("0000000000000000-0000000000000000.wal");
    let mut bytes = disk.contents(&path).unwrap();
    bytes.truncate(*ends.last().unwrap() + 4096);
    (disk, dir, path, bytes, ends)
}

fn reopen(disk: &SimDisk, dir: &Path, path: &Path, bytes: Vec<u8>) -> Result<Recovered, WalError> {
    disk.put(path, bytes);
    open(disk, dir, SMALL).map(|(_wal, recovered)| recovered)
}

#[test]
fn k10_a_file_cut_anywhere_ends_after_its_last_whole_record() {
    let (disk, dir, path, bytes, ends) = sample();
    let whole = reopen(&disk, dir, &path, bytes.clone()).unwrap();
    let last = *ends.last().unwrap();
    for cut in ends[ends.len() - 4]..last {
        let recovered = reopen(&disk, dir, &path, bytes[..cut].to_vec()).unwrap_or_else(|e| panic!("cut {cut}: {e}"));
        let records = ends.iter().filter(|end| **end <= cut).count() - 1;
        let entries = records.div_ceil(2);
        assert!(recovered.entries == whole.entries[..entries], "cut {cut}");
        assert_eq!(recovered.hard_state.commit(), (records / 2) as u64, "cut {cut}");
        let at_an_end = ends.contains(&cut);
        assert_eq!(recovered.repair.is_none(), at_an_end, "cut {cut}");
        if !at_an_end {
            let kept = disk.contents(&suffixed(&path, ".broken")).unwrap();
            assert_eq!(kept, bytes[..cut], "the broken file is kept as it was");
        }
    }
}

#[test]
fn k10_a_sector_that_never_arrived_ends_the_log_there() {
    let (disk, dir, path, bytes, ends) = sample();
    let whole = reopen(&disk, dir, &path, bytes.clone()).unwrap();
    let last = *ends.last().unwrap();
    for sector in (ends[ends.len() - 7] / 512 + 1)..=last / 512 {
        let mut bytes = bytes.clone();
        bytes[sector * 512..sector * 512 + 512].fill(0);
        match reopen(&disk, dir, &path, bytes) {
            Ok(recovered) => {
                let n = recovered.entries.len();
                assert!(n < 12 || recovered.hard_state.commit() < 12);
                assert!(recovered.entries == whole.entries[..n], "sector {sector}");
            }
            // The rest of the sector before the loss: not written by a tear of this record.
            Err(error) => assert!(matches!(error, WalError::Corrupt { .. }), "{error}"),
        }
    }
}

#[test]
fn k11_every_flipped_bit_is_refused_or_changes_nothing() {
    let (disk, dir, path, bytes, ends) = sample();
    let whole = reopen(&disk, dir, &path, bytes.clone()).unwrap();
    let mut refused = 0;
    for bit in 0..ends.last().unwrap() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match reopen(&disk, dir, &path, bytes) {
            Ok(recovered) => assert!(recovered == whole, "bit {bit} went unnoticed"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > ends.last().unwrap() * 7, "padding is all that does not matter");
}

#[test]
fn k11_damage_in_any_but_the_last_segment_is_never_cut_off() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    for index in 1..=60 {
        wal.append(None, &[entry(index, 1, &[1; 200])], true).unwrap();
    }
    drop(wal);
    let path = dir.join(&disk.list(dir).unwrap()[0]);
    let bytes = disk.contents(&path).unwrap();
    for cut in [1, 7, 100, 300] {
        let error = reopen(&disk, dir, &path, bytes[..bytes.len() - cut].to_vec()).unwrap_err();
        assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn a_log_that_lost_committed_entries_is_refused() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    wal.append(Some(&state(1, 9)), &[entry(1, 1, b"x")], true).unwrap();
    drop(wal);
    assert!(matches!(open(&disk, dir, SMALL), Err(WalError::CommitBeyondLog { commit: 9, last: 1, .. })));
}

#[test]
fn a_gap_between_entries_is_refused() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    wal.append(None, &[entry(1, 1, b"x"), entry(3, 1, b"x")], true).unwrap();
    drop(wal);
    let error = open(&disk, dir, SMALL).unwrap_err().to_string();
    assert!(error.contains("expected an entry up to index 2, found index 3"), "{error}");
}

/// The last two appends in the other order: the later one arrived and the earlier one did not, or each where the other
/// belongs.
#[test]
fn k10_appends_that_arrived_in_another_order_end_the_log_or_are_refused() {
    let (disk, dir, path, bytes, ends) = sample();
    let whole = reopen(&disk, dir, &path, bytes.clone()).unwrap();
    let [first, second, end] = *ends.last_chunk::<3>().unwrap();
    let mut lost = bytes.clone();
    lost[first..second].fill(0);
    let mut swapped = bytes;
    swapped[first..end].rotate_left(second - first);
    for (what, bytes) in [("lost", lost), ("swapped", swapped)] {
        match reopen(&disk, dir, &path, bytes) {
            Ok(recovered) => {
                let n = recovered.entries.len();
                assert!(n < whole.entries.len() && recovered.entries == whole.entries[..n], "{what}");
            }
            Err(error) => assert!(matches!(error, WalError::Corrupt { .. }), "{what}: {error}"),
        }
    }
}

/// What a disk does that says it wrote or read and did something else: nothing of it is taken for what was written.
#[test]
fn k13_writes_that_were_lost_or_went_elsewhere_are_noticed() {
    let (disk, dir, path, bytes, ends) = sample();
    let whole = reopen(&disk, dir, &path, bytes.clone()).unwrap();
    let mut noticed = 0;
    for seed in 0..500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = bytes.clone();
        let record = rng.random_range(1..ends.len() - 1);
        let sectors = ends.last().unwrap() / 512;
        let (to, from) = (rng.random_range(0..sectors) * 512, rng.random_range(0..sectors) * 512);
        match seed % 3 {
            // A write in the middle never reached the disk, though later ones did.
            0 => bytes[ends[record]..ends[record + 1]].fill(0),
            // One went to another sector; the one it was meant for is as it was before.
            1 => bytes.copy_within(from..from + 512, to),
            // A read returns what stands elsewhere, from somewhere within.
            _ => bytes.copy_within(from + 8..from + 264, to + 16),
        }
        match reopen(&disk, dir, &path, bytes) {
            Ok(recovered) => {
                let n = recovered.entries.len();
                assert!(recovered.entries == whole.entries[..n], "seed {seed}");
            }
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 200, "{noticed} were refused");
}

/// A read that stops early, or gives a part as it was before it was written last: the start is refused and says so, or
/// finds everything that was acknowledged. The next start, which reads what was written, finds everything in any case.
#[test]
fn k13_a_log_of_which_a_read_is_short_or_old_is_refused_or_whole() {
    let (mut refused, mut whole) = (0, 0);
    for unit in [512, 4096] {
        let (disk, dir) = simulated();
        disk.remember(unit);
        let mut wal = create(&disk, dir, Options { segment_bytes: 16384, ..SMALL });
        let mut written = Vec::new();
        for index in 1..=60_u64 {
            let batch = [entry(index, 1, &vec![index as u8; 90 + 37 * (index as usize % 30)])];
            wal.append(Some(&state(1, index - 1)), &batch, true).unwrap();
            written.extend(batch);
        }
        drop(wal);
        let wrongs = [0, 1, 7, 600, 5000].map(Wrong::Short).into_iter().chain((0..80).map(Wrong::Old));
        for wrong in wrongs {
            for read in 0.. {
                let disk = disk.killed();
                disk.misread_at(".wal", read, wrong);
                let opened = open(&disk, dir, SMALL).map(|(_wal, recovered)| recovered);
                if disk.misread_never() {
                    break;
                }
                match opened {
                    Ok(recovered) => {
                        assert!(recovered.entries == written, "{wrong:?} in units of {unit}, read {read}");
                        whole += 1;
                    }
                    Err(error) => {
                        assert!(error.to_string().contains("/data/member/wal/"), "{error}");
                        refused += 1;
                    }
                }
                let again = open(&disk, dir, SMALL).unwrap_or_else(|error| panic!("{wrong:?}, read {read}: {error}"));
                assert!(again.1.entries == written, "{wrong:?} in units of {unit}, read {read}, later");
            }
        }
    }
    assert!(refused > 100 && whole > 100, "{refused} refused, {whole} whole");
}

#[test]
fn k12_a_huge_length_is_refused_without_allocating_it() {
    let (disk, dir, path, mut bytes, ends) = sample();
    for field in [u64::MAX >> 8 & !7, 1 << 55, 0x87 << 56 | 0x00ff_ffff_ffff_fff9] {
        bytes[ends[2]..ends[2] + 8].copy_from_slice(&field.to_le_bytes());
        assert!(matches!(reopen(&disk, dir, &path, bytes.clone()), Err(WalError::Corrupt { .. })));
    }
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let (disk, dir, path, bytes, _) = sample();
    for seed in 0..3000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = bytes.clone();
        for _ in 0..rng.random_range(1..8) {
            let at = rng.random_range(0..bytes.len());
            let n = rng.random_range(1..64).min(bytes.len() - at);
            match rng.random_range(0..5) {
                0 => bytes[at..at + n].fill(0),
                1 => rng.fill(&mut bytes[at..at + n]),
                2 => drop(bytes.drain(at..at + n)),
                3 => {
                    let piece = bytes[at..at + n].to_vec();
                    let to = rng.random_range(0..bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ => bytes[at] ^= 1 << rng.random_range(0..8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Whatever was accepted once must be accepted again, now that its tail is clean.
            reopen(&disk, dir, &path, bytes).map(|first| (first, open(&disk, dir, SMALL).unwrap().1))
        }));
        match attempt {
            Ok(Ok((first, again))) => assert_eq!((first.entries, first.hard_state), (again.entries, again.hard_state)),
            Ok(Err(_)) => {}
            Err(_) => panic!("seed {seed} made the reader panic"),
        }
    }
}

#[test]
fn a_log_that_is_refused_is_left_as_it_was() {
    let (disk, dir, path, mut bytes, ends) = sample();
    // Behind the end there is something, and the log lacks the snapshot that is asked for.
    *bytes.last_mut().unwrap() = 1;
    assert!(bytes.len() > *ends.last().unwrap() + 8);
    disk.put(&path, bytes.clone());
    let error = Wal::open(Arc::new(disk.clone()), dir, SMALL, Some(snapshot(5, 1))).unwrap_err();
    assert!(matches!(error, WalError::Snapshot { index: 5, .. }), "{error}");
    assert_eq!(disk.contents(&path).unwrap(), bytes);
}

#[test]
fn an_index_that_nothing_can_follow_is_refused() {
    for mark in [true, false] {
        let (disk, dir) = simulated();
        let mut wal = create(&disk, dir, SMALL);
        wal.append(Some(&state(1, 0)), &[], true).unwrap();
        if mark {
            wal.save_snapshot(&snapshot(u64::MAX, 1)).unwrap();
        } else {
            wal.save_snapshot(&snapshot(u64::MAX - 1, 1)).unwrap();
            wal.append(Some(&state(1, u64::MAX - 1)), &[entry(u64::MAX, 1, b"")], true).unwrap();
        }
        drop(wal);
        let error = open(&disk, dir, SMALL).unwrap_err().to_string();
        assert!(error.contains("expected an index that another can follow, found 18446744073709551615"), "{error}");
    }
}
