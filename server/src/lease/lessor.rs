//! The lease table and its expiry order.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use forebay_keyspace::Change;
use forebay_proto::{Error, etcdserverpb::LeaseCheckpoint, leasepb};
use forebay_storage::failpoint::{Point, reach};

use super::{MAX_TTL_SECONDS, Rules, spread};

/// What a grant made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease.
    pub id: i64,
    /// The TTL in force, in seconds: at least the minimum.
    pub ttl: i64,
}

/// How a renewal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease runs for its TTL, in seconds, from now. If it was checkpointed, or is about to be, the log must hear that
    /// this is past before anybody is told: the next leader would take the checkpoint for what is left.
    Renewed { ttl: i64, was_checkpointed: bool },
    /// The lease ran out and its revoke is on the way. Ask again when it is gone.
    Expiring,
    /// There is no such lease.
    NotFound,
}

/// How long a lease still runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Whole seconds until expiry.
    pub ttl: i64,
    /// The TTL it was granted, in seconds.
    pub granted: i64,
}

#[derive(Debug)]
struct Lease {
    ttl: i64,
    /// What a new leader grants, in seconds, as the log says so far; 0 stands for the TTL.
    remaining_ttl: i64,
    /// Checkpoints of it that this primary lessor asked for and has not seen in the log yet. One that was dropped counts
    /// for as long as this one is primary: the log hears of each renewal then, which does no harm.
    checkpoints_awaited: u32,
    /// When the lease runs out; only a primary lessor says.
    expiry: Option<Instant>,
    /// When to checkpoint it next.
    checkpoint: Option<Instant>,
    keys: BTreeSet<Box<[u8]>>,
}

/// The leases of the cluster as one member knows them.
///
/// Invariant: `order` and `checkpoints` hold `(time, id)` of exactly the leases whose `expiry` or `checkpoint` is set.
#[derive(Debug)]
pub struct Lessor {
    leases: HashMap<i64, Lease>,
    order: BTreeSet<(Instant, i64)>,
    checkpoints: BTreeSet<(Instant, i64)>,
    rules: Rules,
    /// The term in which this member leads.
    primary: Option<u64>,
}

impl Lessor {
    /// An empty table.
    pub fn new(rules: Rules) -> Lessor {
        Lessor { leases: HashMap::new(), order: BTreeSet::new(), checkpoints: BTreeSet::new(), rules, primary: None }
    }

