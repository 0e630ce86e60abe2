//! `forebay dashboards`: Grafana boards, Prometheus rules and their runbooks.
//!
//! What the boards show is a table in [`boards`]; [`grafana`] makes the JSON that Grafana imports. The rules, their unit
//! tests and the runbooks are kept by hand beside it. All of them stand in the folder `dashboards` as well, for those
//! who take them from the repository.

mod boards;
mod grafana;

use std::{fs, path::Path};

use serde_json::Value;

use self::boards::{BOARDS, Board};
use crate::{
    flags::{Problem, go::quote},
    policy::Report,
    suggest,
};

/// What is kept by hand, by file name.
const KEPT: [(&str, &str); 3] = [
    ("rules.yaml", include_str!("../dashboards/rules.yaml")),
    ("rules_test.yaml", include_str!("../dashboards/rules_test.yaml")),
    ("RUNBOOKS.md", include_str!("../dashboards/RUNBOOKS.md")),
];

/// How the command ends.
const USAGE: &str = "`forebay dashboards export [--dir DIR] [--datasource UID]`; `forebay help dashboards` tells more";

/// Does what the words after `forebay dashboards` ask for.
pub fn run(args: &[String]) -> Report {
    match args.split_first() {
        Some((verb, rest)) if verb == "export" => export(rest),
        Some((verb, _)) if ["-h", "--help", "-help", "help"].contains(&verb.as_str()) => {
            Report::page(crate::help::topic("dashboards").expect("invariant: every command has a page"))
        }
        Some((verb, _)) => wrong(format!("unknown verb {}", quote(verb))),
        None => wrong("dashboards needs a verb".to_owned()),
    }
}

fn wrong(text: String) -> Report {
    Report { status: 2, problems: vec![Problem::new(text).hint(USAGE)], ..Report::default() }
}

fn export(words: &[String]) -> Report {
    let (mut dir, mut datasource) = ("dashboards".to_owned(), None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (flag, given) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let Some(value) = given.or_else(|| words.next().cloned()) else {
            return wrong(format!("{flag} needs a value"));
        };
        match flag {
            "--dir" => dir = value,
            "--datasource" | "--datasource-uid" => datasource = Some(value),
            other => {
                let near = suggest::nearest(other, ["--dir", "--datasource"]);
                let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                return wrong(format!("unknown flag {}{near}", quote(other)));
            }
        }
    }
    match write(Path::new(&dir), datasource.as_deref()) {
        Ok(names) => {
            let lines: String =
                names.iter().map(|name| format!("{}\n", Path::new(&dir).join(name).display())).collect();
            Report::page(lines)
        }
        Err(error) => {
            let problem = Problem::new(format!("cannot write to {dir}: {error}")).hint("name a folder with --dir");
            Report { status: 1, problems: vec![problem], ..Report::default() }
        }
    }
}

fn write(dir: &Path, datasource: Option<&str>) -> std::io::Result<Vec<String>> {
    fs::create_dir_all(dir)?;
    let boards = BOARDS.iter().map(|board| (file_name(board), text(&grafana::json(board, datasource))));
    let kept = KEPT.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    boards.chain(kept).map(|(name, text)| fs::write(dir.join(&name), text).map(|()| name)).collect()
}

fn file_name(board: &Board) -> String {
    format!("{}.json", board.uid)
}

fn text(board: &Value) -> String {
    format!("{board:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_holds_what_the_table_says() {
        for board in BOARDS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(file_name(board));
            let found = fs::read_to_string(&path).unwrap_or_default();
            let wanted = text(&grafana::json(board, None));
            assert!(found == wanted, "{} is out of date: run `forebay dashboards export`", path.display());
        }
    }

    #[test]
    fn every_panel_says_what_it_shows_and_lies_within_the_board() {
        for board in BOARDS {
            let json = grafana::json(board, Some("mine"));
            assert_eq!(json["templating"]["list"][0]["current"]["value"], "mine");
            let mut ids = std::collections::BTreeSet::new();
            for panel in json["panels"].as_array().expect("panels") {
                assert!(ids.insert(panel["id"].as_u64()), "{}: an id twice", board.title);
                let place = &panel["gridPos"];
                let right = place["x"].as_u64().expect("x") + place["w"].as_u64().expect("w");
                assert!(right <= 24, "{}: {}", board.title, panel["title"]);
                if panel["type"] != "row" {
                    assert!(!panel["description"].as_str().expect("a text").is_empty(), "{}", panel["title"]);
                }
            }
        }
    }

    #[test]
    fn every_alert_has_a_runbook_and_a_unit_test() {
        let [(_, rules), (_, tests), (_, runbooks)] = KEPT;
        let alerts: Vec<&str> =
            rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::trim).collect();
        assert!(alerts.len() >= 12, "{alerts:?}");
        for alert in alerts {
            assert!(runbooks.contains(&format!("\n## {alert}\n")), "{alert} has no runbook");
            assert!(rules.contains(&format!("RUNBOOKS.md#{}", alert.to_lowercase())), "{alert} names no runbook");
            assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no unit test");
        }
    }

    #[test]
    fn an_export_is_written_where_it_was_asked_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let words =
            ["export".to_owned(), format!("--dir={}", dir.path().display()), "--datasource".into(), "p1".into()];
        let report = run(&words);
        assert_eq!((report.status, report.page.lines().count()), (0, BOARDS.len() + KEPT.len()), "{report:?}");
        let board = fs::read_to_string(dir.path().join("forebay-overview.json")).expect("the board");
        assert!(board.contains("\"p1\""));
        assert_eq!(run(&["export".to_owned(), "--dri=x".to_owned()]).status, 2);
        assert_eq!(run(&[]).status, 2);
    }
}
