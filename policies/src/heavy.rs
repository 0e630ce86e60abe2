//! Who does what: the heaviest clients, prefixes and methods, in bounded memory.
//!
//! Each client × prefix × method has a row. When there are more than fit, a newcomer takes the place of a light row and
//! inherits its weight, as in the space-saving algorithm: whoever is heavy stays, however many light ones pass. What an
//! evicted row has counted goes to [`Accounting::other`], so the sums over everything stay true to the byte.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use crate::{ClientName, Rpc};

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub requests: u64,
    /// Objects read and written.
    pub objects: u64,
    /// Bytes of requests and answers.
    pub bytes: u64,
    /// Requests that waited before they were forwarded.
    pub queued: u64,
    /// Requests that were refused.
    pub refused: u64,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.requests += other.requests;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.queued += other.queued;
        self.refused += other.refused;
    }

    /// What makes a row heavy: bytes, and for those who ask much and get little, requests.
    fn weight(self) -> u64 {
        self.bytes + self.requests * 256
    }
}

/// One client × prefix × method.
#[derive(Clone, Debug)]
pub struct Row {
    pub client: String,
    pub prefix: Vec<u8>,
    pub rpc: Rpc,
    /// Since the row exists.
    pub total: Sums,
    /// In the window before this one.
    pub last: Sums,
    /// How long requests of that window took.
    pub latency: Latency,
    recent: Sums,
    recent_latency: Latency,
    key: u64,
    /// Decides who stays. Halves with every window, and begins with that of the row it took the place of.
    weight: u64,
}

/// How many requests took how long, in powers of two of microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency([u32; 24]);

/// The rows, and everything that has none.
#[derive(Debug)]
pub struct Accounting {
    rows: Vec<Row>,
    index: HashMap<u64, usize>,
    capacity: usize,
    seed: u64,
    /// Where the search for a light row goes on.
    hand: usize,
    other: Window,
    all: Window,
}

/// Sums over many rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Since the beginning.
    pub total: Sums,
    /// In the window before this one.
    pub last: Sums,
    recent: Sums,
}

/// A newcomer takes the place of the lightest of so many rows. Looking at all would cost the more the more there are.
const CANDIDATES: usize = 16;
/// Names are cut to so many bytes: they come from outside.
const NAME_BYTES_MAX: usize = 128;

impl Accounting {
    /// No rows yet, and `capacity` at most. `seed` keeps others from making up keys that share a row.
    pub fn new(capacity: usize, seed: u64) -> Accounting {
        Accounting {
            rows: Vec::new(),
            index: HashMap::new(),
            capacity: capacity.max(1),
            seed,
            hand: 0,
            other: Window::default(),
            all: Window::default(),
        }
    }

    /// Counts what a request did. `lasted` is from its arrival to the end of its answer; none if it was not answered.
    pub fn record(&mut self, client: ClientName<'_>, prefix: &[u8], rpc: Rpc, did: Sums, lasted: Option<Duration>) {
        let prefix = &prefix[..prefix.len().min(NAME_BYTES_MAX)];
        let mut hasher = DefaultHasher::new();
        (self.seed, client, prefix, rpc).hash(&mut hasher);
        let key = hasher.finish();
        self.all.add(did);
        let at = match self.index.get(&key) {
            Some(at) => *at,
            None => self.insert(key, client, prefix, rpc),
        };
        let row = &mut self.rows[at];
        row.total.add(did);
        row.recent.add(did);
        row.weight += did.weight();
        if let Some(lasted) = lasted {
            row.recent_latency.record(lasted);
        }
    }

    /// A window has ended: what was recent becomes [`Row::last`]. To be called at a fixed pace, which rates refer to.
    pub fn turn(&mut self) {
        for row in &mut self.rows {
            row.last = std::mem::take(&mut row.recent);
            row.latency = std::mem::take(&mut row.recent_latency);
            row.weight /= 2;
        }
        for window in [&mut self.other, &mut self.all] {
            window.last = std::mem::take(&mut window.recent);
        }
    }

    /// The rows, in no order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What rows that are gone have counted.
    pub fn other(&self) -> Window {
        self.other
    }

    /// Everything: the sum of [`Accounting::rows`] and [`Accounting::other`].
    pub fn all(&self) -> Window {
        self.all
    }

