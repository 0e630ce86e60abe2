//! The gateway's TLS flags: towards clients named as etcd's, towards the upstream as etcdctl's.

use std::path::PathBuf;

use super::{CLIENTS, Settings, UPSTREAM};
use crate::flags::{
    Problem,
    server_config::{TlsFiles, TlsVersion},
    table::{Flag, Slot},
    tls,
    url::Url,
};

/// How the gateway encrypts, validated; the files have not been looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayTls {
    /// What clients are shown and asked for.
    pub clients: TlsFiles,
    /// Where a certificate is kept that is made, and for how many years it is good.
    pub self_signed: (PathBuf, u64),
    pub min_version: TlsVersion,
    /// `None` is the newest there is.
    pub max_version: Option<TlsVersion>,
    /// Names as Go spells them; empty leaves the choice to the library.
    pub cipher_suites: Vec<String>,
    pub upstream: UpstreamTls,
}

/// How endpoints with `https` are verified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamTls {
    /// Who may sign the endpoints' certificates; `None` is whom this machine trusts.
    pub authorities: Option<PathBuf>,
    /// Shown to the endpoints: certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that their certificates must be good for, if not that of the endpoint.
    pub server_name: Option<String>,
    /// Believe whoever answers.
    pub insecure_skip_verify: bool,
    /// Show a certificate with a common name: an etcd with auth takes every call without a token for that user's.
    pub allow_common_name: bool,
}

/// What may be said about it.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    cert_file: String,
    key_file: String,
    trusted_ca_file: String,
    crl_file: String,
    client_cert_auth: bool,
    auto_tls: bool,
    data_dir: String,
    self_signed_cert_validity: u64,
    allowed_hostname: Vec<String>,
    cipher_suites: Vec<String>,
    min_version: String,
    max_version: String,
    cacert: String,
    cert: String,
    key: String,
    server_name: String,
    insecure_skip_verify: bool,
    allow_common_name: bool,
}

/// Variables of etcdctl that mean the same.
pub(super) const BORROWED: [(&str, &str); 4] = [
    ("cacert", "ETCDCTL_CACERT"),
    ("cert", "ETCDCTL_CERT"),
    ("key", "ETCDCTL_KEY"),
    ("insecure-skip-tls-verify", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY"),
];

/// The rows of the table.
#[rustfmt::skip] // one row per flag reads as the table it is
pub(super) fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, List, Text, Uint};
    let flag = Flag::<Settings>::new;
    vec![
        flag(UPSTREAM, "cacert", Text(|s| &mut s.tls.cacert), "Who may sign the certificates of https endpoints; whom this machine trusts when empty."),
        flag(UPSTREAM, "cert", Text(|s| &mut s.tls.cert), "Certificate to show them."),
        flag(UPSTREAM, "key", Text(|s| &mut s.tls.key), "Its key."),
        flag(UPSTREAM, "allow-cert-common-name", Bool(|s| &mut s.tls.allow_common_name), "Show a certificate with a common name. With auth on, etcd takes every call without a token for that user's."),
        flag(UPSTREAM, "tls-server-name", Text(|s| &mut s.tls.server_name), "Host name their certificates must be good for; the endpoint's when empty."),
        flag(UPSTREAM, "insecure-skip-tls-verify", Bool(|s| &mut s.tls.insecure_skip_verify), "Believe whoever answers. For tests: anyone between can read and change everything."),
        flag(CLIENTS, "cert-file", Text(|s| &mut s.tls.cert_file), "Certificate shown to clients."),
        flag(CLIENTS, "key-file", Text(|s| &mut s.tls.key_file), "Its key."),
        flag(CLIENTS, "auto-tls", Bool(|s| &mut s.tls.auto_tls), "Make a certificate for clients when none is given."),
        flag(CLIENTS, "data-dir", Text(|s| &mut s.tls.data_dir), "Where that is kept, under fixtures/proxy; default.proxy when empty."),
        flag(CLIENTS, "self-signed-cert-validity", Uint(|s| &mut s.tls.self_signed_cert_validity), "Years that it is good for; 1 when 0."),
        flag(CLIENTS, "client-cert-auth", Bool(|s| &mut s.tls.client_cert_auth), "Refuse clients without a certificate."),
        flag(CLIENTS, "trusted-ca-file", Text(|s| &mut s.tls.trusted_ca_file), "Who may sign clients' certificates."),
        flag(CLIENTS, "client-crl-file", Text(|s| &mut s.tls.crl_file), "Certificates of clients that were revoked."),
        flag(CLIENTS, "client-cert-allowed-hostname", List(|s| &mut s.tls.allowed_hostname), "Host names a client's certificate must have one of."),
        flag(CLIENTS, "tls-min-version", Text(|s| &mut s.tls.min_version), "TLS1.2 or TLS1.3; TLS1.2 when empty."),
        flag(CLIENTS, "tls-max-version", Text(|s| &mut s.tls.max_version), "TLS1.2 or TLS1.3; the newest when empty."),
        flag(CLIENTS, "cipher-suites", List(|s| &mut s.tls.cipher_suites), "Cipher suites for TLS 1.2, named as Go names them."),
    ]
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

