//! Which source counts, by etcd's rules: a configuration file instead of everything else, or else the command line
//! and the environment, which must not contradict each other.

use std::collections::BTreeSet;

use super::{
    Asked, Environment, Failure, FailureKind, Notice, Problem, Ready, file,
    go::quote,
    server::{self, Said, Settings},
    server_config::ServerConfig,
    syntax,
    table::Flag,
};
use crate::{logging::Level, suggest};

const PREFIX: &str = "ETCD_";

/// Reads what the operator said about a server. `args` are without the program's name.
pub fn load(
    args: &[String],
    env: &Environment,
    default_host: Option<String>,
) -> Result<Asked<ServerConfig>, Box<Failure>> {
    let flags = server::flags();
    let mut settings = Settings::default();
    let said = syntax::parse(&flags, &mut settings, args);
    if !said.errors.is_empty() {
        let problems = said.errors.into_iter().map(|error| Problem { text: error.text, hint: error.hint }).collect();
        return Err(fail(FailureKind::Usage, problems, Vec::new()));
    }
    if said.help {
        return Ok(Asked::Help);
    }
    if let Some(word) = said.rest.first() {
        let problem = Problem::new(format!("{} is not a valid flag", quote(word)))
            .hint("a switch takes its value after an equals sign, as in --pre-vote=false");
        return Err(fail(FailureKind::Invalid, vec![problem], Vec::new()));
    }
    if settings.version {
        return Ok(Asked::Version);
    }

    let mut notices = Vec::new();
    let from_env = env.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map(|(_, value)| value.clone());
    if settings.config_file.is_empty() {
        settings.config_file = from_env.unwrap_or_default();
    }
    let said = if settings.config_file.is_empty() {
        let mut given: BTreeSet<&'static str> = said.set.iter().map(|&index| flags[index].name).collect();
        environment(&flags, &mut settings, &mut given, env, &mut notices)?;
        Said { settings, given, from_file: false, default_host }
    } else {
        let (settings, given) = config_file(&flags, &settings.config_file, &mut notices)?;
        Said { settings, given, from_file: true, default_host }
    };
    match server::validate(said) {
        Ok((config, more)) => {
            notices.extend(more);
            Ok(Asked::Run(Box::new(Ready { config, notices })))
        }
        Err((kind, problems)) => Err(fail(kind, problems, notices)),
    }
}

/// Fills the settings that the command line left alone, and refuses a variable that says something beside it.
fn environment(
    flags: &[Flag<Settings>],
    settings: &mut Settings,
    given: &mut BTreeSet<&'static str>,
    env: &Environment,
    notices: &mut Vec<Notice>,
) -> Result<(), Box<Failure>> {
    let mut problems = Vec::new();
    let mut conflicts = Vec::new();
    let variables: Vec<String> = flags.iter().map(|flag| variable(flag.name)).collect();
    let on_command_line = given.clone();
    for (name, value) in env.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let found = variables.iter().position(|known| known == name).map(|index| &flags[index]);
        let Some(flag) = found else {
            let warning = Notice::new(Level::Warn, "unrecognized environment variable")
                .with("environment-variable", format!("{name}={value}"));
            notices.push(match suggest::nearest(name, variables.iter().map(String::as_str)) {
                Some(near) => warning.with("did-you-mean", near),
                None => warning,
            });
            continue;
        };
        if on_command_line.contains(flag.name) {
            conflicts.push(
                Problem::new(
                    "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                     environment variable or disable flag))",
                )
                .hint(format!("unset {name} or leave --{} out", flag.name)),
            );
        } else if flag.name == "version" {
            notices.push(
                Notice::new(Level::Warn, "cannot set special environment variable")
                    .with("key", name)
                    .with("value", value),
            );
        } else if value.is_empty() {
            notices.push(
                Notice::new(Level::Warn, "unrecognized environment variable")
                    .with("environment-variable", format!("{name}=")),
            );
        } else {
            match flag.slot.set(settings, value) {
                Ok(()) => {
                    given.insert(flag.name);
                    notices.push(
                        Notice::new(Level::Info, "recognized and used environment variable")
                            .with("variable-name", name)
                            .with("variable-value", shown(flag.name, value)),
                    );
                }
                Err(reason) => problems.push(Problem {
                    text: format!("invalid value {} for {name}: {reason}", quote(value)),
                    hint: syntax::value_hint(&flag.slot),
                }),
            }
        }
    }
    if !conflicts.is_empty() {
        conflicts.append(&mut problems);
        return Err(fail(FailureKind::Conflict, conflicts, std::mem::take(notices)));
    }
    if !problems.is_empty() {
        return Err(fail(FailureKind::Invalid, problems, std::mem::take(notices)));
    }
    Ok(())
}

/// The settings of a file and nothing else.
fn config_file(
    flags: &[Flag<Settings>],
    path: &str,
    notices: &mut Vec<Notice>,
) -> Result<(Settings, BTreeSet<&'static str>), Box<Failure>> {
    let tree = file::read(path.as_ref()).map_err(|error| {
        let problem = Problem::new(error).hint("--config-file (or ETCD_CONFIG_FILE) names a YAML or JSON file");
        fail(FailureKind::Invalid, vec![problem], Vec::new())
    })?;
    let mut settings = Settings::default();
    let applied = file::apply(flags, &mut settings, &tree, false);
    notices.push(
        Notice::new(
            Level::Info,
            "loaded server configuration, other configuration command line flags and environment variables will be \
             ignored if provided",
        )
        .with("path", path),
    );
    for (key, near) in applied.unknown {
        let warning = Notice::new(Level::Warn, "unknown key in the configuration file - ignoring").with("key", key);
        notices.push(match near {
            Some(near) => warning.with("did-you-mean", near),
            None => warning,
        });
    }
    if !applied.wrong.is_empty() {
        let problems = applied.wrong.into_iter().map(|wrong| Problem::new(format!("{path}: {wrong}"))).collect();
        return Err(fail(FailureKind::Invalid, problems, std::mem::take(notices)));
    }
    let given = applied.set.iter().map(|&index| flags[index].name).collect();
    Ok((settings, given))
}

/// The environment variable of a flag.
pub fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// A value as it may stand in a log.
fn shown<'a>(flag: &str, value: &'a str) -> &'a str {
    if flag.contains("password") { "***" } else { value }
}

fn fail(kind: FailureKind, problems: Vec<Problem>, notices: Vec<Notice>) -> Box<Failure> {
    Box::new(Failure { problems, notices, kind })
}

#[cfg(test)]
mod tests;
