//! Connections to a target.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// The largest answer that is taken, in bytes: as etcd's own client, no practical limit.
pub const MAX_ANSWER: usize = i32::MAX as usize;

/// Opens `count` separate connections; under TLS if there is a certificate to trust.
pub async fn connect(address: SocketAddr, count: usize, trusted: Option<&Path>) -> anyhow::Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .tcp_nodelay(true);
    let tls = match trusted {
        Some(path) => Some(tls(path).await?),
        None => None,
    };
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        let connected = match tls.clone() {
            None => endpoint.connect().await,
            Some(tls) => {
                let connector = move |_: Uri| handshake(tls.clone(), address);
                endpoint.connect_with_connector(tower::service_fn(connector)).await
            }
        };
        channels.push(connected.with_context(|| format!("cannot connect to {address}"))?);
    }
    Ok(channels)
}

/// As [`connect`] without TLS, from an address of this machine: a server takes what comes from another one for another
/// client's.
pub async fn connect_from(source: Ipv4Addr, address: SocketAddr, count: usize) -> anyhow::Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        let connector = move |_: Uri| async move { tcp_from(source, address).await.map(TokioIo::new) };
        let connected = endpoint.connect_with_connector(tower::service_fn(connector)).await;
        channels.push(connected.with_context(|| format!("cannot connect to {address}"))?);
    }
    Ok(channels)
}

/// A TCP connection from an address of this machine.
pub async fn tcp_from(source: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn handshake(
    tls: TlsConnector,
    address: SocketAddr,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(tls.connect(ServerName::from(address.ip()), stream).await?))
}

/// Trusts the certificate in a file. A server that makes its own may listen before it has written it.
async fn tls(trusted: &Path) -> anyhow::Result<TlsConnector> {
    let mut found = CertificateDer::from_pem_file(trusted);
    for _ in 0..100 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = CertificateDer::from_pem_file(trusted);
    }
    let mut roots = RootCertStore::empty();
    roots.add(found.with_context(|| format!("no certificate in {}", trusted.display()))?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
