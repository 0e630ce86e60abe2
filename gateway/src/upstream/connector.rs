//! Opens the byte stream that an HTTP/2 connection runs over.

use std::io;

use forebay_edge::tls;
use futures::future::BoxFuture;
use http::uri::{Authority, Scheme};
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

/// Plain TCP; refuses an address that asks for more.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

/// TLS for `https`, plain TCP for `http`. The other side is verified on every connection, however its address was
/// found.
#[derive(Clone)]
pub struct TlsConnector(pub tls::Connector);

async fn tcp(authority: &Authority) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connector for TcpConnector {
    fn connect(&self, address: &Address) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let address = address.clone();
        Box::pin(async move {
            if address.scheme != Scheme::HTTP {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "this connector does not encrypt"));
            }
            Ok(Box::new(tcp(&address.authority).await?) as Box<dyn Io>)
        })
    }
}

impl Connector for TlsConnector {
    fn connect(&self, address: &Address) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        if address.scheme == Scheme::HTTP {
            return TcpConnector.connect(address);
        }
        let (tls, authority) = (self.0.clone(), address.authority.clone());
        Box::pin(async move {
            let stream = tcp(&authority).await?;
            Ok(Box::new(tls.connect(stream, authority.host()).await?) as Box<dyn Io>)
        })
    }
}