    /// Whether the lease exists, expired or not: only a revoke ends it.
    pub fn exists(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// How many leases there are.
    pub fn count(&self) -> usize {
        self.leases.len()
    }

    /// Grants a lease of `ttl` seconds.
    pub fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<Grant, Error> {
        if ttl > MAX_TTL_SECONDS {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.exists(id) {
            return Err(Error::LeaseExist);
        }
        let ttl = ttl.max(self.rules.min_ttl);
        self.insert(id, ttl, 0, now);
        Ok(Grant { id, ttl })
    }

    /// Takes a lease over from the db file. No file may make us count beyond what time can hold.
    pub fn restore(&mut self, lease: &leasepb::Lease, now: Instant) {
        let ttl = lease.ttl.min(MAX_TTL_SECONDS).max(self.rules.min_ttl);
        self.insert(lease.id, ttl, lease.remaining_ttl.clamp(0, ttl), now);
    }

    fn insert(&mut self, id: i64, ttl: i64, remaining_ttl: i64, now: Instant) {
        let lease =
            Lease { ttl, remaining_ttl, checkpoints_awaited: 0, expiry: None, checkpoint: None, keys: BTreeSet::new() };
        let left = lease.left();
        self.leases.insert(id, lease);
        if self.primary.is_some() {
            self.extend(id, now, left);
        }
    }

    /// Ends a lease and says which keys go with it, ascending.
    pub fn revoke(&mut self, id: i64) -> Result<Vec<Box<[u8]>>, Error> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        if let Some(expiry) = lease.expiry {
            self.order.remove(&(expiry, id));
        }
        if let Some(checkpoint) = lease.checkpoint {
            self.checkpoints.remove(&(checkpoint, id));
        }
        Ok(lease.keys.into_iter().collect())
    }

    /// The keys of a lease, ascending.
    pub fn keys(&self, id: i64) -> impl Iterator<Item = &[u8]> {
        self.leases.get(&id).into_iter().flat_map(|lease| lease.keys.iter().map(|key| &key[..]))
    }

    /// Follows a change of the keyspace: detaches the key from its old lease, attaches it to its
    /// new one.
    pub fn observe(&mut self, change: &Change) {
        let old = change.prev.as_ref().map_or(0, |prev| prev.lease());
        let new = if change.version.is_tombstone() { 0 } else { change.version.lease() };
        if old == new {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&old) {
            lease.keys.remove(change.version.key());
        }
        self.attach(new, change.version.key());
    }

    /// Attaches a key, as read from the db file at start.
    pub fn attach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.into());
        }
    }

    /// Renews a lease. Only meaningful on a primary lessor.
    pub fn renew(&mut self, id: i64, now: Instant) -> Renewal {
        let Some(lease) = self.leases.get_mut(&id) else { return Renewal::NotFound };
        if lease.expiry.is_some_and(|expiry| expiry <= now) {
            return Renewal::Expiring;
        }
        let (ttl, was_checkpointed) = (lease.ttl, lease.remaining_ttl > 0 || lease.checkpoints_awaited > 0);
        self.extend(id, now, from_seconds(ttl));
        Renewal::Renewed { ttl, was_checkpointed }
    }

    /// The leases to checkpoint now, at most `limit`. Each is named once, and again when its checkpoint has been applied
    /// and another interval has passed. They must be on their way into the log before any of the leases is renewed: what
    /// the log is told of a renewal has to come after them.
    pub fn checkpoints_due(&mut self, now: Instant, limit: usize) -> Vec<LeaseCheckpoint> {
        let mut due = Vec::new();
        while due.len() < limit
            && let Some((at, id)) = self.checkpoints.first().copied()
            && at <= now
        {
            self.checkpoints.pop_first();
            let lease = self.leases.get_mut(&id).expect("a checkpoint names a lease of the table");
            lease.checkpoint = None;
            let left = lease.expiry.map_or(Duration::ZERO, |expiry| expiry.saturating_duration_since(now));
            // Rounded up: a lease must not lose by it.
            let remaining_ttl = left.as_secs() as i64 + i64::from(left.subsec_nanos() > 0);
            if 0 < remaining_ttl && remaining_ttl < lease.ttl {
                lease.checkpoints_awaited += 1;
                due.push(LeaseCheckpoint { id, remaining_ttl });
            }
        }
        due
    }

    /// Takes over a checkpoint of the log; returns the lease as it is from now on. One of a lease that is gone means
    /// nothing.
    pub fn checkpoint(&mut self, checkpoint: &LeaseCheckpoint, now: Instant) -> Option<leasepb::Lease> {
        let lease = self.leases.get_mut(&checkpoint.id)?;
        lease.remaining_ttl = checkpoint.remaining_ttl.clamp(0, lease.ttl);
        // What is noted of a renewal is none that was awaited.
        if lease.remaining_ttl > 0 {
            lease.checkpoints_awaited = lease.checkpoints_awaited.saturating_sub(1);
        }
        let stored = leasepb::Lease { id: checkpoint.id, ttl: lease.ttl, remaining_ttl: lease.remaining_ttl };
        if self.primary.is_some() {
            self.schedule_checkpoint(checkpoint.id, now);
        }
        Some(stored)
    }

    /// How long a lease still runs.
    pub fn remaining(&self, id: i64, now: Instant) -> Option<Remaining> {
        let lease = self.leases.get(&id)?;
        let ttl = match lease.expiry {
            Some(expiry) => expiry.saturating_duration_since(now).as_secs() as i64,
            None => lease.ttl,
        };
        Some(Remaining { ttl, granted: lease.ttl })
    }

    /// Every lease, the one that ends soonest first; then those without a known end by id.
    pub fn list(&self) -> Vec<i64> {
        let mut endless: Vec<i64> =
            self.leases.iter().filter(|(_, lease)| lease.expiry.is_none()).map(|(id, _)| *id).collect();
        endless.sort_unstable();
        self.order.iter().map(|(_, id)| *id).chain(endless).collect()
    }

    /// The leases to revoke now, at most `limit`, longest expired first. They stay in the table
    /// until their revoke is applied; asking again names them again.
    pub fn expired(&self, now: Instant, limit: usize) -> Vec<i64> {
        self.order.iter().take_while(|(expiry, _)| *expiry <= now).take(limit).map(|(_, id)| *id).collect()
    }

    /// Becomes primary in a term: every lease runs for what its last checkpoint left, else for its full TTL, and `extend`
    /// from now, because renewals that the old leader took are not known here.
    pub fn promote(&mut self, term: u64, now: Instant, extend: Duration) {
        reach(Point::LeasePromote);
        self.primary = Some(term);
        let mut ends: Vec<(Duration, i64)> = self.leases.iter().map(|(id, lease)| (lease.left(), *id)).collect();
        ends.sort_unstable();
        let delays = spread::delays(ends.iter().map(|(left, _)| *left));
        for ((left, id), delay) in ends.iter().zip(delays) {
            self.extend(*id, now, *left + extend + delay);
        }
    }

    /// Stops being primary: expiry is another member's business now.
    pub fn demote(&mut self) {
        reach(Point::LeaseDemote);
        self.primary = None;
        self.order.clear();
        self.checkpoints.clear();
        for lease in self.leases.values_mut() {
            (lease.expiry, lease.checkpoint, lease.checkpoints_awaited) = (None, None, 0);
        }
    }

    /// Whether this lessor decides expiry.
    pub fn is_primary(&self) -> bool {
        self.primary.is_some()
    }

    /// The term in which it does.
    pub fn primary_term(&self) -> Option<u64> {
        self.primary
    }

    /// Whether checkpoints are kept in the file even where no release reads them yet.
    pub fn persists_checkpoints(&self) -> bool {
        self.rules.persist_checkpoints
    }

    fn extend(&mut self, id: i64, now: Instant, left: Duration) {
        let lease = self.leases.get_mut(&id).expect("extend names a lease of the table");
        if let Some(expiry) = lease.expiry.take() {
            self.order.remove(&(expiry, id));
        }
        // The largest TTL is 285 years, which an Instant of this platform can hold.
        let expiry = now + left;
        lease.expiry = Some(expiry);
        self.order.insert((expiry, id));
        self.schedule_checkpoint(id, now);
    }

    /// A lease that ends before the next checkpoint needs none.
    fn schedule_checkpoint(&mut self, id: i64, now: Instant) {
        let Some(interval) = self.rules.checkpoint_interval else { return };
        let lease = self.leases.get_mut(&id).expect("a checkpoint is scheduled for a lease of the table");
        if let Some(checkpoint) = lease.checkpoint.take() {
            self.checkpoints.remove(&(checkpoint, id));
        }
        if lease.expiry.is_some_and(|expiry| expiry > now + interval) {
            lease.checkpoint = Some(now + interval);
            self.checkpoints.insert((now + interval, id));
        }
    }
}

