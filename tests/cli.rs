//! The binary as a user meets it, up to the point where a role would start.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Output},
};

struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run_as(name: &str, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .arg0(name)
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let ran = Ran { status: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(!ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'), "escape codes without a terminal");
    ran
}

fn run(args: &[&str]) -> Ran {
    run_as("forebay", args, &[])
}

fn first(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[test]
fn the_version_has_etcds_lines_first() {
    let ran = run_as("etcd", &["--version"], &[]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "etcd Version: 3.7.1");
    for (line, start) in lines[1..].iter().zip(["Git SHA: ", "Go Version: ", "Go OS/Arch: ", "Forebay Version: "]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(lines.len(), 5);
    for args in [["version"].as_slice(), &["--version"], &["server", "--version"], &["gateway", "--version"]] {
        assert_eq!(run(args).stdout, ran.stdout, "{args:?}");
    }
}

#[test]
fn help_is_printed_for_every_role() {
    for (args, start) in [
        (["help"].as_slice(), "Forebay is the front tier of etcd"),
        (&["-h"], "Forebay is the front tier of etcd"),
        (&["server", "--help"], "Usage: forebay server [flags]"),
        (&["help", "gateway"], "Usage: forebay gateway --endpoints="),
        (&["up", "-h"], "Usage: forebay [up] [flags]"),
        (&["help", "exit-status"], "Exit status"),
    ] {
        let ran = run(args);
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(ran.stdout.starts_with(start), "{args:?}: {}", first(&ran.stdout));
    }
}

#[test]
fn a_command_line_that_cannot_be_read_ends_with_2_and_gos_words() {
    for (args, line) in [
        (["--listen-client-url", "x"].as_slice(), "flag provided but not defined: -listen-client-url"),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (&["--backend-batch-interval=10"], "invalid value \"10\" for flag -backend-batch-interval: parse error"),
        (&["--name"], "flag needs an argument: -name"),
    ] {
        let ran = run_as("etcd", args, &[]);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert_eq!(first(&ran.stderr), line, "{args:?}");
        assert!(ran.stderr.ends_with("`forebay help server` lists every flag.\n"), "{}", ran.stderr);
    }
    let ran = run(&["server", "--listen-client-url", "x"]);
    assert!(ran.stderr.contains("did you mean --listen-client-urls?"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_is_logged_line_by_line_and_ends_with_1() {
    let ran = run_as("etcd", &["--heartbeat-interval=300", "--tls-min-version=x"], &[("ETCD_NAME", "m1")]);
    assert_eq!(ran.status, Some(1));
    let lines: Vec<serde_json::Value> =
        ran.stderr.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!((&lines[0]["level"], &lines[0]["variable-name"]), (&"info".into(), &"ETCD_NAME".into()));
    let errors: Vec<&str> = lines
        .iter()
        .filter(|line| line["msg"] == "failed to verify flags" && line["level"] == "warn")
        .map(|line| line["error"].as_str().expect("an error"))
        .collect();
    assert_eq!(
        errors,
        [
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
            "unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)",
        ]
    );
}

#[test]
fn a_variable_beside_its_flag_is_fatal_for_the_server() {
    let ran = run_as("etcd", &["--name=a"], &[("ETCD_NAME", "b")]);
    assert_eq!(ran.status, Some(1));
    let line: serde_json::Value = serde_json::from_str(first(&ran.stderr)).expect("a JSON line");
    assert_eq!(line["level"], "fatal");
    assert!(line["msg"].as_str().expect("a message").starts_with("conflicting environment variable"));
}

#[test]
fn our_own_roles_answer_in_sentences() {
    let ran = run(&["gateway"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(first(&ran.stderr), "gateway: --endpoints is missing: the gateway needs an etcd to stand in front of");
    let ran = run(&["gatway"]);
    assert_eq!(ran.status, Some(2));
    assert_eq!(first(&ran.stderr), "forebay: unknown command \"gatway\"");
    let ran = run(&["help", "nonsense"]);
    assert_eq!(ran.status, Some(2));
}

#[test]
fn the_configuration_is_printed_with_its_origins() {
    let ran = run_as("forebay", &["gateway", "--endpoints=a:1", "--print-config"], &[("FOREBAY_LOG_LEVEL", "warn")]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.lines().any(|line| line.starts_with("endpoints: a:1 ") && line.ends_with("# command line")));
    assert!(ran.stdout.lines().any(|line| line.starts_with("log-level: warn ") && line.ends_with("FOREBAY_LOG_LEVEL")));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["help", "server"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
