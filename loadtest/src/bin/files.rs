//! What servers do with their files, side by side in one run: how long a large directory takes to open, how fast a
//! snapshot is saved and what that and a compaction cost those who write meanwhile, and how much is written to the disk.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin files -- --etcd PATH --forebay target/release/forebay --mib 2048 \
//!   --revisions 1000000
//! ```
//!
//! The targets take turns in each phase, each with a directory of its own on the same disk. Ratios are ours by etcd's.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Parser, ValueEnum};
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

/// Keys that the revisions to be compacted are of.
const CHURNED_KEYS: u64 = 10_000;
/// Requests in flight while filling.
const IN_FLIGHT: usize = 64;
/// Between two puts that are measured: far below what any of the targets can do.
const PUT_EVERY: Duration = Duration::from_millis(5);
/// How long nothing but these puts goes on, to compare with.
const IDLE: Duration = Duration::from_secs(8);
/// Until the size of the file is looked at after a compaction: nobody who compacts waits until space is given back, but
/// whoever puts meanwhile may notice.
const SETTLING: Duration = Duration::from_secs(4);
/// How often each target opens its directory and saves it, in turns; of each figure the middle one counts.
const ROUNDS: usize = 3;

/// What servers do with their files.
#[derive(Parser)]
struct Options {
    /// A real etcd.
    #[arg(long, value_name = "PATH", required_unless_present = "forebay")]
    etcd: Option<PathBuf>,
    /// The binary of Forebay.
    #[arg(long, value_name = "PATH")]
    forebay: Option<PathBuf>,
    /// What the large directory holds.
    #[arg(long, default_value_t = 64)]
    mib: u64,
    /// Of its values; as large as a Kubernetes object with its history of fields.
    #[arg(long, default_value_t = 16 << 10, value_parser = clap::value_parser!(u64).range(1..))]
    value_bytes: u64,
    /// How many are compacted.
    #[arg(long, default_value_t = 20_000)]
    revisions: u64,
    /// Where the directories are made.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Only these, on what earlier ones left in DIR, where they leave what they make [default: all].
    #[arg(long, value_delimiter = ',')]
    phases: Vec<Phase>,
}

