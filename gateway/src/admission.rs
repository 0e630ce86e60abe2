//! Admission: who may do how much to the upstream.
//!
//! Three layers share one [`Admission`]. [`Admit`] stands on top: it reads who asks for what, holds it
//! to the limits of its rule, and settles what it cost when its answer has passed. [`Lists`] and
//! [`Queue`] stand right before the upstream, below whatever can answer without it: large lists are
//! read in pages and shared, and everything takes a seat in fair order.
//!
//! The decisions are made in `forebay-policies`; here are the bytes, the clock and the tasks that
//! wait. In reading order: `scan` reads a request, `identity` its sender, `admit` is the layer,
//! `answers` what is said to who is not let in, `settle` the end of a call; then `queue` with `seats`,
//! and `lists` with `memory`.

mod admin;
mod admit;
mod answers;
mod busiest;
mod explained;
mod held;
mod identity;
mod lists;
mod loaded;
mod logins;
mod memory;
mod metrics;
mod namespace;
mod oneself;
mod pressure;
mod queue;
mod quotas;
mod recent;
mod reload;
mod responses;
mod scan;
mod seats;
mod settle;
mod shares;
mod tally;
mod tapped;
mod token;
mod watches;

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use forebay_policies::{
    Accounts, Charge, Class, Client, Cost, Expected, Limit, OnLimit, Policy, Request, Rpc, Sizes, Verdict, Watched,
    bucket::{Bucket, Pace},
    guesses::Guesses,
    heavy::{Accounting, Sums},
    prefix,
    units::Rate,
};
use forebay_proto::KeyRange;
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::{
    sync::{Notify, broadcast},
    time::{self, Instant},
};
use tonic::Code;

pub use self::admin::ADMIN;
pub(crate) use self::oneself::Oneself;
pub use self::reload::{PolicyError, PolicyFile};
pub use self::token::AdminToken;
pub(crate) use self::{admit::Admit, identity::OwnCall, lists::Lists, metrics::Metrics, queue::Queue, quotas::Quotas};
use self::{
    answers::Refusal,
    held::Held,
    identity::{Identities, TokenId},
    loaded::Loaded,
    logins::Logins,
    memory::Memory,
    pressure::Pressure,
    quotas::Budgets,
    scan::Asked,
};
use crate::{call::Handler, config::AdmissionConfig};

/// The longest a request waits to be let in. etcd's clients give up after five seconds, and their
/// next attempt costs more than this one's wait.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Rows of the accounts of who does what.
const ROWS: usize = 4096;
/// How long what is shown of them was collected.
const WINDOW: Duration = Duration::from_secs(10);
/// Prefixes of which counts and sizes are remembered.
const SIZES: usize = 20_000;
/// Requests that a slow onlooker may be behind.
const TAPPED: usize = 1024;
/// How deep a prefix is accounted: `/registry/pods/default/`.
const ACCOUNT_DEPTH: u8 = 4;
/// Lines of the log that tell of slow requests.
fn slow_lines() -> Pace {
    Pace { rate: Rate::per_second(10), burst: 50 }
}

/// What the layers share. Cheap to clone.
#[derive(Clone)]
pub struct Admission(Arc<Shared>);

struct Shared {
    /// The policy in force.
    loaded: ArcSwap<Loaded>,
    /// What every flow has used; outlives policies.
    accounts: Mutex<Accounts>,
    identities: Identities,
    /// Whose logins the upstream refused.
    guesses: Mutex<Guesses>,
    /// Who logs in just now.
    logins: Logins,
    sizes: Mutex<Sizes>,
    /// The watches that clients have open, wherever their events come from.
    watched: Mutex<Watched>,
    memory: Memory,
    budgets: Budgets,
    /// Quotas that the upstream holds.
    held: Held,
    /// Another policy is in force.
    policy_changed: Notify,
    /// A request that was counted among those of its rule has ended.
    ended: Notify,
    /// How many wait for that.
    queued: AtomicU64,
    /// What the upstream says of itself, and how long everybody waits.
    pressure: Pressure,
    /// Who brings it is the operator.
    admin_token: Option<AdminToken>,
    /// Who does what.
    accounting: Mutex<Accounting>,
    /// Every request, for those who look on.
    tap: broadcast::Sender<Arc<serde_json::Value>>,
    /// From here on a request is slow.
    slow: Duration,
    slow_lines: Mutex<Bucket>,
    metrics: Metrics,
}

