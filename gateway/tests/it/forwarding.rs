//! What passes, and where it goes.

use std::time::Duration;

use forebay_edge::{Api, Request, Response, Service, grpc};
use forebay_gateway::{Config, Gateway, Metrics, Upstream, upstream::Rank};
use forebay_proto::etcdserverpb::{Member, MemberListResponse};
use futures::future::BoxFuture;
use prometheus::Registry;
use prost::Message as _;
use tokio::time::sleep;

use crate::{
    client::{Reader, Writer, call, request, with_body, within},
    fake::{Act, Setup},
};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

#[tokio::test(start_paused = true)]
async fn metadata_and_bytes_pass_both_ways() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Answer("answer"));
    let mut sent = within(request(RANGE, "question"), Duration::from_secs(5));
    for (name, value) in [("token", "t"), ("trace-bin", "AAEC"), ("client-api-version", "3.5.1"), ("hasleader", "true")]
    {
        sent.headers_mut().insert(name, value.parse().unwrap());
    }
    sent.headers_mut().insert("connection", "x-hop".parse().unwrap());
    sent.headers_mut().insert("x-hop", "1".parse().unwrap());
    let answer = call(&setup.gateway.api(), sent).await;
    assert_eq!(answer.status(), (0, String::new()));
    assert_eq!(answer.messages, ["answer"]);
    assert_eq!(answer.headers["x-header"], "kept");
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert_eq!(answer.trailers["x-trailer"], "kept");

    let seen = setup.fakes[0].seen().remove(0);
    assert_eq!(seen.path, RANGE);
    assert_eq!(seen.authority, "a:2379");
    assert_eq!(seen.body, "\0\0\0\0\x08question");
    assert_eq!(seen.headers["token"], "t");
    assert_eq!(seen.headers["trace-bin"], "AAEC");
    assert_eq!(seen.headers["client-api-version"], "3.5.1");
    assert_eq!(seen.headers["hasleader"], "true");
    assert_eq!(seen.headers["user-agent"], "grpc-go/1.79.3");
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers["grpc-timeout"], "5000000u");
    assert!(!seen.headers.contains_key("x-hop"));
}

#[tokio::test(start_paused = true)]
async fn the_upstream_gets_the_time_that_is_left() {
    let setup = Setup::new(1).await;
    setup.fakes[0].set_up(false);
    sleep(Duration::from_millis(10)).await;
    let held = tokio::spawn({
        let api = setup.gateway.api();
        async move { call(&api, within(request(PUT, "p"), Duration::from_secs(4))).await }
    });
    sleep(Duration::from_millis(500)).await;
    setup.fakes[0].set_up(true);
    assert_eq!(held.await.unwrap().status().0, 0);
    let timeout = setup.fakes[0].seen()[0].headers["grpc-timeout"].to_str().unwrap().to_owned();
    let left: u64 = timeout.strip_suffix('u').expect("microseconds").parse().unwrap();
    assert!((3_000_000..=3_500_000).contains(&left), "{timeout}");
}