impl Options {
    fn targets(&self) -> Vec<(&'static str, &Path)> {
        let (etcd, forebay) = (self.etcd.as_deref(), self.forebay.as_deref());
        [("etcd", etcd), ("forebay", forebay)].into_iter().filter_map(|(name, path)| Some((name, path?))).collect()
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Phase {
    /// Puts the large directory's content, from nothing.
    Fill,
    /// Starts on it, until a read is answered.
    Open,
    /// Saves a snapshot of it.
    Save,
    /// Puts the revisions that are to be compacted.
    Churn,
    /// Compacts them.
    Compact,
}

/// What was measured of one target: what it is, and its value.
type Figures = Vec<(&'static str, f64)>;

fn main() -> anyhow::Result<()> {
    let mut options = Options::parse();
    let scratch;
    if options.phases.is_empty() {
        options.phases = Phase::value_variants().to_vec();
        scratch = tempfile::Builder::new().prefix("files-").tempdir_in(&options.dir)?;
        options.dir = scratch.path().to_owned();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let names: String = options.targets().iter().map(|(name, _)| format!("{name:>12}")).collect();
    println!("{:36}{names}{:>12}", "", "ratio");
    for phase in &options.phases {
        let measured = match phase {
            Phase::Open | Phase::Save => rounds(&runtime, &options, *phase)?,
            phase => each(&runtime, &options, *phase)?,
        };
        print(&options, &measured);
    }
    Ok(())
}

/// One target in turn after the other.
fn each(runtime: &tokio::runtime::Runtime, options: &Options, phase: Phase) -> anyhow::Result<Vec<Figures>> {
    let measure = |(name, program)| {
        let scratch = options.dir.join(name);
        let figures = runtime.block_on(measure(phase, name, program, options, &scratch));
        figures.with_context(|| format!("{phase:?} of {name}"))
    };
    options.targets().into_iter().map(measure).collect()
}

/// Every target several times, in turns.
fn rounds(runtime: &tokio::runtime::Runtime, options: &Options, phase: Phase) -> anyhow::Result<Vec<Figures>> {
    let rounds = (0..ROUNDS).map(|_| each(runtime, options, phase)).collect::<anyhow::Result<Vec<_>>>()?;
    let middle = |target: usize, figure: usize| {
        let mut values: Vec<f64> = rounds.iter().map(|round| round[target][figure].1).collect();
        values.sort_by(f64::total_cmp);
        (rounds[0][target][figure].0, values[ROUNDS / 2])
    };
    let figures = |target: usize| (0..rounds[0][target].len()).map(|figure| middle(target, figure)).collect();
    Ok((0..options.targets().len()).map(figures).collect())
}

fn start(name: &str, program: &Path, scratch: &Path) -> anyhow::Result<Process> {
    let (client, peer) = (free_address()?, free_address()?);
    let mut flags = etcd_flags(&scratch.join("data"), "http", client, peer);
    if name == "forebay" {
        flags.insert(0, "server".into());
    }
    Process::start(program, &flags, client, scratch.join("log"))
}

async fn measure(
    phase: Phase,
    name: &str,
    program: &Path,
    options: &Options,
    scratch: &Path,
) -> anyhow::Result<Figures> {
    if matches!(phase, Phase::Fill) {
        if scratch.exists() {
            fs::remove_dir_all(scratch)?;
        }
        fs::create_dir_all(scratch)?;
    }
    let began = Instant::now();
    let server = start(name, program, scratch)?;
    let channel = ready(&server).await?;
    let open = began.elapsed();
    match phase {
        Phase::Fill => fill_large(&server, &channel, options).await,
        Phase::Open => {
            drop(server);
            let memory = fresh_memory(fs::metadata(scratch.join("data/member/snap/db"))?.len());
            Ok(vec![("open, s", open.as_secs_f64()), ("as much fresh memory, s", memory.as_secs_f64())])
        }
        Phase::Save => save_beside_puts(&server, &channel, scratch).await,
        Phase::Churn => {
            let keys = CHURNED_KEYS.min(options.revisions);
            fill(&channel, "churned/", keys, options.revisions, 100).await?;
            Ok(Vec::new())
        }
        Phase::Compact => compact_beside_puts(&channel).await,
    }
}

async fn fill_large(server: &Process, channel: &Connection, options: &Options) -> anyhow::Result<Figures> {
    let count = options.mib * (1 << 20) / options.value_bytes;
    fill(channel, "large/", count, count, usize::try_from(options.value_bytes)?).await?;
    // What is behind in the db file has been written once a copy of it was made.
    let db_bytes = save(channel.clone(), None).await?.0;
    let amplification = server.written()? as f64 / (count * options.value_bytes) as f64;
    Ok(vec![("bytes written, of bytes put", amplification), ("db file, MB", db_bytes as f64 / 1e6)])
}

/// A snapshot is received and thrown away, which is what the server costs; saved to the disk that the server is on; and
/// the saved file is copied there, which is what the disk costs.
async fn save_beside_puts(server: &Process, channel: &Connection, scratch: &Path) -> anyhow::Result<Figures> {
    // As whoever saves one: no put waits behind its pieces.
    let apart = Target::at(server.address).connect(1).await?.remove(0);
    let idle_p99 = puts_during(channel, tokio::time::sleep(IDLE)).await?.0;
    let (received_p99, received) = puts_during(channel, save(apart.clone(), None)).await?;
    let (path, copy) = (scratch.join("saved"), scratch.join("copy"));
    let (saved_p99, saved) = puts_during(channel, save(apart, Some(path.clone()))).await?;
    let (from, to) = (path.clone(), copy.clone());
    let (copied_p99, copied) =
        puts_during(channel, tokio::task::spawn_blocking(move || copy_durably(&from, &to))).await?;
    let ((bytes, received), (_, saved), copied) = (received?, saved?, copied??);
    fs::remove_file(copy)?;
    fs::remove_file(path)?;
    let speed = |took: Duration| bytes as f64 / took.as_secs_f64() / 1e6;
    let of_idle = |p99: Duration| p99.as_secs_f64() / idle_p99.as_secs_f64();
    Ok(vec![
        ("snapshot receive, MB/s", speed(received)),
        ("snapshot save, MB/s", speed(saved)),
        ("disk copy, MB/s", speed(copied)),
        ("snapshot save, of disk copy", copied.as_secs_f64() / saved.as_secs_f64()),
        ("put p99 idle, ms", millis(idle_p99)),
        ("put p99 while receiving, of idle", of_idle(received_p99)),
        ("put p99 while saving, of idle", of_idle(saved_p99)),
        ("put p99 while copying, of idle", of_idle(copied_p99)),
    ])
}

fn copy_durably(from: &Path, to: &Path) -> std::io::Result<Duration> {
    let began = Instant::now();
    let mut copy = File::create(to)?;
    std::io::copy(&mut File::open(from)?, &mut copy)?;
    copy.sync_all()?;
    Ok(began.elapsed())
}

/// How long it takes to get so much memory from the system and to fill it: what keeps all records in memory is not opened
/// faster.
fn fresh_memory(bytes: u64) -> Duration {
    const PIECE: usize = 1 << 20;
    let began = Instant::now();
    let pieces: Vec<Vec<u8>> = (0..bytes / PIECE as u64).map(|_| vec![1; PIECE]).collect();
    let took = began.elapsed();
    std::hint::black_box(pieces);
    took
}

async fn compact_beside_puts(channel: &Connection) -> anyhow::Result<Figures> {
    let idle_p99 = puts_during(channel, tokio::time::sleep(IDLE)).await?.0;
    let status = async || MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await;
    let revision = status().await?.into_inner().header.context("no header")?.revision;
    let compact = async {
        let began = Instant::now();
        KvClient::new(channel.clone()).compact(CompactionRequest { revision, physical: true }).await?;
        let took = began.elapsed();
        tokio::time::sleep(SETTLING).await;
        anyhow::Ok(took)
    };
    let (p99, took) = puts_during(channel, compact).await?;
    let status = status().await?.into_inner();
    Ok(vec![
        ("put p99 before compacting, ms", millis(idle_p99)),
        ("put p99 while compacting, ms", millis(p99)),
        ("put p99 while compacting, of before", p99.as_secs_f64() / idle_p99.as_secs_f64()),
        ("compaction, s", took?.as_secs_f64()),
        ("db file after compaction, MB", status.db_size as f64 / 1e6),
        ("db file after compaction, of in use", status.db_size as f64 / status.db_size_in_use as f64),
    ])
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
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

/// Receives a snapshot, and saves it durably if a path is given; returns its size, and how long that took.
async fn save(channel: Connection, path: Option<PathBuf>) -> anyhow::Result<(u64, Duration)> {
    let began = Instant::now();
    // The disk is written beside the receiving, and puts go on beside both.
    let (sender, mut blobs) = tokio::sync::mpsc::channel::<Bytes>(256);
    let write = tokio::task::spawn_blocking(move || {
        let mut file = path.map(File::create).transpose()?;
        while let Some(blob) = blobs.blocking_recv() {
            file.as_mut().map_or(Ok(()), |file| file.write_all(&blob))?;
        }
        file.map_or(Ok(()), |file| file.sync_all())
    });
    let receive = tokio::spawn(async move {
        let mut client = MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut pieces = client.snapshot(SnapshotRequest {}).await?.into_inner();
        let mut bytes = 0;
        while let Some(piece) = pieces.message().await? {
            bytes += piece.blob.len() as u64;
            sender.send(piece.blob).await.context("the disk cannot be written")?;
        }
        anyhow::Ok(bytes)
    });
    let bytes = receive.await?;
    write.await??;
    Ok((bytes?, began.elapsed()))
}

fn print(options: &Options, measured: &[Figures]) {
    let by_name = |wanted: &str| options.targets().iter().position(|(name, _)| *name == wanted);
    for (line, (what, _)) in measured[0].iter().enumerate() {
        let value = |target: usize| measured[target][line].1;
        let values: String = (0..measured.len()).map(|target| format!("{:12.3}", value(target))).collect();
        let ratio = by_name("forebay").zip(by_name("etcd")).map(|(ours, theirs)| value(ours) / value(theirs));
        println!("{what:36}{values}{:>12}", ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
    }
}
