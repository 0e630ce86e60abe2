//! The clients that do nothing wrong.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_proto::etcdserverpb::{kv_client::KvClient, lease_client::LeaseClient, *};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::client::{Connection, Target};

/// How many put, each from an address of its own, in turns.
const CLIENTS: usize = 4;
const LEASES: i64 = 20;
const TTL: i64 = 5;
/// An answer that comes later is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where one comes from.
fn source(client: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + client as u8)
}

/// What they noticed in a span of time. Latencies are in microseconds and count from when a request was due, so a server
/// that stalls is charged for everything that was due meanwhile; what was not answered has its age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Felt {
    pub answered: u64,
    /// Refused, or given up.
    pub failed: u64,
    /// Neither answered nor given up when it was looked.
    pub outstanding: u64,
    pub p50_micros: u64,
    pub p99_micros: u64,
    pub max_micros: u64,
    /// How evenly the answered puts are spread over the clients, all of which asked for as many: Jain's index, 1 when
    /// each got the same, and one over their number when one got everything.
    pub fairness: f64,
}

/// Jain's fairness index; 0 when nobody got anything.
fn fairness(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// The puts that were due in a span of time.
struct Window {
    from: Instant,
    latencies: Histogram<u64>,
    /// By client.
    answered: [u64; CLIENTS],
    failed: u64,
    /// By number, and when they were due.
    open: BTreeMap<u64, Instant>,
}

/// What became of a put.
enum Outcome {
    Answered,
    Refused,
    GivenUp,
}

impl Window {
    fn new(from: Instant) -> Window {
        let latencies = Histogram::new_with_max(60_000_000, 3).expect("these bounds are right");
        Window { from, latencies, answered: [0; CLIENTS], failed: 0, open: BTreeMap::new() }
    }

    fn close(&mut self, number: u64, outcome: &Outcome, now: Instant) {
        let due = self.open.remove(&number).expect("invariant: a put ends once");
        match outcome {
            Outcome::Answered => self.answered[client_of(number)] += 1,
            Outcome::Refused | Outcome::GivenUp => self.failed += 1,
        }
        // A refusal says nothing of how long an answer takes.
        if !matches!(outcome, Outcome::Refused) {
            self.latencies.saturating_record((now - due).as_micros() as u64);
        }
    }

    fn felt(&self, now: Instant) -> Felt {
        let mut latencies = self.latencies.clone();
        self.open.values().for_each(|due| latencies.saturating_record((now - *due).as_micros() as u64));
        Felt {
            answered: self.answered.iter().sum(),
            failed: self.failed,
            outstanding: self.open.len() as u64,
            p50_micros: latencies.value_at_quantile(0.5),
            p99_micros: latencies.value_at_quantile(0.99),
            max_micros: latencies.max(),
            fairness: fairness(&self.answered),
        }
    }
}

/// Whose put it is.
fn client_of(number: u64) -> usize {
    number as usize % CLIENTS
}

/// Spans of time that follow each other. A put belongs to the one that it was due in, whenever it ends.
struct Windows(Vec<Window>);

impl Windows {
    fn open(&mut self, number: u64, due: Instant) -> usize {
        let place = self.0.iter().rposition(|window| window.from <= due).unwrap_or(0);
        self.0[place].open.insert(number, due);
        place
    }
}

pub(super) struct Bystanders {
    windows: Arc<Mutex<Windows>>,
    lost: Arc<AtomicU64>,
    tasks: JoinSet<()>,
    leases: Vec<i64>,
    channel: Connection,
}

impl Bystanders {
    pub(super) async fn start(address: SocketAddr, rate: u32) -> anyhow::Result<Bystanders> {
        let mut putting = Vec::new();
        for client in 0..CLIENTS {
            let target = Target { source: Some(source(client)), ..Target::at(address) };
            putting.extend(target.connect(1).await?);
        }
        let target = Target { source: Some(source(0)), ..Target::at(address) };
        let channels = target.connect(2).await?;
        let windows = Arc::new(Mutex::new(Windows(vec![Window::new(Instant::now())])));
        let lost = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(put(putting, rate, Arc::clone(&windows)));
        let mut leases = Vec::new();
        for _ in 0..LEASES {
            let grant = LeaseGrantRequest { ttl: TTL, id: 0 };
            let id = LeaseClient::new(channels[0].clone()).lease_grant(grant).await?.into_inner().id;
            leases.push(id);
            tasks.spawn(keep_alive(channels[0].clone(), id, Arc::clone(&lost)));
        }
        Ok(Bystanders { windows, lost, tasks, leases, channel: channels[1].clone() })
    }

    /// Begins the next span of time.
    pub(super) fn turn(&self) {
        self.windows.lock().expect("nobody panics with it").0.push(Window::new(Instant::now()));
    }

    /// What was noticed in each span of time.
    pub(super) fn felt(&self) -> Vec<Felt> {
        let now = Instant::now();
        self.windows.lock().expect("nobody panics with it").0.iter().map(|window| window.felt(now)).collect()
    }

    /// Ends it; returns how many leases were lost.
    pub(super) async fn stop(mut self) -> u64 {
        self.tasks.abort_all();
        let mut lost = 0;
        for id in &self.leases {
            let asked = LeaseTimeToLiveRequest { id: *id, keys: false };
            let mut client = LeaseClient::new(self.channel.clone());
            let answer = time::timeout(PATIENCE, client.lease_time_to_live(asked)).await;
            let lives = answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.into_inner().ttl > 0));
            lost += u64::from(!lives);
        }
        lost.max(self.lost.load(Ordering::Relaxed))
    }
}

