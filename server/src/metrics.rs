//! What a member tells Prometheus beside raft's own, under etcd's names.
//!
//! Handles are passed to where things happen; what the member knows anyway is looked up when somebody asks
//! ([`observed`]).

mod by_kind;
mod clients;
mod observed;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
    exponential_buckets,
};

pub(crate) use self::{
    by_kind::{ByKind, ByOutcome, Kind},
    clients::ClientRequests,
};
use crate::member::Member;

/// Handles of metrics that are counted as things happen. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) backend: BackendMetrics,
    pub(crate) apply: ApplyMetrics,
    pub(crate) compaction: CompactionMetrics,
    pub(crate) request_seconds: ByKind,
    /// Evaluations of ranges, waiting not included.
    pub(crate) range_seconds: ByOutcome,
    pub(crate) hash_revision_seconds: Histogram,
    pub(crate) leases_renewed: IntCounter,
    pub(crate) leases_expired: IntCounter,
    pub(crate) slow_read_indexes: IntCounter,
    pub(crate) read_indexes_failed: IntCounter,
    /// By whether the server was reading or writing, and which stream.
    pub(crate) stream_failures: IntCounterVec,
    pub(crate) client_requests: ClientRequests,
    features: IntGaugeVec,
}

/// Of the db file.
#[derive(Clone, Debug)]
pub(crate) struct BackendMetrics {
    pub(crate) commit_seconds: Histogram,
    /// Putting changes into pages.
    pub(crate) spill_seconds: Histogram,
    /// Writing the pages.
    pub(crate) write_seconds: Histogram,
    pub(crate) defragment_seconds: Histogram,
    pub(crate) defragmenting: IntGauge,
    pub(crate) snapshot_seconds: Histogram,
    pub(crate) hash_seconds: Histogram,
}

/// Of the state machine, and of reads of its keyspace.
#[derive(Clone, Debug)]
pub(crate) struct ApplyMetrics {
    pub(crate) seconds: ByKind,
    pub(crate) slow: IntCounter,
    pub(crate) puts: IntCounter,
    pub(crate) put_bytes: IntGauge,
    pub(crate) deletes: IntCounter,
    pub(crate) ranges: IntCounter,
    /// Requests that are more than one operation.
    pub(crate) txns: IntCounter,
    pub(crate) leases_granted: IntCounter,
    pub(crate) leases_revoked: IntCounter,
    pub(crate) lease_ttl: Histogram,
}

/// Of removing what compactions made superfluous.
#[derive(Clone, Debug)]
pub(crate) struct CompactionMetrics {
    pub(crate) keys: IntCounter,
    /// When the last one ended, in seconds since 1970.
    pub(crate) last: IntGauge,
    pub(crate) step_millis: Histogram,
    pub(crate) total_millis: Histogram,
    pub(crate) index_millis: Histogram,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let make = Make(registry);
        Ok(Metrics {
            backend: BackendMetrics::register(registry)?,
            apply: ApplyMetrics::register(registry)?,
            compaction: CompactionMetrics {
                keys: make
                    .counter("etcd_debugging_mvcc_db_compaction_keys_total", "Versions that compactions removed.")?,
                last: make.gauge(
                    "etcd_debugging_mvcc_db_compaction_last",
                    "When the last compaction ended, in seconds since 1970; 0 before the first.",
                )?,
                step_millis: make.histogram(
                    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
                    "How long one step of a compaction keeps writers waiting.",
                    (1.0, 13),
                )?,
                total_millis: make.histogram(
                    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                    "How long compactions take, rests included.",
                    (100.0, 14),
                )?,
                index_millis: make.histogram(
                    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
                    "How long the first step of a compaction keeps writers waiting.",
                    (0.5, 14),
                )?,
            },
            request_seconds: ByKind::register(
                registry,
                options(
                    "etcd_server_request_duration_seconds",
                    "How long requests take, waiting for raft included.",
                    (0.001, 14),
                )?,
                "type",
            )?,
            range_seconds: ByOutcome::register(
                registry,
                options("etcd_server_range_duration_seconds", "How long evaluating a range takes.", (0.0001, 20))?,
            )?,
            hash_revision_seconds: make.histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "How long hashing the keyspace at a revision takes.",
                (0.01, 15),
            )?,
            leases_renewed: make.counter("etcd_debugging_lease_renewed_total", "Renewals of leases.")?,
            leases_expired: make.counter("etcd_debugging_server_lease_expired_total", "Leases that ran out.")?,
            slow_read_indexes: make.counter(
                "etcd_server_slow_read_indexes_total",
                "Linearizable reads that waited too long for their index.",
            )?,
            read_indexes_failed: make
                .counter("etcd_server_read_indexes_failed_total", "Linearizable reads that got no index.")?,
            stream_failures: make.family(IntCounterVec::new(
                Opts::new("etcd_network_server_stream_failures_total", "Streams of clients that broke."),
                &["Type", "API"],
            )?)?,
            client_requests: ClientRequests::register(registry)?,
            features: make.family(IntGaugeVec::new(
                Opts::new("etcd_server_feature_enabled", "Whether a feature is switched on."),
                &["name", "stage"],
            )?)?,
        })
    }

    /// Registers what is looked up when somebody asks.
    pub(crate) fn observe(&self, registry: &Registry, member: &Member) -> prometheus::Result<()> {
        for feature in &member.config().features {
            self.features.with_label_values(&[feature.name, feature.stage]).set(feature.enabled.into());
        }
        registry.register(Box::new(observed::Observed::new(member.clone())?))
    }
}

