//! Connections over time, loops, and shutting down.

use std::time::Duration;

use forebay_gateway::{Config, GatewayId, upstream::Rank};
use forebay_proto::etcdserverpb::ResponseHeader;
use tokio::time::{Instant, sleep};

use crate::{
    client::{Reader, Writer, call, request, with_body},
    fake::{Act, Fake, Setup},
};

const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

#[tokio::test(start_paused = true)]
async fn a_lost_endpoint_is_found_again() {
    let setup = Setup::new(1).await;
    for _ in 0..3 {
        setup.fakes[0].set_up(false);
        sleep(Duration::from_secs(10)).await;
        assert!(setup.pool.health()[0].1.is_none());
        assert_eq!(setup.metric("forebay_gateway_upstream_connections", &[]), 0.0);
        setup.fakes[0].set_up(true);
        let began = Instant::now();
        setup.all_connected().await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(setup.metric("forebay_gateway_upstream_connections", &[]), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_accepts_and_says_nothing_gets_no_calls() {
    let fakes = vec![Fake::new(1), Fake::new(2)];
    fakes[0].set_mute(true);
    let setup = Setup::start(fakes, Config::default());
    setup.pool.ready().await;
    for _ in 0..4 {
        assert_eq!(call(&setup.gateway.api(), request(PUT, "p")).await.status().0, 0);
    }
    assert_eq!(setup.fakes[1].seen().len(), 4);
    setup.fakes[0].set_mute(false);
    sleep(Duration::from_secs(10)).await;
    assert!(setup.pool.health()[0].1.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays_open() {
    let setup = Setup::new(1).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(setup.fakes[0].connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_on_a_dead_connection_hears_of_it_and_the_endpoint_is_reached_anew() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Echo);
    let (writer, body) = Writer::new();
    writer.send("w").await;
    let mut watch = Reader::new(setup.gateway.api().call(with_body(WATCH, body)).await.into_body());
    assert_eq!(watch.next().await.unwrap(), "w");
    setup.fakes[0].freeze();
    let began = Instant::now();
    assert_eq!(watch.next().await, None);
    assert_eq!(watch.status().0, 14);
    // One interval of keep-alive, one timeout, a probe in between, and the rescue's pause.
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    assert_eq!(call(&setup.gateway.api(), request(PUT, "p")).await.status().0, 0);
    assert_eq!(setup.fakes[0].connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn g12_an_upstream_that_leads_back_here_is_never_used() {
    let config = Config::default();
    let looped = GatewayId(config.id.0);
    let setup = Setup::with(1, Config { id: looped, ..config }).await;
    let mut round = request(PUT, "p");
    round.headers_mut().insert("forebay-via", looped.to_string().parse().unwrap());
    let answer = call(&setup.gateway.api(), round).await;
    assert_eq!(answer.status(), (9, "forebay: the upstream leads back to this gateway".into()));
    assert!(setup.fakes[0].seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_of_another_cluster_gets_no_call_unless_most_are_of_it() {
    let setup = Setup::new(3).await;
    let belongs = |fake: usize, cluster_id: u64| {
        let header = Some(ResponseHeader { cluster_id, ..Default::default() });
        setup.fakes[fake].set_status(|status| status.header = header);
    };
    let calls = async || {
        // A probe of each comes first.
        sleep(Duration::from_secs(6)).await;
        let before: Vec<usize> = setup.fakes.iter().map(|fake| fake.seen().len()).collect();
        for _ in 0..6 {
            assert_eq!(call(&setup.gateway.api(), request(PUT, "p")).await.status().0, 0);
        }
        setup.fakes.iter().zip(before).map(|(fake, before)| fake.seen().len() - before).collect::<Vec<_>>()
    };
    (0..3).zip([7, 7, 8]).for_each(|(fake, cluster)| belongs(fake, cluster));
    assert!(matches!(calls().await[..], [1..=5, 1..=5, 0]));
    assert_eq!(setup.pool.health()[2].1.as_ref().unwrap().rank, Rank::Foreign);

    // What was there when they could be reached still counts.
    setup.fakes[0].set_up(false);
    setup.fakes[1].set_up(false);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(call(&setup.gateway.api(), request(PUT, "p")).await.status().0, 14);

    // A cluster that is restored has another id.
    (0..2).for_each(|fake| belongs(fake, 8));
    setup.fakes[0].set_up(true);
    setup.fakes[1].set_up(true);
    assert!(matches!(calls().await[..], [1..=4, 1..=4, 1..=4]));
}

#[tokio::test]
async fn g12_a_gateway_that_is_its_own_endpoint_notices() {
    use std::sync::Arc;

    use forebay_edge::listener::{Drain, Limits, serve};
    use forebay_gateway::{
        Gateway, Metrics, PoolConfig, Upstream,
        upstream::{Address, Pool, TcpConnector},
    };

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = Address::list(&listener.local_addr().unwrap().to_string()).unwrap();
    let config = Config::default();
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let pool = Pool::connect(&config, PoolConfig::default(), addresses, Arc::new(TcpConnector), metrics.clone());
    let gateway = Gateway::new(&config, Upstream::Remote(pool.clone()), metrics);
    let api = gateway.api();
    let serving = tokio::spawn(serve(
        listener,
        move |request| api.call(request),
        Limits::default(),
        Drain::default(),
        Duration::ZERO,
    ));
    let noticed = async {
        loop {
            if pool.health()[0].1.as_ref().is_some_and(|health| health.rank == Rank::Ourselves) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), noticed).await.expect("the loop is noticed");
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_calls_ends_streams_and_takes_nothing_new() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Echo);
    let (writer, body) = Writer::new();
    writer.send("w").await;
    let mut watch = Reader::new(setup.gateway.api().call(with_body(WATCH, body)).await.into_body());
    assert_eq!(watch.next().await.unwrap(), "w");
    setup.fakes[0].then(Act::Slow(Duration::from_secs(3), "late"));
    let api = setup.gateway.api();
    let put = tokio::spawn(async move { call(&api, request(PUT, "p")).await });
    let watching = tokio::spawn(async move {
        assert_eq!(watch.next().await, None);
        watch.status()
    });
    sleep(Duration::from_millis(10)).await;

    let began = Instant::now();
    let gateway = setup.gateway.clone();
    let draining = tokio::spawn(async move { gateway.drain(Duration::from_secs(30)).await });
    sleep(Duration::from_millis(10)).await;
    let refused = call(&setup.gateway.api(), request(PUT, "late")).await;
    assert_eq!(refused.status(), (14, "there is no connection available".into()));
    assert_eq!(watching.await.unwrap(), (14, "etcdserver: server stopped".into()));
    assert_eq!(put.await.unwrap().messages, ["late"]);
    assert!(draining.await.unwrap(), "all ended");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn draining_does_not_wait_for_ever() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Stall);
    let api = setup.gateway.api();
    let stuck = tokio::spawn(async move { call(&api, request(PUT, "p")).await });
    sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    assert!(!setup.gateway.drain(Duration::from_secs(5)).await);
    assert_eq!(began.elapsed().as_secs(), 5);
    stuck.abort();
}
