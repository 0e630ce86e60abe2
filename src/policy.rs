//! `forebay policy`: what policy files say, and what they do or would do in a running gateway.

mod files;

pub mod explain;

use forebay_policies::{
    Policy,
    file::{self, SCHEMA},
};

use crate::{
    flags::{Problem, go::quote},
    help, observe, suggest,
};
use files::read;

/// What a command found.
#[derive(Debug, Default)]
pub struct Report {
    /// For stdout.
    pub page: String,
    /// For stderr.
    pub problems: Vec<Problem>,
    /// The exit status.
    pub status: u8,
}

impl Report {
    pub(crate) fn page(page: impl Into<String>) -> Report {
        Report { page: page.into(), ..Report::default() }
    }

    fn failed(status: u8, problems: Vec<Problem>) -> Report {
        Report { problems, status, ..Report::default() }
    }

    fn usage(text: impl Into<String>) -> Report {
        Report::failed(2, vec![Problem::new(text).hint("`forebay help policy` tells how")])
    }
}

const VERBS: [&str; 7] = ["check", "explain", "diff", "apply", "status", "default", "schema"];

/// Does what the words after `forebay policy` ask for.
pub fn run(args: &[String]) -> Report {
    let Some((verb, rest)) = args.split_first() else { return Report::usage("policy needs a verb") };
    match (verb.as_str(), rest) {
        ("-h" | "--help" | "-help" | "help", _) => Report::page(help::policy()),
        ("check", [path]) => check(path),
        ("explain", [path, flags @ ..]) if !path.starts_with('-') => explain::explain(path, flags),
        ("diff", [old, new]) => diff(old, new),
        ("default", []) => Report::page(Policy::builtin_text()),
        ("schema", []) => Report::page(SCHEMA),
        ("status", flags) => answered(observe::policy_status(flags)),
        ("apply", rest) => apply(rest),
        ("check", _) => Report::usage("policy check takes one file"),
        ("explain", _) => Report::usage("policy explain takes a file, and flags after it"),
        ("diff", _) => Report::usage("policy diff takes two files"),
        ("default" | "schema", _) => Report::usage(format!("policy {verb} takes nothing more")),
        (other, _) => match suggest::nearest(other, VERBS) {
            Some(near) => Report::failed(
                2,
                vec![
                    Problem::new(format!("unknown verb {}", quote(other)))
                        .hint(format!("did you mean `policy {near}`?")),
                ],
            ),
            None => Report::usage(format!("unknown verb {}", quote(other))),
        },
    }
}

fn answered(answer: Result<String, Problem>) -> Report {
    match answer {
        Ok(page) => Report::page(page),
        Err(problem) => Report::failed(1, vec![problem]),
    }
}

/// Asks a gateway what a file would change. A policy is applied by its file: a gateway reads it when it changes.
fn apply(rest: &[String]) -> Report {
    let (dry_run, rest): (Vec<_>, Vec<_>) = rest.iter().cloned().partition(|word| word == "--dry-run");
    let Some((path, flags)) = rest.split_first().filter(|(path, _)| !path.starts_with('-')) else {
        return Report::usage("policy apply takes --dry-run and a file, and flags after it");
    };
    if dry_run.is_empty() {
        return Report::usage(
            "a policy is applied by changing the file that --policy of the gateway names; ask with --dry-run before",
        );
    }
    match (read(path), std::fs::read_to_string(path)) {
        (Ok(_), Ok(text)) => answered(observe::policy_dry_run(&text, flags)),
        (Err(problems), _) => Report::failed(1, problems),
        (_, Err(error)) => Report::failed(1, vec![Problem::new(format!("{path}: {error}"))]),
    }
}

fn check(path: &str) -> Report {
    let (loaded, warnings) = match read(path) {
        Ok(read) => read,
        Err(problems) => return Report::failed(1, problems),
    };
    let policy = &loaded.policy;
    let own = policy.rules.iter().filter(|rule| !rule.is_ours());
    let shadow = own.clone().filter(|rule| rule.mode == forebay_policies::Mode::Shadow).count();
    let page = format!(
        "{path}: good: {} levels, {} rules ({shadow} of them count only), {} quotas, {} namespaces, {} warnings\n",
        policy.levels.len(),
        own.count(),
        policy.quotas.len(),
        policy.namespaces.len(),
        warnings.len()
    );
    Report { page, problems: warnings, status: 0 }
}

fn diff(old: &str, new: &str) -> Report {
    let (old, new) = match (read(old), read(new)) {
        (Ok((old, _)), Ok((new, _))) => (old, new),
        (old, new) => {
            let problems = [old.err(), new.err()].into_iter().flatten().flatten().collect();
            return Report::failed(2, problems);
        }
    };
    let differences = file::diff(&old.document, &new.document);
    let page: String = differences.iter().map(|difference| format!("{difference}\n")).collect();
    Report { page, status: u8::from(!differences.is_empty()), ..Report::default() }
}

#[cfg(test)]
mod tests;
