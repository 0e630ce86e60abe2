//! The metrics page in Prometheus' text format, with numbers as Go prints them.
//!
//! The library's own encoder prints bucket bounds as Rust does, `le="1048576"` where Go has
//! `le="1.048576e+06"`; in a fleet of etcd and us, sums over `le` would fall apart.

use std::{fmt::Write as _, io::Write as _};

use ::http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING},
};
use flate2::{Compression, write::GzEncoder};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::answer::with_type;
use crate::Response;

/// The page as a response, compressed for those who ask for it: a page is long and much the same all over.
pub(super) fn page(families: &[MetricFamily], headers: &HeaderMap) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    let page = encode(families);
    if !takes_gzip(headers) {
        return with_type(StatusCode::OK, content_type, page);
    }
    let mut compressed = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    compressed.write_all(page.as_bytes()).expect("a vector takes everything");
    let mut response = with_type(StatusCode::OK, content_type, compressed.finish().expect("a vector takes everything"));
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
        (name.eq_ignore_ascii_case("gzip") || name == "*") && weight.is_ok_and(|weight| weight > 0.0)
    })
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_page_is_compressed_for_those_who_ask_for_it() {
        let counter = prometheus::IntCounter::new("some_total", "Some.").unwrap();
        let families = prometheus::core::Collector::collect(&counter);
        let plain = encode(&families);
        for (accepted, compressed) in [
            ("", false),
            ("gzip", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("*", true),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("gzipped", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            let response = page(&families, &headers);
            assert_eq!(response.headers().contains_key(CONTENT_ENCODING), compressed, "{accepted}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let mut text = String::new();
            if compressed {
                flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
            } else {
                text.push_str(str::from_utf8(&body).unwrap());
            }
            assert_eq!(text, plain, "{accepted}");
        }
    }
}
