//! Connections to a target.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, bail};
use forebay_proto::etcdserverpb::{AuthenticateRequest, auth_client::AuthClient};
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;
use tonic::{
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

/// The largest answer that is taken, in bytes: as etcd's own client, no practical limit.
pub const MAX_ANSWER: usize = i32::MAX as usize;

/// One connection. Clones share it; it is opened again when it breaks.
pub type Connection = InterceptedService<Channel, Token>;

/// Begins TLS on a connection to a host, with whatever the user wants to be believed and shown.
pub type Tls = Arc<dyn Fn(TcpStream, String) -> BoxFuture<'static, io::Result<Stream>> + Send + Sync>;

/// What is under load: one server, or several that take connections in turns.
#[derive(Clone)]
pub struct Target {
    /// `host:port` or URLs.
    pub endpoints: Vec<String>,
    /// For endpoints of scheme `https`.
    pub tls: Option<Tls>,
    /// Name and password, where the target wants them.
    pub user: Option<(String, String)>,
    /// How long a connection may take to open.
    pub dial_timeout: Duration,
    /// An address of this machine to come from: a server takes what comes from another one for another client's.
    pub source: Option<Ipv4Addr>,
}

impl Target {
    /// One that listens at an address of this machine, without TLS.
    pub fn at(address: SocketAddr) -> Target {
        let (endpoints, dial_timeout) = (vec![address.to_string()], Duration::from_secs(5));
        Target { endpoints, tls: None, user: None, dial_timeout, source: None }
    }

    /// As it was named.
    pub fn name(&self) -> String {
        self.endpoints.join(",")
    }

    /// Opens so many separate connections.
    pub async fn connect(&self, count: usize) -> anyhow::Result<Vec<Connection>> {
        let mut token = Token(None);
        let mut connections = Vec::with_capacity(count);
        for number in 0..count.max(1) {
            let endpoint = &self.endpoints[number % self.endpoints.len()];
            let opened = self.open(endpoint).await.with_context(|| format!("cannot connect to {endpoint}"))?;
            if let (Some((name, password)), None) = (&self.user, &token.0) {
                let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
                let answer = AuthClient::new(opened.clone()).authenticate(request).await;
                let answer = answer.with_context(|| format!("cannot log in as {name}"))?.into_inner();
                token.0 = Some(answer.token.parse().context("the token is no header")?);
            }
            connections.push(InterceptedService::new(opened, token.clone()));
        }
        Ok(connections)
    }

    /// Opens a connection that says nothing.
    pub async fn dial(&self) -> anyhow::Result<TcpStream> {
        let (_, address) = located(self.endpoints.first().context("a target has an endpoint")?)?;
        Ok(dial(address, self.source).await?)
    }

    /// As [`Target::dial`], under TLS where the target has it.
    pub async fn dial_ready(&self) -> anyhow::Result<Stream> {
        let (url, address) = located(self.endpoints.first().context("a target has an endpoint")?)?;
        Ok(begin(address, self.source, self.tls_of(&url)?).await?)
    }

    /// What an endpoint wants to be spoken to under.
    fn tls_of(&self, url: &Uri) -> anyhow::Result<Option<Tls>> {
        match (url.scheme_str(), &self.tls) {
            (Some("https"), None) => bail!("no certificate is trusted"),
            (Some("https"), tls) => Ok(tls.clone()),
            _ => Ok(None),
        }
    }

    async fn open(&self, endpoint: &str) -> anyhow::Result<Channel> {
        let (url, address) = located(endpoint)?;
        let authority = url.authority().context("an address has a host and a port")?;
        let tls = self.tls_of(&url)?;
        // Of scheme http also under TLS, which the connector below has done.
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?
            .user_agent("forebay-bench")?
            .connect_timeout(self.dial_timeout)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        let source = self.source;
        let connector = tower::service_fn(move |_: Uri| {
            let (address, tls) = (address.clone(), tls.clone());
            async move { begin(address, source, tls).await.map(TokioIo::new) }
        });
        Ok(endpoint.connect_with_connector(connector).await?)
    }
}

/// What an endpoint names.
fn located(endpoint: &str) -> anyhow::Result<(Uri, (String, u16))> {
    let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let url: Uri = url.parse().context("this is no address")?;
    let authority = url.authority().context("an address has a host and a port")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(2379);
    Ok((url, (host, port)))
}

/// A TCP connection, from an address of this machine if one is named and can reach that host.
async fn dial((host, port): (String, u16), source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let here =
        tokio::net::lookup_host((host.as_str(), port)).await?.find(|found| found.is_ipv4() && found.ip().is_loopback());
    let stream = match (source, here) {
        (Some(source), Some(address)) => {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((source, 0)))?;
            socket.connect(address).await?
        }
        _ => TcpStream::connect((host.as_str(), port)).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The same, and TLS on it.
async fn begin(address: (String, u16), source: Option<Ipv4Addr>, tls: Option<Tls>) -> io::Result<Stream> {
    let host = address.0.clone();
    let stream = dial(address, source).await?;
    match tls {
        None => Ok(Stream::new(stream)),
        Some(tls) => tls(stream, host).await,
    }
}

/// What says who the client is, with every request.
#[derive(Clone, Debug)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A connection with or without TLS.
pub struct Stream(Box<dyn Duplex>);

/// What a connection can do.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Stream {
    /// Of anything that can be read and written.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Stream {
        Stream(Box::new(stream))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Trusts the certificate in a file. A server that makes its own may listen before it has written it.
pub async fn trusting(path: &Path) -> anyhow::Result<Tls> {
    let mut found = CertificateDer::from_pem_file(path);
    for _ in 0..100 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = CertificateDer::from_pem_file(path);
    }
    let mut roots = RootCertStore::empty();
    roots.add(found.with_context(|| format!("no certificate in {}", path.display()))?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    Ok(Arc::new(move |stream, host| {
        let connector = connector.clone();
        Box::pin(async move {
            let name =
                ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            Ok(Stream::new(connector.connect(name, stream).await?))
        })
    }))
}