struct Make<'r>(&'r Registry);

impl Make<'_> {
    fn family<C: Collector + Clone + 'static>(&self, family: C) -> prometheus::Result<C> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.family(IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.family(IntGauge::new(name, help)?)
    }

    /// With so many buckets, each twice as wide as the one before it.
    fn histogram(&self, name: &str, help: &str, buckets: (f64, usize)) -> prometheus::Result<Histogram> {
        self.family(Histogram::with_opts(options(name, help, buckets)?)?)
    }
}

fn options(name: &str, help: &str, (first, count): (f64, usize)) -> prometheus::Result<HistogramOpts> {
    Ok(HistogramOpts::new(name, help).buckets(exponential_buckets(first, 2.0, count)?))
}

impl BackendMetrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<BackendMetrics> {
        let make = Make(registry);
        let phase = |name: &str, help: &str| make.histogram(name, help, (0.001, 14));
        Ok(BackendMetrics {
            commit_seconds: phase(
                "etcd_disk_backend_commit_duration_seconds",
                "How long commits of the db file take, syncs included.",
            )?,
            spill_seconds: phase(
                "etcd_debugging_disk_backend_commit_spill_duration_seconds",
                "How long a commit puts changes into pages.",
            )?,
            write_seconds: phase(
                "etcd_debugging_disk_backend_commit_write_duration_seconds",
                "How long a commit writes pages, syncs included.",
            )?,
            defragment_seconds: make.histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "How long defragmenting the db file takes.",
                (0.1, 13),
            )?,
            defragmenting: make.gauge("etcd_disk_defrag_inflight", "1 while the db file is defragmented, else 0.")?,
            snapshot_seconds: make.histogram(
                "etcd_disk_backend_snapshot_duration_seconds",
                "How long sending the db file takes.",
                (0.01, 17),
            )?,
            hash_seconds: make.histogram(
                "etcd_mvcc_hash_duration_seconds",
                "How long hashing the db file takes.",
                (0.01, 15),
            )?,
        })
    }
}

impl ApplyMetrics {
    fn register(registry: &Registry) -> prometheus::Result<ApplyMetrics> {
        let make = Make(registry);
        let seconds = options("etcd_server_apply_duration_seconds", "How long applying an entry takes.", (0.0001, 20))?;
        Ok(ApplyMetrics {
            seconds: ByKind::register(registry, seconds.const_label("version", "v3"), "op")?,
            slow: make
                .counter("etcd_server_slow_apply_total", "Requests that took longer than --warning-apply-duration.")?,
            puts: make.counter("etcd_mvcc_put_total", "Puts.")?,
            put_bytes: make
                .gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values that were put.")?,
            deletes: make.counter("etcd_mvcc_delete_total", "Deletions of a key or a range.")?,
            ranges: make.counter("etcd_mvcc_range_total", "Ranges.")?,
            txns: make.counter("etcd_mvcc_txn_total", "Requests of more than one operation.")?,
            leases_granted: make.counter("etcd_debugging_lease_granted_total", "Leases that were granted.")?,
            leases_revoked: make.counter("etcd_debugging_lease_revoked_total", "Leases that ended.")?,
            lease_ttl: make.histogram(
                "etcd_debugging_lease_ttl_total",
                "TTLs that were granted, in seconds.",
                (1.0, 24),
            )?,
        })
    }
}
