//! Spans of calls, as OpenTelemetry has them: how long each part of a call took, and in which call of which process it
//! happened.
//!
//! Whoever sends a call decides whether it is traced, by W3C Trace Context in its metadata; of calls that come without a
//! word a sampler picks some. A [`Traced`] API begins the span of each call. [`part`] begins that of a part of the call
//! under way, and [`outbound`] that of a call to somebody else, who learns of it from the metadata. Where nothing is
//! traced there is no such layer, and a part is one look at an empty place of the task.

use std::{
    future::Future,
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
    time::{Instant, SystemTime},
};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http_body::{Frame, SizeHint};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};
use tonic::Code;

use crate::{Api, Body, BoxError, Request, Response, Service, metrics::status_code};

tokio::task_local! {
    /// Where in a trace the call under way is.
    static PRESENT: Place;
}

/// A place in a trace: a span, and what makes spans within it.
#[derive(Clone)]
struct Place {
    tracer: SdkTracer,
    context: Context,
}

impl Place {
    fn begin(&self, builder: SpanBuilder) -> Span {
        let span = self.tracer.build_with_context(builder, &self.context);
        Span(Place { tracer: self.tracer.clone(), context: self.context.with_span(span) })
    }
}

/// A span that has begun. It ends when it is dropped.
pub struct Span(Place);

impl Span {
    /// Puts into metadata that whatever is called with it happens within this span.
    fn tell(&self, metadata: &mut HeaderMap) {
        TraceContextPropagator::new().inject_context(&self.0.context, &mut Metadata(metadata));
    }

    fn is_recorded(&self) -> bool {
        self.0.context.span().is_recording()
    }

    /// Tells of a part of this span that began then and ends now.
    pub fn since(&self, name: &'static str, began: Instant) {
        // The wall clock may have been set meanwhile; what was measured stays as long as it was.
        let start = SystemTime::now().checked_sub(began.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        drop(self.0.begin(SpanBuilder::from_name(name).with_start_time(start)));
    }

    /// Lets the span go on until the whole answer has passed.
    pub fn until_end(self, response: Response) -> Response {
        let mut ending = Ending { span: self, code: Code::Cancelled };
        if let Some(code) = status_code(response.headers()) {
            ending.code = code;
            return response;
        }
        response.map(|inner| Body::new(TracedBody { inner, ending: Some(ending) }))
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.0.context.span().end();
    }
}

/// Begins the span of a part of the call under way; `None` if that is not traced.
pub fn part(name: &'static str) -> Option<Span> {
    PRESENT.try_with(|place| place.begin(SpanBuilder::from_name(name))).ok()
}

/// Begins the span of a call that the one under way makes to somebody else, and tells them of it.
pub fn outbound(name: &'static str, metadata: &mut HeaderMap) -> Option<Span> {
    let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Client);
    let span = PRESENT.try_with(|place| place.begin(builder)).ok()?;
    span.tell(metadata);
    Some(span)
}

/// An API whose calls have spans.
pub struct Traced {
    api: Api,
    tracer: SdkTracer,
}

impl Traced {
    /// Traces the calls of `api`, as `tracer`'s sampler has it.
    pub fn new(api: Api, tracer: SdkTracer) -> Traced {
        Traced { api, tracer }
    }

    /// Begins the span of a call.
    fn begin(&self, request: &mut Request) -> Span {
        let name = request.uri().path().trim_start_matches('/').to_owned();
        let mut attributes = vec![KeyValue::new("rpc.system", "grpc")];
        if let Some((service, method)) = name.split_once('/') {
            let [service, method] = [service, method].map(str::to_owned);
            attributes.extend([KeyValue::new("rpc.service", service), KeyValue::new("rpc.method", method)]);
        }
        let context =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Metadata(request.headers_mut()));
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes);
        let span = Place { tracer: self.tracer.clone(), context }.begin(builder);
        // That a call is not traced is told too, so that nobody further on decides it again.
        span.tell(request.headers_mut());
        span
    }
}

impl Service for Traced {
    fn call(&self, mut request: Request) -> BoxFuture<'static, Response> {
        let span = self.begin(&mut request);
        if !span.is_recorded() {
            return self.api.call(request);
        }
        let (api, place) = (self.api.clone(), span.0.clone());
        let answer = within(place, async move { api.call(request).await });
        async move { span.until_end(answer.await) }.boxed()
    }
}

fn within<F: Future>(place: Place, future: F) -> impl Future<Output = F::Output> {
    PRESENT.scope(place, future)
}

/// The end of a call: with its status, or without one when whoever called went away.
struct Ending {
    span: Span,
    code: Code,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let context = &self.span.0.context;
        context.span().set_attribute(KeyValue::new("rpc.grpc.status_code", self.code as i64));
        if is_servers_fault(self.code) {
            context.span().set_status(Status::error(self.code.description()));
        }
    }
}

/// What OpenTelemetry's conventions call an error of the server; anything else may be a client's mistake.
fn is_servers_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

/// An answer on its way.
struct TracedBody {
    inner: Body,
    /// Taken when the trailers pass; a body may be held long after.
    ending: Option<Ending>,
}

