//! The abuse catalogue against bare etcd, against our gateway in front of etcd, and against `forebay up`, each on fresh
//! data, and a table of what a bystander noticed.
//!
//! ```text
//! cargo run --release -p forebay-loadtest --bin abuse -- --etcd PATH --forebay target/release/forebay
//! ```
//!
//! `--only list-all,big-values` picks entries, `--seconds 60` and `--size 16` make them last longer and do more,
//! `--policy FILE` is given to the gateway, `--json` prints a line of JSON for each row instead. Servers have one half of
//! the processors, clients the other.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use forebay_loadtest::{
    abuse::{self, Abuse, Felt, Plan, Report},
    client::Target as Behind,
    elsewhere,
    process::{Process, etcd_flags, free_address},
};

struct Options {
    etcd: Option<PathBuf>,
    forebay: Option<PathBuf>,
    policy: Option<PathBuf>,
    only: Vec<Abuse>,
    plan: Plan,
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    elsewhere::divide()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&options))
}

fn options(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let (only, plan) = (Abuse::ALL.to_vec(), Plan::default());
    let mut options = Options { etcd: None, forebay: None, policy: None, only, plan, json: false };
    while let Some(flag) = args.next() {
        if flag == "--json" {
            options.json = true;
            continue;
        }
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match &flag[..] {
            "--etcd" => options.etcd = Some(value.into()),
            "--forebay" => options.forebay = Some(value.into()),
            "--policy" => options.policy = Some(value.into()),
            "--size" => options.plan.size = value.parse()?,
            "--seconds" => options.plan.lasts = Duration::from_secs(value.parse()?),
            "--only" => {
                let found =
                    value.split(',').map(|name| Abuse::named(name).with_context(|| format!("there is no {name}")));
                options.only = found.collect::<anyhow::Result<_>>()?;
            }
            _ => bail!("unknown flag {flag}"),
        }
    }
    if options.etcd.is_none() && options.forebay.is_none() {
        bail!("--etcd PATH and --forebay PATH say what is abused");
    }
    Ok(options)
}

async fn run(options: &Options) -> anyhow::Result<()> {
    if !options.json {
        println!(
            "{:<17}{:<10}{:>26}{:>26}{:>26}{:>7}{:>9}{:>12}{:>12}{:>15}",
            "ABUSE",
            "TARGET",
            "ALONE answered p50/p99 ms",
            "BESIDE answered p50/p99 ms",
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
            abuse::preload(&Behind::at(target.behind), options.plan.size)
                .await
                .with_context(|| format!("filling {}", kind.name()))?;
            let front = Arc::clone(&target.front);
            let report = abuse::run(entry, target.front.address, options.plan, move || front.rss().ok()).await;
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
        "{:<17}{:<10}{:>26}{:>26}{:>26}{:>7}{:>9}{:>12}{:>12}{:>15}{}",
        report.abuse.name(),
        kind.name(),
        felt(&report.alone),
        felt(&report.beside),
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
