//! What a watch event costs: `cargo bench -p forebay-keyspace --bench watch`.
//!
//! Figures are CPU time of this one thread, so that a busy machine does not falsify them. Each scenario publishes batches
//! made beforehand, and after each lets every stream write what it got into a reused buffer.

#![allow(clippy::print_stdout, reason = "a bench reports on its output")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::{Bytes, BytesMut};
use forebay_keyspace::watch::{HeaderBase, History, Hub, Polled, WatchStream};
use forebay_keyspace::{Batch, Change, Put, Revision, Version};
use forebay_proto::etcdserverpb::WatchCreateRequest;
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

fn main() {
    memory();
    fan_out();
    bystanders();
}
