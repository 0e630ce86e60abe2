//! `forebay doctor`: what is wrong with an etcd, ours or any other, and what to run next.
//!
//! The order is that of the talk's chapter on debugging: is it running, do members agree, what does the log say, is
//! there space, where does time go, what lies in it, who asks for how much; then versions, backups and policy.
//! [`facts`] asks, over etcd's JSON API and its pages, and [`data_dir`] looks into a stopped member's directory;
//! [`checks`] judges what they found without asking anything, so each condition is tested by stating it.

mod ask;
mod checks;
mod data_dir;
mod facts;
mod log;
mod page;

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use forebay_edge::tls::{ClientOptions, KeyPair, Protocol, Verify};

use self::{
    ask::Target,
    checks::{Finding, Verdict},
    facts::Facts,
};
use crate::{
    flags::{
        Problem, go,
        syntax::{self, Given, UsageError},
        table::{Flag, Slot},
    },
    policy::Report,
};

/// What may be said about what is to be examined.
#[derive(Clone, Debug)]
pub struct Settings {
    endpoints: Vec<String>,
    data_dir: String,
    log: String,
    policy: String,
    backups: String,
    cacert: String,
    cert: String,
    key: String,
    insecure_skip_tls_verify: bool,
    user: String,
    timeout: go::Duration,
    output: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            data_dir: String::new(),
            log: String::new(),
            policy: String::new(),
            backups: String::new(),
            cacert: String::new(),
            cert: String::new(),
            key: String::new(),
            insecure_skip_tls_verify: false,
            user: String::new(),
            timeout: go::Duration::from_secs(5),
            output: "table".to_owned(),
        }
    }
}

const WHAT: &str = "What to examine";
const HOW: &str = "How to ask";

/// The flags, as etcdctl calls the same things.
#[rustfmt::skip] // one row per flag reads as the table it is
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Choice, List, Text};
    let flag = Flag::<Settings>::new;
    vec![
        flag(WHAT, "endpoints", List(|s| &mut s.endpoints), "Members or gateways, with commas. Metrics are read from the same ports."),
        flag(WHAT, "data-dir", Text(|s| &mut s.data_dir), "The data directory of a member that is stopped."),
        flag(WHAT, "log", Text(|s| &mut s.log), "A member's log, as JSON or text."),
        flag(WHAT, "policy", Text(|s| &mut s.policy), "A policy file."),
        flag(WHAT, "backups", Text(|s| &mut s.backups), "Where snapshots are saved."),
        flag(HOW, "cacert", Text(|s| &mut s.cacert), "Who may sign the certificates of https endpoints; whom this machine trusts when empty."),
        flag(HOW, "cert", Text(|s| &mut s.cert), "Certificate to show."),
        flag(HOW, "key", Text(|s| &mut s.key), "Its key."),
        flag(HOW, "insecure-skip-tls-verify", Bool(|s| &mut s.insecure_skip_tls_verify), "Believe whoever answers."),
        flag(HOW, "user", Text(|s| &mut s.user), "name:password, where auth is on."),
        flag(HOW, "timeout", Slot::Duration(|s| &mut s.timeout), "How long an answer may take."),
        flag(HOW, "output", Choice(|s| &mut s.output, &["table", "json"]), "table or json."),
    ]
}

/// Examines what the words after `forebay doctor` name.
pub fn run(args: &[String]) -> Report {
    let mut settings = Settings::default();
    // As etcdctl has it.
    let args: Vec<String> =
        args.iter().map(|word| if word == "-o" || word == "-w" { "--output" } else { word }.to_owned()).collect();
    let flags = flags();
    let Given { rest, help, errors, set } = syntax::parse(&flags, &mut settings, &args);
    if help {
        return Report::page(crate::help::doctor());
    }
    let mut problems: Vec<Problem> =
        errors.into_iter().map(|UsageError { text, hint }| Problem { text, hint }).collect();
    problems.extend(rest.first().map(|word| Problem::new(format!("{} is not a flag", go::quote(word)))));
    if !problems.is_empty() {
        return Report { problems, status: 2, ..Report::default() };
    }
    let names_endpoints = set.iter().any(|&index| flags[index].name == "endpoints");
    if !settings.data_dir.is_empty() && !names_endpoints {
        // Who names a directory alone asks about what is stopped.
        settings.endpoints.clear();
    }
    match examine(&settings) {
        Ok(findings) => {
            let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Pass);
            let page = if settings.output == "json" { json(&findings) } else { table(&findings) };
            Report { page, status: worst.exit_status(), ..Report::default() }
        }
        Err(error) => Report { problems: vec![Problem::new(format!("{error:#}"))], status: 2, ..Report::default() },
    }
}

