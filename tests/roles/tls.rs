//! The certificate that the server makes is what the gateway trusts it by and shows to its own clients.

use std::path::Path;

use forebay_edge::tls::{ClientOptions, Connector, Protocol, Verify};

use crate::role::{Role, free_port};

/// A server whose own certificate is made in `data`.
pub fn server(dir: &Path, data: &Path) -> Role {
    Role::member(dir, data, "https", &["--auto-tls"])
}

/// Believes this certificate alone.
pub fn trusting(certificate: &Path) -> Connector {
    let options = ClientOptions {
        verify: Verify::Authorities(certificate.to_owned()),
        identity: None,
        server_name: None,
        protocol: Protocol::default(),
        speaks: vec!["http/1.1"],
    };
    Connector::new(options).unwrap()
}

#[tokio::test]
async fn a_gateway_and_its_server_are_encrypted_and_verified_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = server(dir.path(), &data);
    let fixtures = data.join("fixtures").join("client");
    let file = |name: &str| fixtures.join(name).display().to_string();
    let gateway = Role::start(
        dir.path(),
        "gateway",
        &[
            format!("--endpoints=127.0.0.1:{}", server.port),
            format!("--cacert={}", file("cert.pem")),
            format!("--cert-file={}", file("cert.pem")),
            format!("--key-file={}", file("key.pem")),
        ],
    );
    let tls = trusting(&fixtures.join("cert.pem"));
    let put = gateway.ask(&tls, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
    assert!(put.starts_with("HTTP/1.1 200 OK\r\n"), "{put}\n{}", gateway.said());
    let got = server.ask(&tls, "/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert!(got.contains(r#""value":"YmFy""#), "{got}");
    let members = gateway.ask(&tls, "/v3/cluster/member/list", "{}").await;
    assert!(members.contains(&format!("https://127.0.0.1:{}", gateway.port)), "{members}");
}

#[tokio::test]
async fn a_gateway_makes_a_certificate_of_its_own_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("proxy");
    let args = [
        // Nobody is there, and nobody is asked.
        format!("--endpoints=127.0.0.1:{}", free_port()),
        "--auto-tls".to_owned(),
        format!("--data-dir={}", data.display()),
    ];
    let certificate = data.join("fixtures").join("proxy").join("cert.pem");
    let mut shown = Vec::new();
    for _ in 0..2 {
        let gateway = Role::start(dir.path(), "gateway", &args);
        let answer = gateway.ask(&trusting(&certificate), "/version", "").await;
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}\n{}", gateway.said());
        shown.push(std::fs::read(&certificate).unwrap());
    }
    assert_eq!(shown[0], shown[1], "clients that trust it go on to");
}

#[tokio::test]
async fn a_gateway_does_not_believe_an_endpoint_that_it_cannot_verify() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = server(dir.path(), &data);
    let made = data.join("fixtures").join("client");
    let other = forebay_edge::tls::self_signed(&dir.path().join("other"), &["127.0.0.1".to_owned()], 1).unwrap();
    let gateway = Role::start(
        dir.path(),
        "gateway",
        &[
            format!("--endpoints=https://127.0.0.1:{}", server.port),
            format!("--cacert={}", other.certificate.display()),
            format!("--cert-file={}", made.join("cert.pem").display()),
            format!("--key-file={}", made.join("key.pem").display()),
        ],
    );
    let tls = trusting(&made.join("cert.pem"));
    let answer = gateway.ask(&tls, "/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}
