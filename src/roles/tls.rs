//! From TLS flags to what ends and begins TLS.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use forebay_edge::tls::{
    Acceptor, Allowed, ClientOptions, Connector, KeyPair, Protocol, ServerOptions, Verify, Version, self_signed,
};
use forebay_gateway::upstream::{self, TcpConnector, TlsConnector};

use crate::flags::{
    gateway::GatewayConfig,
    server_config::{ServerConfig, TlsFiles, TlsVersion},
    url::Url,
};

fn version(version: TlsVersion) -> Version {
    match version {
        TlsVersion::Tls12 => Version::Tls12,
        TlsVersion::Tls13 => Version::Tls13,
    }
}

fn given(files: &TlsFiles) -> Option<KeyPair> {
    let (certificate, key) = files.cert_file.clone().zip(files.key_file.clone())?;
    Some(KeyPair { certificate, key })
}

fn server_options(files: &TlsFiles, identity: KeyPair, protocol: Protocol) -> ServerOptions {
    let allowed = match (&files.allowed_common_names, &files.allowed_hostnames) {
        (names, hosts) if names.is_empty() && hosts.is_empty() => Allowed::Any,
        (names, hosts) if hosts.is_empty() => Allowed::CommonNames(names.clone()),
        (_, hosts) => Allowed::Hostnames(hosts.clone()),
    };
    ServerOptions {
        client_authorities: files.trusted_ca_file.clone(),
        revoked: files.crl_file.clone(),
        allowed,
        protocol,
        ..ServerOptions::new(identity)
    }
}

fn acceptor(files: &TlsFiles, identity: KeyPair, protocol: Protocol) -> anyhow::Result<Acceptor> {
    Acceptor::new(server_options(files, identity, protocol)).context("cannot set up TLS for clients")
}

/// A certificate of our own making for these addresses, kept where etcd keeps its own.
fn made(data_dir: &Path, side: &str, urls: &[Url], years: u64) -> anyhow::Result<KeyPair> {
    let hosts: Vec<String> = urls.iter().filter_map(Url::host).map(str::to_owned).collect();
    Ok(self_signed(&data_dir.join("fixtures").join(side), &hosts, years)?)
}

/// The certificate of one side of a member, made if it is to be.
fn member_identity(config: &ServerConfig, side: &str, files: &TlsFiles, urls: &[Url]) -> anyhow::Result<KeyPair> {
    let prefix = if side == "peer" { "peer-" } else { "" };
    match given(files) {
        Some(identity) => Ok(identity),
        None if files.auto_tls => made(&config.data_dir, side, urls, config.self_signed_cert_validity_years),
        None => anyhow::bail!(
            "https needs a certificate: give --{prefix}cert-file and --{prefix}key-file, or --{prefix}auto-tls"
        ),
    }
}

fn member_protocol(config: &ServerConfig) -> Protocol {
    Protocol {
        min: version(config.tls_min_version),
        max: config.tls_max_version.map(version),
        cipher_suites: config.cipher_suites.clone(),
    }
}

/// How members talk to each other under TLS.
pub(super) struct PeerTls {
    /// Where they come in.
    pub(super) acceptor: Option<Acceptor>,
    /// Where this one connects.
    pub(super) connector: Option<Connector>,
}

