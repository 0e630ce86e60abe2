//! Certificates, keys, authorities and revocation lists, as files.

use std::fs;

use forebay_edge::tls::{Acceptor, ClientOptions, Connector, KeyPair, Protocol, ServerOptions, Verify};

/// Files that hold anything make TLS that works, or an error that names the file.
///
/// Input: which file is this one, then what it holds. The others are good.
pub fn tls_files(data: &[u8]) {
    let Some((which, content)) = data.split_first() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, good: &[u8], number: u8| {
        let path = dir.path().join(name);
        fs::write(&path, if which % 4 == number { content } else { good }).expect("a writable file");
        path
    };
    let certificate = file("certificate", CERTIFICATE, 0);
    let key = file("key", KEY, 1);
    let authorities = file("authorities", CERTIFICATE, 2);
    let revoked = file("revoked", b"", 3);
    let identity = KeyPair { certificate, key };
    let mut server = ServerOptions::new(identity.clone());
    server.client_authorities = Some(authorities.clone());
    server.revoked = (which % 4 == 3).then_some(revoked);
    let folder = dir.path().display().to_string();
    let names_the_file = |error: forebay_edge::tls::Error| {
        assert!(error.to_string().contains(&folder), "{error} does not say which file");
    };
    Acceptor::new(server).map(drop).unwrap_or_else(names_the_file);
    let client = ClientOptions {
        verify: Verify::Authorities(authorities),
        identity: Some(identity.clone()),
        server_name: None,
        protocol: Protocol::default(),
        speaks: vec!["h2"],
    };
    Connector::new(client).map(drop).unwrap_or_else(names_the_file);
    let _ = identity.common_name();
}

/// A certificate of our own making and its key, good for long.
const CERTIFICATE: &[u8] = include_bytes!("../testdata/certificate.pem");
const KEY: &[u8] = include_bytes!("../testdata/key.pem");