impl http_body::Body for TracedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(mut ending) = self.ending.take()
        {
            ending.code = status_code(trailers).unwrap_or(Code::Unknown);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Metadata as OpenTelemetry reads and writes it.
struct Metadata<'m>(&'m mut HeaderMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) else { return };
        // A trace without a state of its own has none; an empty field is not asked for.
        if value.is_empty() { drop(self.0.remove(name)) } else { drop(self.0.insert(name, value)) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use opentelemetry::trace::{SpanId, TracerProvider as _};
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
    };
    use parking_lot::Mutex;

    use super::*;
    use crate::grpc;
    use forebay_proto::etcdserverpb::PutResponse;

    /// What ended, in that order.
    #[derive(Clone, Debug, Default)]
    struct Ended(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Ended {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().extend(batch);
            Ok(())
        }
    }

    fn tracer(fraction: f64) -> (SdkTracer, Ended) {
        let ended = Ended::default();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(fraction)));
        let provider = SdkTracerProvider::builder().with_simple_exporter(ended.clone()).with_sampler(sampler).build();
        (provider.tracer("test"), ended)
    }

    /// Has a part, and keeps the metadata that it was called with.
    #[derive(Clone, Default)]
    struct Parted(Arc<Mutex<HeaderMap>>);

    impl Service for Parted {
        fn call(&self, request: Request) -> BoxFuture<'static, Response> {
            let seen = self.0.clone();
            async move {
                let began = Instant::now();
                let part = part("raft");
                if let Some(part) = &part {
                    part.since("apply", began);
                }
                drop(part);
                *seen.lock() = request.headers().clone();
                grpc::reply_message(&PutResponse::default())
            }
            .boxed()
        }
    }

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// Calls, and returns the spans that ended and the metadata that went on.
    async fn call(fraction: f64, traceparent: Option<&str>) -> (Vec<SpanData>, HeaderMap) {
        let (tracer, ended) = tracer(fraction);
        let inner = Parted::default();
        let api = Api::new(Traced::new(Api::new(inner.clone()), tracer));
        let mut request = ::http::Request::post("/etcdserverpb.KV/Put");
        if let Some(value) = traceparent {
            request = request.header("traceparent", value);
        }
        let response = api.call(request.body(Body::empty()).unwrap()).await;
        response.into_body().collect().await.unwrap();
        let spans = ended.0.lock().clone();
        let seen = inner.0.lock().clone();
        (spans, seen)
    }

    #[tokio::test]
    async fn a_call_and_its_parts_are_spans_of_the_clients_trace() {
        let (spans, passed_on) = call(0.0, Some(GIVEN)).await;
        let [apply, raft, call] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!([&apply.name, &raft.name, &call.name], ["apply", "raft", "etcdserverpb.KV/Put"]);
        assert_eq!(call.parent_span_id, SpanId::from_hex("b7ad6b7169203331").unwrap());
        assert_eq!(raft.parent_span_id, call.span_context.span_id());
        assert_eq!(apply.parent_span_id, raft.span_context.span_id());
        for span in &spans {
            assert_eq!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        }
        assert!(call.attributes.contains(&KeyValue::new("rpc.grpc.status_code", 0_i64)), "{:?}", call.attributes);
        let told = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", call.span_context.span_id());
        assert_eq!(passed_on["traceparent"], told);
        assert!(!passed_on.contains_key("tracestate"));
    }

    #[tokio::test]
    async fn what_a_client_does_not_sample_is_not_traced_here_or_further_on() {
        let (spans, passed_on) = call(1.0, Some(&GIVEN.replace("-01", "-00"))).await;
        assert!(spans.is_empty(), "{spans:?}");
        let told = passed_on["traceparent"].to_str().unwrap();
        assert!(told.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && told.ends_with("-00"), "{told}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_as_nothing_said() {
        for given in
            ["", "00-0af7651916cd43dd8448eb211c80319c", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]
        {
            let (spans, _) = call(1.0, Some(given)).await;
            assert_eq!(spans.last().map(|call| call.parent_span_id), Some(SpanId::INVALID), "{given}");
        }
    }

    #[tokio::test]
    async fn without_a_word_from_the_client_the_sampler_decides() {
        assert_eq!(call(1.0, None).await.0.len(), 3);
        let (none, passed_on) = call(0.0, None).await;
        assert!(none.is_empty(), "{none:?}");
        assert!(passed_on["traceparent"].to_str().unwrap().ends_with("-00"), "{passed_on:?}");
    }

    #[tokio::test]
    async fn whoever_goes_away_leaves_a_span_that_was_cancelled() {
        let (tracer, ended) = tracer(1.0);
        let api = Api::new(Traced::new(Api::new(Parted::default()), tracer));
        let request = ::http::Request::post("/etcdserverpb.KV/Put").body(Body::empty()).unwrap();
        drop(api.call(request).await);
        let spans = ended.0.lock().clone();
        let call = spans.last().expect("it ended");
        assert!(call.attributes.contains(&KeyValue::new("rpc.grpc.status_code", Code::Cancelled as i64)), "{call:?}");
    }

    #[test]
    fn outside_of_a_traced_call_nothing_has_a_part() {
        assert!(part("raft").is_none());
        let mut metadata = HeaderMap::new();
        assert!(outbound("upstream", &mut metadata).is_none());
        assert!(metadata.is_empty());
    }
}
