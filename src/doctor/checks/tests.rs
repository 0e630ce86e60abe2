use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::doctor::{
    data_dir::DataDir,
    facts::{Backup, Machine, Member},
    page::Page,
};

const FINE: &str = "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.008\"} 100\n\
    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 100\n\
    etcd_server_leader_changes_seen_total 1\nprocess_start_time_seconds 1\netcd_server_quota_backend_bytes 2147483648\n\
    etcd_debugging_mvcc_keys_total 10\netcd_debugging_mvcc_current_revision 100\netcd_debugging_mvcc_compact_revision -1\n";

/// Three members that are well.
fn well() -> Facts {
    let members: Vec<Member> = (1..=3).map(|id| Member { id, name: format!("m{id}"), is_learner: false }).collect();
    let endpoint = |id: u64| Endpoint {
        url: format!("http://10.0.0.{id}:2379"),
        health: (200, r#"{"health":"true"}"#.to_owned()),
        status: Some(Status {
            version: "3.7.1".to_owned(),
            db_size: 50 << 20,
            db_size_in_use: 40 << 20,
            leader: 1,
            term: 4,
            index: 100,
            applied: 100,
            revision: 90,
            ..Status::default()
        }),
        members: members.clone(),
        page: Some(Page::parse(FINE)),
        reads: vec![Duration::from_millis(1); 10],
        ..Endpoint::default()
    };
    Facts { endpoints: (1..=3).map(endpoint).collect(), ..Facts::default() }
}

/// The finding of a check after the facts were changed.
fn found(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = well();
    change(&mut facts);
    let findings = examine(&facts);
    let found = findings.iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("no finding on {check}: {findings:?}")).clone()
}

fn verdict(check: &str, change: impl FnOnce(&mut Facts)) -> Verdict {
    let finding = found(check, change);
    assert!(finding.verdict == Verdict::Pass || finding.next.is_some(), "no next command: {finding:?}");
    finding.verdict
}

fn status(facts: &mut Facts) -> &mut Status {
    facts.endpoints[1].status.as_mut().expect("it has one")
}

#[test]
fn a_cluster_that_is_well_passes_in_the_talks_order() {
    let findings = examine(&well());
    assert!(findings.iter().all(|finding| finding.verdict <= Verdict::Pass), "{findings:?}");
    let order: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    let wanted = [
        "running", "leader", "members", "log", "space", "latency", "disk", "raft", "data", "load", "versions",
        "backups", "policy",
    ];
    assert_eq!(order, wanted);
}

