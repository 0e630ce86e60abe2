//! What is left on the disks: before one is full, the cluster refuses what would fill it.
//!
//! A member whose disk is full can write no log and stops. So some space is kept for what must go on: deletions,
//! compactions, and the alarm itself. It is not taken from the disk; writes end while it is still free.

use std::{
    path::Path,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use forebay_storage::disk::{Disk, Space};

use crate::member::Member;

/// What is kept free at most.
const RESERVE_MAX: u64 = 64 << 20;
/// Of a small disk, only this part is kept.
const RESERVE_PART: u64 = 8;
/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(250);

/// What may still be written.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// Bytes beyond the reserve, as it was when somebody looked last and less what was let in since; below zero there is
    /// no room.
    room: AtomicI64,
    /// What was let in since.
    taken: AtomicI64,
}

impl Default for Reserve {
    fn default() -> Reserve {
        Reserve { room: AtomicI64::new(i64::MAX), taken: AtomicI64::new(0) }
    }
}

impl Reserve {
    pub(crate) fn is_short(&self) -> bool {
        self.room.load(Ordering::Relaxed) < 0
    }

    /// Lets in a write of so many bytes, if there is room: a fast disk is full before somebody looks again.
    pub(crate) fn lets_in(&self, bytes: u64) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX / 4);
        // In the log, and in the db file.
        let needed = bytes.saturating_mul(2);
        let left = |room: i64| Some(room.saturating_sub(needed));
        let had = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        let is_in = had.is_ok_and(|room| room >= needed);
        if is_in {
            self.taken.fetch_add(bytes, Ordering::Relaxed);
        }
        is_in
    }

    /// Looks at the disks that hold these directories.
    pub(crate) fn look(&self, disk: &dyn Disk, directories: [&Path; 2]) {
        // What was let in a moment ago is in the log, and may not be in the db file yet.
        let pending = self.taken.swap(0, Ordering::Relaxed);
        // A disk that cannot be asked is found out by writing to it.
        let room = |directory: &Path| disk.space(directory).map_or(i64::MAX, room);
        let room = directories.into_iter().map(room).min().unwrap_or(i64::MAX);
        self.room.store(room.saturating_sub(pending), Ordering::Relaxed);
    }
}

/// The bytes that are free beyond the reserve.
fn room(space: Space) -> i64 {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    signed(space.free) - signed(RESERVE_MAX.min(space.total / RESERVE_PART))
}

/// Looks after the disks and raises the alarm. Ends when the member stops.
pub(crate) async fn watch(member: Member) {
    let work = async {
        loop {
            let looked = member.blocking(|member| {
                let config = member.config();
                member.0.reserve.look(&*member.0.disk, [&config.data_dir, &config.wal_path()]);
                Ok(())
            });
            if looked.await.is_ok() && member.0.reserve.is_short() && member.raise_nospace().await {
                tracing::warn!("the disk is nearly full; raised the NOSPACE alarm");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = member.draining() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_64_mib_or_an_eighth_of_a_small_disk() {
        let room = |free, total| room(Space { free, total });
        assert_eq!((room((64 << 20) - 1, 100 << 30), room(64 << 20, 100 << 30)), (-1, 0));
        assert_eq!((room((25 << 20) - 1, 200 << 20), room(25 << 20, 200 << 20)), (-1, 0));
    }

    #[test]
    fn what_is_let_in_between_two_looks_has_room_in_log_and_db() {
        let reserve = Reserve { room: AtomicI64::new(100), taken: AtomicI64::new(0) };
        assert!(reserve.lets_in(30) && reserve.lets_in(20) && !reserve.is_short());
        assert!(!reserve.lets_in(1) && reserve.is_short());
        assert!(Reserve::default().lets_in(u64::MAX), "nobody has looked yet");
    }
}
