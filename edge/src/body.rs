//! One body type for requests and responses, so that layers compose without boxing each other.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;

/// What a body can fail with; a reset of the peer's stream keeps its `h2` cause inside.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or a response.
pub struct Body(Kind);

enum Kind {
    /// Data and trailers that are ready; what was sent is taken out.
    Ready { data: Option<Bytes>, trailers: Option<HeaderMap> },
    /// Bytes from the network.
    Incoming(Incoming),
    /// Anything else.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    /// No data, no trailers.
    pub fn empty() -> Body {
        Body(Kind::Ready { data: None, trailers: None })
    }

    /// One piece of data without trailers.
    pub fn full(data: impl Into<Bytes>) -> Body {
        Body(Kind::Ready { data: Some(data.into()), trailers: None })
    }

    /// One piece of data, then trailers.
    pub fn with_trailers(data: Bytes, trailers: HeaderMap) -> Body {
        Body(Kind::Ready { data: Some(data), trailers: Some(trailers) })
    }

    /// Any other body.
    pub fn new<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body(Kind::Boxed(Box::pin(http_body_util::BodyExt::map_err(body, Into::into))))
    }

    /// A gRPC response body: each item is whole gRPC frames; the stream's end or its error becomes
    /// the status in the trailers.
    pub fn grpc_stream<S>(frames: S) -> Body
    where
        S: Stream<Item = Result<Bytes, Status>> + Send + 'static,
    {
        Body(Kind::Boxed(Box::pin(GrpcStream { frames: Some(Box::pin(frames)) })))
    }

    /// The data, if all of it is at hand and nothing else follows.
    pub(crate) fn into_ready(self) -> Result<Option<Bytes>, Body> {
        match self.0 {
            Kind::Ready { data, .. } => Ok(data),
            kind => Err(Body(kind)),
        }
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::empty()
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Body {
        Body(Kind::Incoming(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Ready { data, trailers } => {
                Poll::Ready(data.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Kind::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Ready { data, trailers } => data.is_none() && trailers.is_none(),
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Ready { data, .. } => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

struct GrpcStream<S> {
    /// Taken when the trailers went out.
    frames: Option<Pin<Box<S>>>,
}

impl<S: Stream<Item = Result<Bytes, Status>>> http_body::Body for GrpcStream<S> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frames) = &mut self.frames else { return Poll::Ready(None) };
        let status = match std::task::ready!(frames.as_mut().poll_next(cx)) {
            Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.frames = None;
        Poll::Ready(Some(Ok(Frame::trailers(crate::grpc::trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }
}