#[test]
fn a_member_that_is_down_sick_or_alone_is_found() {
    let silent = |facts: &mut Facts| {
        facts.endpoints[1] = Endpoint { silent: Some("connection refused".into()), ..Endpoint::default() };
    };
    assert_eq!(verdict("running", silent), Verdict::Fail);
    let sick = |facts: &mut Facts| facts.endpoints[1].health = (503, r#"{"health":"false"}"#.to_owned());
    assert_eq!(verdict("running", sick), Verdict::Fail);
    assert_eq!(verdict("leader", |facts| status(facts).leader = 0), Verdict::Fail);
    assert_eq!(verdict("leader", |facts| status(facts).leader = 2), Verdict::Fail);
    let locked_out = |facts: &mut Facts| facts.endpoints[1].refused = Some("user name is empty".to_owned());
    assert!(found("api", locked_out).next.expect("a command").contains("--user"));
}

#[test]
fn members_that_disagree_are_even_or_never_started_are_found() {
    assert_eq!(verdict("members", |facts| drop(facts.endpoints[1].members.pop())), Verdict::Fail);
    let even = |facts: &mut Facts| facts.endpoints.iter_mut().for_each(|endpoint| drop(endpoint.members.pop()));
    assert!(found("members", even).evidence.starts_with("2 voters bear the loss of 0"));
    let unstarted =
        |facts: &mut Facts| facts.endpoints.iter_mut().for_each(|endpoint| endpoint.members[2].name.clear());
    assert_eq!(verdict("members", unstarted), Verdict::Warn);
}

#[test]
fn space_that_runs_out_is_found() {
    let alarm = |name: &str| {
        let name = name.to_owned();
        move |facts: &mut Facts| facts.endpoints[0].alarms.push(name)
    };
    let finding = found("space", alarm("NOSPACE"));
    assert!(finding.next.expect("commands").contains("alarm disarm"));
    assert_eq!(verdict("space", alarm("CORRUPT")), Verdict::Fail);
    assert_eq!(verdict("space", |facts| status(facts).db_size = (2 << 30) / 100 * 85), Verdict::Warn);
    assert_eq!(verdict("space", |facts| status(facts).db_size = (2 << 30) / 100 * 97), Verdict::Fail);
    let fragmented = |facts: &mut Facts| status(facts).db_size = 400 << 20;
    assert!(found("space", fragmented).next.expect("a command").contains("defrag"));
}

#[test]
fn slow_reads_disks_networks_and_machines_are_found() {
    let reads = |time| move |facts: &mut Facts| facts.endpoints[0].reads = vec![time; 10];
    assert_eq!(verdict("latency", reads(Duration::from_millis(300))), Verdict::Warn);
    assert_eq!(verdict("latency", reads(Duration::from_secs(3))), Verdict::Fail);
    let page = |text: &str| {
        let text = text.to_owned();
        move |facts: &mut Facts| facts.endpoints[0].page = Some(Page::parse(&text))
    };
    let fsync = |bound: &str| {
        format!(
            "etcd_disk_wal_fsync_duration_seconds_bucket{{le=\"{bound}\"}} 9\netcd_disk_wal_fsync_duration_seconds_bucket{{le=\"+Inf\"}} 9\n"
        )
    };
    assert_eq!(verdict("disk", page(&fsync("0.128"))), Verdict::Warn);
    assert_eq!(verdict("disk", page(&fsync("2.048"))), Verdict::Fail);
    let far = "etcd_network_peer_round_trip_time_seconds_bucket{To=\"2\",le=\"0.4\"} 5\n";
    assert_eq!(verdict("network", page(far)), Verdict::Warn);
    let machine = |load, memory_available, swap_used| {
        let machine = Machine { cpus: 2, load, memory: 8 << 30, memory_available, swap_used };
        move |facts: &mut Facts| facts.machine = Some(machine)
    };
    assert_eq!(verdict("machine", machine(9.0, 4 << 30, 0)), Verdict::Warn);
    assert_eq!(verdict("machine", machine(0.1, 100 << 20, 0)), Verdict::Warn);
    assert_eq!(verdict("machine", machine(0.1, 4 << 30, 1 << 30)), Verdict::Warn);
    assert_eq!(verdict("machine", machine(0.1, 4 << 30, 0)), Verdict::Pass);
}

#[test]
fn elections_backlogs_and_history_without_end_are_found() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let restless = format!("etcd_server_leader_changes_seen_total 9\nprocess_start_time_seconds {}\n", now - 60);
    assert_eq!(verdict("raft", |facts| facts.endpoints[0].page = Some(Page::parse(&restless))), Verdict::Warn);
    assert_eq!(verdict("raft", |facts| status(facts).index = 9_000), Verdict::Warn);
    let kept = |current: u64, compact: i64| {
        let page = FINE.replace("current_revision 100", &format!("current_revision {current}"));
        let page = Page::parse(&page.replace("compact_revision -1", &format!("compact_revision {compact}")));
        verdict("data", move |facts| facts.endpoints[0].page = Some(page))
    };
    assert_eq!(
        (kept(200_000, -1), kept(200_000, 100), kept(2_000_000, 100)),
        (Verdict::Warn, Verdict::Pass, Verdict::Warn)
    );
}

#[test]
fn a_client_that_is_refused_or_heavy_is_named() {
    let top = |refused: u64, load: f64| {
        json!({"rows": [{"client": "CN=batch", "prefix": "/registry/jobs/", "rpc": "Range", "bytes": 900,
                "loadBytesPerSecond": load}], "all": {"requests": 100, "refused": refused, "bytes": 1000}})
    };
    let finding = found("load", |facts| facts.endpoints[0].top = Some(top(50, 1.0)));
    assert!(finding.verdict == Verdict::Warn && finding.evidence.contains("CN=batch with Range of /registry/jobs/"));
    assert_eq!(verdict("load", |facts| facts.endpoints[0].top = Some(top(0, 1e9))), Verdict::Warn);
    assert_eq!(verdict("load", |facts| facts.endpoints[0].top = Some(top(0, 1.0))), Verdict::Pass);
}

