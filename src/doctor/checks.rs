//! What the facts mean. Nothing is asked here.

use std::time::Duration;

use super::{
    facts::{Endpoint, Facts, Machine, Status},
    log::Log,
    shown,
};
use crate::observe::bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It could not be looked at, or was not asked for.
    Skip,
    Pass,
    Warn,
    Fail,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Verdict::Skip => "SKIP",
            Verdict::Pass => "PASS",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        }
    }

    pub(super) fn exit_status(self) -> u8 {
        match self {
            Verdict::Skip | Verdict::Pass => 0,
            Verdict::Warn => 1,
            Verdict::Fail => 2,
        }
    }
}

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) check: &'static str,
    pub(super) evidence: String,
    /// A command that shows more, or helps.
    pub(super) next: Option<String>,
}

fn pass(check: &'static str, evidence: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Pass, check, evidence: evidence.into(), next: None }
}

fn skip(check: &'static str, evidence: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Skip, check, evidence: evidence.into(), next: Some(next.into()) }
}

fn warn(check: &'static str, evidence: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Warn, check, evidence: evidence.into(), next: Some(next.into()) }
}

fn fail(check: &'static str, evidence: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Fail, check, evidence: evidence.into(), next: Some(next.into()) }
}

/// Judges the facts, in the order in which an operator debugs.
pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.endpoints.is_empty() {
        findings.push(running(facts));
        if facts.endpoints.iter().any(|endpoint| endpoint.silent.is_none()) {
            findings.extend(members(facts));
        }
    }
    if let Some(found) = &facts.data_dir {
        findings.extend(data_dir(found));
    }
    findings.push(facts.log.as_ref().map_or_else(
        || skip("log", "no log was named", "forebay doctor --log /var/log/etcd.log, or journalctl -u etcd -p err"),
        log,
    ));
    let is_told = facts.endpoints.iter().any(|endpoint| endpoint.status.is_some());
    if is_told {
        findings.push(space(facts));
        findings.extend(latency(facts));
    }
    // It may be why nobody answers.
    findings.extend(facts.machine.map(machine));
    if is_told {
        findings.extend(disk_and_network(facts));
        findings.push(elections(facts));
        findings.push(data(facts));
        findings.push(load(facts));
        findings.push(versions(facts));
    }
    findings.push(backups(facts));
    findings.push(policy(facts));
    findings
}

/// The endpoints as etcdctl takes them.
fn all(facts: &Facts) -> String {
    facts.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect::<Vec<_>>().join(",")
}

fn statuses(facts: &Facts) -> impl Iterator<Item = (&Endpoint, &Status)> {
    facts.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.status.as_ref()?)))
}

fn running(facts: &Facts) -> Finding {
    let total = facts.endpoints.len();
    let silent: Vec<&Endpoint> = facts.endpoints.iter().filter(|endpoint| endpoint.silent.is_some()).collect();
    if let Some(first) = silent.first() {
        let why = first.silent.as_deref().unwrap_or_default();
        let next = format!(
            "systemctl status etcd (exit 137 is the kernel's memory killer), or etcdctl --endpoints {} endpoint health",
            first.url
        );
        return fail("running", format!("{} of {total} do not answer; {}: {why}", silent.len(), first.url), next);
    }
    match facts.endpoints.iter().find(|endpoint| endpoint.health.0 != 200) {
        Some(sick) => {
            let (status, body) = &sick.health;
            let next = format!("etcdctl --endpoints {} endpoint status -w table", all(facts));
            fail("running", format!("{} says {status} {}", sick.url, body.trim()), next)
        }
        None => pass("running", format!("{total} of {total} answer and are healthy")),
    }
}

