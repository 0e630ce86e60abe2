//! The mirror's metrics. Every label comes from a list in the code.

use std::time::Duration;

use forebay_keyspace::watch::HubStats;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};

/// Why a mirror is built anew: `End::reason`.
const REBUILDS: [&str; 19] = [
    "unreachable",
    "unauthorised",
    "too_large",
    "too_old",
    "compacted",
    "audit",
    "late",
    "cluster",
    "revision",
    "gap",
    "order",
    "split",
    "future",
    "malformed",
    "foreign",
    "backwards",
    "unknown",
    "discontinuous",
    "twice",
];

/// Handles to every metric; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    freshness_waits: IntCounter,
    freshness_rounds: IntCounter,
    freshness_seconds: Histogram,
    serving: IntGauge,
    bytes: IntGauge,
    lag_revisions: IntGauge,
    lag_seconds: Gauge,
    watch_streams: IntGauge,
    watchers: IntGauge,
    upstream_watches: IntGauge,
    catch_ups: IntCounter,
    reconnects: IntCounterVec,
    rebuilds: IntCounterVec,
    audits: IntCounterVec,
    revoked: IntCounter,
    renewals_asked: IntCounter,
    renewals_sent: IntCounter,
}

/// How a request that the mirror might answer was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// From the mirror.
    Hit,
    /// By the upstream: there is no mirror at the moment.
    Absent,
    /// By the upstream: the keys are not mirrored.
    Uncovered,
    /// By the upstream: the mirror was not there in time.
    Lagging,
    /// By the upstream: the revision is outside of the mirror's window.
    Window,
    /// By the upstream, which would not vouch for the caller.
    Unvouched,
    /// The upstream could not be asked, and the client was told so.
    Unavailable,
}

impl Served {
    const ALL: [Served; 7] = [
        Served::Hit,
        Served::Absent,
        Served::Uncovered,
        Served::Lagging,
        Served::Window,
        Served::Unvouched,
        Served::Unavailable,
    ];

    fn label(self) -> &'static str {
        match self {
            Served::Hit => "hit",
            Served::Absent => "absent",
            Served::Uncovered => "uncovered",
            Served::Lagging => "lagging",
            Served::Window => "window",
            Served::Unvouched => "unvouched",
            Served::Unavailable => "unavailable",
        }
    }
}

