//! Quotas of objects, in front of any etcd.
//!
//! Far from its limit a quota costs a count now and then. Near it, everything that may create an
//! object goes up inside a txn with a guard ([`guard`]): a key of ours for each budget, which every
//! such txn compares and writes. So the upstream itself puts the creates of all gateways in line, and
//! each of them knows the count that it adds to. The limit is met exactly, and after a crash there is
//! nothing to repair, since the count is that of the keys.
//!
//! "Near" begins at half of the limit, and for small limits at nothing ([`MARGIN`]): further away,
//! others would have to create more than that in the time that a count is believed ([`FRESH`]).
//! Who writes past the gateways is counted too, but not held back.
//!
//! Deletes, revokes and updates are never counted, so they pass when a quota is used up.

mod budget;
mod guard;

use futures::FutureExt as _;
use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_edge::{Body, Response, grpc};
use forebay_policies::{Mode, Quota, prefix};
use forebay_proto::KeyRange;
use parking_lot::Mutex;
use tokio::time::{self, Instant};

use self::budget::{Budget, Line, Turn};
use super::{
    Admission, Admitted,
    answers::{Refusal, What},
};
use crate::{
    call::{Call, Failure, Handler},
    methods::Method,
    replies,
};

/// How old a count may be far from the limit.
const FRESH: Duration = Duration::from_millis(100);
/// Objects that all gateways together cannot create while a count is fresh and writes are on their way.
const MARGIN: u64 = 5000;
/// How often a write is tried again because another gateway was faster. Each time, one of them got
/// further.
const ATTEMPTS: usize = 64;

/// The layer.
pub(crate) struct Quotas<S> {
    inner: S,
    admission: Admission,
}

/// The budgets that were asked for, by quota and prefix. Without one there is nothing to remember, so
/// those that nobody uses are dropped.
#[derive(Default)]
pub(super) struct Budgets(Mutex<HashMap<BudgetName, Arc<Budget>>>);

/// A quota's name and the prefix of one of its budgets.
type BudgetName = (Arc<str>, Bytes);

/// Budgets that are remembered before idle ones are looked for.
const BUDGETS_MAX: usize = 10_000;

impl Budgets {
    fn of(&self, quota: &Quota, key: &[u8], limit: u64) -> Arc<Budget> {
        let prefix = match quota.per {
            Some(depth) => prefix::folder(key, depth),
            None => &quota.prefix,
        };
        let name = (Arc::from(quota.name.as_str()), Bytes::copy_from_slice(prefix));
        let mut budgets = self.0.lock();
        if budgets.len() >= BUDGETS_MAX {
            budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        let budget = budgets.entry(name).or_insert_with(|| Arc::new(Budget::new(&quota.name, prefix, limit)));
        if budget.limit != limit {
            // Another policy, another limit; what was counted is counted again.
            *budget = Arc::new(Budget::new(&quota.name, prefix, limit));
        }
        Arc::clone(budget)
    }

    /// What was counted last, for an operator.
    pub(super) fn usage(&self) -> Vec<Usage> {
        let budgets = self.0.lock();
        let usage = budgets.iter().filter_map(|((quota, prefix), budget)| {
            let used = budget.known()?;
            let prefix = prefix.escape_ascii().to_string();
            Some(Usage { quota: Arc::clone(quota), prefix, resource: "objects", used, hard: budget.limit })
        });
        usage.collect()
    }
}

/// How full a budget is.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    pub(super) quota: Arc<str>,
    pub(super) prefix: String,
    /// What is counted, as policy files call it.
    pub(super) resource: &'static str,
    pub(super) used: u64,
    pub(super) hard: u64,
}

/// What a write would do to one budget.
struct Demand<'a> {
    quota: &'a Quota,
    budget: Arc<Budget>,
    /// The keys that are put, each once.
    keys: Vec<&'a Bytes>,
}

impl<S> Quotas<S> {
    pub(crate) fn new(inner: S, admission: Admission) -> Quotas<S> {
        Quotas { inner, admission }
    }