fn members(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(refused) = facts.endpoints.iter().find(|endpoint| endpoint.refused.is_some()) {
        let why = refused.refused.as_deref().unwrap_or_default();
        let next = match why {
            why if why.contains("user") || why.contains("token") || why.contains("permission") => {
                "forebay doctor --user root:PASSWORD".to_owned()
            }
            _ => format!("etcdctl --endpoints {} endpoint status -w table", refused.url),
        };
        findings.push(warn("api", format!("{}: {why}", refused.url), next));
    }
    let Some((_, first)) = statuses(facts).next() else { return findings };
    let status = format!("etcdctl --endpoints {} endpoint status -w table", all(facts));
    if let Some((endpoint, _)) = statuses(facts).find(|(_, status)| status.leader == 0) {
        findings.push(fail("leader", format!("{} knows no leader: no write is taken there", endpoint.url), status));
    } else if let Some((endpoint, other)) = statuses(facts).find(|(_, other)| other.leader != first.leader) {
        let evidence = format!(
            "{} follows {:x} in term {}, others {:x} in term {}",
            endpoint.url, other.leader, other.term, first.leader, first.term
        );
        findings.push(fail("leader", evidence, status));
    } else {
        findings.push(pass("leader", format!("all follow {:x} in term {}", first.leader, first.term)));
    }
    let lists: Vec<_> = facts.endpoints.iter().filter(|endpoint| !endpoint.members.is_empty()).collect();
    if let Some(list) = lists.first() {
        let voters = list.members.iter().filter(|member| !member.is_learner).count();
        let next = format!("etcdctl --endpoints {} member list -w table", all(facts));
        let unstarted = list.members.iter().find(|member| member.name.is_empty());
        if let Some(other) = lists.iter().find(|other| other.members != list.members) {
            findings.push(fail("members", format!("{} and {} name different members", list.url, other.url), next));
        } else if let Some(member) = unstarted {
            findings.push(warn("members", format!("member {:x} was added and never started", member.id), next));
        } else if voters.is_multiple_of(2) {
            let evidence =
                format!("{voters} voters bear the loss of {}, no more than {} would", (voters - 1) / 2, voters - 1);
            findings.push(warn("members", evidence, "etcdctl member add NAME --learner --peer-urls=URL"));
        } else {
            findings.push(pass("members", format!("{voters} voters bear the loss of {}", (voters - 1) / 2)));
        }
    }
    findings
}

fn data_dir(found: &super::data_dir::DataDir) -> Vec<Finding> {
    let path = found.path.display();
    if let Some(missing) = &found.missing {
        return vec![fail("data-dir", missing.clone(), format!("ls -laR {path}"))];
    }
    if let Some(forbidden) = &found.forbidden {
        let evidence = format!("{} cannot be read as this user", forbidden.display());
        return vec![skip("data-dir", evidence, format!("ls -la {path}, then the same as its owner"))];
    }
    let mut findings = Vec::new();
    if found.is_in_use {
        findings.push(skip(
            "data-dir",
            format!("{path} is in use: ask its member"),
            "forebay doctor --endpoints HOST:PORT",
        ));
    }
    if let Some(error) = &found.db_error {
        let next = format!(
            "keep a copy, then etcdutl snapshot restore BACKUP --data-dir {path}.new, or remove the member and add it again empty"
        );
        findings.push(fail("data-dir", format!("the db file is damaged: {error}"), next));
    }
    if let Some(db) = &found.db {
        let evidence = format!(
            "every page of the db file checks: {} keys at revision {}, {} of {} in use, {} WAL files",
            db.keys,
            db.revision,
            bytes(db.in_use as f64),
            bytes(db.size as f64),
            found.wal_segments
        );
        findings.push(match (found.wal_segments, db.alarms) {
            (0, _) => {
                fail("data-dir", format!("there is no WAL beside the db file of {path}"), format!("ls -laR {path}"))
            }
            (_, 0) => pass("data-dir", evidence),
            _ => warn("data-dir", format!("{evidence}; an alarm is on"), "etcdctl alarm list"),
        });
    }
    if let Some(free) = found.free_bytes.filter(|free| *free < 1 << 30) {
        findings.push(warn("disk", format!("{} are free below {path}", bytes(free as f64)), format!("df -h {path}")));
    }
    findings
}

