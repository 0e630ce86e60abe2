//! How many log in at once.
//!
//! A guess counts once the upstream has refused it. So that not many are tried before the first of them counts, few
//! logins from one address are on their way at a time, and the others wait for their turn.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::Arc,
};

use forebay_policies::guesses::network;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Logins from one address that are on their way. A large value lets as many guesses through beyond those that are
/// allowed; with a small one, clients that start together wait longer.
const AT_ONCE: usize = 16;
/// Addresses share so many places; nobody outside knows who shares with whom.
const PLACES: usize = 1024;

pub(super) struct Logins {
    hasher: RandomState,
    places: Box<[Arc<Semaphore>]>,
}

impl Default for Logins {
    fn default() -> Logins {
        let places = (0..PLACES).map(|_| Arc::new(Semaphore::new(AT_ONCE))).collect();
        Logins { hasher: RandomState::new(), places }
    }
}

impl Logins {
    /// Waits until somebody at this address may log in, and takes the turn until what is returned is dropped.
    pub(super) async fn turn(&self, address: IpAddr) -> OwnedSemaphorePermit {
        let place = self.hasher.hash_one(network(address)) as usize % PLACES;
        Arc::clone(&self.places[place]).acquire_owned().await.expect("invariant: no place is ever closed")
    }
}
