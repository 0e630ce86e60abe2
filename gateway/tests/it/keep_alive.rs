//! Keep-alive streams over a path that breaks.

use std::time::Duration;

use bytes::Bytes;
use forebay_proto::etcdserverpb::LeaseKeepAliveResponse;
use prost::Message as _;
use tokio::time::{Instant, sleep};

use crate::{
    client::{Reader, Writer, with_body},
    fake::{Act, Setup},
};

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// The upstream echoes, so a response is sent as a request.
fn renewal(id: i64, ttl: i64) -> Bytes {
    LeaseKeepAliveResponse { id, ttl, ..Default::default() }.encode_to_vec().into()
}

async fn open(setup: &Setup) -> (Writer, Reader) {
    let (writer, body) = Writer::new();
    let response = setup.gateway.api().call(with_body(KEEP_ALIVE, body)).await;
    (writer, Reader::new(response.into_body()))
}

#[tokio::test(start_paused = true)]
async fn a_clients_stream_outlives_the_upstreams() {
    let setup = Setup::new(2).await;
    for fake in &setup.fakes {
        fake.then(Act::EchoThenDrop(1)).then(Act::EchoThen(1, 13, "internal")).then(Act::Echo);
    }
    let (writer, mut reader) = open(&setup).await;
    for i in 0..8 {
        writer.send(renewal(i, 30)).await;
        let answer = reader.next().await.expect("the stream goes on");
        assert_eq!(LeaseKeepAliveResponse::decode(answer).unwrap().id, i);
        sleep(Duration::from_secs(1)).await;
    }
    drop(writer);
    assert_eq!(reader.next().await, None);
    assert_eq!(reader.status().0, 0);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_renewal_is_sent_again_on_the_new_path() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::EchoThenDrop(0)).then(Act::Echo);
    let (writer, mut reader) = open(&setup).await;
    writer.send(renewal(1, 30)).await;
    writer.send(renewal(2, 30)).await;
    for id in [1, 2] {
        assert_eq!(LeaseKeepAliveResponse::decode(reader.next().await.unwrap()).unwrap().id, id);
    }
    assert_eq!(setup.fakes[0].seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_stays_away_is_told_after_a_third_of_the_ttl() {
    for (ttl, least) in [(30, 10.0), (1, 0.5)] {
        let setup = Setup::new(1).await;
        setup.fakes[0].then(Act::Echo);
        let (writer, mut reader) = open(&setup).await;
        writer.send(renewal(1, ttl)).await;
        reader.next().await.unwrap();
        setup.fakes[0].set_up(false);
        let began = Instant::now();
        writer.send(renewal(1, ttl)).await;
        assert_eq!(reader.next().await, None);
        assert_eq!(reader.status().0, 14);
        let waited = began.elapsed().as_secs_f64();
        assert!((least..least + 4.0).contains(&waited), "a TTL of {ttl} s: {waited} s");
    }
}

#[tokio::test(start_paused = true)]
async fn renewals_stop_with_the_client() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Echo);
    let (writer, mut reader) = open(&setup).await;
    writer.send(renewal(1, 30)).await;
    reader.next().await.unwrap();
    drop(reader);
    setup.fakes[0].next_reset().await;
    writer.closed().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_about_the_renewal_reaches_the_client() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Status(16, "etcdserver: invalid auth token"));
    let (writer, mut reader) = open(&setup).await;
    writer.send(renewal(1, 30)).await;
    assert_eq!(reader.next().await, None);
    assert_eq!(reader.status(), (16, "etcdserver: invalid auth token".into()));
}
