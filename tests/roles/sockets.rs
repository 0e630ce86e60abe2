//! Roles that listen on sockets on disk, in clear and under TLS.

use forebay_edge::tls::{ClientOptions, Connector, Protocol, Verify};
use tokio::net::UnixStream;

use crate::role::{Role, exchange, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_reached_by_sockets_on_disk_as_by_any_port() {
    let dir = tempfile::tempdir().unwrap();
    let socket = |name: &str| dir.path().join(name);
    let clients = format!("--listen-client-http-urls=unix://{0}/clear,unixs://{0}/tls", dir.path().display());
    let server = Role::member(dir.path(), &socket("data"), "https", &["--auto-tls", &clients]);
    let stream = UnixStream::connect(socket("clear")).await.unwrap();
    let put = exchange(stream, &request("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#)).await;
    assert!(put.starts_with("HTTP/1.1 200 OK\r\n"), "{put}\n{}", server.said());

    let made = socket("data").join("fixtures").join("client").join("cert.pem");
    let options = ClientOptions {
        verify: Verify::Authorities(made),
        identity: None,
        server_name: None,
        protocol: Protocol::default(),
        speaks: vec!["http/1.1"],
    };
    let stream = UnixStream::connect(socket("tls")).await.unwrap();
    let stream = Connector::new(options).unwrap().connect(stream, "127.0.0.1").await.unwrap();
    let got = exchange(stream, &request("/v3/kv/range", r#"{"key":"Zm9v"}"#)).await;
    assert!(got.contains(r#""value":"YmFy""#), "{got}");
}
