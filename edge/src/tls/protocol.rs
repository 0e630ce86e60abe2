//! Versions and cipher suites, named as etcd's flags name them.

use std::sync::Arc;

use rustls::{
    SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

use super::Error;

/// A version of TLS. Older ones are broken and not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// What may be agreed on in a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The oldest version.
    pub min: Version,
    /// The newest; `None` is the newest there is.
    pub max: Option<Version>,
    /// Suites for TLS 1.2 by Go's names; empty is every one that is good. TLS 1.3 has only good ones and always all.
    pub cipher_suites: Vec<String>,
}

impl Default for Protocol {
    fn default() -> Protocol {
        Protocol { min: Version::Tls12, max: None, cipher_suites: Vec::new() }
    }
}

/// What Go knows besides and nobody should use; etcd takes these.
const WEAK: [&str; 13] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    // The four of AES_128 and AES_256 with plain SHA share this ending.
    "_CBC_SHA",
];

impl Protocol {
    /// The versions between the bounds.
    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let max = self.max.unwrap_or(Version::Tls13);
        let all = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)];
        all.into_iter().filter(|(version, _)| (self.min..=max).contains(version)).map(|(_, version)| version).collect()
    }

    /// The cryptography, cut down to the suites that were asked for.
    pub(super) fn provider(&self) -> Result<Arc<CryptoProvider>, Error> {
        let mut provider = aws_lc_rs::default_provider();
        if !self.cipher_suites.is_empty() {
            let named: Vec<String> =
                self.cipher_suites.iter().map(|name| library_name(name)).collect::<Result<_, _>>()?;
            provider.cipher_suites.retain(|suite| {
                suite.tls13().is_some() || named.iter().any(|name| *name == format!("{:?}", suite.suite()))
            });
        }
        Ok(Arc::new(provider))
    }
}

/// The library's name for a suite that Go names so.
fn library_name(name: &str) -> Result<String, Error> {
    let name = match name {
        // Go's old names, which etcd still takes.
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => format!("{name}_SHA256"),
        _ => name.to_owned(),
    };
    let known = aws_lc_rs::ALL_CIPHER_SUITES.iter().map(|suite| format!("{:?}", suite.suite()));
    let as_library = |known: &String| *known == name || known.strip_prefix("TLS13_") == name.strip_prefix("TLS_");
    match known.into_iter().find(as_library) {
        Some(known) => Ok(known),
        None if WEAK.iter().any(|weak| name == *weak || (weak.starts_with('_') && name.ends_with(weak))) => {
            Err(Error::WeakSuite(name))
        }
        None => Err(Error::UnknownSuite(name)),
    }
}
