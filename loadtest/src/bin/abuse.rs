//! The abuse catalogue against bare etcd, against our gateway in front of etcd, and against `forebay up`, each on fresh
//! data, and a table of what bystanders noticed, and how evenly they were served (Jain's index).
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin abuse -- --etcd PATH --forebay target/release/forebay
//! ```
//!
//! Servers have one half of the processors, clients the other.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use forebay_loadtest::{
    abuse::{self, Abuse, Felt, Plan, Report},
    client::Target as Behind,
    elsewhere,
    process::{Process, etcd_flags, free_address},
};

/// The abuse catalogue, and what bystanders notice of it.
#[derive(Parser)]
struct Options {
    /// A real etcd, bare and behind the gateway.
    #[arg(long, value_name = "PATH", required_unless_present = "forebay")]
    etcd: Option<PathBuf>,
    /// The binary of Forebay.
    #[arg(long, value_name = "PATH")]
    forebay: Option<PathBuf>,
    /// A policy file for the gateway.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Entries of the catalogue.
    #[arg(long, value_delimiter = ',', value_parser = named, default_values = Abuse::ALL.map(Abuse::name))]
    only: Vec<Abuse>,
    /// How much of each: 1 is what the talk tells of, scaled to one machine.
    #[arg(long, default_value_t = Plan::default().size)]
    size: f64,
    /// How long each goes on.
    #[arg(long, default_value_t = Plan::default().lasts.as_secs())]
    seconds: u64,
    /// A line of JSON for each row, in place of the table.
    #[arg(long)]
    json: bool,
}

fn named(name: &str) -> Result<Abuse, String> {
    Abuse::named(name).ok_or_else(|| format!("there are {}", Abuse::ALL.map(Abuse::name).join(", ")))
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    elsewhere::divide()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    if !options.json {
        println!(
            "{:<17}{:<10}{:>26}{:>26}{:>6}{:>26}{:>7}{:>9}{:>12}{:>12}{:>15}",
            "ABUSE",
            "TARGET",
            "ALONE answered p50/p99 ms",
            "BESIDE answered p50/p99 ms",
            "FAIR",
            "AFTER answered p50/p99 ms",
            "FAILED",
            "LEASES-",
            "ABUSER ok",
            "refused",
            "RSS MiB"
        );
    }
    for &entry in &options.only {
        for kind in [Kind::Etcd, Kind::Gateway, Kind::Up] {
            let scratch = tempfile::tempdir()?;
            let Some(target) = Target::start(kind, options, scratch.path())? else { continue };
            abuse::preload(&Behind::at(target.behind), options.size)
                .await
                .with_context(|| format!("filling {}", kind.name()))?;
            let front = Arc::clone(&target.front);
            let plan = Plan { size: options.size, lasts: Duration::from_secs(options.seconds), ..Plan::default() };
            let report = abuse::run(entry, target.front.address, plan, move || front.rss().ok()).await;
            let report = report.with_context(|| format!("{} against {}", entry.name(), kind.name()))?;
            print(&report, kind, options.json);
        }
    }
    Ok(())
}

fn print(report: &Report, kind: Kind, json: bool) {
    if json {
        let row = serde_json::json!({"target": kind.name(), "report": report});
        println!("{row}");
        return;
    }
    let felt = |felt: &Felt| match felt.answered {
        0 => "-".to_owned(),
        n => format!("{n} {:.1}/{:.1}", felt.p50_micros as f64 / 1000.0, felt.p99_micros as f64 / 1000.0),
    };
    let unanswered = |felt: &Felt| felt.failed + felt.outstanding;
    println!(
        "{:<17}{:<10}{:>26}{:>26}{:>6.3}{:>26}{:>7}{:>9}{:>12}{:>12}{:>15}{}",
        report.abuse.name(),
        kind.name(),
        felt(&report.alone),
        felt(&report.beside),
        report.beside.fairness,
        felt(&report.after),
        unanswered(&report.beside) + unanswered(&report.after),
        report.leases_lost,
        report.did.done,
        report.did.refused,
        format!("{} to {}", report.rss_before >> 20, report.rss_max >> 20),
        if report.survived { "" } else { "  DIED" },
    );
}

/// What is abused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Etcd,
    Gateway,
    Up,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Etcd => "etcd",
            Kind::Gateway => "gateway",
            Kind::Up => "up",
        }
    }
}

struct Target {
    /// What clients talk to.
    front: Arc<Process>,
    /// Where the store is.
    behind: SocketAddr,
    /// The store of its own, if it is another process.
    _store: Option<Process>,
}

impl Target {
    fn start(kind: Kind, options: &Options, scratch: &Path) -> anyhow::Result<Option<Target>> {
        let store = |program: &Path, command: &[&str]| {
            let (client, peer) = (free_address()?, free_address()?);
            let mut args: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
            args.extend(etcd_flags(&scratch.join("data"), "http", client, peer));
            Process::start(program, &args, client, scratch.join("store.log"))
        };
        let (etcd, forebay) = (options.etcd.as_deref(), options.forebay.as_deref());
        let policy = options.policy.as_ref().map(|policy| format!("--policy={}", policy.display()));
        Ok(match (kind, etcd, forebay) {
            (Kind::Etcd, Some(etcd), _) => {
                let front = Arc::new(store(etcd, &[])?);
                Some(Target { behind: front.address, front, _store: None })
            }
            (Kind::Gateway, Some(etcd), Some(forebay)) => {
                let (store, address) = (store(etcd, &[])?, free_address()?);
                let mut args = vec![
                    "gateway".to_owned(),
                    format!("--endpoints={}", store.address),
                    format!("--listen-client-urls=http://{address}"),
                    "--log-level=error".to_owned(),
                ];
                args.extend(policy);
                let front = Arc::new(Process::start(forebay, &args, address, scratch.join("gateway.log"))?);
                Some(Target { front, behind: store.address, _store: Some(store) })
            }
            (Kind::Up, _, Some(forebay)) => {
                let command: Vec<&str> = std::iter::once("up").chain(policy.as_deref()).collect();
                let front = Arc::new(store(forebay, &command)?);
                Some(Target { behind: front.address, front, _store: None })
            }
            _ => None,
        })
    }
}
