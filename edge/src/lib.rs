//! The serving face that the bundled server and the gateway share: one port that speaks gRPC and
//! JSON over HTTP/1.1 and HTTP/2.
//!
//! An etcd API is one value here, an [`Api`]: a gRPC request goes in, a gRPC response comes out.
//! The server's member is one, the gateway's stack is one, and a [`listener`] serves either. JSON
//! requests are transcoded into gRPC calls on the same value, so both behave alike by construction.

mod body;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod metrics;
pub mod range;
pub mod tls;
pub mod trace;
pub mod watch;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use body::{Body, BoxError, Meter};

/// A request on its way into an [`Api`].
pub type Request = ::http::Request<Body>;
/// A response on its way out of an [`Api`].
pub type Response = ::http::Response<Body>;

/// Something that answers gRPC calls.
///
/// Dropping the future abandons the call: whatever it holds is released, though a proposal that
/// was handed to raft is not undone by that.
pub trait Service: Send + Sync + 'static {
    /// Answers one call. Errors are responses too: a status in the trailers.
    fn call(&self, request: Request) -> BoxFuture<'static, Response>;
}

/// A shared [`Service`].
#[derive(Clone)]
pub struct Api(Arc<dyn Service>);

impl Api {
    /// Wraps a service.
    pub fn new(service: impl Service) -> Api {
        Api(Arc::new(service))
    }

    /// Answers one call.
    pub fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        self.0.call(request)
    }
}