fn log(log: &Log) -> Finding {
    let path = &log.path;
    if let Some(error) = &log.unread {
        return fail("log", format!("{path}: {error}"), format!("ls -la {path}"));
    }
    let telling: Vec<String> = log.telling.iter().map(|(meaning, count)| format!("{count} of {meaning}")).collect();
    let telling = if telling.is_empty() { String::new() } else { format!("; lines that tell: {}", telling.join(", ")) };
    match &log.last_error {
        Some(last) => {
            let next = format!(r#"grep -E '"level":"(error|fatal|panic)"|[EC] \|' {path}"#);
            warn("log", format!("{} errors in {} lines{telling}; the last: {last}", log.errors, log.lines), next)
        }
        None if !log.telling.is_empty() => {
            let next = format!("grep -E 'took too long|slow|heartbeat|space exceeded|lost leader' {path}");
            warn("log", format!("no errors in {} lines{telling}", log.lines), next)
        }
        None => pass("log", format!("no errors in {} lines", log.lines)),
    }
}

/// Space quota and alarms.
fn space(facts: &Facts) -> Finding {
    let endpoints = all(facts);
    let alarms: Vec<&str> = facts.endpoints.iter().flat_map(|endpoint| &endpoint.alarms).map(String::as_str).collect();
    if alarms.contains(&"CORRUPT") {
        let next = format!("etcdctl --endpoints {endpoints} endpoint hashkv --cluster");
        return fail("space", "alarm CORRUPT: members hold different keys", next);
    }
    if alarms.contains(&"NOSPACE") {
        let next = format!(
            "etcdctl --endpoints {endpoints} compact REVISION; etcdctl --endpoints {endpoints} defrag; \
             etcdctl --endpoints {endpoints} alarm disarm"
        );
        return fail("space", "alarm NOSPACE: all writes but deletes are refused (database space exceeded)", next);
    }
    let quota = |endpoint: &Endpoint, status: &Status| {
        let told = endpoint.page.as_ref().and_then(|page| page.sum("etcd_server_quota_backend_bytes"));
        status.quota.or(told.filter(|quota| *quota > 0.0).map(|quota| quota as u64)).unwrap_or(2 << 30)
    };
    let fullest =
        statuses(facts).max_by_key(|(endpoint, status)| status.db_size * 1000 / quota(endpoint, status).max(1));
    let Some((endpoint, status)) = fullest else { return skip("space", "nobody told", "etcdctl endpoint status") };
    let quota = quota(endpoint, status);
    let percent = status.db_size * 100 / quota.max(1);
    let evidence = format!(
        "{} of {} ({percent} %) at {}, {} of it in use",
        bytes(status.db_size as f64),
        bytes(quota as f64),
        endpoint.url,
        bytes(status.db_size_in_use as f64)
    );
    let is_fragmented = status.db_size > 100 << 20 && status.db_size_in_use * 2 < status.db_size;
    match percent {
        95.. => fail("space", evidence, format!("etcdctl --endpoints {endpoints} compact {}", status.revision)),
        80..95 => warn("space", evidence, format!("etcdctl --endpoints {endpoints} compact {}", status.revision)),
        _ if is_fragmented => warn("space", evidence, format!("etcdctl --endpoints {} defrag", endpoint.url)),
        _ => pass("space", evidence),
    }
}

/// How long an answer takes.
fn latency(facts: &Facts) -> Option<Finding> {
    let slowest = facts.endpoints.iter().filter_map(|endpoint| Some((endpoint, *endpoint.reads.last()?)));
    let (endpoint, most) = slowest.max_by_key(|(_, most)| *most)?;
    let half = endpoint.reads[endpoint.reads.len() / 2];
    let evidence = format!("linearizable reads of {}: median {}, slowest {}", endpoint.url, shown(half), shown(most));
    let next = "etcdctl check perf, and the checks below: machine, disk, network";
    Some(match half {
        half if half > Duration::from_secs(1) => fail("latency", evidence, next),
        half if half > Duration::from_millis(100) => warn("latency", evidence, next),
        _ => pass("latency", evidence),
    })
}

fn machine(machine: Machine) -> Finding {
    let evidence = format!(
        "load {:.1} on {} CPUs, {} of {} memory available, {} swapped out",
        machine.load,
        machine.cpus,
        bytes(machine.memory_available as f64),
        bytes(machine.memory as f64),
        bytes(machine.swap_used as f64)
    );
    match machine {
        _ if machine.load > 2.0 * machine.cpus as f64 => warn("machine", evidence, "top -o %CPU"),
        _ if machine.memory_available < machine.memory / 20 => warn("machine", evidence, "top -o %MEM"),
        _ if machine.swap_used > 256 << 20 => warn("machine", evidence, "vmstat 1 5"),
        _ => pass("machine", evidence),
    }
}

/// Where the time goes beside the machine.
fn disk_and_network(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let pages = || facts.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.page.as_ref()?)));
    let worst = |name: &str| {
        let values = pages().filter_map(|(endpoint, page)| Some((endpoint, page.quantile(name, 0.99)?)));
        values.max_by(|a, b| a.1.total_cmp(&b.1))
    };
    match (worst("etcd_disk_wal_fsync_duration_seconds"), worst("etcd_disk_backend_commit_duration_seconds")) {
        (Some((endpoint, fsync)), commit) => {
            let commit = commit.map_or(0.0, |(_, commit)| commit);
            let evidence = format!(
                "p99 since the start: WAL fsync up to {} (should be 10 ms), backend commit up to {} (25 ms)",
                seconds(fsync),
                seconds(commit)
            );
            let next = format!("curl -s {}/metrics | grep etcd_disk_; iostat -x 1 5; fio --fdatasync=1", endpoint.url);
            findings.push(match fsync.max(commit / 2.0) {
                worst if worst > 0.5 => fail("disk", evidence, next),
                worst if worst > 0.032 => warn("disk", evidence, next),
                _ => pass("disk", evidence),
            });
        }
        _ => findings.push(skip(
            "disk",
            "no endpoint shows etcd_disk_ metrics (a gateway has no disk)",
            "forebay doctor --endpoints of the members",
        )),
    }
    if let Some((endpoint, trip)) = worst("etcd_network_peer_round_trip_time_seconds") {
        let evidence = format!("p99 round trip between members up to {}", seconds(trip));
        let next = format!("curl -s {}/metrics | grep etcd_network_peer; ping the peers", endpoint.url);
        findings.push(if trip > 0.1 { warn("network", evidence, next) } else { pass("network", evidence) });
    }
    findings
}

