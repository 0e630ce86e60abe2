//! The figures of admission that are promised as numbers.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin figures -- --forebay target/release/forebay --etcd PATH
//! ```
//!
//! `quota`: `--objects 10000` by `--writers 64` through four gateways, in front of our server, which decides, and in front
//! of etcd, where gateways guard. `rate`: a rule of 200 requests a second for `--seconds 60`. `overload`: ten times what is
//! served at most, for `--seconds`, on bare etcd and through a gateway that has no mirror, with `--leases 50000` of five
//! seconds beside. `storm`: 20 clients list `--stored 320186` objects, on bare etcd and through a gateway with
//! `--memory-limit 1GiB`. `--only overload,storm` picks. Servers have one half of the processors, clients the other.

mod leases;
mod limits;
mod overload;
mod storm;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use forebay_loadtest::elsewhere;

/// What there is to measure.
const ALL: [&str; 4] = ["quota", "rate", "overload", "storm"];

struct Options {
    forebay: PathBuf,
    etcd: Option<PathBuf>,
    only: Vec<String>,
    objects: u64,
    writers: usize,
    seconds: Duration,
    leases: usize,
    stored: u64,
    memory_limit: String,
}

fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    elsewhere::divide()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    for what in &options.only {
        match (&what[..], &options.etcd) {
            ("quota", etcd) => {
                limits::quota(options, &options.forebay, &["server"], "forebay").await?;
                if let Some(etcd) = etcd {
                    limits::quota(options, etcd, &[], "etcd").await?;
                }
            }
            ("rate", _) => limits::rate(options).await?,
            ("overload", Some(etcd)) => overload::overload(options, etcd).await?,
            ("storm", Some(etcd)) => storm::storm(options, etcd).await?,
            (_, None) => println!("{what}: needs --etcd PATH"),
            _ => bail!("there is no {what}; there are {ALL:?}"),
        }
    }
    Ok(())
}

fn options(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let (mut forebay, mut etcd) = (None, None);
    let mut only: Vec<String> = ALL.map(str::to_owned).into();
    let (mut objects, mut writers, mut seconds) = (10_000, 64, Duration::from_secs(60));
    let (mut leases, mut stored, mut memory_limit) = (50_000, 320_186, "1GiB".to_owned());
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match &flag[..] {
            "--forebay" => forebay = Some(value.into()),
            "--etcd" => etcd = Some(value.into()),
            "--only" => only = value.split(',').map(str::to_owned).collect(),
            "--objects" => objects = value.parse()?,
            "--writers" => writers = value.parse()?,
            "--seconds" => seconds = Duration::from_secs(value.parse()?),
            "--leases" => leases = value.parse()?,
            "--stored" => stored = value.parse()?,
            "--memory-limit" => memory_limit = value,
            _ => bail!("unknown flag {flag}"),
        }
    }
    let forebay = forebay.context("--forebay PATH says what is measured")?;
    Ok(Options { forebay, etcd, only, objects, writers, seconds, leases, stored, memory_limit })
}
