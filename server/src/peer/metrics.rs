//! What the links tell Prometheus, under etcd's names.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, exponential_buckets};

/// Handles of the metrics of all links. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct PeerMetrics {
    pub(super) active: IntGaugeVec,
    pub(super) sent_bytes: IntCounterVec,
    pub(super) received_bytes: IntCounterVec,
    pub(super) sent_failures: IntCounterVec,
    pub(super) received_failures: IntCounterVec,
    pub(super) round_trip_seconds: HistogramVec,
    pub(super) snapshots_sent: IntCounterVec,
    pub(super) snapshots_sent_failures: IntCounterVec,
    pub(super) snapshots_received: IntCounterVec,
    pub(super) snapshots_received_failures: IntCounterVec,
}

impl PeerMetrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<PeerMetrics> {
        let counter = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let active = Opts::new("etcd_network_active_peers", "1 while the member is reached.");
        let active = IntGaugeVec::new(active, &["Local", "Remote"])?;
        registry.register(Box::new(active.clone()))?;
        let round_trip =
            HistogramOpts::new("etcd_network_peer_round_trip_time_seconds", "How long a request to the member takes.")
                .buckets(exponential_buckets(0.0001, 2.0, 16)?);
        let round_trip_seconds = HistogramVec::new(round_trip, &["To"])?;
        registry.register(Box::new(round_trip_seconds.clone()))?;
        Ok(PeerMetrics {
            active,
            sent_bytes: counter("etcd_network_peer_sent_bytes_total", "Bytes sent to the member.", "To")?,
            received_bytes: counter("etcd_network_peer_received_bytes_total", "Bytes from the member.", "From")?,
            sent_failures: counter(
                "etcd_network_peer_sent_failures_total",
                "Messages to the member that were lost here.",
                "To",
            )?,
            received_failures: counter(
                "etcd_network_peer_received_failures_total",
                "Messages from the member that were dropped.",
                "From",
            )?,
            round_trip_seconds,
            snapshots_sent: counter("etcd_network_snapshot_send_success", "Snapshots that the member took.", "To")?,
            snapshots_sent_failures: counter(
                "etcd_network_snapshot_send_failures",
                "Snapshots that the member did not take.",
                "To",
            )?,
            snapshots_received: counter(
                "etcd_network_snapshot_receive_success",
                "Snapshots received from the member.",
                "From",
            )?,
            snapshots_received_failures: counter(
                "etcd_network_snapshot_receive_failures",
                "Snapshots from the member that were not taken.",
                "From",
            )?,
        })
    }
}
