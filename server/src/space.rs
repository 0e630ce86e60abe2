//! What is left on the disks: before one is full, the cluster refuses what would fill it.
//!
//! A member whose disk is full can write no log and stops. So some space is kept for what must go on: deletions,
//! compactions, and the alarm itself. It is not taken from the disk; writes end while it is still free.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use forebay_storage::disk::{Disk, Space};

use crate::member::Member;

/// What is kept free at most.
const RESERVE_MAX: u64 = 64 << 20;
/// Of a small disk, only this part is kept.
const RESERVE_PART: u64 = 8;
/// How often is looked. What is written in between must fit into the reserve.
const INTERVAL: Duration = Duration::from_millis(250);

/// Whether space is short, as it was when somebody looked last.
#[derive(Debug, Default)]
pub(crate) struct Reserve(AtomicBool);

impl Reserve {
    pub(crate) fn is_short(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Looks at the disks that hold these directories.
    pub(crate) fn look(&self, disk: &dyn Disk, directories: [&Path; 2]) {
        let is_short = |directory: &Path| match disk.space(directory) {
            Ok(space) => is_short(space),
            // A disk that cannot be asked is found out by writing to it.
            Err(_) => false,
        };
        self.0.store(directories.into_iter().any(is_short), Ordering::Relaxed);
    }
}

fn is_short(space: Space) -> bool {
    space.free < RESERVE_MAX.min(space.total / RESERVE_PART)
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
        let short = |free, total| is_short(Space { free, total });
        assert!(short((64 << 20) - 1, 100 << 30) && !short(64 << 20, 100 << 30));
        assert!(short((25 << 20) - 1, 200 << 20) && !short(25 << 20, 200 << 20));
    }
}
