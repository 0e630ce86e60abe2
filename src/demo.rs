//! `forebay demo`: what this is for, in half a minute.
//!
//! Three members and a gateway on this machine, and the storm of the talk: a controller that lists all its objects,
//! again and again, from several places at once, while an API server writes at a steady pace and keeps a lease alive.
//! First at a member, then through a gateway whose policy knows the storm; a table tells what the API server felt.

mod cluster;
mod load;
mod verdict;

use std::{fs, io::Write as _, time::Duration};

use anyhow::Context as _;

use self::{
    cluster::Cluster,
    load::Felt,
    verdict::{Outcome, Verdict},
};
use crate::{
    flags::{
        Problem, go,
        syntax::{self, Given, UsageError},
        table::{Flag, Slot},
    },
    policy::Report,
};

/// What may be said about the demo.
#[derive(Clone, Debug)]
pub struct Settings {
    objects: u64,
    object_bytes: u64,
    listers: u64,
    rate: u64,
    duration: go::Duration,
    keep: bool,
    json: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            objects: 20_000,
            object_bytes: 1024,
            listers: 8,
            rate: 200,
            duration: go::Duration::from_secs(5),
            keep: false,
            json: false,
        }
    }
}

/// The flags.
#[rustfmt::skip] // one row per flag reads as the table it is
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Uint};
    let flag = Flag::<Settings>::new;
    vec![
        flag("Storm", "objects", Uint(|s| &mut s.objects), "Objects that are listed; the talk's cluster had 320186."),
        flag("Storm", "object-bytes", Uint(|s| &mut s.object_bytes), "Their size."),
        flag("Storm", "listers", Uint(|s| &mut s.listers), "Clients that list them, each again as soon as it has its answer."),
        flag("Storm", "rate", Uint(|s| &mut s.rate), "Writes of the API server in a second."),
        flag("Storm", "duration", Slot::Duration(|s| &mut s.duration), "How long each half lasts."),
        flag("Afterwards", "keep", Bool(|s| &mut s.keep), "Leave cluster and gateway running until Ctrl-C."),
        flag("Afterwards", "json", Bool(|s| &mut s.json), "Print the outcome as JSON."),
    ]
}

/// The rule that knows the storm. Whoever it is not about is left alone.
const POLICY: &str = "apiVersion: forebay.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: demo}
spec:
  identity: [userAgent, peerIP]
  priorityLevels:
    - {name: system, shares: 60, queues: 16, handSize: 4, queueLength: 64, maxWait: 2s}
    - {name: workload, shares: 20, queues: 16, handSize: 4, queueLength: 50, maxWait: 1s}
  flowRules:
    - name: list-storm
      matchingPrecedence: 500
      mode: Enforce
      match: {rpcs: [Range, RangeStream], keys: [/registry/jobs/], minObjects: 1000}
      priorityLevel: workload
      limits: {requests: 1/s, burst: 1, concurrency: 1}
      onLimit: Queue
    - name: default
      matchingPrecedence: 9000
      mode: Enforce
      match: {}
      priorityLevel: system
";

/// Does what the words after `forebay demo` ask for.
pub fn run(args: &[String]) -> Report {
    let mut settings = Settings::default();
    let Given { rest, help, errors, .. } = syntax::parse(&flags(), &mut settings, args);
    if help {
        return Report::page(crate::help::demo());
    }
    let mut problems: Vec<Problem> =
        errors.into_iter().map(|UsageError { text, hint }| Problem { text, hint }).collect();
    problems.extend(rest.first().map(|word| Problem::new(format!("{} is not a flag", go::quote(word)))));
    if !problems.is_empty() {
        return Report { problems, status: 2, ..Report::default() };
    }
    let shown = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")
        .and_then(|runtime| runtime.block_on(show(&settings)));
    match shown {
        Ok(()) => Report::default(),
        Err(error) => Report { problems: vec![Problem::new(format!("{error:#}"))], status: 1, ..Report::default() },
    }
}

/// Progress goes to stderr, so that JSON stays alone.
fn say(text: &str) {
    // Nobody reads it if stderr is closed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

async fn show(settings: &Settings) -> anyhow::Result<()> {
    let dir = tempfile::TempDir::with_prefix("forebay-demo-")?;
    say("starting three members");
    let mut cluster = Cluster::start(dir.path()).await?;
    say(&format!("writing {} objects of {} bytes", settings.objects, settings.object_bytes));
    load::fill(&cluster.members[0], settings.objects, settings.object_bytes).await?;

    let duration = settings.duration.to_std();
    say(&format!("{} clients list all of them at a member, for {duration:?}", settings.listers));
    let bare = half(settings, &cluster, &cluster.members[0].clone(), duration).await?;

    let policy = dir.path().join("policy.yaml");
    fs::write(&policy, POLICY)?;
    say("starting a gateway with a policy, and the same again through it");
    let gateway = cluster.gateway(dir.path(), &policy).await?;
    let guarded = half(settings, &cluster, &gateway, duration).await?;

    let verdict = Verdict { bare, guarded };
    let page = if settings.json { format!("{:#}\n", verdict.json()) } else { verdict.to_string() };
    let mut out = std::io::stdout().lock();
    // A reader that went away has seen enough.
    let _ = out.write_all(page.as_bytes()).and_then(|()| out.flush());
    drop(out);
    if settings.keep {
        say(&format!(
            "\nIt all runs until Ctrl-C, with its policy in {}:\n  {gateway}/console/\n  forebay top --endpoint {gateway}\n  \
             etcdctl --endpoints {gateway} get --prefix --keys-only --limit 3 /registry/jobs/",
            policy.display()
        ));
        crate::signals::stop().await?;
    }
    Ok(())
}

/// The storm at an address, and what the API server felt of it.
async fn half(settings: &Settings, cluster: &Cluster, at: &str, duration: Duration) -> anyhow::Result<Outcome> {
    if let Err(error) = cluster.forget_memory_peak() {
        say(&format!("{error:#}: the most memory is counted from the start of the processes"));
    }
    let (felt, lists) =
        tokio::join!(load::api_server(at, settings.rate, duration), load::storm(at, settings.listers, duration),);
    let Felt { mut latencies, failed, lease_kept } = felt?;
    latencies.sort_unstable();
    let (answered, refused) = lists?;
    Ok(Outcome {
        writes: latencies.len() - failed,
        failed,
        lease_kept,
        latencies,
        lists_answered: answered,
        lists_refused: refused,
        seconds: duration.as_secs_f64(),
        memory_peak: cluster.memory_peak(),
    })
}
