//! Compacts unasked, by age or by number of revisions, on the leader.

use std::{
    collections::VecDeque,
    future::Future,
    time::{Duration, Instant},
};

use forebay_proto::{
    Error,
    etcdserverpb::{CompactionRequest, InternalRaftRequest},
};
use tonic::Status;

use crate::{auth::Caller, member::Member, raft::Role};

/// What to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Everything older than this. Below an hour it is done as often, else every hour; so up to that much more is kept.
    Periodic(Duration),
    /// Everything but this many of the newest revisions, every five minutes.
    Revision(u64),
}

/// How often revisions are counted.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The longest time between two compactions by age.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Revisions that are remembered for each compaction interval: how exactly an age is met, and how soon a compaction
/// that failed is tried again.
const SAMPLES: u32 = 10;

/// Compacts until the member stops.
pub(crate) async fn run(member: Member, wanted: AutoCompaction) {
    let cluster = Ours(&member);
    tokio::select! {
        () = compact_for_ever(wanted, &cluster) => {}
        () = member.draining() => {}
    }
}

/// What is compacted.
trait Compactable {
    fn revision(&self) -> i64;
    fn leads(&self) -> bool;
    fn compact(&self, revision: i64) -> impl Future<Output = Result<(), Status>> + Send;
}

struct Ours<'m>(&'m Member);

impl Compactable for Ours<'_> {
    fn revision(&self) -> i64 {
        self.0.reader().revision()
    }

    fn leads(&self) -> bool {
        self.0.raft_status().role == Role::Leader
    }

    async fn compact(&self, revision: i64) -> Result<(), Status> {
        let compaction = CompactionRequest { revision, physical: false };
        let request = InternalRaftRequest { compaction: Some(compaction), ..Default::default() };
        self.0.propose(&Caller::nobody(), request, self.0.own_deadline()).await.map(drop)
    }
}

async fn compact_for_ever(wanted: AutoCompaction, cluster: &impl Compactable) {
    let now = || tokio::time::Instant::now().into_std();
    let mut schedule = Schedule::new(wanted, now());
    loop {
        schedule.sample(cluster.revision());
        tokio::time::sleep(schedule.interval()).await;
        let Some(revision) = schedule.due(cluster.revision(), now()).filter(|_| cluster.leads()) else { continue };
        schedule.begin();
        tracing::info!(revision, mode = ?wanted, "starting auto compaction");
        let started = now();
        match cluster.compact(revision).await {
            Err(status) if status.message() != Error::Compacted.message() => {
                let error = status.message();
                let retry_interval = schedule.interval();
                tracing::warn!(revision, mode = ?wanted, error, ?retry_interval, "failed auto compaction");
            }
            // Somebody else compacting so far serves as well.
            _ => {
                tracing::info!(revision, mode = ?wanted, took = ?now() - started, "completed auto compaction");
                schedule.compacted(revision, now());
            }
        }
    }
}

/// Which revision is to be compacted at, and when. Pure: the caller passes revision and time.
enum Schedule {
    Periodic {
        period: Duration,
        /// The last revisions seen, one per interval. Once there are as many as fit, the first is a period older than the
        /// last, and an interval more when it is asked for.
        seen: VecDeque<i64>,
        compacted: i64,
        compacted_at: Instant,
        /// How long after a compaction the next is due: a whole period at first, then the compaction interval.
        rest: Duration,
    },
    Revision {
        keep: i64,
        compacted: i64,
    },
}

impl Schedule {
    fn new(wanted: AutoCompaction, now: Instant) -> Schedule {
        match wanted {
            AutoCompaction::Periodic(period) => {
                Schedule::Periodic { period, seen: VecDeque::new(), compacted: 0, compacted_at: now, rest: period }
            }
            AutoCompaction::Revision(keep) => {
                Schedule::Revision { keep: i64::try_from(keep).unwrap_or(i64::MAX), compacted: 0 }
            }
        }
    }

