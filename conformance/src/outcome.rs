//! What an answer is, as a tree that can be compared field by field.
//!
//! An answer becomes the JSON that etcd's own mapping gives it: fields at zero are left out, which
//! is also how they look on the wire. Keys and values are shown as text. What must differ between
//! two runs of one case is not dropped but replaced by what it stands for: the member that answered
//! becomes `member 0` wherever its id appears, so a wrong id in a header still shows.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tonic::Status;

/// The fields of type `bytes` whose content is shown as text.
const BYTES: [&str; 4] = ["key", "range_end", "value", "keys"];

/// The fields that hold an id which this run chose.
const IDS: [&str; 7] = ["cluster_id", "member_id", "memberID", "ID", "leader", "lease", "targetID"];

/// The names that stand for what this run chose: ids, URLs and the raft term.
#[derive(Clone, Debug, Default)]
pub struct Names {
    ids: BTreeMap<String, String>,
    texts: Vec<(String, String)>,
    term: u64,
}

impl Names {
    /// Lets `name` stand for `id` in every field that holds ids, and wherever it is printed in a text.
    pub fn id(&mut self, id: impl ToString, name: impl Into<String>) {
        let (id, name) = (id.to_string(), name.into());
        // Short numbers appear in texts by chance.
        if id.len() >= 8 {
            self.text(&id, &name);
            let printed = id.parse::<u64>().or_else(|_| id.parse::<i64>().map(i64::cast_unsigned));
            self.text(&format!("{:x}", printed.unwrap_or_default()), &name);
        }
        self.ids.entry(id).or_insert(name);
    }

    /// Lets `name` stand for `text` wherever it appears outside keys and values.
    pub fn text(&mut self, text: &str, name: &str) {
        self.texts.push((text.to_owned(), name.to_owned()));
        // Of two names that both fit, the longer text is the more exact one.
        self.texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// Calls `term` "the term"; others are shown by their distance to it.
    pub fn term(&mut self, term: u64) {
        self.term = term;
    }

    /// The same text with every name in place.
    pub fn in_text(&self, text: &str) -> String {
        self.texts.iter().fold(text.to_owned(), |text, (own, name)| text.replace(own, &format!("<{name}>")))
    }

    fn number(&self, field: &str, value: &str) -> Option<String> {
        match field {
            "raft_term" | "raftTerm" => {
                let distance = value.parse::<i64>().ok()? - i64::try_from(self.term).ok()?;
                Some(if distance == 0 { "<term>".to_owned() } else { format!("<term {distance:+}>") })
            }
            _ if IDS.contains(&field) => self.ids.get(value).map(|name| format!("<{name}>")),
            _ => None,
        }
    }

    /// The tree of one message.
    pub fn tree(&self, message: &impl Serialize) -> Value {
        match serde_json::to_value(message) {
            Ok(mut value) => {
                self.walk("", &mut value);
                value
            }
            Err(error) => json!({ "not JSON": error.to_string() }),
        }
    }

    /// The tree of a JSON answer that did not come from a message of ours.
    pub fn tree_of(&self, mut value: Value) -> Value {
        self.walk("", &mut value);
        value
    }

    fn walk(&self, field: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| self.walk(name, value)),
            Value::Array(elements) => elements.iter_mut().for_each(|element| self.walk(field, element)),
            Value::String(text) => {
                if let Some(name) = self.number(field, text) {
                    *text = name;
                } else if let Some(readable) = BYTES.contains(&field).then(|| readable(text)).flatten() {
                    *text = readable;
                } else {
                    *text = self.in_text(text);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Base64 as text, with a digest in place of the tail of a long one.
fn readable(base64: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).ok()?;
    let text: String =
        bytes.iter().take(80).flat_map(|&byte| std::ascii::escape_default(byte)).map(char::from).collect();
    Some(if bytes.len() <= 80 { text } else { format!("{text}… {} bytes, sum {:016x}", bytes.len(), sum(&bytes)) })
}

/// FNV-1a, so that a difference in the middle of a long value is not lost.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One request and what came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The request, for the reader; not compared.
    pub call: String,
    /// The answer, compared.
    pub outcome: Value,
}

/// The tree of an answer or an error.
pub fn outcome(names: &Names, answer: Result<&impl Serialize, &Status>) -> Value {
    match answer {
        Ok(response) => {
            let mut tree = names.tree(response);
            sort_unordered(&mut tree);
            tree
        }
        Err(status) => json!({
            "error": { "code": format!("{:?}", status.code()), "message": names.in_text(status.message()) }
        }),
    }
}

/// The keys of a lease come in no order.
fn sort_unordered(tree: &mut Value) {
    if let Some(Value::Array(keys)) = tree.get_mut("keys") {
        keys.sort_by_key(ToString::to_string);
    }
}

/// A request as a reader wants it: its name and the fields that are set.
pub fn describe(names: &Names, method: &str, request: &(impl Serialize + std::fmt::Debug)) -> String {
    // An enum number that the proto does not know has no JSON.
    let fields = match serde_json::to_value(request) {
        Ok(_) => names.tree(request).to_string(),
        Err(_) => format!("{request:?}"),
    };
    format!("{method} {}", fields.chars().take(300).collect::<String>())
}

/// An object from pairs, for outcomes that are not one message.
pub fn object<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Object(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::{etcdserverpb as pb, mvccpb};

    #[test]
    fn ids_become_names_and_revisions_stay() {
        let mut names = Names::default();
        names.id(12_345_678_901u64, "member 0");
        names.term(2);
        let header = pb::ResponseHeader { cluster_id: 7, member_id: 12_345_678_901, revision: 5, raft_term: 3 };
        let kvs = vec![mvccpb::KeyValue { key: "k\0".into(), value: "v".into(), lease: 9, ..Default::default() }];
        let tree = names.tree(&pb::RangeResponse { header: Some(header), kvs, more: false, count: 1 });
        assert_eq!(
            tree,
            json!({
                "header": { "cluster_id": "7", "member_id": "<member 0>", "revision": "5", "raft_term": "<term +1>" },
                "kvs": [{ "key": "k\\x00", "value": "v", "lease": "9" }],
                "count": "1",
            })
        );
    }

    #[test]
    fn an_id_printed_in_a_text_is_named_too() {
        let mut names = Names::default();
        names.id(0xabcd_ef01_2345_u64, "member 0");
        assert_eq!(names.in_text("memberID:188900966474565 at abcdef012345"), "memberID:<member 0> at <member 0>");
    }
}
