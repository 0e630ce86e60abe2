//! One endpoint: connections that are kept open, and what is known of its health.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use forebay_proto::etcdserverpb::StatusResponse;
use futures::future::poll_fn;
use h2::{Ping, PingPong};
use http::HeaderValue;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    Address, Connector,
    backoff::Backoff,
    cluster::Cluster,
    connection::{Connection, Driver},
    probe::probe,
    unread::Unread,
};
use crate::{
    config::{KEEPALIVE_MIN, PoolConfig},
    metrics::EndpointMetrics,
};

/// How much an endpoint is liked; a lower one is used only if there is no higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Serves and knows a leader.
    Good,
    /// Knows no leader: serializable reads work, everything else will fail or wait.
    Leaderless,
    /// Says that it does not serve, did not answer in time, or is a learner.
    Doubtful,
    /// Leads back to this gateway; never used.
    Ourselves,
    /// Belongs to another cluster than most endpoints; never used.
    Foreign,
}

/// What the last probe learned.
#[derive(Clone, Debug)]
pub struct Health {
    /// See [`Rank`].
    pub rank: Rank,
    /// The member's status, if it told.
    pub status: Option<Arc<StatusResponse>>,
}

impl Health {
    pub(super) fn of(rank: Rank) -> Health {
        Health { rank, status: None }
    }
}

/// One endpoint of a pool.
pub(super) struct Endpoint {
    pub(super) index: usize,
    pub(super) address: Address,
    pub(super) metrics: EndpointMetrics,
    /// Connections that take new calls.
    slots: Box<[ArcSwapOption<Connection>]>,
    next: AtomicUsize,
    health: ArcSwap<Health>,
    cluster: Arc<Cluster>,
    /// Its answers that lie here, with those of the others.
    pub(super) unread: Arc<Unread>,
    /// Tells those who wait for an endpoint to look again.
    changed: watch::Sender<()>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address).field("health", &self.health).finish()
    }
}

impl Endpoint {
    pub(super) fn new(
        index: usize,
        address: Address,
        connections: usize,
        metrics: EndpointMetrics,
        cluster: Arc<Cluster>,
        unread: Arc<Unread>,
        changed: watch::Sender<()>,
    ) -> Endpoint {
        let slots = (0..connections.max(1)).map(|_| ArcSwapOption::empty()).collect();
        let health = ArcSwap::from_pointee(Health::of(Rank::Doubtful));
        Endpoint { index, address, metrics, slots, next: AtomicUsize::new(0), health, cluster, unread, changed }
    }

    /// The next of the connections that take new calls.
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.slots.len();
        (0..count).find_map(|offset| self.slots[(start + offset) % count].load_full())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.slots.iter().any(|slot| slot.load().is_some())
    }

    pub(super) fn health(&self) -> Arc<Health> {
        match self.rank() {
            Rank::Foreign => Arc::new(Health::of(Rank::Foreign)),
            _ => self.health.load_full(),
        }
    }

    pub(super) fn rank(&self) -> Rank {
        if self.cluster.is_foreign(self.index) { Rank::Foreign } else { self.health.load().rank }
    }

    /// Gives a connection no new calls any more.
    pub(super) fn withdraw(&self, connection: &Connection) {
        for slot in &self.slots {
            let is_it = |held: &Option<Arc<Connection>>| {
                held.as_ref().is_some_and(|held| std::ptr::eq(Arc::as_ptr(held), connection))
            };
            let held = slot.load();
            if is_it(&held) {
                // Only the slot's own task puts connections in, after this one was withdrawn.
                slot.store(None);
                self.metrics.connections.dec();
                if !self.is_connected() {
                    tracing::warn!(endpoint = %self.address, "the last connection to the endpoint is gone");
                }
            }
        }
    }

    fn publish(&self, slot: usize, connection: Arc<Connection>) {
        if !self.is_connected() {
            tracing::info!(endpoint = %self.address, "connected to the endpoint");
        }
        self.slots[slot].store(Some(connection));
        self.metrics.connections.inc();
        self.changed.send_replace(());
    }

    fn note(&self, health: Health) {
        let before = self.rank();
        if let Some(header) = health.status.as_ref().and_then(|status| status.header.as_ref()) {
            self.cluster.tell(self.index, header.cluster_id);
        }
        let rank = if self.cluster.is_foreign(self.index) { Rank::Foreign } else { health.rank };
        if before != rank {
            match rank {
                Rank::Good => tracing::info!(endpoint = %self.address, "endpoint is healthy"),
                Rank::Leaderless => tracing::warn!(endpoint = %self.address, "endpoint knows no leader"),
                Rank::Doubtful => tracing::warn!(endpoint = %self.address, "endpoint is not healthy"),
                Rank::Ourselves => {
                    tracing::error!(endpoint = %self.address, "endpoint leads back to this gateway and is not used");
                }
                Rank::Foreign => {
                    tracing::error!(endpoint = %self.address, "endpoint belongs to another cluster and is not used");
                }
            }
        }
        self.health.store(Arc::new(health));
        self.changed.send_replace(());
    }
}

