//! The figures of admission that are promised as numbers.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin figures -- --forebay target/release/forebay --etcd PATH
//! ```
//!
//! Servers have one half of the processors, clients the other.

mod leases;
mod limits;
mod overload;
mod storm;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use forebay_loadtest::elsewhere;

/// What there is to measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Figure {
    /// `--objects` by `--writers` through four gateways, before our server, which decides, and before etcd, where
    /// gateways guard.
    Quota,
    /// A rule of 200 requests a second.
    Rate,
    /// Ten times what is served at most, on bare etcd and through a gateway without a mirror, with leases beside.
    Overload,
    /// 20 clients list everything, on bare etcd and through a gateway.
    Storm,
}

/// The figures of admission that are promised as numbers.
#[derive(Parser)]
struct Options {
    /// The binary of Forebay.
    #[arg(long, value_name = "PATH")]
    forebay: PathBuf,
    /// A real etcd, to measure beside; overload and storm need it.
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,
    /// What is measured.
    #[arg(long, value_delimiter = ',', default_value = "quota,rate,overload,storm")]
    only: Vec<Figure>,
    /// The objects that the quota allows.
    #[arg(long, default_value_t = 10_000)]
    objects: u64,
    /// Those who write until nothing more is let in.
    #[arg(long, default_value_t = 64)]
    writers: usize,
    /// How long rate, overload and storm go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Leases of five seconds that are kept alive beside the overload.
    #[arg(long, default_value_t = 50_000)]
    leases: usize,
    /// Objects that are listed in a storm.
    #[arg(long, default_value_t = 320_186)]
    stored: u64,
    /// The gateway's in a storm.
    #[arg(long, default_value = "1GiB")]
    memory_limit: String,
}

impl Options {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    elsewhere::divide()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    for figure in &options.only {
        match (figure, &options.etcd) {
            (Figure::Quota, etcd) => {
                limits::quota(options, &options.forebay, &["server"], "forebay").await?;
                if let Some(etcd) = etcd {
                    limits::quota(options, etcd, &[], "etcd").await?;
                }
            }
            (Figure::Rate, _) => limits::rate(options).await?,
            (Figure::Overload, Some(etcd)) => overload::overload(options, etcd).await?,
            (Figure::Storm, Some(etcd)) => storm::storm(options, etcd).await?,
            (Figure::Overload | Figure::Storm, None) => println!("{figure:?} needs --etcd PATH"),
        }
    }
    Ok(())
}
