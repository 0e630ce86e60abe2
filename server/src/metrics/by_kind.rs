//! Histograms that tell kinds of requests apart, and success from failure, without looking labels up.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use forebay_proto::etcdserverpb::InternalRaftRequest;
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

/// The kinds of requests that etcd's metrics and logs tell apart, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserGet,
    AuthUserRevokeRole,
    AuthUserList,
    AuthRoleAdd,
    AuthRoleGrantPermission,
    AuthRoleGet,
    AuthRoleRevokePermission,
    AuthRoleDelete,
    AuthRoleList,
    Unknown,
}

const NAMES: [&str; 31] = [
    "Range",
    "ReadonlyTxn",
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "Alarm",
    "ClusterVersionSet",
    "ClusterMemberAttrSet",
    "DowngradeInfoSet",
    "Authenticate",
    "AuthEnable",
    "AuthDisable",
    "AuthStatus",
    "AuthUserAdd",
    "AuthUserDelete",
    "AuthUserChangePassword",
    "AuthUserGrantRole",
    "AuthUserGet",
    "AuthUserRevokeRole",
    "AuthUserList",
    "AuthRoleAdd",
    "AuthRoleGrantPermission",
    "AuthRoleGet",
    "AuthRoleRevokePermission",
    "AuthRoleDelete",
    "AuthRoleList",
    "unknown",
];

impl Kind {
    /// The kind under which etcd counts what is carried out; it has forgotten one.
    pub(crate) fn applied(request: &InternalRaftRequest) -> Kind {
        match Kind::of(request) {
            Kind::AuthStatus => Kind::Unknown,
            kind => kind,
        }
    }

    pub(crate) fn of(request: &InternalRaftRequest) -> Kind {
        match request {
            InternalRaftRequest { put: Some(_), .. } => Kind::Put,
            InternalRaftRequest { txn: Some(_), .. } => Kind::Txn,
            InternalRaftRequest { delete_range: Some(_), .. } => Kind::DeleteRange,
            InternalRaftRequest { compaction: Some(_), .. } => Kind::Compaction,
            InternalRaftRequest { lease_grant: Some(_), .. } => Kind::LeaseGrant,
            InternalRaftRequest { lease_revoke: Some(_), .. } => Kind::LeaseRevoke,
            InternalRaftRequest { lease_checkpoint: Some(_), .. } => Kind::LeaseCheckpoint,
            InternalRaftRequest { alarm: Some(_), .. } => Kind::Alarm,
            InternalRaftRequest { range: Some(_), .. } => Kind::Range,
            InternalRaftRequest { cluster_version_set: Some(_), .. } => Kind::ClusterVersionSet,
            InternalRaftRequest { cluster_member_attr_set: Some(_), .. } => Kind::ClusterMemberAttrSet,
            InternalRaftRequest { downgrade_info_set: Some(_), .. } => Kind::DowngradeInfoSet,
            InternalRaftRequest { authenticate: Some(_), .. } => Kind::Authenticate,
            InternalRaftRequest { auth_enable: Some(_), .. } => Kind::AuthEnable,
            InternalRaftRequest { auth_disable: Some(_), .. } => Kind::AuthDisable,
            InternalRaftRequest { auth_status: Some(_), .. } => Kind::AuthStatus,
            InternalRaftRequest { auth_user_add: Some(_), .. } => Kind::AuthUserAdd,
            InternalRaftRequest { auth_user_delete: Some(_), .. } => Kind::AuthUserDelete,
            InternalRaftRequest { auth_user_change_password: Some(_), .. } => Kind::AuthUserChangePassword,
            InternalRaftRequest { auth_user_grant_role: Some(_), .. } => Kind::AuthUserGrantRole,
            InternalRaftRequest { auth_user_get: Some(_), .. } => Kind::AuthUserGet,
            InternalRaftRequest { auth_user_revoke_role: Some(_), .. } => Kind::AuthUserRevokeRole,
            InternalRaftRequest { auth_user_list: Some(_), .. } => Kind::AuthUserList,
            InternalRaftRequest { auth_role_add: Some(_), .. } => Kind::AuthRoleAdd,
            InternalRaftRequest { auth_role_grant_permission: Some(_), .. } => Kind::AuthRoleGrantPermission,
            InternalRaftRequest { auth_role_get: Some(_), .. } => Kind::AuthRoleGet,
            InternalRaftRequest { auth_role_revoke_permission: Some(_), .. } => Kind::AuthRoleRevokePermission,
            InternalRaftRequest { auth_role_delete: Some(_), .. } => Kind::AuthRoleDelete,
            InternalRaftRequest { auth_role_list: Some(_), .. } => Kind::AuthRoleList,
            _ => Kind::Unknown,
        }
    }
}

/// A histogram for each kind and outcome. It appears on the page with its first value.
#[derive(Clone, Debug)]
pub(crate) struct ByKind(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    vec: HistogramVec,
    cells: [[OnceLock<Histogram>; 2]; NAMES.len()],
}

impl ByKind {
    pub(super) fn register(registry: &Registry, options: HistogramOpts, label: &str) -> prometheus::Result<ByKind> {
        let vec = HistogramVec::new(options, &[label, "success"])?;
        registry.register(Box::new(vec.clone()))?;
        Ok(ByKind(Arc::new(Cells { vec, cells: Default::default() })))
    }

    pub(crate) fn observe(&self, kind: Kind, success: bool, took: Duration) {
        let Cells { vec, cells } = &*self.0;
        let made = || vec.with_label_values(&[NAMES[kind as usize], outcome(success)]);
        cells[kind as usize][usize::from(success)].get_or_init(made).observe(took.as_secs_f64());
    }
}

/// A histogram for each outcome.
#[derive(Clone, Debug)]
pub(crate) struct ByOutcome(Arc<(HistogramVec, [OnceLock<Histogram>; 2])>);

impl ByOutcome {
    pub(super) fn register(registry: &Registry, options: HistogramOpts) -> prometheus::Result<ByOutcome> {
        let vec = HistogramVec::new(options, &["success"])?;
        registry.register(Box::new(vec.clone()))?;
        Ok(ByOutcome(Arc::new((vec, Default::default()))))
    }

    pub(crate) fn observe(&self, success: bool, took: Duration) {
        let (vec, cells) = &*self.0;
        let made = || vec.with_label_values(&[outcome(success)]);
        cells[usize::from(success)].get_or_init(made).observe(took.as_secs_f64());
    }
}

fn outcome(success: bool) -> &'static str {
    if success { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_name_and_appears_with_its_first_value() {
        assert_eq!(NAMES[Kind::Unknown as usize], "unknown");
        let registry = Registry::new();
        let seconds = ByKind::register(&registry, HistogramOpts::new("seconds", "For nobody."), "type").unwrap();
        assert!(registry.gather().is_empty());
        seconds.observe(Kind::LeaseRevoke, false, Duration::from_millis(1));
        let families = registry.gather();
        let labels: Vec<_> = families[0].get_metric()[0].get_label().iter().map(|label| label.value()).collect();
        assert_eq!(labels, ["false", "LeaseRevoke"]);
    }
}
