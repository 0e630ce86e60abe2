//! Which source counts for our own roles: the command line over the environment over the file, flag by flag.
//!
//! Unlike for etcd, a key of the file that nobody knows is an error, and `--print-config` tells where each value came
//! from. A variable that nobody knows is only worth a warning: other programs share the environment.

use std::fmt;

use super::{
    Environment, Failure, FailureKind, Notice, Problem, file,
    go::quote,
    syntax::{self, Given},
    table::Flag,
};
use crate::{logging::Level, suggest};

/// Where a setting's value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(String),
    Variable(String),
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {path}"),
            Origin::Variable(name) => f.write_str(name),
            Origin::CommandLine => f.write_str("command line"),
        }
    }
}

/// The sources of one role.
pub struct Sources<'a> {
    /// What variables start with; of two for the same flag, the earlier prefix wins.
    pub prefixes: &'a [&'a str],
    /// Variables of etcd's tools that mean the same: flag and variable. Ours win over them.
    pub borrowed: &'a [(&'a str, &'a str)],
    /// The flag that names the file.
    pub file_flag: &'a str,
}

/// The settings of a role and where each came from, by index into its table.
#[derive(Debug)]
pub struct Layered<S> {
    pub settings: S,
    pub origins: Vec<Origin>,
    /// What the command line said.
    pub given: Given,
    pub notices: Vec<Notice>,
}

/// Reads all sources. Asked for help or the version, it leaves the settings at what the command line says.
pub fn load<S: Default>(
    flags: &[Flag<S>],
    sources: &Sources<'_>,
    args: &[String],
    env: &Environment,
) -> Result<Layered<S>, Box<Failure>> {
    let mut origins = vec![Origin::Default; flags.len()];
    let mut notices = Vec::new();
    let mut problems = Vec::new();

    // First only to see whether the command line can be read at all.
    let mut settings = S::default();
    let given = syntax::parse(flags, &mut settings, args);
    if !given.errors.is_empty() {
        let problems = given.errors.into_iter().map(|error| Problem { text: error.text, hint: error.hint }).collect();
        return Err(Box::new(Failure { problems, notices, kind: FailureKind::Usage }));
    }
    if let Some(word) = given.rest.first() {
        let problem = Problem::new(format!("{} is not a flag", quote(word)))
            .hint("a switch takes its value after an equals sign, as in --print-config=false");
        return Err(Box::new(Failure { problems: vec![problem], notices, kind: FailureKind::Usage }));
    }
    if given.help || given.set.iter().any(|&index| flags[index].name == "version") {
        return Ok(Layered { settings, origins, given, notices });
    }

    let path = file_name(flags, sources, args, env);
    let mut settings = S::default();
    if !path.is_empty() {
        match file::read(path.as_ref()) {
            Ok(tree) => {
                let applied = file::apply(flags, &mut settings, &tree, true);
                for index in applied.set {
                    origins[index] = Origin::File(path.clone());
                }
                problems.extend(applied.wrong.into_iter().map(|wrong| Problem::new(format!("{path}: {wrong}"))));
                problems.extend(applied.unknown.into_iter().map(|(key, near)| Problem {
                    text: format!("{path}: unknown key {}", quote(&key)),
                    hint: near.map(|near| format!("did you mean {near}?")),
                }));
            }
            Err(error) => {
                let hint = format!("--{} names a YAML or JSON file", sources.file_flag);
                problems.push(Problem::new(error).hint(hint));
            }
        }
    }
    for variable in variables(flags, sources, env) {
        match flags[variable.index].slot.set(&mut settings, variable.value) {
            Ok(()) => origins[variable.index] = Origin::Variable(variable.name),
            Err(reason) => problems.push(Problem {
                text: format!("invalid value {} for {}: {reason}", quote(variable.value), variable.name),
                hint: syntax::value_hint(&flags[variable.index].slot),
            }),
        }
    }
    unknown_variables(flags, sources, env, &mut notices);
    // It was read without an error before; now it has the last word.
    for index in syntax::parse(flags, &mut settings, args).set {
        origins[index] = Origin::CommandLine;
    }
    if problems.is_empty() {
        Ok(Layered { settings, origins, given, notices })
    } else {
        Err(Box::new(Failure { problems, notices, kind: FailureKind::Invalid }))
    }
}

/// The file that the command line names, or else the environment.
fn file_name<S: Default>(flags: &[Flag<S>], sources: &Sources<'_>, args: &[String], env: &Environment) -> String {
    let Some(index) = flags.iter().position(|flag| flag.name == sources.file_flag) else { return String::new() };
    let mut settings = S::default();
    if let Some(variable) = variables(flags, sources, env).find(|variable| variable.index == index)
        && flags[index].slot.set(&mut settings, variable.value).is_err()
    {
        return String::new(); // Reported when every variable is read.
    }
    syntax::parse(flags, &mut settings, args);
    flags[index].slot.show(&mut settings)
}

/// A variable that says something about a flag.
struct Variable<'a> {
    index: usize,
    name: String,
    value: &'a str,
}

fn name_of(prefix: &str, flag: &str) -> String {
    format!("{prefix}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// At most one for each flag. Empty ones say nothing.
fn variables<'a, S>(
    flags: &'a [Flag<S>],
    sources: &'a Sources<'_>,
    env: &'a Environment,
) -> impl Iterator<Item = Variable<'a>> {
    flags.iter().enumerate().filter_map(move |(index, flag)| {
        let own = sources.prefixes.iter().map(|prefix| name_of(prefix, flag.name));
        let borrowed = sources.borrowed.iter().filter(|(name, _)| *name == flag.name);
        own.chain(borrowed.map(|(_, variable)| (*variable).to_owned())).find_map(|name| {
            let (_, value) = env.iter().find(|(known, value)| *known == name && !value.is_empty())?;
            Some(Variable { index, name, value })
        })
    })
}

fn unknown_variables<S>(flags: &[Flag<S>], sources: &Sources<'_>, env: &Environment, notices: &mut Vec<Notice>) {
    for prefix in sources.prefixes {
        let known: Vec<String> = flags.iter().map(|flag| name_of(prefix, flag.name)).collect();
        for (name, _) in env.iter().filter(|(name, _)| name.starts_with(prefix) && !known.contains(name)) {
            let notice =
                Notice::new(Level::Warn, "unrecognized environment variable").with("environment-variable", name);
            notices.push(match suggest::nearest(name, known.iter().map(String::as_str)) {
                Some(near) => notice.with("did-you-mean", near),
                None => notice,
            });
        }
    }
}

/// One line per flag: name, value, where the value came from.
pub fn print<S>(flags: &[Flag<S>], settings: &mut S, origins: &[Origin]) -> String {
    let rows: Vec<(String, String)> = flags
        .iter()
        .zip(origins)
        .filter(|(flag, _)| flag.unused().is_none())
        .map(|(flag, origin)| (format!("{}: {}", flag.name, yaml_text(&flag.slot.show(settings))), origin.to_string()))
        .collect();
    let width = rows.iter().map(|(row, _)| row.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(row, origin)| format!("{row:width$}  # {origin}\n")).collect()
}

/// Quoted where YAML would read something else.
fn yaml_text(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:,=[]".contains(c))
        && !text.starts_with(['-', ':', '[', ',', '=']);
    if plain { text.to_owned() } else { quote(text) }
}
