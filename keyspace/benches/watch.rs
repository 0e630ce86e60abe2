//! What a watch event costs: `cargo bench -p forebay-keyspace --bench watch`, with the names of scenarios or without.
//!
//! Figures are CPU time of this one thread, so that a busy machine does not falsify them. Each scenario publishes batches
//! made beforehand, and after each lets every stream write what it got into a reused buffer.

#![allow(clippy::print_stdout, reason = "a bench reports on its output")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::{Bytes, BytesMut};
use forebay_keyspace::mirror::{Limits, Load, Mirror, Ranges};
use forebay_keyspace::watch::{Fed, HeaderBase, History, Hub, Order, Polled, WatchStream};
use forebay_keyspace::{Batch, Change, Put, Revision, Version};
use forebay_proto::etcdserverpb::WatchCreateRequest;
use forebay_proto::mvccpb::{Event, KeyValue};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const BASE: HeaderBase =
    HeaderBase { cluster_id: 0xcdf8_1819_4e3a_8c32, member_id: 0x8e9e_05c5_2164_694d, raft_term: 7 };

/// Only a revision: here nobody falls behind and reads the history.
#[derive(Default)]
struct Store(AtomicI64);

impl History for Store {
    fn revision(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
    fn compacted(&self) -> i64 {
        0
    }
    fn changes(&self, _: i64, _: usize) -> Vec<Arc<Batch>> {
        unreachable!("every watcher is synced")
    }
}

struct Bench {
    store: Arc<Store>,
    hub: Hub,
    streams: Vec<WatchStream>,
    out: BytesMut,
}

impl Bench {
    fn new() -> Bench {
        let store = Arc::new(Store::default());
        let hub = Hub::new(store.clone(), 1536 * 1024);
        Bench { store, hub, streams: Vec::new(), out: BytesMut::with_capacity(1 << 20) }
    }

    fn open(&mut self) -> &mut WatchStream {
        self.streams.push(self.hub.open(Arc::new(|| ())));
        self.streams.last_mut().expect("one was pushed")
    }

    /// Lets every stream write; returns how many events that were.
    fn poll(&mut self) -> usize {
        let mut written = 0;
        for stream in &mut self.streams {
            while let Polled::Wrote { events, .. } = stream.poll(&BASE, &mut self.out, 1 << 20) {
                written += events;
                black_box(&self.out);
                self.out.clear();
            }
        }
        written
    }

    /// Publishes puts of these keys, one revision each, and prints the cost per put and per delivered event.
    fn run(&mut self, name: &str, keys: &[Vec<u8>], value: &[u8]) {
        self.poll();
        let mut revision = self.store.revision();
        let batches: Vec<Arc<Batch>> = keys
            .iter()
            .map(|key| {
                revision += 1;
                let revision = Revision { main: revision, sub: 0 };
                let put = Put { revision, create_revision: 1, version: 2, lease: 0, key, value };
                Arc::new(Batch::new(vec![Change { version: Version::put(put, &mut Vec::new()), prev: None }]))
            })
            .collect();
        self.store.0.store(revision, Ordering::Relaxed);
        let (mut publish, mut write, mut events) = (0, 0, 0);
        for batch in &batches {
            let start = cpu_ns();
            self.hub.publish(batch);
            let published = cpu_ns();
            events += self.poll();
            (publish, write) = (publish + published - start, write + cpu_ns() - published);
        }
        let per = |ns: u64, of: usize| ns as f64 / of.max(1) as f64;
        let (puts, each) = (per(publish, keys.len()), events as f64 / keys.len() as f64);
        print!("{name:58} {puts:9.0} ns/put to publish, {each:6.1} events/put");
        // Every stream is polled, so with few events this would be the price of asking.
        if events == 0 || events < keys.len() * self.streams.len() {
            println!();
        } else {
            println!(", {:5.0} + {:4.0} ns/event", per(publish, events), per(write, events));
        }
    }
}

/// Time of this thread on a CPU.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn resident_bytes() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/statm").expect("this bench needs Linux");
    let pages: f64 = stat.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("statm's second number");
    pages * 4096.0
}

