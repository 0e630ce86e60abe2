//! What two policy files say differently.

use std::{collections::BTreeSet, fmt};

use serde_json::Value as Json;

use super::Document;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    Added { path: String, value: String },
    Removed { path: String, value: String },
    Changed { path: String, from: String, to: String },
}

/// Every difference, in the order of paths. Rules, levels and quotas are the same when their names are; their order in
/// the file means nothing.
pub fn diff(old: &Document, new: &Document) -> Vec<Difference> {
    let json = |document: &Document| serde_json::to_value(document).expect("invariant: a document is JSON");
    let mut differences = Vec::new();
    compare(String::new(), &json(old), &json(new), &mut differences);
    differences
}

fn compare(path: String, old: &Json, new: &Json, into: &mut Vec<Difference>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Json::Object(a), Json::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                either(path, a.get(key), b.get(key), into);
            }
        }
        (Json::Array(a), Json::Array(b)) if a.iter().chain(b).all(|element| name(element).is_some()) => {
            let names: BTreeSet<&str> = a.iter().chain(b).filter_map(name).collect();
            let find = |list: &'_ [Json], wanted: &str| list.iter().position(|element| name(element) == Some(wanted));
            for name in names {
                let (old, new) = (find(a, name).map(|at| &a[at]), find(b, name).map(|at| &b[at]));
                either(format!("{path}[{name}]"), old, new, into);
            }
        }
        _ => into.push(Difference::Changed { path, from: text(old), to: text(new) }),
    }
}

fn either(path: String, old: Option<&Json>, new: Option<&Json>, into: &mut Vec<Difference>) {
    match (old, new) {
        (Some(old), Some(new)) => compare(path, old, new, into),
        (Some(old), None) => into.push(Difference::Removed { path, value: text(old) }),
        (None, Some(new)) => into.push(Difference::Added { path, value: text(new) }),
        (None, None) => {}
    }
}

fn name(element: &Json) -> Option<&str> {
    element.get("name").and_then(Json::as_str)
}

fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Added { path, value } => write!(f, "+ {path}: {value}"),
            Difference::Removed { path, value } => write!(f, "- {path}: {value}"),
            Difference::Changed { path, from, to } => write!(f, "~ {path}: {from} -> {to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::load;

    const FULL: &str = include_str!("../../testdata/full.yaml");

    fn lines(new: &str) -> Vec<String> {
        let document = |text| load(text).unwrap_or_else(|problems| panic!("{problems:?}")).document;
        diff(&document(FULL), &document(new)).iter().map(Difference::to_string).collect()
    }

    #[test]
    fn differences_are_told_by_name_and_nothing_else_is() {
        assert_eq!(lines(FULL), Vec::<String>::new());
        let new = FULL
            .replace("requests: 5/s", "requests: 9/s")
            .replace("burst: 10\n", "concurrency: 4\n")
            .replace("        concurrency: 2\n", "")
            .replace("name: health", "name: healthy")
            .replace("[CN=root, listener=admin]", "[CN=root]");
        assert_eq!(
            lines(&new),
            [
                "~ spec.admin: [\"CN=root\",\"listener=admin\"] -> [\"CN=root\"]",
                "- spec.flowRules[cronjob-lists].limits.burst: 10",
                "~ spec.flowRules[cronjob-lists].limits.concurrency: 2 -> 4",
                "~ spec.flowRules[cronjob-lists].limits.requests: 5/s -> 9/s",
                "- spec.flowRules[health]: {\"match\":{\"keys\":[\"/registry/health\"]},\"matchingPrecedence\":600,\
             \"mode\":\"Shadow\",\"name\":\"health\",\"onLimit\":\"Queue\",\"priorityLevel\":\"system\"}",
                "+ spec.flowRules[healthy]: {\"match\":{\"keys\":[\"/registry/health\"]},\"matchingPrecedence\":600,\
             \"mode\":\"Shadow\",\"name\":\"healthy\",\"onLimit\":\"Queue\",\"priorityLevel\":\"system\"}",
            ]
        );
    }
}
