//! The command line as Go's `flag` package reads it: `-name value`, `--name=value`, switches with `=` only,
//! `--` or the first other word ends the flags.

use super::{
    go,
    table::{Flag, Kind, Slot},
};
use crate::suggest;

/// What a command line said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Indexes into the table, in the order given.
    pub set: Vec<usize>,
    /// What follows the flags.
    pub rest: Vec<String>,
    /// `-h` or `--help` was asked for; nothing after it was read.
    pub help: bool,
    /// Everything wrong with it; the first is what etcd would have stopped at.
    pub errors: Vec<UsageError>,
}

/// One thing wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    /// As Go words it.
    pub text: String,
    /// What to do instead.
    pub hint: Option<String>,
}

/// Reads `args` into `settings`.
///
/// Goes on after an error to find the others too, so `settings` are good for nothing if there were any.
pub fn parse<S>(flags: &[Flag<S>], settings: &mut S, args: &[String]) -> Given {
    let mut given = Given::default();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.peek() {
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else { break };
        let arg = *arg;
        args.next();
        if body == "-" {
            break;
        }
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.starts_with(['-', '=']) {
            given.errors.push(UsageError { text: format!("bad flag syntax: {}", one_line(arg)), hint: None });
            continue;
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some((index, flag)) = flags.iter().enumerate().find(|(_, flag)| flag.name == name) else {
            if matches!(name, "help" | "h") {
                // Reached after an error, it is not what decides: Go stopped before.
                given.help = given.errors.is_empty();
                return given;
            }
            given.errors.push(unknown(flags, name));
            // Its value, probably.
            if value.is_none() {
                args.next_if(|next| !next.starts_with('-'));
            }
            continue;
        };
        let value = match (value, flag.slot.is_switch()) {
            (Some(value), _) => value,
            (None, true) => "true",
            (None, false) => match args.next() {
                Some(value) => value,
                None => {
                    given.errors.push(UsageError {
                        text: format!("flag needs an argument: -{name}"),
                        hint: Some(format!("write --{name}=VALUE")),
                    });
                    break;
                }
            },
        };
        match flag.slot.set(settings, value) {
            Ok(()) => given.set.push(index),
            Err(reason) => given.errors.push(wrong_value(flag, value, &reason)),
        }
    }
    given.rest = args.cloned().collect();
    given
}

fn unknown<S>(flags: &[Flag<S>], name: &str) -> UsageError {
    let near = suggest::nearest(name, flags.iter().map(|flag| flag.name));
    // etcd 3.6 took the prefix off the flags that stayed.
    let meant = name
        .strip_prefix("experimental-")
        .and_then(|bare| flags.iter().map(|flag| flag.name).find(|known| *known == bare))
        .or(near);
    let hint = match name {
        "discovery" | "discovery-proxy" => {
            Some("etcd removed v2 discovery; list the members in --initial-cluster".into())
        }
        _ => meant.map(|meant| format!("did you mean --{meant}?")),
    };
    UsageError { text: format!("flag provided but not defined: -{}", one_line(name)), hint }
}

fn wrong_value<S>(flag: &Flag<S>, value: &str, reason: &str) -> UsageError {
    let what = if matches!(flag.slot, Slot::Bool(_) | Slot::Unused(Kind::Bool, _)) {
        format!("invalid boolean value {} for -{}: {reason}", go::quote(value), flag.name)
    } else {
        format!("invalid value {} for flag -{}: {reason}", go::quote(value), flag.name)
    };
    UsageError { text: what, hint: value_hint(&flag.slot) }
}

/// What a value of the slot looks like.
pub fn value_hint<S>(slot: &Slot<S>) -> Option<String> {
    let hint = match slot {
        Slot::Bool(_) | Slot::Unused(Kind::Bool, _) => "write true or false",
        Slot::Duration(_) | Slot::Unused(Kind::Duration, _) => {
            "write a duration with its unit, such as 100ms, 5s or 1h30m"
        }
        Slot::Urls(_) => "write URLs such as http://127.0.0.1:2379, separated by commas",
        Slot::Origins(_) => "write * or URLs such as https://example.com:443, separated by commas",
        Slot::Int(_) | Slot::Unused(Kind::Int, _) => "write a whole number without a unit",
        Slot::Uint(_) | Slot::Uint32(_) | Slot::Unused(Kind::Uint, _) => {
            "write a whole number, not negative, without a unit"
        }
        Slot::Gates(_) => "write gates such as CompactHashCheck=true, separated by commas",
        Slot::Choice(_, words) | Slot::Unused(Kind::Choice(words) | Kind::Choices(words), _) => {
            return Some(format!("write one of {}", words.join(", ")));
        }
        Slot::Text(_) | Slot::Set(_) | Slot::List(_) | Slot::Unused(Kind::Text | Kind::Anything, _) => return None,
    };
    Some(hint.to_owned())
}

/// Text from outside, without what would move a terminal's cursor.
pub fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Settings {
        name: String,
        count: u64,
        on: bool,
    }

    fn flags() -> Vec<Flag<Settings>> {
        vec![
            Flag::new("", "name", Slot::Text(|s: &mut Settings| &mut s.name), ""),
            Flag::new("", "count", Slot::Uint(|s: &mut Settings| &mut s.count), ""),
            Flag::new("", "on", Slot::Bool(|s: &mut Settings| &mut s.on), ""),
            Flag::new("", "v", Slot::Unused(Kind::Anything, "of old"), ""),
        ]
    }

    fn parsed(args: &[&str]) -> (Settings, Given) {
        let mut settings = Settings::default();
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let given = parse(&flags(), &mut settings, &args);
        (settings, given)
    }

    #[test]
    fn one_dash_is_two_and_values_follow_or_stand_after_the_sign() {
        let (settings, given) = parsed(&["-name", "a", "--count=0x10", "-on", "--v=anything", "rest", "--on=false"]);
        assert_eq!((settings.name.as_str(), settings.count, settings.on), ("a", 16, true));
        assert_eq!(given.set, [0, 1, 2, 3]);
        assert_eq!(given.rest, ["rest", "--on=false"]);
    }

    #[test]
    fn a_switch_never_takes_the_next_word() {
        let (settings, given) = parsed(&["--on", "false"]);
        assert!(settings.on);
        assert_eq!(given.rest, ["false"]);
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        let (settings, given) = parsed(&["--name", "--on", "--name=", "-name=a=b"]);
        assert_eq!(settings.name, "a=b");
        assert_eq!(given.set, [0, 0, 0]);
    }

    #[test]
    fn two_dashes_end_the_flags_and_one_is_a_word() {
        assert_eq!(parsed(&["--", "--on"]).1.rest, ["--on"]);
        assert_eq!(parsed(&["-", "x"]).1.rest, ["-", "x"]);
    }

    #[test]
    fn every_error_is_reported_and_the_first_is_gos() {
        let (_, given) = parsed(&["--count=x", "--nmae", "q", "---a", "--on=maybe", "--count"]);
        let texts: Vec<&str> = given.errors.iter().map(|error| error.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "invalid value \"x\" for flag -count: parse error",
                "flag provided but not defined: -nmae",
                "bad flag syntax: ---a",
                "invalid boolean value \"maybe\" for -on: parse error",
                "flag needs an argument: -count",
            ]
        );
        assert_eq!(given.errors[1].hint.as_deref(), Some("did you mean --name?"));
    }

    #[test]
    fn help_counts_unless_an_error_came_first() {
        assert!(parsed(&["-h", "--nope"]).1.help);
        assert!(parsed(&["--help=1"]).1.help);
        assert!(!parsed(&["--nope", "-h"]).1.help);
    }
}