fn range(start: &[u8], end: &[u8]) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::copy_from_slice(start),
        range_end: Bytes::copy_from_slice(end),
        ..WatchCreateRequest::default()
    }
}

fn pod(number: u64) -> Vec<u8> {
    format!("/registry/pods/ns-{number:016x}").into_bytes()
}

/// `share` is the part of the key space that all of them would cover if they did not overlap.
fn random_ranges(rng: &mut StdRng, count: u64, share: f64) -> Vec<WatchCreateRequest> {
    let width = (u64::MAX as f64 * share / count as f64) as u64;
    let ranges = (0..count).map(|_| {
        let start = rng.random_range(0..u64::MAX - 2 * width);
        range(&pod(start), &pod(start + rng.random_range(1..2 * width)))
    });
    ranges.collect()
}

fn fan_out() {
    let pods = range(b"/registry/pods/", b"/registry/pods0");
    let mut rng = StdRng::seed_from_u64(1);
    let keys: Vec<Vec<u8>> = (0..1000).map(|_| pod(rng.random())).collect();

    let mut bench = Bench::new();
    for _ in 0..1000 {
        bench.open().create(&pods);
    }
    bench.run("1000 streams on one prefix, 100 B values", &keys, &[7; 100]);
    bench.run("1000 streams on one prefix, 1 KiB values", &keys, &[7; 1024]);

    let mut bench = Bench::new();
    let stream = bench.open();
    for _ in 0..1000 {
        stream.create(&pods);
    }
    bench.run("1000 watchers of one stream on one prefix, 100 B values", &keys, &[7; 100]);

    let mut bench = Bench::new();
    for number in 0..1000 {
        bench.open().create(&range(format!("/registry/p/{number}").as_bytes(), b"\0"));
    }
    bench.run("1000 streams on 1000 overlapping ranges, 100 B values", &keys, &[7; 100]);
}

fn bystanders() {
    let mut rng = StdRng::seed_from_u64(2);
    let elsewhere: Vec<Vec<u8>> = (0..50_000).map(|n| format!("/registry/events/{n}").into_bytes()).collect();
    let between: Vec<Vec<u8>> = (0..50_000).map(|_| pod(rng.random())).collect();
    Bench::new().run("no watchers", &elsewhere, &[7; 100]);
    for (share, name) in
        [(0.01, "100000 random ranges, hardly overlapping"), (5.0, "100000 random ranges, overlapping")]
    {
        let mut bench = Bench::new();
        for chunk in random_ranges(&mut rng, 100_000, share).chunks(100) {
            let stream = bench.open();
            for request in chunk {
                stream.create(request);
            }
        }
        bench.run(&format!("{name}, keys outside"), &elsewhere, &[7; 100]);
        bench.run(&format!("{name}, keys inside"), &between, &[7; 100]);
    }
}

fn memory() {
    let mut rng = StdRng::seed_from_u64(3);
    let count = 200_000;
    for (per_stream, name) in [(count as usize, "one stream"), (100, "100 a stream"), (1, "1 a stream")] {
        let requests = random_ranges(&mut rng, count, 1.0);
        let mut bench = Bench::new();
        let mut out = BytesMut::new();
        let before = resident_bytes();
        for chunk in requests.chunks(per_stream) {
            let stream = bench.open();
            for request in chunk {
                stream.create(request);
                let _created = stream.poll(&BASE, &mut out, 1 << 20);
                out.clear();
            }
        }
        let each = (resident_bytes() - before) / count as f64;
        println!("{count} idle watchers on distinct ranges, {name}: {each:.0} B each");
    }
}

/// How many revisions the window of the mirror in [`scale`] has.
const WINDOW: i64 = 100_000;

/// What one request of a thousand streams starts at: now, in the window, or before it.
fn start_revision(rng: &mut StdRng, revision: i64) -> i64 {
    match rng.random_range(0..10) {
        0..5 => 0,
        5..9 => revision - rng.random_range(0..WINDOW),
        _ => revision - WINDOW - 1,
    }
}