fn seconds(seconds: f64) -> String {
    if seconds.is_finite() {
        shown(Duration::from_secs_f64(seconds))
    } else {
        "more than the largest bucket".to_owned()
    }
}

fn elections(facts: &Facts) -> Finding {
    let lagging = statuses(facts).filter(|(_, status)| !status.is_learner);
    let lag = lagging.map(|(endpoint, status)| (endpoint, status.index.saturating_sub(status.applied)));
    let lag = lag.max_by_key(|(_, lag)| *lag);
    if let Some((endpoint, lag)) = lag.filter(|(_, lag)| *lag > 5_000) {
        let evidence = format!("{} has {lag} committed entries that it has not applied", endpoint.url);
        return warn("raft", evidence, format!("etcdctl --endpoints {} endpoint status -w table", all(facts)));
    }
    let changes = |endpoint: &Endpoint| {
        let page = endpoint.page.as_ref()?;
        let since = page.sum("process_start_time_seconds")?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64();
        Some((page.sum("etcd_server_leader_changes_seen_total")?, ((now - since) / 3600.0).max(1.0 / 60.0)))
    };
    match facts.endpoints.iter().filter_map(changes).max_by(|a, b| a.0.total_cmp(&b.0)) {
        None => skip(
            "raft",
            "no endpoint shows etcd_server_leader_changes_seen_total",
            "forebay doctor --endpoints of the members",
        ),
        Some((changes, hours)) => {
            let evidence = format!("{changes:.0} leader changes in {hours:.1} h");
            if changes > 3.0 && changes / hours > 1.0 {
                let next = "check disk and network above; etcdctl endpoint status -w table while it happens";
                warn("raft", evidence, next)
            } else {
                pass("raft", evidence)
            }
        }
    }
}

