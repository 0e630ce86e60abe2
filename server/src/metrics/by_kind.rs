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
    Unknown,
}

const NAMES: [&str; 14] = [
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
    "unknown",
];

impl Kind {
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
