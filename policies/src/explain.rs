//! What would happen to a request, and why.

use std::{fmt, time::Duration};

use crate::{Class, Cost, Limits, Mode, OnLimit, Policy, Request, RuleId, units::Rate};

/// How a policy sees one request.
#[derive(Clone, Debug)]
pub struct Explanation<'p> {
    policy: &'p Policy,
    /// The client's name, and with what the request was compared.
    pub client: String,
    pub cost: Cost,
    pub class: Class,
    /// Every rule that was asked, in order, and the first condition that did not hold; none if it matched.
    pub asked: Vec<(RuleId, Option<&'static str>)>,
    /// Limits that no request like this can ever keep to.
    pub never: Vec<String>,
    /// Quotas that the request's keys fall under, with the prefix of the budget.
    pub quotas: Vec<(usize, Vec<u8>)>,
    /// The prefix that the client is confined to.
    pub namespace: Option<&'p str>,
}

/// Asks a policy about a request. Nothing is charged.
pub fn explain<'p>(policy: &'p Policy, request: &Request<'_>, cost: Cost) -> Explanation<'p> {
    let class = policy.classify(request, &cost);
    let rules = policy.rules[..=class.rule.0].iter().enumerate();
    let asked = rules.map(|(at, rule)| (RuleId(at), rule.matches.unmet(request, &cost))).collect();
    let rule = policy.rule(class.rule);
    let mut never = Vec::new();
    for (scope, limits) in [("limits", &rule.limits), ("total", &rule.total)] {
        let pages = rule.on_limit == OnLimit::Paginate;
        never.extend(too_large(limits, request, &cost, pages).map(|text| format!("{scope}.{text}")));
    }
    let writes = request.writes > 0 || request.rpc == crate::Rpc::Put;
    let budgets = policy.quotas.iter().enumerate().filter(|_| writes);
    let quotas = budgets.filter_map(|(at, quota)| Some((at, quota.budget(request.key())?.to_vec()))).collect();
    Explanation {
        policy,
        client: request.client.name(&policy.identity).to_string(),
        cost,
        class,
        asked,
        never,
        quotas,
        namespace: policy.namespace(request.client).map(|namespace| namespace.name.as_str()),
    }
}

fn too_large(limits: &Limits, request: &Request<'_>, cost: &Cost, pages: bool) -> impl Iterator<Item = String> {
    let bounds = [
        ("requestBytes", limits.request_bytes.map(|bytes| bytes.0), request.bytes),
        ("ops", limits.ops.map(u64::from), u64::from(request.ops)),
        ("objects", limits.objects.filter(|_| request.rpc.lists() && !pages).map(|objects| objects.0), cost.objects),
    ];
    let exceeded = bounds.into_iter().filter_map(|(name, bound, asked)| Some((name, bound?, asked)));
    exceeded
        .filter(|(_, bound, asked)| asked > bound)
        .map(|(name, bound, asked)| format!("{name} is {bound}, this has {asked}"))
}

