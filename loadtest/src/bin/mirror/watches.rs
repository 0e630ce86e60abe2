//! Many watchers: of one prefix, and of ranges all over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use forebay_loadtest::{
    client::{Connection, MAX_ANSWER},
    work::{FanOut, Keys},
};
use forebay_proto::etcdserverpb::{
    PutRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient, watch_client::WatchClient,
    watch_request::RequestUnion,
};
use futures::{StreamExt as _, stream};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinSet;

use crate::{
    Options,
    fronts::{Front, Fronts},
    report::{Goal, Row, verdict},
};

/// Watchers of the keys that are written while many watch others.
const HOT_WATCHERS: usize = 100;
const HOT: Keys = Keys { count: 1_000, value_size: 256 };
/// Keys that the many watch, and how often one of them was written before.
const COLD_KEYS: usize = 10_000;
const WRITES: usize = 2_000;
const STREAMS_PER_CONNECTION: usize = 20;
/// How long all watches may take to be made and to see what they begin with.
const SET_UP_MAX: Duration = Duration::from_secs(600);

/// Events to a thousand and to ten thousand watchers of one prefix.
pub async fn fan_out(options: &Options, fronts: &Fronts, keys: Keys) -> anyhow::Result<()> {
    let mut each_write = Vec::new();
    for watchers in [1_000, 10_000] {
        let (name, goals) = (format!("fan-out {watchers}"), [Goal::Cpu(0.25)]);
        let mut row = Row::new(&name, &goals);
        for _ in 0..options.rounds {
            for front in &fronts.all {
                let watching = FanOut::open(&front.channels, watchers).await.context(front.name)?;
                match fronts.measured(front, watching.run(keys, options.duration())).await {
                    Ok(figures) => row.add(front.name, figures),
                    // etcd's proxy falls behind for good.
                    Err(error) if front.name == "grpc-proxy" => println!("    {name}: {error:#}"),
                    Err(error) => return Err(error),
                }
            }
        }
        row.print();
        each_write.push(row.upstream_us(fronts.gateway().name) * watchers as f64);
    }
    let [few, many] = each_write[..] else { unreachable!("two numbers of watchers were measured") };
    println!(
        "    CPU of the store for each write: {few:.0} us with 1,000 watchers behind the gateway, {many:.0} us with 10,000"
    );
    verdict("of it as a multiple", many / few, 1.2, false);
    verdict("watches upstream", fronts.gateways("forebay_mirror_upstream_watches").await?, 1.0, false);
    Ok(())
}

/// So many watches of random ranges that begin anywhere in the history, and what they cost those who watch others.
pub async fn many(options: &Options, name: &str, count: usize, with_others: bool) -> anyhow::Result<()> {
    let fronts = Fronts::start(options, false).await?;
    let history = History::write(&fronts.direct().channels[0]).await?;
    for front in fronts.all.iter().filter(|front| with_others || front.name == fronts.gateway().name) {
        let hot = FanOut::open(&front.channels, HOT_WATCHERS).await?;
        let before = fronts.measured(front, hot.run(HOT, options.duration())).await?;
        let rss = front.process.rss()?;
        let (cpu, begin) = (front.process.cpu()?, Instant::now());
        let watching = Watching::begin(front, &history, count).await?;
        let (took, cpu) = (begin.elapsed(), front.process.cpu()? - cpu);
        let after = fronts.measured(front, hot.run(HOT, options.duration())).await?;
        let resident = front.process.rss_max()?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "{name:<13} {:<11} {count} watches set up in {:.1} s, {:.1} s CPU, with {} events of the past; {:.0} MiB \
             resident at most, {:.0} before them",
            front.name,
            took.as_secs_f64(),
            cpu.as_secs_f64(),
            watching.events,
            mib(resident),
            mib(rss),
        );
        println!(
            "    CPU for each event to {HOT_WATCHERS} others: {:.2} us before, {:.2} us beside them",
            before.own_us, after.own_us
        );
        if front.name == fronts.gateway().name {
            let (seconds, most) = if count > 100_000 { (f64::INFINITY, 2048.0) } else { (30.0, 600.0) };
            verdict("seconds", took.as_secs_f64(), seconds, false);
            verdict("MiB resident", mib(resident), most, false);
            verdict("CPU per event beside them, as a multiple", after.own_us / before.own_us, 1.1, false);
            println!("    {} watches upstream", fronts.gateways("forebay_mirror_upstream_watches").await?);
        }
    }
    Ok(())
}

/// What was written before anybody watched.
struct History {
    /// By revision from `first` on: the number of the key.
    keys: Vec<usize>,
    first: i64,
}

