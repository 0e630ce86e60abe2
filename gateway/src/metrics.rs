//! The gateway's metrics. Labels are bounded: methods come from the table in [`crate::methods`],
//! endpoints from the configuration.

use std::{sync::Arc, time::Duration};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, exponential_buckets,
};
use tonic::Code;

use crate::{admission, methods::Method, mirror::MirrorMetrics};

/// Why an ending is another than the upstream's: the reasons of `rescue`.
const REMAPS: [&str; 7] = ["refused", "deadline", "unreachable", "broken", "draining", "overloaded", "unavailable"];

/// Handles to every metric; clones share them, and cost a count: each call has some.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Handles>);

#[derive(Debug)]
pub struct Handles {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    requests_in_flight: IntGauge,
    remaps: IntCounterVec,
    upstream_requests: IntCounterVec,
    upstream_seconds: HistogramVec,
    upstream_connections: IntGaugeVec,
    upstream_retries: IntCounterVec,
    pub(crate) mirror: MirrorMetrics,
    /// Those of admission.
    pub(crate) admission: admission::Metrics,
}

impl Metrics {
    /// Creates the metrics and registers them.
    pub fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let buckets = || exponential_buckets(0.0005, 2.0, 15);
        let metrics = Handles {
            requests: IntCounterVec::new(
                Opts::new("forebay_gateway_requests_total", "Calls answered, by method and gRPC code."),
                &["method", "code"],
            )?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "forebay_gateway_request_duration_seconds",
                    "Time from a unary call's arrival to its status, by method.",
                )
                .buckets(buckets()?),
                &["method"],
            )?,
            requests_in_flight: IntGauge::new(
                "forebay_gateway_requests_in_flight",
                "Calls that have begun and not ended, streams included.",
            )?,
            remaps: IntCounterVec::new(
                Opts::new(
                    "forebay_gateway_remaps_total",
                    "Endings that the gateway decided instead of the upstream, by reason.",
                ),
                &["reason"],
            )?,
            upstream_requests: IntCounterVec::new(
                Opts::new(
                    "forebay_gateway_upstream_requests_total",
                    "Attempts to forward a call, by endpoint and outcome.",
                ),
                &["endpoint", "outcome"],
            )?,
            upstream_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "forebay_gateway_upstream_response_seconds",
                    "Time from opening an upstream stream to its response head, by endpoint; streams are left out.",
                )
                .buckets(buckets()?),
                &["endpoint"],
            )?,
            upstream_connections: IntGaugeVec::new(
                Opts::new("forebay_gateway_upstream_connections", "Open connections that take new calls, by endpoint."),
                &["endpoint"],
            )?,
            upstream_retries: IntCounterVec::new(
                Opts::new("forebay_gateway_upstream_retries_total", "Calls sent to another endpoint, by reason."),
                &["reason"],
            )?,
            mirror: MirrorMetrics::new(registry)?,
            admission: admission::Metrics::new(registry)?,
        };
        // An increase from nothing at all would be none to Prometheus.
        for reason in REMAPS {
            metrics.remaps.with_label_values(&[reason]);
        }
        for reason in ["unsent", "refused", "lost"] {
            metrics.upstream_retries.with_label_values(&[reason]);
        }
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.request_seconds.clone()))?;
        registry.register(Box::new(metrics.requests_in_flight.clone()))?;
        registry.register(Box::new(metrics.remaps.clone()))?;
        registry.register(Box::new(metrics.upstream_requests.clone()))?;
        registry.register(Box::new(metrics.upstream_seconds.clone()))?;
        registry.register(Box::new(metrics.upstream_connections.clone()))?;
        registry.register(Box::new(metrics.upstream_retries.clone()))?;
        Ok(Metrics(Arc::new(metrics)))
    }
}

impl std::ops::Deref for Metrics {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.0
    }
}

impl Handles {
    pub(crate) fn began(&self) {
        self.requests_in_flight.inc();
    }

    /// A call ended; `unary` is its duration if it was one.
    pub(crate) fn ended(&self, method: &Method, code: Code, unary: Option<Duration>) {
        self.requests_in_flight.dec();
        self.requests.with_label_values(&[method.label(), code_name(code)]).inc();
        if let Some(duration) = unary {
            self.request_seconds.with_label_values(&[method.label()]).observe(duration.as_secs_f64());
        }
    }

    pub(crate) fn remapped(&self, reason: &'static str) {
        self.remaps.with_label_values(&[reason]).inc();
    }

    pub(crate) fn retried(&self, reason: &'static str) {
        self.upstream_retries.with_label_values(&[reason]).inc();
    }

    /// The handles of one endpoint, looked up once.
    pub(crate) fn endpoint(&self, name: &str) -> EndpointMetrics {
        let outcome = |outcome| self.upstream_requests.with_label_values(&[name, outcome]);
        EndpointMetrics {
            answered: outcome("answered"),
            unsent: outcome("unsent"),
            refused: outcome("refused"),
            broken: outcome("broken"),
            seconds: self.upstream_seconds.with_label_values(&[name]),
            connections: self.upstream_connections.with_label_values(&[name]),
        }
    }
}

/// The metrics of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointMetrics {
    pub(crate) answered: prometheus::IntCounter,
    pub(crate) unsent: prometheus::IntCounter,
    pub(crate) refused: prometheus::IntCounter,
    pub(crate) broken: prometheus::IntCounter,
    pub(crate) seconds: prometheus::Histogram,
    pub(crate) connections: IntGauge,
}

/// Code names as grpc-go's metrics have them, which etcd's dashboards know.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
