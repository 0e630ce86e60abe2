//! A snapshot under auth: who may take one, and that users and rights are in it.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::role::{Role, free_port, program};

fn server(dir: &Path, data: &str, peer: u16) -> Role {
    let url = format!("http://127.0.0.1:{peer}");
    let args = [
        format!("--data-dir={}", dir.join(data).display()),
        format!("--listen-peer-urls={url}"),
        format!("--initial-advertise-peer-urls={url}"),
        format!("--initial-cluster=default={url}"),
        "--bcrypt-cost=4".to_owned(),
    ];
    let mut role = Role::spawn(dir, data, "server", "http", &args);
    role.ready();
    role
}

fn utl(args: &[&str]) -> Output {
    let ran = Command::new(program()).args(["utl", "snapshot"]).args(args).env_clear().output();
    ran.expect("the binary runs")
}

/// Logs in with the name for a password; the token, or what was answered instead.
async fn log_in(role: &Role, name: &str, password: &str) -> Result<String, String> {
    let body = format!(r#"{{"name":"{name}","password":"{password}"}}"#);
    let answer = role.ask_in_clear("/v3/auth/authenticate", &body).await;
    let token = answer.split_once(r#""token":""#).and_then(|(_, rest)| rest.split_once('"'));
    token.map(|(token, _)| token.to_owned()).ok_or(answer)
}

/// What a read of a key is answered.
async fn read(role: &Role, token: &str, key: &str) -> String {
    let fields: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("Authorization", token)] };
    role.ask_with("/v3/kv/range", fields, &format!(r#"{{"key":"{key}"}}"#)).await
}

/// `foo` and `bar` in base64.
const FOO: &str = "Zm9v";
const BAR: &str = "YmFy";

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_by_root_alone_and_what_is_restored_has_the_same_users_and_rights() {
    let dir = tempfile::tempdir().unwrap();
    let peer = free_port();
    let asked = server(dir.path(), "asked", peer);
    for (path, body) in [
        ("kv/put", format!(r#"{{"key":"{FOO}","value":"{FOO}"}}"#)),
        ("kv/put", format!(r#"{{"key":"{BAR}","value":"{BAR}"}}"#)),
        ("auth/user/add", r#"{"name":"root","password":"root"}"#.to_owned()),
        ("auth/user/add", r#"{"name":"alice","password":"alice"}"#.to_owned()),
        ("auth/role/add", r#"{"name":"some"}"#.to_owned()),
        ("auth/role/grant", format!(r#"{{"name":"some","perm":{{"permType":"READ","key":"{FOO}"}}}}"#)),
        ("auth/user/grant", r#"{"user":"alice","role":"some"}"#.to_owned()),
        ("auth/user/grant", r#"{"user":"root","role":"root"}"#.to_owned()),
        ("auth/enable", "{}".to_owned()),
    ] {
        let answer = asked.ask_in_clear(&format!("/v3/{path}"), &body).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }

    let file = dir.path().join("backup.db");
    let (path, endpoint) = (file.to_str().unwrap(), format!("--endpoints=127.0.0.1:{}", asked.port));
    for (who, refused) in [
        (None, "user name is empty"),
        (Some("--user=alice:alice"), "permission denied"),
        (Some("--user=root:guess"), "authentication failed"),
    ] {
        let args: Vec<&str> = ["save", path, &endpoint].into_iter().chain(who).collect();
        let ran = utl(&args);
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && said.contains(refused) && !file.exists(), "{who:?}: {said}");
    }
    let ran = utl(&["save", path, &endpoint, "--user=root:root"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let before = log_in(&asked, "alice", "alice").await.unwrap();
    drop(asked);

    let (into, url) = (dir.path().join("restored"), format!("http://127.0.0.1:{peer}"));
    let ran = utl(&[
        "restore",
        path,
        &format!("--data-dir={}", into.display()),
        &format!("--initial-advertise-peer-urls={url}"),
        &format!("--initial-cluster=default={url}"),
    ]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let restored = server(dir.path(), "restored", peer);
    assert!(read(&restored, "", FOO).await.contains("user name is empty"), "auth is on from the first request on");
    assert!(read(&restored, &before, FOO).await.contains("invalid auth token"), "a token is no part of it");
    assert!(log_in(&restored, "alice", "guess").await.unwrap_err().contains("authentication failed"));
    let alice = log_in(&restored, "alice", "alice").await.unwrap();
    assert!(read(&restored, &alice, FOO).await.contains(&format!(r#""value":"{FOO}""#)));
    assert!(read(&restored, &alice, BAR).await.contains("permission denied"));
    let root = log_in(&restored, "root", "root").await.unwrap();
    assert!(read(&restored, &root, BAR).await.contains(&format!(r#""value":"{BAR}""#)));
}
