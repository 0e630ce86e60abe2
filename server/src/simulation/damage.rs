//! Disks that change what they were given: bits flip, sectors land in another's place, writes that were synced are lost.
//!
//! A member that is started on such a disk must not serve what it says. The log has checksums and the db file a structure;
//! what neither shows, the check at the start does (`--initial-corrupt-check`): it compares the hash of the keys
//! with those of the others. A refused member never comes back: the cluster removes it and gets a new one.
//!
//! etcd's files have no check for what is in the buckets beside the keys, and a log whose last write is damaged looks as
//! if that write had never been finished. Such damage is left out here: there is nobody who could find it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use forebay_keyspace::{Reader, RevisionHash};
use forebay_storage::{
    db::Db,
    disk::{
        Disk,
        sim::{SECTOR, SimDisk},
    },
    schema,
    wal::{self, Wal},
};
use rand::{Rng, seq::IndexedRandom as _};

use super::{
    member::{Seat, db_options},
    world::{Event, World},
};
use crate::corrupt;

const DB: &str = "/data/member/snap/db";

/// Pages of the db files of simulated members.
pub(super) const PAGE: usize = 1024;

/// What was done to disks, and how it was found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damages {
    pub(super) done: u64,
    /// Members that did not start.
    pub(super) refused: u64,
    /// Of these, members that said that their keys are not those of the others.
    pub(super) unlike: u64,
}

impl World {
    /// A disk begins to go wrong, if the cluster can do without it.
    pub(super) fn begin_damage(&mut self, id: u64) {
        if self.is_well() {
            let seat = self.seats.get_mut(&id).expect("it runs");
            seat.old_db = seat.disk.contents(DB.as_ref());
            let delay = self.around(Duration::from_secs(5));
            self.after(delay, Event::Damage(id));
        }
    }

    /// A member ends, and its disk is not as it left it.
    pub(super) fn damage(&mut self, id: u64) {
        let Some(old_db) = self.seats.get_mut(&id).and_then(|seat| seat.old_db.take()) else { return };
        if self.healed || !self.is_well() {
            return;
        }
        self.crash(id);
        let seat = self.seats.get_mut(&id).expect("it crashed");
        // Much of a file is of no importance, and some of it beyond all checks.
        for _ in 0..20 {
            let damaged = seat.disk.killed();
            // Here it is not a member that opens them.
            let finds = || self.trap.suspended(|| can_be_found(&seat.disk, &damaged));
            if spoil(&damaged, &old_db, &mut self.rng).is_some() && finds() {
                (seat.disk, seat.is_damaged) = (damaged, true);
                self.damages.done += 1;
                return;
            }
        }
    }

    /// A member does not start on a disk that was damaged.
    pub(super) fn refuse(&mut self, id: u64, reason: &str) {
        self.note(("refused", id));
        self.damages.refused += 1;
        self.damages.unlike += u64::from(reason == UNLIKE);
        let seat = self.seats.get_mut(&id).expect("it was started");
        (seat.is_damaged, seat.is_removed, seat.is_refused) = (false, true, true);
        self.after(Duration::from_secs(1), Event::Replace(id));
    }

    /// The cluster removes a member that was refused, and then gets another.
    pub(super) fn replace(&mut self, id: u64) {
        let pause = self.around(Duration::from_secs(3)) + Duration::from_secs(2);
        if let Some(leader) = self.leader() {
            let shown = self.seats[&leader].running.as_ref().expect("it leads").cluster.shown();
            if shown.members.iter().any(|member| member.id == id) {
                self.remove_member(leader, id);
            } else {
                if (shown.members.len() as u64) < self.plan.members {
                    self.add_member(leader, false);
                }
                self.seats.get_mut(&id).expect("it was started").is_refused = false;
                return;
            }
        }
        self.after(pause, Event::Replace(id));
    }

    /// Whether all members run, follow one leader and have what it has: one of them may be lost then.
    fn is_well(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let leading = self.seats[&leader].running.as_ref().expect("it leads");
        let shown = leading.cluster.shown();
        let applied = leading.raft.status().applied;
        let follows = |id: &u64| {
            let running = self.seats.get(id).and_then(|seat| seat.running.as_ref());
            running.is_some_and(|running| {
                let status = running.raft.status();
                status.leader == leader && status.applied + 2 >= applied
            })
        };
        shown.members.len() as u64 >= self.plan.members
            && shown.members.iter().all(|member| !member.is_learner && follows(&member.id))
            && self.seats.values().all(|seat| !(seat.is_refused || seat.is_damaged && seat.running.is_none()))
    }