/// What is known of a request that was let in; travels with it as an extension.
pub(crate) struct Admitted {
    pub(crate) client: Client,
    /// The token it came with.
    token: Option<TokenId>,
    pub(crate) rpc: Rpc,
    /// What was read of it; `None` if it could not be read.
    pub(crate) asked: Option<Asked>,
    /// Its message without the prefix.
    pub(crate) message: Bytes,
    pub(crate) class: Class,
    /// What it waited for.
    waits: Waits,
    /// What is known of the objects it names.
    pub(crate) expected: Option<Expected>,
    /// What it was predicted to cost.
    pub(crate) cost: Cost,
    /// The policy that let it in.
    pub(crate) policy: Arc<Loaded>,
}

impl Admitted {
    /// The key that names the request.
    fn key(&self) -> &[u8] {
        self.asked.as_ref().and_then(|asked| asked.keys.first()).map_or(&[], KeyRange::start)
    }
}

/// How long a request waited before it was forwarded.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// For its rate.
    rate: Duration,
    /// For a seat, in microseconds; for a list, those of all its pages.
    seat: AtomicU64,
}

impl Waits {
    fn new(rate: Duration) -> Waits {
        Waits { rate, seat: AtomicU64::new(0) }
    }

    fn seat(&self, waited: Duration) {
        self.seat.fetch_add(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn total(&self) -> Duration {
        self.rate + self.seat_waited()
    }

    fn seat_waited(&self) -> Duration {
        Duration::from_micros(self.seat.load(Ordering::Relaxed))
    }
}

/// Requests that wait at once for others of their rule to end. Each is woken by every end, so there must not be too many.
const QUEUED_MAX: u64 = 1_000;

/// A place among those who wait; given back when it is dropped.
struct Place<'a>(&'a AtomicU64);

impl Place<'_> {
    fn take(queued: &AtomicU64) -> Option<Place<'_>> {
        let place = Place(queued);
        (queued.fetch_add(1, Ordering::Relaxed) < QUEUED_MAX).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(config: AdmissionConfig, metrics: Metrics) -> Admission {
        let memory = Memory::new(config.memory_bytes);
        metrics.memory_limit.set(i64::try_from(memory.total()).unwrap_or(i64::MAX));
        Admission(Arc::new(Shared {
            loaded: ArcSwap::from_pointee(Loaded::new(config.policy, &metrics, None)),
            accounts: Mutex::new(Accounts::new()),
            identities: Identities::new(),
            guesses: Mutex::new(Guesses::new(RandomState::new(), seats::now(), 1)),
            logins: Logins::default(),
            sizes: Mutex::new(Sizes::new(SIZES)),
            watched: Mutex::default(),
            memory,
            budgets: Budgets::default(),
            held: Held::default(),
            policy_changed: Notify::new(),
            ended: Notify::new(),
            queued: AtomicU64::new(0),
            pressure: Pressure::new(),
            admin_token: config.admin_token,
            accounting: Mutex::new(Accounting::new(ROWS, rand::rng().random())),
            tap: broadcast::Sender::new(TAPPED),
            slow: config.slow_request,
            slow_lines: Mutex::new(Bucket::new(seats::now())),
            metrics,
        }))
    }

    /// Puts another policy in force, for every request from now on.
    pub fn set_policy(&self, policy: Policy) {
        let previous = self.0.loaded.load();
        self.0.loaded.store(Arc::new(Loaded::new(policy, &self.0.metrics, Some(&previous))));
        self.0.policy_changed.notify_one();
    }

    /// The layer that reads large lists in pages, if it is to.
    pub(crate) fn lists<S: Handler>(&self, inner: S, in_pages: bool) -> Lists<S> {
        Lists::new(inner, in_pages, self.0.memory.clone(), self.0.metrics.clone())
    }

    /// The layer that keeps quotas.
    pub(crate) fn quotas<S>(&self, inner: S) -> Quotas<S> {
        Quotas::new(inner, self.clone())
    }
}

