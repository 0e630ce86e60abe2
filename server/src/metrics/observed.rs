//! What the member knows anyway, looked up when somebody asks.

use prometheus::{
    IntCounter, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{member::Member, version};

/// Finds out what a metric shows.
type Lookup = fn(&Member) -> i64;

/// Metrics whose values the member knows.
pub(super) struct Observed {
    member: Member,
    gauges: Vec<(IntGauge, Lookup)>,
    /// Counted by somebody else.
    counters: Vec<(IntCounter, Lookup)>,
    constants: Vec<IntGauge>,
    alarms: IntGaugeVec,
}

impl Observed {
    pub(super) fn new(member: Member) -> prometheus::Result<Observed> {
        let gauges: [(&str, &str, Lookup); 15] = [
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
            ("etcd_server_proposals_pending", "Proposals that wait for their outcome.", |member| {
                member.0.waiters.len() as i64
            }),
            // A snapshot is applied before this page is served.
            ("etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot is applied, else 0.", |_| 0),
            ("etcd_debugging_auth_revision", "The revision of users and roles.", |member| {
                member.auth().revision() as i64
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
        let gauges = gauges
            .into_iter()
            .map(|(name, help, value)| Ok((IntGauge::new(name, help)?, value)))
            .collect::<prometheus::Result<_>>()?;
        let events: Lookup = |member| member.watches().hub.stats().events as i64;
        let counters =
            vec![(IntCounter::new("etcd_debugging_mvcc_events_total", "Events that were sent to watchers.")?, events)];
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
        let alarms = IntGaugeVec::new(
            Opts::new("etcd_debugging_server_alarms", "Alarms that are raised."),
            &["server_id", "alarm_type"],
        )?;
        Ok(Observed { member, gauges, counters, constants, alarms })
    }

    fn collectors(&self) -> impl Iterator<Item = &dyn Collector> {
        let gauges = self.gauges.iter().map(|(gauge, _)| gauge).chain(&self.constants);
        gauges
            .map(|gauge| gauge as &dyn Collector)
            .chain(self.counters.iter().map(|(counter, _)| counter as &dyn Collector))
            .chain(std::iter::once(&self.alarms as &dyn Collector))
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
        self.collectors().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (gauge, value) in &self.gauges {
            gauge.set(value(&self.member));
        }
        for (counter, value) in &self.counters {
            // Two who ask at once may both count what came meanwhile, so it is set and not added to.
            counter.reset();
            counter.inc_by(value(&self.member) as u64);
        }
        self.alarms.reset();
        for alarm in self.member.alarms() {
            let id = format!("{:x}", alarm.member_id);
            self.alarms.with_label_values(&[&id[..], alarm.alarm().as_str_name()]).set(1);
        }
        self.collectors().flat_map(Collector::collect).collect()
    }
}
