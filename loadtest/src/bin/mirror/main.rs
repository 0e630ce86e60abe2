//! What the gateway's mirror is worth: etcd asked directly, through its own `grpc-proxy`, and through the gateway, each
//! a process of its own, in turns in one run.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin mirror -- --etcd PATH --forebay target/release/forebay
//! ```
//!
//! Every line has throughput, the CPU time of the target and of what it forwards to for each operation, and how many
//! requests came to the store for each. What has a goal is told beside it.

mod fronts;
mod latency;
mod lists;
mod report;
mod watches;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use forebay_loadtest::work::{Keys, Work};

use self::{
    fronts::Fronts,
    report::{Goal, Row},
};

const CLIENTS: usize = 100;
const LIST_CLIENTS: usize = 20;
const KEYS: Keys = Keys { count: 100_000, value_size: 256 };

/// The rows, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rows {
    Get,
    List,
    Latency,
    FanOut,
    Watches,
    WatchesMany,
    FullList,
}

/// What the gateway's mirror is worth.
#[derive(Parser)]
struct Options {
    /// A real etcd, alone and behind the front tiers; its `grpc-proxy` is one of them.
    #[arg(long, value_name = "PATH")]
    etcd: PathBuf,
    /// The binary of Forebay.
    #[arg(long, value_name = "PATH")]
    forebay: PathBuf,
    /// How long each is measured in each round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The rows to run [default: all].
    #[arg(long, value_delimiter = ',')]
    only: Vec<Rows>,
}

impl Options {
    fn runs(&self, row: Rows) -> bool {
        self.only.is_empty() || self.only.contains(&row)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&options))
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    if [Rows::Get, Rows::List, Rows::Latency, Rows::FanOut].into_iter().any(|row| options.runs(row)) {
        let fronts = Fronts::start(options, true).await?;
        KEYS.load(&fronts.direct().channels, "key/").await.context("loading")?;
        if options.runs(Rows::Get) {
            let goals = [Goal::Rate(1.2), Goal::Cpu(0.7), Goal::Requests(0.1)];
            work(options, &fronts, Row::new("get", &goals), Work::Get, CLIENTS).await?;
        }
        if options.runs(Rows::List) {
            let goals = [Goal::Rate(15.0), Goal::Cpu(0.03)];
            work(options, &fronts, Row::new("list", &goals), Work::List, LIST_CLIENTS).await?;
        }
        if options.runs(Rows::Latency) {
            latency::run(options, &fronts).await?;
        }
        if options.runs(Rows::FanOut) {
            watches::fan_out(options, &fronts, KEYS).await?;
        }
    }
    if options.runs(Rows::Watches) {
        watches::many(options, "watches", 100_000, true).await?;
    }
    if options.runs(Rows::WatchesMany) {
        watches::many(options, "watches-many", 1_000_000, false).await?;
    }
    if options.runs(Rows::FullList) {
        lists::run(options).await?;
    }
    Ok(())
}

/// One kind of unary work, against each in turns.
async fn work(options: &Options, fronts: &Fronts, mut row: Row<'_>, work: Work, clients: usize) -> anyhow::Result<()> {
    for _ in 0..options.rounds {
        for front in &fronts.all {
            let run = work.run(&front.channels, clients, KEYS, options.duration());
            row.add(front.name, fronts.measured(front, run).await?);
        }
    }
    row.print();
    Ok(())
}
