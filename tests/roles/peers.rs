//! Members that talk to each other under TLS, each with a certificate.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    pki::{Authority, Wanted},
    role::{Role, free_port},
};

/// Asks again until the answer is as wanted.
async fn eventually(what: &str, role: &Role, path: &str, body: &str, wanted: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = role.ask_in_clear(path, body).await;
        if wanted(&answer) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {answer}\n{}", role.said());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

const READ: &str = r#"{"key":"Zm9v"}"#;

/// A member whose certificate stands in files of its own.
fn member(dir: &Path, ours: &Authority, name: &str, cluster: &[(String, u16)], peer: u16) -> Role {
    let url = format!("https://127.0.0.1:{peer}");
    let list: Vec<String> = cluster.iter().map(|(name, port)| format!("{name}=https://127.0.0.1:{port}")).collect();
    let args = [
        format!("--name={name}"),
        format!("--data-dir={}", dir.join(name).display()),
        format!("--listen-peer-urls={url}"),
        format!("--initial-advertise-peer-urls={url}"),
        format!("--initial-cluster={}", list.join(",")),
        format!("--peer-cert-file={}", dir.join(format!("ours/{name}.pem")).display()),
        format!("--peer-key-file={}", dir.join(format!("ours/{name}.key")).display()),
        format!("--peer-trusted-ca-file={}", ours.ca().display()),
        "--peer-client-cert-auth".to_owned(),
    ];
    Role::spawn(dir, name, "server", "http", &args)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_a_cluster_with_those_alone_whom_their_authority_signed() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let cluster: Vec<(String, u16)> = (1..=3).map(|n| (format!("m{n}"), free_port())).collect();
    for (name, _) in &cluster[..2] {
        ours.sign(name, &Wanted::good(""));
    }
    // The third comes with what another authority signed.
    let wrong = theirs.sign("m3", &Wanted::good(""));
    let place = |file: &str| dir.path().join("ours").join(file);
    fs::copy(&wrong.key, place("m3.key")).unwrap();
    fs::copy(&wrong.certificate, place("m3.pem")).unwrap();
    let mut members: Vec<Role> =
        cluster.iter().map(|(name, port)| member(dir.path(), &ours, name, &cluster, *port)).collect();
    members[0].ready();
    members[1].ready();
    let put = r#"{"key":"Zm9v","value":"YmFy"}"#;
    eventually("a write of two", &members[0], "/v3/kv/put", put, |a| a.starts_with("HTTP/1.1 200")).await;
    eventually("a read of the other", &members[1], "/v3/kv/range", READ, |a| a.contains("YmFy")).await;
    assert!(!members[2].said().contains("ready to serve"), "a stranger takes no part");
    let refused = |role: &Role| role.said().contains("rejected connection") && role.said().contains("UnknownIssuer");
    assert!(members[..2].iter().any(refused), "{}", members[0].said());

    // With a good certificate in the same place it does, and is not started anew.
    ours.sign("m3", &Wanted::good(""));
    members[2].ready();
    eventually("a read of the third", &members[2], "/v3/kv/range", READ, |a| a.contains("YmFy")).await;
}
