//! `forebay doctor` before what was made ill on purpose: does it find the illness, and name the next command?

mod full;
mod slow;

use std::{
    fs,
    os::unix::fs::FileExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use forebay_conformance::{
    cluster::Cluster,
    peers::{self, Release},
    session,
    target::{Kind, Target},
};
use forebay_loadtest::process::{Process, etcd_flags, free_address};
use forebay_proto::etcdserverpb::{
    MemberAddRequest, MoveLeaderRequest, PutRequest, StatusRequest, cluster_client::ClusterClient, kv_client::KvClient,
    maintenance_client::MaintenanceClient,
};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

/// The verdict, the evidence and the next command of each check, and the exit status.
struct Examined {
    findings: Vec<Value>,
    status: i32,
}

fn examine(args: &[&str]) -> anyhow::Result<Examined> {
    examine_as(args, "")
}

/// The same with an admin token.
fn examine_as(args: &[&str], admin_token: &str) -> anyhow::Result<Examined> {
    let output = Command::new(peers::forebay().context(peers::BUILD)?)
        .env("FOREBAY_ADMIN_TOKEN", admin_token)
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

async fn channel(url: String) -> Channel {
    Endpoint::from_shared(url).unwrap().connect().await.unwrap()
}

/// The endpoints of all members of a cluster, as a flag.
fn endpoints(cluster: &Cluster) -> String {
    let urls: Vec<String> = cluster.members.iter().map(forebay_conformance::cluster::Node::url).collect();
    format!("--endpoints={}", urls.join(","))
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
    let endpoints = endpoints(&cluster);
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

/// Three members that change their leader again and again, get one more that never starts, and lose two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restless_cluster_a_member_that_never_starts_and_a_lost_quorum_are_found() {
    if is_missing("doctor::a_restless_cluster_a_member_that_never_starts_and_a_lost_quorum_are_found", &[]) {
        return;
    }
    let mut cluster = Cluster::start(&[Kind::Server; 3], &[]).await.unwrap();
    for _ in 0..5 {
        let leader = cluster.leader().await.unwrap();
        let to = cluster.members[(leader + 1) % 3].url();
        let mut next = MaintenanceClient::new(channel(to).await);
        let target_id = next.status(StatusRequest {}).await.unwrap().into_inner().header.unwrap().member_id;
        let url = cluster.members[leader].url();
        let mut leading = MaintenanceClient::new(channel(url).await);
        leading.move_leader(MoveLeaderRequest { target_id }).await.unwrap();
    }
    let leader = cluster.leader().await.unwrap();
    let mut members = ClusterClient::new(channel(cluster.members[leader].url()).await);
    let peer_ur_ls = vec![format!("http://{}", free_address().unwrap())];
    let add = MemberAddRequest { peer_ur_ls, is_learner: true };
    // A leader that has only begun has not heard of everybody yet, and adds nobody until then.
    for _ in 0..100 {
        match members.member_add(add.clone()).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.message(), "etcdserver: unhealthy cluster"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let endpoints = endpoints(&cluster);
    // Who hears of the new member last is waited for.
    let mut ill = examine(&[&endpoints]).unwrap();
    for _ in 0..50 {
        if ill.expect("members", "WARN", "never started").is_ok() {
            break;
        }
        ill = examine(&[&endpoints]).unwrap();
    }
    ill.expect("members", "WARN", "never started").unwrap();
    ill.expect("raft", "WARN", "leader changes").unwrap();
    ill.expect("leader", "PASS", "all follow").unwrap();

    cluster.kill(0);
    cluster.kill(1);
    let alone = format!("--endpoints={}", cluster.members[2].url());
    let mut left = examine(&[&alone, "--timeout=2s"]).unwrap();
    for _ in 0..50 {
        if left.expect("leader", "FAIL", "knows no leader").is_ok() {
            break;
        }
        left = examine(&[&alone, "--timeout=2s"]).unwrap();
    }
    left.expect("leader", "FAIL", "knows no leader").unwrap();
}

/// A gateway that refuses somebody, loses its policy file, and tells its operator alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_examined_with_its_admin_token() {
    if is_missing("doctor::a_gateway_is_examined_with_its_admin_token", &[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (token, policy) = (scratch.path().join("token"), scratch.path().join("policy.yaml"));
    fs::write(&token, "s3cret").unwrap();
    fs::write(&policy, POLICY).unwrap();
    let (client, peer) = (free_address().unwrap(), free_address().unwrap());
    let mut args = vec!["up".to_owned(), format!("--policy={}", policy.display())];
    args.push(format!("--admin-token-file={}", token.display()));
    args.extend(etcd_flags(&scratch.path().join("data"), "http", client, peer));
    let program = peers::forebay().context(peers::BUILD).unwrap();
    let _up = Process::start(&program, &args, client, scratch.path().join("log")).unwrap();
    let endpoint = format!("--endpoints={client}");

    for token in ["", "wrong"] {
        let examined = examine_as(&[&endpoint], token).unwrap();
        examined.expect("load", "SKIP", "its operator alone").unwrap();
        examined.expect("policy", "SKIP", "its operator alone").unwrap();
    }
    let mut kv = KvClient::new(channel(format!("http://{client}")).await);
    examine_as(&[&endpoint], "s3cret").unwrap().expect("policy", "PASS", "control-plane is in force").unwrap();
    // Nearly all are refused, for as long as it takes until a window of accounts has ended.
    let patience = Instant::now() + PATIENCE;
    loop {
        for _ in 0..10 {
            let _ = kv.put(PutRequest { key: "/jobs/a".into(), ..Default::default() }).await;
        }
        match examine_as(&[&endpoint], "s3cret").unwrap().expect("load", "WARN", "requests refused") {
            Ok(()) => break,
            other => assert!(Instant::now() < patience, "{other:?}"),
        }
    }
    fs::write(&policy, "apiVersion: nonsense").unwrap();
    let patience = Instant::now() + PATIENCE;
    loop {
        match examine_as(&[&endpoint], "s3cret").unwrap().expect("policy", "WARN", "its file cannot be used") {
            Ok(()) => break,
            other => assert!(Instant::now() < patience, "{other:?}"),
        }
    }
}

/// How long a gateway may take until it knows what has changed.
const PATIENCE: Duration = Duration::from_secs(60);

const POLICY: &str = "
apiVersion: forebay.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: control-plane}
spec:
  flowRules:
    - name: few
      matchingPrecedence: 500
      mode: Enforce
      match: {rpcs: [Put]}
      priorityLevel: catch-all
      limits: {requests: 1/s, burst: 1}
      onLimit: Reject
";

#[test]
fn logs_backups_and_policy_files_are_examined() {
    if is_missing("doctor::logs_backups_and_policy_files_are_examined", &[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let nobody = format!("--endpoints={}", free_address().unwrap());
    let examine = |args: &[&str]| examine_as(&[&[nobody.as_str()], args].concat(), "").unwrap();
    let ill = r#"{"level":"error","ts":"2026-01-01T00:00:00Z","msg":"lost the TCP streaming connection"}"#;
    examine(&["--log", &file("ill.log", ill)]).expect("log", "WARN", "1 errors").unwrap();
    let well = r#"{"level":"info","ts":"2026-01-01T00:00:00Z","msg":"ready to serve client requests"}"#;
    examine(&["--log", &file("well.log", well)]).expect("log", "PASS", "no errors").unwrap();
    examine(&["--policy", &file("good.yaml", POLICY)]).expect("policy", "PASS", "is good").unwrap();
    examine(&["--policy", &file("bad.yaml", "kind: Nothing")]).expect("policy", "FAIL", "is wrong").unwrap();

    let backups = scratch.path().join("backups");
    fs::create_dir(&backups).unwrap();
    let dir = backups.display().to_string();
    examine(&["--backups", &dir]).expect("backups", "FAIL", "holds none").unwrap();
    let backup = fs::File::create(backups.join("a.db")).unwrap();
    examine(&["--backups", &dir]).expect("backups", "PASS", "a.db").unwrap();
    backup.set_modified(SystemTime::now() - Duration::from_secs(72 * 3600)).unwrap();
    examine(&["--backups", &dir]).expect("backups", "WARN", "3 days old").unwrap();
}
