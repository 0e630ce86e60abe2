//! Whether one match leaves nothing for another.

use crate::{Match, Rpc, Subject};

/// Whether every request that `inner` holds for is one that `outer` holds for. May say no where it is so, and never
/// yes where it is not.
pub(super) fn covers(outer: &Match, inner: &Match) -> bool {
    covers_subjects(&outer.subjects, &inner.subjects)
        && covers_rpcs(&outer.rpcs, &inner.rpcs)
        && covers_prefixes(&outer.keys, &inner.keys)
        && covers_touching(&outer.touching, inner)
        && outer.min_objects.map_or(0, |least| least.0) <= inner.min_objects.map_or(0, |least| least.0)
        && outer.min_bytes.map_or(0, |least| least.0) <= inner.min_bytes.map_or(0, |least| least.0)
}

fn covers_subjects(outer: &[Subject], inner: &[Subject]) -> bool {
    let all = outer.is_empty() || outer.contains(&Subject::Everybody);
    all || !inner.is_empty() && inner.iter().all(|subject| outer.contains(subject))
}

fn covers_rpcs(outer: &[Rpc], inner: &[Rpc]) -> bool {
    outer.is_empty() || !inner.is_empty() && inner.iter().all(|rpc| outer.contains(rpc))
}

fn covers_prefixes(outer: &[String], inner: &[String]) -> bool {
    let under = |key: &String| outer.iter().any(|prefix| key.starts_with(prefix.as_str()));
    outer.is_empty() || !inner.is_empty() && inner.iter().all(under)
}

/// What lies under some prefixes touches them; what touches a prefix touches what is around it.
fn covers_touching(outer: &[String], inner: &Match) -> bool {
    let around = |key: &String| outer.iter().any(|prefix| key.starts_with(prefix.as_str()));
    outer.is_empty()
        || !inner.keys.is_empty() && inner.keys.iter().all(around)
        || !inner.touching.is_empty() && inner.touching.iter().all(around)
}
