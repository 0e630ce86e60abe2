//! Holds back who guesses passwords.
//!
//! A login that fails counts against that user at the address it came from, and against the address. So who guesses from
//! elsewhere keeps no user out, and who tries one password on every user is held back as well. Logins that succeed are
//! free, in any number: a thousand clients of one user may start at once.
//!
//! Memory is bounded by construction: tables of buckets that a keyed hash finds. Strangers may share a bucket, but nobody
//! can know whose bucket is whose, and one address drains only as many as its own pace allows.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    bucket::{Bucket, Pace},
    units::Rate,
};

/// Buckets of each table.
const BUCKETS: usize = 8192;

/// What one user may fail at one address: enough for a hand that slips and for a client that is set up wrongly.
const OF_USER: u64 = 1;
/// What all users together may fail there.
const OF_ADDRESS: u64 = 5;
/// So many seconds' worth may come at once.
const BURST_SECONDS: u64 = 10;

/// Who failed, and how lately.
#[derive(Debug)]
pub struct Guesses {
    of_user: Pace,
    of_address: Pace,
    hasher: RandomState,
    users: Box<[Bucket]>,
    addresses: Box<[Bucket]>,
}

impl Guesses {
    /// Nobody has failed yet. `hasher` must be one that nobody outside knows, and an address may stand for so many
    /// `clients`: who is asked through gateways lets each of those hold its own clients back first.
    pub fn new(hasher: RandomState, now: Instant, clients: u64) -> Guesses {
        let table = || vec![Bucket::new(now); BUCKETS].into();
        let pace = |failures: u64| {
            let per_second = failures * clients;
            Pace { rate: Rate::per_second(per_second), burst: per_second * BURST_SECONDS }
        };
        let (of_user, of_address) = (pace(OF_USER), pace(OF_ADDRESS));
        Guesses { of_user, of_address, hasher, users: table(), addresses: table() }
    }

    /// How long until somebody at this address may try to log in as this user; zero if that is now.
    pub fn wait(&self, now: Instant, address: IpAddr, user: &[u8]) -> Duration {
        let network = network(address);
        let of_user = self.users[self.at((network, user))].wait(now, self.of_user, 1);
        let of_address = self.addresses[self.at(network)].wait(now, self.of_address, 1);
        of_user.max(of_address)
    }

    /// A login failed. Those that were under way when the last one was allowed count too, but not for ever.
    pub fn failed(&mut self, now: Instant, address: IpAddr, user: &[u8]) {
        let network = network(address);
        let (user, address) = (self.at((network, user)), self.at(network));
        fail(&mut self.users[user], now, self.of_user);
        fail(&mut self.addresses[address], now, self.of_address);
    }

    fn at(&self, who: impl Hash) -> usize {
        self.hasher.hash_one(who) as usize % BUCKETS
    }
}

/// Takes one, down to a debt of one burst.
fn fail(bucket: &mut Bucket, now: Instant, pace: Pace) {
    bucket.settle(now, pace, 0, 1);
}

/// What one client has to itself: of an IPv6 address the half that it is given, for it chooses the other.
pub fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    /// Guesses that pass when somebody tries without end for so long, at 100 a second.
    fn guesses(
        guesses: &mut Guesses,
        from: Instant,
        seconds: u32,
        mut who: impl FnMut(u32) -> (IpAddr, String),
    ) -> u32 {
        let mut passed = 0;
        for attempt in 0..seconds * 100 {
            let (now, (address, user)) = (from + Duration::from_millis(10) * attempt, who(attempt));
            if guesses.wait(now, address, user.as_bytes()).is_zero() {
                guesses.failed(now, address, user.as_bytes());
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn a_user_is_guessed_at_once_a_second_and_is_let_in_from_elsewhere() {
        let (begin, mut table) = (start(), Guesses::new(RandomState::new(), start(), 1));
        let passed = guesses(&mut table, begin, 60, |_| (HERE, "root".into()));
        assert!((68..=70).contains(&passed), "{passed}");
        let now = begin + Duration::from_secs(60);
        assert!(!table.wait(now, HERE, b"root").is_zero());
        assert!(table.wait(now, ELSEWHERE, b"root").is_zero() && table.wait(now, HERE, b"alice").is_zero());
        assert!(table.wait(now + Duration::from_secs(1), HERE, b"root").is_zero());
    }

    #[test]
    fn one_password_for_every_user_is_held_back_too() {
        let (begin, mut table) = (start(), Guesses::new(RandomState::new(), start(), 1));
        let passed = guesses(&mut table, begin, 60, |attempt| (HERE, format!("user-{attempt}")));
        assert!((345..=350).contains(&passed), "{passed}");
        assert!(table.wait(begin + Duration::from_secs(60), ELSEWHERE, b"user-1").is_zero());
    }

    #[test]
    fn what_was_under_way_makes_a_debt_of_one_burst_and_no_more() {
        let (now, mut table) = (start(), Guesses::new(RandomState::new(), start(), 1));
        (0..1_000).for_each(|_| table.failed(now, HERE, b"root"));
        assert_eq!(table.wait(now, HERE, b"root"), Duration::from_secs(11));
    }

    #[test]
    fn addresses_that_one_client_chooses_from_are_one() {
        let (now, mut table) = (start(), Guesses::new(RandomState::new(), start(), 1));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        (0..10).for_each(|n| table.failed(now, address(&format!("2001:db8::{n}")), b"root"));
        assert!(!table.wait(now, address("2001:db8::ffff"), b"root").is_zero());
        assert!(table.wait(now, address("2001:db8:0:1::1"), b"root").is_zero());
        (0..10).for_each(|_| table.failed(now, HERE, b"root"));
        assert!(!table.wait(now, address("::ffff:192.0.2.1"), b"root").is_zero());
    }
}
