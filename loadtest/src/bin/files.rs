//! What servers do with their files, side by side in one run: how long a large directory takes to open, how fast a
//! snapshot is saved and what that and a compaction cost those who write meanwhile, and how much is written to the disk.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin files -- --etcd PATH --forebay target/release/forebay --mib 2048 \
//!   --revisions 1000000
//! ```
//!
//! The targets take turns, each with a directory of its own on the same disk. Ratios are ours by etcd's.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use forebay_loadtest::{
    client::{Connection, Target},
    process::{Process, etcd_flags, free_address},
};
use forebay_proto::etcdserverpb::{
    CompactionRequest, PutRequest, RangeRequest, SnapshotRequest, StatusRequest, kv_client::KvClient,
    maintenance_client::MaintenanceClient,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};

/// Bytes of a value of the large directory: that of a Kubernetes object with its history of fields.
const VALUE_BYTES: usize = 16 << 10;
/// Keys that the revisions to be compacted are of.
const CHURNED_KEYS: u64 = 10_000;
/// Requests in flight while filling.
const IN_FLIGHT: usize = 64;
/// Between two puts that are measured: far below what any of the targets can do.
const PUT_EVERY: Duration = Duration::from_millis(10);
/// How long nothing but these puts goes on, to compare with.
const IDLE: Duration = Duration::from_secs(5);

struct Options {
    targets: Vec<(&'static str, PathBuf)>,
    mib: u64,
    revisions: u64,
    dir: PathBuf,
}

/// What one target did.
#[derive(Debug)]
struct Figures {
    open: Duration,
    save_bytes_per_second: f64,
    copy_bytes_per_second: f64,
    idle_p99: Duration,
    saving_p99: Duration,
    compacting_p99: Duration,
    compaction: Duration,
    /// Bytes written to the disk for each byte of keys and values.
    amplification: f64,
    db_bytes: u64,
    db_bytes_compacted: u64,
}

fn main() -> anyhow::Result<()> {
    let options = options(&std::env::args().skip(1).collect::<Vec<_>>())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut all = Vec::new();
    for (name, program) in &options.targets {
        let scratch = tempfile::Builder::new().prefix("files-").tempdir_in(&options.dir)?;
        let figures = runtime.block_on(measure(name, program, &options, scratch.path()));
        all.push((*name, figures.with_context(|| (*name).to_owned())?));
    }
    print(&all);
    Ok(())
}

fn options(args: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { targets: Vec::new(), mib: 64, revisions: 20_000, dir: std::env::temp_dir() };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--etcd" => options.targets.push(("etcd", value.into())),
            "--forebay" => options.targets.push(("forebay", value.into())),
            "--mib" => options.mib = value.parse()?,
            "--revisions" => options.revisions = value.parse()?,
            "--dir" => options.dir = value.into(),
            _ => anyhow::bail!("unknown flag {flag}; known: --etcd --forebay --mib --revisions --dir"),
        }
    }
    anyhow::ensure!(!options.targets.is_empty(), "name a target with --etcd or --forebay");
    Ok(options)
}

fn start(name: &str, program: &Path, scratch: &Path) -> anyhow::Result<Process> {
    let (client, peer) = (free_address()?, free_address()?);
    let mut flags = etcd_flags(&scratch.join("data"), "http", client, peer);
    if name == "forebay" {
        flags.insert(0, "server".into());
    }
    Process::start(program, &flags, client, scratch.join("log"))
}

async fn measure(name: &str, program: &Path, options: &Options, scratch: &Path) -> anyhow::Result<Figures> {
    let server = start(name, program, scratch)?;
    let channel = ready(&server).await?;
    let count = options.mib * (1 << 20) / VALUE_BYTES as u64;
    fill(&channel, "large/", count, count, VALUE_BYTES).await?;
    // What is behind in the db file has been written once a copy of it was made.
    let db_bytes = save(&channel, &scratch.join("first")).await?.0;
    let amplification = server.written()? as f64 / (count * VALUE_BYTES as u64) as f64;

    let idle_p99 = puts_during(&channel, tokio::time::sleep(IDLE)).await?.0;
    let path = scratch.join("saved");
    let (saving_p99, saved) = puts_during(&channel, save(&channel, &path)).await?;
    let (bytes, took) = saved?;
    let began = Instant::now();
    std::io::copy(&mut File::open(&path)?, &mut File::create(scratch.join("copy"))?)?;
    File::open(scratch.join("copy"))?.sync_all()?;
    let copy_bytes_per_second = bytes as f64 / began.elapsed().as_secs_f64();

    let revision = fill(&channel, "churned/", CHURNED_KEYS.min(options.revisions), options.revisions, 100).await?;
    let compact = async {
        let began = Instant::now();
        KvClient::new(channel.clone()).compact(CompactionRequest { revision, physical: true }).await?;
        anyhow::Ok(began.elapsed())
    };
    let (compacting_p99, compaction) = puts_during(&channel, compact).await?;
    let db_bytes_compacted =
        MaintenanceClient::new(channel).status(StatusRequest {}).await?.into_inner().db_size as u64;

    drop(server);
    let began = Instant::now();
    let server = start(name, program, scratch)?;
    ready(&server).await?;
    Ok(Figures {
        open: began.elapsed(),
        save_bytes_per_second: bytes as f64 / took.as_secs_f64(),
        copy_bytes_per_second,
        idle_p99,
        saving_p99,
        compacting_p99,
        compaction: compaction?,
        amplification,
        db_bytes,
        db_bytes_compacted,
    })
}

