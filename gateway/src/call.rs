//! What travels through the stack: a call inwards, a response or a failure outwards.

use std::future::Future;

use forebay_edge::{BoxError, Request, Response};
use tokio::time::Instant;
use tonic::Status;

use crate::methods::Method;

/// A routed request.
pub(crate) struct Call {
    /// What the method may and may not be done to.
    pub(crate) method: &'static Method,
    /// When the caller stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// The request, undecoded. In a box, because every layer moves the call a few times.
    pub(crate) request: Box<Request>,
}

/// One layer of the stack with everything below it.
///
/// The stack is written with tower's `ServiceBuilder`, which composes any types. A layer is not a
/// `tower::Service` because nothing here needs `poll_ready`: a future that may be awaited by
/// reference costs no clone of the stack, and dropping it abandons the call.
///
/// A future contains those of all layers below it, and is moved when a layer begins to await it. So layers that keep
/// much of their own box what they await: without, a seventh of a call's CPU time went into moving futures.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one call.
    fn handle(&self, call: Call) -> impl Future<Output = Result<Response, Failure>> + Send;
}

/// Why there is no response, or why its body ended early. [`crate::rescue`] turns it into a status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Refused before anything was forwarded.
    #[error("refused: {0}")]
    Refused(Status),
    /// No endpoint was there to take the call; it surely never left.
    #[error("no endpoint is reachable")]
    Unreachable,
    /// The upstream's stream broke; the call may have been carried out.
    #[error("the upstream's stream broke")]
    Broken(#[source] BoxError),
    /// The caller's own deadline passed; the call may have been carried out.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The gateway is shutting down and did not take the call; it surely never left.
    #[error("the gateway is shutting down")]
    Draining,
    /// The gateway is shutting down and ended a stream that could have gone on.
    #[error("the gateway ended the stream to shut down")]
    Stopped,
}

impl Failure {
    /// A body's error is a failure, or a refusal of the listener; whatever is neither broke the stream.
    pub(crate) fn from_body(error: BoxError) -> Failure {
        let error = match error.downcast::<Failure>() {
            Ok(failure) => return *failure,
            Err(error) => error,
        };
        match error.downcast::<Status>() {
            Ok(refusal) => Failure::Refused(*refusal),
            Err(error) => Failure::Broken(error),
        }
    }
}

impl Failure {
    /// The same for another caller who waited for the same.
    pub(crate) fn again(&self) -> Failure {
        match self {
            Failure::Refused(status) => Failure::Refused(status.clone()),
            Failure::Unreachable => Failure::Unreachable,
            Failure::Broken(error) => Failure::Broken(error.to_string().into()),
            Failure::DeadlineExceeded => Failure::DeadlineExceeded,
            Failure::Draining => Failure::Draining,
            Failure::Stopped => Failure::Stopped,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Refused(status)
    }
}
