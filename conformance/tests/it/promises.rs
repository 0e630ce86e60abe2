//! The list of what a gateway keeps has a test for every row, and every numbered test has a row.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The number that a row or a test begins with: a letter and digits.
fn number(text: &str) -> Option<&str> {
    let digits = text.strip_prefix(['b', 'g'])?;
    let count = digits.bytes().take_while(u8::is_ascii_digit).count();
    (count > 0).then(|| &text[..=count])
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

#[test]
fn every_promise_of_the_gateway_has_a_test_that_begins_with_its_number() {
    let list = fs::read_to_string(root().join("docs/INVARIANTS.md")).expect("the list");
    let rows: BTreeSet<String> =
        list.lines().filter_map(|line| number(line.strip_prefix("| ")?)).map(str::to_owned).collect();
    assert_eq!(rows.iter().filter(|row| row.starts_with('b')).count(), 44, "{rows:?}");
    let mut files = Vec::new();
    for part in ["gateway", "keyspace", "edge", "conformance/src", "conformance/tests"] {
        sources(&root().join(part), &mut files);
    }
    let mut held = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        let names = text.lines().filter_map(|line| line.trim_start().trim_start_matches("async ").strip_prefix("fn "));
        held.extend(
            names
                .filter(|name| number(name).is_some_and(|it| name[it.len()..].starts_with('_')))
                .filter_map(number)
                .map(str::to_owned),
        );
    }
    assert_eq!(rows, held, "rows on the left, tests on the right");
}