/// Polls a stream until it is idle, and lets feeds say that there is nothing before the window. Returns the events.
fn settle(stream: &mut WatchStream, floor: i64, out: &mut BytesMut) -> usize {
    let mut written = 0;
    loop {
        match stream.poll(&BASE, out, 1 << 20) {
            Polled::Wrote { events, .. } => written += events,
            Polled::Yield => {}
            Polled::Long(_) => stream.allow_long(),
            Polled::Idle | Polled::Over => match stream.take_order() {
                Some(Order::Open(catch_up)) => stream.feed(catch_up.ticket, Fed::Progress(floor)),
                Some(_) => {}
                None => return written,
            },
        }
        black_box(&out);
        out.clear();
    }
}

/// A mirror of 200,000 keys whose window is full, and watches on random overlapping ranges from mixed revisions.
fn scale(count: u64) {
    let mut rng = StdRng::seed_from_u64(4);
    let keys: Vec<Vec<u8>> = (0..200_000).map(|_| pod(rng.random())).collect();
    let mut load = Load::new(Ranges::all(), 1);
    for key in &keys {
        load.add(&KeyValue { key: key.clone().into(), ..record(1, 1) }).expect("it is a record");
    }
    let limits = Limits { bytes: 64 << 20, revisions: WINDOW as u64 };
    let mut mirror = Mirror::new(load, limits, 1536 << 10).expect("the keys differ");
    // Each key is put once more.
    let change = |mirror: &mut Mirror, at: usize| {
        let kv = KeyValue { key: keys[at].clone().into(), ..record(mirror.revision() + 1, 2) };
        mirror.apply(&[Event { kv: Some(kv), ..Default::default() }]).expect("it continues the record");
    };
    for at in 0..WINDOW as usize {
        change(&mut mirror, at);
    }

    let (before, start) = (resident_bytes(), cpu_ns());
    let (mut streams, mut out, mut caught_up) = (Vec::new(), BytesMut::new(), 0);
    for chunk in random_ranges(&mut rng, count, 5.0).chunks_mut(100) {
        let mut stream = mirror.hub().open(Arc::new(|| ()));
        for request in chunk {
            request.start_revision = start_revision(&mut rng, mirror.revision());
            stream.create(request);
            caught_up += settle(&mut stream, mirror.reader().floor(), &mut out);
        }
        streams.push(stream);
    }
    let each = (resident_bytes() - before) / count as f64;
    let seconds = (cpu_ns() - start) as f64 / 1e9;
    println!("{count} watches of a mirror: {seconds:.1} s of set-up, {caught_up} events caught up, {each:.0} B each");
    assert_eq!(mirror.hub().stats().unsynced, 0, "all have come to the present");

    let puts = 2_000;
    let start = cpu_ns();
    for at in 0..puts {
        change(&mut mirror, WINDOW as usize + at);
    }
    let (apply, start) = ((cpu_ns() - start) as f64 / puts as f64, cpu_ns());
    let events: usize = streams.iter_mut().map(|stream| settle(stream, 0, &mut out)).sum();
    let write = (cpu_ns() - start) as f64 / events as f64;
    let matches = events as f64 / puts as f64;
    println!("  a put of a key that {matches:.1} watch: {apply:.0} ns to apply, {write:.0} ns/event to write");
    let start = cpu_ns();
    for at in 0..puts {
        let revision = mirror.revision() + 1;
        let key = format!("/registry/events/{at}").into();
        let kv = KeyValue { key, create_revision: revision, ..record(revision, 1) };
        mirror.apply(&[Event { kv: Some(kv), ..Default::default() }]).expect("it is a new key");
    }
    println!("  a put of a key that nobody watches: {:.0} ns to apply", (cpu_ns() - start) as f64 / puts as f64);
}

fn record(mod_revision: i64, version: i64) -> KeyValue {
    KeyValue { create_revision: 1, mod_revision, version, value: Bytes::from_static(&[7; 100]), ..Default::default() }
}

/// Runs those whose names are given, or all.
fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let all: [(&str, fn()); 5] = [
        ("memory", memory),
        ("fan_out", fan_out),
        ("bystanders", bystanders),
        ("scale", || scale(100_000)),
        ("million", || scale(1_000_000)),
    ];
    for (_, run) in all.iter().filter(|(name, _)| named.is_empty() || named.iter().any(|other| other == name)) {
        run();
    }
}
