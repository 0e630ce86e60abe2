//! Random watches over random traffic.
//!
//! The same program runs on the reference and on a target, and every watch must have seen the same events in
//! the same order. A watch that follows the present gets one message for each revision, so there the
//! messages are compared too; where one catches up, their boundaries depend on timing.

use std::collections::BTreeMap;

use anyhow::Context as _;
use forebay_proto::etcdserverpb as pb;
use serde_json::{Value, json};

use crate::{
    cases::requests::put,
    diff::differences,
    programs::{Generator, Op},
    session::Session,
    streams::{Shape, WatchStream},
    target::{Kind, Target},
};

/// How many streams the watches are spread over.
const STREAMS: usize = 3;

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    /// After the current revision.
    Now,
    /// So many revisions back.
    Back(i64),
    /// So many revisions ahead.
    Ahead(i64),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Write(Op),
    Create {
        stream: usize,
        start: Start,
        request: pb::WatchCreateRequest,
    },
    /// Cancels one of the stream's watches.
    Cancel {
        stream: usize,
        which: usize,
    },
    /// Compacts so many revisions back.
    Compact {
        back: i64,
    },
}

fn generate(seed: u64, length: usize) -> Vec<Step> {
    let mut generator = Generator::new(seed);
    let grants = (1..=4).map(|id| Step::Write(Op::Grant(pb::LeaseGrantRequest { id, ttl: 10_000 })));
    grants.chain((0..length).map(|_| step(&mut generator))).collect()
}

fn step(generator: &mut Generator) -> Step {
    let stream = usize::try_from(generator.below(STREAMS as i64)).unwrap_or_default();
    match generator.below(100) {
        0..75 => Step::Write(generator.write()),
        75..95 => {
            let (key, range_end) = generator.key_and_end();
            let filters = if generator.percent(20) { vec![i32::from(generator.percent(50))] } else { vec![] };
            let start = match generator.below(10) {
                0..5 => Start::Now,
                5..9 => Start::Back(generator.below(30)),
                _ => Start::Ahead(1 + generator.below(5)),
            };
            let (prev_kv, fragment) = (generator.percent(40), generator.percent(20));
            let request = pb::WatchCreateRequest { key, range_end, filters, prev_kv, fragment, ..Default::default() };
            Step::Create { stream, start, request }
        }
        95..98 => Step::Cancel { stream, which: usize::try_from(generator.below(8)).unwrap_or_default() },
        _ => Step::Compact { back: generator.below(20) },
    }
}

/// Runs the program of a seed; the text of the failure, if there is one.
pub async fn check(kind: Kind, seed: u64, length: usize) -> anyhow::Result<Option<String>> {
    let program = generate(seed, length);
    let (reference, target) = tokio::join!(run(Kind::REFERENCE, &program), run(kind, &program));
    let found = differences(&reference?, &target?);
    Ok((!found.is_empty()).then(|| {
        let list: Vec<String> = found.iter().take(12).map(|difference| format!("\n  {difference}")).collect();
        format!(
            "seed {seed} on {kind}: {} differences{}\nagain: SEED={seed} cargo test -p forebay-conformance watches\n",
            found.len(),
            list.concat()
        )
    }))
}

/// What every watch of every stream saw.
async fn run(kind: Kind, program: &[Step]) -> anyhow::Result<Value> {
    let target = Target::start(kind, &[]).await?;
    let mut session = Session::open(&target).await?;
    let mut streams: Vec<(WatchStream, BTreeMap<i64, Shape>)> =
        (0..STREAMS).map(|_| (session.watch(), BTreeMap::new())).collect();
    for step in program {
        run_step(&mut session, &mut streams, step).await?;
    }
    // Enough revisions for every watch that starts ahead of the present, and one that all are asked to reach.
    for n in 0..8 {
        session.put(put("tail", format!("{n}"))).await;
    }
    let last = session.revision().await?;
    let mut trees = Vec::new();
    for (stream, shapes) in &mut streams {
        // A watch that a compaction has ended silences progress until it is cancelled, and may be told late.
        stream.settle().await;
        let ended: Vec<i64> = stream
            .seen
            .iter()
            .filter(|seen| seen.canceled && seen.compact_revision != 0)
            .map(|seen| seen.watch_id)
            .collect();
        for watch_id in ended {
            stream.cancel(watch_id).await;
        }
        if !shapes.is_empty() {
            stream.barrier(last).await;
        }
        trees
            .push(stream.tree_by(&session.names, |watch_id| shapes.get(&watch_id).copied().unwrap_or(Shape::Messages)));
    }
    Ok(json!({ "streams": trees, "last revision": last }))
}

async fn run_step(
    session: &mut Session,
    streams: &mut [(WatchStream, BTreeMap<i64, Shape>)],
    step: &Step,
) -> anyhow::Result<()> {
    match step {
        Step::Write(op) => op.send(session).await,
        Step::Create { stream, start, request } => {
            let current = session.revision().await?;
            let start_revision = match start {
                Start::Now => 0,
                Start::Back(revisions) => (current - revisions).max(1),
                Start::Ahead(revisions) => current + revisions,
            };
            let (stream, shapes) = &mut streams[*stream];
            let request = pb::WatchCreateRequest { start_revision, ..request.clone() };
            let created = stream.create(request).await.context("a watch is answered")?;
            let shape = if start_revision == 0 { Shape::Messages } else { Shape::Events };
            if !created.canceled {
                shapes.insert(created.watch_id, shape);
            }
        }
        Step::Cancel { stream, which } => {
            let (stream, shapes) = &mut streams[*stream];
            // Whether events still come before the cancel is chance, unless all have come.
            stream.settle().await;
            let live = |watch_id: &i64| !stream.seen.iter().any(|seen| seen.watch_id == *watch_id && seen.canceled);
            let chosen = shapes.keys().copied().filter(live).nth(*which);
            if let Some(watch_id) = chosen {
                stream.cancel(watch_id).await;
            }
        }
        Step::Compact { back } => {
            // A watch that is still catching up may or may not be overtaken, so none is.
            for (stream, _) in streams.iter_mut() {
                stream.settle().await;
            }
            let revision = session.revision().await? - back;
            session.compact(pb::CompactionRequest { revision, physical: true }).await;
        }
    }
    Ok(())
}