impl Lease {
    /// How long it runs when it begins to.
    fn left(&self) -> Duration {
        from_seconds(if self.remaining_ttl > 0 { self.remaining_ttl } else { self.ttl })
    }
}

fn from_seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        Instant::now()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn rules() -> Rules {
        Rules { min_ttl: 2, ..Rules::default() }
    }

    fn primary() -> (Lessor, Instant) {
        let mut lessor = Lessor::new(rules());
        let now = start();
        lessor.promote(1, now, Duration::ZERO);
        (lessor, now)
    }

    #[test]
    fn a_short_ttl_is_raised_and_a_giant_one_refused() {
        let (mut lessor, now) = primary();
        assert_eq!(lessor.grant(1, 0, now), Ok(Grant { id: 1, ttl: 2 }));
        assert_eq!(lessor.grant(2, -5, now), Ok(Grant { id: 2, ttl: 2 }));
        assert_eq!(lessor.grant(-7, 60, now), Ok(Grant { id: -7, ttl: 60 }));
        assert_eq!(lessor.grant(3, MAX_TTL_SECONDS, now), Ok(Grant { id: 3, ttl: MAX_TTL_SECONDS }));
        assert_eq!(lessor.grant(4, MAX_TTL_SECONDS + 1, now), Err(Error::LeaseTtlTooLarge));
        assert_eq!(lessor.grant(1, 10, now), Err(Error::LeaseExist));
    }

    #[test]
    fn a_lease_expires_at_its_ttl_and_stays_until_revoked() {
        let (mut lessor, now) = primary();
        lessor.grant(1, 10, now).unwrap();
        lessor.grant(2, 5, now).unwrap();
        assert_eq!(lessor.expired(now + seconds(4), 10), [0i64; 0]);
        assert_eq!(lessor.expired(now + seconds(5), 10), [2]);
        assert_eq!(lessor.expired(now + seconds(11), 10), [2, 1]);
        assert_eq!(lessor.expired(now + seconds(11), 1), [2]);
        assert_eq!(lessor.renew(2, now + seconds(6)), Renewal::Expiring);
        assert!(lessor.exists(2));
        assert_eq!(lessor.revoke(2), Ok(vec![]));
        assert_eq!(lessor.renew(2, now + seconds(6)), Renewal::NotFound);
        assert_eq!(lessor.revoke(2), Err(Error::LeaseNotFound));
    }

    #[test]
    fn a_ttl_from_a_file_is_within_what_may_be_granted() {
        let (mut lessor, now) = primary();
        for (id, ttl) in [(1, i64::MAX), (2, i64::MIN)] {
            lessor.restore(&leasepb::Lease { id, ttl, remaining_ttl: 0 }, now);
        }
        assert_eq!(lessor.remaining(1, now).unwrap().granted, MAX_TTL_SECONDS);
        assert_eq!(lessor.remaining(2, now).unwrap().granted, 2);
    }

    #[test]
    fn a_renewal_counts_from_when_it_is_made() {
        let (mut lessor, now) = primary();
        lessor.grant(1, 10, now).unwrap();
        assert_eq!(lessor.renew(1, now + seconds(9)), Renewal::Renewed { ttl: 10, was_checkpointed: false });
        assert_eq!(lessor.expired(now + seconds(18), 10), [0i64; 0]);
        assert_eq!(lessor.remaining(1, now + seconds(12)), Some(Remaining { ttl: 7, granted: 10 }));
        assert_eq!(lessor.remaining(1, now + seconds(30)).unwrap().ttl, 0);
        assert_eq!(lessor.remaining(9, now), None);
    }

    #[test]
    fn leases_are_listed_soonest_first() {
        let (mut lessor, now) = primary();
        for (id, ttl) in [(1, 30), (2, 10), (3, 20)] {
            lessor.grant(id, ttl, now).unwrap();
        }
        assert_eq!(lessor.list(), [2, 3, 1]);
    }

    #[test]
    fn only_a_primary_lessor_lets_leases_expire() {
        let mut lessor = Lessor::new(rules());
        let now = start();
        lessor.grant(1, 5, now).unwrap();
        assert_eq!(lessor.expired(now + seconds(100), 10), [0i64; 0]);
        lessor.promote(1, now + seconds(100), seconds(1));
        assert_eq!(lessor.expired(now + seconds(105), 10), [0i64; 0]);
        assert_eq!(lessor.expired(now + seconds(106), 10), [1]);
        lessor.demote();
        assert_eq!(lessor.expired(now + seconds(1000), 10), [0i64; 0]);
    }
    #[test]
    fn what_is_left_of_a_checkpointed_lease_never_grows_with_leaders() {
        let rules = Rules { min_ttl: 2, checkpoint_interval: Some(seconds(300)), ..Rules::default() };
        let mut now = start();
        let mut lessor = Lessor::new(rules);
        lessor.promote(1, now, Duration::ZERO);
        lessor.grant(1, 1000, now).unwrap();
        lessor.grant(2, 200, now).unwrap();
        assert_eq!(lessor.checkpoints_due(now + seconds(299), 10), []);
        let mut left = 1000;
        for term in 2..5 {
            now += seconds(300);
            let due = lessor.checkpoints_due(now, 10);
            let [LeaseCheckpoint { id: 1, remaining_ttl }] = due[..] else { panic!("{due:?}") };
            assert!(remaining_ttl < left, "{remaining_ttl} of {left}");
            left = remaining_ttl;
            assert_eq!(lessor.checkpoint(&due[0], now).unwrap().remaining_ttl, left);
            lessor.demote();
            assert_eq!(lessor.checkpoints_due(now + seconds(1000), 10), []);
            lessor.promote(term, now, seconds(1));
            assert_eq!(lessor.remaining(1, now).unwrap().ttl, left + 1);
        }
        assert_eq!(lessor.checkpoints_due(now + seconds(1000), 10), [], "the rest is shorter than an interval");
        // A renewal is for the whole TTL, and the next leader must not believe the checkpoint.
        assert_eq!(lessor.renew(1, now), RENEWED_AFTER_CHECKPOINT);
        assert_eq!(lessor.remaining(1, now).unwrap().ttl, 1000);
        // Nor may anybody else be told so before the log knows, who told it or not.
        assert_eq!(lessor.renew(1, now), RENEWED_AFTER_CHECKPOINT);
        lessor.checkpoint(&LeaseCheckpoint { id: 1, remaining_ttl: 0 }, now);
        assert_eq!(lessor.renew(1, now), Renewal::Renewed { ttl: 1000, was_checkpointed: false });
    }

    const RENEWED_AFTER_CHECKPOINT: Renewal = Renewal::Renewed { ttl: 1000, was_checkpointed: true };

    #[test]
    fn a_renewal_that_a_checkpoint_may_follow_is_told_to_the_log() {
        let rules = Rules { min_ttl: 2, checkpoint_interval: Some(seconds(300)), ..Rules::default() };
        let (now, mut lessor) = (start(), Lessor::new(rules));
        lessor.promote(1, now, Duration::ZERO);
        lessor.grant(1, 1000, now).unwrap();
        let due = lessor.checkpoints_due(now + seconds(300), 10);
        // It is on its way, and will be behind the renewal for whoever leads next.
        let renewed = now + seconds(301);
        assert_eq!(lessor.renew(1, renewed), RENEWED_AFTER_CHECKPOINT);
        assert_eq!(lessor.checkpoint(&due[0], renewed).unwrap().remaining_ttl, 700);
        let told = lessor.checkpoint(&LeaseCheckpoint { id: 1, remaining_ttl: 0 }, renewed).unwrap();
        assert_eq!(told.remaining_ttl, 0);
        assert_eq!(lessor.renew(1, renewed), Renewal::Renewed { ttl: 1000, was_checkpointed: false });
        lessor.demote();
        lessor.promote(2, renewed, Duration::ZERO);
        assert_eq!(lessor.remaining(1, renewed).unwrap().ttl, 1000);
    }

    #[test]
    fn a_checkpoint_comes_back_from_the_file() {
        let (now, mut lessor) = (start(), Lessor::new(rules()));
        lessor.restore(&leasepb::Lease { id: 1, ttl: 100, remaining_ttl: 7 }, now);
        lessor.restore(&leasepb::Lease { id: 2, ttl: 100, remaining_ttl: 1_000_000 }, now);
        lessor.promote(1, now, Duration::ZERO);
        assert_eq!((lessor.remaining(1, now).unwrap().ttl, lessor.remaining(2, now).unwrap().ttl), (7, 100));
        assert_eq!(lessor.checkpoint(&LeaseCheckpoint { id: 3, remaining_ttl: 1 }, now), None);
    }
}
