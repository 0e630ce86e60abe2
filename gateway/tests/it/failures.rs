//! What clients hear when the upstream fails, and what the upstream must never get twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay_gateway::{
    Config, Gateway, Metrics, PoolConfig, Upstream,
    upstream::{Address, Pool},
};
use h2::Reason;
use prometheus::Registry;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    client::{Reader, Writer, call, request, with_body, within},
    fake::{Act, GoesAway, Setup},
};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

const UNAVAILABLE: i32 = 14;
const TIMED_OUT: &str = "etcdserver: request timed out";
const CONNECTION_LOST: &str = "etcdserver: request timed out, possibly due to connection lost";
const NEVER_LEFT: &str = "there is no connection available";

#[tokio::test(start_paused = true)]
async fn b41_a_mutation_whose_stream_breaks_is_never_sent_again() {
    let breaks = [
        Act::Reset(Reason::INTERNAL_ERROR),
        Act::Reset(Reason::CANCEL),
        Act::ResetAfter("half", Reason::INTERNAL_ERROR),
        Act::Drop,
        Act::NoTrailers("no end"),
    ];
    for act in breaks {
        let setup = Setup::new(3).await;
        setup.fakes.iter().for_each(|fake| _ = fake.then(act.clone()));
        let answer = call(&setup.gateway.api(), request(PUT, "p")).await;
        assert_eq!(answer.status(), (UNAVAILABLE, CONNECTION_LOST.into()), "{act:?}");
        let seen: usize = setup.fakes.iter().map(|fake| fake.seen().len()).sum();
        assert_eq!(seen, 1, "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mutation_that_was_refused_unprocessed_goes_elsewhere() {
    let setup = Setup::new(2).await;
    setup.fakes.iter().for_each(|fake| _ = fake.then(Act::Reset(Reason::REFUSED_STREAM)));
    let answer = call(&setup.gateway.api(), request(PUT, "p")).await;
    assert_eq!(answer.status().0, 0);
    assert_eq!(setup.metric("forebay_gateway_upstream_retries_total", &[("reason", "refused")]), 2.0);
    for fake in &setup.fakes {
        assert!(fake.seen().iter().all(|seen| seen.body == "\0\0\0\0\x01p"), "the message goes along");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mutation_above_the_last_stream_of_a_goaway_surely_never_left() {
    let calls = Arc::new(AtomicUsize::new(0));
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let config = Config::default();
    let pool_config = PoolConfig { connections: 1, ..PoolConfig::default() };
    let connector = Arc::new(GoesAway(Arc::clone(&calls)));
    let addresses = Address::list("a").unwrap();
    let pool = Pool::connect(&config, pool_config, addresses, connector, metrics.clone());
    pool.ready().await;
    let gateway = Gateway::new(&config, Upstream::Remote(pool), metrics);
    let answer = call(&gateway.api(), request(PUT, "p")).await;
    assert_eq!(answer.status(), (UNAVAILABLE, NEVER_LEFT.into()));
    assert!(calls.load(Ordering::SeqCst) > 1, "it was offered again and again while it was held");
}

#[tokio::test(start_paused = true)]
async fn b41_a_mutation_never_ends_in_a_code_on_which_clients_repeat_it() {
    let setup = Setup::new(1).await;
    for act in [
        Act::Status(4, "context deadline exceeded"),
        Act::Status(1, "context canceled"),
        Act::Trailers("m", 4, "context deadline exceeded"),
        Act::Trailers("m", 1, "Timeout expired"),
    ] {
        setup.fakes[0].then(act.clone());
        let answer = call(&setup.gateway.api(), request(PUT, "p")).await;
        assert_eq!(answer.status(), (UNAVAILABLE, TIMED_OUT.into()), "{act:?}");
    }
    for act in [Act::Stall, Act::StallAfterHead] {
        setup.fakes[0].then(act.clone());
        let began = Instant::now();
        let answer = call(&setup.gateway.api(), within(request(PUT, "p"), Duration::from_secs(5))).await;
        assert_eq!(answer.status(), (UNAVAILABLE, TIMED_OUT.into()), "{act:?}");
        assert_eq!(began.elapsed().as_secs(), 5, "{act:?}");
        assert_eq!(setup.fakes[0].next_reset().await, Reason::CANCEL, "the upstream need not go on: {act:?}");
    }
    assert_eq!(setup.fakes[0].seen().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_runs_out_of_time_says_so() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Stall);
    let answer = call(&setup.gateway.api(), within(request(RANGE, "r"), Duration::from_millis(300))).await;
    assert_eq!(answer.status(), (4, "etcdserver: context deadline exceeded".into()));
}

#[tokio::test(start_paused = true)]
async fn a_read_whose_response_has_not_begun_is_retried_within_the_budget() {
    let setup = Setup::new(2).await;
    for fake in &setup.fakes {
        (0..100).for_each(|_| _ = fake.then(Act::Reset(Reason::INTERNAL_ERROR)).then(Act::Answer("read")));
    }
    let mut retried = 0;
    for _ in 0..100 {
        let before: usize = setup.fakes.iter().map(|fake| fake.seen().len()).sum();
        call(&setup.gateway.api(), request(RANGE, "r")).await;
        let after: usize = setup.fakes.iter().map(|fake| fake.seen().len()).sum();
        retried += after - before - 1;
    }
    // Ten saved from the start and one for each ten calls.
    assert!((10..=20).contains(&retried), "{retried}");
}

#[tokio::test(start_paused = true)]
async fn a_read_whose_response_has_begun_is_not_retried() {
    let setup = Setup::new(2).await;
    setup.fakes.iter().for_each(|fake| _ = fake.then(Act::ResetAfter("half", Reason::INTERNAL_ERROR)));
    let answer = call(&setup.gateway.api(), request(RANGE, "r")).await;
    assert_eq!(answer.status(), (UNAVAILABLE, CONNECTION_LOST.into()));
    assert_eq!(answer.messages, ["half"]);
    let seen: usize = setup.fakes.iter().map(|fake| fake.seen().len()).sum();
    assert_eq!(seen, 1);
}

#[tokio::test(start_paused = true)]
async fn without_an_endpoint_calls_are_held_before_they_fail() {
    let setup = Setup::new(2).await;
    setup.fakes.iter().for_each(|fake| fake.set_up(false));
    sleep(Duration::from_millis(10)).await;
    for (path, text) in [(RANGE, CONNECTION_LOST), (PUT, NEVER_LEFT)] {
        let began = Instant::now();
        let answer = call(&setup.gateway.api(), request(path, "x")).await;
        assert_eq!(answer.status(), (UNAVAILABLE, text.into()));
        assert_eq!(began.elapsed().as_secs(), 2, "{path}");
        let began = Instant::now();
        let answer = call(&setup.gateway.api(), within(request(path, "x"), Duration::from_secs(2))).await;
        assert_eq!(answer.status(), (UNAVAILABLE, text.into()));
        assert_eq!(began.elapsed().as_millis() / 100, 5, "a quarter of the deadline: {path}");
    }
    let held = tokio::spawn({
        let api = setup.gateway.api();
        async move { call(&api, request(PUT, "x")).await }
    });
    sleep(Duration::from_millis(100)).await;
    setup.fakes[1].set_up(true);
    assert_eq!(held.await.unwrap().status().0, 0, "a held call goes on when an endpoint returns");
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_ends_so_that_clients_resume_it_and_not_at_once() {
    for act in [
        Act::EchoThenDrop(1),
        Act::EchoThen(1, 13, "internal"),
        Act::EchoThen(1, 1, "canceled"),
        Act::EchoThen(1, 8, "exhausted"),
        Act::EchoThen(1, 2, "etcdserver: too many requests"),
        Act::ResetAfter("w", Reason::CANCEL),
    ] {
        let setup = Setup::new(1).await;
        setup.fakes[0].then(act.clone());
        let (writer, body) = Writer::new();
        writer.send("w").await;
        let mut reader = Reader::new(setup.gateway.api().call(with_body(WATCH, body)).await.into_body());
        assert_eq!(reader.next().await.unwrap(), "w");
        let began = Instant::now();
        assert_eq!(reader.next().await, None);
        assert_eq!(reader.status().0, UNAVAILABLE, "{act:?}");
        assert!(began.elapsed() >= Duration::from_millis(100), "{act:?}: {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_millis(200), "{act:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_resets_the_upstreams_stream_at_once() {
    let setup = Setup::new(1).await;
    // Before the response head.
    setup.fakes[0].then(Act::Stall);
    let waiting = setup.gateway.api().call(request(PUT, "p"));
    assert!(timeout(Duration::from_millis(50), waiting).await.is_err());
    assert_eq!(setup.fakes[0].next_reset().await, Reason::CANCEL);
    // After it, by dropping the response.
    setup.fakes[0].then(Act::Echo);
    let (writer, body) = Writer::new();
    writer.send("w").await;
    let mut reader = Reader::new(setup.gateway.api().call(with_body(WATCH, body)).await.into_body());
    assert_eq!(reader.next().await.unwrap(), "w");
    drop(reader);
    assert_eq!(setup.fakes[0].next_reset().await, Reason::CANCEL);
    writer.closed().await;
    // After it, by a reset of the request.
    setup.fakes[0].then(Act::Echo);
    let (writer, body) = Writer::new();
    writer.send("w").await;
    let mut reader = Reader::new(setup.gateway.api().call(with_body(WATCH, body)).await.into_body());
    assert_eq!(reader.next().await.unwrap(), "w");
    writer.reset().await;
    assert_eq!(reader.next().await, None);
    assert_eq!(setup.fakes[0].next_reset().await, Reason::CANCEL);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(setup.metric("forebay_gateway_requests_in_flight", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn b44_an_oversized_message_is_refused_before_it_is_forwarded() {
    let config = Config { max_message_bytes: 100, ..Config::default() };
    let setup = Setup::with(1, config).await;
    let fits = call(&setup.gateway.api(), request(PUT, vec![7; 100])).await;
    assert_eq!(fits.status().0, 0);
    let answer = call(&setup.gateway.api(), request(PUT, vec![7; 101])).await;
    assert_eq!(answer.status(), (8, "grpc: received message larger than max (101 vs. 100)".into()));
    assert_eq!(setup.fakes[0].seen().len(), 1);
    setup.fakes[0].then(Act::Echo);
    let (writer, body) = Writer::new();
    writer.send("w").await;
    let mut reader = Reader::new(setup.gateway.api().call(with_body(WATCH, body)).await.into_body());
    assert_eq!(reader.next().await.unwrap(), "w");
    writer.send(vec![7; 101]).await;
    assert_eq!(reader.next().await, None);
    assert_eq!(reader.status(), (8, "grpc: received message larger than max (101 vs. 100)".into()));
}

#[tokio::test(start_paused = true)]
async fn an_http_error_from_something_in_between_gets_grpc_gos_code() {
    let setup = Setup::new(1).await;
    for (http, code) in [(404, 12), (403, 7), (503, 14), (418, 2)] {
        setup.fakes[0].then(Act::Http(http));
        assert_eq!(call(&setup.gateway.api(), request(RANGE, "r")).await.status().0, code, "{http}");
    }
}

#[tokio::test(start_paused = true)]
async fn etcds_overload_is_told_with_the_code_of_its_own_table() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Status(2, "etcdserver: too many requests"));
    let answer = call(&setup.gateway.api(), request(PUT, "p")).await;
    assert_eq!(answer.status(), (8, "etcdserver: too many requests".into()));
    assert_eq!(setup.metric("forebay_gateway_remaps_total", &[("reason", "overloaded")]), 1.0);
}