impl History {
    async fn write(connection: &Connection) -> anyhow::Result<History> {
        let mut client = KvClient::new(connection.clone());
        let mut rng = SmallRng::seed_from_u64(7);
        let mut history = History { keys: Vec::new(), first: 0 };
        for _ in 0..WRITES {
            let number = rng.random_range(0..COLD_KEYS);
            let put = PutRequest { key: cold(number), value: vec![b'v'; 256].into(), ..Default::default() };
            let revision = client.put(put).await?.into_inner().header.context("a header")?.revision;
            history.first = revision - history.keys.len() as i64;
            history.keys.push(number);
        }
        Ok(history)
    }

    /// How many events such a watch begins with.
    fn seen_by(&self, from: usize, to: usize, start: i64) -> u64 {
        if start == 0 {
            return 0;
        }
        let skipped = usize::try_from(start - self.first).unwrap_or(0).min(self.keys.len());
        self.keys[skipped..].iter().filter(|key| (from..to).contains(*key)).count() as u64
    }
}

fn cold(number: usize) -> Bytes {
    Bytes::from(format!("watched/{number:06}"))
}

/// Watches that are open, until it is dropped.
struct Watching {
    /// Events of the past that they got, and had to get.
    events: u64,
    _streams: JoinSet<anyhow::Result<()>>,
}

impl Watching {
    async fn begin(front: &Front, history: &History, count: usize) -> anyhow::Result<Watching> {
        let per_stream = count / (front.channels.len() * STREAMS_PER_CONNECTION);
        let (created, events) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut rng = SmallRng::seed_from_u64(count as u64);
        let (mut streams, mut due) = (JoinSet::new(), 0);
        for at in 0..front.channels.len() * STREAMS_PER_CONNECTION {
            let mut creates = Vec::with_capacity(per_stream);
            for _ in 0..per_stream {
                let (from, to) = range(&mut rng);
                let start_revision = start(&mut rng, history);
                due += history.seen_by(from, to, start_revision);
                let range_end = match to {
                    COLD_KEYS => Bytes::from_static(b"\0"),
                    _ if to == from + 1 => Bytes::new(),
                    _ => cold(to),
                };
                creates.push(WatchCreateRequest { key: cold(from), range_end, start_revision, ..Default::default() });
            }
            let connection = front.channels[at % front.channels.len()].clone();
            streams.spawn(stream(connection, creates, created.clone(), events.clone()));
        }
        let begin = Instant::now();
        let made = (per_stream * front.channels.len() * STREAMS_PER_CONNECTION) as u64;
        while created.load(Ordering::Relaxed) < made || events.load(Ordering::Relaxed) < due {
            if let Some(ended) = streams.try_join_next() {
                ended??;
                anyhow::bail!("a stream of {} ended", front.name);
            }
            let so_far = (created.load(Ordering::Relaxed), events.load(Ordering::Relaxed));
            ensure!(begin.elapsed() < SET_UP_MAX, "{}: {so_far:?} of {made} watches and {due} events", front.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let events = events.load(Ordering::Relaxed);
        ensure!(events == due, "{events} events arrived of {due}: some came twice");
        Ok(Watching { events, _streams: streams })
    }
}

/// Single keys, ranges of all widths, and everything from a key on.
fn range(rng: &mut SmallRng) -> (usize, usize) {
    let from = rng.random_range(0..COLD_KEYS);
    let width = match rng.random_range(0..100) {
        0..40 => 1,
        40..75 => rng.random_range(1..10),
        75..98 => rng.random_range(1..1_000),
        _ => COLD_KEYS,
    };
    (from, (from + width).min(COLD_KEYS))
}

/// From now on, from anywhere in the past, or from a revision that will be there some day.
fn start(rng: &mut SmallRng, history: &History) -> i64 {
    let last = history.first + history.keys.len() as i64 - 1;
    match rng.random_range(0..10) {
        0..5 => 0,
        5..9 => rng.random_range(history.first..=last),
        _ => last + rng.random_range(1_000_000..2_000_000),
    }
}

async fn stream(
    connection: Connection,
    creates: Vec<WatchCreateRequest>,
    created: Arc<AtomicU64>,
    events: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let create = |create| WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = stream::iter(creates.into_iter().map(create)).chain(stream::pending());
    let mut client = WatchClient::new(connection).max_decoding_message_size(MAX_ANSWER);
    let mut messages = client.watch(requests).await?.into_inner();
    while let Some(message) = messages.message().await? {
        ensure!(!message.canceled, "a watch was cancelled: {}", message.cancel_reason);
        created.fetch_add(message.created.into(), Ordering::Relaxed);
        events.fetch_add(message.events.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}
