//! What the operator says: command line, environment, configuration file.

use std::{cell::LazyCell, path::PathBuf};

use forebay::{
    cli::Command,
    flags::{Asked, Environment, Failure, etcd, gateway, up},
};

/// Every command line and environment starts a role, prints something, or is refused with reasons.
///
/// Input: lines, each an argument, or a variable if it begins with `$`.
pub fn flags(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lowered = text.to_ascii_lowercase();
    if lowered.contains("config-file") || lowered.contains("config_file") {
        // Whatever it names on this machine is not ours to read; `config_file` has files.
        return;
    }
    let (variables, args): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('$'));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let env: Vec<(String, String)> = variables
        .into_iter()
        .filter_map(|variable| variable[1..].split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if let Err((status, problem)) = Command::read(&args) {
        assert!(status > 0 && !problem.text.is_empty());
    }
    load(&args, &env);
}

/// As [`flags`], of a configuration file. The input is the file.
pub fn config_file(data: &[u8]) {
    thread_local! {
        static FILE: LazyCell<(tempfile::TempDir, PathBuf)> = LazyCell::new(|| {
            let folder = tempfile::tempdir().expect("a writable folder for temporary files");
            let path = folder.path().join("config");
            (folder, path)
        });
    }
    FILE.with(|file| {
        std::fs::write(&file.1, data).expect("a writable file");
        load(&[format!("--config-file={}", file.1.display())], &[]);
    });
}

fn load(args: &[String], env: &Environment) {
    check(etcd::load(args, env, None));
    check(up::load(args, env, Some("host.example".to_owned())));
    check(gateway::load(args, env));
}

fn check<C>(asked: Result<Asked<C>, Box<Failure>>) {
    match asked {
        Ok(Asked::Help | Asked::Version | Asked::Run(_)) => {}
        Ok(Asked::Print(text)) => assert!(text.ends_with('\n'), "{text:?}"),
        Err(failure) => {
            assert!(!failure.problems.is_empty(), "a refusal has a reason");
            for problem in &failure.problems {
                assert!(!problem.text.is_empty());
            }
        }
    }
}
