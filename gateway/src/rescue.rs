//! Turns failures into statuses, and statuses that would hurt into ones that do not: the one place
//! where the gateway decides what a client hears.
//!
//! etcd's own errors keep their code and text. The exceptions, each because of what etcd's clients
//! do with the answer:
//!
//! | From the upstream or the transport | To the client | Because |
//! |---|---|---|
//! | DEADLINE_EXCEEDED or CANCELLED for a mutation | UNAVAILABLE `etcdserver: request timed out` | clientv3 sends a call that ended so again, up to 100 times, Put included |
//! | a broken stream, INTERNAL or CANCELLED on a watch or keep-alive stream | UNAVAILABLE after a pause | clientv3 reopens at once and without back-off after INTERNAL; CANCELLED ends every watch of the stream |
//! | RESOURCE_EXHAUSTED on such a stream | UNAVAILABLE after a pause | it ends every watch of the stream. The client's own oversized message is told as it is: a resumed stream would only send it again |
//! | UNKNOWN `etcdserver: too many requests` for a single call | RESOURCE_EXHAUSTED, same text | the code that etcd's table has for this text; etcd loses it on the way. clientv3 goes by the text, others and HTTP by the code |
//! | UNAVAILABLE on a keep-alive stream | the same after a longer pause | KeepAliveOnce reopens at once and without back-off |
//!
//! `there is no connection available` is the one text on which clientv3 sends a write again. It is
//! said only of a write that was never handed to an endpoint.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use forebay_edge::{Body, BoxError, Response, grpc};
use forebay_proto::Error;
use http::HeaderMap;
use http_body::Frame;
use rand::Rng as _;
use tokio::time::Sleep;
use tonic::{Code, Status};

use crate::{
    call::{Call, Failure, Handler},
    methods::{Kind, Method},
    metrics::Metrics,
};

/// Pause before a stream or call hears that it broke, so that its retries cannot spin.
const PAUSE: Duration = Duration::from_millis(100);
/// The same for keep-alive streams, whose clients have no back-off of their own.
const PAUSE_KEEP_ALIVE: Duration = Duration::from_millis(500);

/// What the client is told instead.
#[derive(Debug)]
struct Remedy {
    status: Status,
    /// The least time to wait before saying so; half as much is added at random.
    pause: Duration,
    /// For metrics.
    reason: &'static str,
}

impl Remedy {
    fn now(status: impl Into<Status>, reason: &'static str) -> Remedy {
        Remedy { status: status.into(), pause: Duration::ZERO, reason }
    }

    fn later(method: &Method, status: impl Into<Status>, reason: &'static str) -> Remedy {
        let pause = if method.is_keep_alive() { PAUSE_KEEP_ALIVE } else { PAUSE };
        Remedy { status: status.into(), pause, reason }
    }

    /// The pause with its jitter, so that clients that broke together do not return together.
    fn jittered(&self) -> Duration {
        self.pause.mul_f64(rand::rng().random_range(1.0..1.5))
    }
}

/// What a call without a response, or a body without an end, is told.
fn of_failure(method: &Method, failure: &Failure) -> Remedy {
    match (failure, method.kind) {
        (Failure::Refused(status), _) => Remedy::now(status.clone(), "refused"),
        (Failure::DeadlineExceeded, Kind::Mutation) => Remedy::now(Error::Timeout, "deadline"),
        (Failure::DeadlineExceeded, _) => Remedy::now(Error::DeadlineExceeded, "deadline"),
        (Failure::Unreachable, Kind::Mutation) => Remedy::now(never_left(), "unreachable"),
        // The call was held already while the gateway looked for an endpoint.
        (Failure::Unreachable, Kind::Read) => Remedy::now(Error::TimeoutDueToConnectionLost, "unreachable"),
        (Failure::Unreachable, Kind::Stream) => Remedy::later(method, Error::TimeoutDueToConnectionLost, "unreachable"),
        (Failure::Broken(_), _) => Remedy::later(method, Error::TimeoutDueToConnectionLost, "broken"),
        (Failure::Draining, Kind::Mutation) => Remedy::now(never_left(), "draining"),
        (Failure::Draining | Failure::Stopped, _) => Remedy::later(method, Error::Stopped, "draining"),
    }
}

