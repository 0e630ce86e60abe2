//! The limits of rules, for each of their flows and for each rule as a whole.
//!
//! A request is charged at every limit that applies to it or at none. What it is charged is a prediction;
//! [`Accounts::settle`] corrects it and frees what was held.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    Class, Cost, Kind, Limits, OnLimit, Policy, Request, Rpc, Rule, RuleId, Scope,
    bucket::{Bucket, Pace},
    units::{Quantity, Rate},
};

/// Which limit refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    Requests,
    Load,
    Concurrency,
    Watches,
    Streams,
    RequestBytes,
    Ops,
    Objects,
}

impl Limit {
    /// The key in the policy file.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Requests => "requests",
            Limit::Load => "load",
            Limit::Concurrency => "concurrency",
            Limit::Watches => "watches",
            Limit::Streams => "streams",
            Limit::RequestBytes => "requestBytes",
            Limit::Ops => "ops",
            Limit::Objects => "objects",
        }
    }
}

/// Why a request does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub rule: RuleId,
    pub limit: Limit,
    /// When it may be worth to try again; `None` if the request itself is too large.
    pub retry_after: Option<Duration>,
}

/// What the limits say to a request.
#[derive(Debug)]
pub struct Charge {
    pub verdict: Verdict,
    /// What a rule in Shadow mode would have done.
    pub shadow: Option<Refusal>,
}

/// Whether a request passes.
#[derive(Debug)]
pub enum Verdict {
    /// It does, once so much time has passed; most often none has to.
    Pass(Duration, Receipt),
    Refuse(Refusal),
}

/// What a request was charged. To be given back with [`Accounts::settle`] exactly once, whatever became of it.
#[derive(Debug)]
#[must_use = "what a request holds is held until it is settled"]
pub struct Receipt {
    accounts: Charged,
    /// The accounts of the rule in Shadow mode.
    shadow: Charged,
    load: u64,
    occupies: Limit,
}

/// The accounts that a request was charged at: its flow's and its rule's.
type Charged = [Option<Key>; 2];
/// [`Rule::key`] and a flow. Neither changes when a policy is loaded anew, so accounts and receipts outlive it.
type Key = (u64, u64);

/// How many flows have an account of their own. The accounts of idle flows are dropped; when all are busy, further
/// flows share one account per rule, so that making up names gains nobody anything.
const FLOWS_MAX: usize = 100_000;
/// The flow that stands for a rule as a whole.
const TOTAL: u64 = 0;
/// The flow of which all are part that found no account of their own.
const SHARED: u64 = 1;

/// Retry when a running request may have ended: there is no way to know when one will.
const RETRY_OCCUPIED: Duration = Duration::from_secs(1);

/// Which part of the rates of a rule is this gateway's, if its limits are those of several: millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// Everything.
    pub const WHOLE: Share = Share(1_000_000);
}

/// Every account that is not as good as new.
#[derive(Debug, Default)]
pub struct Accounts {
    accounts: HashMap<Key, Account>,
    /// By [`Rule::key`], for rules whose limits are divided.
    shares: HashMap<u64, Share>,
    /// What was asked for under these rules since [`Accounts::take_asked`]: requests, or load if that is what they limit.
    asked: HashMap<u64, u64>,
    /// Charges since idle accounts were dropped.
    charges: usize,
}

/// What a flow has used of its limits.
#[derive(Debug)]
struct Account {
    requests: Bucket,
    load: Bucket,
    running: u32,
    watches: u32,
    streams: u32,
}

/// A request that asks to pass.
struct Demand<'a> {
    now: Instant,
    request: &'a Request<'a>,
    cost: &'a Cost,
    occupies: Limit,
    patience: Duration,
    /// Whether a range over the limit of objects is served in pages.
    pages: bool,
    /// Of the rates.
    share: Share,
}

impl Accounts {
    /// No flow has used anything.
    pub fn new() -> Accounts {
        Accounts::default()
    }