/// Keeps one connection of an endpoint open, for ever. Dropping the future closes it.
pub(super) async fn keep_connected(
    endpoint: Arc<Endpoint>,
    slot: usize,
    connector: Arc<dyn Connector>,
    config: Arc<PoolConfig>,
    via: HeaderValue,
) {
    // Connections that were retired and still carry streams are driven here as well.
    let mut drivers = JoinSet::new();
    let mut backoff = Backoff::default();
    loop {
        while drivers.try_join_next().is_some() {}
        match connect(&endpoint, &*connector, &config).await {
            Ok((connection, driver)) => {
                let connection = Arc::new(connection);
                let served = serve(&endpoint, slot, &connection, driver, &mut drivers, &config, &via).await;
                connection.retire();
                if served {
                    backoff.reset();
                }
            }
            Err(error) => tracing::debug!(endpoint = %endpoint.address, %error, "failed to connect"),
        }
        let pause = backoff.next(&mut rand::rng());
        time::sleep(pause).await;
    }
}

async fn connect(
    endpoint: &Arc<Endpoint>,
    connector: &dyn Connector,
    config: &PoolConfig,
) -> io::Result<(Connection, Driver)> {
    let opening = async {
        let io = connector.connect(&endpoint.address).await?;
        Connection::open(Arc::clone(endpoint), io).await
    };
    time::timeout(config.connect_timeout, opening).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Uses one connection until it takes no new calls; returns whether it ever did.
async fn serve(
    endpoint: &Arc<Endpoint>,
    slot: usize,
    connection: &Arc<Connection>,
    mut driver: Driver,
    drivers: &mut JoinSet<()>,
    config: &PoolConfig,
    via: &HeaderValue,
) -> bool {
    let mut pings = driver.ping_pong().expect("a fresh connection still has its ping handle");
    let ended = watch::Sender::new(());
    let mut is_open = ended.subscribe();
    let address = endpoint.address.clone();
    let driving = drivers.spawn(async move {
        let _ended = ended;
        if let Err(error) = driver.await {
            tracing::debug!(endpoint = %address, %error, "connection broke");
        }
    });
    // A member that accepts connections and does not answer is not there.
    let Some(health) = probe_in_time(connection, config, via).await else {
        driving.abort();
        return false;
    };
    endpoint.note(health);
    endpoint.publish(slot, Arc::clone(connection));

    let mut probing = time::interval_at(Instant::now() + config.probe_interval, config.probe_interval);
    probing.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let keepalive = config.keepalive_interval.max(KEEPALIVE_MIN);
    let mut pinging = time::interval_at(Instant::now() + keepalive, keepalive);
    pinging.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = is_open.changed() => return true,
            () = connection.retired() => return true,
            _ = pinging.tick() => {
                // etcd takes pings on connections without streams for an attack; there the probe,
                // which is a stream, finds out.
                if connection.active() > 0 && !answers(&mut pings, config.keepalive_timeout).await {
                    tracing::warn!(endpoint = %endpoint.address, "connection does not answer pings");
                    driving.abort();
                    return true;
                }
            }
            _ = probing.tick() => {
                let health = probe_in_time(connection, config, via).await;
                endpoint.note(health.unwrap_or(Health::of(Rank::Doubtful)));
            }
        }
    }
}

async fn probe_in_time(connection: &Arc<Connection>, config: &PoolConfig, via: &HeaderValue) -> Option<Health> {
    time::timeout(config.probe_timeout, probe(connection, via)).await.ok()
}

/// Whether the connection itself is alive, whatever the member behind it does.
async fn answers(pings: &mut PingPong, timeout: Duration) -> bool {
    if pings.send_ping(Ping::opaque()).is_err() {
        return false;
    }
    matches!(time::timeout(timeout, poll_fn(|cx| pings.poll_pong(cx))).await, Ok(Ok(_)))
}