/// What is told instead of a status that the upstream gave, if not that status.
fn of_status(method: &Method, headers: &HeaderMap) -> Option<Remedy> {
    let code = code(headers)?;
    if code == Code::Ok {
        return None;
    }
    // Decoded only where it decides: the text may be percent-encoded.
    let is_overload = || text(headers) == Error::TooManyRequests.message();
    match (method.kind, code) {
        (Kind::Mutation, Code::DeadlineExceeded | Code::Cancelled) => Some(Remedy::now(Error::Timeout, "deadline")),
        (Kind::Read | Kind::Mutation, Code::Unknown) if is_overload() => {
            Some(Remedy::now(Error::TooManyRequests, "overloaded"))
        }
        (Kind::Stream, Code::Internal | Code::Cancelled) => Some(unavailable(method, headers, "broken")),
        (Kind::Stream, Code::Unknown) if is_overload() => Some(unavailable(method, headers, "overloaded")),
        (Kind::Stream, Code::ResourceExhausted) if !text(headers).starts_with(OVERSIZED) => {
            Some(unavailable(method, headers, "overloaded"))
        }
        (Kind::Stream, Code::Unavailable) if method.is_keep_alive() => {
            Some(unavailable(method, headers, "unavailable"))
        }
        _ => None,
    }
}

/// How grpc-go begins its refusal of a message that is too large.
const OVERSIZED: &str = "grpc: received message larger than max";

/// The code that trailers or a trailers-only response carry; `None` in an ordinary response head.
pub(crate) fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(grpc::STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

fn never_left() -> Status {
    Status::unavailable("there is no connection available")
}

/// The upstream's text under a code on which clients resume.
fn unavailable(method: &Method, headers: &HeaderMap, reason: &'static str) -> Remedy {
    Remedy::later(method, Status::unavailable(text(headers)), reason)
}

/// The text of a status.
pub(crate) fn text(headers: &HeaderMap) -> String {
    Status::from_header_map(headers).map(|status| status.message().to_owned()).unwrap_or_default()
}

/// Writes the remedy over the status in trailers, leaving other metadata alone.
fn overwrite(headers: &mut HeaderMap, status: &Status) {
    headers.remove(grpc::MESSAGE);
    headers.remove(grpc::DETAILS);
    for (name, value) in &grpc::trailers(status) {
        headers.insert(name, value.clone());
    }
}

/// The layer: everything below fails or answers, everything above sees responses that end in a
/// status a client can bear.
#[derive(Debug)]
pub(crate) struct Rescue<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> Rescue<S> {
    /// Rescues `inner`.
    pub(crate) fn new(inner: S, metrics: Metrics) -> Rescue<S> {
        Rescue { inner, metrics }
    }

    async fn wait(&self, remedy: &Remedy) {
        self.metrics.remapped(remedy.reason);
        if !remedy.pause.is_zero() {
            tokio::time::sleep(remedy.jittered()).await;
        }
    }
}

impl<S: Handler> Handler for Rescue<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        let method = call.method;
        let mut response = match self.inner.handle(call).await {
            Ok(response) => response,
            Err(failure) => {
                tracing::debug!(method = method.path, error = %failure, "call failed");
                let remedy = of_failure(method, &failure);
                self.wait(&remedy).await;
                return Ok(grpc::refuse(remedy.status));
            }
        };
        if code(response.headers()).is_some() {
            // A trailers-only response: nothing follows.
            if let Some(remedy) = of_status(method, response.headers()) {
                self.wait(&remedy).await;
                overwrite(response.headers_mut(), &remedy.status);
            }
            return Ok(response);
        }
        if response.body().whole().is_some_and(|(_, trailers)| of_status(method, trailers).is_none()) {
            return Ok(response);
        }
        let metrics = self.metrics.clone();
        Ok(response.map(|inner| Body::new(RescuedBody { method, metrics, state: State::Open(inner) })))
    }
}

/// A response body that always ends in trailers.
struct RescuedBody {
    method: &'static Method,
    metrics: Metrics,
    state: State,
}

enum State {
    Open(Body),
    /// The end is known and is told after a pause.
    Pausing(Pin<Box<Sleep>>, HeaderMap),
    Ended,
}

impl RescuedBody {
    fn end(&mut self, remedy: Remedy, mut trailers: HeaderMap) {
        self.metrics.remapped(remedy.reason);
        overwrite(&mut trailers, &remedy.status);
        // The upstream's stream is let go now, not after the pause.
        self.state = State::Pausing(Box::pin(tokio::time::sleep(remedy.jittered())), trailers);
    }
}

impl http_body::Body for RescuedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match &mut self.state {
                State::Open(body) => {
                    let failure = match ready!(Pin::new(body).poll_frame(cx)) {
                        Some(Ok(frame)) => match frame.into_trailers() {
                            Err(data) => return Poll::Ready(Some(Ok(data))),
                            Ok(trailers) => {
                                if let Some(remedy) = of_status(self.method, &trailers) {
                                    self.end(remedy, trailers);
                                    continue;
                                }
                                self.state = State::Ended;
                                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                            }
                        },
                        Some(Err(error)) => Failure::from_body(error),
                        None => Failure::Broken("the upstream ended its response without a status".into()),
                    };
                    tracing::debug!(method = self.method.path, error = %failure, "response broke");
                    let remedy = of_failure(self.method, &failure);
                    self.end(remedy, HeaderMap::new());
                }
                State::Pausing(sleep, trailers) => {
                    ready!(sleep.as_mut().poll(cx));
                    let trailers = std::mem::take(trailers);
                    self.state = State::Ended;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::LEASE_KEEP_ALIVE;

    fn headers(code: Code, text: &str) -> HeaderMap {
        grpc::trailers(&Status::new(code, text))
    }

    fn method(path: &str) -> &'static Method {
        Method::find(path)
    }

