//! JSON as Go's encoder prints it. Members compare or hash such text, so it must be equal to the byte.

use std::fmt::Write as _;

use super::MemberRecord;

/// The JSON of a member, as it stands in the `members` bucket and in the log entry that adds the member.
pub fn member_json(member: &MemberRecord) -> String {
    let mut out = format!("{{\"id\":{},", member.id);
    raft_attributes_fields(&mut out, member);
    let mut attributes = String::new();
    attributes_fields(&mut attributes, member);
    if !attributes.is_empty() {
        out.push(',');
    }
    out + &attributes + "}"
}

/// Reads the JSON of a member.
pub fn member_from_json(json: &[u8]) -> Option<MemberRecord> {
    serde_json::from_slice::<Json>(json).ok().map(Json::into_record)
}

/// Reads a list of members, as they tell it to each other.
pub fn members_from_json(json: &[u8]) -> Option<Vec<MemberRecord>> {
    let list: Vec<Json> = serde_json::from_slice(json).ok()?;
    Some(list.into_iter().map(Json::into_record).collect())
}

#[derive(serde::Deserialize)]
struct Json {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: Option<Vec<String>>,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Option<Vec<String>>,
}

impl Json {
    fn into_record(self) -> MemberRecord {
        MemberRecord {
            id: self.id,
            name: self.name,
            peer_urls: self.peer_urls.unwrap_or_default(),
            client_urls: self.client_urls.unwrap_or_default(),
            is_learner: self.is_learner,
        }
    }
}

/// `"peerURLs":[..]`, and `"isLearner":true` for a learner.
pub(super) fn raft_attributes_fields(out: &mut String, member: &MemberRecord) {
    out.push_str("\"peerURLs\":");
    if member.peer_urls.is_empty() {
        out.push_str("null");
    } else {
        strings(out, &member.peer_urls);
    }
    if member.is_learner {
        out.push_str(",\"isLearner\":true");
    }
}

/// `"name":..` and `"clientURLs":[..]`, each only if set.
pub(super) fn attributes_fields(out: &mut String, member: &MemberRecord) {
    if !member.name.is_empty() {
        out.push_str("\"name\":");
        string(out, &member.name);
    }
    if !member.client_urls.is_empty() {
        out.push_str(if member.name.is_empty() { "\"clientURLs\":" } else { ",\"clientURLs\":" });
        strings(out, &member.client_urls);
    }
}

fn strings(out: &mut String, values: &[String]) {
    for (position, value) in values.iter().enumerate() {
        out.push(if position == 0 { '[' } else { ',' });
        string(out, value);
    }
    out.push(']');
}

/// Go escapes what HTML and JavaScript would trip over, too.
pub(super) fn string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes everything");
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_printed_as_go_prints_it() {
        let mut member = MemberRecord {
            id: 15717552183955640935,
            peer_urls: vec!["http://127.0.0.1:21041".into()],
            name: "m1".into(),
            ..MemberRecord::default()
        };
        // The context of the first entry in the log of a 3.4 and of a 3.7 member.
        let expected = r#"{"id":15717552183955640935,"peerURLs":["http://127.0.0.1:21041"],"name":"m1"}"#;
        assert_eq!(member_json(&member), expected);
        member.is_learner = true;
        member.name = "a<b>&\"\\\u{1}\u{2028}ü".into();
        member.client_urls = vec!["http://a".into(), "http://b".into()];
        let expected = r#"{"id":15717552183955640935,"peerURLs":["http://127.0.0.1:21041"],"isLearner":true,"name":"a\u003cb\u003e\u0026\"\\\u0001\u2028ü","clientURLs":["http://a","http://b"]}"#;
        assert_eq!(member_json(&member), expected);
        assert_eq!(member_json(&MemberRecord { id: 1, ..MemberRecord::default() }), r#"{"id":1,"peerURLs":null}"#);
    }
}
