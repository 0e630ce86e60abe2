//! HTTP requests in a fixed order, ordinary and odd, and what each target answers.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Call, Response};
use crate::{
    outcome::{Names, Step, object},
    session::Session,
};

/// What of an answer is compared beside its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Content type and body.
    Everything,
    /// The content type, and of a body only the `code` in it: messages of JSON parsers are nobody's contract.
    Code,
    /// The content type only.
    Type,
}

/// One request of the table.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The request.
    pub call: Call,
    /// What of the answer counts.
    pub compare: Compare,
}

/// The headers that are part of the contract.
const HEADERS: [&str; 9] = [
    "content-type",
    "allow",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-allow-headers",
    "grpc-metadata-content-type",
    "trailer",
    "x-content-type-options",
    "www-authenticate",
];

/// Sends the whole table and records the answers.
pub async fn record(session: &Session, to: SocketAddr) -> Vec<Step> {
    let mut steps = Vec::new();
    for exchange in table() {
        let Exchange { call, compare } = &exchange;
        let outcome = match call.send(to).await {
            Ok(mut response) => {
                // etcd lets any web page read its metrics; ours are not for pages of others.
                response.headers.retain(|(name, _)| call.path != "/metrics" || !name.starts_with("access-control-"));
                answer(&session.names, &response, *compare)
            }
            Err(error) => json!({ "no answer": error.to_string() }),
        };
        let body: String = String::from_utf8_lossy(&call.body).chars().take(120).collect();
        steps.push(Step { call: format!("{} {} {:?} {body}", call.method, call.path, call.headers), outcome });
    }
    steps
}

fn answer(names: &Names, response: &Response, compare: Compare) -> Value {
    let headers = response.headers.iter().filter(|(name, _)| HEADERS.contains(&name.as_str()));
    // Of trailers the names are listed, which are the same in any case.
    let told =
        |name: &str, value: &str| if name == "trailer" { json!(value.to_ascii_lowercase()) } else { json!(value) };
    let headers: serde_json::Map<String, Value> =
        headers.map(|(name, value)| (name.clone(), told(name, value))).collect();
    let parsed = |text: &str| {
        serde_json::from_str(text).map_or_else(|_| json!(names.in_text(text)), |value| names.tree_of(value))
    };
    let text = response.body_text();
    let body = match compare {
        Compare::Type => Value::Null,
        Compare::Code => serde_json::from_str::<Value>(&text).map_or(Value::Null, |body| body["code"].clone()),
        // A stream is one JSON text a line.
        Compare::Everything if text.trim_end().contains('\n') => text.lines().map(parsed).collect(),
        Compare::Everything => parsed(&text),
    };
    object([("status", json!(response.status)), ("headers", Value::Object(headers)), ("body", body)])
}

