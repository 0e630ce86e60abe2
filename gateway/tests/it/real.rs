//! Real etcd, directly and through the gateway: the same calls, the same answers.
//!
//! Two members run the same program, one called directly, one through a gateway on a socket, so
//! that revisions are equal and answers can be compared whole. What two clusters cannot have in
//! common (ids, terms, sizes) is masked.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_edge::{
    Api,
    listener::{Drain, Limits, serve},
};
use forebay_gateway::{
    Config, Gateway, Metrics, PoolConfig, Upstream,
    upstream::{Address, Pool, TcpConnector},
};
use forebay_proto::etcdserverpb::{self as pb, request_op, watch_request};
use http::HeaderMap;
use prometheus::Registry;
use prost::Message;
use tokio::time::timeout;

use crate::{
    client::{Answer, Reader, Writer, call, request, with_body},
    peers::{Etcd, RELEASES, connect},
};

/// A gateway on a socket in front of a member, and a client of it.
async fn gateway(etcd: &Etcd, config: Config) -> Api {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let addresses = Address::list(&etcd.url).unwrap();
    let pool = Pool::connect(&config, PoolConfig::default(), addresses, Arc::new(TcpConnector), metrics.clone());
    timeout(Duration::from_secs(10), pool.ready()).await.expect("the gateway connects");
    let gateway = Gateway::new(&config, Upstream::Remote(pool), metrics);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let api = gateway.api();
    tokio::spawn(serve(
        listener,
        move |request| api.call(request),
        Limits::default(),
        Drain::default(),
        Duration::ZERO,
    ));
    connect(&url).await.unwrap()
}

/// Runs a program on each release, directly and through a gateway, and compares what it returns.
async fn compare<T, F>(program: impl Fn(Api) -> F)
where
    T: PartialEq + std::fmt::Debug,
    F: Future<Output = Vec<(String, T)>>,
{
    for release in RELEASES {
        let (Some(one), Some(other)) = tokio::join!(Etcd::start(release), Etcd::start(release)) else { continue };
        let direct = program(connect(&one.url).await.unwrap()).await;
        let through = program(gateway(&other, Config::default()).await).await;
        assert_eq!(direct.len(), through.len());
        for ((step, direct), (_, through)) in direct.into_iter().zip(through) {
            assert_eq!(direct, through, "etcd {release}, {step}: directly and through the gateway");
        }
    }
}

/// An answer with everything that must be equal.
#[derive(Debug, PartialEq)]
struct Told {
    status: (i32, String),
    headers: HeaderMap,
    messages: Vec<Bytes>,
    trailers: HeaderMap,
}

fn told(mut answer: Answer) -> Told {
    let status = answer.status();
    for headers in [&mut answer.headers, &mut answer.trailers] {
        // Compared decoded, in `status`: grpc-go leaves spaces as they are, we may not. An absent
        // text and an empty one are the same.
        headers.remove("grpc-message");
        // The listener's, not gRPC's.
        headers.remove("date");
    }
    let messages = answer.messages.into_iter().map(masked).collect();
    Told { status, headers: answer.headers, messages, trailers: answer.trailers }
}

/// A response whose header keeps its revision only.
fn masked(message: Bytes) -> Bytes {
    #[derive(Clone, PartialEq, Message)]
    struct Headed {
        #[prost(message, tag = "1")]
        header: Option<pb::ResponseHeader>,
    }
    let Ok(headed) = Headed::decode(message.clone()) else { return message };
    let Some(header) = headed.header else { return message };
    let len = Headed { header: Some(header) }.encoded_len();
    let revision = pb::ResponseHeader { revision: header.revision, ..Default::default() };
    let mut masked = Headed { header: Some(revision) }.encode_to_vec();
    masked.extend_from_slice(&message[len..]);
    masked.into()
}

fn put(key: &str, value: &str, lease: i64) -> Vec<u8> {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    pb::PutRequest { key, value, lease, prev_kv: true, ..Default::default() }.encode_to_vec()
}

