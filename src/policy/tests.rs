use super::*;

fn run(words: &str) -> Report {
    let words: Vec<String> = words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    super::run(&words)
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("a writable file");
    path.to_str().expect("a UTF-8 path").to_owned()
}

const GOOD: &str = "apiVersion: forebay.dev/v1alpha1
kind: TrafficPolicy
spec:
  flowRules:
    - name: tenants
      matchingPrecedence: 10
      mode: Enforce
      match: {keys: [/a/]}
      priorityLevel: catch-all
      limits: {requests: 200/s}
";

#[test]
fn a_good_file_is_called_good_and_a_wrong_one_has_its_lines_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = file(&dir, "good.yaml", GOOD);
    let report = run(&format!("check {good}"));
    assert_eq!(report.status, 0);
    assert_eq!(
        report.page,
        format!("{good}: good: 2 levels, 1 rules (0 of them count only), 0 quotas, 0 namespaces, 0 warnings\n")
    );
    let wrong = file(&dir, "wrong.yaml", &GOOD.replace("limits:", "limit:"));
    let report = run(&format!("check {wrong}"));
    assert_eq!((report.status, report.page.as_str()), (1, ""));
    assert_eq!(report.problems[0].text, format!("{wrong}:10:7: spec.flowRules[0]: unknown key \"limit\""));
    assert_eq!(report.problems[0].hint.as_deref(), Some("did you mean limits?"));
    let report = run(&format!("check {}/none", dir.path().display()));
    assert_eq!(report.status, 1);
    assert!(report.problems[0].text.ends_with("no such file or directory"), "{:?}", report.problems);
}

#[test]
fn a_request_is_explained() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = file(&dir, "good.yaml", GOOD);
    let report = run(&format!("explain {good} --client ip=10.0.0.1,user=alice --rpc Put --key /a/b --bytes=2048"));
    assert_eq!((report.status, report.problems.as_slice()), (0, [].as_slice()));
    for line in
        ["rule      tenants", "client    user=alice", "cost      1 objects, 2048 bytes of load, 3.125 units, 1 seats"]
    {
        assert!(report.page.lines().any(|found| found == line), "{line:?} is not in\n{}", report.page);
    }
    let report = run(&format!("explain {good} --client root --rpc Rnage --keys x"));
    assert_eq!(report.status, 2);
    let texts: Vec<&str> = report.problems.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(
        run(&format!("explain {good} --rpc Range --prefix --key /a/ --objects 5"))
            .page
            .contains("5 objects, 5120 bytes")
    );
}

#[test]
fn files_are_compared() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let old = file(&dir, "old.yaml", GOOD);
    let new = file(&dir, "new.yaml", &GOOD.replace("200/s", "300/s"));
    assert_eq!(run(&format!("diff {old} {old}")).status, 0);
    let report = run(&format!("diff {old} {new}"));
    assert_eq!(report.status, 1);
    assert_eq!(report.page, "~ spec.flowRules[tenants].limits.requests: 200/s -> 300/s\n");
    assert_eq!(run(&format!("diff {old} {old}.none")).status, 2);
}

#[test]
fn what_is_no_command_is_answered_with_the_nearest() {
    assert!(run("chek a").problems[0].hint.as_deref().is_some_and(|hint| hint.contains("policy check")));
    for words in ["", "check", "check a b", "diff a", "explain", "explain --key a", "schema x"] {
        assert_eq!(run(words).status, 2, "{words}");
    }
    assert!(run("schema").page.starts_with('{') && run("default").page.contains("TrafficPolicy"));
    assert!(run("--help").page.contains("Usage: forebay policy"));
}
