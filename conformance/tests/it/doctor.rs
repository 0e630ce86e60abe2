//! `forebay doctor` before what was made ill on purpose: does it find the illness, and name the next command?

use std::{
    fs,
    os::unix::fs::FileExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use forebay_conformance::{
    cluster::Cluster,
    peers::{self, Release},
    session,
    target::{Kind, Target},
};
use forebay_proto::etcdserverpb::{PutRequest, kv_client::KvClient};
use serde_json::Value;

/// The verdict, the evidence and the next command of each check, and the exit status.
struct Examined {
    findings: Vec<Value>,
    status: i32,
}

fn examine(args: &[&str]) -> anyhow::Result<Examined> {
    let output = Command::new(peers::forebay().context(peers::BUILD)?)
        .arg("doctor")
        .args(args)
        .args(["-o", "json"])
        .stdin(Stdio::null())
        .output()?;
    let page: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let findings = page["findings"].as_array().context("findings")?.clone();
    Ok(Examined { findings, status: output.status.code().context("it was not killed")? })
}

impl Examined {
    /// Checks one verdict; what is not well has a next command.
    fn expect(&self, check: &str, verdict: &str, evidence: &str) -> anyhow::Result<()> {
        let finding = self.findings.iter().find(|finding| finding["check"] == check);
        let finding = finding.with_context(|| format!("nothing on {check}: {:#?}", self.findings))?;
        ensure!(finding["verdict"] == verdict, "{check}: {finding:#}");
        ensure!(finding["evidence"].as_str().is_some_and(|text| text.contains(evidence)), "{check}: {finding:#}");
        ensure!(verdict == "PASS" || finding["next"].is_string(), "{check}: {finding:#}");
        let worst = self.findings.iter().map(|finding| match finding["verdict"].as_str() {
            Some("FAIL") => 2,
            Some("WARN") => 1,
            _ => 0,
        });
        ensure!(Some(self.status) == worst.max(), "the exit status is the worst verdict: {}", self.status);
        Ok(())
    }
}

fn is_missing(test: &str, kinds: &[Kind]) -> bool {
    let missing = kinds.iter().find_map(|kind| kind.missing()).or(Kind::Server.missing());
    if let Some(missing) = missing {
        peers::skip(test, missing);
    }
    missing.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_died_is_missed_and_the_others_are_well() {
    if is_missing("doctor::a_member_that_died_is_missed_and_the_others_are_well", &[]) {
        return;
    }
    let mut cluster = Cluster::start(&[Kind::Server; 3], &[]).await.unwrap();
    cluster.leader().await.unwrap();
    let urls: Vec<String> = cluster.members.iter().map(forebay_conformance::cluster::Node::url).collect();
    let endpoints = format!("--endpoints={}", urls.join(","));
    let well = examine(&[&endpoints]).unwrap();
    well.expect("running", "PASS", "3 of 3").unwrap();
    well.expect("leader", "PASS", "all follow").unwrap();
    well.expect("members", "PASS", "3 voters bear the loss of 1").unwrap();
    well.expect("versions", "PASS", "3.7").unwrap();
    let victim = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.kill(victim);
    let ill = examine(&[&endpoints]).unwrap();
    ill.expect("running", "FAIL", "1 of 3 do not answer").unwrap();
    ill.expect("leader", "PASS", "all follow").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_without_space_is_found_and_told_the_way_out() {
    let kinds = [Kind::Etcd(Release::V3_7), Kind::Server];
    if is_missing("doctor::etcd_without_space_is_found_and_told_the_way_out", &kinds) {
        return;
    }
    for kind in kinds {
        let target = Target::start(kind, &["--quota-backend-bytes", "2000000"]).await.unwrap();
        let mut kv = KvClient::new(session::connect(&target).await.unwrap());
        let put = |number: u32| PutRequest {
            key: format!("k{number}").into(),
            value: vec![b'x'; 500_000].into(),
            ..Default::default()
        };
        let mut puts = 0;
        while kv.put(put(puts)).await.is_ok() {
            puts += 1;
            assert!(puts < 100, "{kind} never runs out of space");
        }
        let examined = examine(&[&format!("--endpoints={}", target.client)]).unwrap();
        examined.expect("space", "FAIL", "NOSPACE").context(kind.to_string()).unwrap();
        examined.expect("running", "FAIL", "503").context(kind.to_string()).unwrap();
        assert_eq!(examined.status, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_etcds_and_gateways_are_examined_as_well() {
    let kinds = [Kind::Etcd(Release::V3_4), Kind::Etcd(Release::V3_5), Kind::GatewayOverServer];
    if is_missing("doctor::old_etcds_and_gateways_are_examined_as_well", &kinds) {
        return;
    }
    for kind in kinds {
        let target = Target::start(kind, &[]).await.unwrap();
        let examined = examine(&[&format!("--endpoints={}", target.client)]).unwrap();
        examined.expect("running", "PASS", "1 of 1").context(kind.to_string()).unwrap();
        match kind {
            Kind::Etcd(Release::V3_5) => examined.expect("versions", "WARN", "can corrupt data").unwrap(),
            Kind::Etcd(_) => examined.expect("versions", "PASS", "3.4").unwrap(),
            _ => {
                examined.expect("disk", "SKIP", "a gateway has no disk").unwrap();
                examined.expect("policy", "PASS", "is in force").unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_is_left_alone_and_a_damaged_one_is_found() {
    if is_missing("doctor::a_directory_in_use_is_left_alone_and_a_damaged_one_is_found", &[]) {
        return;
    }
    let mut target = Target::start(Kind::Server, &[]).await.unwrap();
    let mut kv = KvClient::new(session::connect(&target).await.unwrap());
    kv.put(PutRequest { key: "a".into(), value: "b".into(), ..Default::default() }).await.unwrap();
    let dir = format!("--data-dir={}", target.data_dir().display());
    examine(&[&dir]).unwrap().expect("data-dir", "SKIP", "is in use").unwrap();
    target.kill();
    examine(&[&dir]).unwrap().expect("data-dir", "PASS", "every page").unwrap();
    let db = fs::OpenOptions::new().write(true).open(target.data_dir().join("member/snap/db")).unwrap();
    // Both meta pages: without them nothing of the file can be believed.
    for page in 0..2 {
        db.write_all_at(&[0xff; 4096], page * 4096).unwrap();
    }
    examine(&[&dir]).unwrap().expect("data-dir", "FAIL", "damaged").unwrap();
    examine(&["--data-dir=/nonexistent"]).unwrap().expect("data-dir", "FAIL", "there is no").unwrap();
}