    /// Those whom a member that starts may compare itself with.
    pub(super) fn others(&self, id: u64) -> Vec<Reader> {
        let running = self.seats.values().filter(|seat| seat.id != id).filter_map(|seat| seat.running.as_ref());
        running.map(|running| running.reader.clone()).collect()
    }
}

const UNLIKE: &str = "its keys are not those of the others";

/// The check of a member at its start. One whose disk was damaged has to be vouched for.
pub(super) fn compare(seat: &Seat, own: &RevisionHash, others: &[Reader]) -> Result<(), String> {
    let answers: Vec<_> =
        others.iter().filter_map(|other| other.hash(own.revision).ok()).map(|(hash, _)| hash).collect();
    if answers.iter().any(|other| corrupt::is_unlike(own, other)) {
        return Err(UNLIKE.to_owned());
    }
    let is_vouched_for = answers.iter().any(|other| other.compact_revision == own.compact_revision);
    match seat.is_damaged && !is_vouched_for {
        true => Err("nobody can say whether its keys are those of the others".to_owned()),
        false => Ok(()),
    }
}

/// Changes one of the files of a member; `None` if there was nothing to change.
fn spoil(disk: &SimDisk, old_db: &[u8], rng: &mut impl Rng) -> Option<()> {
    let (path, unit) = choose_file(disk, rng)?;
    let mut bytes = disk.contents(&path)?;
    let used = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let blocks: Vec<_> = (0..used / unit).map(|block| block * unit..(block + 1) * unit).collect();
    match rng.random_range(0..3) {
        0 => bytes[rng.random_range(0..used)] ^= 1 << rng.random_range(0..8),
        // A sector or page was written in the place of another.
        1 => {
            let (from, to) = (blocks.choose(rng)?.clone(), blocks.choose(rng)?.clone());
            bytes.copy_within(from, to.start);
        }
        // Of the pages that were written lately, one was not.
        _ if unit == PAGE => {
            let is_new = |block: &&std::ops::Range<usize>| {
                old_db.get((*block).clone()).is_some_and(|old| old != &bytes[(*block).clone()])
            };
            let lost = blocks.iter().filter(is_new).collect::<Vec<_>>().choose(rng)?.to_owned().clone();
            bytes[lost.clone()].copy_from_slice(&old_db[lost]);
        }
        _ => {
            let lost = blocks.choose(rng)?.clone();
            bytes[lost].fill(0);
        }
    }
    disk.put(&path, bytes);
    Some(())
}

/// A file, and what is written of it at once.
fn choose_file(disk: &SimDisk, rng: &mut impl Rng) -> Option<(PathBuf, usize)> {
    if rng.random_bool(0.5) {
        return Some((DB.into(), PAGE));
    }
    let (dir, suffix) =
        if rng.random_bool(0.8) { ("/data/member/wal", ".wal") } else { ("/data/member/snap", ".snap") };
    let names = disk.list(dir.as_ref()).ok()?;
    let name = names.iter().filter(|name| name.ends_with(suffix)).collect::<Vec<_>>().choose(rng)?.to_owned();
    Some((PathBuf::from(dir).join(name), SECTOR))
}

/// Whether there is a check that could find the damage, should it matter.
fn can_be_found(sound: &SimDisk, damaged: &SimDisk) -> bool {
    let other_buckets = |disk: &SimDisk| {
        let db = Db::open(DB, db_options(Arc::new(disk.killed()))).ok()?;
        let txn = db.begin_read();
        let mut found = Vec::new();
        for name in schema::BUCKETS.into_iter().filter(|name| *name != schema::KEY) {
            let mut add = |key: &[u8], value: &[u8]| found.push((name, key.to_vec(), value.to_vec()));
            txn.bucket(name).ok()??.for_each(&mut add).ok()?;
        }
        Some(found)
    };
    let log = |disk: &SimDisk| {
        let options = wal::Options { segment_bytes: 4 << 10, ..wal::Options::default() };
        let (_, recovered) = Wal::open(Arc::new(disk.killed()), "/data/member/wal".as_ref(), options, None).ok()?;
        Some(recovered.entries.last().map(|entry| (entry.index(), entry.term())).zip(Some(recovered.hard_state)))
    };
    // What does not open is found.
    let same = |found: bool, is_same: bool| !found || is_same;
    let (buckets, entries) = (other_buckets(damaged), log(damaged));
    same(buckets.is_some(), buckets == other_buckets(sound)) && same(entries.is_some(), entries == log(sound))
}
