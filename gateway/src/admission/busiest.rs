//! Who is busiest, for the metrics page: gauges of a few clients and prefixes, however many there are.
//!
//! Names come from outside, and a label for each would be a page without end. So a scrape shows those that were heaviest
//! in the last window, everybody else together as `(others)`, and the fullest budgets of quotas.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use forebay_policies::heavy::Sums;
use prometheus::{
    GaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{Admission, Shared, WINDOW, quotas::Usage};

/// Clients, and prefixes, with a label of their own.
const SHOWN: usize = 20;
/// Budgets of quotas with a label of their own.
const BUDGETS_SHOWN: usize = 100;
/// Everybody without a label.
const OTHERS: &str = "(others)";

impl Admission {
    /// Shows on a metrics page who is busiest.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(Busiest::new(Arc::clone(&self.0))?))
    }
}

struct Busiest {
    shared: Arc<Shared>,
    client_load: GaugeVec,
    client_requests: GaugeVec,
    prefix_load: GaugeVec,
    prefix_objects: GaugeVec,
    quota_used: GaugeVec,
    quota_hard: GaugeVec,
}

impl Busiest {
    fn new(shared: Arc<Shared>) -> prometheus::Result<Busiest> {
        let gauges = |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        Ok(Busiest {
            shared,
            client_load: gauges(
                "forebay_client_load_bytes_per_second",
                "Bytes of requests and answers of the busiest clients in the last ten seconds.",
                &["client"],
            )?,
            client_requests: gauges(
                "forebay_client_requests_per_second",
                "Requests of the busiest clients in the last ten seconds.",
                &["client"],
            )?,
            prefix_load: gauges(
                "forebay_prefix_load_bytes_per_second",
                "Bytes of requests and answers about the busiest prefixes in the last ten seconds.",
                &["prefix"],
            )?,
            prefix_objects: gauges(
                "forebay_prefix_objects_per_second",
                "Objects read and written under the busiest prefixes in the last ten seconds.",
                &["prefix"],
            )?,
            quota_used: gauges(
                "forebay_quota_used",
                "What lies under the prefixes whose quotas are fullest, as last counted, by resource.",
                &["quota", "prefix", "resource"],
            )?,
            quota_hard: gauges(
                "forebay_quota_hard",
                "What may lie under the prefixes whose quotas are fullest, by resource.",
                &["quota", "prefix", "resource"],
            )?,
        })
    }

    fn gauges(&self) -> [&GaugeVec; 6] {
        [
            &self.client_load,
            &self.client_requests,
            &self.prefix_load,
            &self.prefix_objects,
            &self.quota_used,
            &self.quota_hard,
        ]
    }

    fn refresh(&self) {
        let (mut clients, mut prefixes) = (HashMap::new(), HashMap::new());
        let mut other = Sums::default();
        {
            let accounting = self.shared.accounting.lock();
            for row in accounting.rows().iter().filter(|row| row.last.requests > 0) {
                add(clients.entry(row.client.clone()).or_default(), row.last);
                add(prefixes.entry(row.prefix.clone()).or_default(), row.last);
            }
            add(&mut other, accounting.other().last);
        }
        let seconds = WINDOW.as_secs_f64();
        for (client, sums) in heaviest(clients, other, |name| name) {
            self.client_load.with_label_values(&[&client]).set(sums.bytes as f64 / seconds);
            self.client_requests.with_label_values(&[&client]).set(sums.requests as f64 / seconds);
        }
        for (prefix, sums) in heaviest(prefixes, other, |name: Vec<u8>| name.escape_ascii().to_string()) {
            self.prefix_load.with_label_values(&[&prefix]).set(sums.bytes as f64 / seconds);
            self.prefix_objects.with_label_values(&[&prefix]).set(sums.objects as f64 / seconds);
        }
        let mut budgets: Vec<Usage> = self.shared.budgets.usage();
        budgets.extend(self.shared.held.usage());
        budgets.sort_by_key(|budget| Reverse(budget.used.saturating_mul(1000) / budget.hard.max(1)));
        for budget in budgets.iter().take(BUDGETS_SHOWN) {
            let labels = [&*budget.quota, &budget.prefix, budget.resource];
            self.quota_used.with_label_values(&labels).set(budget.used as f64);
            self.quota_hard.with_label_values(&labels).set(budget.hard as f64);
        }
    }
}

impl Collector for Busiest {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauges().into_iter().for_each(GaugeVec::reset);
        self.refresh();
        self.gauges().into_iter().flat_map(Collector::collect).collect()
    }
}

fn add(to: &mut Sums, sums: Sums) {
    to.requests += sums.requests;
    to.objects += sums.objects;
    to.bytes += sums.bytes;
}

/// The heaviest by bytes under names that can be shown, and all others in one.
fn heaviest<K>(rows: HashMap<K, Sums>, mut other: Sums, name: impl Fn(K) -> String) -> Vec<(String, Sums)> {
    let mut rows: Vec<(K, Sums)> = rows.into_iter().collect();
    rows.sort_by_key(|(_, sums)| Reverse((sums.bytes, sums.requests)));
    for (_, sums) in rows.drain(SHOWN.min(rows.len())..) {
        add(&mut other, sums);
    }
    let mut shown: Vec<(String, Sums)> = rows.into_iter().map(|(key, sums)| (name(key), sums)).collect();
    shown.push((OTHERS.to_owned(), other));
    shown
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use forebay_policies::{ClientName, Policy, Rpc};

    use super::*;
    use crate::{Metrics, config::AdmissionConfig};

    #[test]
    fn ten_thousand_clients_make_a_short_page_in_a_short_time() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("fresh names");
        let config = AdmissionConfig { policy: Policy::builtin(), ..AdmissionConfig::default() };
        let admission = Admission::new(config, metrics.admission.clone());
        admission.register(&registry).expect("fresh names");
        {
            let mut accounting = admission.0.accounting.lock();
            for client in 0..10_000u32 {
                let did = Sums { requests: 1, objects: 1, bytes: u64::from(client), ..Sums::default() };
                let prefix = format!("/registry/pods/namespace-{client}/");
                accounting.record(ClientName::User(&client.to_string()), prefix.as_bytes(), Rpc::Put, did, None);
            }
            accounting.turn();
        }
        let began = Instant::now();
        let page = forebay_edge::http::encode_metrics(&registry.gather());
        let took = began.elapsed();
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
        assert!(took.as_millis() < 500, "{took:?} in a debug build on a busy machine");
        let samples = |name: &str| page.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
        for name in ["forebay_client_load_bytes_per_second", "forebay_prefix_objects_per_second"] {
            assert_eq!(samples(name), SHOWN + 1, "{name}");
        }
        let sum: f64 = page
            .lines()
            .filter(|line| line.starts_with("forebay_client_requests_per_second{"))
            .map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number"))
            .sum();
        assert!((sum - 1000.0).abs() < 1e-6, "nobody is left out: {sum}");
        assert!(page.contains("{client=\"user=9999\"}"), "the heaviest is shown");
    }
}