/// Space is objects × size × revisions.
fn data(facts: &Facts) -> Finding {
    let told = facts.endpoints.iter().find_map(|endpoint| {
        let page = endpoint.page.as_ref()?;
        let compacted = page.sum("etcd_debugging_mvcc_compact_revision")?.max(0.0);
        let kept = page.sum("etcd_debugging_mvcc_current_revision")? - compacted;
        Some((page.sum("etcd_debugging_mvcc_keys_total")?, kept, compacted, endpoint.status.as_ref()?))
    });
    let Some((keys, kept, compacted, status)) = told else {
        let next = format!("etcdctl --endpoints {} get '' --from-key --count-only -w fields", all(facts));
        return skip("data", "no endpoint shows etcd_debugging_mvcc_ metrics", next);
    };
    let since = if compacted > 0.0 { "since the last compaction" } else { "and no compaction yet" };
    let evidence =
        format!("{keys:.0} keys, {kept:.0} revisions {since}, {} in use", bytes(status.db_size_in_use as f64));
    // Who compacts now and then is given more time than who never has.
    let many = if compacted > 0.0 { 1_000_000.0 } else { 25_000.0 };
    if kept > 5_000_000.0 || (kept > many && kept > 20.0 * keys) {
        let next = format!(
            "etcdctl --endpoints {} compact {}, and --auto-compaction-retention for good",
            all(facts),
            status.revision
        );
        return warn("data", format!("{evidence}: nobody compacts"), next);
    }
    pass("data", evidence)
}

/// How to ask a gateway that told nothing because it wants its admin token, or another one.
fn as_operator(facts: &Facts) -> Option<String> {
    let endpoint = facts.endpoints.iter().find(|endpoint| endpoint.is_withheld)?;
    Some(format!("FOREBAY_ADMIN_TOKEN=$(cat TOKEN-FILE) forebay doctor --endpoints {}", endpoint.url))
}

/// Load is requests × objects × size.
fn load(facts: &Facts) -> Finding {
    let Some((endpoint, top)) = facts.endpoints.iter().find_map(|endpoint| Some((endpoint, endpoint.top.as_ref()?)))
    else {
        if let Some(next) = as_operator(facts) {
            return skip("load", "the gateway tells who asks for what to its operator alone", next);
        }
        let next = format!(
            "forebay gateway --endpoints {} --listen-client-urls http://127.0.0.1:23790, then forebay top",
            all(facts)
        );
        return skip("load", "members do not tell who asks for what; a gateway of this machine does", next);
    };
    let host = endpoint.url.split("://").last().unwrap_or_default();
    let rows = top["rows"].as_array().into_iter().flatten();
    let heaviest = rows.max_by(|a, b| {
        a["loadBytesPerSecond"].as_f64().unwrap_or(0.0).total_cmp(&b["loadBytesPerSecond"].as_f64().unwrap_or(0.0))
    });
    let (refused, all) = (top["all"]["refused"].as_u64().unwrap_or(0), top["all"]["requests"].as_u64().unwrap_or(0));
    let Some(row) = heaviest else { return pass("load", "nobody asked anything in the last seconds") };
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let share = row["bytes"].as_f64().unwrap_or(0.0) / top["all"]["bytes"].as_f64().unwrap_or(1.0).max(1.0) * 100.0;
    let evidence = format!(
        "heaviest is {} with {} of {}: {}/s, {share:.0} % of all; {refused} of {all} requests refused",
        text("client"),
        text("rpc"),
        text("prefix"),
        bytes(row["loadBytesPerSecond"].as_f64().unwrap_or(0.0)),
    );
    if refused * 20 > all {
        return warn("load", evidence, format!("forebay top --endpoint {host}"));
    }
    if row["loadBytesPerSecond"].as_f64().unwrap_or(0.0) > 50e6 && share > 50.0 {
        return warn("load", evidence, format!("forebay tap --endpoint {host} --client '{}'", text("client")));
    }
    pass("load", evidence)
}

