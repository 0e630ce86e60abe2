//! Compares servers: etcd, ours, and an empty gRPC server of the same stack, in turns in one run.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin versus -- --etcd PATH --forebay target/release/forebay
//! ```
//!
//! Prints ratios of throughput and of server CPU per operation. Figures of one run belong together;
//! figures of two runs do not.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use forebay_loadtest::{
    client::connect,
    empty::Empty,
    process::{Process, etcd_flags, free_address},
    work::{Counted, Keys, Work, watch_fan_out},
};
use tonic::transport::Channel;

const CONNECTIONS: usize = 10;
const CLIENTS: usize = 100;
const LIST_CLIENTS: usize = 20;
const WATCHERS: usize = 1000;
const LISTED: usize = 500;
const KEYS: Keys = Keys { count: 100_000, value_size: 256 };
const MANY: Keys = Keys { count: 1_000_000, value_size: 256 };

struct Options {
    etcd: Option<PathBuf>,
    forebay: Option<PathBuf>,
    seconds: f64,
    rounds: usize,
    only: Option<String>,
}

struct Target {
    name: &'static str,
    process: Process,
    channels: Vec<Channel>,
}

/// One measured run: operations a second, and server CPU of each in microseconds.
#[derive(Clone, Copy, Debug)]
struct Figures {
    rate: f64,
    cpu_us: f64,
    p50_us: f64,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let [mode, address] = &args[..]
        && mode == "empty-server"
    {
        return runtime.block_on(Empty::new(LISTED, KEYS.value_size).serve(address.parse()?));
    }
    let options = options(&args)?;
    runtime.block_on(compare(options))
}

fn options(args: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { etcd: None, forebay: None, seconds: 3.0, rounds: 3, only: None };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--etcd" => options.etcd = Some(value.into()),
            "--forebay" => options.forebay = Some(value.into()),
            "--seconds" => options.seconds = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            "--only" => options.only = Some(value.clone()),
            _ => anyhow::bail!("unknown flag {flag}; known: --etcd --forebay --seconds --rounds --only"),
        }
    }
    Ok(options)
}

async fn compare(options: Options) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut targets = Vec::new();
    let servers = [("etcd", &options.etcd, None), ("forebay", &options.forebay, Some("server"))];
    for (name, program, subcommand) in servers {
        let Some(program) = program else { continue };
        let (client, peer) = (free_address()?, free_address()?);
        let mut args: Vec<String> = subcommand.map(str::to_owned).into_iter().collect();
        args.extend(etcd_flags(&scratch.path().join(name), client, peer));
        let process = Process::start(program, &args, client, scratch.path().join(format!("{name}.log")))?;
        targets.push(Target { name, channels: connect(client, CONNECTIONS).await?, process });
    }
    let address = free_address()?;
    let args = ["empty-server".to_owned(), address.to_string()];
    let process = Process::start(&std::env::current_exe()?, &args, address, scratch.path().join("empty.log"))?;
    targets.push(Target { name: "empty", channels: connect(address, CONNECTIONS).await?, process });

    for target in real(&targets) {
        KEYS.load(&target.channels, "key/").await.with_context(|| format!("loading {}", target.name))?;
    }
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only.split(',').any(|part| part == name));
    let seconds = Duration::from_secs_f64(options.seconds);
    let works = [
        ("put", Work::Put, CLIENTS, true),
        ("get", Work::Get, CLIENTS, true),
        ("list", Work::List, LIST_CLIENTS, true),
        ("cas", Work::CompareAndSet, CLIENTS, false),
        ("put-1-client", Work::Put, 1, false),
    ];
    for (name, work, clients, empty_too) in works {
        if wanted(name) {
            let mut rows: Vec<Vec<Figures>> = vec![Vec::new(); targets.len()];
            for _ in 0..options.rounds {
                for (row, target) in rows.iter_mut().zip(&targets) {
                    if empty_too || target.name != "empty" {
                        let run = work.run(&target.channels, clients, KEYS, seconds);
                        row.push(measured(target, run).await?);
                    }
                }
            }
            report(name, &targets, &rows);
        }
    }
    if wanted("watch") {
        let mut rows: Vec<Vec<Figures>> = vec![Vec::new(); targets.len()];
        for _ in 0..options.rounds {
            for (row, target) in rows.iter_mut().zip(&targets).filter(|(_, target)| target.name != "empty") {
                row.push(measured(target, watch_fan_out(&target.channels, WATCHERS, KEYS, seconds)).await?);
            }
        }
        report("watch", &targets, &rows);
    }
    if wanted("count") {
        for target in real(&targets) {
            MANY.load(&target.channels, "many/").await.with_context(|| format!("loading {}", target.name))?;
        }
        let mut rows: Vec<Vec<Figures>> = vec![Vec::new(); targets.len()];
        for (row, target) in rows.iter_mut().zip(&targets).filter(|(_, target)| target.name != "empty") {
            row.push(measured(target, Work::Count("many/").run(&target.channels, 10, MANY, seconds)).await?);
        }
        report("count", &targets, &rows);
        for target in real(&targets) {
            println!(
                "{:<14} {:<8} {:>9} MiB resident with 1,100,000 keys",
                "memory",
                target.name,
                target.process.rss()? >> 20
            );
        }
    }
    Ok(())
}

fn real(targets: &[Target]) -> impl Iterator<Item = &Target> {
    targets.iter().filter(|target| target.name != "empty")
}

async fn measured(target: &Target, run: impl Future<Output = anyhow::Result<Counted>>) -> anyhow::Result<Figures> {
    let before = target.process.cpu()?;
    let counted = run.await.with_context(|| target.name)?;
    let cpu = target.process.cpu()? - before;
    let operations = counted.operations as f64;
    let p50 = counted.latencies.get(counted.latencies.len() / 2).copied().unwrap_or_default();
    Ok(Figures {
        rate: operations / counted.elapsed.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / operations,
        p50_us: p50.as_secs_f64() * 1e6,
    })
}

fn report(work: &str, targets: &[Target], rows: &[Vec<Figures>]) {
    let median = |row: &[Figures], of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = row.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let find = |name: &str| targets.iter().position(|target| target.name == name).map(|index| &rows[index][..]);
    for (target, row) in targets.iter().zip(rows) {
        let (Some(rate), Some(cpu)) = (median(row, |f| f.rate), median(row, |f| f.cpu_us)) else { continue };
        print!("{work:<14} {:<8} {rate:>11.0} /s {cpu:>9.2} us CPU", target.name);
        if let Some(p50) = median(row, |f| f.p50_us).filter(|p50| *p50 > 0.0) {
            print!(" {p50:>8.0} us p50");
        }
        for other in ["etcd", "empty"] {
            let Some(base) = find(other).filter(|base| !base.is_empty() && target.name != other) else { continue };
            let (rate_base, cpu_base) =
                (median(base, |f| f.rate).unwrap_or(1.0), median(base, |f| f.cpu_us).unwrap_or(1.0));
            print!("   x {other}: rate {:.2} cpu {:.3}", rate / rate_base, cpu / cpu_base);
        }
        println!();
    }
}
