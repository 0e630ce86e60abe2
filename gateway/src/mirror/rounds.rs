//! Freshness: rounds of quorum reads, each for everybody who waited when it began.
//!
//! A read that came while a round is under way must not use it: what the round returns may have been decided before the
//! read was sent. It waits for the next one, as etcd's own notifier of read indexes has it. So at any moment at most one
//! round of a kind is under way, and the upstream gets as many requests as fit one after another, however many reads
//! there are.
//!
//! Rounds are kept apart by identity, because the upstream judges the caller's token with them (see `probe`).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use tonic::Status;

use super::{
    caller::Caller,
    identity::Identity,
    messages::Headed,
    metrics::Metrics,
    probe::{Probe, Want, Wants},
    sight::{Setback, Sight},
};

/// How long the upstream may take; its own bound for a quorum read is 7 s.
const TIMEOUT: Duration = Duration::from_secs(5);

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// The rounds of a mirror; clones share them.
#[derive(Clone)]
pub(super) struct Rounds(Arc<Shared>);

struct Shared {
    caller: Caller,
    /// What a round reads when it asks for no range: a key that every user of the mirror may read.
    key: Bytes,
    sight: Arc<Sight>,
    /// Told of what contradicts the past, before anybody is told of the round.
    alarm: Box<dyn Fn(Setback) + Send + Sync>,
    metrics: Metrics,
    /// Those under way; a kind that has none is not here.
    groups: Mutex<HashMap<Kind, VecDeque<Batch>>>,
}

/// Reads that can share a round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    identity: Identity,
    serializable: bool,
    /// Whether they read the past: what is compacted fails a round, and is nothing to those who read the present.
    past: bool,
}

impl Kind {
    fn of(identity: &Identity, serializable: bool, want: &Want) -> Kind {
        Kind { identity: identity.clone(), serializable, past: want.revision > 0 }
    }
}

/// Who shares a round.
#[derive(Default)]
struct Batch {
    wants: Wants,
    waiting: Vec<oneshot::Sender<Result<i64, Status>>>,
}

impl Rounds {
    pub(super) fn new(
        caller: Caller,
        key: Bytes,
        sight: Arc<Sight>,
        alarm: impl Fn(Setback) + Send + Sync + 'static,
        metrics: Metrics,
    ) -> Rounds {
        let alarm = Box::new(alarm);
        Rounds(Arc::new(Shared { caller, key, sight, alarm, metrics, groups: Mutex::default() }))
    }

    /// The upstream's revision at some moment after this was called, if the upstream grants all that is wanted.
    ///
    /// Serializable rounds need no quorum; their revision is the answering member's. What the status says of others in
    /// the same round is not known: whoever is refused asks the upstream alone.
    pub(super) async fn join(&self, identity: &Identity, serializable: bool, want: &Want) -> Result<i64, Status> {
        let kind = Kind::of(identity, serializable, want);
        let answer = {
            let mut groups = self.0.groups.lock();
            let is_idle = !groups.contains_key(&kind);
            let batches = groups.entry(kind.clone()).or_default();
            if !batches.back_mut().is_some_and(|last| last.wants.add(want)) {
                let mut batch = Batch::default();
                assert!(batch.wants.add(want), "an empty round has room for one");
                batches.push_back(batch);
            }
            let (sender, answer) = oneshot::channel();
            batches.back_mut().expect("a batch was pushed if there was none").waiting.push(sender);
            if is_idle {
                tokio::spawn(run(Arc::clone(&self.0), kind));
            }
            answer
        };
        self.0.metrics.asked();
        answer.await.unwrap_or_else(|_| Err(Status::unavailable("the gateway is shutting down")))
    }

    /// As [`Rounds::join`], in a round with nobody else: a refusal is this caller's own.
    pub(super) async fn alone(&self, identity: &Identity, serializable: bool, want: &Want) -> Result<i64, Status> {
        let mut wants = Wants::default();
        assert!(wants.add(want), "an empty round has room for one");
        self.0.metrics.asked();
        self.0.ask(&Kind::of(identity, serializable, want), &wants).await
    }
}

/// Runs the rounds of a kind one after another until nobody waits.
async fn run(shared: Arc<Shared>, kind: Kind) {
    loop {
        let batch = {
            let mut groups = shared.groups.lock();
            match groups.get_mut(&kind).and_then(VecDeque::pop_front) {
                Some(batch) => batch,
                None => {
                    groups.remove(&kind);
                    return;
                }
            }
        };
        let answer = shared.ask(&kind, &batch.wants).await;
        for waiting in batch.waiting {
            // One that has gone away does not mind.
            let _ = waiting.send(answer.clone());
        }
    }
}

impl Shared {
    async fn ask(&self, kind: &Kind, wants: &Wants) -> Result<i64, Status> {
        let (before, began) = (self.sight.now(), Instant::now());
        let asked: Result<Headed, Status> = match wants.probe(&self.key, kind.serializable) {
            Probe::Range(range) => self.caller.unary(RANGE, &range, &kind.identity, TIMEOUT).await,
            Probe::Txn(txn) => self.caller.unary(TXN, &txn, &kind.identity, TIMEOUT).await,
        };
        self.metrics.round(began.elapsed());
        let header = asked?.header.ok_or_else(|| Status::internal("the upstream's answer has no header"))?;
        let sighted = match kind.serializable {
            true => self.sight.member(&header, &before),
            false => self.sight.quorum(&header, &before),
        };
        if let Err(setback) = sighted {
            (self.alarm)(setback);
            return Err(Status::unavailable(setback.to_string()));
        }
        Ok(header.revision)
    }
}
