//! The end of a call: what it really cost is settled, and what it held is given back.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use forebay_edge::{Body, BoxError, Response, grpc};
use forebay_policies::{Actual, Client, Cost, Kind, Receipt, Rpc, heavy::Sums};
use forebay_proto::{Error, etcdserverpb::AuthenticateResponse};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use prost::Message as _;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tonic::Code;

use super::{
    Admission, Admitted,
    admit::{attributes, login},
    answers::RULE,
    memory::Reserved,
    namespace::{Confinement, outward},
    seats::now,
    tally::{self, Tally},
};
use crate::{call::Failure, replies, rescue};

/// What a request that was let in holds; settled when it is dropped, whatever became of it.
pub(super) struct Held {
    admission: Admission,
    admitted: Arc<Admitted>,
    receipt: Option<Receipt>,
    /// Its memory and, of a login, its turn.
    _reserved: (Reserved, Option<OwnedSemaphorePermit>),
    /// For a client that sees a part of the key space.
    confinement: Option<Confinement>,
    began: Instant,
    tally: Tally,
    /// Whether it went to the upstream.
    forwarded: bool,
    /// Whether it was refused on the way there.
    refused: bool,
    is_unary: bool,
    /// Until a status is seen the client has gone away.
    code: Code,
}

impl Held {
    pub(super) fn new(
        admission: Admission,
        admitted: Arc<Admitted>,
        receipt: Receipt,
        _reserved: (Reserved, Option<OwnedSemaphorePermit>),
        confinement: Option<Confinement>,
    ) -> Held {
        let fields = match admitted.rpc {
            Rpc::Range => tally::RANGE,
            Rpc::RangeStream => tally::RANGE_STREAM,
            Rpc::Watch => tally::WATCH,
            _ => tally::NOTHING,
        };
        let (began, tally) = (Instant::now(), Tally::new(fields));
        let receipt = Some(receipt);
        let is_unary = admitted.rpc.kind() != Kind::Stream;
        Held {
            admission,
            admitted,
            receipt,
            _reserved,
            confinement,
            began,
            tally,
            is_unary,
            forwarded: false,
            refused: false,
            code: Code::Cancelled,
        }
    }

    /// The part of the key space that the client sees; can be taken once.
    pub(super) fn confinement(&mut self) -> Option<Confinement> {
        self.confinement.take()
    }

    /// Who sent it.
    pub(super) fn client(&self) -> &Client {
        &self.admitted.client
    }

    /// Lets the answer pass, and settles at its end.
    pub(super) async fn settling(mut self, response: Response) -> Result<Response, Failure> {
        self.refused = response.headers().contains_key(RULE);
        self.forwarded = !self.refused;
        let response = if self.admitted.rpc == Rpc::Authenticate { self.logged_in(response).await? } else { response };
        if let Some(code) = rescue::code(response.headers()) {
            self.ended(code);
            return Ok(response);
        }
        let (rpc, confinement) = (self.admitted.rpc, self.confinement());
        if let (None, Some((data, trailers))) = (&confinement, response.body().whole()) {
            self.passed(data);
            self.trailers(trailers);
            return Ok(response);
        }
        Ok(response.map(|inner| outward(confinement, rpc, Body::new(Settling { inner, held: Some(self) }))))
    }

    /// Remembers whose token it is that the upstream hands out, or who guessed wrongly.
    async fn logged_in(&self, response: Response) -> Result<Response, Failure> {
        let (mut head, body) = response.into_parts();
        match replies::unary(Response::from_parts(head.clone(), body)).await? {
            Ok((message, trailers)) => {
                let user = self.admitted.asked.as_ref().and_then(|asked| asked.user.as_deref());
                let user = user.and_then(|user| std::str::from_utf8(user).ok());
                if let (Some(user), Ok(answer)) = (user, AuthenticateResponse::decode(message.clone())) {
                    self.admission.0.identities.logged_in(user, &answer.token);
                }
                Ok(Response::from_parts(head, Body::with_trailers(grpc::framed(&message), trailers)))
            }
            Err(trailers) => {
                if rescue::text(&trailers) == Error::AuthFailed.message()
                    && let Some((address, user)) = login(&self.admitted.client, self.admitted.asked.as_ref())
                {
                    self.admission.0.guesses.lock().failed(now(), address, user);
                }
                head.headers.extend(trailers);
                Ok(Response::from_parts(head, Body::empty()))
            }
        }
    }

    /// The answer ended with this code.
    pub(super) fn ended(&mut self, code: Code) {
        self.code = code;
        if code == Code::Unauthenticated
            && let Some(token) = self.admitted.token
        {
            self.admission.0.identities.refused(token);
        }
    }

    /// A piece of the answer passed.
    pub(super) fn passed(&mut self, data: &[u8]) {
        self.tally.read(data);
    }

    /// The end of the answer passed.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        self.ended(rescue::code(trailers).unwrap_or(Code::Unknown));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(receipt) = self.receipt.take() else { return };
        let shared = &self.admission.0;
        let admitted = &self.admitted;
        let counted = self.tally.counted();
        let request = attributes(&admitted.client, admitted.rpc, admitted.asked.as_ref());
        let actual = Actual { objects: counted.objects, bytes: counted.bytes };
        let load = if self.forwarded { Cost::settle(&request, actual).load } else { 0 };
        shared.accounts.lock().settle(now(), &admitted.policy.policy, receipt, load);
        shared.ended.notify_waiters();
        shared.metrics.load.inc_by(load);
        let lasted = self.began.elapsed();
        let did = Sums {
            requests: 1,
            objects: counted.objects + u64::from(request.writes),
            bytes: request.bytes + counted.bytes,
            queued: u64::from(!admitted.waits.total().is_zero()),
            refused: u64::from(self.refused),
        };
        shared.count(&admitted.policy.policy, &request, did, Some(lasted));
        shared.show(admitted, did, lasted, self.code);
        if self.is_unary && lasted >= shared.slow {
            shared.say_slow(admitted, did, lasted, self.code);
        }
        if self.code == Code::Ok
            && admitted.asked.as_ref().is_some_and(|asked| asked.range.is_some_and(|range| range.plain))
        {
            shared.sizes.lock().learn(&request, actual, counted.total);
        }
    }
}

/// An answer on its way to the client.
struct Settling {
    inner: Body,
    /// Taken when the trailers pass; a body may be held long after.
    held: Option<Held>,
}

impl http_body::Body for Settling {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let (Some(Ok(frame)), Some(held)) = (&frame, &mut self.held) {
            if let Some(data) = frame.data_ref() {
                held.passed(data);
            } else if let Some(trailers) = frame.trailers_ref() {
                held.trailers(trailers);
                self.held = None;
            }
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