#[tokio::test(start_paused = true)]
async fn services_and_methods_that_nobody_knows_pass() {
    let setup = Setup::new(1).await;
    for path in ["/etcdserverpb.KV/FromTheFuture", "/some.other.Service/Do"] {
        setup.fakes[0].then(Act::Status(12, "unknown method"));
        assert_eq!(call(&setup.gateway.api(), request(path, "x")).await.status(), (12, "unknown method".into()));
    }
    let paths: Vec<_> = setup.fakes[0].seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/etcdserverpb.KV/FromTheFuture", "/some.other.Service/Do"]);
    setup.fakes[0].then(Act::Echo);
    let (writer, body) = Writer::new();
    let mut reader = Reader::new(setup.gateway.api().call(with_body("/x.Y/Stream", body)).await.into_body());
    for message in ["a", "b"] {
        writer.send(message).await;
        assert_eq!(reader.next().await.unwrap(), message);
    }
    drop(writer);
    assert_eq!(reader.next().await, None);
    assert_eq!(reader.status().0, 0);
    assert_eq!(setup.metric("forebay_gateway_requests_total", &[("method", "other")]), 3.0, "one label for all");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_can_be_read_in_two_ways_is_not_forwarded() {
    let setup = Setup::new(1).await;
    for path in ["//etcdserverpb.KV/Range", "/etcdserverpb.KV/Range/", "/etcdserverpb.KV/Range?a=b", "/x"] {
        assert_eq!(call(&setup.gateway.api(), request(path, "x")).await.status().0, 12, "{path}");
    }
    assert!(setup.fakes[0].seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn calls_go_round_the_healthy_endpoints() {
    let setup = Setup::new(3).await;
    setup.fakes[1].set_status(|status| status.is_learner = true);
    setup.fakes[2].set_status(|status| status.leader = 0);
    sleep(Duration::from_secs(11)).await;
    let ranks: Vec<_> = setup.pool.health().into_iter().map(|(_, health)| health.unwrap().rank).collect();
    assert_eq!(ranks, [Rank::Good, Rank::Doubtful, Rank::Leaderless]);
    for _ in 0..6 {
        assert_eq!(call(&setup.gateway.api(), request(RANGE, "r")).await.status().0, 0);
    }
    assert_eq!(setup.fakes[0].seen().len(), 6);
    setup.fakes[1].set_status(|status| status.is_learner = false);
    setup.fakes[2].set_status(|status| status.leader = 1);
    sleep(Duration::from_secs(6)).await;
    for _ in 0..6 {
        assert_eq!(call(&setup.gateway.api(), request(RANGE, "r")).await.status().0, 0);
    }
    assert_eq!(setup.fakes.iter().map(|fake| fake.seen().len()).collect::<Vec<_>>(), [8, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn b43_one_member_answers_for_itself_until_it_is_gone() {
    let setup = Setup::new(2).await;
    let ask = async || {
        for path in ["/etcdserverpb.Maintenance/HashKV", "/etcdserverpb.Maintenance/Status"] {
            assert_eq!(call(&setup.gateway.api(), request(path, "")).await.status().0, 0);
        }
    };
    ask().await;
    ask().await;
    assert_eq!(setup.fakes[0].seen().len(), 4);
    setup.fakes[0].set_up(false);
    sleep(Duration::from_millis(10)).await;
    ask().await;
    assert_eq!(setup.fakes[1].seen().len(), 2);
    setup.fakes[0].set_up(true);
    setup.all_connected().await;
    ask().await;
    assert_eq!(setup.fakes[1].seen().len(), 4, "what clients compare keeps coming from one member");
}

#[tokio::test(start_paused = true)]
async fn b43_the_member_list_names_the_gateway() {
    let config = Config { advertise_client_urls: vec!["http://gateway:2379".into()], ..Config::default() };
    let member = Member { id: 7, name: "m".into(), client_ur_ls: vec!["http://m:2379".into()], ..Member::default() };
    let list = MemberListResponse { members: vec![member], ..MemberListResponse::default() };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let gateway = Gateway::new(&config, Upstream::Local(Api::new(Fixed(list))), metrics);
    let answer = call(&gateway.api(), request("/etcdserverpb.Cluster/MemberList", "")).await;
    assert_eq!(answer.status().0, 0);
    let list = MemberListResponse::decode(answer.messages[0].clone()).unwrap();
    assert_eq!(list.members[0].client_ur_ls, ["http://gateway:2379"]);
    assert_eq!((list.members[0].id, list.members[0].name.as_str()), (7, "m"));
}

/// A member in the process.
struct Fixed(MemberListResponse);

impl Service for Fixed {
    fn call(&self, _: Request) -> BoxFuture<'static, Response> {
        Box::pin(std::future::ready(grpc::reply_message(&self.0)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_list_that_fails_keeps_its_error() {
    let config = Config { advertise_client_urls: vec!["http://gateway:2379".into()], ..Config::default() };
    let setup = Setup::with(1, config).await;
    setup.fakes[0].then(Act::Status(7, "etcdserver: permission denied"));
    let answer = call(&setup.gateway.api(), request("/etcdserverpb.Cluster/MemberList", "")).await;
    assert_eq!(answer.status(), (7, "etcdserver: permission denied".into()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_its_own_upload_only() {
    let setup = Setup::new(1).await;
    setup.fakes[0].then(Act::Echo);
    let (writer, body) = Writer::new();
    let response = setup.gateway.api().call(with_body("/x.Y/Stream", body)).await;
    // Nobody reads the response, so at some point the gateway stops reading the request.
    let mut sent = 0_u32;
    while tokio::time::timeout(Duration::from_secs(1), writer.send(vec![1; 16_000])).await.is_ok() {
        sent += 1;
        assert!(sent < 1000, "no backpressure after 16 MB");
    }
    assert_eq!(call(&setup.gateway.api(), request(RANGE, "r")).await.status().0, 0, "others go on");
    let mut reader = Reader::new(response.into_body());
    for _ in 0..sent {
        assert_eq!(reader.next().await.unwrap().len(), 16_000);
    }
}
