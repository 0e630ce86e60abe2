//! The metrics of admission. Labels are names from the policy file, methods of the table and a few words.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector as _,
    proto::MetricFamily,
};

/// Handles to every metric; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) refused: IntCounterVec,
    pub(crate) shadow_refused: IntCounterVec,
    pub(crate) admitted: IntCounterVec,
    pub(crate) rate_wait: Histogram,
    pub(crate) queue_wait: Histogram,
    pub(crate) load: IntCounter,
    pub(crate) twins: IntCounter,
    pub(crate) memory_held: IntGauge,
    pub(crate) memory_limit: IntGauge,
    pub(crate) seats: IntGaugeVec,
    pub(crate) policy_reloads: IntCounterVec,
    pub(crate) policy_is_current: IntGauge,
}

impl Metrics {
    /// Creates the metrics and registers them.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let waits = || vec![0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];
        let metrics = Metrics {
            refused: IntCounterVec::new(
                Opts::new("forebay_admission_refused_total", "Requests that were refused, by rule and reason."),
                &["rule", "reason"],
            )?,
            shadow_refused: IntCounterVec::new(
                Opts::new(
                    "forebay_admission_shadow_refused_total",
                    "Requests that a rule in Shadow mode would have refused, by rule and limit.",
                ),
                &["rule", "reason"],
            )?,
            admitted: IntCounterVec::new(
                Opts::new("forebay_admission_admitted_total", "Requests that were let in, by rule."),
                &["rule"],
            )?,
            rate_wait: Histogram::with_opts(
                HistogramOpts::new(
                    "forebay_admission_rate_wait_seconds",
                    "How long requests waited for a rate; those that did not wait are left out.",
                )
                .buckets(waits()),
            )?,
            queue_wait: Histogram::with_opts(
                HistogramOpts::new(
                    "forebay_admission_queue_wait_seconds",
                    "How long requests waited for a seat; those that did not wait are left out.",
                )
                .buckets(waits()),
            )?,
            load: IntCounter::new(
                "forebay_admission_load_bytes_total",
                "Bytes of requests and answers: requests, objects and object size multiplied.",
            )?,
            twins: IntCounter::new(
                "forebay_admission_joined_lists_total",
                "Lists that were answered with the answer to another who asked the same.",
            )?,
            memory_held: IntGauge::new(
                "forebay_admission_memory_held_bytes",
                "Bytes of requests and answers that the gateway holds.",
            )?,
            memory_limit: IntGauge::new(
                "forebay_admission_memory_limit_bytes",
                "Bytes of requests and answers that the gateway holds at most.",
            )?,
            seats: IntGaugeVec::new(
                Opts::new("forebay_admission_seats", "Seats of the upstream, by kind of work and state."),
                &["kind", "state"],
            )?,
            policy_reloads: IntCounterVec::new(
                Opts::new("forebay_admission_policy_reloads_total", "Changes of the policy file, by outcome."),
                &["outcome"],
            )?,
            policy_is_current: IntGauge::new(
                "forebay_admission_policy_is_current",
                "1 if the policy in force is what the policy file says, 0 if the file cannot be used.",
            )?,
        };
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.shadow_refused.clone()))?;
        registry.register(Box::new(metrics.admitted.clone()))?;
        registry.register(Box::new(metrics.rate_wait.clone()))?;
        registry.register(Box::new(metrics.queue_wait.clone()))?;
        registry.register(Box::new(metrics.load.clone()))?;
        registry.register(Box::new(metrics.twins.clone()))?;
        registry.register(Box::new(metrics.memory_held.clone()))?;
        registry.register(Box::new(metrics.memory_limit.clone()))?;
        registry.register(Box::new(metrics.seats.clone()))?;
        registry.register(Box::new(metrics.policy_reloads.clone()))?;
        registry.register(Box::new(metrics.policy_is_current.clone()))?;
        for outcome in ["loaded", "refused"] {
            metrics.policy_reloads.with_label_values(&[outcome]);
        }
        metrics.policy_is_current.set(1);
        Ok(metrics)
    }

    /// How many requests a rule has refused.
    pub(crate) fn refused_by(&self, rule: &str) -> u64 {
        sum_of(&self.refused, rule)
    }

    /// How many requests a rule in Shadow mode would have refused.
    pub(crate) fn shadow_refused_by(&self, rule: &str) -> u64 {
        sum_of(&self.shadow_refused, rule)
    }

    /// What there is of something now.
    pub(crate) fn set_seats(&self, kind: &'static str, (limit, taken): (u32, u32)) {
        self.seats.with_label_values(&[kind, "limit"]).set(limit.into());
        self.seats.with_label_values(&[kind, "taken"]).set(taken.into());
    }

    pub(crate) fn waited_for_seat(&self, waited: Duration) {
        if !waited.is_zero() {
            self.queue_wait.observe(waited.as_secs_f64());
        }
    }
}

/// The sum over all reasons of a rule.
fn sum_of(counters: &IntCounterVec, rule: &str) -> u64 {
    let families = counters.collect();
    let metrics = families.iter().flat_map(MetricFamily::get_metric);
    let own =
        metrics.filter(|metric| metric.get_label().iter().any(|label| label.name() == "rule" && label.value() == rule));
    own.map(|metric| metric.get_counter().get_value() as u64).sum()
}
