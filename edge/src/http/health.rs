//! `/health`, `/livez` and `/readyz`: is this member alive, and may it be asked.

use std::collections::HashSet;

use ::http::StatusCode;
use forebay_proto::etcdserverpb::AlarmType;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{
    Probes,
    access::query_pairs,
    answer::{plain_error, quoted, with_nosniff, with_type},
};
use crate::Response;

const TEXT: &str = "text/plain; charset=utf-8";

/// How often the endpoints were asked and what they said, under etcd's names.
pub(super) struct Metrics {
    success: IntCounter,
    failures: IntCounter,
    check: IntGaugeVec,
    checks_total: IntCounterVec,
}

/// The checks behind one path.
#[derive(Clone, Copy)]
pub(super) struct Checks {
    /// `livez` or `readyz`.
    kind: &'static str,
    checks: &'static [Check],
    /// Whether the path names the whole kind; only then can checks be excluded.
    whole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
/// A read of each kind, so that a failure tells the member's fault from the cluster's.
const READYZ: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Checks {
    /// The checks of `/livez`, `/readyz/serializable_read` and so on.
    pub(super) fn find(path: &str) -> Option<Checks> {
        let (kind, checks, rest) = if let Some(rest) = path.strip_prefix("/livez") {
            ("livez", LIVEZ, rest)
        } else {
            ("readyz", READYZ, path.strip_prefix("/readyz")?)
        };
        if rest.is_empty() {
            return Some(Checks { kind, checks, whole: true });
        }
        let name = rest.strip_prefix('/')?;
        let at = checks.iter().position(|check| check.name() == name)?;
        Some(Checks { kind, checks: &checks[at..=at], whole: false })
    }
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, probes: &dyn Probes) -> Result<(), String> {
        match self {
            Check::DataCorruption if probes.alarms().contains(&AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Check::NonLearner if probes.is_learner() => Err("not supported for learner".to_owned()),
            Check::DataCorruption | Check::NonLearner => Ok(()),
            Check::SerializableRead => probes.read(true).await.map_err(|status| status.message().to_owned()),
            Check::LinearizableRead => probes.read(false).await.map_err(|status| status.message().to_owned()),
        }
    }
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            success: IntCounter::new("etcd_server_health_success", "The total number of successful health checks")?,
            failures: IntCounter::new("etcd_server_health_failures", "The total number of failed health checks")?,
            check: IntGaugeVec::new(
                Opts::new("etcd_server_healthcheck", "The result of each kind of healthcheck."),
                &["type", "name"],
            )?,
            checks_total: IntCounterVec::new(
                Opts::new("etcd_server_healthchecks_total", "The total number of each kind of healthcheck."),
                &["type", "name", "status"],
            )?,
        };
        registry.register(Box::new(metrics.success.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.check.clone()))?;
        registry.register(Box::new(metrics.checks_total.clone()))?;
        Ok(metrics)
    }

    /// `/health`: alarms, then the leader, then a read; the first that fails is the reason.
    pub(super) async fn health(&self, probes: &dyn Probes, query: &str) -> Response {
        let excluded = values(query, "exclude");
        let serializable =
            query_pairs(query).find(|(name, _)| name == "serializable").is_some_and(|(_, value)| value == "true");
        let failure = match probes.alarms().into_iter().find(|alarm| !excluded.contains(alarm.as_str_name())) {
            Some(AlarmType::Nospace) => Some("ALARM NOSPACE".to_owned()),
            Some(AlarmType::Corrupt) => Some("ALARM CORRUPT".to_owned()),
            Some(AlarmType::None) => Some("ALARM UNKNOWN".to_owned()),
            None if !serializable && !probes.has_leader() => Some("RAFT NO LEADER".to_owned()),
            None => probes.read(serializable).await.err().map(|status| format!("RANGE ERROR:{}", status.message())),
        };
        match failure {
            None => {
                self.success.inc();
                with_type(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#)
            }
            Some(reason) => {
                self.failures.inc();
                tracing::warn!(reason, "unhealthy");
                let body = format!(r#"{{"health":"false","reason":{}}}"#, quoted(&reason));
                plain_error(StatusCode::SERVICE_UNAVAILABLE, &body)
            }
        }
    }

    /// `/livez` and `/readyz`: every check is run, also behind one that failed.
    pub(super) async fn checks(&self, probes: &dyn Probes, checks: Checks, query: &str) -> Response {
        let excluded = if checks.whole { values(query, "exclude") } else { HashSet::new() };
        let mut report = String::new();
        let mut failed = false;
        for check in checks.checks.iter().filter(|check| !excluded.contains(check.name())) {
            let name = check.name();
            let (line, status) = match check.run(probes).await {
                Ok(()) => (format!("[+]{name} ok\n"), "success"),
                Err(reason) => (format!("[-]{name} failed: {reason}\n"), "error"),
            };
            report.push_str(&line);
            failed |= status == "error";
            self.check.with_label_values(&[checks.kind, name]).set(i64::from(status == "success"));
            self.checks_total.with_label_values(&[checks.kind, name, status]).inc();
        }
        if failed {
            tracing::warn!(kind = checks.kind, report, "a health check failed");
            return plain_error(StatusCode::SERVICE_UNAVAILABLE, &report);
        }
        let verbose = query_pairs(query).any(|(name, _)| name == "verbose");
        let body = if verbose { report + "ok\n" } else { "ok\n".to_owned() };
        with_nosniff(with_type(StatusCode::OK, TEXT, body))
    }
}

fn values(query: &str, name: &str) -> HashSet<String> {
    query_pairs(query).filter(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value).collect()
}
