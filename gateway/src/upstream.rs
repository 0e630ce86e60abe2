//! What the gateway forwards to.
//!
//! [`Upstream::Remote`] is a pool of HTTP/2 connections to the endpoints of a cluster. It speaks
//! HTTP/2 through `h2` itself and not through a client library above it: forwarding needs to know
//! whether a stream was ever opened, who reset it and why, and when that lets a call go elsewhere.
//! The upload of a call is driven by whoever polls its response, so nothing is spawned per call and
//! dropping a response resets the upstream's stream at once.
//!
//! In reading order: [`Address`] names an endpoint, `connector` opens a socket to it, `connection`
//! is one HTTP/2 connection, `exchange` one call on it with its `upload`, `unread` gives up answers
//! that no client takes, `probe` asks for its health, `endpoint` keeps connections open, `pool`
//! chooses between endpoints, `forward` takes a call through all of it, unless it is `deadly`.

mod address;
mod backoff;
mod budget;
mod cluster;
mod connection;
mod connector;
mod deadly;
mod endpoint;
mod exchange;
mod forward;
mod pool;
mod probe;
mod unread;
mod upload;

use forebay_edge::{Api, Response, trace};

pub use address::{Address, AddressError};
pub use connector::{Connector, Io, TcpConnector, TlsConnector};
pub use endpoint::{Health, Rank};
pub use pool::Pool;

use crate::call::{Call, Failure, Handler};

/// Where calls end up.
#[derive(Clone)]
pub enum Upstream {
    /// The members of a cluster, over the network.
    Remote(Pool),
    /// A member in this process: a call, no socket.
    Local(Api),
}

impl Handler for Upstream {
    async fn handle(&self, mut call: Call) -> Result<Response, Failure> {
        let span = trace::outbound("upstream", call.request.headers_mut());
        let response = match self {
            Upstream::Remote(pool) => pool.forward(call).await?,
            Upstream::Local(api) => api.call(*call.request).await,
        };
        Ok(match span {
            Some(span) => span.until_end(response),
            None => response,
        })
    }
}