impl Metrics {
    /// Creates the metrics and registers them.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        // Every label is there from the beginning: an increase from nothing at all would be none to Prometheus.
        let counters = |name, help, label: &str, values: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
            prometheus::Result::Ok(counters)
        };
        let counter = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let lag_seconds = Gauge::new(
            "forebay_mirror_lag_seconds",
            "How long the mirror has been behind a revision that the upstream is known to have.",
        )?;
        registry.register(Box::new(lag_seconds.clone()))?;
        let freshness_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "forebay_mirror_freshness_seconds",
                "Time of a freshness round: one small read of the upstream for all who waited.",
            )
            .buckets(exponential_buckets(0.0001, 2.0, 16)?),
        )?;
        registry.register(Box::new(freshness_seconds.clone()))?;
        Ok(Metrics {
            requests: counters(
                "forebay_mirror_requests_total",
                "Ranges and watch streams that the mirror might answer, by how they were answered.",
                "served",
                &Served::ALL.map(Served::label),
            )?,
            freshness_waits: counter(
                "forebay_mirror_freshness_waits_total",
                "Reads that joined a freshness round; divided by the rounds it is how many share one.",
            )?,
            freshness_rounds: counter(
                "forebay_mirror_freshness_rounds_total",
                "Freshness rounds asked of the upstream.",
            )?,
            freshness_seconds,
            serving: gauge("forebay_mirror_serving", "Whether there is a mirror to answer from.")?,
            bytes: gauge("forebay_mirror_bytes", "Bytes of records in the mirror, its history window included.")?,
            lag_revisions: gauge(
                "forebay_mirror_lag_revisions",
                "Revisions that the mirror was behind the upstream at the last heartbeat.",
            )?,
            lag_seconds,
            watch_streams: gauge("forebay_mirror_watch_streams", "Client watch streams that ride the mirror.")?,
            watchers: gauge("forebay_mirror_watchers", "Client watches that ride the mirror.")?,
            upstream_watches: gauge(
                "forebay_mirror_upstream_watches",
                "Watches open at the upstream, private catch-ups included; clients' watches divided by it is the coalescing ratio.",
            )?,
            catch_ups: counter(
                "forebay_mirror_catch_ups_total",
                "Private upstream watches for clients that start outside of the mirror's window.",
            )?,
            reconnects: counters(
                "forebay_mirror_reconnects_total",
                "Times the upstream watch was opened anew and went on where it was, by reason.",
                "reason",
                &["unreachable", "ended", "broken", "stalled", "cancelled", "denied"],
            )?,
            rebuilds: counters(
                "forebay_mirror_rebuilds_total",
                "Times the mirror was dropped and built anew, by reason.",
                "reason",
                &REBUILDS,
            )?,
            audits: counters(
                "forebay_mirror_audits_total",
                "Comparisons of a page of the mirror with the upstream at one revision, by outcome.",
                "outcome",
                &["same", "different", "skipped"],
            )?,
            revoked: counter(
                "forebay_mirror_revoked_streams_total",
                "Watch streams ended because the upstream would not grant them any more.",
            )?,
            renewals_asked: counter(
                "forebay_mirror_lease_renewals_asked_total",
                "Lease renewals that clients asked for.",
            )?,
            renewals_sent: counter(
                "forebay_mirror_lease_renewals_sent_total",
                "Lease renewals sent to the upstream; fewer than asked for where clients share a lease.",
            )?,
        })
    }

    pub(super) fn served(&self, served: Served) {
        self.requests.with_label_values(&[served.label()]).inc();
    }

    pub(super) fn asked(&self) {
        self.freshness_waits.inc();
    }

    pub(super) fn round(&self, took: Duration) {
        self.freshness_rounds.inc();
        self.freshness_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn set_serving(&self, serving: bool) {
        self.serving.set(serving.into());
    }

    /// What the mirror takes in memory.
    pub(super) fn filled(&self, bytes: u64) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// How far the mirror is behind, and for how long it has been.
    pub(super) fn lag(&self, revisions: i64, since: Option<Duration>) {
        self.lag_revisions.set(revisions.max(0));
        self.lag_seconds.set(since.map_or(0.0, |since| since.as_secs_f64()));
    }

    pub(super) fn reconnected(&self, reason: &'static str) {
        self.reconnects.with_label_values(&[reason]).inc();
    }

    pub(super) fn rebuild(&self, reason: &'static str) {
        self.rebuilds.with_label_values(&[reason]).inc();
    }

    /// Who rides the mirror.
    pub(super) fn riders(&self, hub: &HubStats) {
        self.watch_streams.set(i64::try_from(hub.streams).unwrap_or(i64::MAX));
        self.watchers.set(i64::try_from(hub.watchers).unwrap_or(i64::MAX));
    }

    pub(super) fn audited(&self, outcome: &'static str) {
        self.audits.with_label_values(&[outcome]).inc();
    }

    pub(super) fn renewal_asked(&self) {
        self.renewals_asked.inc();
    }

    pub(super) fn renewal_sent(&self) {
        self.renewals_sent.inc();
    }

    pub(super) fn caught_up(&self) {
        self.catch_ups.inc();
    }

    pub(super) fn revoked(&self, streams: usize) {
        self.revoked.inc_by(streams as u64);
    }

    /// Counts watches as open at the upstream until the value is dropped.
    pub(super) fn upstream_watches(&self, count: usize) -> OpenWatches {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.upstream_watches.add(count);
        OpenWatches { gauge: self.upstream_watches.clone(), count }
    }
}

/// Watches that are open at the upstream.
pub(super) struct OpenWatches {
    gauge: IntGauge,
    count: i64,
}

impl Drop for OpenWatches {
    fn drop(&mut self) {
        self.gauge.sub(self.count);
    }
}
