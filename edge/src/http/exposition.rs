//! The metrics page in Prometheus' text format, with numbers as Go prints them.
//!
//! The library's own encoder prints bucket bounds as Rust does, `le="1048576"` where Go has
//! `le="1.048576e+06"`; in a fleet of etcd and us, sums over `le` would fall apart.

use std::fmt::Write as _;

use ::http::StatusCode;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::answer::with_type;
use crate::Response;

/// The page as a response.
pub(super) fn page(families: &[MetricFamily]) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    with_type(StatusCode::OK, content_type, encode(families))
}

/// The page, family by family in the order given, which is by name as a registry gathers them.
pub fn encode(families: &[MetricFamily]) -> String {
    let mut page = Page(String::with_capacity(64 << 10));
    for family in families.iter().filter(|family| !family.get_metric().is_empty()) {
        page.family(family);
    }
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, family: &MetricFamily) {
        let name = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::SUMMARY => "summary",
            MetricType::HISTOGRAM => "histogram",
            MetricType::UNTYPED => "untyped",
        };
        if !family.help().is_empty() {
            let help = family.help().replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(self.0, "# HELP {name} {help}");
        }
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        for metric in family.get_metric() {
            match family.get_field_type() {
                MetricType::COUNTER => self.sample(name, "", metric, None, metric.get_counter().get_value()),
                MetricType::HISTOGRAM => self.histogram(name, metric),
                MetricType::SUMMARY => self.summary(name, metric),
                MetricType::GAUGE | MetricType::UNTYPED => {
                    self.sample(name, "", metric, None, metric.get_gauge().get_value());
                }
            }
        }
    }

    fn histogram(&mut self, name: &str, metric: &Metric) {
        let histogram = metric.get_histogram();
        let bounded = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound() != f64::INFINITY);
        for bucket in bounded {
            let bound = Some(("le", bucket.upper_bound()));
            self.sample(name, "_bucket", metric, bound, bucket.cumulative_count() as f64);
        }
        let count = histogram.get_sample_count() as f64;
        self.sample(name, "_bucket", metric, Some(("le", f64::INFINITY)), count);
        self.sample(name, "_sum", metric, None, histogram.get_sample_sum());
        self.sample(name, "_count", metric, None, count);
    }

    fn summary(&mut self, name: &str, metric: &Metric) {
        let summary = metric.get_summary();
        for quantile in summary.get_quantile() {
            self.sample(name, "", metric, Some(("quantile", quantile.quantile())), quantile.value());
        }
        self.sample(name, "_sum", metric, None, summary.sample_sum());
        self.sample(name, "_count", metric, None, summary.sample_count() as f64);
    }

    fn sample(&mut self, name: &str, suffix: &str, metric: &Metric, bound: Option<(&str, f64)>, value: f64) {
        self.0.push_str(name);
        self.0.push_str(suffix);
        self.labels(metric.get_label(), bound);
        self.0.push(' ');
        self.0.push_str(&number(value));
        if metric.timestamp_ms() != 0 {
            let _ = write!(self.0, " {}", metric.timestamp_ms());
        }
        self.0.push('\n');
    }

    fn labels(&mut self, labels: &[LabelPair], bound: Option<(&str, f64)>) {
        let mut separator = '{';
        for label in labels {
            let value = label.value().replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
            let _ = write!(self.0, "{separator}{}=\"{value}\"", label.name());
            separator = ',';
        }
        if let Some((name, bound)) = bound {
            let _ = write!(self.0, "{separator}{name}=\"{}\"", number(bound));
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
    }
}

/// A number as Go prints it: the shortest digits that make it, with an exponent from a million on
/// and below a ten-thousandth.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
