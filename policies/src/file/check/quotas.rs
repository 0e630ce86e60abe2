//! Quotas that bound nothing, or contradict each other.

use super::{Findings, Place, name, unique};
use crate::file::{Allowed, Hard, QuotaSpec};

/// No request of etcd's default size can make a larger object.
const REQUEST_BYTES_MAX: u64 = 1_572_864;

pub(super) fn check(quotas: &[QuotaSpec], place: &Place, findings: &mut Findings) {
    unique(quotas.iter().map(|quota| quota.name.as_str()), place, findings);
    for (at, quota) in quotas.iter().enumerate() {
        let place = place.index(at);
        name(&quota.name, &place, findings);
        one(quota, &place, findings);
        let twin = quotas[..at].iter().find(|other| other.prefix == quota.prefix && other.per == quota.per);
        if let Some(twin) = twin {
            findings
                .error(&place.key("prefix"), format!("quota {:?} is for the same keys", twin.name))
                .hint("put the limits of both into one");
        }
        let around = quotas.iter().find(|outer| {
            outer.per.is_none() && outer.prefix != quota.prefix && quota.prefix.starts_with(&outer.prefix)
        });
        if let Some((outer, key)) = around.and_then(|outer| Some((outer, exceeds(&quota.hard, &outer.hard)?))) {
            findings.warn(
                &place.key("hard").key(key),
                format!("more than quota {:?} allows for everything around it: never reached", outer.name),
            );
        }
    }
}

fn one(quota: &QuotaSpec, place: &Place, findings: &mut Findings) {
    let slashes = quota.prefix.bytes().filter(|byte| *byte == b'/').count();
    if let Some(per) = quota.per.filter(|per| usize::from(per.0) <= slashes) {
        findings
            .error(&place.key("per"), format!("the prefix has {slashes} slashes: {per} would be one budget for all"))
            .hint(format!("write segment({}) or more, or leave per out", slashes + 1));
    }
    if quota.prefix.is_empty() {
        findings.warn(&place.key("prefix"), "the quota is for every key there is");
    } else if !quota.prefix.ends_with('/') {
        findings
            .warn(&place.key("prefix"), format!("the quota is also for keys like {}x", quota.prefix))
            .hint("end the prefix with /");
    }
    let hard = &quota.hard;
    let place_hard = place.key("hard");
    if *hard == Hard::default() {
        findings.error(&place_hard, "nothing is bounded").hint("set objects, bytes, objectBytes or uncompactedBytes");
    }
    let set = [
        ("objects", hard.objects),
        ("bytes", hard.bytes),
        ("objectBytes", hard.object_bytes),
        ("uncompactedBytes", hard.uncompacted_bytes),
    ];
    for (key, _) in set.iter().filter(|(_, value)| value.is_some_and(|value| value.0 == 0)) {
        findings.warn(&place_hard.key(key), "nothing can be created here");
    }
    for (key, _) in set.iter().filter(|(key, value)| matches!(*key, "bytes" | "uncompactedBytes") && value.is_some()) {
        findings.warn(
            &place_hard.key(key),
            "held by a cluster of Forebay members; in front of an etcd gateways count objects only",
        );
    }
    if hard.object_bytes.is_some_and(|bytes| bytes.0 > REQUEST_BYTES_MAX) {
        findings.warn(&place_hard.key("objectBytes"), "larger than any request may be: never reached");
    }
    if let (Some(object), Some(bytes)) = (hard.object_bytes, hard.bytes)
        && object > bytes
    {
        findings
            .error(&place_hard.key("objectBytes"), format!("one object may not have more than all of them, {bytes}"));
    }
    if let (Some(bytes), Some(uncompacted)) = (hard.bytes, hard.uncompacted_bytes)
        && bytes > uncompacted
    {
        findings.error(
            &place_hard.key("uncompactedBytes"),
            format!("all revisions may not have less than the newest of them, {bytes}"),
        );
    }
    if let Some(allowed) = &quota.allow_when_exceeded
        && !(allowed.contains(&Allowed::Delete) && allowed.contains(&Allowed::LeaseRevoke))
    {
        findings.error(
            &place.key("allowWhenExceeded"),
            "Delete and LeaseRevoke have to be allowed, or what is full could never be emptied",
        );
    }
}

/// The first limit that is wider than the one around it.
fn exceeds(inner: &Hard, outer: &Hard) -> Option<&'static str> {
    let wider = |inner: Option<crate::units::Quantity>, outer: Option<_>| {
        inner.zip(outer).is_some_and(|(inner, outer)| inner > outer)
    };
    if wider(inner.objects, outer.objects) {
        return Some("objects");
    }
    if wider(inner.bytes, outer.bytes) {
        return Some("bytes");
    }
    wider(inner.uncompacted_bytes, outer.uncompacted_bytes).then_some("uncompactedBytes")
}