impl TlsSettings {
    /// Whether an endpoint without a scheme is meant to be `https`, as etcdctl takes it.
    pub(super) fn is_about_upstream(&self) -> bool {
        !self.cacert.is_empty() || !self.cert.is_empty() || self.insecure_skip_verify
    }

    /// `uses_tls`: whether some endpoint has TLS.
    pub(super) fn validate(self, listening: &[Url], uses_tls: bool, problems: &mut Vec<Problem>) -> GatewayTls {
        let has_files = !self.cert_file.is_empty() || !self.key_file.is_empty();
        let mut problem = |text: String, hint: &str| problems.push(Problem::new(text).hint(hint));
        if let Some(url) = listening.iter().find(|url| url.is_tls())
            && (self.cert_file.is_empty() || self.key_file.is_empty())
            && (has_files || !self.auto_tls)
        {
            problem(
                format!("TLS key/cert (--cert-file, --key-file) must be provided for {url} with HTTPS scheme"),
                "give both files, or --auto-tls to have a certificate made",
            );
        }
        if has_files && !listening.iter().any(Url::is_tls) {
            problem(
                "--cert-file and --key-file are given, and nothing is listened on under TLS".to_owned(),
                "write https:// in --listen-client-urls",
            );
        }
        if self.cert.is_empty() != self.key.is_empty() {
            problem("--cert and --key must both be given, or neither".to_owned(), "give both files");
        }
        if self.is_about_upstream() && !uses_tls {
            problem(
                "--cacert, --cert and --insecure-skip-tls-verify are about https endpoints, and there is none"
                    .to_owned(),
                "write https:// before the endpoints, or no scheme at all",
            );
        }
        if self.trusted_ca_file.is_empty() {
            let restrictions = [
                ("client-cert-auth", self.client_cert_auth),
                ("client-crl-file", !self.crl_file.is_empty()),
                ("client-cert-allowed-hostname", !self.allowed_hostname.is_empty()),
            ];
            tls::without_authority("", &restrictions, problems);
        }
        let (min_version, max_version) =
            tls::versions(&self.min_version, &self.max_version, &self.cipher_suites, problems);
        GatewayTls {
            clients: TlsFiles {
                cert_file: path(&self.cert_file),
                key_file: path(&self.key_file),
                trusted_ca_file: path(&self.trusted_ca_file),
                crl_file: path(&self.crl_file),
                client_cert_auth: self.client_cert_auth,
                auto_tls: self.auto_tls,
                allowed_hostnames: self.allowed_hostname,
                ..TlsFiles::default()
            },
            self_signed: (
                path(&self.data_dir).unwrap_or_else(|| "default.proxy".into()),
                self.self_signed_cert_validity.max(1),
            ),
            min_version,
            max_version,
            cipher_suites: self.cipher_suites,
            upstream: UpstreamTls {
                authorities: path(&self.cacert),
                identity: path(&self.cert).zip(path(&self.key)),
                server_name: (!self.server_name.is_empty()).then_some(self.server_name),
                insecure_skip_verify: self.insecure_skip_verify,
                allow_common_name: self.allow_common_name,
            },
        }
    }
}
