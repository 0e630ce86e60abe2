//! Compares servers in turns in one run: etcd, ours, and an empty gRPC server of the same stack; and the front tiers
//! before them: etcd's `grpc-proxy`, our gateway as a process of its own before etcd and before ours, without a mirror
//! too (`passing`), and ours with the server in one process (`up`); and our server under TLS.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin versus -- --etcd PATH --forebay target/release/forebay
//! ```
//!
//! With `--members 3` it compares clusters of so many members: throughput and CPU time of all of them, how long nobody
//! writes after the leader was killed, and how long a member takes to catch up that missed `--behind-mib`.
//!
//! Prints ratios of throughput and of CPU time per operation, that of a front tier and of its upstream apart. Figures
//! of one run belong together; figures of two runs do not.

mod clusters;
mod report;
mod targets;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use forebay_loadtest::{
    empty::Empty,
    work::{FanOut, Keys, Work},
};

use self::{
    report::{Figures, measured},
    targets::{Kind, Target},
};

const CONNECTIONS: usize = 10;
const CLIENTS: usize = 100;
const LIST_CLIENTS: usize = 20;
const COUNT_CLIENTS: usize = 10;
const LISTED: usize = 500;
const KEYS: Keys = Keys { count: 100_000, value_size: 256 };
const MANY: Keys = Keys { count: 1_000_000, value_size: 256 };

struct Options {
    etcd: Option<PathBuf>,
    forebay: Option<PathBuf>,
    seconds: Duration,
    rounds: usize,
    only: Option<String>,
    /// Watchers of one prefix, in the row `watch`.
    watchers: usize,
    /// Of each cluster; with 1, servers are compared and not clusters.
    members: usize,
    /// What a member that was away has missed.
    behind_mib: usize,
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
    if options.members > 1 {
        return runtime.block_on(clusters::compare(&options, options.members));
    }
    runtime.block_on(compare(options))
}

fn options(args: &[String]) -> anyhow::Result<Options> {
    let mut options = Options {
        etcd: None,
        forebay: None,
        seconds: Duration::from_secs(3),
        rounds: 3,
        only: None,
        watchers: 1000,
        members: 1,
        behind_mib: 1024,
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--etcd" => options.etcd = Some(value.into()),
            "--forebay" => options.forebay = Some(value.into()),
            "--seconds" => options.seconds = Duration::try_from_secs_f64(value.parse()?)?,
            "--rounds" => options.rounds = value.parse()?,
            "--only" => options.only = Some(value.clone()),
            "--watchers" => options.watchers = value.parse()?,
            "--members" => options.members = value.parse()?,
            "--behind-mib" => options.behind_mib = value.parse()?,
            _ => anyhow::bail!(
                "unknown flag {flag}; known: --etcd --forebay --seconds --rounds --only --watchers --members --behind-mib"
            ),
        }
    }
    Ok(options)
}

/// What a row of the table does.
enum Load {
    Unary(Work, usize),
    FanOut,
    Count,
}

/// The rows, and who takes part in each.
const ROWS: [(&str, Load, &[Kind]); 7] = [
    ("put", Load::Unary(Work::Put, CLIENTS), &[Kind::Server, Kind::Tls, Kind::Front, Kind::Empty]),
    ("get", Load::Unary(Work::Get, CLIENTS), &[Kind::Server, Kind::Tls, Kind::Front, Kind::Empty]),
    ("list", Load::Unary(Work::List, LIST_CLIENTS), &[Kind::Server, Kind::Front, Kind::Empty]),
    ("cas", Load::Unary(Work::CompareAndSet, CLIENTS), &[Kind::Server]),
    ("put-1-client", Load::Unary(Work::Put, 1), &[Kind::Server, Kind::Front]),
    ("watch", Load::FanOut, &[Kind::Server, Kind::Front]),
    ("count", Load::Count, &[Kind::Server]),
];

async fn compare(options: Options) -> anyhow::Result<()> {
    let names = || ROWS.iter().map(|(name, ..)| *name);
    let only: Option<Vec<&str>> = options.only.as_deref().map(|only| only.split(',').collect());
    if let Some(unknown) = only.iter().flatten().find(|only| !names().any(|name| name == **only)) {
        anyhow::bail!("there is no row {unknown}; there are {}", names().collect::<Vec<_>>().join(", "));
    }
    let scratch = tempfile::tempdir()?;
    let targets = targets::start(&options, scratch.path()).await?;
    for (name, load, kinds) in ROWS {
        if only.as_ref().is_some_and(|only| !only.contains(&name)) {
            continue;
        }
        let takes_part = |target: &&Target| kinds.contains(&target.kind);
        if let Load::Count = load {
            for target in targets.iter().filter(takes_part) {
                MANY.load(&target.channels, "many/").await.with_context(|| format!("loading {}", target.name))?;
            }
        }
        let mut rounds: Vec<Vec<Option<Figures>>> = Vec::new();
        for _ in 0..options.rounds {
            let mut round = Vec::new();
            for target in &targets {
                let figures = if takes_part(&target) { Some(run(&load, target, &options).await?) } else { None };
                round.push(figures);
            }
            rounds.push(round);
        }
        report::print(name, &targets, &rounds);
        if let Load::Count = load {
            for target in targets.iter().filter(takes_part) {
                let mib = target.rss()? >> 20;
                println!("{:<14} {:<10} {mib:>9} MiB resident with 1,100,000 keys", "memory", target.name);
            }
        }
    }
    Ok(())
}

async fn run(load: &Load, target: &Target, options: &Options) -> anyhow::Result<Figures> {
    let (channels, duration) = (&target.channels, options.seconds);
    match load {
        Load::Unary(work, clients) => measured(target, work.run(channels, *clients, KEYS, duration)).await,
        Load::FanOut => {
            let watching = FanOut::open(channels, options.watchers).await.context(target.name)?;
            measured(target, watching.run(KEYS, duration)).await
        }
        Load::Count => measured(target, Work::Count("many/").run(channels, COUNT_CLIENTS, MANY, duration)).await,
    }
}