    /// Charges a request, and lets it wait up to `patience` for a rate where its rule lets requests wait.
    ///
    /// A watch is charged when it is created, and its stream, a request without keys, when it is opened.
    pub fn charge(
        &mut self,
        now: Instant,
        policy: &Policy,
        class: &Class,
        request: &Request<'_>,
        cost: &Cost,
        patience: Duration,
    ) -> Charge {
        // Before anything else: who is refused for want of an account must not be what keeps accounts from being dropped.
        self.sweep(now);
        let occupies = match (request.rpc, request.rpc.kind()) {
            (Rpc::Watch, _) if !request.keys.is_empty() => Limit::Watches,
            (_, Kind::Stream) => Limit::Streams,
            _ => Limit::Concurrency,
        };
        let rule = policy.rule(class.rule);
        if rule.scope == Scope::Cluster {
            let limits_requests = rule.limits.requests.or(rule.total.requests).is_some();
            *self.asked.entry(rule.key).or_default() += if limits_requests { 1 } else { cost.load };
        }
        let demand = Demand { now, request, cost, occupies, patience, pages: false, share: Share::WHOLE };
        let verdict = self.weigh(&demand, class.rule, policy.rule(class.rule), class.flow);
        let shadow = class.shadow.map(|(rule, flow)| (rule, flow, self.weigh(&demand, rule, policy.rule(rule), flow)));
        let refused_by_shadow = shadow.as_ref().and_then(|(_, _, verdict)| verdict.as_ref().err().copied());
        let verdict = match verdict {
            Err(refusal) => Verdict::Refuse(refusal),
            Ok(wait) => {
                let accounts = self.take(&demand, policy.rule(class.rule), class.flow);
                // What the shadow would have refused is no part of its accounts.
                let shadow = match shadow {
                    Some((rule, flow, Ok(_))) => self.take(&demand, policy.rule(rule), flow),
                    _ => [None; 2],
                };
                Verdict::Pass(wait, Receipt { accounts, shadow, load: cost.load, occupies })
            }
        };
        Charge { verdict, shadow: refused_by_shadow }
    }

    /// Corrects what a request was charged to the load it was, and frees what it held. A request that was never
    /// forwarded has a load of 0.
    pub fn settle(&mut self, now: Instant, policy: &Policy, receipt: Receipt, load: u64) {
        for key in receipt.accounts.into_iter().chain(receipt.shadow).flatten() {
            let rule = policy.rules.iter().find(|rule| rule.key == key.0);
            let share = rule.map_or(Share::WHOLE, |rule| self.share(rule));
            let Some(account) = self.accounts.get_mut(&key) else { continue };
            // A rule that is gone since has nothing to correct.
            if let Some(rule) = rule {
                let limits = if key.1 == TOTAL { &rule.total } else { &rule.limits };
                if let Some(pace) = limits.load_pace(share) {
                    account.load.settle(now, pace, receipt.load, load);
                }
            }
            let occupied = account.occupied(receipt.occupies);
            *occupied = occupied.saturating_sub(1);
        }
    }

    /// Divides the rates of a rule with others.
    pub fn set_share(&mut self, rule: &Rule, share: Share) {
        self.shares.insert(rule.key, share);
    }

    /// How much was asked for since the last time, by [`Rule::key`], under rules whose limits are divided.
    pub fn take_asked(&mut self) -> HashMap<u64, u64> {
        std::mem::take(&mut self.asked)
    }

    fn share(&self, rule: &Rule) -> Share {
        match rule.scope {
            Scope::Gateway => Share::WHOLE,
            Scope::Cluster => self.shares.get(&rule.key).copied().unwrap_or(Share::WHOLE),
        }
    }

    /// What a flow of a rule may still take at once: requests and load, where they are limited.
    pub fn left(&self, now: Instant, policy: &Policy, rule: RuleId, flow: u64) -> (Option<i64>, Option<i64>) {
        let rule = policy.rule(rule);
        let (limits, share) = (&rule.limits, self.share(rule));
        let account = self.accounts.get(&(rule.key, self.account_of(rule, flow)));
        let level = |pace: Option<Pace>, bucket: fn(&Account) -> &Bucket| {
            let fresh = Bucket::new(now);
            pace.map(|pace| account.map_or(&fresh, bucket).level(now, pace))
        };
        (
            level(limits.requests_pace(share), |account| &account.requests),
            level(limits.load_pace(share), |account| &account.load),
        )
    }

    /// How long the request has to wait before it may pass, or what refuses it.
    fn weigh(&self, demand: &Demand<'_>, id: RuleId, rule: &Rule, flow: u64) -> Result<Duration, Refusal> {
        let (pages, share) = (rule.on_limit == OnLimit::Paginate, self.share(rule));
        let demand = &Demand { pages, share, ..*demand };
        let flow_limits = demand.weigh(&rule.limits, self.accounts.get(&(rule.key, self.account_of(rule, flow))));
        let total = demand.weigh(&rule.total, self.accounts.get(&(rule.key, TOTAL)));
        let refuse = |(limit, retry_after)| Refusal { rule: id, limit, retry_after };
        let (wait, limit) = flow_limits.map_err(refuse)?.max(total.map_err(refuse)?);
        let patience = if rule.on_limit == OnLimit::Reject { Duration::ZERO } else { demand.patience };
        if wait > patience { Err(refuse((limit, Some(wait)))) } else { Ok(wait) }
    }

