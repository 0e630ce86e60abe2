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

use crate::{
    grpc::Follower,
    listener::{Collected, Held, Memory},
};

/// An answer up to this length goes out in one piece.
const PIECE: usize = 64 << 10;

/// What a body can fail with; a reset of the peer's stream keeps its `h2` cause inside.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sees what passes through a body; dropped with it, whether or not all of it passed.
pub trait Meter: Send {
    /// A piece of data passed.
    fn data(&mut self, data: &Bytes);
    /// The trailers passed, and with them the end.
    fn trailers(&mut self, trailers: &HeaderMap);
}

/// The body of a request or a response.
pub struct Body {
    kind: Kind,
    meter: Option<Box<dyn Meter>>,
    /// The memory that the whole of it takes, if it is much and does not go with its data.
    held: Held,
    /// Whether the data that is ready has its memory with it.
    is_counted: bool,
    /// Of a gRPC request from the network: what somebody holds of the message that is not whole yet.
    coming: Option<Box<Coming>>,
}

/// A message of which a part has come.
struct Coming {
    message: Follower,
    collected: Collected,
}

enum Kind {
    /// Data and trailers that are ready; what was sent is taken out.
    Ready { data: Option<Bytes>, trailers: Option<HeaderMap> },
    /// Bytes from the network.
    Incoming(Incoming),
    /// Anything else.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    fn of(kind: Kind) -> Body {
        Body { kind, meter: None, held: Held::default(), is_counted: false, coming: None }
    }

    /// A gRPC request from the network. What has come of a message that is not whole is counted: whoever reads it has to
    /// keep that for as long as the client likes.
    pub(crate) fn of_messages(body: Incoming, memory: Memory) -> Body {
        if http_body::Body::is_end_stream(&body) {
            return Body::from(body);
        }
        let coming = Coming { message: Follower::default(), collected: Collected::new(memory) };
        Body { coming: Some(Box::new(coming)), ..Body::from(body) }
    }

    /// How much data is ready and was not counted.
    pub(crate) fn uncounted(&self) -> usize {
        match &self.kind {
            Kind::Ready { data: Some(data), .. } if !self.is_counted => data.len(),
            _ => 0,
        }
    }

    /// Keeps memory counted until the body is dropped, and the data that is ready is gone.
    pub fn holding(mut self, held: Held) -> Body {
        match &mut self.kind {
            Kind::Ready { data: Some(data), .. } => {
                self.is_counted = held.is_counted();
                *data = held.with(std::mem::take(data));
            }
            _ => self.held = held,
        }
        self
    }

    /// Lets `meter` see what passes from now on; what is [whole](Body::whole) it sees at once.
    pub fn metered(self, mut meter: impl Meter + 'static) -> Body {
        if let Some((data, trailers)) = self.whole() {
            meter.data(data);
            meter.trailers(trailers);
            return self;
        }
        assert!(self.meter.is_none(), "a body is metered once in each direction");
        Body { meter: Some(Box::new(meter)), ..self }
    }

    /// The message and the status of an answer that has nothing to wait for and goes out in one piece: whoever wants
    /// to see it need not follow it to its end.
    pub fn whole(&self) -> Option<(&Bytes, &HeaderMap)> {
        match &self.kind {
            Kind::Ready { data: Some(data), trailers: Some(trailers) } if data.len() <= PIECE => Some((data, trailers)),
            _ => None,
        }
    }

    /// No data, no trailers.
    pub fn empty() -> Body {
        Body::of(Kind::Ready { data: None, trailers: None })
    }

    /// One piece of data without trailers.
    pub fn full(data: impl Into<Bytes>) -> Body {
        Body::of(Kind::Ready { data: Some(data.into()), trailers: None })
    }

    /// One piece of data, then trailers.
    pub fn with_trailers(data: Bytes, trailers: HeaderMap) -> Body {
        Body::of(Kind::Ready { data: Some(data), trailers: Some(trailers) })
    }

    /// Any other body.
    pub fn new<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body::of(Kind::Boxed(Box::pin(http_body_util::BodyExt::map_err(body, Into::into))))
    }

    /// A gRPC response body: each item is whole gRPC frames; the stream's end or its error becomes
    /// the status in the trailers.
    pub fn grpc_stream<S>(frames: S) -> Body
    where
        S: Stream<Item = Result<Bytes, Status>> + Send + 'static,
    {
        Body::of(Kind::Boxed(Box::pin(GrpcStream { frames: Some(Box::pin(frames)) })))
    }
}

impl Kind {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Kind::Ready { data, trailers } => {
                Poll::Ready(data.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Kind::Incoming(body) => http_body::Body::poll_frame(Pin::new(body), cx).map_err(Into::into),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
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
        Body::of(Kind::Incoming(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Body { kind, meter, coming, .. } = &mut *self;
        let frame = std::task::ready!(kind.poll_frame(cx));
        if let (Some(Coming { message, collected }), Some(Ok(frame))) = (coming.as_deref_mut(), &frame)
            && let Some(data) = frame.data_ref()
            && collected.set(message.read(data, |_| {})).is_err()
        {
            *coming = None;
            return Poll::Ready(Some(Err(Status::from(forebay_proto::Error::TooManyRequests).into())));
        }
        if let (Some(meter), Some(Ok(frame))) = (meter, &frame) {
            if let Some(data) = frame.data_ref() {
                meter.data(data);
            } else if let Some(trailers) = frame.trailers_ref() {
                meter.trailers(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Ready { data, trailers } => data.is_none() && trailers.is_none(),
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Ready { data, trailers: None } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            // A stated length has some clients, curl among them, stop before the trailers.
            Kind::Ready { .. } => SizeHint::default(),
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
