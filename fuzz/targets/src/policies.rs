//! Policy files.

use forebay_policies::{Client, Cost, Policy, Request, Rpc, explain, file};

/// Every file becomes a policy that answers every request, or is refused with reasons that name a place in it.
pub fn policy_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let loaded = match file::load(text) {
        Ok(loaded) => loaded,
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal has a reason");
            return places(text, &problems);
        }
    };
    places(text, &loaded.warnings);
    for rpc in Rpc::ALL {
        answers(&loaded.policy, *rpc);
    }
    assert_eq!(file::diff(&loaded.document, &loaded.document), []);
    let written = yaml_serde::to_string(&loaded.document).expect("a document can be written");
    let again = file::load(&written).unwrap_or_else(|problems| panic!("{written}: {problems:?}"));
    assert_eq!(
        (again.document, again.policy),
        (loaded.document, loaded.policy),
        "what is written is read as what it was"
    );
}

fn places(text: &str, problems: &[file::Problem]) {
    // YAML ends lines with more characters than one, and the end of the file stands behind the last.
    let lines = text.matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 2;
    for problem in problems {
        assert!(problem.line <= lines && !problem.text.is_empty(), "{problem:?} in {lines} lines");
    }
}

fn answers(policy: &Policy, rpc: Rpc) {
    let client = Client { user: Some("root".into()), ..Client::default() };
    let request = Request::new(&client, rpc);
    let explanation = explain::explain(policy, &request, Cost::predict(&request, None));
    let class = explanation.class;
    assert_eq!(class.level, policy.rule(class.rule).level);
    assert!(!explanation.to_string().is_empty());
}
