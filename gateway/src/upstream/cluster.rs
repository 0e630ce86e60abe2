//! Which cluster the endpoints belong to.
//!
//! An endpoint of another cluster that slipped into the list answers like any other, and a client would read here what
//! it wrote there. Endpoints tell their cluster's id when they are probed; the cluster of most of them is ours, and the
//! others are not used. What an endpoint told stays its answer while it cannot be reached, so that an outage does not
//! make a stranger the majority; a cluster that was restored under another id is followed as its members come back.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What each endpoint says, by index; 0 until it has.
#[derive(Debug)]
pub(super) struct Cluster {
    told: Box<[AtomicU64]>,
    /// The cluster of most; 0 until anybody has told.
    ours: AtomicU64,
    /// Serializes decisions.
    deciding: Mutex<()>,
}

impl Cluster {
    pub(super) fn new(endpoints: usize) -> Cluster {
        let told = (0..endpoints).map(|_| AtomicU64::new(0)).collect();
        Cluster { told, ours: AtomicU64::new(0), deciding: Mutex::new(()) }
    }

    /// Whether an endpoint is known to belong elsewhere.
    pub(super) fn is_foreign(&self, endpoint: usize) -> bool {
        let told = self.told[endpoint].load(Ordering::Relaxed);
        told != 0 && told != self.ours.load(Ordering::Relaxed)
    }

    /// Takes note of what an endpoint says.
    pub(super) fn tell(&self, endpoint: usize, id: u64) {
        if id == 0 || self.told[endpoint].load(Ordering::Relaxed) == id {
            return;
        }
        let _deciding = self.deciding.lock();
        self.told[endpoint].store(id, Ordering::Relaxed);
        let told: Vec<u64> = self.told.iter().map(|told| told.load(Ordering::Relaxed)).collect();
        let before = self.ours.load(Ordering::Relaxed);
        let ours = decide(before, &told);
        self.ours.store(ours, Ordering::Relaxed);
        if before != 0 && before != ours {
            tracing::warn!(
                before = format_args!("{before:x}"),
                now = format_args!("{ours:x}"),
                "most endpoints belong to another cluster than before; it is used from now on"
            );
        }
    }
}

/// The cluster of most endpoints that have told; of equally many the present one, or else the earliest in the list.
fn decide(present: u64, told: &[u64]) -> u64 {
    // An endpoint that has not told votes for nobody.
    let votes = |id: u64| told.iter().filter(|told| **told != 0 && **told == id).count();
    let mut best = present;
    for &id in told.iter().filter(|id| **id != 0) {
        if votes(id) > votes(best) || votes(best) == 0 {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_of_most_is_ours_and_a_tie_changes_nothing() {
        for (present, told, ours) in [
            (0, [0, 0, 0], 0),
            (0, [0, 5, 0], 5),
            (5, [0, 5, 6], 5),
            (6, [5, 0, 6], 6),
            (6, [5, 5, 6], 5),
            (5, [5, 5, 6], 5),
            (5, [6, 6, 6], 6),
            (5, [7, 6, 0], 7),
        ] {
            assert_eq!(decide(present, &told), ours, "{told:?} while it is {present}");
        }
    }
}
