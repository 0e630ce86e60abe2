//! Every port that speaks TLS against everything that a client may come with, from one table: a certificate that one
//! port refuses and another takes is how etcd's GHSA-3wh4-j44w-pg92 came about.

use std::{path::Path, time::Duration};

use forebay_edge::tls::{ClientOptions, Connector, KeyPair, Protocol, Verify};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    pki::{Authority, Wanted},
    role::{Role, free_port, request},
};

const LIMIT: Duration = Duration::from_secs(20);

/// The serial number of what the first revocation list has.
const REVOKED: u64 = 66;
/// That of what is good until it is revoked.
const GOOD: u64 = 7;

/// What a client shows, and whether it is let in.
fn shown(ours: &Authority, theirs: &Authority) -> Vec<(&'static str, Option<KeyPair>, bool)> {
    let good = Wanted { serial: GOOD, ..Wanted::good("member") };
    let client = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let server = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let signed = |name: &str, wanted: Wanted| Some(ours.sign(name, &wanted));
    vec![
        ("no certificate", None, false),
        ("a good one", signed("good", good.clone()), true),
        ("one for clients alone", signed("client", Wanted { usages: client, ..good.clone() }), true),
        ("one of another authority", Some(theirs.sign("other", &good)), false),
        ("an expired one", signed("late", Wanted { expired: true, ..good.clone() }), false),
        ("a revoked one", signed("revoked", Wanted { serial: REVOKED, ..good.clone() }), false),
        ("one for servers alone", signed("server-only", Wanted { usages: server, ..good.clone() }), false),
        (
            "one of another name",
            signed("stranger", Wanted { common_name: "x", names: vec!["x.example"], ..good }),
            false,
        ),
    ]
}

/// Ports of a server and of the gateway in front of it, all with the same rules, by what they are.
struct Ports {
    all: Vec<(&'static str, u16)>,
    _roles: [Role; 2],
}

fn start(dir: &Path, ours: &Authority) -> Ports {
    let identity = ours.sign("identity", &Wanted::good("member"));
    // A gateway's certificate has no common name: with auth on, that would be a user's.
    let nameless = ours.sign("nameless", &Wanted { common_name: "", ..Wanted::good("") });
    let side = |prefix: &str, crl: &str| {
        vec![
            format!("--{prefix}cert-file={}", identity.certificate.display()),
            format!("--{prefix}key-file={}", identity.key.display()),
            format!("--{prefix}trusted-ca-file={}", ours.ca().display()),
            format!("--{prefix}client-cert-auth"),
            format!("--{crl}={}", ours.crl().display()),
        ]
    };
    let clients = [side("", "client-crl-file"), vec!["--client-cert-allowed-hostname=localhost".to_owned()]].concat();
    let peers = [side("peer-", "peer-crl-file"), vec!["--peer-cert-allowed-cn=member".to_owned()]].concat();
    let [http, metrics, peer, gateway_metrics] = std::array::from_fn(|_| free_port());
    let peer_url = format!("https://127.0.0.1:{peer}");
    let own = [
        format!("--data-dir={}", dir.join("data").display()),
        format!("--listen-client-http-urls=https://127.0.0.1:{http}"),
        format!("--listen-metrics-urls=https://127.0.0.1:{metrics}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=default={peer_url}"),
    ];
    let server = Role::start(dir, "server", &[&own[..], &clients, &peers].concat());
    let own = [
        format!("--listen-metrics-urls=https://127.0.0.1:{gateway_metrics}"),
        format!("--endpoints=https://localhost:{}", server.port),
        format!("--cacert={}", ours.ca().display()),
        format!("--cert={}", nameless.certificate.display()),
        format!("--key={}", nameless.key.display()),
    ];
    let gateway = Role::start(dir, "gateway", &[&own[..], &clients].concat());
    let all = vec![
        ("gRPC alone", server.port),
        ("HTTP alone", http),
        ("metrics", metrics),
        ("peers", peer),
        ("gateway", gateway.port),
        ("gateway's metrics", gateway_metrics),
    ];
    Ports { all, _roles: [server, gateway] }
}

/// Whether a port answers a request at all. Under TLS 1.3 a client hears of its refusal only then.
async fn is_let_in(port: u16, authority: &Authority, identity: Option<KeyPair>) -> bool {
    let options = ClientOptions {
        verify: Verify::Authorities(authority.ca()),
        identity,
        server_name: None,
        protocol: Protocol::default(),
        speaks: vec!["http/1.1"],
    };
    let connector = Connector::new(options).unwrap();
    let asked = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut stream = connector.connect(stream, "localhost").await.ok()?;
        stream.write_all(request("/version", "").as_bytes()).await.ok()?;
        let mut begins = [0; 8];
        stream.read_exact(&mut begins).await.ok()?;
        assert_eq!(&begins, b"HTTP/1.1");
        Some(())
    };
    tokio::time::timeout(LIMIT, asked).await.expect("a port answers or refuses").is_some()
}

/// The kind of record that a port answers a greeting with: 22 goes on with the handshake, 21 is a refusal.
async fn answer_to(port: u16, hello: &[u8]) -> u8 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(hello).await.unwrap();
    tokio::time::timeout(LIMIT, stream.read_u8()).await.expect("an answer").expect("an answer before the end")
}

/// A client's greeting that offers one version and one suite.
fn hello(version: [u8; 2], suite: [u8; 2]) -> Vec<u8> {
    // Curves, point formats, signatures, and that there is no renegotiation.
    let extensions = [
        &[0, 10, 0, 6, 0, 4, 0, 29, 0, 23][..],
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1],
        &[0xff, 1, 0, 1, 0],
        &[0, 23, 0, 0],
    ]
    .concat();
    let body = [&version[..], &[7; 32], &[0], &[0, 2], &suite, &[1, 0], &len(&extensions), &extensions].concat();
    let message = [&[1, 0][..], &len(&body), &body].concat();
    [&[22, 3, 1][..], &len(&message), &message].concat()
}

fn len(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap().to_be_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_lets_in_the_same_and_refuses_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    ours.revoke(&[REVOKED]);
    let shown = shown(&ours, &theirs);
    let ports = start(dir.path(), &ours);
    for (port, number) in &ports.all {
        for (what, identity, expected) in &shown {
            assert_eq!(is_let_in(*number, &ours, identity.clone()).await, *expected, "{what} at {port}");
        }
        const ECDSA_AES_GCM: [u8; 2] = [0xc0, 0x2b];
        for (what, version, suite, record) in [
            ("TLS 1.2 with a good suite", [3, 3], ECDSA_AES_GCM, 22),
            ("TLS 1.1", [3, 2], [0xc0, 0x09], 21),
            ("TLS 1.0", [3, 1], [0xc0, 0x09], 21),
            ("CBC", [3, 3], [0xc0, 0x09], 21),
            ("RSA without forward secrecy", [3, 3], [0x00, 0x9c], 21),
            ("RC4", [3, 3], [0xc0, 0x07], 21),
            ("3DES", [3, 3], [0x00, 0x0a], 21),
            ("no encryption", [3, 3], [0x00, 0x02], 21),
        ] {
            assert_eq!(answer_to(*number, &hello(version, suite)).await, record, "{what} at {port}");
        }
    }
    // What was good is taken back, and no port is started anew.
    ours.revoke(&[REVOKED, GOOD]);
    let good = shown.iter().find(|(what, ..)| *what == "a good one").unwrap();
    for (port, number) in &ports.all {
        assert!(!is_let_in(*number, &ours, good.1.clone()).await, "what was revoked since the start, at {port}");
    }
}
