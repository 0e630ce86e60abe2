//! The JSON schema of policy files, and what it says of a file's keys.

use serde_json::Value as Json;
use yaml_serde::Value;

use super::{
    FINDINGS_MAX, Problem,
    locate::{Step, locate, write_path},
};
use crate::suggest;

/// The JSON schema, for editors.
pub const SCHEMA: &str = include_str!("../../schema.json");

/// Every key of the file that the schema does not have. The error is for a file that is no YAML.
pub(super) fn unknown_keys(text: &str) -> Result<Vec<Problem>, Vec<Problem>> {
    let document: Value = yaml_serde::from_str(text).map_err(|error| vec![Problem::of_yaml(&error)])?;
    let schema: Json = serde_json::from_str(SCHEMA).expect("invariant: the shipped schema is JSON");
    let mut walk = Walk { text, schema: &schema, path: Vec::new(), problems: Vec::new() };
    walk.node(&document, &schema);
    Ok(walk.problems)
}

struct Walk<'a> {
    text: &'a str,
    schema: &'a Json,
    path: Vec<Step>,
    problems: Vec<Problem>,
}

impl<'a> Walk<'a> {
    fn node(&mut self, node: &Value, schema: &'a Json) {
        let schema = self.follow(schema);
        match node {
            Value::Mapping(entries) => {
                let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return };
                for (key, value) in entries {
                    // What is no text is no key either; the types say so.
                    let Value::String(key) = key else { continue };
                    self.path.push(Step::Key(key.clone()));
                    match properties.get(key) {
                        Some(schema) => self.node(value, schema),
                        None => self.unknown(key, properties.keys().map(String::as_str)),
                    }
                    self.path.pop();
                }
            }
            Value::Sequence(elements) => {
                let Some(items) = schema.get("items") else { return };
                for (index, element) in elements.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    self.node(element, items);
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn follow(&self, schema: &'a Json) -> &'a Json {
        let Some(reference) = schema.get("$ref").and_then(Json::as_str) else { return schema };
        let found = reference.strip_prefix('#').and_then(|pointer| self.schema.pointer(pointer));
        found.expect("invariant: the shipped schema refers to itself alone")
    }

    fn unknown<'k>(&mut self, key: &str, known: impl Iterator<Item = &'k str> + Clone) {
        if self.problems.len() == FINDINGS_MAX {
            return;
        }
        let (line, column) = locate(self.text, &self.path).unwrap_or((0, 0));
        let hint = match suggest::nearest(key, known.clone()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there is {}", known.collect::<Vec<_>>().join(", ")),
        };
        let parent = write_path(&self.path[..self.path.len() - 1]);
        let text = format!("unknown key {key:?}");
        self.problems.push(Problem { line, column, path: parent, text, hint: Some(hint) });
    }
}
