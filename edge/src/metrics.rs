//! What gRPC clients ask for and get, under the names that etcd's dashboards and alerts read.

use std::{collections::HashMap, sync::Arc, time::Instant};

use bytes::{Buf as _, Bytes};
use futures::{FutureExt as _, future::BoxFuture};
use http::HeaderMap;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use prost::Message as _;
use tonic::Code;

use crate::{Api, Meter, Request, Response, Service};

/// The codes in the order of their numbers, as grpc-go spells them.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Upper bounds in seconds, as etcd's `grpc_server_handling_seconds`.
const HANDLING_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts every call on its way to an [`Api`].
///
/// Labels are method names of etcd's services alone: calls of unknown methods are not counted, so
/// a client cannot make labels up.
pub struct Measured {
    api: Api,
    methods: HashMap<String, Arc<Method>>,
}

struct Method {
    started: IntCounter,
    /// By code number.
    handled: Vec<IntCounter>,
    received: IntCounter,
    sent: IntCounter,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    seconds: Histogram,
}

impl Measured {
    /// Registers the metrics and wraps `api`. How long calls take is always told: etcd does so with
    /// `--metrics=extensive` alone, and the alert on slow requests that comes with it is silent without.
    pub fn new(api: Api, registry: &Registry) -> prometheus::Result<Measured> {
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let started = counters("grpc_server_started_total", "Calls that began.", &labels)?;
        let handled = counters(
            "grpc_server_handled_total",
            "Calls that ended, by how.",
            &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        )?;
        let received = counters("grpc_server_msg_received_total", "Messages that came from clients.", &labels)?;
        let sent = counters("grpc_server_msg_sent_total", "Messages that went to clients.", &labels)?;
        let options = HistogramOpts::new(
            "grpc_server_handling_seconds",
            "Seconds that RPCs took on the server, until the last message and the status were handed over.",
        );
        let seconds = HistogramVec::new(options.buckets(HANDLING_BUCKETS.to_vec()), &labels)?;
        registry.register(Box::new(seconds.clone()))?;
        let received_bytes =
            counter("etcd_network_client_grpc_received_bytes_total", "Bytes that came from gRPC clients.")?;
        let sent_bytes = counter("etcd_network_client_grpc_sent_bytes_total", "Bytes that went to gRPC clients.")?;

        let mut methods = HashMap::new();
        for (kind, service, method) in known_methods() {
            let labels = [kind, &service, &method];
            let of = |code: &&str| handled.with_label_values(&[kind, &service, &method, code]);
            let handles = Method {
                started: started.with_label_values(&labels),
                handled: CODES.iter().map(of).collect(),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
                received_bytes: received_bytes.clone(),
                sent_bytes: sent_bytes.clone(),
                seconds: seconds.with_label_values(&labels),
            };
            methods.insert(format!("/{service}/{method}"), Arc::new(handles));
        }
        Ok(Measured { api, methods })
    }
}

/// Every method of etcd's services with its gRPC type.
fn known_methods() -> Vec<(&'static str, String, String)> {
    let files = prost_types::FileDescriptorSet::decode(forebay_proto::DESCRIPTORS).expect("our own descriptors decode");
    let mut methods = vec![
        ("unary", "grpc.health.v1.Health".to_owned(), "Check".to_owned()),
        ("server_stream", "grpc.health.v1.Health".to_owned(), "Watch".to_owned()),
    ];
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "unary",
                    (false, true) => "server_stream",
                    (true, false) => "client_stream",
                    (true, true) => "bidi_stream",
                };
                let service = format!("{}.{}", file.package(), service.name());
                methods.push((kind, service, method.name().to_owned()));
            }
        }
    }
    methods
}

impl Service for Measured {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let Some(method) = self.methods.get(request.uri().path()) else { return self.api.call(request) };
        method.started.inc();
        let incoming = Incoming { method: method.clone(), messages: MessageCounter::default() };
        let outgoing = Outgoing {
            method: method.clone(),
            messages: MessageCounter::default(),
            start: Instant::now(),
            code: Code::Cancelled,
        };
        let answer = self.api.call(request.map(|body| body.metered(incoming)));
        async move {
            let mut outgoing = outgoing;
            let response = answer.await;
            if let Some(code) = status_code(response.headers()) {
                outgoing.code = code;
            }
            response.map(|body| body.metered(outgoing))
        }
        .boxed()
    }
}