impl Shared {
    /// Brings the gauges up to date.
    fn observe(&self) {
        let loaded = self.loaded.load();
        self.metrics.memory_held.set(i64::try_from(self.memory.held()).unwrap_or(i64::MAX));
        self.metrics.set_seats("read", loaded.reads.seats());
        self.metrics.set_seats("write", loaded.writes.seats());
    }

    /// Charges a request, which waits for others to end where their number is all that is against it and its rule lets
    /// requests wait.
    async fn charge(
        &self,
        loaded: &Loaded,
        class: &Class,
        request: &Request<'_>,
        cost: &Cost,
        patience: Duration,
    ) -> Charge {
        let rule = loaded.policy.rule(class.rule);
        let until = Instant::now() + patience.min(loaded.policy.level(class.level).max_wait);
        loop {
            let ended = self.ended.notified();
            let charge = self.accounts.lock().charge(seats::now(), &loaded.policy, class, request, cost, patience);
            match charge.verdict {
                Verdict::Refuse(refusal) if refusal.limit == Limit::Concurrency && rule.on_limit != OnLimit::Reject => {
                    let Some(_place) = Place::take(&self.queued) else { return charge };
                    if time::timeout_at(until, ended).await.is_err() {
                        return charge;
                    }
                }
                _ => return charge,
            }
        }
    }

    /// A request was refused before it was let in.
    fn refused(&self, policy: &Policy, request: &Request<'_>, refusal: &Refusal) {
        self.metrics.refused.with_label_values(&[&*refusal.rule, refusal.reason]).inc();
        let did = Sums { requests: 1, bytes: request.bytes, refused: 1, ..Sums::default() };
        self.count(policy, request, did, None);
    }

    /// Accounts for what a request did.
    fn count(&self, policy: &Policy, request: &Request<'_>, did: Sums, lasted: Option<Duration>) {
        let name = request.client.name(&policy.identity);
        let folder = prefix::folder(request.key(), ACCOUNT_DEPTH);
        self.accounting.lock().record(name, folder, request.rpc, did, lasted);
    }

    /// Shows a request to whoever taps.
    fn show(&self, admitted: &Admitted, did: Sums, lasted: Duration, code: Code) {
        if self.tap.receiver_count() == 0 {
            return;
        }
        let event = tapped::event(admitted, did, lasted, code);
        // Nobody listens any more: then nobody misses it.
        let _ = self.tap.send(Arc::new(event));
    }

    /// Tells the log of a request that took long. Under overload all do, so only some are told.
    fn say_slow(&self, admitted: &Admitted, did: Sums, lasted: Duration, code: Code) {
        {
            let (mut told, now) = (self.slow_lines.lock(), seats::now());
            if !told.wait(now, slow_lines(), 1).is_zero() {
                return;
            }
            told.take(now, slow_lines(), 1);
        }
        let policy = &admitted.policy.policy;
        let milliseconds = |duration: Duration| duration.as_millis() as u64;
        tracing::warn!(
            client = %admitted.client.name(&policy.identity),
            rpc = %admitted.rpc,
            prefix = %prefix::folder(admitted.key(), ACCOUNT_DEPTH).escape_ascii(),
            rule = policy.rule(admitted.class.rule).name,
            took_ms = milliseconds(lasted),
            rate_wait_ms = milliseconds(admitted.waits.rate),
            seat_wait_ms = milliseconds(admitted.waits.seat_waited()),
            bytes = did.bytes,
            objects = did.objects,
            code = ?code,
            "slow request"
        );
    }

    /// A rule in Shadow mode would have refused.
    fn count_shadow(&self, policy: &Policy, refusal: Option<forebay_policies::Refusal>) {
        if let Some(refusal) = refusal {
            let rule = &policy.rule(refusal.rule).name;
            self.metrics.shadow_refused.with_label_values(&[rule, refusal.limit.name()]).inc();
        }
    }
}

/// How long a request may wait to be let in.
fn patience(deadline: Option<Instant>) -> Duration {
    let quarter = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) / 4);
    quarter.map_or(WAIT_MAX, |quarter| quarter.min(WAIT_MAX))
}
