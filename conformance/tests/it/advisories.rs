//! etcd's security advisories, tried on every target: all work where they should, as a control, and none on ours.

use forebay_conformance::{
    advisories::{self, EXPLOITS},
    peers::Release,
    target::Kind,
};

use crate::{finds_nothing, found};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_said_to_work_on_etcd_3_4_does() {
    let kind = Kind::Etcd(Release::V3_4);
    let Some(worked) = found("advisories::control", kind, advisories::tried(kind)).await else { return };
    let expected = EXPLOITS.iter().filter(|exploit| exploit.works_on_3_4);
    let expected: Vec<String> = expected.map(|exploit| format!("{}: {}", exploit.id, exploit.about)).collect();
    assert_eq!(worked, expected);
}

finds_nothing! {
    "advisories", advisories::tried,
    nothing_works_on_etcd_3_7: Kind::Etcd(Release::V3_7);
    nothing_works_on_the_server: Kind::Server;
    nothing_works_through_the_gateway: Kind::GatewayOverEtcd(Release::V3_7);
    nothing_works_through_the_gateway_over_the_server: Kind::GatewayOverServer;
}

/// Every `.rs` file of the repository, one after another.
fn sources(folder: &std::path::Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("an entry of a folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, text);
        } else if name.ends_with(".rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("a source file is text"));
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let model = std::fs::read_to_string(root.join("THREAT_MODEL.md")).expect("the threat model is there");
    let mut text = String::new();
    sources(&root, &mut text);
    let cells = model.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit(" | ").next());
    let named = cells.filter(|cell| cell.starts_with('`'));
    let tests: Vec<&str> = named.flat_map(|tests| tests.split(", ")).map(|test| test.trim_matches('`')).collect();
    assert!(tests.len() > 40, "the tables are not where they were");
    // Of two of the names there are tables.
    for test in tests.into_iter().filter(|test| !["advisories", "hostile"].contains(test)) {
        let is_there = text.contains(&format!("fn {test}(")) || text.contains(&format!(" {test}: Kind::"));
        assert!(is_there, "there is no test {test}");
    }
}
