//! What a member tells Prometheus beside raft's own, under etcd's names.

use prometheus::{
    Histogram, HistogramOpts, IntGauge, Opts, Registry,
    core::{Collector, Desc},
    exponential_buckets,
    proto::MetricFamily,
};

use crate::{member::Member, version};

/// Handles of metrics that are counted as things happen.
pub(crate) struct Metrics {
    pub(crate) backend_commit_seconds: Histogram,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let options = HistogramOpts::new(
            "etcd_disk_backend_commit_duration_seconds",
            "How long commits of the db file take, syncs included.",
        );
        let backend_commit_seconds = Histogram::with_opts(options.buckets(exponential_buckets(0.001, 2.0, 14)?))?;
        registry.register(Box::new(backend_commit_seconds.clone()))?;
        Ok(Metrics { backend_commit_seconds })
    }

    /// Registers what is looked up when somebody asks.
    pub(crate) fn observe(&self, registry: &Registry, member: &Member) -> prometheus::Result<()> {
        registry.register(Box::new(Observed::new(member.clone())?))
    }
}

/// Finds out what a gauge shows.
type Lookup = fn(&Member) -> i64;

/// Gauges whose values the member knows anyway.
struct Observed {
    member: Member,
    gauges: Vec<(IntGauge, Lookup)>,
    constants: Vec<IntGauge>,
}

impl Observed {
    fn new(member: Member) -> prometheus::Result<Observed> {
        let rows: [(&str, &str, Lookup); 12] = [
            ("etcd_mvcc_db_total_size_in_bytes", "Bytes of the db file.", |member| member.db_sizes().total as i64),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the db file that are in use.", |member| {
                member.db_sizes().in_use as i64
            }),
            ("etcd_mvcc_db_open_read_transactions", "Read transactions open on the db file.", |member| {
                member.backend().db().open_readers() as i64
            }),
            ("etcd_server_quota_backend_bytes", "Bytes that the db file may take; 0 without a quota.", |member| {
                member.config().quota_backend_bytes.unwrap_or(0) as i64
            }),
            ("etcd_debugging_mvcc_current_revision", "The current revision.", |member| member.reader().revision()),
            ("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction.", |member| {
                member.reader().compacted_revision().max(0)
            }),
            ("etcd_debugging_mvcc_keys_total", "Keys that are there.", |member| member.key_count()),
            ("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.", |member| {
                member.watches().hub.stats().streams as i64
            }),
            ("etcd_debugging_mvcc_watcher_total", "Watchers of all streams.", |member| {
                member.watches().hub.stats().watchers as i64
            }),
            ("etcd_debugging_mvcc_slow_watcher_total", "Watchers that lag behind.", |member| {
                member.watches().hub.stats().unsynced as i64
            }),
            ("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.", |member| {
                member.watches().hub.stats().pending as i64
            }),
            ("forebay_server_leases", "Leases that are there.", |member| member.lessor().count() as i64),
        ];
        let gauges = rows
            .into_iter()
            .map(|(name, help, value)| Ok((IntGauge::new(name, help)?, value)))
            .collect::<prometheus::Result<_>>()?;
        let constants = vec![
            constant("etcd_server_id", "The member's id.", "server_id", &format!("{:x}", member.id()))?,
            constant(
                "etcd_server_version",
                "The release that the member behaves as.",
                "server_version",
                version::SERVER,
            )?,
            constant("etcd_cluster_version", "The cluster version.", "cluster_version", cluster_label())?,
        ];
        Ok(Observed { member, gauges, constants })
    }
}

/// Major and minor of the cluster version.
fn cluster_label() -> &'static str {
    version::CLUSTER.rsplit_once('.').map_or(version::CLUSTER, |(minor, _)| minor)
}

/// A gauge of 1 whose label is the message.
fn constant(name: &str, help: &str, label: &str, value: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::with_opts(Opts::new(name, help).const_label(label, value))?;
    gauge.set(1);
    Ok(gauge)
}

impl Collector for Observed {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().map(|(gauge, _)| gauge).chain(&self.constants).flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (gauge, value) in &self.gauges {
            gauge.set(value(&self.member));
        }
        self.gauges.iter().map(|(gauge, _)| gauge).chain(&self.constants).flat_map(Collector::collect).collect()
    }
}
