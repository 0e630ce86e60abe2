//! What etcd 3.7.1 was seen to do with a command line, an environment and a file, and that ours does the same.
//!
//! `observed.json` holds one case a line: `status` and `text` are etcd's exit status and the first thing it said
//! against it, or `accepted` when it went on to listen. `ours` overrides them where we differ on purpose.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::flags::server_config::{AutoCompaction, ClusterState, ServerConfig};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    argv: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    file: Option<String>,
    status: Status,
    text: Option<String>,
    ours: Option<Ours>,
}

/// Where we differ.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ours {
    status: Option<Status>,
    text: Option<String>,
    why: String,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(untagged)]
enum Status {
    Exit(u8),
    Accepted(String),
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn outcome(asked: Result<Asked<ServerConfig>, Box<Failure>>) -> (Status, Vec<String>) {
    match asked {
        Ok(Asked::Help) => (Status::Exit(0), vec!["help".to_owned()]),
        Ok(Asked::Version) => (Status::Exit(0), vec!["version".to_owned()]),
        Ok(Asked::Print(_)) => panic!("etcd has nothing to print"),
        Ok(Asked::Run(_)) => (Status::Accepted("accepted".to_owned()), Vec::new()),
        Err(failure) => (
            Status::Exit(failure.kind.exit_status()),
            failure.problems.into_iter().map(|problem| problem.text).collect(),
        ),
    }
}

#[test]
fn etcd_was_seen_to_do_the_same() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("observed.json")).expect("the observations parse");
    assert!(cases.len() > 200);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("c.yaml");
    let path = path.to_str().expect("a UTF-8 path");
    let named = |text: &str| text.replace("c.yaml", path);
    let mut differences = Vec::new();
    for case in cases {
        if let Some(file) = &case.file {
            std::fs::write(path, file).expect("a writable file");
        }
        let argv: Vec<String> = case.argv.iter().map(|word| named(word)).collect();
        let env: Vec<_> = case.env.iter().map(|(name, value)| (name.clone(), named(value))).collect();
        let (status, texts) = outcome(load(&argv, &env, None));
        let said = format!("{:?} {:?} {:?}", case.argv, case.env, case.file);
        let (mut want_status, mut want_text) = (case.status, case.text);
        if let Some(ours) = case.ours {
            assert!(!ours.why.is_empty(), "{said}: a difference needs a reason");
            want_text = if ours.status.is_some() { ours.text } else { ours.text.or(want_text) };
            want_status = ours.status.unwrap_or(want_status);
        }
        let heard = match &want_text {
            Some(text) => texts.iter().any(|heard| *heard == named(text)),
            None => texts.is_empty(),
        };
        if status != want_status || !heard {
            differences.push(format!("{said}\n  want {want_status:?} {want_text:?}\n  got  {status:?} {texts:?}"));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

fn config(argv: &[&str], env: &[(&str, &str)]) -> (ServerConfig, Vec<Notice>) {
    match load(&strings(argv), &variables(env), None) {
        Ok(Asked::Run(ready)) => (ready.config, ready.notices),
        other => panic!("{argv:?} {env:?}: {other:?}"),
    }
}

#[test]
fn nothing_said_gives_etcds_defaults() {
    let (config, _) = config(&[], &[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(config.wal_dir, None);
    assert_eq!(config.listen_client_urls[0].as_str(), "http://localhost:2379");
    assert_eq!(config.initial_cluster[0].0, "default");
    assert_eq!(config.initial_cluster[0].1[0].as_str(), "http://localhost:2380");
    assert_eq!(config.initial_cluster_state, ClusterState::New);
    assert_eq!((config.heartbeat_interval.as_millis(), config.election_timeout.as_millis()), (100, 1000));
    assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (10_000, 5_000));
    assert_eq!((config.max_request_bytes, config.max_txn_ops), (1_572_864, 128));
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!((config.backend_batch_interval.as_millis(), config.backend_batch_limit), (100, 10_000));
    assert_eq!((config.compaction_batch_limit, config.compaction_sleep_interval.as_millis()), (1_000, 10));
    assert_eq!(config.watch_progress_notify_interval.as_secs(), 600);
    assert_eq!(config.auto_compaction, None);
    assert!(config.pre_vote && config.strict_reconfig_check && config.initial_election_tick_advance);
}

/// The argv of kubeadm's static pod, with files that need not exist to be accepted.
#[test]
fn kubeadms_command_line_is_accepted_as_it_is() {
    let (config, notices) = config(
        &[
            "--advertise-client-urls=https://10.0.0.4:2379",
            "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
            "--client-cert-auth=true",
            "--data-dir=/var/lib/etcd",
            "--feature-gates=InitialCorruptCheck=true",
            "--initial-advertise-peer-urls=https://10.0.0.4:2380",
            "--initial-cluster=cp1=https://10.0.0.4:2380",
            "--key-file=/etc/kubernetes/pki/etcd/server.key",
            "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.4:2379",
            "--listen-metrics-urls=http://127.0.0.1:2381",
            "--listen-peer-urls=https://10.0.0.4:2380",
            "--name=cp1",
            "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
            "--peer-client-cert-auth=true",
            "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
            "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
            "--snapshot-count=10000",
            "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
            "--watch-progress-notify-interval=5s",
        ],
        &[],
    );
    assert!(notices.is_empty(), "{notices:?}");
    assert!(config.feature_gates.initial_corrupt_check);
    assert!(config.client_tls.client_cert_auth && config.peer_tls.client_cert_auth);
    assert_eq!(config.watch_progress_notify_interval.as_secs(), 5);
    assert_eq!(config.listen_client_urls.len(), 2);
}

#[test]
fn a_variable_says_what_the_command_line_left_out() {
    let (config, notices) = config(
        &["--heartbeat-interval=200", "--election-timeout=2000"],
        &[("ETCD_NAME", "m1"), ("ETCD_DATA_DIR", "/d"), ("ETCD_NAEM", "x"), ("PATH", "/bin")],
    );
    assert_eq!((config.name.as_str(), config.data_dir.to_str()), ("m1", Some("/d")));
    assert_eq!(config.initial_cluster[0].0, "m1", "a name alone renames the default cluster");
    let unknown = notices.iter().find(|notice| notice.message == "unrecognized environment variable");
    let fields = &unknown.expect("a warning").fields;
    assert!(fields.contains(&("did-you-mean", "ETCD_NAME".to_owned())), "{fields:?}");
}

#[test]
fn a_secret_in_a_variable_does_not_reach_the_log() {
    let (_, notices) = config(&[], &[("ETCD_DISCOVERY_PASSWORD", "hunter2")]);
    assert!(!format!("{notices:?}").contains("hunter2"));
}

#[test]
fn a_file_silences_flags_and_variables() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("etcd.conf.yml");
    std::fs::write(
        &path,
        "name: filed\nbackend-batch-interval: 5000000000\npeer-transport-security:\n  allowed-cn: [a, b]\n\
         socket-options: {reuse-port: true}\nsnapshot-cuont: 7\n",
    )
    .expect("a writable file");
    let flag = format!("--config-file={}", path.display());
    let (config, notices) =
        config(&[&flag, "--name=flagged", "--heartbeat-interval=0"], &[("ETCD_NAME", "varied"), ("ETCD_CORS", "x")]);
    assert_eq!(config.name, "filed");
    assert_eq!(config.backend_batch_interval.as_secs(), 5);
    assert_eq!(config.peer_tls.allowed_common_names, ["a", "b"]);
    assert!(config.socket_reuse_port);
    let unknown = notices.iter().find(|notice| notice.message.starts_with("unknown key")).expect("a warning");
    assert!(unknown.fields.contains(&("did-you-mean", "snapshot-count".to_owned())), "{unknown:?}");
}

#[test]
fn listening_everywhere_advertises_the_default_host() {
    let load = |argv: &[&str]| load(&strings(argv), &[], Some("10.1.2.3".to_owned()));
    let Ok(Asked::Run(ready)) = load(&["--name=m1", "--listen-peer-urls=http://0.0.0.0:23800"]) else {
        panic!("accepted")
    };
    assert_eq!(ready.config.initial_advertise_peer_urls[0].as_str(), "http://10.1.2.3:23800");
    assert_eq!(ready.config.initial_cluster[0].1[0].as_str(), "http://10.1.2.3:23800");
    let Ok(Asked::Run(ready)) = load(&["--name=m1"]) else { panic!("accepted") };
    assert_eq!(ready.config.initial_advertise_peer_urls[0].as_str(), "http://localhost:2380");
}

#[test]
fn retention_is_hours_a_duration_or_revisions() {
    let of = |argv: &[&str]| config(argv, &[]).0.auto_compaction;
    let hours = |h: u64| Some(AutoCompaction::Periodic(std::time::Duration::from_secs(h * 3600)));
    assert_eq!(of(&["--auto-compaction-retention=2"]), hours(2));
    assert_eq!(of(&["--auto-compaction-retention=60m"]), hours(1));
    assert_eq!(of(&["--auto-compaction-retention=0"]), None);
    assert_eq!(
        of(&["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"]),
        Some(AutoCompaction::Revision(1000))
    );
}

#[test]
fn every_wrong_thing_is_said_at_once() {
    let (status, texts) = outcome(load(
        &strings(&["--heartbeat-interval=0", "--log-format=xml", "--tls-min-version=x", "--auto-compaction-mode=x"]),
        &[],
        None,
    ));
    assert_eq!((status, texts.len()), (Status::Exit(1), 4), "{texts:?}");
    assert_eq!(texts[0], "unknown log format: xml, supported values json, console");
}

#[test]
fn every_problem_comes_with_what_to_do() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("observed.json")).expect("the observations parse");
    for case in cases.iter().filter(|case| case.file.is_none()) {
        let env: Vec<_> = case.env.clone().into_iter().collect();
        if let Err(failure) = load(&case.argv, &env, None) {
            for problem in failure.problems {
                let far_from_any =
                    problem.text.starts_with("flag provided") || problem.text.starts_with("bad flag syntax");
                assert!(problem.hint.is_some() || far_from_any, "{problem:?}");
            }
        }
    }
}

