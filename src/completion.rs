//! `forebay completion`: what a shell needs to complete our command line, from [`commands`].

use std::fmt::Write as _;

use crate::{
    commands::{self, Command, Described},
    flags::{Problem, go::quote},
    policy::Report,
};

const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];

/// Does what the words after `forebay completion` ask for.
pub fn run(args: &[String]) -> Report {
    let script = match args {
        [shell] => match shell.as_str() {
            "bash" => Some(bash(&commands::all())),
            "zsh" => Some(zsh(&commands::all())),
            "fish" => Some(fish(&commands::all())),
            "powershell" => Some(powershell(&commands::all())),
            _ => None,
        },
        _ => None,
    };
    match script {
        Some(script) => Report::page(script),
        None => {
            let text = args
                .first()
                .map_or("completion needs a shell".to_owned(), |shell| format!("no completion for {}", quote(shell)));
            let hint = format!("there is {}, as in: source <(forebay completion bash)", SHELLS.join(", "));
            Report { status: 2, problems: vec![Problem::new(text).hint(hint)], ..Report::default() }
        }
    }
}

fn flag_names(command: &Command) -> String {
    command.flags.iter().map(|flag| format!("--{}", flag.name)).collect::<Vec<_>>().join(" ")
}

fn bash(commands: &[Command]) -> String {
    let names: Vec<&str> = commands.iter().map(|command| command.name).collect();
    let mut script = format!(
        r#"# Completion of forebay for bash. To have it in every shell:
#   forebay completion bash > /etc/bash_completion.d/forebay
_forebay() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=""
  # Bash takes --flag=value for three words.
  if [ "$word" = = ]; then word=""
  elif [ "$before" = = ]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  # Flags without a command are those of up.
  if [[ $command == -* ]]; then command=up
  elif [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{}" -- "$word"))
    return
  fi
  case "$command $before" in
"#,
        names.join(" ")
    );
    for command in commands {
        for flag in &command.flags {
            let reply = match flag {
                Described { choices: [_, ..], .. } => {
                    format!(r#"COMPREPLY=($(compgen -W "{}" -- "$word")); "#, flag.choices.join(" "))
                }
                Described { is_path: true, .. } => String::new(),
                _ => continue,
            };
            let _ = writeln!(script, r#"    "{} --{}") {reply}return ;;"#, command.name, flag.name);
        }
    }
    script += "  esac\n  case $command in\n";
    for command in commands {
        let words = [command.words.join(" "), flag_names(command)].join(" ");
        let _ = writeln!(script, "    {}) words=\"{}\" ;;", command.name, words.trim());
    }
    // What is left open is a file, as readline completes it.
    script
        + r#"  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _forebay forebay
"#
}

/// Text within single quotes of a POSIX shell.
fn posix(text: &str) -> String {
    text.replace('\'', r"'\''")
}

fn zsh(commands: &[Command]) -> String {
    // In a description a colon or a bracket would end it.
    let plain = |text: &str| posix(text).replace(':', "\\:").replace('[', "\\[").replace(']', "\\]");
    let mut script = "#compdef forebay\n# Completion of forebay for zsh: forebay completion zsh > \"${fpath[1]}/_forebay\"\n_forebay() {\n  local -a commands=(\n".to_owned();
    for command in commands {
        let _ = writeln!(script, "    '{}:{}'", command.name, plain(command.summary));
    }
    script += "  )\n  local command=${words[2]}\n  # Flags without a command are those of up.\n  \
         if [[ $command == -* ]]; then command=up\n  elif (( CURRENT == 2 )); then\n    _describe command commands\n    \
         return\n  fi\n  case $command in\n";
    for command in commands {
        let _ = write!(script, "    {}) _arguments", command.name);
        for flag in &command.flags {
            let value = match flag {
                Described { is_switch: true, .. } => String::new(),
                Described { choices: [_, ..], .. } => format!(":value:({})", flag.choices.join(" ")),
                Described { is_path: true, .. } => ":file:_files".to_owned(),
                _ => ":value:".to_owned(),
            };
            // With `=` behind its name, `--flag=value` is understood beside `--flag value`.
            let equals = if value.is_empty() { "" } else { "=" };
            let _ = write!(script, " '--{}{equals}[{}]{value}'", flag.name, plain(flag.help));
        }
        match command.words {
            [] => {}
            words => {
                let _ = write!(script, " '2:word:({})'", words.join(" "));
            }
        }
        script += " '*:file:_files' ;;\n";
    }
    script + "  esac\n}\n[ \"$funcstack[1]\" = _forebay ] && _forebay || compdef _forebay forebay\n"
}

fn fish(commands: &[Command]) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut script = "# Completion of forebay for fish: forebay completion fish > ~/.config/fish/completions/forebay.fish\ncomplete -c forebay -n __fish_use_subcommand -f\n".to_owned();
    for command in commands {
        let _ = writeln!(
            script,
            "complete -c forebay -n __fish_use_subcommand -f -a {} -d '{}'",
            command.name,
            quoted(command.summary)
        );
    }
    for command in commands {
        // Flags without a command are those of up.
        let or_none = if command.name == "up" { "__fish_use_subcommand; or " } else { "" };
        let when = format!("-n '{or_none}__fish_seen_subcommand_from {}'", command.name);
        if !command.words.is_empty() {
            let _ = writeln!(script, "complete -c forebay {when} -f -a '{}'", command.words.join(" "));
        }
        for flag in &command.flags {
            let value = match flag {
                Described { is_switch: true, .. } => String::new(),
                Described { choices: [_, ..], .. } => format!(" -x -a '{}'", flag.choices.join(" ")),
                Described { is_path: true, .. } => " -r -F".to_owned(),
                _ => " -x".to_owned(),
            };
            let _ = writeln!(script, "complete -c forebay {when} -l {}{value} -d '{}'", flag.name, quoted(flag.help));
        }
    }
    script
}

fn powershell(commands: &[Command]) -> String {
    let names: Vec<String> = commands.iter().map(|command| format!("'{}'", command.name)).collect();
    let mut script =
        "# Completion of forebay for PowerShell: forebay completion powershell | Out-String | Invoke-Expression\n\
         Register-ArgumentCompleter -Native -CommandName forebay -ScriptBlock {\n  param($word, $line, $cursor)\n  \
         $words = @($line.CommandElements | ForEach-Object { $_.ToString() })\n  $known = @{\n"
            .to_owned();
    for command in commands {
        let words = command.words.iter().map(|word| (*word).to_owned());
        let flags = command.flags.iter().map(|flag| format!("--{}", flag.name));
        let all: Vec<String> = words.chain(flags).map(|word| format!("'{word}'")).collect();
        let _ = writeln!(script, "    '{}' = @({})", command.name, all.join(", "));
    }
    let _ = write!(
        script,
        "  }}\n  $first = $words.Count -lt 2 -or ($words.Count -eq 2 -and $word -ne '')\n  \
         $choices = if ($first) {{ @({}) }} else {{ $known[$words[1]] }}\n  \
         $choices | Where-Object {{ $_ -like \"$word*\" }} | ForEach-Object {{ [System.Management.Automation.CompletionResult]::new($_) }}\n}}\n",
        names.join(", ")
    );
    script
}

#[cfg(test)]
mod tests {
    use std::process::{Command as Process, Stdio};

    use super::*;

    #[test]
    fn every_shell_gets_every_command_and_flag() {
        for shell in SHELLS {
            let report = run(&[shell.to_owned()]);
            assert_eq!(report.status, 0, "{shell}");
            for command in commands::all() {
                assert!(report.page.contains(command.name), "{shell}: {}", command.name);
                for flag in &command.flags {
                    assert!(report.page.contains(flag.name), "{shell}: {} --{}", command.name, flag.name);
                }
            }
        }
        assert_eq!((run(&[]).status, run(&["csh".to_owned()]).status), (2, 2));
    }

    #[test]
    fn bash_completes_commands_flags_and_choices() {
        let complete = |words: &str| {
            let count = words.split(' ').count() - 1;
            let script = format!(
                "{}\nCOMP_WORDS=({})\nCOMP_CWORD={count}\n_forebay\necho \"${{COMPREPLY[@]}}\"",
                run(&["bash".to_owned()]).page,
                words.split(' ').map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" ")
            );
            let output =
                Process::new("bash").args(["--norc", "-c", &script]).stdin(Stdio::null()).output().expect("bash runs");
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        assert_eq!(complete("forebay gat"), "gateway");
        assert_eq!(complete("forebay doctor --back"), "--backups");
        assert_eq!(complete("forebay doctor --output j"), "json");
        assert_eq!(complete("forebay policy ex"), "explain");
        assert_eq!(complete("forebay policy st"), "status");
        // As bash splits `--output=j` and `--output=`.
        assert_eq!(complete("forebay doctor --output = j"), "json");
        assert_eq!(complete("forebay doctor --output ="), "table json");
        assert_eq!(complete("forebay --listen-m"), "--listen-metrics-urls");
        // A file is readline's to complete.
        assert_eq!(complete("forebay doctor --data-dir /t"), "");
    }
}