async fn put(channels: Vec<Connection>, rate: u32, windows: Arc<Mutex<Windows>>) {
    let mut ticks = time::interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Burst);
    let mut open = JoinSet::new();
    for n in 0u64.. {
        let due: Instant = ticks.tick().await;
        let (channel, windows) = (channels[client_of(n)].clone(), Arc::clone(&windows));
        while open.try_join_next().is_some() {}
        let place = windows.lock().expect("nobody panics with it").open(n, due);
        open.spawn(async move {
            let key = format!("/registry/leases/kube-system/bystander-{}", n % 100).into();
            let put = PutRequest { key, value: vec![b'v'; 100].into(), ..PutRequest::default() };
            let answer = time::timeout(PATIENCE, KvClient::new(channel).put(put)).await;
            let outcome = match answer {
                Ok(Ok(_)) => Outcome::Answered,
                Ok(Err(_)) => Outcome::Refused,
                Err(_elapsed) => Outcome::GivenUp,
            };
            let mut windows = windows.lock().expect("nobody panics with it");
            windows.0[place].close(n, &outcome, Instant::now());
        });
    }
}

/// As clients of etcd do: every third of the TTL, on a stream of its own.
async fn keep_alive(channel: Connection, id: i64, lost: Arc<AtomicU64>) {
    let every = Duration::from_millis(TTL.unsigned_abs() * 1000 / 3);
    loop {
        let pings = tokio_stream::StreamExt::throttle(
            tokio_stream::iter(std::iter::repeat(LeaseKeepAliveRequest { id })),
            every,
        );
        let opened = LeaseClient::new(channel.clone()).lease_keep_alive(pings).await;
        if let Ok(answers) = opened {
            let mut answers = answers.into_inner();
            while let Ok(Some(answer)) = answers.message().await {
                if answer.ttl <= 0 {
                    lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        time::sleep(Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_counts_where_it_was_due_and_one_without_an_answer_by_its_age() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut windows = Windows(vec![Window::new(at(0)), Window::new(at(10)), Window::new(at(20))]);
        for (number, due, ends, outcome) in [
            (0, 1, 2, Outcome::Answered),
            (1, 9, 21, Outcome::Answered),
            (2, 12, 22, Outcome::GivenUp),
            (3, 13, 13, Outcome::Refused),
        ] {
            let place = windows.open(number, at(due));
            windows.0[place].close(number, &outcome, at(ends));
        }
        windows.open(4, at(19));
        let felt: Vec<Felt> = windows.0.iter().map(|window| window.felt(at(30))).collect();
        let counts = felt.iter().map(|felt| (felt.answered, felt.failed, felt.outstanding));
        assert_eq!(counts.collect::<Vec<_>>(), [(2, 0, 0), (0, 2, 1), (0, 0, 0)]);
        assert_eq!(felt[0].fairness, 0.5, "two of four clients got one answer each");
        let seconds = felt.iter().map(|felt| felt.max_micros / 1_000_000);
        assert_eq!(seconds.collect::<Vec<_>>(), [12, 11, 0]);
    }
}
