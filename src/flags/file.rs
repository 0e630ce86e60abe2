//! The configuration file: YAML or JSON, read into a tree and from there into a table's settings.
//!
//! The file means what it means to etcd: keys match whatever their case, the last of two equal keys counts, `yes`
//! is a boolean and `null` is nothing. The tree exists because a derived struct cannot do the first two.

use std::{fmt, io, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::table::Flag;
use crate::suggest;

/// A value of the file. Numbers stay text: what they may be is the setting's business.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// What applying a file found.
#[derive(Debug, Default)]
pub struct Applied {
    /// Indexes into the table of the flags the file has.
    pub set: Vec<usize>,
    /// Keys of the file nothing in the table has, with the key that was perhaps meant.
    pub unknown: Vec<(String, Option<&'static str>)>,
    /// Keys whose values are wrong, each a sentence that starts with the key.
    pub wrong: Vec<String>,
}

/// Reads and parses a file. The errors have Go's texts for the operating system's refusals.
pub fn read(path: &Path) -> Result<Node, String> {
    let bytes = std::fs::read(path).map_err(|error| {
        let verb = if error.kind() == io::ErrorKind::IsADirectory { "read" } else { "open" };
        format!("{verb} {}: {}", path.display(), os_text(&error))
    })?;
    let node: Node = yaml_serde::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    match node {
        Node::Map(_) => Ok(node),
        Node::Null => Ok(Node::Map(Vec::new())),
        other => Err(format!("{}: must hold keys and values, not {}", path.display(), other.describe())),
    }
}

/// The operating system's reason, without Rust's number and capital.
pub fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Fills `settings` from the tree. All wrong values are found, not just the first.
pub fn apply<S>(flags: &[Flag<S>], settings: &mut S, tree: &Node, own_file: bool) -> Applied {
    let mut applied = Applied::default();
    walk(tree, "", &mut |path, node| {
        let found = flags.iter().enumerate().find(|(_, flag)| {
            // A flag without a key is unknown to the file even by its own name.
            flag.key.is_some_and(|key| key.eq_ignore_ascii_case(path))
        });
        if let Some((index, flag)) = found {
            applied.set.push(index);
            if let Err(reason) = flag.slot.set_node(settings, node, own_file) {
                applied.wrong.push(format!("{path}: {reason}"));
            }
            return true;
        }
        let inner = format!("{}.", path.to_ascii_lowercase());
        if flags.iter().any(|flag| flag.key.is_some_and(|key| key.starts_with(&inner))) {
            return match node {
                Node::Map(_) => false,
                Node::Null => true,
                other => {
                    applied.wrong.push(format!("{path}: must hold keys and values, not {}", other.describe()));
                    true
                }
            };
        }
        let known = flags.iter().filter_map(|flag| flag.key);
        applied.unknown.push((path.to_owned(), suggest::nearest(path, known)));
        true
    });
    applied
}

/// Visits the entries of a map; those for which `visit` says it is not done are entered in turn.
fn walk(tree: &Node, prefix: &str, visit: &mut impl FnMut(&str, &Node) -> bool) {
    let Node::Map(entries) = tree else { return };
    for (at, (key, node)) in entries.iter().enumerate() {
        if entries[at + 1..].iter().any(|(later, _)| later == key) {
            continue; // The last of equal keys counts.
        }
        let path = format!("{prefix}{key}");
        if !visit(&path, node) {
            walk(node, &format!("{path}."), visit);
        }
    }
}

impl Node {
    /// YAML 1.1 has more words for booleans, and etcd's reader knows them.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Node::Bool(value) => Some(*value),
            Node::Text(text) => match text.as_str() {
                "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
                "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn describe(&self) -> String {
        match self {
            Node::Null => "nothing".to_owned(),
            Node::Bool(value) => value.to_string(),
            Node::Number(number) => format!("the number {number}"),
            Node::Text(text) => format!("the text {}", super::go::quote(text)),
            Node::List(_) => "a list".to_owned(),
            Node::Map(_) => "keys and values".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // Whole numbers print without a point: etcd takes `1e10` for an integer.
        Ok(Node::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Node, Node>()? {
            let key = match key {
                Node::Text(text) | Node::Number(text) => text,
                Node::Bool(value) => value.to_string(),
                other => return Err(serde::de::Error::custom(format!("a key cannot be {}", other.describe()))),
            };
            entries.push((key, value));
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Node {
        yaml_serde::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn yaml_and_json_give_the_same_tree() {
        let tree = parse("a: 1\nb: {c: [x, true]}\nd: ~\n");
        assert_eq!(tree, parse(r#"{"a": 1, "b": {"c": ["x", true]}, "d": null}"#));
        assert_eq!(
            parse("a: 1e10\nb: 0x64\nc: 1.5"),
            Node::Map(vec![
                ("a".into(), Node::Number("10000000000".into())),
                ("b".into(), Node::Number("100".into())),
                ("c".into(), Node::Number("1.5".into())),
            ])
        );
    }

    #[test]
    fn anchors_merge_into_values() {
        assert_eq!(
            parse("name: &a b\nwal-dir: *a\n"),
            Node::Map(vec![("name".into(), Node::Text("b".into())), ("wal-dir".into(), Node::Text("b".into()))])
        );
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        let mut seen = Vec::new();
        walk(&parse("a: 1\nb: 2\na: 3\n"), "", &mut |path, node| {
            seen.push((path.to_owned(), node.describe()));
            true
        });
        assert_eq!(seen, [("b".into(), "the number 2".into()), ("a".into(), "the number 3".to_owned())]);
    }

    #[test]
    fn a_file_that_is_no_map_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, "- a\n- b\n").expect("writable");
        assert!(read(&path).is_err_and(|error| error.ends_with("must hold keys and values, not a list")));
        std::fs::write(&path, "").expect("writable");
        assert_eq!(read(&path), Ok(Node::Map(Vec::new())));
        assert_eq!(
            read(Path::new("/nonexistent.yaml")),
            Err("open /nonexistent.yaml: no such file or directory".into())
        );
        assert_eq!(read(dir.path()), Err(format!("read {}: is a directory", dir.path().display())));
    }
}