/// Waits until a linearizable read is answered.
async fn ready(server: &Process) -> anyhow::Result<Connection> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let channel = Target::at(server.address).connect(1).await?.remove(0);
        let answer = KvClient::new(channel.clone()).range(RangeRequest { key: "x".into(), ..Default::default() }).await;
        match answer {
            Ok(_) => return Ok(channel),
            Err(status) => anyhow::ensure!(Instant::now() < deadline, "the server is not ready: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Puts `count` values that do not compress, over `keys` keys in turn; returns the last revision.
async fn fill(channel: &Connection, prefix: &str, keys: u64, count: u64, value_bytes: usize) -> anyhow::Result<i64> {
    let mut value = vec![0; value_bytes];
    StdRng::seed_from_u64(1).fill_bytes(&mut value);
    let value = Bytes::from(value);
    let put = |n: u64| {
        let request =
            PutRequest { key: format!("{prefix}{:012}", n % keys).into(), value: value.clone(), ..Default::default() };
        let mut client = KvClient::new(channel.clone());
        async move { client.put(request).await.map(|answer| answer.into_inner().header.unwrap_or_default().revision) }
    };
    let last = stream::iter(0..count).map(put).buffer_unordered(IN_FLIGHT);
    Ok(last.try_fold(0, |last, revision| async move { Ok(last.max(revision)) }).await?)
}

/// Puts at a steady pace while something goes on, each timed from when it was due.
async fn puts_during<T>(channel: &Connection, work: impl Future<Output = T>) -> anyhow::Result<(Duration, T)> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
    let mut client = KvClient::new(channel.clone());
    let mut work = std::pin::pin!(work);
    let mut due = Instant::now();
    let done = loop {
        let request = PutRequest { key: "paced".into(), value: Bytes::from_static(&[7; 256]), ..Default::default() };
        let put = async {
            tokio::time::sleep_until(due.into()).await;
            client.put(request).await
        };
        tokio::select! {
            done = &mut work => break done,
            answer = put => {
                answer?;
                times.saturating_record(due.elapsed().as_micros() as u64);
                due += PUT_EVERY;
            }
        }
    };
    Ok((Duration::from_micros(times.value_at_quantile(0.99)), done))
}

/// Saves a snapshot durably; returns its size, and how long that took.
async fn save(channel: &Connection, path: &Path) -> anyhow::Result<(u64, Duration)> {
    let began = Instant::now();
    let mut pieces = MaintenanceClient::new(channel.clone())
        .max_decoding_message_size(usize::MAX)
        .snapshot(SnapshotRequest {})
        .await?
        .into_inner();
    let mut file = File::create(path)?;
    let mut bytes = 0;
    while let Some(piece) = pieces.message().await? {
        file.write_all(&piece.blob)?;
        bytes += piece.blob.len() as u64;
    }
    file.sync_all()?;
    Ok((bytes, began.elapsed()))
}

/// A line of the table: what it is, and its value for a target.
type Line = (&'static str, fn(&Figures) -> f64);

const LINES: [Line; 10] = [
    ("open, s", |f| f.open.as_secs_f64()),
    ("snapshot save, MB/s", |f| f.save_bytes_per_second / 1e6),
    ("snapshot save, of disk copy", |f| f.save_bytes_per_second / f.copy_bytes_per_second),
    ("put p99 idle, ms", |f| f.idle_p99.as_secs_f64() * 1e3),
    ("put p99 while saving, of idle", |f| f.saving_p99.as_secs_f64() / f.idle_p99.as_secs_f64()),
    ("put p99 while compacting, of idle", |f| f.compacting_p99.as_secs_f64() / f.idle_p99.as_secs_f64()),
    ("compaction, s", |f| f.compaction.as_secs_f64()),
    ("bytes written, of bytes put", |f| f.amplification),
    ("db file, MB", |f| f.db_bytes as f64 / 1e6),
    ("db file after compaction, MB", |f| f.db_bytes_compacted as f64 / 1e6),
];

fn print(all: &[(&str, Figures)]) {
    let by_name = |wanted: &str| all.iter().find(|(name, _)| *name == wanted).map(|(_, figures)| figures);
    let names: String = all.iter().map(|(name, _)| format!("{name:>12}")).collect();
    println!("{:36}{names}{:>12}", "", "ratio");
    for (what, value) in LINES {
        let values: String = all.iter().map(|(_, figures)| format!("{:12.3}", value(figures))).collect();
        let ratio = by_name("forebay").zip(by_name("etcd")).map(|(ours, theirs)| value(ours) / value(theirs));
        println!("{what:36}{values}{:>12}", ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
    }
}
