//! The list of what a gateway keeps has a test for every row, and every numbered test has a row. The list of the faults that a
//! cluster survives names tests that exist, and every numbered one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The number that a row or a test begins with: one of some letters, and digits.
fn number<'t>(text: &'t str, letters: &[char]) -> Option<&'t str> {
    let digits = text.strip_prefix(letters)?;
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

/// The number of a test that has one.
fn numbered<'t>(name: &'t str, letters: &[char]) -> Option<&'t str> {
    number(name, letters).filter(|number| name[number.len()..].starts_with('_'))
}

/// The names of the functions in some folders.
fn functions(parts: &[&str]) -> BTreeSet<String> {
    let mut files = Vec::new();
    parts.iter().for_each(|part| sources(&root().join(part), &mut files));
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        let names = text.lines().filter_map(|line| line.trim_start().trim_start_matches("async ").strip_prefix("fn "));
        found.extend(names.filter_map(|name| name.split_once('(')).map(|(name, _)| name.to_owned()));
    }
    found
}

#[test]
fn every_promise_of_the_gateway_has_a_test_that_begins_with_its_number() {
    let list = fs::read_to_string(root().join("docs/INVARIANTS.md")).expect("the list");
    let rows: BTreeSet<String> =
        list.lines().filter_map(|line| number(line.strip_prefix("| ")?, &['b', 'g'])).map(str::to_owned).collect();
    assert_eq!(rows.iter().filter(|row| row.starts_with('b')).count(), 44, "{rows:?}");
    let functions = functions(&["gateway", "keyspace", "edge", "conformance/src", "conformance/tests"]);
    let held: BTreeSet<String> =
        functions.iter().filter_map(|name| numbered(name, &['b', 'g'])).map(str::to_owned).collect();
    assert_eq!(rows, held, "rows on the left, tests on the right");
}

#[test]
fn the_list_of_faults_names_tests_that_exist_and_all_that_are_numbered() {
    const LETTERS: [char; 6] = ['k', 'n', 'l', 'w', 't', 'a'];
    let list = fs::read_to_string(root().join("docs/FAULTS.md")).expect("the list");
    let functions = functions(&["server", "keyspace", "storage", "utl", "gateway", "loadtest", "conformance"]);
    let mut rows = 0;
    let mut named = BTreeSet::new();
    for line in list.lines() {
        rows += usize::from(line.strip_prefix("| ").is_some_and(|row| number(row, &LETTERS).is_some()));
        named.extend(line.split('`').skip(1).step_by(2).filter(|word| word.contains('_')));
    }
    assert_eq!(rows, 20 + 12 + 5 + 7 + 2 + 2);
    let missing: Vec<_> = named.iter().filter(|name| !functions.contains(**name)).collect();
    assert!(missing.is_empty(), "there are no tests {missing:?}");
    let unnamed = functions.iter().filter(|name| numbered(name, &LETTERS).is_some() && !named.contains(name.as_str()));
    assert_eq!(unnamed.collect::<Vec<_>>(), Vec::<&String>::new());
}
