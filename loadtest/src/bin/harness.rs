//! Two figures of the tools themselves: what `forebay bench` costs beside etcd's benchmark, and what a scrape of a
//! gateway costs that has seen very many clients.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin harness -- --forebay target/release/forebay --benchmark PATH
//! ```
//!
//! `harness`: both send puts to the empty server, in turns, as fast as they are answered; what is compared is requests for
//! each second of CPU that the tool took, and what each reports with what the server counted. `scrape`: very many
//! addresses each ask a gateway once. It fails if a figure is not what it should be.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use forebay_loadtest::process::{Process, etcd_flags, free_address};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Clients that ask at once, so that none is refused a place.
const AT_ONCE: usize = 64;
/// Scrapes that are measured, one after the other.
const SCRAPES: usize = 20;
/// What a scrape may take.
const SCRAPE_MAX: Duration = Duration::from_millis(20);
/// How large its page may be.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Two figures of the tools themselves.
#[derive(Parser)]
struct Options {
    /// The binary of Forebay.
    #[arg(long, value_name = "PATH")]
    forebay: PathBuf,
    /// etcd's benchmark. Without it, only the scrape is measured.
    #[arg(long, value_name = "PATH")]
    benchmark: Option<PathBuf>,
    /// The program that has the empty server [default: beside this one].
    #[arg(long, value_name = "PATH")]
    versus: Option<PathBuf>,
    /// Puts of each tool in each turn.
    #[arg(long, default_value_t = 50_000)]
    total: u32,
    /// Turns of each tool.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Addresses that each ask the gateway once before it is scraped.
    #[arg(long, default_value_t = 10_000)]
    clients: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(benchmark) = &options.benchmark {
        harness(&options, benchmark)?;
    }
    scrape(&options).await
}

/// User and system CPU time of all children that have ended.
fn children_cpu() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no command in stat")?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).context("stat is too short")?.parse::<u64>().context("stat");
    // 100 ticks a second is fixed in Linux's interface to user space.
    Ok(Duration::from_millis(10 * (ticks(13)? + ticks(14)?)))
}

/// Requests for each second of CPU that a tool took, and what it said.
fn run(program: &Path, args: &[String], total: u32) -> anyhow::Result<(f64, String)> {
    let before = children_cpu()?;
    let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    let cpu = children_cpu()?.saturating_sub(before);
    Ok((f64::from(total) / cpu.as_secs_f64(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn harness(options: &Options, benchmark: &Path) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let address = free_address()?;
    let server = ["empty-server".to_owned(), address.to_string()];
    let beside = || std::env::current_exe().map(|program| program.with_file_name("versus"));
    let versus = options.versus.clone().map_or_else(beside, Ok)?;
    let _server = Process::start(&versus, &server, address, scratch.path().join("empty.log"))?;
    let shared: Vec<String> = ["--conns=10", "--clients=100", "--key-size=16", "--val-size=256"]
        .into_iter()
        .map(str::to_owned)
        .chain([format!("--endpoints={address}"), format!("--total={}", options.total)])
        .collect();
    let theirs = [&["put".to_owned(), "--key-space-size=10000".to_owned()][..], &shared].concat();
    let ours: Vec<String> = ["bench", "put", "--closed-loop", "--quiet", "--output=json"].map(str::to_owned).into();
    let ours = [ours, shared].concat();
    let mut ratios = Vec::new();
    for _ in 0..options.rounds {
        let (of_benchmark, _) = run(benchmark, &theirs, options.total)?;
        let (of_ours, said) = run(&options.forebay, &ours, options.total)?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        let put = &said["targets"][0]["series"]["put"];
        ensure!(put["operations"] == options.total, "{} of {} were reported", put["operations"], options.total);
        println!(
            "forebay bench {of_ours:.0} requests for a second of CPU, etcd's benchmark {of_benchmark:.0}: x{:.2}",
            of_ours / of_benchmark
        );
        ratios.push(of_ours / of_benchmark);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("median x{median:.2}; all {} requests of each turn were reported", options.total);
    ensure!(median >= 1.0, "forebay bench costs more CPU than etcd's benchmark");
    Ok(())
}

/// One request over HTTP/1.1; returns the body.
async fn ask(mut stream: TcpStream, head: &str, body: &str) -> anyhow::Result<Vec<u8>> {
    let length = body.len();
    let request =
        format!("{head} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("an answer has a head")?;
    Ok(answer.split_off(end + 4))
}

/// The address of a client of this machine.
async fn from(client: u32, gateway: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::from(0x7f01_0001 + client), 0)))?;
    Ok(socket.connect(gateway).await?)
}

async fn scrape(options: &Options) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let (client, peer) = (free_address()?, free_address()?);
    let mut args = vec!["server".to_owned()];
    args.extend(etcd_flags(&scratch.path().join("data"), "http", client, peer));
    let store = Process::start(&options.forebay, &args, client, scratch.path().join("store.log"))?;
    let (address, metrics) = (free_address()?, free_address()?);
    let args = [
        "gateway".to_owned(),
        format!("--endpoints={}", store.address),
        format!("--listen-client-urls=http://{address}"),
        format!("--listen-metrics-urls=http://{metrics}"),
        "--log-level=error".to_owned(),
    ];
    let _gateway = Process::start(&options.forebay, &args, address, scratch.path().join("gateway.log"))?;
    let asking = futures::stream::iter(0..options.clients).map(|client| async move {
        // Each has a prefix of its own, too.
        let key = format!(r#"{{"key":"{}"}}"#, ["L2Ev", "L2Iv", "L2Mv", "L2Qv"][client as usize % 4]);
        ask(from(client, address).await?, "POST /v3/kv/range", &key).await.map(drop)
    });
    asking.buffer_unordered(AT_ONCE).try_collect::<()>().await.context("clients")?;
    // What was done in a window is told in the next.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (mut took, mut bytes) = (Vec::new(), 0);
    for _ in 0..SCRAPES {
        let began = Instant::now();
        let page = ask(TcpStream::connect(metrics).await?, "GET /metrics", "").await?;
        took.push(began.elapsed());
        bytes = page.len();
    }
    took.sort();
    let median = took[SCRAPES / 2];
    println!(
        "a scrape after {} clients: median {:.1} ms, slowest {:.1} ms, {:.0} KiB",
        options.clients,
        median.as_secs_f64() * 1e3,
        took[SCRAPES - 1].as_secs_f64() * 1e3,
        bytes as f64 / 1024.0
    );
    ensure!(median <= SCRAPE_MAX && bytes <= PAGE_BYTES_MAX, "a scrape takes too long, or is too large");
    Ok(())
}
