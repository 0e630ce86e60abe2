//! The endpoints of a cluster and the choice between them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    Address, Connector, Health, Rank,
    budget::RetryBudget,
    cluster::Cluster,
    connection::Connection,
    endpoint::{Endpoint, keep_connected},
    unread::Unread,
};
use crate::{
    config::{Config, PoolConfig},
    methods::Scope,
    metrics::Metrics,
};

/// Connections to every endpoint of a cluster. Clones share them; the last one closes them.
#[derive(Clone, Debug)]
pub struct Pool(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    endpoints: Box<[Arc<Endpoint>]>,
    /// Where the next call's round begins.
    next: AtomicUsize,
    /// The endpoint that answers for one member. It changes only when it cannot be reached, so that
    /// what clients compare (status, hashes, snapshots) comes from one member.
    chosen: AtomicUsize,
    changed: watch::Sender<()>,
    pub(super) budget: RetryBudget,
    pub(super) metrics: Metrics,
    pub(super) hold: Duration,
    pub(super) message_bytes_max: usize,
    /// Aborts the tasks that keep connections open and look after what is unread when the pool is dropped.
    _tasks: JoinSet<()>,
}

impl Pool {
    /// Starts connecting to `addresses`. Must be called in a tokio runtime.
    ///
    /// # Panics
    ///
    /// If there are no addresses or more than [`Address::MAX`]; [`Address::list`] gives neither.
    pub fn connect(
        config: &Config,
        pool: PoolConfig,
        addresses: Vec<Address>,
        connector: Arc<dyn Connector>,
        metrics: Metrics,
    ) -> Pool {
        assert!((1..=Address::MAX).contains(&addresses.len()), "a pool has 1 to {} endpoints", Address::MAX);
        let via = HeaderValue::try_from(config.id.to_string()).expect("an id is hexadecimal");
        let changed = watch::Sender::new(());
        let pool = Arc::new(pool);
        let mut tasks = JoinSet::new();
        let cluster = Arc::new(Cluster::new(addresses.len()));
        let unread = Arc::new(Unread::default());
        tasks.spawn(Arc::clone(&unread).look_after());
        let mut endpoints = Vec::new();
        for (index, address) in addresses.into_iter().enumerate() {
            let handles = metrics.endpoint(&address.to_string());
            let (cluster, unread, changed) = (Arc::clone(&cluster), Arc::clone(&unread), changed.clone());
            let endpoint = Arc::new(Endpoint::new(index, address, pool.connections, handles, cluster, unread, changed));
            for slot in 0..pool.connections.max(1) {
                let connector = Arc::clone(&connector);
                tasks.spawn(keep_connected(Arc::clone(&endpoint), slot, connector, Arc::clone(&pool), via.clone()));
            }
            endpoints.push(endpoint);
        }
        Pool(Arc::new(Shared {
            endpoints: endpoints.into(),
            next: AtomicUsize::new(0),
            chosen: AtomicUsize::new(0),
            changed,
            budget: RetryBudget::default(),
            metrics,
            hold: pool.hold,
            message_bytes_max: config.max_message_bytes,
            _tasks: tasks,
        }))
    }

    /// What is known of each endpoint, in order; `None` for one without a connection.
    pub fn health(&self) -> Vec<(Address, Option<Arc<Health>>)> {
        let health = |endpoint: &Arc<Endpoint>| endpoint.is_connected().then(|| endpoint.health());
        self.0.endpoints.iter().map(|endpoint| (endpoint.address.clone(), health(endpoint))).collect()
    }

    /// Waits until some endpoint takes calls.
    pub async fn ready(&self) {
        let mut changed = self.0.changed.subscribe();
        while self.0.pick(Scope::Cluster, Tried::default()).is_none() {
            // The sender lives in the pool.
            let _ = changed.changed().await;
        }
    }
}

/// Endpoints that a call has been to, by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried(u64);

impl Tried {
    pub(super) fn add(&mut self, endpoint: &Endpoint) {
        self.0 |= 1 << endpoint.index;
    }

    fn has(self, endpoint: &Endpoint) -> bool {
        self.0 & (1 << endpoint.index) != 0
    }
}

impl Shared {
    /// A connection for a call that has not been to `tried`.
    pub(super) fn pick(&self, scope: Scope, tried: Tried) -> Option<Arc<Connection>> {
        let start = match scope {
            Scope::Cluster => self.next.fetch_add(1, Ordering::Relaxed),
            Scope::Member => self.chosen.load(Ordering::Relaxed),
        };
        let count = self.endpoints.len();
        let usable = || {
            let in_order = (0..count).map(|offset| &self.endpoints[(start + offset) % count]);
            in_order
                .filter(|endpoint| !tried.has(endpoint) && endpoint.rank() < Rank::Ourselves && endpoint.is_connected())
        };
        let endpoint = match scope {
            // The best rank, and within it whose turn it is: `min_by_key` gives the first.
            Scope::Cluster => usable().min_by_key(|endpoint| endpoint.rank()),
            Scope::Member => usable().next(),
        }?;
        if scope == Scope::Member && endpoint.index != self.chosen.load(Ordering::Relaxed) {
            tracing::info!(endpoint = %endpoint.address, "another member answers member-specific calls now");
            self.chosen.store(endpoint.index, Ordering::Relaxed);
        }
        endpoint.connection()
    }

    /// Waits for an endpoint to change, at most until `until` and for `at_most`.
    pub(super) async fn changed(&self, until: Instant, at_most: Duration) {
        let mut changed = self.changed.subscribe();
        let until = until.min(Instant::now() + at_most);
        let _ = time::timeout_at(until, changed.changed()).await;
    }
}
