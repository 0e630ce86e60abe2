//! Quotas by themselves, as a gateway tells them to a member and the member keeps them: JSON, in the words of the file.

use serde::{Deserialize, Serialize};

use super::{Allowed, Hard, QuotaSpec, Segment, Spec, check};
use crate::{
    Quota,
    units::{Percent, Quantity},
};

/// How many quotas a member keeps at most: every write is compared with all of them.
pub const QUOTAS_MAX: usize = 1_000;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Quotas {
    quotas: Vec<QuotaSpec>,
}

/// The quotas as a document. Equal quotas make equal documents.
pub fn quotas_to_json(quotas: &[Quota]) -> String {
    let quotas = Quotas { quotas: quotas.iter().map(QuotaSpec::of).collect() };
    serde_json::to_string(&quotas).expect("invariant: a quota can be written as JSON")
}

/// Reads such a document; the error says what is wrong with it.
pub fn quotas_from_json(json: &[u8]) -> Result<Vec<Quota>, String> {
    let Quotas { quotas } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if quotas.len() > QUOTAS_MAX {
        return Err(format!("there are {} quotas, and {QUOTAS_MAX} are kept at most", quotas.len()));
    }
    let spec = Spec { quotas, ..Spec::default() };
    let findings = check::check(&spec);
    match findings.errors.into_iter().next() {
        Some(finding) => Err(finding.locate("").text),
        None => Ok(spec.quotas.iter().map(QuotaSpec::resolve).collect()),
    }
}

impl QuotaSpec {
    fn of(quota: &Quota) -> QuotaSpec {
        let Quota { name, mode, prefix, per, hard, warn_at, allow_updates } = quota;
        let some = |number: Option<u64>| number.map(Quantity);
        QuotaSpec {
            name: name.clone(),
            mode: *mode,
            prefix: String::from_utf8_lossy(prefix).into_owned(),
            per: per.map(Segment),
            hard: Hard {
                objects: some(hard.objects),
                bytes: some(hard.bytes),
                object_bytes: some(hard.object_bytes),
                uncompacted_bytes: some(hard.uncompacted_bytes),
            },
            warn_at: (*warn_at != Percent(80)).then_some(*warn_at),
            allow_when_exceeded: (!allow_updates).then(|| vec![Allowed::Delete, Allowed::LeaseRevoke]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_the_same_after_the_way_to_a_member() {
        let text = "apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n  quotas:\n  \
                    - {name: a, prefix: /a/, per: segment(4), hard: {objects: 20k, objectBytes: 1Ki}}\n  \
                    - {name: b, prefix: /b/, hard: {bytes: 1Gi}, warnAt: 95%, allowWhenExceeded: [Delete, LeaseRevoke]}\n";
        let quotas = crate::file::load(text).expect("a policy").policy.quotas;
        let json = quotas_to_json(&quotas);
        assert_eq!(quotas_from_json(json.as_bytes()), Ok(quotas));
        assert!(quotas_from_json(b"{\"quotas\":[{\"name\":\"a\",\"prefix\":\"/a/\",\"hard\":{}}]}").is_err());
        assert!(quotas_from_json(b"{}").is_err());
    }
}