fn range(key: &str, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), revision, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unary_calls_and_their_errors() {
    compare(async |api: Api| {
        let txn = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(request_op::Request::RequestRange(range("k", 0))) }],
            ..Default::default()
        };
        let delete = pb::DeleteRangeRequest { key: Bytes::from_static(b"k2"), prev_kv: true, ..Default::default() };
        let lease = 77;
        let steps: Vec<(&str, Vec<u8>)> = vec![
            ("KV/Put", put("k", "v", 0)),
            ("KV/Put", put("k", "v2", 0)),
            ("KV/Put", put("k2", &"x".repeat(200_000), 0)),
            ("KV/Put", put("", "", 0)),
            ("KV/Put", put("k", "v", 404)),
            ("KV/Put", put("large", &"x".repeat(1_600_000), 0)),
            ("KV/Put", put("larger", &"x".repeat(2_097_152), 0)),
            ("KV/Range", range("k", 0).encode_to_vec()),
            ("KV/Range", range("k2", 0).encode_to_vec()),
            ("KV/Range", range("none", 0).encode_to_vec()),
            ("KV/Range", range("k", 1000).encode_to_vec()),
            ("KV/Range", b"\x0a\x7f".to_vec()),
            ("KV/Txn", txn.encode_to_vec()),
            ("KV/DeleteRange", delete.encode_to_vec()),
            ("KV/Compact", pb::CompactionRequest { revision: 3, physical: true }.encode_to_vec()),
            ("KV/Compact", pb::CompactionRequest { revision: 3, physical: false }.encode_to_vec()),
            ("KV/Range", range("k", 2).encode_to_vec()),
            ("KV/Invented", vec![]),
            ("Lease/LeaseGrant", pb::LeaseGrantRequest { ttl: 100, id: lease }.encode_to_vec()),
            ("Lease/LeaseGrant", pb::LeaseGrantRequest { ttl: 100, id: lease }.encode_to_vec()),
            ("KV/Put", put("leased", "v", lease)),
            ("Lease/LeaseLeases", vec![]),
            ("Lease/LeaseTimeToLive", pb::LeaseTimeToLiveRequest { id: 404, keys: true }.encode_to_vec()),
            ("Lease/LeaseRevoke", pb::LeaseRevokeRequest { id: lease }.encode_to_vec()),
            ("Lease/LeaseRevoke", pb::LeaseRevokeRequest { id: lease }.encode_to_vec()),
            ("Maintenance/Alarm", vec![]),
            ("Maintenance/HashKV", vec![]),
            ("Maintenance/Defragment", vec![]),
            ("Maintenance/MoveLeader", vec![]),
            ("Auth/AuthStatus", vec![]),
            ("Auth/Authenticate", vec![]),
            ("Auth/UserGet", vec![]),
            ("Cluster/MemberRemove", pb::MemberRemoveRequest { id: 404 }.encode_to_vec()),
            ("Nothing/Here", vec![]),
        ];
        let mut answers = Vec::new();
        for (method, message) in steps {
            let answer = call(&api, request(&format!("/etcdserverpb.{method}"), message)).await;
            answers.push((method.to_owned(), told(answer)));
        }
        answers
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches() {
    compare(async |api: Api| {
        let mut told = Vec::new();
        let (writer, body) = Writer::new();
        let opening = {
            let api = api.clone();
            tokio::spawn(async move { api.call(with_body("/etcdserverpb.Watch/Watch", body)).await })
        };
        let create = |key: &'static [u8], start_revision| {
            let create = pb::WatchCreateRequest {
                key: Bytes::from_static(key),
                range_end: Bytes::from_static(b"\0"),
                start_revision,
                prev_kv: true,
                ..Default::default()
            };
            let union = watch_request::RequestUnion::CreateRequest(create);
            pb::WatchRequest { request_union: Some(union) }.encode_to_vec()
        };
        writer.send(create(b"a", 0)).await;
        let mut reader = Reader::new(opening.await.unwrap().into_body());
        let mut next = async |step: &str, reader: &mut Reader| {
            let message = timeout(Duration::from_secs(5), reader.next()).await.expect("a response in time");
            told.push((step.to_owned(), message.map(masked)));
        };
        next("created", &mut reader).await;
        for i in 0..3 {
            call(&api, request("/etcdserverpb.KV/Put", put("k", &format!("v{i}"), 0))).await;
            next("event", &mut reader).await;
        }
        writer.send(create(b"k", 2)).await;
        next("created in the past", &mut reader).await;
        next("history", &mut reader).await;
        let progress = watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        writer.send(pb::WatchRequest { request_union: Some(progress) }.encode_to_vec()).await;
        next("progress", &mut reader).await;
        let cancel = watch_request::RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 });
        writer.send(pb::WatchRequest { request_union: Some(cancel) }.encode_to_vec()).await;
        next("canceled", &mut reader).await;
        call(&api, request("/etcdserverpb.KV/Put", put("k", "last", 0))).await;
        next("event of the other watch", &mut reader).await;
        told
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alives() {
    compare(async |api: Api| {
        let grant = pb::LeaseGrantRequest { ttl: 60, id: 5 }.encode_to_vec();
        call(&api, request("/etcdserverpb.Lease/LeaseGrant", grant)).await;
        let (writer, body) = Writer::new();
        let opening = {
            let api = api.clone();
            tokio::spawn(async move { api.call(with_body("/etcdserverpb.Lease/LeaseKeepAlive", body)).await })
        };
        let renew = |id| pb::LeaseKeepAliveRequest { id }.encode_to_vec();
        writer.send(renew(5)).await;
        let response = opening.await.unwrap();
        let mut told = vec![(
            "content type".to_owned(),
            response.headers().get("content-type").map(|v| Bytes::copy_from_slice(v.as_bytes())),
        )];
        let mut reader = Reader::new(response.into_body());
        for id in [5, 404, 5] {
            told.push((format!("renewal of {id}"), reader.next().await.map(masked)));
            writer.send(renew(if told.len() == 2 { 404 } else { 5 })).await;
        }
        told.push(("the last".to_owned(), reader.next().await.map(masked)));
        drop(writer);
        told.push(("end".to_owned(), reader.next().await));
        told.push(("status".to_owned(), Some(format!("{:?}", reader.status()).into())));
        told
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots() {
    compare(async |api: Api| {
        for i in 0..20 {
            call(&api, request("/etcdserverpb.KV/Put", put(&format!("k{i}"), &"x".repeat(100_000), 0))).await;
        }
        let answer = call(&api, request("/etcdserverpb.Maintenance/Snapshot", "")).await;
        let messages = answer.messages.iter().map(|message| pb::SnapshotResponse::decode(message.clone()).unwrap());
        let blob_bytes: usize = messages.map(|message| message.blob.len()).sum();
        assert!(blob_bytes > 2_000_000, "{blob_bytes}");
        // A checksum follows whole pages.
        vec![("snapshot".to_owned(), (blob_bytes % 512, answer.status(), answer.trailers))]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_member_list_names_the_gateway_and_nothing_else_changes() {
    for release in RELEASES {
        let Some(etcd) = Etcd::start(release).await else { continue };
        let config = Config { advertise_client_urls: vec!["http://gateway:2379".into()], ..Config::default() };
        let mut lists = Vec::new();
        for api in [connect(&etcd.url).await.unwrap(), gateway(&etcd, config).await] {
            let answer = call(&api, request("/etcdserverpb.Cluster/MemberList", "")).await;
            assert_eq!(answer.status().0, 0);
            lists.push(pb::MemberListResponse::decode(answer.messages[0].clone()).unwrap());
        }
        let mut expected = lists.remove(0);
        assert_eq!(expected.members[0].client_ur_ls, std::slice::from_ref(&etcd.url));
        expected.members[0].client_ur_ls = vec!["http://gateway:2379".into()];
        assert_eq!(lists.remove(0), expected, "etcd {release}");
    }
}