    /// Charges both accounts of a rule.
    fn take(&mut self, demand: &Demand<'_>, rule: &Rule, flow: u64) -> Charged {
        let own = (!rule.limits.is_empty()).then(|| (rule.key, self.account_of(rule, flow)));
        let total = (!rule.total.is_empty()).then_some((rule.key, TOTAL));
        let share = self.share(rule);
        for (key, limits) in [(own, &rule.limits), (total, &rule.total)] {
            let Some(key) = key else { continue };
            let account = self.accounts.entry(key).or_insert_with(|| Account::new(demand.now));
            if let Some(pace) = limits.requests_pace(share) {
                account.requests.take(demand.now, pace, 1);
            }
            if let Some(pace) = limits.load_pace(share) {
                account.load.take(demand.now, pace, demand.cost.load);
            }
            *account.occupied(demand.occupies) += 1;
        }
        [own, total]
    }

    /// The flow under which a flow is accounted.
    fn account_of(&self, rule: &Rule, flow: u64) -> u64 {
        let has_room = self.accounts.len() < FLOWS_MAX || self.accounts.contains_key(&(rule.key, flow));
        if has_room && flow > SHARED { flow } else { SHARED }
    }

    /// Drops accounts that a new one would equal, once in as many charges as there are accounts.
    fn sweep(&mut self, now: Instant) {
        self.charges += 1;
        if self.charges >= self.accounts.len().max(1024) {
            self.accounts.retain(|_, account| !account.is_idle(now));
            self.charges = 0;
        }
    }
}

impl Demand<'_> {
    /// The longest wait that these limits ask for, and which of them does; or the one that refuses.
    fn weigh(
        &self,
        limits: &Limits,
        account: Option<&Account>,
    ) -> Result<(Duration, Limit), (Limit, Option<Duration>)> {
        let too_many = |bound: Option<u64>, asked: u64| bound.is_some_and(|bound| asked > bound);
        if too_many(limits.request_bytes.map(|bytes| bytes.0), self.request.bytes) {
            return Err((Limit::RequestBytes, None));
        }
        if too_many(limits.ops.map(u64::from), u64::from(self.request.ops)) {
            return Err((Limit::Ops, None));
        }
        if self.request.rpc.lists()
            && !self.pages
            && too_many(limits.objects.map(|objects| objects.0), self.cost.objects)
        {
            return Err((Limit::Objects, None));
        }
        let fresh;
        let account = match account {
            Some(account) => account,
            None => {
                fresh = Account::new(self.now);
                &fresh
            }
        };
        if limits.bound(self.occupies).is_some_and(|bound| account.occupies(self.occupies) >= bound) {
            return Err((self.occupies, Some(RETRY_OCCUPIED)));
        }
        let wait = |bucket: &Bucket, pace: Option<Pace>, cost| {
            pace.map_or(Duration::ZERO, |pace| bucket.wait(self.now, pace, cost))
        };
        let requests = wait(&account.requests, limits.requests_pace(self.share), 1);
        let load = wait(&account.load, limits.load_pace(self.share), self.cost.load);
        Ok(if load > requests { (load, Limit::Load) } else { (requests, Limit::Requests) })
    }
}

impl Account {
    fn new(now: Instant) -> Account {
        Account { requests: Bucket::new(now), load: Bucket::new(now), running: 0, watches: 0, streams: 0 }
    }

    fn occupies(&self, limit: Limit) -> u32 {
        match limit {
            Limit::Watches => self.watches,
            Limit::Streams => self.streams,
            _ => self.running,
        }
    }

    fn occupied(&mut self, limit: Limit) -> &mut u32 {
        match limit {
            Limit::Watches => &mut self.watches,
            Limit::Streams => &mut self.streams,
            _ => &mut self.running,
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        let free = self.running == 0 && self.watches == 0 && self.streams == 0;
        free && self.requests.is_full(now) && self.load.is_full(now)
    }
}

impl Limits {
    fn requests_pace(&self, share: Share) -> Option<Pace> {
        pace(self.requests, self.burst, share)
    }

    fn load_pace(&self, share: Share) -> Option<Pace> {
        pace(self.load, self.load_burst, share)
    }

    fn bound(&self, limit: Limit) -> Option<u32> {
        match limit {
            Limit::Watches => self.watches,
            Limit::Streams => self.streams,
            _ => self.concurrency,
        }
    }
}

fn pace(rate: Option<Rate>, burst: Option<Quantity>, Share(millionths): Share) -> Option<Pace> {
    let rate = rate?;
    let burst = u128::from(burst.map_or(rate.amount_per_second(), |burst| burst.0));
    let burst = u64::try_from(burst * u128::from(millionths) / 1_000_000).unwrap_or(u64::MAX);
    Some(Pace { rate: rate.part(millionths), burst: burst.max(1) })
}

#[cfg(test)]
mod tests;
