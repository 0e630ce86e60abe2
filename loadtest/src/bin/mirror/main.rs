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

use anyhow::{Context as _, bail};
use forebay_loadtest::work::{Keys, Work};

use self::{
    fronts::Fronts,
    report::{Goal, Row},
};

const CLIENTS: usize = 100;
const LIST_CLIENTS: usize = 20;
const KEYS: Keys = Keys { count: 100_000, value_size: 256 };

/// The rows by name, in the order in which they run.
const ROWS: [&str; 7] = ["get", "list", "latency", "fan-out", "watches", "watches-many", "full-list"];

struct Options {
    etcd: PathBuf,
    forebay: PathBuf,
    seconds: Duration,
    rounds: usize,
    only: Option<Vec<String>>,
}

impl Options {
    fn runs(&self, row: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|named| named == row))
    }
}

fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&options))
}

fn options(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let (mut etcd, mut forebay, mut only) = (None, None, None);
    let (mut seconds, mut rounds) = (Duration::from_secs(3), 3);
    while let Some(flag) = args.next() {
        let mut value = || args.next().with_context(|| format!("{flag} needs a value"));
        match &flag[..] {
            "--etcd" => etcd = Some(value()?.into()),
            "--forebay" => forebay = Some(value()?.into()),
            "--seconds" => seconds = Duration::try_from_secs_f64(value()?.parse()?)?,
            "--rounds" => rounds = value()?.parse()?,
            "--only" => only = Some(value()?.split(',').map(str::to_owned).collect::<Vec<_>>()),
            _ => bail!("unknown flag {flag}; known: --etcd --forebay --seconds --rounds --only"),
        }
    }
    if let Some(unknown) = only.iter().flatten().find(|row| !ROWS.contains(&&row[..])) {
        bail!("there is no row {unknown}; there are {}", ROWS.join(", "));
    }
    let etcd = etcd.context("--etcd PATH says what is in the middle of it")?;
    let forebay = forebay.context("--forebay PATH says what is measured")?;
    Ok(Options { etcd, forebay, seconds, rounds, only })
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    let is_small = |row: &&str| !["watches", "watches-many", "full-list"].contains(row);
    if ROWS.iter().filter(|row| is_small(row)).any(|row| options.runs(row)) {
        let fronts = Fronts::start(options, true).await?;
        KEYS.load(&fronts.direct().channels, "key/").await.context("loading")?;
        if options.runs("get") {
            let goals = [Goal::Rate(1.2), Goal::Cpu(0.7), Goal::Requests(0.1)];
            work(options, &fronts, Row::new("get", &goals), Work::Get, CLIENTS).await?;
        }
        if options.runs("list") {
            let goals = [Goal::Rate(15.0), Goal::Cpu(0.03)];
            work(options, &fronts, Row::new("list", &goals), Work::List, LIST_CLIENTS).await?;
        }
        if options.runs("latency") {
            latency::run(options, &fronts).await?;
        }
        if options.runs("fan-out") {
            watches::fan_out(options, &fronts, KEYS).await?;
        }
    }
    if options.runs("watches") {
        watches::many(options, "watches", 100_000, true).await?;
    }
    if options.runs("watches-many") {
        watches::many(options, "watches-many", 1_000_000, false).await?;
    }
    if options.runs("full-list") {
        lists::run(options).await?;
    }
    Ok(())
}

/// One kind of unary work, against each in turns.
async fn work(options: &Options, fronts: &Fronts, mut row: Row<'_>, work: Work, clients: usize) -> anyhow::Result<()> {
    for _ in 0..options.rounds {
        for front in &fronts.all {
            let run = work.run(&front.channels, clients, KEYS, options.seconds);
            row.add(front.name, fronts.measured(front, run).await?);
        }
    }
    row.print();
    Ok(())
}