/// How a call ended, if its headers or trailers tell.
pub(crate) fn status_code(headers: &HeaderMap) -> Option<Code> {
    headers.get(crate::grpc::STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// The messages from a client.
struct Incoming {
    method: Arc<Method>,
    messages: MessageCounter,
}

impl Meter for Incoming {
    fn data(&mut self, data: &Bytes) {
        self.method.received_bytes.inc_by(data.len() as u64);
        self.method.received.inc_by(self.messages.begun_in(data));
    }

    fn trailers(&mut self, _: &HeaderMap) {}
}

/// The messages to a client, and the end of the call: with the trailers, or without them when the
/// client went away.
struct Outgoing {
    method: Arc<Method>,
    messages: MessageCounter,
    start: Instant,
    code: Code,
}

impl Meter for Outgoing {
    fn data(&mut self, data: &Bytes) {
        self.method.sent_bytes.inc_by(data.len() as u64);
        self.method.sent.inc_by(self.messages.begun_in(data));
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.code = status_code(trailers).unwrap_or(Code::Unknown);
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.method.handled[self.code as usize].inc();
        self.method.seconds.observe(self.start.elapsed().as_secs_f64());
    }
}

/// Counts gRPC messages in a stream of bytes that may be cut anywhere.
#[derive(Debug, Default)]
struct MessageCounter {
    /// Bytes of the current message that are still to come.
    rest: usize,
    /// The part of a prefix that came so far.
    prefix: [u8; crate::grpc::PREFIX],
    prefix_len: usize,
}

impl MessageCounter {
    /// How many messages had their prefix completed by this piece.
    fn begun_in(&mut self, data: &Bytes) -> u64 {
        let mut data = &data[..];
        let mut begun = 0;
        loop {
            let skipped = self.rest.min(data.len());
            data.advance(skipped);
            self.rest -= skipped;
            if data.is_empty() {
                return begun;
            }
            let wanted = (self.prefix.len() - self.prefix_len).min(data.len());
            data.copy_to_slice(&mut self.prefix[self.prefix_len..][..wanted]);
            self.prefix_len += wanted;
            if self.prefix_len == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.rest = u32::from_be_bytes(length) as usize;
                self.prefix_len = 0;
                begun += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, grpc};
    use forebay_proto::etcdserverpb::{PutRequest, PutResponse};
    use http_body_util::BodyExt as _;

    struct Fixed(fn() -> Response);

    impl Service for Fixed {
        fn call(&self, request: Request) -> BoxFuture<'static, Response> {
            let answer = self.0;
            async move {
                let _ = grpc::unary::<PutRequest>(request, 1000).await;
                answer()
            }
            .boxed()
        }
    }

    async fn call(answer: fn() -> Response, path: &str) -> Registry {
        let registry = Registry::new();
        let measured = Measured::new(Api::new(Fixed(answer)), &registry).unwrap();
        let put = grpc::encode(&PutRequest { key: "k".into(), ..Default::default() });
        let request = http::Request::builder().uri(path).body(Body::full(put)).unwrap();
        measured.call(request).await.into_body().collect().await.unwrap();
        registry
    }

    fn count(registry: &Registry, name: &str, labels: &[&str]) -> f64 {
        let family = registry.gather().into_iter().find(|family| family.name() == name).expect("the family exists");
        let has = |metric: &prometheus::proto::Metric| {
            labels.iter().all(|label| metric.get_label().iter().any(|pair| pair.value() == *label))
        };
        family.get_metric().iter().filter(|metric| has(metric)).map(|metric| metric.get_counter().get_value()).sum()
    }

    #[tokio::test]
    async fn a_call_is_counted_with_its_code_and_bytes() {
        let ok = call(|| grpc::reply_message(&PutResponse::default()), "/etcdserverpb.KV/Put").await;
        assert_eq!(count(&ok, "grpc_server_started_total", &["Put"]), 1.0);
        assert_eq!(count(&ok, "grpc_server_handled_total", &["Put", "OK"]), 1.0);
        assert_eq!(count(&ok, "grpc_server_msg_received_total", &["Put"]), 1.0);
        assert_eq!(count(&ok, "grpc_server_msg_sent_total", &["Put"]), 1.0);
        assert_eq!(count(&ok, "etcd_network_client_grpc_received_bytes_total", &[]), 8.0);

        let refused = call(|| grpc::refuse(forebay_proto::Error::NoSpace.into()), "/etcdserverpb.KV/Put").await;
        assert_eq!(count(&refused, "grpc_server_handled_total", &["Put", "ResourceExhausted"]), 1.0);
        assert_eq!(count(&refused, "grpc_server_handled_total", &["Put"]), 1.0);
    }

    #[tokio::test]
    async fn an_unknown_method_makes_no_label() {
        let registry = call(|| grpc::refuse(grpc::unknown_method("/a/B")), "/a/B").await;
        assert_eq!(count(&registry, "grpc_server_started_total", &[]), 0.0);
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut wire = Vec::new();
        for size in [0, 1, 4, 5, 300] {
            wire.extend_from_slice(&grpc::encode(&PutRequest { value: vec![1; size].into(), ..Default::default() }));
        }
        for size in 1..wire.len() {
            let mut counter = MessageCounter::default();
            let begun: u64 = wire.chunks(size).map(|part| counter.begun_in(&Bytes::copy_from_slice(part))).sum();
            assert_eq!(begun, 5, "pieces of {size}");
        }
    }
}