/// How a member talks to the others: under TLS where it listens on https, and where their URLs say so.
pub(super) fn member_peers(config: &ServerConfig) -> anyhow::Result<PeerTls> {
    let files = &config.peer_tls;
    let listens = config.listen_peer_urls.iter().any(Url::is_tls);
    if !listens && given(files).is_none() && !files.auto_tls && files.trusted_ca_file.is_none() {
        return Ok(PeerTls { acceptor: None, connector: None });
    }
    let identity = member_identity(config, "peer", files, &config.listen_peer_urls)?;
    // Members speak HTTP/1.1 to each other.
    let speaks = vec!["http/1.1"];
    let acceptor = match listens {
        false => None,
        true => {
            let mut options = server_options(files, identity.clone(), member_protocol(config));
            (options.speaks, options.check_address) = (speaks.clone(), !files.skip_client_san_verification);
            Some(Acceptor::new(options).context("cannot set up TLS for peers")?)
        }
    };
    let verify = match &files.trusted_ca_file {
        Some(authorities) => Verify::Authorities(authorities.clone()),
        // Certificates that members made for themselves are signed by nobody.
        None if files.auto_tls => Verify::InsecureSkip,
        None => Verify::System,
    };
    let shown = match (&files.client_cert_file, &files.client_key_file) {
        (Some(certificate), Some(key)) => KeyPair { certificate: certificate.clone(), key: key.clone() },
        _ => identity,
    };
    let options =
        ClientOptions { verify, identity: Some(shown), server_name: None, protocol: member_protocol(config), speaks };
    let connector = Some(Connector::new(options).context("cannot set up TLS towards peers")?);
    Ok(PeerTls { acceptor, connector })
}

/// How a member's ports for clients and metrics end TLS, if any of them has it.
pub(super) fn member_clients(config: &ServerConfig) -> anyhow::Result<Option<Acceptor>> {
    let ports = [&config.listen_client_urls, &config.listen_client_http_urls, &config.listen_metrics_urls];
    if !ports.into_iter().flatten().any(Url::is_tls) {
        return Ok(None);
    }
    let identity = member_identity(config, "client", &config.client_tls, &config.listen_client_urls)?;
    acceptor(&config.client_tls, identity, member_protocol(config)).map(Some)
}

/// How a gateway's ports end TLS, if any of them has it.
pub(super) fn gateway_clients(config: &GatewayConfig) -> anyhow::Result<Option<Acceptor>> {
    let tls = &config.tls;
    let (data_dir, years) = &tls.self_signed;
    let urls = || config.listen_client_urls.iter().chain(&config.listen_metrics_urls);
    let identity = match given(&tls.clients) {
        Some(identity) => identity,
        None if tls.clients.auto_tls && urls().any(Url::is_tls) => {
            made(data_dir, "proxy", &urls().cloned().collect::<Vec<_>>(), *years)?
        }
        None => return Ok(None),
    };
    let protocol = Protocol {
        min: version(tls.min_version),
        max: tls.max_version.map(version),
        cipher_suites: tls.cipher_suites.clone(),
    };
    acceptor(&tls.clients, identity, protocol).map(Some)
}

/// How a gateway connects to its endpoints.
pub(super) fn upstream(config: &GatewayConfig) -> anyhow::Result<Arc<dyn upstream::Connector>> {
    let tls = &config.tls.upstream;
    if !config.endpoints.iter().any(|endpoint| endpoint.starts_with("https:")) {
        return Ok(Arc::new(TcpConnector));
    }
    let identity = tls.identity.clone().map(|(certificate, key)| KeyPair { certificate, key });
    if let Some(identity) = &identity
        && let Some(name) = identity.common_name()?
    {
        anyhow::ensure!(
            tls.allow_common_name,
            "the certificate {} has the common name {name:?}: an etcd with auth would take every call without a token \
             for that user's; use one without, or say --allow-cert-common-name if that is meant",
            identity.certificate.display()
        );
        tracing::warn!(
            common_name = name,
            "the upstream's certificate has a common name: with auth on, every call without a token is that user's"
        );
    }
    let verify = match (&tls.authorities, tls.insecure_skip_verify) {
        (_, true) => {
            tracing::warn!(
                "--insecure-skip-tls-verify is set: endpoints are not verified, and whoever answers is believed"
            );
            Verify::InsecureSkip
        }
        (Some(authorities), false) => Verify::Authorities(authorities.clone()),
        (None, false) => Verify::System,
    };
    let server_name = tls.server_name.clone();
    let options = ClientOptions { verify, identity, server_name, protocol: Protocol::default(), speaks: vec!["h2"] };
    let connector = Connector::new(options).context("cannot set up TLS to the endpoints")?;
    Ok(Arc::new(TlsConnector(connector)))
}
