//! Server and gateway under TLS, as processes: the certificate that the server makes is what the gateway trusts it by
//! and shows to its own clients.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use forebay_edge::tls::{ClientOptions, Connector, Protocol, Verify};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A role that runs; killed when dropped.
struct Role {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Role {
    /// A server whose own certificate is made in `data`.
    fn server(dir: &Path, data: &Path) -> Role {
        let peer = format!("http://127.0.0.1:{}", free_port());
        let args = [
            format!("--data-dir={}", data.display()),
            "--auto-tls".to_owned(),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ];
        Role::start(dir, "server", &args)
    }

    fn start(dir: &Path, name: &str, args: &[String]) -> Role {
        let port = free_port();
        let log = dir.join(format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_forebay"))
            .arg(name)
            .arg(format!("--listen-client-urls=https://127.0.0.1:{port}"))
            .arg(format!("--advertise-client-urls=https://127.0.0.1:{port}"))
            .args(args)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("the binary runs");
        let mut role = Role { child, port, log };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !role.said().contains("ready to serve client requests") {
            let ended = role.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{name}: {ended:?}\n{}", role.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        role
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a request over HTTP/1.1 and returns the whole answer.
    async fn ask(&self, tls: &Connector, path: &str, body: &str) -> String {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let mut stream =
            tls.connect(stream, "127.0.0.1").await.unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn trusting(certificate: &Path) -> Connector {
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
    let server = Role::server(dir.path(), &data);
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
async fn a_gateway_does_not_believe_an_endpoint_that_it_cannot_verify() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Role::server(dir.path(), &data);
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
