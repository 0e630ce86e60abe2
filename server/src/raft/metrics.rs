//! What raft tells Prometheus, under etcd's names.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Registry, exponential_buckets};

/// Handles of raft's metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct RaftMetrics {
    pub has_leader: IntGauge,
    pub is_leader: IntGauge,
    pub is_learner: IntGauge,
    pub leader_changes_seen: IntCounter,
    pub proposals_committed: IntGauge,
    pub proposals_applied: IntGauge,
    pub proposals_failed: IntCounter,
    /// Messages of peers that no correct member sends, or that came too late.
    pub messages_rejected: IntCounter,
    pub wal_fsync_seconds: Histogram,
    pub wal_write_seconds: Histogram,
    pub wal_write_bytes: Gauge,
    pub snapshot_save_seconds: Histogram,
}

impl RaftMetrics {
    /// Registers the metrics; fails if one of that name is there already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let seconds = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(exponential_buckets(0.001, 2.0, 14)?);
            let histogram = Histogram::with_opts(options)?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        let wal_write_bytes = Gauge::new("etcd_disk_wal_write_bytes_total", "Bytes written to the WAL.")?;
        registry.register(Box::new(wal_write_bytes.clone()))?;
        Ok(Self {
            has_leader: gauge("etcd_server_has_leader", "1 while this member knows a leader, else 0.")?,
            is_leader: gauge("etcd_server_is_leader", "1 while this member leads, else 0.")?,
            is_learner: gauge("etcd_server_is_learner", "1 while this member is a learner, else 0.")?,
            leader_changes_seen: counter(
                "etcd_server_leader_changes_seen_total",
                "How often this member saw another leader.",
            )?,
            proposals_committed: gauge(
                "etcd_server_proposals_committed_total",
                "The index of the last committed entry.",
            )?,
            proposals_applied: gauge("etcd_server_proposals_applied_total", "The index of the last applied entry.")?,
            proposals_failed: counter("etcd_server_proposals_failed_total", "Proposals that were lost.")?,
            messages_rejected: counter(
                "forebay_server_peer_messages_rejected_total",
                "Messages of other members that raft did not take.",
            )?,
            wal_fsync_seconds: seconds("etcd_disk_wal_fsync_duration_seconds", "How long syncs of the WAL take.")?,
            wal_write_seconds: seconds("etcd_disk_wal_write_duration_seconds", "How long writes to the WAL take.")?,
            wal_write_bytes,
            snapshot_save_seconds: seconds(
                "etcd_debugging_snap_save_total_duration_seconds",
                "How long saving a snapshot file takes.",
            )?,
        })
    }
}
