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

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
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

/// Compares servers in turns, as ratios of throughput and of CPU time.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// A real etcd, alone and behind the front tiers.
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,
    /// The binary of Forebay.
    #[arg(long, value_name = "PATH")]
    forebay: Option<PathBuf>,
    /// How long each is measured in each round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The rows to run [default: all].
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Watchers of one prefix, in the row `watch`.
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Of each cluster; with 1, servers are compared and not clusters.
    #[arg(long, default_value_t = 1)]
    members: usize,
    /// What a member that was away has missed.
    #[arg(long, default_value_t = 1024)]
    behind_mib: usize,
}

#[derive(Subcommand)]
enum Mode {
    /// Only serves what takes no work: the limit of what any server of this stack can do.
    EmptyServer { address: SocketAddr },
}

impl Options {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn runs(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }

    /// Fails if a row is asked for that there is not.
    fn check_rows(&self, rows: &[&str]) -> anyhow::Result<()> {
        match self.only.iter().find(|only| !rows.contains(&&only[..])) {
            Some(unknown) => anyhow::bail!("there is no row {unknown}; there are {}", rows.join(", ")),
            None => Ok(()),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(Mode::EmptyServer { address }) = options.mode {
        return runtime.block_on(Empty::new(LISTED, KEYS.value_size).serve(address));
    }
    if options.members > 1 {
        return runtime.block_on(clusters::compare(&options, options.members));
    }
    runtime.block_on(compare(options))
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
    options.check_rows(&ROWS.map(|(name, ..)| name))?;
    let scratch = tempfile::tempdir()?;
    let targets = targets::start(&options, scratch.path()).await?;
    for (name, load, kinds) in ROWS {
        if !options.runs(name) {
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
    let (channels, duration) = (&target.channels, options.duration());
    match load {
        Load::Unary(work, clients) => measured(target, work.run(channels, *clients, KEYS, duration)).await,
        Load::FanOut => {
            let watching = FanOut::open(channels, options.watchers).await.context(target.name)?;
            measured(target, watching.run(KEYS, duration)).await
        }
        Load::Count => measured(target, Work::Count("many/").run(channels, COUNT_CLIENTS, MANY, duration)).await,
    }
}
