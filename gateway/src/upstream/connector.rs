//! Opens the byte stream that an HTTP/2 connection runs over. TLS is another connector.

use std::io;

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::Address;

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Opens byte streams to endpoints.
pub trait Connector: Send + Sync + 'static {
    /// Opens one. The caller bounds the time.
    fn connect(&self, address: &Address) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
}

/// Plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

impl Connector for TcpConnector {
    fn connect(&self, address: &Address) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let authority = address.authority.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(authority.as_str()).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}
