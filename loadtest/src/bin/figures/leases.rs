//! Many leases that are kept alive.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_loadtest::client::{Connection, Target};
use forebay_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, lease_client::LeaseClient,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{self, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;

const TTL: i64 = 5;
/// As etcd's clients do: three times in a TTL.
const EVERY: Duration = Duration::from_millis(1_666);
/// Leases that a client has; each has a stream.
const PER_CLIENT: usize = 500;
/// Clients that are granted theirs at a time, so that each has them all long before the first one would expire.
const GRANTING: usize = 8;
/// A stream that broke is opened again after this.
const REOPEN: Duration = Duration::from_millis(500);
/// How long a store is asked what became of them.
const ASKED_MAX: Duration = Duration::from_secs(30);

/// Leases that are kept alive until the end.
pub(crate) struct Leases {
    ids: Vec<i64>,
    renewing: JoinSet<()>,
    lost: Arc<AtomicU64>,
}

impl Leases {
    pub(crate) async fn begin(target: &Target, count: usize) -> anyhow::Result<Leases> {
        let lost = Arc::new(AtomicU64::new(0));
        let mut leases = Leases { ids: Vec::new(), renewing: JoinSet::new(), lost };
        let connections = target.connect(10).await?;
        let mut sizes = (0..count).step_by(PER_CLIENT).map(|from| PER_CLIENT.min(count - from)).enumerate();
        let mut granting = JoinSet::new();
        loop {
            while granting.len() < GRANTING
                && let Some((client, size)) = sizes.next()
            {
                granting.spawn(grant(connections[client % connections.len()].clone(), size));
            }
            let Some(granted) = granting.join_next().await else { break };
            let (connection, ids) = granted??;
            leases.ids.extend_from_slice(&ids);
            leases.renewing.spawn(keep_alive(connection, ids, Arc::clone(&leases.lost)));
        }
        Ok(leases)
    }

    /// Stops; returns how many were lost, as their clients heard or as the store says or does not say.
    pub(crate) async fn end(mut self, store: &Target) -> anyhow::Result<u64> {
        let connections = store.connect(4).await?;
        let mut asking = JoinSet::new();
        for (part, ids) in self.ids.chunks(self.ids.len().div_ceil(4).max(1)).enumerate() {
            let (mut client, ids) = (LeaseClient::new(connections[part].clone()), ids.to_vec());
            asking.spawn(async move {
                let mut gone = 0u64;
                let until = time::Instant::now() + ASKED_MAX;
                for (asked, &id) in ids.iter().enumerate() {
                    // A store that was overloaded a moment ago is busy with that still.
                    let ttl = loop {
                        match client.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: false }).await {
                            Ok(answer) => break answer.into_inner().ttl,
                            Err(_) if time::Instant::now() < until => time::sleep(REOPEN).await,
                            Err(_) => return gone + (ids.len() - asked) as u64,
                        }
                    };
                    gone += u64::from(ttl <= 0);
                }
                gone
            });
        }
        let mut gone = 0;
        while let Some(counted) = asking.join_next().await {
            gone += counted?;
        }
        self.renewing.abort_all();
        Ok(gone.max(self.lost.load(Ordering::Relaxed)))
    }
}

async fn grant(connection: Connection, count: usize) -> anyhow::Result<(Connection, Vec<i64>)> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let grant = LeaseGrantRequest { ttl: TTL, id: 0 };
        ids.push(LeaseClient::new(connection.clone()).lease_grant(grant).await?.into_inner().id);
    }
    Ok((connection, ids))
}

/// Renews some leases on one stream, evenly over time.
async fn keep_alive(connection: Connection, ids: Vec<i64>, lost: Arc<AtomicU64>) {
    loop {
        let (renewals, sent) = mpsc::channel(ids.len());
        let opened = LeaseClient::new(connection.clone()).lease_keep_alive(ReceiverStream::new(sent)).await;
        if let Ok(answers) = opened {
            let mut answers = answers.into_inner();
            let mut ticks = time::interval(EVERY / ids.len() as u32);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut next = ids.iter().cycle();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        let id = *next.next().expect("there are leases");
                        // A full channel: the renewals before wait still.
                        let _ = renewals.try_send(LeaseKeepAliveRequest { id });
                    }
                    answer = answers.message() => match answer {
                        Ok(Some(answer)) => {
                            lost.fetch_add(u64::from(answer.ttl <= 0), Ordering::Relaxed);
                        }
                        Ok(None) | Err(_) => break,
                    },
                }
            }
        }
        time::sleep(REOPEN).await;
    }
}