    fn insert(&mut self, key: u64, client: ClientName<'_>, prefix: &[u8], rpc: Rpc) -> usize {
        let mut client = client.to_string();
        client.truncate(client.floor_char_boundary(NAME_BYTES_MAX));
        let row = Row {
            client,
            prefix: prefix.to_vec(),
            rpc,
            total: Sums::default(),
            last: Sums::default(),
            latency: Latency::default(),
            recent: Sums::default(),
            recent_latency: Latency::default(),
            key,
            weight: 0,
        };
        if self.rows.len() < self.capacity {
            self.rows.push(row);
            self.index.insert(key, self.rows.len() - 1);
            return self.rows.len() - 1;
        }
        let candidates = (0..CANDIDATES.min(self.rows.len())).map(|step| (self.hand + step) % self.rows.len());
        let at = candidates.min_by_key(|at| self.rows[*at].weight).expect("invariant: the capacity is not 0");
        self.hand = (self.hand + CANDIDATES) % self.rows.len();
        let weight = self.rows[at].weight;
        let evicted = std::mem::replace(&mut self.rows[at], Row { weight, ..row });
        self.other.total.add(evicted.total);
        self.other.last.add(evicted.last);
        self.other.recent.add(evicted.recent);
        self.index.remove(&evicted.key);
        self.index.insert(key, at);
        at
    }
}

impl Window {
    fn add(&mut self, did: Sums) {
        self.total.add(did);
        self.recent.add(did);
    }
}

impl Latency {
    fn record(&mut self, lasted: Duration) {
        let micros = u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        let bucket = &mut self.0[bucket.min(self.0.len() - 1)];
        *bucket = bucket.saturating_add(1);
    }

    /// What a share of the requests did not exceed, to a factor of two; none if there were no requests.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let wanted = ((count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.0.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        })?;
        Some(Duration::from_micros((1 << bucket) - u64::from(bucket > 0)))
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn bytes(bytes: u64) -> Sums {
        Sums { requests: 1, objects: 1, bytes, ..Sums::default() }
    }

    #[test]
    fn sums_are_conserved_and_the_heavy_stay_while_many_light_ones_pass() {
        let mut random = StdRng::seed_from_u64(5);
        let mut accounting = Accounting::new(100, 1);
        let mut sent = 0;
        for step in 0..100_000u32 {
            let (client, size) = match random.random_range(0..10) {
                0 => (format!("heavy-{}", random.random_range(0..5)), 20_000),
                _ => (format!("light-{}", random.random_range(0..50_000)), random.random_range(10..200)),
            };
            sent += size;
            accounting.record(ClientName::User(&client), b"/a/", Rpc::Range, bytes(size), None);
            if step % 10_000 == 9_999 {
                accounting.turn();
            }
        }
        let rows: u64 = accounting.rows().iter().map(|row| row.total.bytes).sum();
        assert_eq!(rows + accounting.other().total.bytes, sent);
        assert_eq!(accounting.all().total.bytes, sent);
        let last: u64 = accounting.rows().iter().map(|row| row.last.bytes).sum();
        assert_eq!(last + accounting.other().last.bytes, accounting.all().last.bytes);
        assert_eq!(accounting.rows().len(), 100);
        for heavy in 0..5 {
            let name = format!("user=heavy-{heavy}");
            let row = accounting.rows().iter().find(|row| row.client == name).expect("a heavy client has a row");
            // A tenth of the requests is five clients': 2,000 of 20,000 bytes each.
            assert!(row.total.requests > 1_800, "{row:?}");
        }
    }

    #[test]
    fn who_was_heavy_long_ago_makes_room() {
        let mut accounting = Accounting::new(16, 1);
        (0..16)
            .for_each(|old| accounting.record(ClientName::User(&old.to_string()), b"", Rpc::Put, bytes(1 << 30), None));
        (0..40).for_each(|_| accounting.turn());
        for _ in 0..100 {
            accounting.record(ClientName::User("new"), b"", Rpc::Put, bytes(1_000), None);
        }
        assert!(accounting.rows().iter().any(|row| row.client == "user=new" && row.total.requests == 100));
    }

    #[test]
    fn latencies_are_told_to_a_factor_of_two() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        (1..=100).for_each(|millis| latency.record(Duration::from_millis(millis)));
        let (half, most) = (latency.quantile(0.5).expect("some"), latency.quantile(0.99).expect("some"));
        assert!(half >= Duration::from_millis(50) && half < Duration::from_millis(100), "{half:?}");
        assert!(most >= Duration::from_millis(99) && most < Duration::from_millis(200), "{most:?}");
        latency.record(Duration::MAX);
    }
}
