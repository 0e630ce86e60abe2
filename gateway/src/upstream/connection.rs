//! One HTTP/2 connection to an endpoint.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use tokio::sync::watch;

use super::{Address, Io, endpoint::Endpoint};

/// Receive window of one stream: what a slow client makes us hold for it, times its streams. A list of five hundred
/// objects fits; a longer answer goes at this much for each round trip to the upstream.
pub(super) const STREAM_WINDOW: u32 = 256 << 10;
/// Receive window of the connection: as large as possible, so that streams of slow clients cannot
/// use it up and stop the others. The windows are fixed because measuring them takes pings, and
/// etcd ends connections that ping often.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Header fields of one response.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// Bytes of one stream's upload that wait to be written.
const SEND_BUFFER: usize = 256 << 10;
/// Resets of ours that the upstream may still answer to; a crowd of clients leaves at once when a
/// load balancer in front drops them, and their streams must not cost the others the connection.
const RESET_STREAMS_MAX: usize = 10_000;

/// The half that drives the socket.
pub(super) type Driver = client::Connection<Box<dyn Io>, Bytes>;

/// A connection that calls can be sent on.
pub(super) struct Connection {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) address: Address,
    sender: SendRequest<Bytes>,
    active: AtomicUsize,
    retired: watch::Sender<bool>,
}

impl Connection {
    /// Shakes hands over an open byte stream.
    pub(super) async fn open(endpoint: Arc<Endpoint>, io: Box<dyn Io>) -> io::Result<(Connection, Driver)> {
        let (sender, driver) = client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESET_STREAMS_MAX)
            // h2 counts late frames of forgotten streams over the life of a connection and then ends
            // it, against hostile peers. Ours is the upstream, and the connection carries watches.
            .max_local_error_reset_streams(None)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        let address = endpoint.address.clone();
        let retired = watch::Sender::new(false);
        Ok((Connection { endpoint, address, sender, active: AtomicUsize::new(0), retired }, driver))
    }

    /// A handle for one request.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// The connection takes no new streams: its endpoint replaces it, and its open streams go on.
    pub(super) fn retire(&self) {
        if !self.retired.send_replace(true) {
            self.endpoint.withdraw(self);
        }
    }

    /// Waits until the connection is retired.
    pub(super) async fn retired(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.retired.subscribe().wait_for(|retired| *retired).await;
    }

    /// Open streams.
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

/// Counts an open stream for as long as it lives.
pub(super) struct ActiveStream(Arc<Connection>);

impl ActiveStream {
    pub(super) fn new(connection: &Arc<Connection>) -> ActiveStream {
        connection.active.fetch_add(1, Ordering::Relaxed);
        ActiveStream(Arc::clone(connection))
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
