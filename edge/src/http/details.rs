//! The details of a status as JSON: messages of `google.rpc` that say more than a code and a text.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use forebay_proto::rpc::{QuotaFailure, RetryInfo, Status, Violation};
use prost::Message as _;
use prost_types::{Any, Duration};
use serde_json::{Value, json};

/// The JSON field `details` behind a comma, or nothing if there are none.
pub(super) fn field(encoded: &[u8]) -> String {
    // What is no status says nothing; the code and the text were read from elsewhere.
    let details = Status::decode(encoded).unwrap_or_default().details;
    match details.is_empty() {
        true => String::new(),
        false => format!(r#","details":{}"#, details.iter().map(detail).collect::<Value>()),
    }
}

fn detail(any: &Any) -> Value {
    let mut json = match any.type_url.rsplit('/').next() {
        Some("google.rpc.RetryInfo") => RetryInfo::decode(&any.value[..]).map(retry_info).ok(),
        Some("google.rpc.QuotaFailure") => QuotaFailure::decode(&any.value[..]).map(quota_failure).ok(),
        _ => None,
    }
    .unwrap_or_else(|| json!({ "value": STANDARD.encode(&any.value) }));
    json["@type"] = json!(any.type_url);
    json
}

fn retry_info(info: RetryInfo) -> Value {
    let Some(Duration { seconds, nanos }) = info.retry_delay else { return json!({}) };
    json!({ "retryDelay": format!("{seconds}.{nanos:09}s") })
}

fn quota_failure(failure: QuotaFailure) -> Value {
    let violation =
        |violation: Violation| json!({ "subject": violation.subject, "description": violation.description });
    json!({ "violations": failure.violations.into_iter().map(violation).collect::<Value>() })
}

#[cfg(test)]
mod tests {
    use forebay_proto::rpc;

    use super::*;

    #[test]
    fn details_are_what_protobufs_json_makes_of_them() {
        let retry_delay = Some(Duration { seconds: 1, nanos: 250_000_000 });
        let violations = vec![Violation { subject: "rule:a".into(), description: "rate".into() }];
        let details = vec![
            rpc::detail("RetryInfo", &RetryInfo { retry_delay }),
            rpc::detail("QuotaFailure", &QuotaFailure { violations }),
            rpc::detail("Unheard", &RetryInfo { retry_delay: None }),
        ];
        let field = field(&Status { details, ..Status::default() }.encode_to_vec());
        let parsed: Value = serde_json::from_str(field.strip_prefix(r#","details":"#).unwrap()).unwrap();
        let expected = json!([
            { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.250000000s" },
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [{ "subject": "rule:a", "description": "rate" }],
            },
            { "@type": "type.googleapis.com/google.rpc.Unheard", "value": "" },
        ]);
        assert_eq!(parsed, expected);
    }

    #[test]
    fn a_status_without_details_has_no_such_field() {
        assert_eq!(field(b""), "");
        assert_eq!(field(b"\xff\xff no message"), "");
    }
}