/// Releases to which data was lost, and the ones that mended it.
const MENDED: [(u64, u64, u64, &str); 3] = [
    (3, 4, 22, "3.4.22 mends loss of data after a crash while defragmenting"),
    (3, 5, 3, "3.5.0 to 3.5.2 can corrupt data after a crash"),
    (3, 5, 6, "3.5.3 to 3.5.5 mend more inconsistencies"),
];

fn versions(facts: &Facts) -> Finding {
    let mut found: Vec<&str> = statuses(facts).map(|(_, status)| status.version.as_str()).collect();
    found.sort_unstable();
    found.dedup();
    let evidence = found.join(", ");
    let numbers =
        |version: &str| -> Vec<u64> { version.split(['.', '-']).map(|part| part.parse().unwrap_or(0)).collect() };
    for version in &found {
        let [major, minor, patch] = numbers(version)[..].first_chunk().copied().unwrap_or_default();
        if (major, minor) < (3, 4) {
            return fail(
                "versions",
                format!("{version} is no longer maintained"),
                "upgrade one minor release at a time, members one by one",
            );
        }
        if let Some((.., why)) = MENDED.iter().find(|(a, b, c, _)| (major, minor) == (*a, *b) && patch < *c) {
            return warn(
                "versions",
                format!("{version}: {why}"),
                "upgrade to the newest patch release, members one by one",
            );
        }
    }
    if found.len() > 1 {
        return warn(
            "versions",
            format!("members differ: {evidence}"),
            "finish the upgrade: etcdctl endpoint status -w table",
        );
    }
    pass("versions", evidence)
}

fn backups(facts: &Facts) -> Finding {
    let save =
        "etcdctl snapshot save BACKUPS/$(date +%F).db && etcdutl snapshot status BACKUPS/$(date +%F).db -w table";
    match &facts.backups {
        None => skip("backups", "no --backups folder was named", save),
        Some(backup) => match &backup.newest {
            None => fail("backups", format!("{} holds none", backup.dir.display()), save),
            Some((name, age, size)) => {
                let evidence = format!("the newest is {name}, {} old, {}", shown(*age), bytes(*size as f64));
                if *age > Duration::from_secs(36 * 3600) {
                    warn("backups", evidence, save)
                } else {
                    pass("backups", evidence)
                }
            }
        },
    }
}

fn policy(facts: &Facts) -> Finding {
    if let Some((path, problems, status)) = &facts.policy {
        let (path, check) = (path.display(), format!("forebay policy check {}", path.display()));
        return match (status, problems) {
            (0, 0) => pass("policy", format!("{path} is good")),
            (0, warnings) => warn("policy", format!("{path} has {warnings} warnings"), check),
            _ => fail("policy", format!("{path} is wrong in {problems} places"), check),
        };
    }
    let in_force = facts.endpoints.iter().find_map(|endpoint| Some((endpoint, endpoint.policy.as_ref()?)));
    match (in_force, as_operator(facts)) {
        (None, Some(next)) => skip("policy", "the gateway tells its operator alone which policy is in force", next),
        (None, None) => skip(
            "policy",
            "no policy file was named, and no endpoint is a gateway of this machine",
            "forebay policy default > policy.yaml",
        ),
        (Some((endpoint, policy)), _) if policy["current"] == false => {
            let evidence = format!("{} keeps an older policy: its file cannot be used", endpoint.url);
            warn("policy", evidence, "forebay policy check FILE")
        }
        (Some((_, policy)), _) => {
            let name = policy["name"].as_str().unwrap_or_default();
            pass("policy", format!("{name} is in force, {} rules", policy["rules"].as_array().map_or(0, Vec::len)))
        }
    }
}

#[cfg(test)]
mod tests;
