//! Where two trees are not the same.

use std::fmt;

use serde_json::Value;

/// One place where the target is not like the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The fields from the root to the place, with dots between them.
    pub path: String,
    /// What the reference has there.
    pub reference: Option<Value>,
    /// What the target has there.
    pub target: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
        write!(f, "{}: reference {}, target {}", self.path, show(&self.reference), show(&self.target))
    }
}

/// Every place where two trees differ, at the greatest depth at which both have something.
pub fn differences(reference: &Value, target: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), Some(reference), Some(target), &mut found);
    found
}

fn compare(path: String, reference: Option<&Value>, target: Option<&Value>, found: &mut Vec<Difference>) {
    match (reference, target) {
        (Some(Value::Object(reference)), Some(Value::Object(target))) => {
            for (name, value) in reference {
                compare(join(&path, name), Some(value), target.get(name), found);
            }
            for (name, value) in target.iter().filter(|(name, _)| !reference.contains_key(*name)) {
                compare(join(&path, name), None, Some(value), found);
            }
        }
        (Some(Value::Array(reference)), Some(Value::Array(target))) => {
            for index in 0..reference.len().max(target.len()) {
                compare(join(&path, &index.to_string()), reference.get(index), target.get(index), found);
            }
        }
        (reference, target) if reference == target => {}
        (reference, target) => {
            found.push(Difference { path, reference: reference.cloned(), target: target.cloned() });
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_the_path_of_every_difference() {
        let reference = json!({ "header": { "revision": "2" }, "kvs": [{ "key": "a" }, { "key": "b" }], "count": "2" });
        let target = json!({ "header": { "revision": "3" }, "kvs": [{ "key": "a" }], "more": true, "count": "2" });
        let paths: Vec<String> = differences(&reference, &target).into_iter().map(|found| found.path).collect();
        assert_eq!(paths, ["header.revision", "kvs.1", "more"]);
    }

    #[test]
    fn equal_trees_have_none() {
        assert_eq!(differences(&json!([1, { "a": [] }]), &json!([1, { "a": [] }])), []);
    }
}
