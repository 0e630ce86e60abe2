//! What the roles show of their clients, on their pages and in their logs: nothing secret, and nothing without end.

use std::path::Path;

use crate::role::Role;

/// Nobody's word but a client's, each where a secret may stand.
const PASSWORD: &str = "pa55word-0f-alice";
const NEW_PASSWORD: &str = "an0ther-pa55word";
const TOKEN: &str = "t0ken-0f-s0mebody";
const COOKIE: &str = "c00kie-0f-s0mebody";
const UPSTREAM_PASSWORD: &str = "pa55word-0f-the-mirror";
/// `secret-value`, as a value and as the base64 of it.
const VALUES: [&str; 2] = ["secret-value", "c2VjcmV0LXZhbHVl"];

/// A server and the gateway in front of it, which tell as much as they can.
fn start(dir: &Path) -> [Role; 2] {
    let more = [
        "--log-level=debug",
        "--metrics=extensive",
        // Everything is slow, and slow things are told in more detail.
        "--warning-apply-duration=1ns",
        "--warning-unary-request-duration=1ns",
    ];
    let server = Role::member(dir, &dir.join("data"), "http", &more);
    let password = dir.join("password");
    std::fs::write(&password, UPSTREAM_PASSWORD).unwrap();
    let args = [
        format!("--endpoints=http://127.0.0.1:{}", server.port),
        "--upstream-user=root".to_owned(),
        format!("--upstream-password-file={}", password.display()),
        "--log-level=debug".to_owned(),
        "--slow-request=1ns".to_owned(),
    ];
    let mut gateway = Role::spawn(dir, "gateway", "gateway", "http", &args);
    gateway.ready();
    [server, gateway]
}

const PAGES: [&str; 9] = [
    "/metrics",
    "/health",
    "/readyz?verbose",
    "/version",
    "/debug/vars",
    "/debug/requests",
    "/forebay/v1/top",
    "/forebay/v1/quota",
    "/nothing",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_on_any_page_or_in_any_log() {
    let dir = tempfile::tempdir().unwrap();
    let roles = start(dir.path());
    for role in &roles {
        let fields = [
            ("Authorization", TOKEN),
            ("Grpc-Metadata-Token", TOKEN),
            ("Cookie", COOKIE),
            ("Sec-WebSocket-Protocol", TOKEN),
        ];
        for (path, body) in [
            ("/v3/auth/user/add", format!(r#"{{"name":"alice","password":"{PASSWORD}"}}"#)),
            ("/v3/auth/user/add", format!(r#"{{"name":"alice","password":"{PASSWORD}"}}"#)),
            ("/v3/auth/user/changepw", format!(r#"{{"name":"alice","password":"{NEW_PASSWORD}"}}"#)),
            ("/v3/auth/authenticate", format!(r#"{{"name":"alice","password":"{PASSWORD}"}}"#)),
            ("/v3/auth/authenticate", format!(r#"{{"name":"alice","password":"{NEW_PASSWORD}","x":}}"#)),
            ("/v3/kv/put", format!(r#"{{"key":"Zm9v","value":"{}"}}"#, VALUES[1])),
            ("/v3/kv/put", format!(r#"{{"key":"Zm9v","value":"{}","lease":"404"}}"#, VALUES[1])),
            ("/v3/kv/txn", format!(r#"{{"success":[{{"request_put":{{"key":"Zm9v","value":"{}"}}}}]}}"#, VALUES[1])),
            ("/v3/kv/range", r#"{"key":"Zm9v"}"#.to_owned()),
        ] {
            role.ask_with(path, &fields, &body).await;
        }
    }
    let secrets = [&[PASSWORD, NEW_PASSWORD, TOKEN, COOKIE, UPSTREAM_PASSWORD][..], &VALUES].concat();
    for role in &roles {
        let mut shown = vec![("the log", role.said())];
        assert!(shown[0].1.contains("\"level\":\"debug\"") || shown[0].1.len() > 1000, "the log tells everything");
        for page in PAGES {
            shown.push((page, role.ask_in_clear(page, "").await));
        }
        for (place, text) in shown {
            for secret in &secrets {
                assert!(!text.contains(secret), "{secret} is in {place}:\n{text}");
            }
        }
    }
}

/// How many series a page of metrics has.
async fn series(role: &Role) -> usize {
    let page = role.ask_in_clear("/metrics", "").await;
    page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_of_a_fixed_set_whatever_clients_ask() {
    let dir = tempfile::tempdir().unwrap();
    let roles = start(dir.path());
    for role in &roles {
        let odd = async |from: usize| {
            for n in from..from + 150 {
                let version = format!("3.{n}");
                let fields = [
                    ("Content-Type", "application/grpc"),
                    ("Client-Api-Version", &version),
                    ("User-Agent", &version),
                    ("Token", &version),
                ];
                role.ask_with(&format!("/odd{n}.Service{n}/Method{n}"), &fields, "x").await;
                role.ask_with(&format!("/etcdserverpb.KV/Method{n}"), &fields, "x").await;
                role.ask_with(&format!("/path{n}?query={n}"), &fields[1..], "").await;
                role.ask_with("/v3/kv/range", &[], &format!(r#"{{"key":"{n:04}"}}"#)).await;
            }
        };
        // Whatever may be told apart is, up to the bound.
        odd(0).await;
        let before = series(role).await;
        odd(1000).await;
        assert_eq!(series(role).await, before, "a page that grows with what clients say");
    }
}
