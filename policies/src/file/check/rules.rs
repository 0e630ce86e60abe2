//! Flow rules: those that can never match, and limits that let nothing through.

use super::{Findings, Place, name, overlap, unique};
use crate::{
    Limits, Match,
    builtin::{CATCH_ALL, EXEMPT},
    file::{Mode, OnLimit, RuleSpec, Spec},
    suggest,
};

pub(super) fn check(spec: &Spec, place: &Place, findings: &mut Findings) {
    let rules = &spec.flow_rules;
    unique(rules.iter().map(|rule| rule.name.as_str()), place, findings);
    for (at, rule) in rules.iter().enumerate() {
        let place = place.index(at);
        name(&rule.name, &place, findings);
        level(spec, rule, &place, findings);
        matches(&rule.matches, &place.key("match"), findings);
        if let Some(own) = &rule.limits {
            limits(own, &place.key("limits"), findings);
        }
        if let Some(total) = &rule.total {
            limits(total, &place.key("total"), findings);
        }
        if let (Some(own), Some(total)) = (&rule.limits, &rule.total) {
            below(own, total, &place.key("limits"), findings);
        }
        let bounds_objects = |limits: &Option<Limits>| limits.as_ref().is_some_and(|limits| limits.objects.is_some());
        if rule.on_limit == OnLimit::Paginate && !bounds_objects(&rule.limits) && !bounds_objects(&rule.total) {
            findings.warn(&place.key("onLimit"), "Paginate is about limits of objects, and the rule has none");
        }
        if !(1..=10_000).contains(&rule.matching_precedence) {
            findings.error(&place.key("matchingPrecedence"), "matchingPrecedence is 1 to 10000");
        }
        if let Some(twin) = rules[..at].iter().find(|other| other.matching_precedence == rule.matching_precedence) {
            findings.error(
                &place.key("matchingPrecedence"),
                format!("rule {:?} has the same, so it is not said which of them is asked first", twin.name),
            );
        }
        // Rules in Shadow mode let the search go on, and hide nothing but each other.
        let hidden_by = rules.iter().filter(|earlier| {
            earlier.matching_precedence < rule.matching_precedence
                && (earlier.mode == Mode::Enforce || rule.mode == Mode::Shadow)
        });
        if let Some(earlier) = hidden_by.into_iter().find(|earlier| overlap::covers(&earlier.matches, &rule.matches)) {
            findings
                .warn(
                    &place,
                    format!("never reached: rule {:?}, which is asked first, matches all of it", earlier.name),
                )
                .hint("give it a lower matchingPrecedence");
        }
    }
}

fn level(spec: &Spec, rule: &RuleSpec, place: &Place, findings: &mut Findings) {
    let names = || spec.priority_levels.iter().map(|level| level.name.as_str()).chain([EXEMPT, CATCH_ALL]);
    let asked = rule.priority_level.as_str();
    if names().any(|name| name == asked) {
        return;
    }
    let hint = match suggest::nearest(asked, names()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there is {}", names().collect::<Vec<_>>().join(", ")),
    };
    findings.error(&place.key("priorityLevel"), format!("no level is called {asked:?}")).hint(hint);
}

fn matches(matches: &Match, place: &Place, findings: &mut Findings) {
    let reserved = |at: &usize| matches.rpcs[*at].is_reserved();
    let found: Vec<usize> = (0..matches.rpcs.len()).filter(reserved).collect();
    for at in &found {
        let text =
            format!("{} is in the hands of the rules in every policy, and never reaches this one", matches.rpcs[*at]);
        let place = place.key("rpcs").index(*at);
        if found.len() == matches.rpcs.len() {
            findings.error(&place, format!("{text}: the rule is about nothing"));
        } else {
            findings.warn(&place, text);
        }
    }
    if matches.min_objects.is_some_and(|least| least.0 > 0)
        && !matches.rpcs.is_empty()
        && !matches.rpcs.iter().any(|rpc| rpc.answers_objects())
    {
        findings
            .error(&place.key("minObjects"), "none of the rule's methods answers with objects: it is about nothing");
    }
    for (key, prefixes) in [("keys", &matches.keys), ("touching", &matches.touching)] {
        for (at, _) in prefixes.iter().enumerate().filter(|(_, prefix)| prefix.is_empty()) {
            findings.warn(&place.key(key).index(at), "an empty prefix is every key");
        }
        if !prefixes.is_empty() && !matches.rpcs.is_empty() && !matches.rpcs.iter().any(|rpc| rpc.names_keys()) {
            findings.error(&place.key(key), "none of the rule's methods names keys: it is about nothing");
        }
    }
    if !matches.keys.is_empty() && !matches.touching.is_empty() {
        let apart =
            |key: &String| !matches.touching.iter().any(|other| key.starts_with(other) || other.starts_with(key));
        if matches.keys.iter().all(apart) {
            findings
                .error(&place.key("touching"), "keys and touching have nothing in common: the rule is about nothing");
        }
    }
}

fn limits(limits: &Limits, place: &Place, findings: &mut Findings) {
    if limits.is_empty() {
        findings.warn(place, "nothing is limited");
    }
    let zero = [
        ("concurrency", limits.concurrency == Some(0)),
        ("watches", limits.watches == Some(0)),
        ("streams", limits.streams == Some(0)),
        ("ops", limits.ops == Some(0)),
        ("burst", limits.burst.is_some_and(|burst| burst.0 == 0)),
        ("loadBurst", limits.load_burst.is_some_and(|burst| burst.0 == 0)),
        ("requestBytes", limits.request_bytes.is_some_and(|bytes| bytes.0 == 0)),
    ];
    for (key, _) in zero.iter().filter(|(_, zero)| *zero) {
        findings.error(&place.key(key), format!("{key} of 0 lets nothing through: whom the rule matches would starve"));
    }
    for (burst, set, rate, rated) in [
        ("burst", limits.burst.is_some(), "requests", limits.requests.is_some()),
        ("loadBurst", limits.load_burst.is_some(), "load", limits.load.is_some()),
    ] {
        if set && !rated {
            findings.error(&place.key(burst), format!("a burst of what is not limited: {rate} is not set"));
        }
    }
}

/// Limits of one flow that are wider than those of all flows together.
fn below(own: &Limits, total: &Limits, place: &Place, findings: &mut Findings) {
    let wider = |own: Option<u64>, total: Option<u64>| own.zip(total).is_some_and(|(own, total)| own > total);
    let rate = |rate: Option<crate::units::Rate>| {
        rate.map(|rate| rate.amount().saturating_mul(3600 / rate.period().as_secs()))
    };
    let pairs = [
        ("requests", rate(own.requests), rate(total.requests)),
        ("load", rate(own.load), rate(total.load)),
        ("concurrency", own.concurrency.map(u64::from), total.concurrency.map(u64::from)),
        ("watches", own.watches.map(u64::from), total.watches.map(u64::from)),
        ("streams", own.streams.map(u64::from), total.streams.map(u64::from)),
    ];
    for (key, own, total) in pairs {
        if wider(own, total) {
            findings.warn(&place.key(key), format!("more than total.{key} for all flows together: never reached"));
        }
    }
}
