//! What servers do with their files, side by side in one run: how long a large directory takes to open, how fast a
//! snapshot is saved and what that and a compaction cost those who write meanwhile, and how much is written to the disk.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin files -- --etcd PATH --forebay target/release/forebay --mib 2048 \
//!   --revisions 1000000
//! ```
//!
//! The targets take turns in each phase, each with a directory of its own on the same disk. Ratios are ours by etcd's.
//! With `--phases` only some phases run, on the directories that earlier ones left in `--dir`, and leave them.

use std::{
    fs::{self, File},
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

/// Keys that the revisions to be compacted are of.
const CHURNED_KEYS: u64 = 10_000;
/// Requests in flight while filling.
const IN_FLIGHT: usize = 64;
/// Between two puts that are measured: far below what any of the targets can do.
const PUT_EVERY: Duration = Duration::from_millis(5);
/// How long nothing but these puts goes on, to compare with.
const IDLE: Duration = Duration::from_secs(8);
/// How often each target opens its directory; the middle one counts.
const OPENINGS: usize = 3;

struct Options {
    targets: Vec<(&'static str, PathBuf)>,
    mib: u64,
    value_bytes: usize,
    revisions: u64,
    dir: PathBuf,
    phases: Vec<Phase>,
}

#[derive(Clone, Copy, Debug)]
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

const PHASES: [(&str, Phase); 5] = [
    ("fill", Phase::Fill),
    ("open", Phase::Open),
    ("save", Phase::Save),
    ("churn", Phase::Churn),
    ("compact", Phase::Compact),
];

/// What was measured of one target: what it is, and its value.
type Figures = Vec<(&'static str, f64)>;

fn main() -> anyhow::Result<()> {
    let mut options = options(&std::env::args().skip(1).collect::<Vec<_>>())?;
    let scratch;
    if options.phases.is_empty() {
        options.phases = PHASES.map(|(_, phase)| phase).into();
        scratch = tempfile::Builder::new().prefix("files-").tempdir_in(&options.dir)?;
        options.dir = scratch.path().to_owned();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let names: String = options.targets.iter().map(|(name, _)| format!("{name:>12}")).collect();
    println!("{:36}{names}{:>12}", "", "ratio");
    for phase in &options.phases {
        let measured = match phase {
            Phase::Open => openings(&runtime, &options)?,
            phase => each(&runtime, &options, *phase)?,
        };
        print(&options, &measured);
    }
    Ok(())
}

fn options(args: &[String]) -> anyhow::Result<Options> {
    let mut options = Options {
        targets: Vec::new(),
        mib: 64,
        // That of a Kubernetes object with its history of fields.
        value_bytes: 16 << 10,
        revisions: 20_000,
        dir: std::env::temp_dir(),
        phases: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--etcd" => options.targets.push(("etcd", value.into())),
            "--forebay" => options.targets.push(("forebay", value.into())),
            "--mib" => options.mib = value.parse()?,
            "--value-bytes" => options.value_bytes = value.parse()?,
            "--revisions" => options.revisions = value.parse()?,
            "--dir" => options.dir = value.into(),
            "--phases" => {
                for name in value.split(',') {
                    let phase = PHASES.iter().find(|(known, _)| *known == name);
                    options.phases.push(phase.with_context(|| format!("unknown phase {name}"))?.1);
                }
            }
            _ => anyhow::bail!(
                "unknown flag {flag}; known: --etcd --forebay --mib --value-bytes --revisions --dir and \
                 --phases fill,open,save,churn,compact"
            ),
        }
    }
    anyhow::ensure!(!options.targets.is_empty(), "name a target with --etcd or --forebay");
    anyhow::ensure!(options.value_bytes > 0, "values of no bytes fill nothing");
    Ok(options)
}

/// One target in turn after the other.
fn each(runtime: &tokio::runtime::Runtime, options: &Options, phase: Phase) -> anyhow::Result<Vec<Figures>> {
    let measure = |(name, program): &(&'static str, PathBuf)| {
        let scratch = options.dir.join(name);
        let figures = runtime.block_on(measure(phase, name, program, options, &scratch));
        figures.with_context(|| format!("{phase:?} of {name}"))
    };
    options.targets.iter().map(measure).collect()
}

/// Every target several times, in turns.
fn openings(runtime: &tokio::runtime::Runtime, options: &Options) -> anyhow::Result<Vec<Figures>> {
    let mut rounds = (0..OPENINGS).map(|_| each(runtime, options, Phase::Open)).collect::<anyhow::Result<Vec<_>>>()?;
    let middle = |target: usize| {
        rounds.sort_by(|a, b| a[target][0].1.total_cmp(&b[target][0].1));
        rounds[OPENINGS / 2][target].clone()
    };
    Ok((0..options.targets.len()).map(middle).collect())
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
        Phase::Fill => fill_large(&server, &channel, options, scratch).await,
        Phase::Open => Ok(vec![("open, s", open.as_secs_f64())]),
        Phase::Save => save_beside_puts(&channel, scratch).await,
        Phase::Churn => {
            let keys = CHURNED_KEYS.min(options.revisions);
            fill(&channel, "churned/", keys, options.revisions, 100).await?;
            Ok(Vec::new())
        }
        Phase::Compact => compact_beside_puts(&channel).await,
    }
}

async fn fill_large(
    server: &Process,
    channel: &Connection,
    options: &Options,
    scratch: &Path,
) -> anyhow::Result<Figures> {
    let count = options.mib * (1 << 20) / options.value_bytes as u64;
    fill(channel, "large/", count, count, options.value_bytes).await?;
    // What is behind in the db file has been written once a copy of it was made.
    let path = scratch.join("first");
    let db_bytes = save(channel, &path).await?.0;
    fs::remove_file(path)?;
    let amplification = server.written()? as f64 / (count * options.value_bytes as u64) as f64;
    Ok(vec![("bytes written, of bytes put", amplification), ("db file, MB", db_bytes as f64 / 1e6)])
}

async fn save_beside_puts(channel: &Connection, scratch: &Path) -> anyhow::Result<Figures> {
    let idle_p99 = puts_during(channel, tokio::time::sleep(IDLE)).await?.0;
    let path = scratch.join("saved");
    let (p99, saved) = puts_during(channel, save(channel, &path)).await?;
    let (bytes, took) = saved?;
    let copy = scratch.join("copy");
    let began = Instant::now();
    std::io::copy(&mut File::open(&path)?, &mut File::create(&copy)?)?;
    File::open(&copy)?.sync_all()?;
    let copied = began.elapsed();
    fs::remove_file(copy)?;
    fs::remove_file(path)?;
    Ok(vec![
        ("snapshot save, MB/s", bytes as f64 / took.as_secs_f64() / 1e6),
        ("disk copy, MB/s", bytes as f64 / copied.as_secs_f64() / 1e6),
        ("snapshot save, of disk copy", copied.as_secs_f64() / took.as_secs_f64()),
        ("put p99 before saving, ms", millis(idle_p99)),
        ("put p99 while saving, ms", millis(p99)),
        ("put p99 while saving, of before", p99.as_secs_f64() / idle_p99.as_secs_f64()),
    ])
}

async fn compact_beside_puts(channel: &Connection) -> anyhow::Result<Figures> {
    let idle_p99 = puts_during(channel, tokio::time::sleep(IDLE)).await?.0;
    let status = async || MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await;
    let revision = status().await?.into_inner().header.context("no header")?.revision;
    let compact = async {
        let began = Instant::now();
        KvClient::new(channel.clone()).compact(CompactionRequest { revision, physical: true }).await?;
        anyhow::Ok(began.elapsed())
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

fn print(options: &Options, measured: &[Figures]) {
    let by_name = |wanted: &str| options.targets.iter().position(|(name, _)| *name == wanted);
    for (line, (what, _)) in measured[0].iter().enumerate() {
        let value = |target: usize| measured[target][line].1;
        let values: String = (0..measured.len()).map(|target| format!("{:12.3}", value(target))).collect();
        let ratio = by_name("forebay").zip(by_name("etcd")).map(|(ours, theirs)| value(ours) / value(theirs));
        println!("{what:36}{values}{:>12}", ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
    }
}
