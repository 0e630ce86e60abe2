//! Requests by the version that the client says it has.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Versions that are told apart; a client may say anything, and a label is for ever.
const VERSIONS_MAX: usize = 64;
/// The longest version that is told apart.
const VERSION_BYTES_MAX: usize = 32;
/// For clients that do not say, and those that are not told apart.
const UNKNOWN: &str = "unknown";

/// The counters. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct ClientRequests {
    vec: IntCounterVec,
    /// By version: of unary calls and of streams.
    known: Arc<RwLock<HashMap<Box<str>, [IntCounter; 2]>>>,
}

impl ClientRequests {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<ClientRequests> {
        let options =
            Opts::new("etcd_server_client_requests_total", "Requests, by the version that the client says it has.");
        let vec = IntCounterVec::new(options, &["type", "client_api_version"])?;
        registry.register(Box::new(vec.clone()))?;
        Ok(ClientRequests { vec, known: Arc::default() })
    }

    /// Counts a call of a client of this version.
    pub(crate) fn count(&self, is_stream: bool, version: Option<&str>) {
        let version = version.unwrap_or(UNKNOWN);
        if let Some(counters) = self.known.read().get(version) {
            return counters[usize::from(is_stream)].inc();
        }
        let mut known = self.known.write();
        let is_told_apart = version.len() <= VERSION_BYTES_MAX && known.len() < VERSIONS_MAX;
        let version = if is_told_apart { version } else { UNKNOWN };
        let made = || ["unary", "stream"].map(|kind| self.vec.with_label_values(&[kind, version]));
        known.entry(version.into()).or_insert_with(made)[usize::from(is_stream)].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::core::Collector as _;

    #[test]
    fn a_client_cannot_make_labels_without_end() {
        let requests = ClientRequests::register(&Registry::new()).unwrap();
        for n in 0..1000 {
            requests.count(false, Some(&format!("3.{n}")));
            requests.count(false, Some(&"x".repeat(1000)));
        }
        requests.count(true, Some("3.0"));
        requests.count(true, None);
        assert!(requests.vec.collect()[0].get_metric().len() <= 2 * (VERSIONS_MAX + 1));
        let counted = |kind, version| requests.vec.with_label_values(&[kind, version]).get();
        assert_eq!((counted("stream", "3.0"), counted("unary", "3.0"), counted("stream", UNKNOWN)), (1, 1, 1));
        assert!(counted("unary", UNKNOWN) > 1900);
    }
}