fn examine(settings: &Settings) -> anyhow::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let patience = settings.timeout.to_std();
    let is_tls = !settings.cacert.is_empty() || !settings.cert.is_empty() || settings.insecure_skip_tls_verify;
    let mut targets = Vec::new();
    for endpoint in &settings.endpoints {
        targets.push(Target::parse(endpoint, is_tls, &tls(settings), patience)?);
    }
    let path = |text: &String| (!text.is_empty()).then(|| PathBuf::from(text));
    let facts = Facts {
        endpoints: runtime.block_on(facts::ask(&targets, &settings.user)),
        machine: facts::machine(&targets),
        log: path(&settings.log).map(|path| log::read(&path)),
        data_dir: path(&settings.data_dir).map(|path| data_dir::look(&path)),
        policy: path(&settings.policy).map(|path| {
            let report = crate::policy::run(&["check".to_owned(), path.display().to_string()]);
            (path, report.problems.len(), report.status)
        }),
        backups: path(&settings.backups).map(|path| facts::newest_backup(&path)),
    };
    Ok(checks::examine(&facts))
}

fn tls(settings: &Settings) -> ClientOptions {
    let verify = match settings.insecure_skip_tls_verify {
        true => Verify::InsecureSkip,
        false if settings.cacert.is_empty() => Verify::System,
        false => Verify::Authorities(settings.cacert.clone().into()),
    };
    let identity = (!settings.cert.is_empty())
        .then(|| KeyPair { certificate: settings.cert.clone().into(), key: settings.key.clone().into() });
    ClientOptions { verify, identity, server_name: None, protocol: Protocol::default(), speaks: vec!["http/1.1"] }
}

/// A line for each check, what to run next below it.
fn table(findings: &[Finding]) -> String {
    let mut page = String::new();
    for Finding { verdict, check, evidence, next } in findings {
        let _ = writeln!(page, "{:<4}  {check:<10}  {}", verdict.word(), syntax::one_line(evidence));
        if let Some(next) = next {
            let _ = writeln!(page, "{:16}→ next: {}", "", syntax::one_line(next));
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let _ = writeln!(
        page,
        "\n{} passed, {} warnings, {} failures, {} not looked at",
        count(Verdict::Pass),
        count(Verdict::Warn),
        count(Verdict::Fail),
        count(Verdict::Skip)
    );
    page
}

fn json(findings: &[Finding]) -> String {
    let findings: Vec<serde_json::Value> = findings
        .iter()
        .map(|Finding { verdict, check, evidence, next }| {
            serde_json::json!({"verdict": verdict.word(), "check": check, "evidence": evidence, "next": next})
        })
        .collect();
    format!("{:#}\n", serde_json::json!({"findings": findings}))
}

/// A time as an operator reads it.
fn shown(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds >= 86_400.0 => format!("{:.0} days", seconds / 86_400.0),
        seconds if seconds >= 3_600.0 => format!("{:.1} h", seconds / 3_600.0),
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_said_with_status_two() {
        for line in ["--enpoints=a", "--output=xml", "stray"] {
            let report = run(&[line.to_owned()]);
            assert_eq!((report.status, report.problems.len()), (2, 1), "{line}: {report:?}");
        }
    }

    #[test]
    fn who_does_not_run_fails_with_the_next_command_and_status_two() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let report = run(&[format!("--endpoints={free}"), "-o".to_owned(), "json".to_owned()]);
        assert_eq!(report.status, 2, "{report:?}");
        let page: serde_json::Value = serde_json::from_str(&report.page).expect("JSON");
        assert_eq!(
            (&page["findings"][0]["verdict"], &page["findings"][0]["check"]),
            (&"FAIL".into(), &"running".into())
        );
        assert!(page["findings"][0]["next"].as_str().expect("a command").contains("systemctl status"), "{page}");
    }

    #[test]
    fn a_finding_is_one_line_and_its_next_command_another() {
        let finding = Finding {
            verdict: Verdict::Warn,
            check: "space",
            evidence: "a\nb".to_owned(),
            next: Some("etcdctl defrag".to_owned()),
        };
        let page = table(&[finding]);
        assert!(page.starts_with("WARN  space       a\\nb\n                → next: etcdctl defrag\n"), "{page}");
        assert!(page.ends_with("0 passed, 1 warnings, 0 failures, 0 not looked at\n"));
    }
}
