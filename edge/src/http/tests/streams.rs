use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;

use super::*;
use crate::BoxError;

/// A watch whose request body is fed by hand.
fn open_watch() -> (mpsc::Sender<&'static str>, Request) {
    let (pieces, body) = mpsc::channel(4);
    let frames = futures::stream::unfold(body, |mut body: mpsc::Receiver<&'static str>| async move {
        let piece = body.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from(piece))), body))
    });
    (pieces, ::http::Request::post("/v3/watch").body(Body::new(StreamBody::new(frames))).unwrap())
}

async fn line(response: &mut Response) -> Option<String> {
    let frame = response.body_mut().frame().await?.expect("bodies do not fail");
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn each_message_is_a_line_at_once_and_values_are_read_as_they_come() {
    let (front, _) = front();
    let (pieces, request) = open_watch();
    pieces.send(r#"{"create_request":{"start_"#).await.unwrap();
    pieces.send(r#"revision":5}}"#).await.unwrap();
    let mut response = front.client(request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["grpc-metadata-content-type"], "application/grpc");
    let first = line(&mut response).await.unwrap();
    assert_eq!(first, "{\"result\":{\"header\":{\"revision\":\"5\"},\"created\":true}}\n");

    pieces.send(r#" {"progress_request":{}} {"cancel_request":{}}"#).await.unwrap();
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    let expected = "{\"result\":{\"watch_id\":\"-1\"}}\n{\"error\":{\"code\":10,\"message\":\"cancelled\"}}\n";
    assert_eq!(rest, expected, "an error ends the stream as a line of its own");
}

#[tokio::test]
async fn the_end_of_the_requests_and_nonsense_among_them_leave_the_stream_open() {
    for tail in [None, Some("x"), Some(r#"{"create_request":{"filters":"NOPUT"}}"#)] {
        let (front, _) = front();
        let (pieces, request) = open_watch();
        pieces.send(r#"{"create_request":{}}"#).await.unwrap();
        if let Some(tail) = tail {
            pieces.send(tail).await.unwrap();
        }
        drop(pieces);
        let mut response = front.client(request).await;
        assert!(line(&mut response).await.unwrap().contains("created"), "{tail:?}");
        assert!(line(&mut response).now_or_never().is_none(), "{tail:?}");
    }
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_message_has_the_status_of_its_error() {
    let (front, _) = front();
    let answer = ask(&front, post("/v3/maintenance/snapshot", "")).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.body, "{\"error\":{\"code\":7,\"message\":\"etcdserver: permission denied\"}}\n");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let answer = ask(&front, post("/v3/maintenance/snapshot", "[]")).await;
    assert_eq!(answer.status, 400, "a stream of one request is refused like a call");
    assert_eq!(answer.body, r#"{"code":3,"message":"proto: syntax error (line 1:1): unexpected token ["}"#);
    let answer = ask(&front, post("/v3/election/observe", "{}")).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, ""), "a stream may be empty");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_a_stream_before_its_head_or_behind_its_lines() {
    let (front, _) = front();
    let (pieces, request) = open_watch();
    let answer = ask(&front, with_header(request, "grpc-timeout", "3S")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_str()),
        (504, "{\"error\":{\"code\":4,\"message\":\"context deadline exceeded\"}}\n")
    );
    drop(pieces);
    let request = post("/v3/watch", r#"{"create_request":{}}"#);
    let answer = ask(&front, with_header(request, "grpc-timeout", "3S")).await;
    assert_eq!(answer.status, 200);
    let (_, last) = answer.body.trim_end().split_once('\n').unwrap();
    assert_eq!(last, r#"{"error":{"code":4,"message":"context deadline exceeded"}}"#);
}

#[tokio::test]
async fn a_value_without_end_does_not_fill_the_memory() {
    let options = Options { max_message_bytes: 1000, ..Options::default() };
    let (front, _) = front_with(options, State::default());
    let (pieces, request) = open_watch();
    pieces.send(r#"{"create_request":{}}"#).await.unwrap();
    let mut response = front.client(request).await;
    line(&mut response).await.unwrap();
    let flood = async {
        pieces.send("\"").await.unwrap();
        let mut sent = 0;
        while pieces.send("fifty bytes of a string that does not come to an end").await.is_ok() {
            sent += 1;
        }
        sent
    };
    tokio::select! {
        sent = flood => assert!((70..100).contains(&sent), "{sent}"),
        line = line(&mut response) => panic!("{line:?}"),
    }
    assert!(line(&mut response).now_or_never().is_none(), "the watch goes on");
}

#[tokio::test]
async fn a_client_that_breaks_off_ends_the_call() {
    let (front, _) = front();
    let broken = futures::stream::iter([
        Ok(Frame::data(Bytes::from(r#"{"create_request":{}}"#))),
        Err::<_, BoxError>("reset".into()),
    ]);
    let request = ::http::Request::post("/v3/watch").body(Body::new(StreamBody::new(broken))).unwrap();
    let answer = ask(&front, request).await;
    assert!(answer.body.ends_with("{\"error\":{\"code\":1,\"message\":\"context canceled\"}}\n"), "{}", answer.body);
}

#[tokio::test]
async fn lines_take_the_memory_of_their_messages_until_their_last_byte_is_gone() {
    let (front, _) = front();
    let memory = Memory::with_budget(2 << 20);
    let mut request = post("/v3/election/observe", "{}");
    request.extensions_mut().insert(memory.clone());
    let mut response = front.client(request).await;
    let line = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(line.len() > LONG);
    let last = line.slice(line.len() - 1..);
    drop(line);
    assert!(response.body_mut().frame().await.is_none());
    drop(response);
    assert!(memory.taken() >= 3 * LONG);
    drop(last);
    assert_eq!(memory.taken(), 0);
}