    /// The budgets that the write may use up, or the refusal of an object that is too large for any.
    fn demands<'a>(&self, admitted: &'a Admitted) -> Result<Vec<Demand<'a>>, Refusal> {
        let mut demands: Vec<Demand<'a>> = Vec::new();
        let Some(asked) = &admitted.asked else { return Ok(demands) };
        for quota in &admitted.policy.policy.quotas {
            if self.admission.0.held.holds(quota) {
                continue;
            }
            for put in &asked.puts {
                let KeyRange::Key(key) = &asked.keys[put.key] else { continue };
                if !key.starts_with(&quota.prefix) {
                    continue;
                }
                let bytes = (key.len() + put.value_bytes) as u64;
                if let Some(most) = quota.hard.object_bytes.filter(|most| bytes > *most) {
                    self.exceeded(quota, format!("an object of {bytes} bytes, and {most} are allowed"))?;
                }
                let Some(limit) = quota.hard.objects else { continue };
                let budget = self.admission.0.budgets.of(quota, key, limit);
                match demands.iter_mut().find(|demand| Arc::ptr_eq(&demand.budget, &budget)) {
                    Some(demand) if demand.keys.contains(&key) => {}
                    Some(demand) => demand.keys.push(key),
                    None => demands.push(Demand { quota, budget, keys: vec![key] }),
                }
            }
        }
        Ok(demands)
    }

    /// A quota does not allow something: a refusal, or a count if the quota only counts.
    fn exceeded(&self, quota: &Quota, what: String) -> Result<(), Refusal> {
        let metrics = &self.admission.0.metrics;
        if quota.mode == Mode::Shadow {
            metrics.shadow_refused.with_label_values(&[&quota.name, "quota"]).inc();
            return Ok(());
        }
        metrics.refused.with_label_values(&[quota.name.as_str(), "quota"]).inc();
        let text = format!("forebay: quota {}: {what} under {}", quota.name, quota.prefix.escape_ascii());
        Err(Refusal { rule: quota.name.as_str().into(), reason: "quota", what: What::Quota(text) })
    }
}

impl<S: Handler> Handler for Quotas<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        let admitted = call.request.extensions().get::<Arc<Admitted>>().filter(|admitted| {
            let writes = admitted.asked.as_ref().is_some_and(|asked| !asked.puts.is_empty());
            writes && !admitted.policy.policy.quotas.is_empty()
        });
        let Some(admitted) = admitted.cloned() else { return self.inner.handle(call).boxed().await };
        match self.demands(&admitted) {
            Err(refusal) => Ok(refusal.response()),
            Ok(demands) if demands.is_empty() => self.inner.handle(call).boxed().await,
            Ok(demands) => self.within(&demands, &admitted, call).await,
        }
    }
}

