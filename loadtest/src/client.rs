//! Connections to a target.

use std::net::SocketAddr;

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint};

/// The largest answer that is taken, in bytes: as etcd's own client, no practical limit.
pub const MAX_ANSWER: usize = i32::MAX as usize;

/// Opens `count` separate connections.
pub async fn connect(address: SocketAddr, count: usize) -> anyhow::Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .tcp_nodelay(true);
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        channels.push(endpoint.connect().await.with_context(|| format!("cannot connect to {address}"))?);
    }
    Ok(channels)
}
