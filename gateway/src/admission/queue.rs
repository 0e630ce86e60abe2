//! The layer before the upstream: a seat for every request, in fair order.
//!
//! It stands below whatever answers without the upstream, so only what reaches the upstream takes a
//! seat. What carries no [`Admitted`] is the gateway's own and passes.

use futures::FutureExt as _;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use forebay_edge::{Body, BoxError, Response, trace};
use forebay_policies::{Entry, Kind, Rejected, Rpc, adaptive::Outcome};
use forebay_proto::Error;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Admission, Admitted,
    answers::{Refusal, What},
    memory::{Reserved, SMALL},
};
use crate::{
    call::{Call, Failure, Handler},
    methods::Shape,
    replies, rescue,
};

/// What of an answer that passes is held at most: the receive window of its stream.
const ANSWER_WINDOW: usize = 1 << 20;

/// The layer.
pub(crate) struct Queue<S> {
    inner: S,
    admission: Admission,
}

impl<S> Queue<S> {
    pub(crate) fn new(inner: S, admission: Admission) -> Queue<S> {
        Queue { inner, admission }
    }
}

impl<S> Queue<S> {
    /// The answer to who gets no seat.
    fn refused(&self, admitted: &Admitted, reason: &'static str) -> Response {
        let rule = admitted.policy.policy.rule(admitted.class.rule);
        let level = admitted.policy.policy.level(admitted.class.level);
        let refusal = Refusal { rule: rule.name.as_str().into(), reason, what: What::Later(level.max_wait) };
        self.admission.0.metrics.refused.with_label_values(&[&*refusal.rule, refusal.reason]).inc();
        refusal.response()
    }
}

impl<S: Handler> Handler for Queue<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        // A stream holds no seat: what it asks for was charged message by message. Nor does a call that waits for other
        // clients, which may need the seat to let it go on.
        let holds_a_seat = |rpc: Rpc| call.method.shape != Shape::Duplex && !rpc.waits_for_clients();
        let admitted = match call.request.extensions().get::<Arc<Admitted>>() {
            Some(admitted) if holds_a_seat(admitted.rpc) => Arc::clone(admitted),
            _ => return self.inner.handle(call).boxed().await,
        };
        let (level, flow) = (admitted.class.level, admitted.class.flow);
        let pressure = &self.admission.0.pressure;
        let may_be_refused = !admitted.policy.policy.level(level).exempt;
        if may_be_refused && let Some(reason) = pressure.refuses(level, flow) {
            return Ok(self.refused(&admitted, reason));
        }
        let patience = super::patience(call.deadline);
        let entry =
            Entry { level: admitted.class.level, flow: admitted.class.flow, seats: admitted.cost.seats, patience };
        let seats = match admitted.rpc.kind() {
            Kind::Read | Kind::Stream => &admitted.policy.reads,
            Kind::Write | Kind::Control => &admitted.policy.writes,
        };
        let span = trace::part("wait for a seat");
        let taken = seats.take(entry).await;
        drop(span);
        let seat = match taken {
            Ok(seat) => seat,
            Err(rejected) => return Ok(self.refused(&admitted, reason(rejected))),
        };
        if may_be_refused {
            pressure.waited(seat.waited);
        }
        admitted.waits.seat(seat.waited);
        self.admission.0.metrics.waited_for_seat(seat.waited);
        let mut reserved = self.admission.0.memory.none();
        let answer = usize::try_from(admitted.cost.load).unwrap_or(usize::MAX).min(ANSWER_WINDOW);
        if admitted.rpc.kind() == Kind::Read && answer > SMALL && reserved.grow(answer, patience).await.is_err() {
            return Ok(Refusal::no_memory().response());
        }
        let began = Instant::now();
        let response = self.inner.handle(call).boxed().await;
        if let Some(outcome) = outcome(admitted.rpc, &response) {
            pressure.answered(outcome);
            seat.answered(began.elapsed(), admitted.cost.units, outcome);
        }
        // With the head of its answer the upstream has done the work. How long the client takes to read
        // the rest is a matter of memory and must not keep others from a seat.
        drop(seat);
        Ok(response?.map(|inner| if answer > SMALL { Body::new(Held { inner, _reserved: reserved }) } else { inner }))
    }
}

/// What an answer tells of how the upstream bears its load. Its refusals of bad requests come faster
/// than answers do, and tell nothing.
fn outcome(rpc: Rpc, response: &Result<Response, Failure>) -> Option<Outcome> {
    if !matches!(rpc, Rpc::Range | Rpc::Put | Rpc::DeleteRange | Rpc::Txn) {
        return None;
    }
    let Ok(response) = response else { return None };
    let Some(code) = rescue::code(response.headers()) else { return Some(Outcome::Served) };
    let text = replies::status(response.headers());
    let overloaded = text.message() == Error::TooManyRequests.message()
        || code == Code::Unavailable && text.message().starts_with(Error::Timeout.message());
    overloaded.then_some(Outcome::Overloaded)
}

fn reason(rejected: Rejected) -> &'static str {
    match rejected {
        Rejected::QueueFull => "queue-full",
        Rejected::TimedOut => "queue-timeout",
        Rejected::Overloaded => "overload",
    }
}

/// An answer that has memory of its own until it was passed on.
struct Held {
    inner: Body,
    _reserved: Reserved,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