impl Explanation<'_> {
    /// One word for what happens, before anything else has used the limits.
    pub fn verdict(&self) -> &'static str {
        let level = self.policy.level(self.class.level);
        match (self.never.is_empty(), level.exempt) {
            (false, _) => "refused",
            (true, true) => "passes, never waits",
            (true, false) => "passes, or waits for its turn",
        }
    }

    fn limits(&self, f: &mut fmt::Formatter<'_>, name: &str, limits: &Limits, of: &str) -> fmt::Result {
        if limits.is_empty() {
            return Ok(());
        }
        let rate = |rate: Option<Rate>, burst: Option<crate::units::Quantity>, per: u64, what: &str| {
            let rate = rate?;
            let burst = burst.map_or(rate.amount_per_second(), |burst| burst.0);
            let alone = if per == 0 { Duration::ZERO } else { rate.time_for(per) };
            Some(format!("{what} {rate}, {burst} at once (one like this every {alone:?})"))
        };
        let held = |bound: Option<u32>, what: &str| bound.map(|bound| format!("{bound} {what} at a time"));
        let parts = [
            rate(limits.requests, limits.burst, 1, "requests"),
            rate(limits.load, limits.load_burst, self.cost.load, "load"),
            held(limits.concurrency, "requests"),
            held(limits.watches, "watches"),
            held(limits.streams, "streams"),
            limits.request_bytes.map(|bytes| format!("{bytes} a request")),
            limits.ops.map(|ops| format!("{ops} operations a txn")),
            limits.objects.map(|objects| format!("{objects} objects a range")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        writeln!(f, "{name:<10}{} for {of}", parts.join("; "))
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (policy, cost) = (self.policy, &self.cost);
        let rule = policy.rule(self.class.rule);
        let level = policy.level(rule.level);
        writeln!(f, "verdict   {}", self.verdict())?;
        for never in &self.never {
            writeln!(f, "          {never}")?;
        }
        writeln!(f, "rule      {}", rule.name)?;
        let by: Vec<String> = rule.distinguish.iter().map(ToString::to_string).collect();
        let of = if by.is_empty() { "all of them".to_owned() } else { format!("each {}", by.join(" × ")) };
        writeln!(f, "client    {}", self.client)?;
        self.limits(f, "limits", &rule.limits, &of)?;
        self.limits(f, "total", &rule.total, "all of them")?;
        match level.exempt {
            true => writeln!(f, "level     {}: never waits", level.name)?,
            false => writeln!(
                f,
                "level     {}: {} of {} shares, waits up to {:?}",
                level.name,
                level.shares,
                policy.levels.iter().filter(|level| !level.exempt).map(|level| level.shares).sum::<u32>(),
                level.max_wait
            )?,
        }
        writeln!(
            f,
            "cost      {} objects, {} bytes of load, {}.{:03} units, {} seats",
            cost.objects,
            cost.load,
            cost.units / 1_000,
            cost.units % 1_000,
            cost.seats
        )?;
        for (quota, budget) in &self.quotas {
            let quota = &policy.quotas[*quota];
            let mode = if quota.mode == Mode::Shadow { " (counts only)" } else { "" };
            writeln!(f, "quota     {}{mode}: the budget of {}", quota.name, budget.escape_ascii())?;
        }
        if let Some(namespace) = self.namespace {
            writeln!(f, "namespace {namespace}")?;
        }
        if let Some((shadow, _)) = self.class.shadow {
            writeln!(f, "shadow    {} would act instead if it were enforced", policy.rule(shadow).name)?;
        }
        writeln!(f, "why")?;
        for (id, unmet) in &self.asked {
            let rule = policy.rule(*id);
            match unmet {
                Some(unmet) => writeln!(f, "  {}: no, its {unmet} do not match", rule.name)?,
                None if rule.mode == Mode::Shadow => writeln!(f, "  {}: matches, but counts only", rule.name)?,
                None => writeln!(f, "  {}: matches", rule.name)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Expected, Rpc, file, prefix};

    #[test]
    fn the_rule_the_level_the_cost_and_the_reasons_are_told() {
        let policy = file::load(include_str!("../testdata/full.yaml")).expect("a valid file").policy;
        let client = Client { common_name: Some("kube-apiserver".into()), ..Client::default() };
        let keys = [prefix::range(b"/registry/jobs/")];
        let request = Request { keys: &keys, ..Request::new(&client, Rpc::Range) };
        let cost = Cost::predict(&request, Some(Expected { objects: 320_186, object_bytes: 1_100 }));
        let text = explain(&policy, &request, cost).to_string();
        for line in [
            "verdict   passes, or waits for its turn",
            "rule      cronjob-lists",
            "client    CN=kube-apiserver",
            "total     requests 50/s, 50 at once (one like this every 20ms) for all of them",
            "level     workload: 30 of 125 shares, waits up to 1s",
            "cost      320186 objects, 352204600 bytes of load, 5694.526 units, 10 seats",
            "  forebay-admin: no, its subjects do not match",
            "  leases: no, its keys do not match",
            "  cronjob-lists: matches",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        assert!(text.contains("load 50MiB/s, 104857600 at once (one like this every 6.7"), "{text}");
    }

    #[test]
    fn what_can_never_pass_and_what_only_counts_is_told() {
        let policy = file::load(include_str!("../testdata/full.yaml")).expect("a valid file").policy;
        let client = Client { common_name: Some("kube-apiserver".into()), ..Client::default() };
        let keys = [prefix::range(b"/registry/jobs/")];
        let request = Request { keys: &keys, ..Request::new(&client, Rpc::Range) };
        let cost = Cost::predict(&request, Some(Expected { objects: 600_000, object_bytes: 1_100 }));
        assert_eq!(explain(&policy, &request, cost).verdict(), "passes, or waits for its turn", "in pages");
        let long = Request { bytes: 600 << 10, ..request };
        let explanation = explain(&policy, &long, cost);
        assert_eq!(explanation.verdict(), "refused");
        assert_eq!(explanation.never, ["limits.requestBytes is 524288, this has 614400"]);
        let keys = [forebay_proto::KeyRange::Key("/registry/health".into())];
        let health = Request { keys: &keys, ..Request::new(&client, Rpc::Range) };
        let cost = Cost::predict(&health, None);
        let text = explain(&policy, &health, cost).to_string();
        assert!(text.contains("shadow    health would act instead if it were enforced"), "{text}");
        assert!(text.contains("rule      default"), "{text}");
    }
}