    const PUT: &str = "/etcdserverpb.KV/Put";
    const RANGE: &str = "/etcdserverpb.KV/Range";
    const WATCH: &str = "/etcdserverpb.Watch/Watch";

    #[test]
    fn no_failure_of_a_mutation_ends_in_a_code_on_which_clients_send_it_again() {
        let failures = || {
            [
                Failure::Unreachable,
                Failure::Broken("reset".into()),
                Failure::DeadlineExceeded,
                Failure::Draining,
                Failure::Stopped,
            ]
        };
        for method in crate::methods::METHODS.iter().filter(|method| method.kind == Kind::Mutation) {
            for failure in failures() {
                let remedy = of_failure(method, &failure);
                assert_eq!(remedy.status.code(), Code::Unavailable, "{} {failure}", method.path);
                let resent = remedy.status.message() == "there is no connection available";
                let never_left = matches!(failure, Failure::Unreachable | Failure::Draining);
                assert_eq!(resent, never_left, "{} {failure}", method.path);
            }
            for code in [Code::DeadlineExceeded, Code::Cancelled] {
                let remedy = of_status(method, &headers(code, "whatever")).expect("a remedy");
                assert_eq!(remedy.status.code(), Code::Unavailable);
                assert_eq!(remedy.status.message(), "etcdserver: request timed out");
            }
        }
    }

    #[test]
    fn b44_etcds_own_errors_pass_untouched() {
        for error in Error::ALL {
            for path in [PUT, RANGE, WATCH] {
                let hurts = matches!(
                    (method(path).kind, error.code()),
                    (Kind::Mutation, Code::DeadlineExceeded | Code::Cancelled)
                        | (Kind::Stream, Code::Cancelled | Code::ResourceExhausted)
                );
                let remedy = of_status(method(path), &headers(error.code(), error.message()));
                assert_eq!(remedy.is_some(), hurts, "{path} {error}");
            }
        }
    }

    #[test]
    fn a_stream_ends_so_that_clients_resume_it() {
        for path in [WATCH, LEASE_KEEP_ALIVE] {
            let pause = if path == WATCH { PAUSE } else { PAUSE_KEEP_ALIVE };
            for code in [Code::Internal, Code::Cancelled, Code::ResourceExhausted] {
                let remedy = of_status(method(path), &headers(code, "some text")).expect("a remedy");
                assert_eq!((remedy.status.code(), remedy.status.message()), (Code::Unavailable, "some text"));
                assert_eq!(remedy.pause, pause);
            }
            let remedy = of_failure(method(path), &Failure::Broken("reset".into()));
            assert_eq!((remedy.status.code(), remedy.pause), (Code::Unavailable, pause));
            assert!(remedy.jittered() >= pause && remedy.jittered() < pause.mul_f64(1.5));
        }
        let leaderless = headers(Code::Unavailable, Error::NoLeader.message());
        assert!(of_status(method(WATCH), &leaderless).is_none(), "the client asked to hear of a lost leader");
    }

    #[test]
    fn an_oversized_message_on_a_stream_is_told_as_it_is() {
        let oversized = headers(Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 8)");
        assert!(of_status(method(WATCH), &oversized).is_none());
    }

    #[test]
    fn too_many_requests_gets_the_code_that_etcds_table_gives_it() {
        let sent = headers(Code::Unknown, "etcdserver: too many requests");
        for path in [PUT, RANGE] {
            let remedy = of_status(method(path), &sent).expect("a remedy");
            assert_eq!(remedy.status.code(), Code::ResourceExhausted);
            assert_eq!(remedy.status.message(), "etcdserver: too many requests");
        }
        assert_eq!(of_status(method(WATCH), &sent).expect("a remedy").status.code(), Code::Unavailable);
        assert!(of_status(method(PUT), &headers(Code::Unknown, "another")).is_none());
    }

    #[test]
    fn overwriting_keeps_other_metadata() {
        let mut trailers = headers(Code::Cancelled, "context canceled");
        trailers.insert("grpc-status-details-bin", "AAAA".parse().unwrap());
        trailers.insert("x-kept", "yes".parse().unwrap());
        overwrite(&mut trailers, &Error::Timeout.into());
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(text(&trailers), "etcdserver: request timed out");
        assert_eq!(trailers["x-kept"], "yes");
        assert!(!trailers.contains_key("grpc-status-details-bin"));
    }
}
