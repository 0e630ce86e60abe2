//! TLS, one way for every listener and every connection: clients, members, metrics, and a gateway's upstream.
//!
//! [`Acceptor`] ends TLS where we listen, [`Connector`] begins it where we connect. Both read their files again when
//! those change, so a renewed certificate, another authority or a new revocation list counts from the next handshake
//! on. A change that cannot be used is logged, and what was there before stays.

mod certificates;
mod client;
mod identity;
mod protocol;
mod reload;
mod self_signed;
mod server;

use std::{io, path::PathBuf};

pub use client::{ClientOptions, Connector, Verify};
pub use identity::Allowed;
pub use protocol::{Protocol, Version};
pub use self_signed::self_signed;
pub use server::{Acceptor, ServerOptions};

/// HTTP/2, then HTTP/1.1, as ALPN names them: what every port of ours speaks.
pub const HTTP: [&str; 2] = ["h2", "http/1.1"];

/// What is known of a connection under TLS. The listener puts this into the extensions of each request; a request
/// without it came in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The common name of the client's verified certificate.
    pub common_name: Option<String>,
}

/// A certificate with its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl KeyPair {
    /// The common name of the certificate.
    pub fn common_name(&self) -> Result<Option<String>, Error> {
        let (chain, _) = certificates::key_pair(self)?;
        Ok(chain.first().and_then(identity::common_name))
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {what}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// What a file holds cannot be used.
    #[error("cannot use {what} of {path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// No such cipher suite.
    #[error("unexpected TLS cipher suite {0:?}")]
    UnknownSuite(String),
    /// A suite that Go has and that protects too little.
    #[error(
        "TLS cipher suite {0:?} is not supported here: it has no forward secrecy, or authenticates what it encrypts \
         too late"
    )]
    WeakSuite(String),
    /// This machine trusts nobody, and no authority was named.
    #[error("this machine has no certificate authorities to verify others by; name a file with those to trust")]
    NoAuthorities,
    /// The name that the other side's certificate must be good for is none.
    #[error("{0:?} is not a host name that a certificate can be good for")]
    ServerName(String),
    /// The TLS library refused the whole.
    #[error(transparent)]
    Library(#[from] rustls::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

#[cfg(test)]
mod tests;
