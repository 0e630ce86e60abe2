//! The auth matrix: each method of the protocol, for each kind of caller. A method that is added to the protocol fails
//! here until it has a row.

mod table;

use forebay_proto::{Error, etcdserverpb::*};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use tonic::{Code, Status};

use self::table::{BAD_TOKEN, CALLERS, EXPIRED, Row, TABLE};
use crate::{
    auth::{log_in, people},
    support::{Node, metadata},
};

/// Sets up what the table says and logs everybody in. dora is deleted; that time goes by is tested where it does.
async fn callers(node: &Node) -> Vec<HeaderMap> {
    for row in &TABLE.setup {
        node.send_bytes(&row.path, HeaderMap::new(), row.message())
            .await
            .unwrap_or_else(|error| panic!("{row:?}: {error}"));
    }
    node.auth_enable(AuthEnableRequest {}).await.unwrap();
    let mut callers = vec![HeaderMap::new(), metadata("token", BAD_TOKEN.as_bytes())];
    for name in CALLERS.iter().skip(callers.len()) {
        callers.push(log_in(node, name.split(',').next().expect("a name")).await);
    }
    let root = callers.last().expect("root is the last").clone();
    let delete = AuthUserDeleteRequest { name: "dora".to_owned() };
    node.call_with::<AuthUserDeleteResponse>("/etcdserverpb.Auth/UserDelete", root, &delete).await.unwrap();
    callers
}

/// What the first answer says about the caller's rights.
async fn verdict(node: &Node, row: &Row, who: &HeaderMap, expected: char) -> char {
    let mut metadata = who.clone();
    if let Some(patience) = row.patience(expected) {
        metadata.insert("grpc-timeout", HeaderValue::from_static(patience));
    }
    let mut call = node.open_with(&row.path, metadata).await;
    call.send_bytes(row.message());
    let answer = call.next_bytes().await;
    if answer.as_ref().is_err_and(|status| status.code() == Code::Ok) {
        return 'c';
    }
    let refused = match &*row.path {
        // Refused in a message, in etcd's printed form.
        "/etcdserverpb.Watch/Watch" => {
            let message = WatchResponse::decode(answer.expect("a message")).expect("a watch response");
            let of = |error: &Error| message.cancel_reason.ends_with(error.message());
            Error::ALL.iter().copied().find(of).filter(|_| message.canceled)
        }
        _ => answer.err().and_then(|status| known(&status)),
    };
    match refused {
        Some(Error::UserEmpty) => 'e',
        Some(Error::InvalidAuthToken) => 't',
        Some(Error::PermissionDenied) => 'd',
        _ => '+',
    }
}

fn known(status: &Status) -> Option<Error> {
    Error::ALL.iter().copied().find(|error| error.message() == status.message())
}

#[tokio::test]
async fn each_method_lets_in_whom_it_should_and_nobody_else() {
    table::check();
    let node = Node::start().await;
    let callers = callers(&node).await;
    let mut wrong = Vec::new();
    for row in &TABLE.rows {
        for (place, who) in callers.iter().enumerate().filter(|(place, _)| *place != EXPIRED) {
            let Some(expected) = row.expected(place) else { continue };
            let found = verdict(&node, row, who, expected).await;
            if found != expected {
                wrong.push(format!("{} {} for {}: {found}, and not {expected}", row.path, row.json, CALLERS[place]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn whoever_called_before_auth_came_on_is_judged_when_the_message_is_there() {
    let node = Node::start().await;
    let mut calls = Vec::new();
    for row in &TABLE.rows {
        let is_table = ["KV/Compact", "Lease/", "Cluster/", "Maintenance/"].iter().any(|of| row.path.contains(of));
        if is_table && row.path != "/etcdserverpb.Lease/LeaseKeepAlive" {
            calls.push((row, node.open(&row.path).await));
        }
    }
    assert!(calls.len() > 15, "{}", calls.len());
    people(&node).await;
    for (row, mut call) in calls {
        call.send_bytes(row.message());
        let status = call.next_bytes().await.expect_err(&row.path);
        assert_eq!(known(&status), Some(Error::UserEmpty), "{}: {status}", row.path);
    }
}

#[tokio::test]
async fn no_alarm_opens_what_auth_has_closed() {
    let node = Node::start().await;
    people(&node).await;
    let (root, eve) = (log_in(&node, "root").await, log_in(&node, "eve").await);
    let row = |path| TABLE.rows.iter().find(|row| row.path == path).expect("every method has a row");
    for alarm in [AlarmType::Nospace, AlarmType::Corrupt] {
        let raise = AlarmRequest { action: 1, member_id: node.member.id(), alarm: alarm as i32 };
        node.call_with::<AlarmResponse>("/etcdserverpb.Maintenance/Alarm", root.clone(), &raise).await.unwrap();
        for path in [
            "/etcdserverpb.KV/DeleteRange",
            "/etcdserverpb.KV/Txn",
            "/etcdserverpb.KV/Range",
            "/etcdserverpb.Auth/AuthDisable",
        ] {
            let answer = node.send_bytes(path, eve.clone(), row(path).message()).await.expect_err(path);
            let expected = [Error::PermissionDenied, Error::Corrupt, Error::NoSpace];
            assert!(known(&answer).is_some_and(|error| expected.contains(&error)), "{path}: {answer}");
        }
    }
}
