//! The JSON API, asked of a real etcd and of our transcoder in front of another one.
//!
//! Both etcds see the same requests in the same order and so have the same revisions. What differs
//! is the transcoder's doing.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use forebay_edge::{
    Api, Body, Request, Response,
    http::{Front, Options, Probes, Versions},
};
use forebay_proto::etcdserverpb::AlarmType;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _, future::BoxFuture};
use http::{Method, Uri};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tonic::Status;

use crate::etcd::{Etcd, Forward};

/// A member in good health.
pub(crate) struct Healthy;

impl Probes for Healthy {
    fn alarms(&self) -> Vec<AlarmType> {
        Vec::new()
    }

    fn has_leader(&self) -> bool {
        true
    }

    fn is_learner(&self) -> bool {
        false
    }

    fn auth_enabled(&self) -> bool {
        false
    }

    fn read(&self, _serializable: bool) -> BoxFuture<'_, Result<(), Status>> {
        std::future::ready(Ok(())).boxed()
    }

    fn versions(&self) -> Versions {
        Versions { server: "3.7.1".into(), cluster: Some("3.7.0".into()), storage: Some("3.7.0".into()) }
    }

    fn metrics(&self) -> Vec<prometheus::proto::MetricFamily> {
        Vec::new()
    }

    fn debug_vars(&self) -> Option<Vec<(&'static str, Value)>> {
        Some(Vec::new())
    }
}

/// One request of the table.
#[derive(Clone, Debug)]
struct Case {
    method: Method,
    path: String,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn post(path: &str, body: impl Into<Vec<u8>>) -> Case {
    Case { method: Method::POST, path: path.to_owned(), fields: Vec::new(), body: body.into() }
}

fn ask(method: Method, path: &str) -> Case {
    Case { method, path: path.to_owned(), fields: Vec::new(), body: Vec::new() }
}

impl Case {
    fn with(mut self, name: &'static str, value: &str) -> Case {
        self.fields.retain(|(other, _)| *other != name);
        self.fields.push((name, value.to_owned()));
        self
    }

    fn is_stream_without_end(&self) -> bool {
        self.path.ends_with("/watch")
    }

    fn request(&self, uri: Uri) -> Request {
        let mut request = http::Request::builder().method(self.method.clone()).uri(uri);
        for (name, value) in &self.fields {
            request = request.header(*name, value);
        }
        request.body(Body::full(self.body.clone())).expect("a request")
    }
}

/// What is compared of an answer.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    fields: BTreeMap<String, String>,
    /// Line by line, parsed if it is JSON.
    body: Vec<Value>,
}

/// Differs between two etcds, or is the connection's and not the answer's.
const FIELDS_OF_NO_INTEREST: [&str; 3] = ["date", "content-length", "transfer-encoding"];
const NAMES_OF_NO_INTEREST: [&str; 11] = [
    "cluster_id",
    "member_id",
    "leader",
    "peerURLs",
    "clientURLs",
    "dbSize",
    "dbSizeInUse",
    "token",
    "blob",
    "remaining_bytes",
    "raft_term",
];

async fn answer(response: Response) -> Answer {
    let (head, body) = response.into_parts();
    let fields = head.headers.iter().filter(|(name, _)| !FIELDS_OF_NO_INTEREST.contains(&name.as_str()));
    let fields = fields.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let bytes = body.collect().await.expect("a body").to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Answer { status: head.status.as_u16(), fields: fields.collect(), body: text.split('\n').map(parsed).collect() }
}

fn parsed(line: &str) -> Value {
    let mut value = serde_json::from_str(line).unwrap_or_else(|_| Value::from(line));
    blot_out(&mut value);
    value
}

