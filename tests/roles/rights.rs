//! The auth matrix over sockets: each method, for each kind of caller, over gRPC and as JSON, at a member and through the
//! gateway in front of it, whose mirror answers what it can.

#[path = "../../server/tests/it/rights/table.rs"]
mod table;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use forebay_edge::{Body, grpc};
use forebay_proto::{Error, etcdserverpb::WatchResponse};
use futures::StreamExt as _;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

use self::table::{BAD_TOKEN, CALLERS, EXPIRED, Row, TABLE};
use crate::role::Role;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Seconds after which a token that nobody uses is bad. Everybody else's is used more often, however slow the machine.
const TTL: u64 = 20;

/// No verdict yet: the gateway takes no more snapshots and defragmentations than one a second.
const LATER: char = '?';

/// One way in.
struct Way {
    name: &'static str,
    port: u16,
    grpc: Option<Client<HttpConnector, Body>>,
}

impl Way {
    /// What the first answer says about the caller's rights.
    async fn verdict(&self, row: &Row, token: Option<&str>, expected: char) -> Option<char> {
        let patience = row.patience(expected);
        let asked = async {
            match &self.grpc {
                Some(client) => Some(self.over_grpc(client, row, token, patience).await),
                None => Some(self.as_json(row.route()?.path, row, token, patience).await),
            }
        };
        tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| panic!("{}: {row:?} is not answered", self.name))
    }

    async fn over_grpc(
        &self,
        client: &Client<HttpConnector, Body>,
        row: &Row,
        token: Option<&str>,
        patience: Option<&str>,
    ) -> char {
        // Of a stream the request goes on, as a client's does.
        let message = futures::stream::iter([Ok::<_, tonic::Status>(Frame::data(row.message()))]);
        let body = match row.path.as_str() {
            "/etcdserverpb.Watch/Watch" => Body::new(StreamBody::new(message.chain(futures::stream::pending()))),
            _ => Body::new(StreamBody::new(message)),
        };
        let mut request = Request::post(format!("http://127.0.0.1:{}{}", self.port, row.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("token", token);
        }
        if let Some(patience) = patience {
            request = request.header("grpc-timeout", patience);
        }
        let response = client.request(request.body(body).expect("a request")).await.expect("an answer");
        let (_, mut replies) = grpc::Replies::new(response.map(Body::new));
        match replies.next().await {
            Ok(message) if row.path == "/etcdserverpb.Watch/Watch" => {
                let answer = WatchResponse::decode(message).expect("a watch response");
                if answer.canceled { told(&answer.cancel_reason) } else { '+' }
            }
            Ok(_) => '+',
            Err(status) if status.code() == Code::Ok => 'c',
            Err(status) => told(status.message()),
        }
    }

    async fn as_json(&self, path: &str, row: &Row, token: Option<&str>, patience: Option<&str>) -> char {
        let token = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
        let patience = patience.map(|patience| format!("Grpc-Timeout: {patience}\r\n")).unwrap_or_default();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n{token}{patience}\r\n{}",
            row.json.len(),
            row.json
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let (mut answer, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let len = stream.read(&mut buffer).await.unwrap_or(0);
            answer.extend_from_slice(&buffer[..len]);
            let text = String::from_utf8_lossy(&answer);
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
            // A stream's first message is all that is needed of it; a unary answer ends.
            if let Some(body) = body.filter(|body| len == 0 || body.contains(r#""result":"#)) {
                let is_empty = !body.contains('{');
                let is_ok = text.starts_with(&format!("HTTP/1.1 {}", StatusCode::OK.as_u16()));
                return if is_ok && is_empty { 'c' } else { told(body) };
            }
            assert!(len > 0, "{}: {row:?} is answered by half a head: {text}", self.name);
        }
    }
}

/// What a text says about the caller's rights.
fn told(text: &str) -> char {
    let verdicts = [
        (Error::UserEmpty, 'e'),
        (Error::InvalidAuthToken, 't'),
        (Error::PermissionDenied, 'd'),
        (Error::TooManyRequests, LATER),
    ];
    verdicts.into_iter().find(|(error, _)| text.contains(error.message())).map_or('+', |(_, verdict)| verdict)
}

/// A member on which the table is set up, and a gateway in front of it.
async fn start(dir: &Path) -> [Role; 2] {
    let more = [&format!("--auth-token-ttl={TTL}"), "--bcrypt-cost=4"];
    let server = Role::member(dir, &dir.join("data"), "http", &more);
    for row in &TABLE.setup {
        let path = row.route().expect("what is set up is JSON").path;
        let answer = server.ask_in_clear(path, row.json).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{row:?}: {answer}");
    }
    let answer = server.ask_in_clear("/v3/auth/enable", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let password = dir.join("password");
    std::fs::write(&password, "root").unwrap();
    let args = [
        format!("--endpoints=127.0.0.1:{}", server.port),
        "--upstream-user=root".to_owned(),
        format!("--upstream-password-file={}", password.display()),
    ];
    let mut gateway = Role::spawn(dir, "gateway", "gateway", "http", &args);
    gateway.ready();
    let deadline = Instant::now() + LIMIT;
    while !gateway.ask_in_clear("/metrics", "").await.contains("\nforebay_mirror_serving 1") {
        assert!(Instant::now() < deadline, "the mirror does not serve:\n{}", gateway.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    [server, gateway]
}

async fn log_in(role: &Role, name: &str) -> String {
    let answer =
        role.ask_in_clear("/v3/auth/authenticate", &format!(r#"{{"name":"{name}","password":"{name}"}}"#)).await;
    let token = answer.split_once(r#""token":""#).and_then(|(_, rest)| rest.split_once('"'));
    token.unwrap_or_else(|| panic!("{name} is not let in: {answer}")).0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_lets_in_whom_it_should_whichever_way_they_come() {
    table::check();
    let dir = tempfile::tempdir().unwrap();
    let [server, gateway] = start(dir.path()).await;
    let mut tokens = vec![None, Some(BAD_TOKEN.to_owned())];
    for name in CALLERS.iter().skip(tokens.len()) {
        tokens.push(Some(log_in(&server, name.split(',').next().expect("a name")).await));
    }
    let unused_since = Instant::now();
    let root = tokens.last().cloned().flatten().expect("root is the last");
    let delete = server.ask_with("/v3/auth/user/delete", &[("Authorization", &root)], r#"{"name":"dora"}"#).await;
    assert!(delete.starts_with("HTTP/1.1 200 "), "{delete}");

    let client = || Some(Client::builder(TokioExecutor::new()).http2_only(true).build_http());
    let ways = [
        Way { name: "gRPC", port: server.port, grpc: client() },
        Way { name: "JSON", port: server.port, grpc: None },
        Way { name: "gRPC through the gateway", port: gateway.port, grpc: client() },
        Way { name: "JSON through the gateway", port: gateway.port, grpc: None },
    ];
    let (mut asked, mut wrong) = (0, Vec::new());
    let mut ask = async |way: &Way, row: &Row, place: usize| {
        let Some(expected) = row.expected(place) else { return };
        let deadline = Instant::now() + LIMIT;
        let found = loop {
            match way.verdict(row, tokens[place].as_deref(), expected).await {
                None => return,
                Some(LATER) if Instant::now() < deadline => tokio::time::sleep(Duration::from_secs(1)).await,
                Some(found) => break found,
            }
        };
        asked += 1;
        if found != expected {
            let (name, path, caller) = (way.name, &row.path, CALLERS[place]);
            wrong.push(format!("{name}: {path} {} for {caller}: {found}, and not {expected}", row.json));
        }
    };
    for way in &ways {
        for row in &TABLE.rows {
            for place in (0..CALLERS.len()).filter(|place| *place != EXPIRED) {
                ask(way, row, place).await;
            }
        }
    }
    tokio::time::sleep_until((unused_since + Duration::from_secs(TTL + 1)).into()).await;
    for way in &ways {
        for row in &TABLE.rows {
            ask(way, row, EXPIRED).await;
        }
    }
    println!("{asked} calls were judged");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let log = server.said();
    for line in [
        r#""method":"/etcdserverpb.Auth/UserDelete","user":"root","shown":"token""#,
        r#""method":"/etcdserverpb.Maintenance/Snapshot","user":"eve","shown":"token""#,
    ] {
        assert!(log.contains(line), "the log has no line of {line}");
    }
}