/// Every request, in the order in which it is sent: later ones read what earlier ones wrote.
pub fn table() -> Vec<Exchange> {
    let all = |calls: Vec<Call>, compare| calls.into_iter().map(move |call| Exchange { call, compare });
    let mut table: Vec<Exchange> = all(endpoints(), Compare::Everything).collect();
    table.extend(all(vec![Call::get("/version"), Call::get("/metrics"), Call::get("/debug/vars")], Compare::Type));
    table.extend(all(kv(), Compare::Everything));
    table.extend(all(other_services(), Compare::Everything));
    // The hash covers the run's ids.
    table.extend(all(vec![post("maintenance/hash", r#"{"revision":"0"}"#)], Compare::Type));
    table.extend(all(input(), Compare::Everything));
    table.extend(all(bad_input(), Compare::Code));
    table.extend(all(routes(), Compare::Everything));
    table.extend(all(streams(), Compare::Everything));
    table
}

/// What is not JSON of a service.
fn endpoints() -> Vec<Call> {
    let gets = [
        "/health",
        "/health?serializable=true",
        "/health?serializable=yes",
        "/health?exclude=NOSPACE&exclude=CORRUPT",
        "/health?exclude=",
        "/health/",
        "/livez",
        "/readyz",
        "/livez/serializable_read",
        "/readyz/data_corruption",
        "/readyz/serializable_read",
        "/readyz/linearizable_read",
        "/readyz/non_learner",
        "/readyz/nothing",
        "/livez/linearizable_read",
        "/readyz?exclude=linearizable_read",
        "/livez?exclude=nothing",
        "/",
        "/nothing",
        "/v2/keys",
        "/v2/stats/self",
        "/config/local/log",
        "/v3alpha/kv/range",
        "/debug/pprof/",
        "/debug/requests",
    ];
    let mut calls: Vec<Call> = gets.into_iter().map(Call::get).collect();
    for path in ["/health", "/version", "/livez", "/readyz", "/debug/vars"] {
        calls.push(Call::get(path).method("HEAD"));
        calls.push(Call::post(path, ""));
    }
    for path in ["/health", "/nothing", "/v3/kv/put", "/version"] {
        calls.push(Call::get(path).method("OPTIONS"));
        calls.push(Call::get(path).method("OPTIONS").header("Origin", "http://example.com"));
    }
    calls.push(Call::get("/health").header("Origin", "http://example.com"));
    calls
}

fn post(path: &str, body: &str) -> Call {
    Call::post(format!("/v3/{path}"), body)
}

/// `Zm9v` is foo, `YmFy` is bar, `AA==` is the zero byte.
fn kv() -> Vec<Call> {
    [
        ("kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
        ("kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
        ("kv/put", r#"{"key":"Zm9w","value":""}"#),
        ("kv/put", r#"{"value":"YmFy"}"#),
        ("kv/put", r#"{"key":"Zm9v","lease":"404"}"#),
        ("kv/put", r#"{"key":"bm9uZQ==","ignore_value":true}"#),
        ("kv/range", r#"{"key":"Zm9v"}"#),
        ("kv/range", r#"{"key":"AA==","range_end":"AA=="}"#),
        ("kv/range", r#"{"key":"AA==","range_end":"AA==","limit":1}"#),
        ("kv/range", r#"{"key":"AA==","range_end":"AA==","count_only":true}"#),
        ("kv/range", r#"{"key":"AA==","range_end":"AA==","keys_only":true,"sort_order":"DESCEND"}"#),
        ("kv/range", r#"{"key":"bm9uZQ=="}"#),
        ("kv/range", r#"{"key":"Zm9v","revision":"99"}"#),
        ("kv/range", "{}"),
        ("kv/range", r#"{"key":"AA==","range_end":"AA==","sort_order":9}"#),
        ("kv/txn", r#"{}"#),
        (
            "kv/txn",
            r#"{"compare":[{"key":"Zm9v","target":"VERSION","result":"EQUAL","version":"2"}],
                "success":[{"request_put":{"key":"dA==","value":"MQ=="}},{"request_range":{"key":"Zm9v"}}],
                "failure":[{"request_delete_range":{"key":"Zm9v"}}]}"#,
        ),
        (
            "kv/txn",
            r#"{"compare":[{"key":"Zm9v","target":"CREATE","result":"LESS","create_revision":1}],
                "failure":[{"request_txn":{"success":[{"request_range":{"key":"bm9uZQ=="}}]}},
                           {"request_delete_range":{"key":"dA==","prev_kv":true}}]}"#,
        ),
        ("kv/txn", r#"{"success":[{}]}"#),
        ("kv/txn", r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}"#),
        ("kv/deleterange", r#"{"key":"bm9uZQ=="}"#),
        ("kv/deleterange", r#"{"key":"Zm9w","prev_kv":true}"#),
        ("kv/deleterange", r#"{"key":"Zg==","range_end":"Zw=="}"#),
        ("kv/compaction", r#"{"revision":"2"}"#),
        ("kv/compaction", r#"{"revision":"2"}"#),
        ("kv/compaction", r#"{"revision":"3","physical":true}"#),
        ("kv/compaction", r#"{"revision":"999"}"#),
        ("kv/range", r#"{"key":"Zm9v","revision":2}"#),
    ]
    .map(|(path, body)| post(path, body))
    .into()
}

fn other_services() -> Vec<Call> {
    [
        ("lease/grant", r#"{"TTL":"1000","ID":"7"}"#),
        ("lease/grant", r#"{"TTL":1000,"ID":7}"#),
        ("lease/grant", r#"{"TTL":"9000000001"}"#),
        ("kv/put", r#"{"key":"bGVhc2Vk","value":"MQ==","lease":7}"#),
        ("kv/range", r#"{"key":"bGVhc2Vk"}"#),
        ("lease/leases", "{}"),
        ("kv/lease/leases", "{}"),
        ("lease/timetolive", r#"{"ID":"404","keys":true}"#),
        ("kv/lease/timetolive", r#"{"ID":404}"#),
        ("lease/keepalive", r#"{"ID":"7"}"#),
        ("lease/keepalive", r#"{"ID":"404"}"#),
        ("lease/revoke", r#"{"ID":"7"}"#),
        ("lease/revoke", r#"{"ID":"7"}"#),
        ("kv/lease/revoke", r#"{"ID":"7"}"#),
        ("cluster/member/list", "{}"),
        ("cluster/member/list", r#"{"linearizable":true}"#),
        ("cluster/member/remove", r#"{"ID":"404"}"#),
        ("cluster/member/add", r#"{"peerURLs":[]}"#),
        ("cluster/member/promote", r#"{"ID":"404"}"#),
        ("maintenance/alarm", "{}"),
        ("maintenance/alarm", r#"{"action":"ACTIVATE","memberID":"17","alarm":"NOSPACE"}"#),
        ("kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
        ("maintenance/alarm", r#"{"action":0}"#),
        ("maintenance/alarm", r#"{"action":"DEACTIVATE","memberID":"17","alarm":1}"#),
        ("maintenance/defragment", "{}"),
        ("maintenance/transfer-leadership", r#"{"targetID":"404"}"#),
        ("maintenance/downgrade", r#"{"action":"VALIDATE","version":"9.9.9"}"#),
        ("auth/status", "{}"),
        ("auth/enable", "{}"),
        ("auth/disable", "{}"),
        ("auth/authenticate", r#"{"name":"root","password":"x"}"#),
        ("auth/user/add", r#"{"name":"bob","password":"x"}"#),
        ("auth/user/add", r#"{"name":"bob","password":"x"}"#),
        ("auth/user/get", r#"{"name":"bob"}"#),
        ("auth/user/get", r#"{"name":"nobody"}"#),
        ("auth/user/list", "{}"),
        ("auth/role/add", r#"{"name":"r"}"#),
        ("auth/role/grant", r#"{"name":"r","perm":{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}"#),
        ("auth/role/get", r#"{"role":"r"}"#),
        ("auth/user/grant", r#"{"user":"bob","role":"r"}"#),
        ("auth/user/revoke", r#"{"name":"bob","role":"r"}"#),
        ("auth/role/revoke", r#"{"role":"r","key":"YQ==","range_end":"Yg=="}"#),
        ("auth/role/list", "{}"),
        ("auth/role/delete", r#"{"role":"r"}"#),
        ("auth/user/delete", r#"{"name":"bob"}"#),
        ("lease/grant", r#"{"TTL":"1000","ID":"7"}"#),
        ("lock/lock", r#"{"name":"bA==","lease":"7"}"#),
        ("lock/lock", r#"{"name":"bA==","lease":"404"}"#),
        ("lock/unlock", r#"{"key":"bC83"}"#),
        ("lock/unlock", r#"{"key":"bm9uZQ=="}"#),
        ("lock/unlock", "{}"),
        ("election/leader", r#"{"name":"ZQ=="}"#),
        ("election/campaign", r#"{"name":"ZQ==","lease":"7","value":"MQ=="}"#),
        ("election/leader", r#"{"name":"ZQ=="}"#),
        ("election/campaign", r#"{"name":"ZQ==","lease":"404","value":"MQ=="}"#),
        ("election/proclaim", r#"{"leader":{"name":"ZQ==","key":"ZS83","rev":"2","lease":"7"},"value":"Mg=="}"#),
        ("election/proclaim", r#"{"value":"Mg=="}"#),
        ("election/resign", r#"{"leader":{"name":"ZQ==","key":"ZS83","rev":"2","lease":"7"}}"#),
        ("election/resign", "{}"),
    ]
    .map(|(path, body)| post(path, body))
    .into()
}

/// Odd input that is accepted.
fn input() -> Vec<Call> {
    let mut calls: Vec<Call> = [
        r#"{"key":"Zm9v","value":"YmFy","unknown":{"a":[1,2,{"b":null}]}}"#,
        r#"{"key":"Zm8","value":"YQ"}"#,
        r#"{"key":"-_-_","value":"+/+/"}"#,
        r#"{"key":"Zm9v","value":null,"lease":null,"prevKv":true}"#,
        r#"{"key":"Zm9v","prev_kv":true,"ignoreValue":true}"#,
        " \n\t {\"key\" : \"Zm9v\" , \"value\" : \"\\u0059mFy\" } \n",
        r#"{"key":"Zm9v","lease":0}"#,
        r#"{"key":"Zm9v","lease":"0"}"#,
        r#"{"key":"Zm9v","lease":0.0}"#,
        r#"{"key":"Zm9v","lease":1e0}"#,
    ]
    .into_iter()
    .map(|body| post("kv/put", body))
    .collect();
    calls.extend(
        [
            r#"{"key":"AA==","rangeEnd":"AA==","sortOrder":"ASCEND","sortTarget":"MOD"}"#,
            r#"{"key":"AA==","range_end":"AA==","sort_order":2,"sort_target":4}"#,
            r#"{"key":"AA==","range_end":"AA==","sort_order":"UNKNOWN"}"#,
            r#"{"key":"AA==","range_end":"AA==","limit":"1","serializable":true}"#,
            "",
        ]
        .map(|body| post("kv/range", body)),
    );
    calls.push(post("kv/range", r#"{"key":"Zm9v"}"#).header("Content-Type", "text/plain"));
    calls.push(post("kv/range", r#"{"key":"Zm9v"}"#).header("Content-Type", "application/x-www-form-urlencoded"));
    calls.push(Call::post("/v3beta/kv/range", r#"{"key":"Zm9v"}"#));
    calls.push(post("kv/range?key=YQ==", r#"{"key":"Zm9v"}"#));
    calls.push(post("kv/range", r#"{"key":"Zm9v"}"#).header("Authorization", "nonsense"));
    calls.push(post("kv/range", r#"{"key":"Zm9v"}"#).header("Grpc-Metadata-Token", "nonsense"));
    calls.push(post("kv/range", r#"{"key":"Zm9v"}"#).header("Grpc-Timeout", "5S"));
    for body in ["{}", r#"{"key":"Zm9v"}"#] {
        calls.push(post("kv/range", body).header("TE", "trailers"));
    }
    calls.push(post("kv/range", r#"{"key":"Zm9v"}"#).header("Origin", "http://example.com"));
    calls
}

/// Input that is refused, with the texts of a JSON parser.
fn bad_input() -> Vec<Call> {
    let mut calls: Vec<Call> = [
        "{",
        "[]",
        "null",
        "7",
        "\"text\"",
        r#"{"key":}"#,
        r#"{"key":"Zm9v"} trailing"#,
        r#"{"key":"Zm9v"}{"key":"Zm9v"}"#,
        r#"{"key":7}"#,
        r#"{"key":"***"}"#,
        r#"{"key":"Zm9v","key":"YQ=="}"#,
        r#"{"key":"Zm9v","limit":"x"}"#,
        r#"{"key":"Zm9v","limit":1.5}"#,
        r#"{"key":"Zm9v","limit":"9223372036854775808"}"#,
        r#"{"key":"Zm9v","limit":9223372036854775807}"#,
        r#"{"key":"Zm9v","keys_only":"true"}"#,
        r#"{"key":"Zm9v","keys_only":1}"#,
        r#"{"key":"Zm9v","sort_order":"DESCEND","sortOrder":"ASCEND"}"#,
        r#"{"key":"Zm9v","sort_order":1.5}"#,
        r#"{'key':'Zm9v'}"#,
        r#"{"key":"Zm9v",}"#,
        "{\"key\":\"Zm9v\u{0}\"}",
    ]
    .into_iter()
    .map(|body| post("kv/range", body))
    .collect();
    calls.push(post("kv/txn", r#"{"success":{"request_range":{"key":"YQ=="}}}"#));
    calls.push(post("kv/txn", r#"{"success":[{"request_range":{"key":"YQ=="},"request_put":{"key":"YQ=="}}]}"#));
    calls.push(post("kv/range", &format!(r#"{{"key":"{}"}}"#, "AAAA".repeat(400_000))));
    calls.push(post("kv/put", &format!(r#"{{"key":"YQ==","value":"{}"}}"#, "AAAA".repeat(530_000))));
    calls.push(post("kv/put", &format!(r#"{{"key":"YQ==","value":"{}"}}"#, "AAAA".repeat(800_000))));
    calls
}

/// Paths and methods that are not there.
fn routes() -> Vec<Call> {
    let mut calls: Vec<Call> = ["GET", "PUT", "DELETE", "PATCH", "HEAD"]
        .into_iter()
        .map(|method| Call::get("/v3/kv/range").method(method))
        .collect();
    for path in
        ["/v3/kv", "/v3/", "/v3", "/v3/kv/range/", "/v3/KV/range", "/v3/kv/rangestream", "/v3/nothing", "/v3//kv/range"]
    {
        calls.push(Call::post(path, "{}"));
        calls.push(Call::get(path));
    }
    calls
}

/// Answers that go on.
fn streams() -> Vec<Call> {
    let watch = |body: &str, lines| post("watch", body).lines(lines);
    vec![
        watch(r#"{"create_request":{"key":"Zm9v"}}"#, 1),
        watch(r#"{"create_request":{"key":"AA==","range_end":"AA==","start_revision":"4"}}"#, 2),
        watch(r#"{"create_request":{"key":"Zm9v","start_revision":"1"}}"#, 2),
        watch(r#"{"create_request":{"key":"Yg==","range_end":"YQ=="}}"#, 1),
        watch(r#"{"create_request":{"key":"Zm9v"}} {"create_request":{"key":"YQ==","watch_id":"7"}}"#, 2),
        watch(r#"{"create_request":{"key":"Zm9v"}}{"cancel_request":{"watch_id":0}}"#, 2),
        watch(r#"{"create_request":{"key":"Zm9v","filters":["NOPUT"],"startRevision":-5}}"#, 1),
        post("lease/keepalive", r#"{"ID":"404"}{"ID":"405"}"#),
        post("lease/keepalive", ""),
        post("lease/grant", r#"{"TTL":"1000","ID":"8"}"#),
        // An election that nobody has won yet. Who campaigns against a leader waits until this side hangs up, and what
        // etcd takes back then shows in the revision of whatever comes next, or not yet.
        post("election/campaign", r#"{"name":"Zg==","lease":"8","value":"MQ=="}"#),
        post("election/observe", r#"{"name":"Zg=="}"#).lines(1),
        post("election/resign", r#"{"leader":{"key":"Zi84"}}"#),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_stream_is_a_tree() {
        let response = Response { status: 200, headers: vec![], body: b"{\"a\":1}\n{\"b\":2}\n".to_vec() };
        let tree = answer(&Names::default(), &response, Compare::Everything);
        assert_eq!(tree["body"], json!([{ "a": 1 }, { "b": 2 }]));
    }
}