/// One flag of each meaningless kind, and that it is said so.
#[test]
fn flags_without_meaning_are_accepted_with_a_reason() {
    let (_, notices) = config(&["--backend-bbolt-freelist-type=map", "--v", "--enable-pprof=false"], &[]);
    let said: Vec<&str> = notices
        .iter()
        .filter(|notice| notice.message.starts_with("flag has no meaning here"))
        .map(|notice| notice.fields[0].1.as_str())
        .collect();
    assert_eq!(said, ["backend-bbolt-freelist-type", "enable-pprof", "v"]);
}

#[test]
fn random_command_lines_never_panic() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed);
    println_seed(seed);
    let flags = server::flags();
    let mut random = Random(seed);
    let values = [
        "",
        "0",
        "-1",
        "1",
        "100",
        "true",
        "false",
        "maybe",
        "1h",
        "-5s",
        "9999999999h",
        "99999999999999999999",
        "0x1f",
        "http://127.0.0.1:1",
        "http://0.0.0.0:2",
        "https://[::1]:3",
        "unix:///s",
        "http://",
        "::",
        "*",
        ",",
        ",,",
        "a=b",
        "a=http://h:1,b=http://h:2",
        "AllAlpha=true,LeaseCheckpoint=false",
        "revision",
        "existing",
        "TLS1.3",
        "debug",
        "console",
        "default,stderr",
        "\u{202e}\x1b[0m",
        "é%zz",
        "[",
        "http://[::1%25e]:1",
        "%",
        "http://h:1/%",
        "TLS1.2",
    ];
    for _ in 0..4_000 {
        let mut argv = Vec::new();
        for _ in 0..random.below(6) {
            let name = flags[random.below(flags.len())].name;
            let value = values[random.below(values.len())];
            if name == "config-file" {
                continue;
            }
            match random.below(6) {
                0 => argv.extend([format!("--{name}"), value.to_owned()]),
                1 => argv.push(format!("-{name}")),
                2 => argv.push(value.to_owned()),
                3 => argv.push(format!("--{}={value}", &name[random.below(name.len())..])),
                _ => argv.push(format!("--{name}={value}")),
            }
        }
        let env: Vec<_> = (0..random.below(3))
            .map(|_| (variable(flags[random.below(flags.len())].name), values[random.below(values.len())].to_owned()))
            .filter(|(name, _)| name != "ETCD_CONFIG_FILE")
            .collect();
        let host = (random.below(2) == 0).then(|| "10.0.0.1".to_owned());
        if let Err(failure) = load(&argv, &env, host) {
            assert!(!failure.problems.is_empty(), "seed {seed}: {argv:?} {env:?}");
        }
    }
}