#[test]
fn a_gateway_that_tells_its_operator_alone_is_asked_with_the_token() {
    for check in ["load", "policy"] {
        let finding = found(check, |facts| facts.endpoints[0].is_withheld = true);
        let next = finding.next.expect("a command");
        assert!(finding.verdict == Verdict::Skip && next.starts_with("FOREBAY_ADMIN_TOKEN="), "{next}");
    }
}

#[test]
fn old_and_mixed_versions_are_found() {
    let version = |version: &str| {
        let version = version.to_owned();
        move |facts: &mut Facts| {
            facts.endpoints.iter_mut().for_each(|endpoint| {
                endpoint.status.as_mut().expect("it has one").version.clone_from(&version);
            });
        }
    };
    assert_eq!(verdict("versions", version("3.3.10")), Verdict::Fail);
    assert_eq!(verdict("versions", version("3.5.1")), Verdict::Warn);
    assert_eq!(verdict("versions", version("3.4.23")), Verdict::Pass);
    assert_eq!(verdict("versions", |facts| status(facts).version = "3.6.0".to_owned()), Verdict::Warn);
}

#[test]
fn logs_backups_and_policies_are_judged() {
    let log = |log: Log| move |facts: &mut Facts| facts.log = Some(log);
    assert_eq!(verdict("log", log(Log { lines: 5, ..Log::default() })), Verdict::Pass);
    let bad = Log { lines: 5, errors: 1, last_error: Some("bad".into()), ..Log::default() };
    assert_eq!(verdict("log", log(bad)), Verdict::Warn);
    let slow = Log { lines: 5, telling: vec![("slow disk", 3)], ..Log::default() };
    assert!(found("log", log(slow)).evidence.contains("3 of slow disk"));
    assert_eq!(verdict("log", log(Log { unread: Some("no such file".into()), ..Log::default() })), Verdict::Fail);
    let backup = |newest| move |facts: &mut Facts| facts.backups = Some(Backup { dir: PathBuf::from("/b"), newest });
    assert_eq!(verdict("backups", backup(None)), Verdict::Fail);
    let aged = |hours: u64| Some(("a.db".to_owned(), Duration::from_secs(hours * 3600), 9));
    assert_eq!(verdict("backups", backup(aged(72))), Verdict::Warn);
    assert_eq!(verdict("backups", backup(aged(2))), Verdict::Pass);
    let policy =
        |problems, status| move |facts: &mut Facts| facts.policy = Some((PathBuf::from("p"), problems, status));
    assert_eq!(verdict("policy", policy(0, 0)), Verdict::Pass);
    assert_eq!(verdict("policy", policy(2, 0)), Verdict::Warn);
    assert_eq!(verdict("policy", policy(2, 1)), Verdict::Fail);
    let stale = |facts: &mut Facts| facts.endpoints[0].policy = Some(json!({"name": "a", "current": false}));
    assert_eq!(verdict("policy", stale), Verdict::Warn);
}

#[test]
fn a_data_directory_that_is_missing_damaged_or_in_use_is_found() {
    let dir = |found: DataDir| move |facts: &mut Facts| facts.data_dir = Some(found);
    assert_eq!(
        verdict("data-dir", dir(DataDir { missing: Some("no db".into()), ..DataDir::default() })),
        Verdict::Fail
    );
    assert_eq!(
        verdict("data-dir", dir(DataDir { db_error: Some("page 3".into()), ..DataDir::default() })),
        Verdict::Fail
    );
    let forbidden = DataDir { forbidden: Some("member/snap/db".into()), ..DataDir::default() };
    assert_eq!(verdict("data-dir", dir(forbidden)), Verdict::Skip);
    assert_eq!(verdict("data-dir", dir(DataDir { is_in_use: true, ..DataDir::default() })), Verdict::Skip);
    assert_eq!(verdict("disk", dir(DataDir { free_bytes: Some(9), ..DataDir::default() })), Verdict::Warn);
}
