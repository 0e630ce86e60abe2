//! The differences that are no faults, with the reason for each.

use crate::{diff::Difference, peers::Release, target::Kind};

/// One difference that is expected.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// The targets it is expected on.
    pub on: On,
    /// The case; a `*` stands for any text.
    pub case: &'static str,
    /// The path of the difference, from the number of the step on; a `*` stands for any text.
    pub path: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// A set of targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// etcd up to this release, directly or behind a gateway.
    EtcdUpTo(Release),
    /// The gateway, over anything.
    Gateway,
    /// The bundled server, directly or behind a gateway.
    Server,
}

impl On {
    fn holds(self, kind: Kind) -> bool {
        match self {
            On::EtcdUpTo(limit) => kind.release().is_some_and(|release| release <= limit),
            On::Gateway => kind.is_gateway(),
            On::Server => matches!(kind, Kind::Server | Kind::GatewayOverServer),
        }
    }
}

impl Allowed {
    fn covers(&self, kind: Kind, case: &str, path: &str) -> bool {
        self.on.holds(kind) && matches(self.case, case) && matches(self.path, path)
    }
}

/// The entry that covers a difference, if one does.
pub fn reason(kind: Kind, case: &str, difference: &Difference) -> Option<&'static Allowed> {
    ALLOWED.iter().find(|allowed| allowed.covers(kind, case, &difference.path))
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            rest.is_empty() || (0..=text.len()).any(|at| text.get(at..).is_some_and(|text| matches(rest, text)))
        }),
    }
}

/// The whole list.
pub const ALLOWED: &[Allowed] = &[
    old("range_stream::*", "*", "RangeStream is new in 3.7"),
    old("auth::range_stream_permissions", "*", "RangeStream is new in 3.7"),
    old(
        "*::unknown_sort_numbers",
        "*",
        "before 3.6 sort numbers are not checked, and an unknown target ends the process",
    ),
    old("*", "*.hash_revision", "the field is new in 3.6"),
    old("*", "*.dbSizeQuota", "the field is new in 3.6"),
    old("*", "*.downgradeInfo", "the field is new in 3.6"),
    old("*", "*.storageVersion", "the field is new in 3.6"),
    old("maintenance::snapshot", "*.versions*", "the field is new in 3.6"),
    old("range::keys_only", "*.lease", "before 3.7 keys_only reads the records and so knows their leases"),
    old("compact::*", "*", "before 3.6 HashKV refuses the compacted revision and reports another one as compacted"),
    old("maintenance::hash_kv", "*", "before 3.6 HashKV refuses the compacted revision"),
    old("maintenance::alarm_without_space", "*", "before 3.7.1 puts in a nested txn pass the NOSPACE alarm"),
    old("maintenance::alarm_of_corruption", "*", "before 3.6 a NOSPACE alarm hides a CORRUPT one"),
    old("maintenance::downgrade*", "*", "versions below a release's own are others, and 3.4 cannot"),
    old("limits::tokens_without_auth", "*", "before 3.6 a bad token is refused while auth is off"),
    old("limits::client_versions", "*", "before 3.6 a version that is no text ends the process"),
    old("auth::*", "*", "these releases lack later fixes: who may ask what, and the texts of refusals"),
    old("rights::*", "*", "these releases lack later fixes: who may ask what, and the texts of refusals"),
    old("maintenance::quota", "*", "before 3.6 a NOSPACE alarm refuses txns that only read"),
    old(
        "watch_create::*",
        "*watches*",
        "these releases take negative revisions and promise progress that is not there",
    ),
    old("watch_create::start_compacted", "*", "these releases promise progress before a watch has caught up"),
    old("watch_events::catch_up", "*", "these releases promise progress before a watch has caught up"),
    old("watch_events::filters_on_catch_up", "*", "these releases promise progress before a watch has caught up"),
    old("watch_events::progress_*", "*", "these releases answer progress requests of empty and of waiting streams"),
    older("*", "*.alarms*", "3.4 raises the alarm NONE"),
    older("maintenance::*", "*.header", "in 3.4 Alarm answers without a header"),
    older("header::of_cluster_and_maintenance", "*", "3.4 has no AuthStatus, and Alarm answers without a header"),
    older("concurrency::lock_queue", "9.*", "3.4 gives a lock to whoever waited for it, though the lease is gone"),
    Allowed {
        on: On::Gateway,
        case: "limits::deadlines",
        path: "3.*",
        reason: "clients send a mutation again that ends in its deadline, so the gateway says UNAVAILABLE",
    },
    old("cluster::*", "*", "these releases can lose a membership change that follows another at once"),
    beyond("limits::unknown_methods", "4.error.*", "server reflection is served, which etcd does not"),
];

/// An allowance for what the bundled server does beyond etcd.
const fn beyond(case: &'static str, path: &'static str, reason: &'static str) -> Allowed {
    Allowed { on: On::Server, case, path, reason }
}

/// An allowance for what 3.4.23 does.
const fn older(case: &'static str, path: &'static str, reason: &'static str) -> Allowed {
    Allowed { on: On::EtcdUpTo(Release::V3_4), case, path, reason }
}

/// An allowance for what 3.5.1 and 3.4.23 do.
const fn old(case: &'static str, path: &'static str, reason: &'static str) -> Allowed {
    Allowed { on: On::EtcdUpTo(Release::V3_5), case, path, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matches("steps.*.lease", "steps.3.kvs.0.lease") && !matches("a*a", "a"));
        assert!(matches("*b*", "abc") && !matches("*b*d", "abc"));
        assert!(matches("*", "") && !matches("exact", "exactly"));
    }

    #[test]
    fn the_server_itself_has_no_allowance_of_etcd() {
        assert!(!On::EtcdUpTo(Release::V3_7).holds(Kind::Server) && !On::Gateway.holds(Kind::Server));
    }
}