fn blot_out(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let is_member = members.contains_key("peerURLs");
            let is_lease = members.contains_key("grantedTTL");
            for (name, member) in members {
                let is_own = (is_member && name == "ID") || (is_lease && name == "TTL");
                if is_own || NAMES_OF_NO_INTEREST.contains(&name.as_str()) {
                    *member = Value::Null;
                }
                blot_out(member);
            }
        }
        // protojson writes some of its spaces as no-break spaces, by the build; and who notices a
        // deadline first, etcd's client or its server, is a race.
        Value::String(text) => {
            *text = text
                .replace('\u{a0}', " ")
                .replace("stream terminated by RST_STREAM with error code: CANCEL", "context deadline exceeded");
        }
        Value::Array(elements) => elements.iter_mut().for_each(blot_out),
        _ => {}
    }
}

/// etcd directly, and our front with its own etcd behind it.
struct Both {
    theirs: Etcd,
    client: Client<HttpConnector, Body>,
    ours: Front,
    _behind_ours: Etcd,
}

impl Both {
    /// `None`, having said so, if etcd is not installed.
    async fn start(test: &str) -> Option<Both> {
        let (Some(theirs), Some(behind_ours)) = tokio::join!(Etcd::start(), Etcd::start()) else {
            let text = "etcd 3.7 is not installed; run conformance/install-peers.sh";
            assert!(std::env::var("CONFORMANCE_REQUIRE").as_deref() != Ok("1"), "CONFORMANCE_REQUIRE=1, but {text}");
            eprintln!("skipped {test}: {text}");
            return None;
        };
        let api = Api::new(Forward::to(&behind_ours));
        let ours =
            Front::new(api, Arc::new(Healthy), Options::default(), &prometheus::Registry::new()).expect("metrics");
        let client = Client::builder(TokioExecutor::new()).build_http();
        Some(Both { theirs, client, ours, _behind_ours: behind_ours })
    }

    /// Asks etcd one thing and ours the same.
    async fn ask(&self, of_theirs: &Case, of_ours: &Case) -> (Answer, Answer) {
        let theirs = async {
            let uri = format!("http://{}{}", self.theirs.client, of_theirs.path).parse().expect("a URI");
            let response = self.client.request(of_theirs.request(uri)).await.expect("etcd answers");
            answer(response.map(Body::from)).await
        };
        let ours = async {
            let mut request = of_ours.request(of_ours.path.parse().expect("a path"));
            let host = self.theirs.client.as_str().parse().expect("an address is a field value");
            request.headers_mut().insert("host", host);
            answer(self.ours.client(request).await).await
        };
        tokio::join!(theirs, ours)
    }

    /// What is different about the answers, if something is.
    async fn difference(&self, of_theirs: Case, of_ours: Case) -> Option<String> {
        let (mut theirs, mut ours) = self.ask(&of_theirs, &of_ours).await;
        if theirs != ours && of_ours.is_stream_without_end() {
            // On a busy machine a moment may be too short for an answer.
            let patient = |case: &Case| case.clone().with("grpc-timeout", "5S");
            (theirs, ours) = self.ask(&patient(&of_theirs), &patient(&of_ours)).await;
        }
        (theirs != ours).then(|| {
            let Case { method, path, fields, body } = &of_ours;
            let body = String::from_utf8_lossy(body);
            format!("{method} {path} {fields:?} {body:.300}\n  etcd: {theirs:?}\n  ours: {ours:?}")
        })
    }

    /// Asks everything and reports every difference.
    async fn compare(&self, cases: Vec<Case>) {
        let mut differences = Vec::new();
        for case in cases {
            differences.extend(self.difference(case.clone(), case).await);
        }
        assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    }

    /// A token of both.
    async fn tokens(&self, user: &str) -> (String, String) {
        let body = format!(r#"{{"name":"{user}","password":"p"}}"#);
        let case = post("/v3/auth/authenticate", body);
        let uri: Uri = format!("http://{}{}", self.theirs.client, case.path).parse().expect("a URI");
        let theirs = self.client.request(case.request(uri)).await.expect("etcd answers").map(Body::from);
        let ours = self.ours.client(case.request(case.path.parse().expect("a path"))).await;
        (token(theirs).await, token(ours).await)
    }
}

async fn token(response: Response) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    body["token"].as_str().expect("a token").to_owned()
}