impl<S: Handler> Quotas<S> {
    /// Sends a write up if its budgets have room for it.
    async fn within(&self, demands: &[Demand<'_>], admitted: &Arc<Admitted>, call: Call) -> Result<Response, Failure> {
        let upstream = Helper {
            inner: &self.inner,
            headers: call.request.headers().clone(),
            admitted: Arc::clone(admitted),
            deadline: call.deadline,
        };
        let mut near = Vec::new();
        let mut flying = Vec::new();
        for demand in demands {
            let counted = match demand.budget.counted(FRESH) {
                Some(objects) => objects,
                None => match upstream.count(&demand.budget).await? {
                    Ok(objects) => demand.budget.count(objects),
                    Err(response) => return Ok(response),
                },
            };
            let limit = demand.budget.limit;
            if counted + demand.keys.len() as u64 + MARGIN.max(limit / 2) <= limit {
                flying.push(demand.budget.fly(demand.keys.len()));
            } else {
                near.push(demand);
            }
        }
        if near.is_empty() {
            let response = self.inner.handle(call).boxed().await;
            drop(flying);
            return response;
        }
        // In one order everywhere, so that two writes cannot wait for each other.
        near.sort_by_key(|demand| Arc::as_ptr(&demand.budget).addr());
        let patience = super::patience(call.deadline);
        let mut lines = Vec::new();
        for demand in &near {
            match time::timeout(patience, demand.budget.line.lock()).await {
                Ok(line) => lines.push(line),
                Err(_elapsed) => return Ok(busy(demand.quota).response()),
            }
        }
        for _ in 0..ATTEMPTS {
            if !near.iter().zip(&lines).all(|(demand, line)| line.has_room(demand.keys.len(), demand.budget.limit)) {
                let looked = match upstream.look(&near).await? {
                    Ok(looked) => looked,
                    Err(response) => return Ok(response),
                };
                for ((demand, line), found) in near.iter().zip(&mut lines).zip(looked) {
                    let created = demand.keys.len() as u64 - found.existing;
                    let (used, limit) = (found.turn.objects, demand.budget.limit);
                    **line = Line(Some(found.turn));
                    demand.budget.count(used);
                    if created > 0 && used + created > limit {
                        let text = format!("{used} of {limit} objects are used, and {created} more were asked for");
                        if let Err(refusal) = self.exceeded(demand.quota, text) {
                            return Ok(refusal.response());
                        }
                    }
                }
            }
            let turns: Vec<_> = (near.iter().zip(&lines))
                .map(|(demand, line)| (&*demand.budget, line.0.map_or(0, |turn| turn.mod_revision)))
                .collect();
            let guarded = guard::wrap(call.method, &admitted.message, &turns);
            let answered = upstream.call(Method::find(guard::TXN), guarded).await;
            let message = match answered.map(replies::unary)?.await? {
                Ok((message, _)) => message,
                Err(status) => return Ok(status_response(status)),
            };
            let answer = guard::unwrap(call.method, &message, near.len());
            match answer.ok_or_else(|| Failure::Broken("the upstream's answer is no txn's".into()))? {
                guard::Answer::Written(answer, revision) => {
                    for (demand, line) in near.iter().zip(&mut lines) {
                        demand.budget.count(line.written(revision, demand.keys.len()));
                    }
                    return Ok(grpc::reply(grpc::framed(&answer)));
                }
                guard::Answer::Overtaken(turns) => {
                    lines.iter_mut().zip(turns).for_each(|(line, turn)| **line = Line(Some(turn)));
                }
            }
        }
        Ok(busy(near[0].quota).response())
    }
}

/// Others were faster for too long.
fn busy(quota: &Quota) -> Refusal {
    Refusal { rule: quota.name.as_str().into(), reason: "quota-busy", what: What::Later(Duration::from_millis(500)) }
}

fn status_response(status: http::HeaderMap) -> Response {
    let mut response = grpc::respond(Body::empty());
    response.headers_mut().extend(status);
    response
}

/// Asks the upstream on behalf of a client, with what it may see.
struct Helper<'a, S> {
    inner: &'a S,
    headers: http::HeaderMap,
    admitted: Arc<Admitted>,
    deadline: Option<Instant>,
}

/// What a look at the upstream showed of one demand.
struct Found {
    turn: Turn,
    /// How many of the keys exist.
    existing: u64,
}

impl<S: Handler> Helper<'_, S> {
    async fn call(&self, method: &'static Method, frame: Bytes) -> Result<Response, Failure> {
        let mut request = http::Request::new(Body::full(frame));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = method.path.parse().expect("a method's path is a URI");
        *request.headers_mut() = self.headers.clone();
        request.extensions_mut().insert(Arc::clone(&self.admitted));
        self.inner.handle(Call { method, deadline: self.deadline, request: Box::new(request) }).boxed().await
    }

    /// Counts the objects of a budget. A refusal is told to the client: it would be told the same if
    /// it looked itself, and what cannot be counted cannot be allowed.
    async fn count(&self, budget: &Budget) -> Result<Result<u64, Response>, Failure> {
        let answered = self.call(Method::find(guard::RANGE), guard::count(budget)).await?;
        match replies::unary(answered).await? {
            Err(status) => Ok(Err(status_response(status))),
            Ok((message, _)) => {
                let counted = guard::counted(&message);
                counted.map(Ok).ok_or_else(|| Failure::Broken("the upstream's answer is no range".into()))
            }
        }
    }

    /// Counts, the turns, and which of the keys exist, all at one revision.
    async fn look(&self, demands: &[&Demand<'_>]) -> Result<Result<Vec<Found>, Response>, Failure> {
        let asked: Vec<_> = demands.iter().map(|demand| (&*demand.budget, &demand.keys[..])).collect();
        let answered = self.call(Method::find(guard::TXN), guard::look(&asked)).await?;
        let message = match replies::unary(answered).await? {
            Ok((message, _)) => message,
            Err(status) => return Ok(Err(status_response(status))),
        };
        let keys: Vec<_> = demands.iter().map(|demand| demand.keys.len()).collect();
        let found = guard::looked(&message, &keys);
        found.map(Ok).ok_or_else(|| Failure::Broken("the upstream's answer is no txn's".into()))
    }
}
