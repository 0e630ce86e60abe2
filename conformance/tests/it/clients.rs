//! Clients of other languages on every target: a script prints what its client makes of a server, and must print the
//! same for the reference.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use forebay_conformance::{
    diff::differences,
    peers::{self, Release},
    target::{Kind, Target},
};

/// What the script prints for a fresh target.
async fn facts(kind: Kind, program: PathBuf, script: &str) -> Vec<String> {
    let target = Target::start(kind, &[]).await.expect("the target starts");
    let mut command = Command::new(program);
    command.arg(peers::scripts().join(script));
    match script.ends_with(".sh") {
        true => command.arg(target.client.to_string()),
        false => command.arg(target.client.ip().to_string()).arg(target.client.port().to_string()),
    };
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("waiting does not panic");
    let output = output.expect("the script runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} on {kind} ended with {}:\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

async fn like_the_reference(test: &str, kind: Kind) {
    if let Some(missing) = Kind::REFERENCE.missing().or(kind.missing()) {
        return peers::skip(test, missing);
    }
    let bash = Path::new("/bin/bash").to_owned();
    let curl =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join("curl").is_file());
    for (program, script) in [(peers::python(), "smoke.py"), (curl.then_some(bash), "smoke.sh")] {
        let Some(program) = program else {
            peers::skip(&format!("{test} with {script}"), peers::INSTALL);
            continue;
        };
        let (theirs, ours) =
            tokio::join!(facts(Kind::REFERENCE, program.clone(), script), facts(kind, program, script));
        assert!(theirs.len() > 10, "{script} says little: {theirs:?}");
        assert_eq!(theirs.len(), ours.len(), "{script} on {kind} ends early: {ours:?}");
        let (theirs, ours) = (serde_json::json!(theirs), serde_json::json!(ours));
        let found: Vec<String> = differences(&theirs, &ours).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{script} on {kind}, by line:\n{}", found.join("\n"));
    }
}

macro_rules! targets {
    ($($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            like_the_reference(concat!("clients::", stringify!($name)), $kind).await;
        }
    )* };
}

targets! {
    etcd_is_like_itself: Kind::Etcd(Release::V3_7);
    the_server_is_like_etcd: Kind::Server;
    the_gateway_over_the_server_is_like_etcd: Kind::GatewayOverServer;
    the_gateway_over_etcd_is_like_etcd: Kind::GatewayOverEtcd(Release::V3_7);
}
