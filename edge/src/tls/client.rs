//! Begins TLS where we connect.

use std::{io, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Error, KeyPair, Protocol, certificates, identity, reload::Reloading};

/// How the other side is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// By the authorities that this machine trusts.
    System,
    /// By the authorities of a file.
    Authorities(PathBuf),
    /// Not at all: whoever answers is believed, and can read and change everything. Traffic is encrypted still.
    InsecureSkip,
}

/// How connections out of here do TLS.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// See [`Verify`].
    pub verify: Verify,
    /// What the other side is shown if it asks.
    pub identity: Option<KeyPair>,
    /// The name that the other side's certificate must be good for; the host of its address when `None`.
    pub server_name: Option<String>,
    /// Versions and suites.
    pub protocol: Protocol,
    /// What is spoken inside, by ALPN's names.
    pub speaks: Vec<&'static str>,
}

impl ClientOptions {
    fn paths(&self) -> Vec<PathBuf> {
        let authorities = match &self.verify {
            Verify::Authorities(path) => Some(path),
            Verify::System | Verify::InsecureSkip => None,
        };
        let identity = self.identity.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        authorities.into_iter().chain(identity).cloned().collect()
    }

    fn build(&self) -> Result<ClientConfig, Error> {
        let provider = self.protocol.provider()?;
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&self.protocol.versions())?;
        let verifier: Arc<dyn ServerCertVerifier> = match &self.verify {
            Verify::InsecureSkip => Arc::new(Anyone(provider)),
            verify => {
                let (roots, trusted) = match verify {
                    Verify::Authorities(path) => (certificates::authorities(path)?, certificates::certificates(path)?),
                    _ => (certificates::system_authorities()?, Vec::new()),
                };
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
                let signed = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
                Arc::new(SignedOrTrusted { signed, trusted })
            }
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let (chain, key) = certificates::key_pair(pair)?;
                builder.with_client_auth_cert(chain, key).map_err(|reason| Error::Unusable {
                    path: pair.certificate.clone(),
                    what: "the certificate",
                    reason: reason.to_string(),
                })?
            }
        };
        config.alpn_protocols = self.speaks.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

/// Begins TLS. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    config: Arc<Reloading<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    /// Reads the files once, so that what cannot work is said at the start.
    pub fn new(options: ClientOptions) -> Result<Connector, Error> {
        let server_name = options.server_name.as_deref().map(server_name).transpose()?;
        let config = Reloading::new(options.paths(), move || options.build())?;
        Ok(Connector { config: Arc::new(config), server_name })
    }

    /// Shakes hands with the host that was connected to. The caller bounds the time.
    pub async fn connect<S>(&self, stream: S, host: &str) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        TlsConnector::from(self.config.get()).connect(name, stream).await
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, Error> {
    // An IPv6 address stands in brackets where a port may follow.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).map_err(|_| Error::ServerName(host.to_owned()))
}

/// Believes whom an authority signed, and a certificate that is itself among those to trust. The library refuses an
/// authority's own certificate as a server's; Go does not, and what `--auto-tls` makes in etcd is one.
#[derive(Debug)]
struct SignedOrTrusted {
    signed: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for SignedOrTrusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if identity::is_authority_as_server(&error) && self.trusted.contains(end_entity) => {
                identity::verify_trusted(end_entity, server_name, now)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Believes whoever answers, as the operator asked for.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