/// Gives a stream that does not end by itself a deadline.
fn for_a_moment(case: Case) -> Case {
    if case.is_stream_without_end() { case.with("grpc-timeout", "250m") } else { case }
}

/// The requests that `proto` tests itself with, but for those whose answers differ by nature.
fn recorded_cases() -> Vec<Case> {
    let mut lines = include_str!("../../../proto/testdata/json/requests.txt").lines();
    let mut cases = Vec::new();
    while let Some(request) = lines.next() {
        let Some((path, body)) = request.split_once(' ').filter(|(path, _)| path.starts_with('/')) else { continue };
        // A lease without an id gets a random one.
        let has_random_id = lines.next().is_some_and(|understood| understood.trim() == r#"{"TTL":"600"}"#);
        // etcd's text for half a surrogate pair is about what happens to stand behind it.
        let has_surrogate = body.contains(r"\ud") || body.contains(r"\uD");
        if !has_random_id && !has_surrogate {
            cases.push(for_a_moment(post(path, percent_encoding::percent_decode_str(body).collect::<Vec<u8>>())));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recorded_requests_are_answered_alike() {
    let Some(both) = Both::start("the_recorded_requests_are_answered_alike").await else { return };
    let cases = recorded_cases();
    assert!(cases.len() > 250, "{}", cases.len());
    both.compare(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_paths_and_header_fields_are_answered_alike() {
    let Some(both) = Both::start("methods_paths_and_header_fields_are_answered_alike").await else { return };
    let range = || post("/v3/kv/range", r#"{"key":"YQ=="}"#);
    let mut cases = Vec::new();
    for path in [
        "/v3",
        "/v3/",
        "/v3//kv/range",
        "/v3/kv/../kv/range",
        "/v3/kv/range/",
        "/v3/kv%2Frange",
        "/v3/kv/range:verb",
        "/v3/kv/rangestream",
        "/v3/nothing",
        "/v3beta/kv/range",
        "/v3beta/",
        "/v3beta",
        "/v3alpha/kv/range",
        "/nothing",
        "/",
        "//version",
        "/version/",
        "/version?x=y",
        "/health",
        "/health?serializable=true",
        "/health/",
        "/livez",
        "/livez?verbose",
        "/livez/serializable_read",
        "/livez/nothing",
        "/readyz",
        "/readyz/non_learner",
        "/readyz?exclude=non_learner&exclude=data_corruption&exclude=linearizable_read&verbose",
        "/v2/keys",
        "/debug/vars/",
        "/v3/kv/range?pretty=true&key=YQ==",
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            cases.push(ask(method, path));
        }
    }
    cases.push(ask(Method::GET, "/version"));
    cases.push(ask(Method::POST, "/version"));
    for timeout in ["1n", "x", "5X", "-5S", "0S", "60S", "1H", "99999999999S", "S"] {
        cases.push(range().with("grpc-timeout", timeout));
    }
    for (name, value) in [
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-type", "text/plain"),
        ("accept", "text/html"),
        ("accept-encoding", "gzip"),
        ("origin", "http://elsewhere"),
        ("authorization", "garbage"),
        ("grpc-metadata-hasleader", "true"),
        ("grpc-metadata-te", "x"),
        ("grpc-metadata-content-type", "x"),
        ("grpc-metadata-grpc-status", "9"),
        ("grpc-metadata-client-api-version", "3.5.0"),
        ("grpc-metadata-x-bin", "AAE="),
        ("grpc-metadata-x-bin", "AAE"),
        ("token", "x"),
    ] {
        cases.push(range().with(name, value));
    }
    both.compare(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_answered_alike() {
    let Some(both) = Both::start("every_method_is_answered_alike").await else { return };
    let value = "A".repeat(60_000);
    let big = |bytes: usize| format!(r#"{{"key":"YmlnCg==","value":"{}"}}"#, "A".repeat(bytes / 3 * 4));
    let cases = [
        ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
        ("/v3/kv/put", r#"{"key":"Zm9v","value":"AP9/gA==","prev_kv":true}"#),
        ("/v3/kv/put", r#"{"key":"Zm8","value":"eA","lease":"1"}"#),
        ("/v3/lease/grant", r#"{"ID":"77","TTL":"600"}"#),
        ("/v3/lease/grant", r#"{"ID":"77","TTL":"600"}"#),
        ("/v3/kv/put", r#"{"key":"Zm8","value":"eA","lease":"77"}"#),
        ("/v3/kv/put", r#"{"key":"Zm8","ignore_value":true,"lease":"77"}"#),
        ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA=="}"#),
        ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","limit":1,"sort_order":"DESCEND","sort_target":"MOD"}"#),
        ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","count_only":true}"#),
        ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","keys_only":true}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":"2"}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":"9999"}"#),
        (
            "/v3/kv/txn",
            r#"{"compare":[{"target":"VERSION","key":"Zm9v","version":"2"}],"success":[{"request_put":{"key":"YQ==","value":"Yg==","prev_kv":true}},{"request_range":{"key":"YQ=="}},{"request_delete_range":{"key":"YQ==","prev_kv":true}},{"request_txn":{"failure":[{"request_put":{"key":"Yg=="}}]}}]}"#,
        ),
        (
            "/v3/kv/txn",
            r#"{"compare":[{"target":"VALUE","key":"Zm9v","value":"eA=="}],"failure":[{"request_range":{"key":"Zm9v"}}]}"#,
        ),
        ("/v3/kv/txn", r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}"#),
        ("/v3/kv/deleterange", r#"{"key":"Zm8","range_end":"Zm9w","prev_kv":true}"#),
        ("/v3/kv/compaction", r#"{"revision":"3"}"#),
        ("/v3/kv/compaction", r#"{"revision":"3"}"#),
        ("/v3/kv/compaction", r#"{"revision":"3000"}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":"2"}"#),
        ("/v3/watch", r#"{"create_request":{"key":"AA==","range_end":"AA==","start_revision":"4","prev_kv":true}}"#),
        (
            "/v3/watch",
            r#"{"create_request":{"key":"AA==","range_end":"AA==","start_revision":"4"}} {"create_request":{"key":"AA==","watch_id":"9"}}{"progress_request":{}}"#,
        ),
        ("/v3/watch", r#"{"create_request":{"key":"YQ==","start_revision":"1"}}"#),
        ("/v3/watch", r#"{"create_request":{"key":"YQ=="}}{"cancel_request":{"watch_id":"0"}}"#),
        ("/v3/watch", r#"{"create_request":{"key":"YQ=="}} nonsense"#),
        ("/v3/watch", ""),
        ("/v3/watch", "[]"),
        ("/v3/lease/timetolive", r#"{"ID":"77","keys":true}"#),
        ("/v3/kv/lease/timetolive", r#"{"ID":"1"}"#),
        ("/v3/lease/leases", "{}"),
        ("/v3/kv/lease/leases", ""),
        ("/v3/lease/keepalive", r#"{"ID":"77"}"#),
        ("/v3/lease/keepalive", r#"{"ID":"77"}{"ID":77}{"ID":5}"#),
        ("/v3/lease/keepalive", r#"{"ID":"77"} x"#),
        ("/v3/lease/keepalive", ""),
        ("/v3/lease/revoke", r#"{"ID":"77"}"#),
        ("/v3/kv/lease/revoke", r#"{"ID":"77"}"#),
        ("/v3/cluster/member/add", r#"{"peerURLs":["::not a url"]}"#),
        ("/v3/cluster/member/update", r#"{"ID":"5","peerURLs":["http://a:1"]}"#),
        ("/v3/cluster/member/promote", r#"{"ID":"5"}"#),
        ("/v3/maintenance/alarm", r#"{"action":"GET"}"#),
        ("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","alarm":"NOSPACE","memberID":"5"}"#),
        ("/v3/maintenance/alarm", r#"{"alarm":"NOSPACE"}"#),
        ("/v3/maintenance/alarm", r#"{"action":"DEACTIVATE","alarm":1,"memberID":"5"}"#),
        ("/v3/maintenance/status", ""),
        ("/v3/maintenance/hashkv", r#"{"revision":"5"}"#),
        ("/v3/maintenance/transfer-leadership", r#"{"targetID":"5"}"#),
        ("/v3/maintenance/downgrade", r#"{"action":"VALIDATE","version":"3.6.0"}"#),
        ("/v3/maintenance/downgrade", r#"{"action":"ENABLE","version":"x"}"#),
        ("/v3/maintenance/snapshot", ""),
        ("/v3/maintenance/snapshot", "[]"),
        ("/v3/lock/lock", r#"{"name":"bG9jaw==","lease":"5"}"#),
        ("/v3/lock/unlock", r#"{"key":"bG9jaw=="}"#),
        ("/v3/election/leader", r#"{"name":"ZQ=="}"#),
        ("/v3/election/resign", r#"{}"#),
        ("/v3/election/proclaim", r#"{}"#),
        ("/v3/auth/status", ""),
        ("/v3/auth/enable", ""),
        ("/v3/auth/user/list", ""),
        ("/v3/auth/role/get", r#"{"role":"nobody"}"#),
        ("/v3/kv/put", &big(1_000_000)),
        ("/v3/kv/put", &big(1_572_900)),
        ("/v3/kv/put", &big(2_200_000)),
        ("/v3/kv/put", &big(3_000_000)),
        ("/v3/kv/put", &format!(r#"{{"key":"YQ==","value":"{value}"}}"#)),
        ("/v3/kv/range", r#"{"key":"YQ=="}"#),
    ];
    let cases: Vec<Case> = cases.iter().map(|(path, body)| for_a_moment(post(path, *body))).collect();
    both.compare(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_strangers_are_answered_alike() {
    let Some(both) = Both::start("users_and_strangers_are_answered_alike").await else { return };
    let cases = [
        ("/v3/auth/user/add", r#"{"name":"root","password":"p"}"#),
        ("/v3/auth/user/add", r#"{"name":"root","password":"p"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/user/add", r#"{"name":"u","password":"p"}"#),
        ("/v3/auth/user/add", r#"{"name":"c","options":{"no_password":true}}"#),
        ("/v3/auth/role/add", r#"{"name":"r"}"#),
        ("/v3/auth/role/grant", r#"{"name":"r","perm":{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}"#),
        ("/v3/auth/role/grant", r#"{"name":"r","perm":{"permType":"WRITE","key":"eA==","rangeEnd":"AA=="}}"#),
        ("/v3/auth/role/get", r#"{"role":"r"}"#),
        ("/v3/auth/user/grant", r#"{"user":"u","role":"r"}"#),
        ("/v3/auth/user/get", r#"{"name":"u"}"#),
        ("/v3/auth/user/list", ""),
        ("/v3/auth/role/list", ""),
        ("/v3/auth/role/revoke", r#"{"role":"r","key":"eA==","range_end":"AA=="}"#),
        ("/v3/auth/user/changepw", r#"{"name":"c","password":"x"}"#),
        ("/v3/auth/user/revoke", r#"{"name":"c","role":"r"}"#),
        ("/v3/auth/enable", ""),
        ("/v3/auth/status", ""),
        ("/v3/auth/authenticate", r#"{"name":"u","password":"p"}"#),
        ("/v3/auth/authenticate", r#"{"name":"u","password":"wrong"}"#),
    ];
    let cases: Vec<Case> = cases.iter().map(|(path, body)| post(path, *body)).collect();
    both.compare(cases).await;

    let questions = [
        ("/v3/kv/range", r#"{"key":"YQ=="}"#),
        ("/v3/kv/range", r#"{"key":"eA=="}"#),
        ("/v3/kv/put", r#"{"key":"YQ==","value":"YQ=="}"#),
        ("/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#),
        ("/v3/watch", r#"{"create_request":{"key":"eA=="}}"#),
        ("/v3/lease/keepalive", r#"{"ID":"1"}"#),
        ("/v3/maintenance/snapshot", ""),
        ("/v3/maintenance/status", ""),
        ("/v3/auth/user/list", ""),
        ("/v3/cluster/member/list", r#"{"linearizable":true}"#),
    ];
    let asked = |field: Option<(&'static str, &str)>| -> Vec<Case> {
        let cases = questions.iter().map(|(path, body)| for_a_moment(post(path, *body)));
        cases.map(|case| field.iter().fold(case, |case, (name, value)| case.with(name, value))).collect()
    };
    both.compare(asked(None)).await;
    both.compare(asked(Some(("authorization", "nonsense")))).await;
    both.compare(asked(Some(("grpc-metadata-token", "nonsense")))).await;
    for user in ["u", "root"] {
        let (theirs, ours) = both.tokens(user).await;
        for prefix in ["", "Bearer "] {
            for (path, body) in questions {
                // Each etcd knows its own tokens only.
                let with =
                    |token: &str| for_a_moment(post(path, body)).with("authorization", &format!("{prefix}{token}"));
                let difference = both.difference(with(&theirs), with(&ours)).await;
                assert!(difference.is_none(), "{}", difference.unwrap_or_default());
            }
        }
    }
}

/// The first lines that a websocket answers to some messages.
async fn websocket_lines<S>(stream: S, path: &str, messages: &[&str], lines: usize) -> Vec<Value>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let uri = format!("ws://here{path}");
    let (mut socket, _) = tokio_tungstenite::client_async(uri, stream).await.expect("a handshake");
    for message in messages {
        socket.send(Message::text(*message)).await.expect("an open websocket");
    }
    let mut received = Vec::new();
    while received.len() < lines {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next()).await;
        match message.unwrap_or_else(|_| panic!("{path} {messages:?} answered only {received:?}")) {
            Some(Ok(Message::Text(line))) => received.push(parsed(&line)),
            Some(Ok(_)) => {}
            end => panic!("a line was due, not {end:?}"),
        }
    }
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_are_answered_alike() {
    let Some(both) = Both::start("websockets_are_answered_alike").await else { return };
    let put = post("/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#);
    both.compare(vec![put.clone(), put]).await;
    let cases: [(&str, &[&str], usize); 5] = [
        ("/v3/watch", &[r#"{"create_request":{"key":"YQ==","start_revision":"1"}}"#], 2),
        ("/v3/watch", &[r#"{"create_request":{"key":"YQ=="}}"#, r#"{"cancel_request":{"watch_id":0}}"#], 2),
        ("/v3beta/watch", &[r#"{"create_request":{"key":"YQ=="}} {"create_request":{}}"#], 2),
        ("/v3/lease/keepalive", &[r#"{"ID":"5"}"#, r#"{"ID":"6"}"#], 2),
        ("/v3/nothing", &[], 1),
    ];
    for (path, messages, lines) in cases {
        let theirs = tokio::net::TcpStream::connect(both.theirs.client.as_str()).await.expect("etcd listens");
        let theirs = websocket_lines(theirs, path, messages, lines).await;
        let (stream, end) = tokio::io::duplex(64 << 10);
        let front = both.ours.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.client(request.map(Body::from)).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(end), service);
        tokio::spawn(connection.with_upgrades());
        assert_eq!(websocket_lines(stream, path, messages, lines).await, theirs, "{path} {messages:?}");
    }
}