#[test]
fn random_files_never_panic() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0xf11e);
    println_seed(seed);
    let flags = server::flags();
    let mut random = Random(seed);
    let values = [
        "",
        "0",
        "-1",
        "1.5",
        "1e99",
        "true",
        "yes",
        "'5s'",
        "[a, 1]",
        "{a: b}",
        "~",
        "http://127.0.0.1:1",
        "\"\"",
        "abc",
        "99999999999999999999999",
        ".inf",
        "!!binary aGk=",
        "&a [*a]",
        "|\n  x",
    ];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("c.yaml");
    let argv = [format!("--config-file={}", path.display())];
    for _ in 0..1_000 {
        let lines: Vec<String> = (0..random.below(5))
            .map(|_| {
                let key = flags[random.below(flags.len())].key.unwrap_or("nothing");
                let value = values[random.below(values.len())];
                match key.split_once('.') {
                    Some((outer, inner)) if random.below(4) > 0 => format!("{outer}:\n  {inner}: {value}\n"),
                    _ => format!("{key}: {value}\n"),
                }
            })
            .collect();
        let text = lines.concat();
        std::fs::write(&path, &text).expect("a writable file");
        if let Err(failure) = load(&argv, &[], None) {
            assert!(!failure.problems.is_empty(), "seed {seed}: {text}");
        }
    }
}

/// Shown when a test fails.
#[expect(clippy::print_stdout, reason = "the test harness shows it on failure")]
fn println_seed(seed: u64) {
    println!("SEED={seed}");
}

/// SplitMix64: enough to pick with.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let wide = u128::from(z ^ (z >> 31)) * bound as u128;
        usize::try_from(wide >> 64).expect("invariant: below a usize")
    }
}
