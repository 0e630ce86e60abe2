//! Ends TLS where we listen.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Error, KeyPair, Protocol, Tls, certificates,
    identity::{self, Allowed, AllowedOnly},
    reload::Reloading,
};

/// How a listener does TLS.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// What clients are shown.
    pub identity: KeyPair,
    /// The authorities of which one must have signed each client's certificate; without, clients show none.
    pub client_authorities: Option<PathBuf>,
    /// What these authorities have taken back. Lists of others do not count, and neither does a client of whose
    /// authority there is no list.
    pub revoked: Option<PathBuf>,
    /// Which of the signed certificates are let in.
    pub allowed: Allowed,
    /// Whether a certificate must name the address that it comes from, as etcd's members ask of each other.
    pub check_address: bool,
    /// Versions and suites.
    pub protocol: Protocol,
    /// What is spoken inside, by ALPN's names, the most wanted first. A client that does not say what it wants is let
    /// in.
    pub speaks: Vec<&'static str>,
}

impl ServerOptions {
    /// Shows a certificate and asks for none.
    pub fn new(identity: KeyPair) -> ServerOptions {
        ServerOptions {
            identity,
            client_authorities: None,
            revoked: None,
            allowed: Allowed::Any,
            check_address: false,
            protocol: Protocol::default(),
            speaks: super::HTTP.to_vec(),
        }
    }

    fn paths(&self) -> Vec<PathBuf> {
        let identity = [&self.identity.certificate, &self.identity.key];
        identity.into_iter().chain(&self.client_authorities).chain(&self.revoked).cloned().collect()
    }

    fn build(&self) -> Result<ServerConfig, Error> {
        let provider = self.protocol.provider()?;
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&self.protocol.versions())?;
        let (chain, key) = certificates::key_pair(&self.identity)?;
        let unusable = |reason: rustls::Error| Error::Unusable {
            path: self.identity.certificate.clone(),
            what: "the certificate",
            reason: reason.to_string(),
        };
        let mut config = match &self.client_authorities {
            None => builder.with_no_client_auth().with_single_cert(chain, key).map_err(unusable)?,
            Some(authorities) => {
                let roots = certificates::authorities(authorities)?;
                let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                if let Some(revoked) = &self.revoked {
                    verifier = verifier
                        .with_crls(certificates::revocation_lists(revoked)?)
                        .only_check_end_entity_revocation()
                        .allow_unknown_revocation_status();
                }
                let signed = verifier.build().map_err(|reason| Error::Unusable {
                    path: self.revoked.as_ref().unwrap_or(authorities).clone(),
                    what: "the authorities or revocation lists",
                    reason: reason.to_string(),
                })?;
                let verifier = AllowedOnly { allowed: self.allowed.clone(), signed };
                let mut config = builder
                    .with_client_cert_verifier(Arc::new(verifier))
                    .with_single_cert(chain, key)
                    .map_err(unusable)?;
                // A resumed session is not verified again, and its certificate may have expired meanwhile.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                config
            }
        };
        config.alpn_protocols = self.speaks.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

/// Ends TLS. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<Reloading<ServerConfig>>,
    check_address: bool,
}

impl Acceptor {
    /// Reads the files once, so that what cannot work is said at the start.
    pub fn new(options: ServerOptions) -> Result<Acceptor, Error> {
        let check_address = options.check_address;
        let config = Reloading::new(options.paths(), move || options.build())?;
        Ok(Acceptor { config: Arc::new(config), check_address })
    }

    /// Shakes hands. The caller bounds the time.
    pub async fn accept<S>(&self, stream: S, from: SocketAddr) -> io::Result<(TlsStream<S>, Tls)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.config.get()).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
        if let Some(certificate) = &certificate
            && self.check_address
            && !identity::is_good_for_address(certificate, from.ip()).await
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("the certificate does not name the address {} that it comes from", from.ip()),
            ));
        }
        let common_name = certificate.as_ref().and_then(identity::common_name);
        Ok((stream, Tls { common_name }))
    }
}