    /// How long to wait before asking whether something is due.
    fn interval(&self) -> Duration {
        match self {
            Schedule::Periodic { period, .. } => (*period).min(PERIODIC_INTERVAL_MAX) / SAMPLES,
            Schedule::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// Remembers the present revision; once per interval, before waiting.
    fn sample(&mut self, revision: i64) {
        let interval = self.interval();
        if let Schedule::Periodic { period, seen, .. } = self {
            seen.push_back(revision);
            let samples = period.as_nanos().checked_div(interval.as_nanos()).unwrap_or(0) + 1;
            if seen.len() as u128 > samples {
                seen.pop_front();
            }
        }
    }

    /// What is to be compacted at now.
    fn due(&self, revision: i64, now: Instant) -> Option<i64> {
        match self {
            Schedule::Periodic { seen, compacted, compacted_at, rest, .. } => {
                let oldest = *seen.front()?;
                (now.duration_since(*compacted_at) >= *rest && oldest != *compacted).then_some(oldest)
            }
            Schedule::Revision { keep, compacted } => {
                Some(revision - keep).filter(|due| *due > 0 && *due != *compacted)
            }
        }
    }

    /// A compaction that is due begins.
    fn begin(&mut self) {
        if let Schedule::Periodic { period, rest, .. } = self {
            *rest = (*period).min(PERIODIC_INTERVAL_MAX);
        }
    }

    /// A compaction was accepted.
    fn compacted(&mut self, revision: i64, now: Instant) {
        match self {
            Schedule::Periodic { compacted, compacted_at, .. } => (*compacted, *compacted_at) = (revision, now),
            Schedule::Revision { compacted, .. } => *compacted = revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A cluster that makes one revision a minute and remembers when it was compacted.
    struct Cluster {
        started: tokio::time::Instant,
        /// Subtracted from the revision, so that it can stand still.
        behind: AtomicI64,
        leads: AtomicBool,
        fails: AtomicBool,
        /// Minutes since the start, and revisions.
        compactions: Mutex<Vec<(u64, i64)>>,
    }

    impl Cluster {
        fn new() -> Cluster {
            Cluster {
                started: tokio::time::Instant::now(),
                behind: AtomicI64::new(0),
                leads: AtomicBool::new(true),
                fails: AtomicBool::new(false),
                compactions: Mutex::default(),
            }
        }

        fn minute(&self) -> u64 {
            self.started.elapsed().as_secs() / 60
        }

        /// Compactions within this time; what was asked for goes on afterwards.
        async fn within(&self, compacting: &mut (impl Future<Output = ()> + Unpin), time: Duration) -> Vec<(u64, i64)> {
            // A second more, so that what falls due at the very end is in.
            let _ = tokio::time::timeout(time + Duration::from_secs(1), compacting).await;
            std::mem::take(&mut self.compactions.lock())
        }
    }

    impl Compactable for Cluster {
        fn revision(&self) -> i64 {
            1 + self.minute() as i64 - self.behind.load(Ordering::Relaxed)
        }

        fn leads(&self) -> bool {
            self.leads.load(Ordering::Relaxed)
        }

        async fn compact(&self, revision: i64) -> Result<(), Status> {
            self.compactions.lock().push((self.minute(), revision));
            match self.fails.load(Ordering::Relaxed) {
                true => Err(Status::unavailable("not now")),
                false => Ok(()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn below_an_hour_a_period_is_kept_and_compacted_once_a_period() {
        let cluster = Cluster::new();
        let mut compacting = Box::pin(compact_for_ever(AutoCompaction::Periodic(30 * MINUTE), &cluster));
        assert_eq!(cluster.within(&mut compacting, 29 * MINUTE).await, []);
        let compactions = cluster.within(&mut compacting, 2 * HOUR).await;
        assert_eq!(compactions[..3], [(30, 1), (60, 28), (90, 58)]);
    }

    #[tokio::test(start_paused = true)]
    async fn above_an_hour_it_is_compacted_every_hour_once_the_period_is_over() {
        let cluster = Cluster::new();
        let mut compacting = Box::pin(compact_for_ever(AutoCompaction::Periodic(24 * HOUR), &cluster));
        assert_eq!(cluster.within(&mut compacting, 24 * HOUR - MINUTE).await, []);
        let compactions = cluster.within(&mut compacting, 3 * HOUR).await;
        assert_eq!(compactions, [(1440, 1), (1500, 55), (1560, 115)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_not_compacted_again() {
        let cluster = Cluster::new();
        cluster.behind.store(1_000_000, Ordering::Relaxed);
        let standing = AutoCompaction::Revision(10);
        let mut compacting = Box::pin(compact_for_ever(standing, &cluster));
        assert_eq!(cluster.within(&mut compacting, HOUR).await, []);
        cluster.behind.store(0, Ordering::Relaxed);
        // 66 revisions at minute 65; 10 are kept.
        assert_eq!(cluster.within(&mut compacting, 10 * MINUTE).await, [(65, 56), (70, 61)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_tried_again_after_a_tenth_of_the_interval() {
        let cluster = Cluster::new();
        cluster.fails.store(true, Ordering::Relaxed);
        let mut compacting = Box::pin(compact_for_ever(AutoCompaction::Periodic(HOUR), &cluster));
        assert_eq!(cluster.within(&mut compacting, HOUR + 6 * MINUTE).await, [(60, 1), (66, 1)]);
        cluster.fails.store(false, Ordering::Relaxed);
        assert_eq!(cluster.within(&mut compacting, HOUR + 6 * MINUTE).await, [(72, 7), (132, 67)]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_leader_compacts_and_a_new_one_has_counted_all_along() {
        let cluster = Cluster::new();
        cluster.leads.store(false, Ordering::Relaxed);
        let mut compacting = Box::pin(compact_for_ever(AutoCompaction::Periodic(HOUR), &cluster));
        assert_eq!(cluster.within(&mut compacting, 3 * HOUR).await, []);
        cluster.leads.store(true, Ordering::Relaxed);
        assert_eq!(cluster.within(&mut compacting, 6 * MINUTE).await, [(186, 121)]);
    }
}
