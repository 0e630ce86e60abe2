//! The lease table and its expiry order.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use forebay_keyspace::Change;
use forebay_proto::{Error, leasepb};

use super::MAX_TTL_SECONDS;

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
    /// The lease runs for its TTL, in seconds, from now.
    Renewed { ttl: i64 },
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
    /// When the lease runs out; only a primary lessor says.
    expiry: Option<Instant>,
    keys: BTreeSet<Box<[u8]>>,
}

/// The leases of the cluster as one member knows them.
///
/// Invariant: `order` holds `(expiry, id)` of exactly the leases whose `expiry` is set.
#[derive(Debug)]
pub struct Lessor {
    leases: HashMap<i64, Lease>,
    order: BTreeSet<(Instant, i64)>,
    min_ttl: i64,
    primary: bool,
}

impl Lessor {
    /// An empty table. `min_ttl` is in seconds; shorter wishes are raised to it, so that a lease
    /// outlives an election.
    pub fn new(min_ttl: i64) -> Lessor {
        Lessor { leases: HashMap::new(), order: BTreeSet::new(), min_ttl, primary: false }
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
        let ttl = ttl.max(self.min_ttl);
        self.insert(id, ttl, now);
        Ok(Grant { id, ttl })
    }

    /// Takes a lease over from the db file. No file may make us count beyond what time can hold.
    pub fn restore(&mut self, lease: &leasepb::Lease, now: Instant) {
        self.insert(lease.id, lease.ttl.min(MAX_TTL_SECONDS).max(self.min_ttl), now);
    }

    fn insert(&mut self, id: i64, ttl: i64, now: Instant) {
        self.leases.insert(id, Lease { ttl, expiry: None, keys: BTreeSet::new() });
        if self.primary {
            self.extend(id, now, Duration::ZERO);
        }
    }

    /// Ends a lease and says which keys go with it, ascending.
    pub fn revoke(&mut self, id: i64) -> Result<Vec<Box<[u8]>>, Error> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        if let Some(expiry) = lease.expiry {
            self.order.remove(&(expiry, id));
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
        let Some(lease) = self.leases.get(&id) else { return Renewal::NotFound };
        if lease.expiry.is_some_and(|expiry| expiry <= now) {
            return Renewal::Expiring;
        }
        let ttl = lease.ttl;
        self.extend(id, now, Duration::ZERO);
        Renewal::Renewed { ttl }
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

    /// Becomes primary: every lease runs for its full TTL and `extend` from now, because renewals
    /// that the old leader took are not known here.
    pub fn promote(&mut self, now: Instant, extend: Duration) {
        self.primary = true;
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            self.extend(id, now, extend);
        }
    }

    /// Stops being primary: expiry is another member's business now.
    pub fn demote(&mut self) {
        self.primary = false;
        self.order.clear();
        for lease in self.leases.values_mut() {
            lease.expiry = None;
        }
    }

    /// Whether this lessor decides expiry.
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    fn extend(&mut self, id: i64, now: Instant, extra: Duration) {
        let lease = self.leases.get_mut(&id).expect("extend names a lease of the table");
        if let Some(expiry) = lease.expiry.take() {
            self.order.remove(&(expiry, id));
        }
        // The largest TTL is 285 years, which an Instant of this platform can hold.
        let ttl = Duration::from_secs(u64::try_from(lease.ttl).unwrap_or(0));
        let expiry = now + ttl + extra;
        lease.expiry = Some(expiry);
        self.order.insert((expiry, id));
    }
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

    fn primary() -> (Lessor, Instant) {
        let mut lessor = Lessor::new(2);
        let now = start();
        lessor.promote(now, Duration::ZERO);
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
        assert_eq!(lessor.renew(1, now + seconds(9)), Renewal::Renewed { ttl: 10 });
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
        let mut lessor = Lessor::new(2);
        let now = start();
        lessor.grant(1, 5, now).unwrap();
        assert_eq!(lessor.expired(now + seconds(100), 10), [0i64; 0]);
        lessor.promote(now + seconds(100), seconds(1));
        assert_eq!(lessor.expired(now + seconds(105), 10), [0i64; 0]);
        assert_eq!(lessor.expired(now + seconds(106), 10), [1]);
        lessor.demote();
        assert_eq!(lessor.expired(now + seconds(1000), 10), [0i64; 0]);
    }
}
