//! Priority levels: a level that could never serve anybody, or that nobody asks for.

use std::time::Duration;

use super::{Findings, Place, name, unique};
use crate::{
    builtin::{CATCH_ALL, EXEMPT},
    file::{LevelSpec, Spec},
};

/// Clients of etcd give up after this, unless told otherwise.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Each has its queues, which take memory.
const LEVELS_MAX: usize = 32;

pub(super) fn check(spec: &Spec, place: &Place, findings: &mut Findings) {
    let levels = &spec.priority_levels;
    if levels.len() > LEVELS_MAX {
        findings.error(place, format!("there may be {LEVELS_MAX} levels"));
    }
    unique(levels.iter().map(|level| level.name.as_str()), place, findings);
    for (at, level) in levels.iter().enumerate() {
        let place = place.index(at);
        name(&level.name, &place, findings);
        one(level, &place, findings);
        let used = spec.flow_rules.iter().any(|rule| rule.priority_level == level.name);
        if !used && level.name != EXEMPT && level.name != CATCH_ALL {
            findings.warn(&place, format!("no rule sends requests to level {:?}", level.name));
        }
    }
}

fn one(level: &LevelSpec, place: &Place, findings: &mut Findings) {
    if level.name == EXEMPT && !level.exempt {
        findings
            .error(place, "the level exempt has to be exempt: what must never wait is sent there")
            .hint("write exempt: true");
    }
    if level.name == CATCH_ALL && level.exempt {
        findings.error(&place.key("exempt"), "the level catch-all takes what no rule matches, and cannot be exempt");
    }
    if level.exempt {
        let set = [
            ("shares", level.shares.is_some()),
            ("lendable", level.lendable.is_some()),
            ("borrowing", level.borrowing.is_some()),
            ("queues", level.queues.is_some()),
            ("handSize", level.hand_size.is_some()),
            ("queueLength", level.queue_length.is_some()),
            ("maxWait", level.max_wait.is_some()),
            ("codel", level.codel.is_some()),
        ];
        for (key, _) in set.iter().filter(|(_, set)| *set) {
            findings.error(&place.key(key), format!("requests of an exempt level never wait, so {key} contradicts it"));
        }
        return;
    }
    let bounds = [
        ("shares", level.shares, 100_000, "gives the level nothing of the upstream: its requests would starve"),
        ("queues", level.queues, 1_024, "leaves no place to wait"),
        ("handSize", level.hand_size, 8, "deals no queue to any flow"),
        ("queueLength", level.queue_length, 10_000, "lets nobody wait"),
    ];
    for (key, value, most, why) in bounds {
        if value == Some(0) {
            findings.error(&place.key(key), format!("{key} of 0 {why}"));
        } else if value.is_some_and(|value| value > most) {
            findings.error(&place.key(key), format!("{key} may be {most} at most"));
        }
    }
    let queues = level.queues.unwrap_or(64);
    if level.hand_size.is_some_and(|hand| hand > queues) {
        findings.error(&place.key("handSize"), format!("a hand cannot hold more queues than there are, {queues}"));
    }
    // A hand is dealt from 64 bits; with more than these, some hands would never be dealt.
    if u64::from(queues).checked_pow(level.hand_size.unwrap_or(0)).is_none() {
        findings
            .error(&place.key("handSize"), "so many queues and such a hand need more than 64 bits of a flow's hash");
    }
    if let Some(wait) = level.max_wait {
        if wait.0.is_zero() {
            findings.warn(&place.key("maxWait"), "nobody waits: what finds no seat is refused at once");
        } else if wait.0 >= CLIENT_TIMEOUT {
            findings
                .warn(&place.key("maxWait"), "clients of etcd give up after 5s and ask again")
                .hint("wait 2s or less");
        }
    }
    if let Some(codel) = level.codel {
        let place = place.key("codel");
        if codel.target.0.is_zero() {
            findings.error(&place.key("target"), "every wait would be overload");
        }
        if codel.interval.0 < codel.target.0 {
            findings.error(&place.key("interval"), "the interval is shorter than the target, which it is to watch");
        }
    }
}
