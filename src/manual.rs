//! `forebay man`: man pages, one for each command, from [`commands`] and the help pages.

use std::{fmt::Write as _, fs, path::Path};

use crate::{
    commands::{self, Command},
    flags::{Problem, go::quote},
    help,
    policy::Report,
    version::FOREBAY_VERSION,
};

/// Does what the words after `forebay man` ask for: pages into a folder, or the first one to stdout.
pub fn run(args: &[String]) -> Report {
    let dir = match args {
        [] => return Report::page(overview(&commands::all())),
        [flag, dir] if flag == "--dir" => dir.as_str(),
        [word] if word.starts_with("--dir=") => &word["--dir=".len()..],
        [word, ..] => {
            let problem =
                Problem::new(format!("unexpected {}", quote(word))).hint("`forebay man --dir DIR` writes the pages");
            return Report { status: 2, problems: vec![problem], ..Report::default() };
        }
    };
    match write(Path::new(dir)) {
        Ok(names) => Report::page(names.iter().map(|name| format!("{dir}/{name}\n")).collect::<String>()),
        Err(error) => {
            let problem = Problem::new(format!("cannot write to {dir}: {error}"));
            Report { status: 1, problems: vec![problem], ..Report::default() }
        }
    }
}

fn write(dir: &Path) -> std::io::Result<Vec<String>> {
    fs::create_dir_all(dir)?;
    let commands = commands::all();
    let own = commands.iter().map(|command| (format!("forebay-{}.1", command.name), page(command)));
    std::iter::once(("forebay.1".to_owned(), overview(&commands)))
        .chain(own)
        .map(|(name, text)| fs::write(dir.join(&name), text).map(|()| name))
        .collect()
}

fn head(name: &str, summary: &str) -> String {
    let title = name.to_uppercase();
    format!(".TH {title} 1 \"\" \"forebay {FOREBAY_VERSION}\"\n.SH NAME\n{} \\- {}\n", escaped(name), escaped(summary))
}

fn overview(commands: &[Command]) -> String {
    let mut page = head("forebay", "the front tier of etcd, with an etcd-compatible server built in");
    page += ".SH SYNOPSIS\n.B forebay\n[\\fIcommand\\fR] [\\fIflags\\fR]\n.SH COMMANDS\n";
    for command in commands {
        let _ = write!(page, ".TP\n.BR forebay\\-{} (1)\n{}\n", escaped(command.name), escaped(command.summary));
    }
    page += ".SH ENVIRONMENT\n.nf\n";
    page += &verbatim(&help::topic("environment").unwrap_or_default());
    page += ".fi\n.SH EXIT STATUS\n.nf\n";
    page += &verbatim(&help::topic("exit-status").unwrap_or_default());
    page + ".fi\n"
}

fn page(command: &Command) -> String {
    let mut page = head(&format!("forebay-{}", command.name), command.summary);
    // Up to the flags, which follow as a list.
    let help = help::topic(command.name).unwrap_or_else(help::overview);
    let prose: Vec<&str> = if command.flags.iter().any(|flag| !flag.help.is_empty()) {
        let own = |line: &&str| !line.starts_with("  --");
        let lines: Vec<&str> = help.lines().take_while(own).collect();
        // The last line is the heading of the first group.
        lines[..lines.len().saturating_sub(1)].to_vec()
    } else {
        help.lines().collect()
    };
    let _ = write!(page, ".SH DESCRIPTION\n.nf\n{}.fi\n", verbatim(&prose.join("\n")));
    let told: Vec<_> = command.flags.iter().filter(|flag| !flag.help.is_empty()).collect();
    if !told.is_empty() {
        page += ".SH OPTIONS\n";
    }
    for flag in told {
        let value = if flag.is_switch { "" } else { " \\fIvalue\\fR" };
        let default = match flag.default.as_str() {
            "" | "false" => String::new(),
            text => format!("Default: {}\n", escaped(text)),
        };
        let _ = write!(page, ".TP\n\\fB\\-\\-{}\\fR{value}\n{}\n{default}", escaped(flag.name), escaped(flag.help));
    }
    page + ".SH SEE ALSO\n.BR forebay (1)\n"
}

/// Text that roff takes for nothing else: neither a request nor a dash that copies as something else.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn verbatim(text: &str) -> String {
    text.lines().map(|line| escaped(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_with_all_its_flags() {
        let dir = tempfile::tempdir().expect("a folder");
        let report = run(&[format!("--dir={}", dir.path().display())]);
        assert_eq!((report.status, report.page.lines().count()), (0, commands::all().len() + 1));
        for command in commands::all() {
            let text = fs::read_to_string(dir.path().join(format!("forebay-{}.1", command.name))).expect("a page");
            assert!(text.starts_with(".TH FOREBAY-") && text.contains(".SH DESCRIPTION"), "{}", command.name);
            for flag in command.flags.iter().filter(|flag| !flag.help.is_empty()) {
                assert!(
                    text.contains(&format!("\\fB\\-\\-{}\\fR", escaped(flag.name))),
                    "{} --{}",
                    command.name,
                    flag.name
                );
            }
            // No line of text begins with what roff would take for a request.
            let requests = [".TH", ".SH", ".nf", ".fi", ".TP", ".BR", ".B "];
            let stray = text
                .lines()
                .find(|line| line.starts_with(['.', '\'']) && !requests.iter().any(|own| line.starts_with(own)));
            assert_eq!(stray, None);
        }
        assert!(run(&[]).page.starts_with(".TH FOREBAY 1"));
        assert_eq!(run(&["x".to_owned()]).status, 2);
    }
}
