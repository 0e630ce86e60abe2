//! Which endpoints a gateway believes: all of them are verified, however many there are and whichever answers first.

use std::{net::SocketAddr, time::Duration};

use forebay_edge::tls::{Acceptor, KeyPair, ServerOptions};
use tokio::{io::AsyncReadExt as _, net::TcpListener, sync::mpsc};

use crate::{
    pki::{Authority, Wanted},
    role::Role,
};

/// What the first connection to an endpoint came to: whether the gateway said anything after the handshake.
async fn endpoint(identity: KeyPair, what: &'static str, told: mpsc::UnboundedSender<(&'static str, bool)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut options = ServerOptions::new(identity);
    options.speaks = vec!["h2"];
    let acceptor = Acceptor::new(options).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, from): (_, SocketAddr) = listener.accept().await.unwrap();
            let (acceptor, told) = (acceptor.clone(), told.clone());
            // Somebody who is silent keeps nobody else.
            tokio::spawn(async move {
                let said = async {
                    let (mut stream, _) = acceptor.accept(stream, from).await.ok()?;
                    stream.read_u8().await.ok()
                };
                let said = said.await.is_some();
                let _ = told.send((what, said));
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_says_nothing_to_an_endpoint_that_is_not_who_it_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let good = Wanted::good("");
    let elsewhere = Wanted { names: vec!["other.example", "127.0.0.2"], ..good.clone() };
    let client = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let served = [
        ("a good one", ours.sign("good", &good), true),
        ("one of another authority", theirs.sign("other", &good), false),
        ("an expired one", ours.sign("late", &Wanted { expired: true, ..good.clone() }), false),
        ("one for another host", ours.sign("elsewhere", &elsewhere), false),
        ("one for clients", ours.sign("client", &Wanted { usages: client, ..good }), false),
    ];
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut endpoints = Vec::new();
    for (what, identity, _) in &served {
        endpoints.push(format!("https://localhost:{}", endpoint(identity.clone(), what, told.clone()).await));
    }
    let gateway = Role::spawn(
        dir.path(),
        "gateway",
        "gateway",
        "http",
        &[format!("--endpoints={}", endpoints.join(",")), format!("--cacert={}", ours.ca().display())],
    );
    let mut waiting: Vec<&str> = served.iter().map(|(what, ..)| *what).collect();
    while !waiting.is_empty() {
        let next = tokio::time::timeout(Duration::from_secs(30), heard.recv()).await;
        let (what, said) = next.unwrap_or_else(|_| panic!("never tried: {waiting:?}\n{}", gateway.said())).unwrap();
        let (.., expected) = served.iter().find(|(own, ..)| *own == what).unwrap();
        assert_eq!(said, *expected, "{what}");
        waiting.retain(|own| *own != what);
    }
}
