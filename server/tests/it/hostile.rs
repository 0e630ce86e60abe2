//! Requests that no client sends: every one is answered, with the right code, and the member lives on.

use bytes::Bytes;
use forebay_edge::grpc;
use forebay_proto::{
    Error,
    etcdserverpb::{compare::TargetUnion, request_op::Request as Op, *},
};
use http::HeaderMap;
use prost::Message;
use tonic::{Code, Status};

use crate::support::{
    Node, all, bytes, compaction, delete, error, get, grant, metadata, nested, op, put, refusal, watch_cancel,
    watch_create, watch_progress, watching, watching_all, zero,
};

const EXTREMES: [i64; 6] = [i64::MIN, i64::MIN + 1, -1, i32::MAX as i64 + 1, i64::MAX - 1, i64::MAX];

/// Every unary method that is served.
const UNARY: [&str; 15] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Maintenance/Alarm",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Defragment",
    "/etcdserverpb.Maintenance/Hash",
    "/etcdserverpb.Maintenance/HashKV",
];

/// Methods that answer with many messages.
const STREAMS: [&str; 4] = [
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
];

/// The status a call with this request body ends with.
async fn status(node: &Node, path: &str, body: impl Into<Bytes>) -> Status {
    let mut call = node.open(path).await;
    call.send_bytes(body.into());
    call.half_close();
    loop {
        if let Err(status) = call.next_bytes().await {
            return status;
        }
    }
}

/// The member still does everything it did before, and would after a restart.
async fn lives_on(node: Node) {
    let node = node.restart().await;
    node.put(put("alive", "yes")).await.unwrap();
    assert_eq!(node.range(get("alive")).await.unwrap().count, 1);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_by_every_method() {
    let node = Node::start().await;
    for malformed in [
        // A length beyond the end, a varint without one, tag 0, a wire type that does not exist, a group's end.
        &b"\x0a\x05abc"[..],
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x00",
        b"\x0f",
        b"\x0c",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    ] {
        for path in UNARY.iter().chain(&STREAMS) {
            let status = status(&node, path, grpc::framed(malformed)).await;
            assert_eq!(status.code(), Code::Internal, "{path} {malformed:?}: {status:?}");
            assert!(status.message().starts_with("grpc: error unmarshalling request: "), "{path} {status:?}");
        }
    }
    lives_on(node).await;
}

#[tokio::test]
async fn frames_that_end_early_are_refused_by_every_method() {
    let node = Node::start().await;
    for path in UNARY.iter().chain(&STREAMS) {
        for cut in [&b"\0"[..], b"\0\0\0\0", b"\0\0\0\0\x05", b"\0\0\0\0\x05abcd"] {
            let status = status(&node, path, cut).await;
            assert_eq!((status.code(), status.message()), (Code::Internal, "unexpected EOF"), "{path} {cut:?}");
        }
    }
    for path in UNARY.iter().chain(&STREAMS[..2]) {
        let status = status(&node, path, Bytes::new()).await;
        assert_eq!(status.code(), Code::Internal, "{path} without a request: {status:?}");
    }
    lives_on(node).await;
}

#[tokio::test]
async fn compression_that_was_not_announced_or_is_not_known_is_refused() {
    let node = Node::start().await;
    let flagged = |flag: u8| [&[flag][..], &[0, 0, 0, 0]].concat();
    let call = |headers: HeaderMap, flag| node.send_bytes("/etcdserverpb.KV/Range", headers, flagged(flag));
    assert_eq!(refusal(call(HeaderMap::new(), 1).await).0, Code::Internal);
    assert_eq!(refusal(call(HeaderMap::new(), 2).await).0, Code::Internal);
    assert_eq!(refusal(call(metadata("grpc-encoding", b"identity"), 1).await).0, Code::Internal);
    assert_eq!(refusal(call(metadata("grpc-encoding", b"gzip"), 1).await).0, Code::Unimplemented);
    assert_eq!(refusal(call(metadata("grpc-encoding", b"gzip"), 0).await), error(Error::EmptyKey));
}

#[tokio::test]
async fn empty_messages_are_answered_by_every_method() {
    let node = Node::start().await;
    for path in UNARY {
        let answer = node.send_bytes(path, HeaderMap::new(), grpc::framed(b"")).await;
        let expected = match path.rsplit('/').next().expect("a path") {
            "Range" | "Put" | "DeleteRange" => Err(error(Error::EmptyKey)),
            // Revision 0 may be compacted to once.
            "LeaseRevoke" => Err(error(Error::LeaseNotFound)),
            _ => Ok(()),
        };
        let answered = answer.map(drop).map_err(|status| (status.code(), status.message().to_owned()));
        assert_eq!(answered, expected, "{path}");
    }
    let keep_alive = status(&node, "/etcdserverpb.Lease/LeaseKeepAlive", grpc::framed(b"")).await;
    assert_eq!(keep_alive.code(), Code::Ok);

    // A watch request that asks for nothing is passed over.
    let mut watch = node.watch().await;
    watch.send(&WatchRequest::default());
    watch.send(&watch_create(watching("a")));
    assert!(watch.next::<WatchResponse>().await.unwrap().created);
    drop(watch);
    lives_on(node).await;
}

#[tokio::test]
async fn fields_that_are_not_known_are_passed_over() {
    let node = Node::start().await;
    let mut request = put("a", "1").encode_to_vec();
    // Field 99, once as a number and once as bytes.
    request.extend_from_slice(b"\x98\x06\x01\x9a\x06\x03abc");
    node.send_bytes("/etcdserverpb.KV/Put", HeaderMap::new(), grpc::framed(&request)).await.unwrap();
    assert_eq!(&node.range(get("a")).await.unwrap().kvs[0].value[..], b"1");
}

#[tokio::test]
async fn a_second_message_of_a_unary_call_changes_nothing() {
    let node = Node::start().await;
    let twice = [grpc::encode(&put("a", "1")), grpc::encode(&put("b", "1"))].concat();
    let _ = node.send_bytes("/etcdserverpb.KV/Put", HeaderMap::new(), twice).await;
    assert_eq!(node.range(get("b")).await.unwrap().count, 0);
    lives_on(node).await;
}

#[tokio::test]
async fn txns_nested_to_any_depth_are_answered_and_survived() {
    let node = Node::start().await;
    for depth in (0..60).chain([90, 100, 126, 127, 128, 200, 255, 256, 500]) {
        // The answer is as deep, and this client does not read so deep.
        let request = grpc::encode(&nested(depth, all(vec![op(Op::RequestPut(put("deep", "1")))])));
        let answered = node.send_bytes("/etcdserverpb.KV/Txn", HeaderMap::new(), request).await;
        match depth {
            ..128 => drop(answered.unwrap_or_else(|status| panic!("{depth}: {status:?}"))),
            _ => assert_eq!(refusal(answered), error(Error::TooManyOps), "{depth}"),
        }
    }
    let node = node.restart_with(|config| config.max_txn_ops = 10_000).await;
    for (depth, is_taken) in [(255, true), (256, false)] {
        let request = grpc::encode(&nested(depth, all(vec![op(Op::RequestPut(put("deeper", "1")))])));
        let answered = node.send_bytes("/etcdserverpb.KV/Txn", HeaderMap::new(), request).await;
        assert_eq!(answered.is_ok(), is_taken, "{depth}: {answered:?}");
    }
    let node = node.crashed().await;
    assert_eq!(node.range(get("deeper")).await.unwrap().count, 1);
    // A depth that only bytes can have: each level is the one success operation, a txn, of the level above.
    let mut message = Vec::new();
    for _ in 0..5000 {
        for tag in [b"\x22", b"\x12"] {
            let mut outer = tag.to_vec();
            prost::encoding::encode_varint(message.len() as u64, &mut outer);
            outer.append(&mut message);
            message = outer;
        }
    }
    let refused = status(&node, "/etcdserverpb.KV/Txn", grpc::framed(&message)).await;
    assert_eq!(refused.code(), Code::Internal);
    assert_eq!(refused.message(), "grpc: error unmarshalling request: proto:\u{a0}exceeded maximum recursion depth");
    lives_on(node).await;
}

#[tokio::test]
async fn numbers_that_are_no_enum_value_are_answered_as_etcd_does() {
    let node = Node::start().await;
    node.put(put("a", "1")).await.unwrap();
    for odd in [-1, 99, i32::MIN, i32::MAX] {
        let sorted = RangeRequest { sort_order: odd, ..get("a") };
        assert_eq!(refusal(node.range(sorted).await), error(Error::InvalidSortOption));
        // An unknown result holds, an unknown target compares as equal.
        let compare = |result, target| TxnRequest {
            compare: vec![Compare { result, target, key: bytes("a"), ..Default::default() }],
            ..Default::default()
        };
        assert!(node.txn(compare(odd, 0)).await.unwrap().succeeded, "result {odd}");
        assert!(node.txn(compare(0, odd)).await.unwrap().succeeded, "target {odd}");

        let acted = AlarmRequest { action: odd, ..Default::default() };
        assert_eq!(refusal(node.alarm(acted).await).0, Code::InvalidArgument);
        for action in 0..3 {
            let kind = AlarmRequest { action, member_id: 1, alarm: odd };
            assert!(node.alarm(kind).await.unwrap().alarms.is_empty(), "action {action} on {odd}");
        }
        let mut watch = node.watcher(WatchCreateRequest { filters: vec![odd], ..watching("a") }).await;
        node.put(put("a", "2")).await.unwrap();
        assert_eq!(watch.events().await.events.len(), 1, "a filter that is not known lets everything through");
    }
    node.put(put("b", "1")).await.unwrap();
    lives_on(node).await;
}

/// One number of a range.
type Field = fn(&mut RangeRequest) -> &mut i64;

#[tokio::test]
async fn a_range_takes_any_number() {
    let node = Node::start().await;
    for key in ["a", "b", "c"] {
        node.put(put(key, "1")).await.unwrap();
    }
    let everything = || RangeRequest { key: zero(), range_end: zero(), ..Default::default() };
    for extreme in EXTREMES {
        let limited = node.range(RangeRequest { limit: extreme, ..everything() }).await.unwrap();
        assert_eq!((limited.kvs.len(), limited.more), (3, false), "limit {extreme}");
        let at = node.range(RangeRequest { revision: extreme, ..everything() }).await;
        match extreme {
            ..=0 => assert_eq!(at.unwrap().count, 3),
            1.. => assert_eq!(refusal(at), error(Error::FutureRev)),
        }
        let filters: [(&str, Field, bool); 4] = [
            ("min_mod", |request| &mut request.min_mod_revision, extreme < 0),
            ("max_mod", |request| &mut request.max_mod_revision, extreme > 0),
            ("min_create", |request| &mut request.min_create_revision, extreme < 0),
            ("max_create", |request| &mut request.max_create_revision, extreme > 0),
        ];
        for (name, field, passes) in filters {
            for limit in [0, 1, i64::MAX] {
                let mut request = RangeRequest { limit, ..everything() };
                *field(&mut request) = extreme;
                let kept = node.range(request).await.unwrap();
                let expected = if !passes {
                    0
                } else if limit == 1 {
                    1
                } else {
                    3
                };
                assert_eq!((kept.kvs.len(), kept.count), (expected, 3), "{name} {extreme} limit {limit}");
            }
        }
        for target in 0..5 {
            let sorted = RangeRequest { limit: extreme, sort_target: target, sort_order: 2, ..everything() };
            assert_eq!(node.range(sorted).await.unwrap().kvs.len(), 3);
        }
        let stream = status(
            &node,
            "/etcdserverpb.KV/RangeStream",
            grpc::encode(&RangeRequest { limit: extreme, ..everything() }),
        )
        .await;
        assert_eq!(stream.code(), Code::Ok, "{stream:?}");
    }
    lives_on(node).await;
}

#[tokio::test]
async fn a_txn_takes_any_number() {
    let node = Node::start().await;
    node.put(put("a", "1")).await.unwrap();
    for extreme in EXTREMES {
        let unions = [
            TargetUnion::Version(extreme),
            TargetUnion::CreateRevision(extreme),
            TargetUnion::ModRevision(extreme),
            TargetUnion::Lease(extreme),
        ];
        for union in unions {
            for target in [0, 1, 2, 3, 4] {
                for (result, key) in [0, 1, 2, 3].into_iter().flat_map(|result| [(result, "a"), (result, "missing")]) {
                    let compare = Compare { result, target, target_union: Some(union.clone()), ..Compare::default() };
                    let compare = vec![
                        Compare { key: bytes(key), ..compare.clone() },
                        Compare { key: zero(), range_end: zero(), ..compare },
                    ];
                    node.txn(TxnRequest { compare, ..Default::default() }).await.unwrap();
                }
            }
        }
        // Numbers compare by value, not by their distance.
        let greater = Compare {
            result: 1,
            key: bytes("a"),
            target_union: Some(TargetUnion::Version(extreme)),
            ..Default::default()
        };
        let answer = node.txn(TxnRequest { compare: vec![greater], ..Default::default() }).await.unwrap();
        assert_eq!(answer.succeeded, 1 > extreme, "1 > {extreme}");

        let leased = all(vec![op(Op::RequestPut(PutRequest { lease: extreme, ..put("a", "2") }))]);
        assert_eq!(refusal(node.txn(leased).await), error(Error::LeaseNotFound));
        let read = all(vec![op(Op::RequestRange(RangeRequest { revision: extreme, limit: extreme, ..get("a") }))]);
        let written = all([read.success.clone(), vec![op(Op::RequestDeleteRange(delete("missing")))]].concat());
        for txn in [read, written] {
            let answer = node.txn(txn).await;
            match extreme {
                1.. => assert_eq!(refusal(answer), error(Error::FutureRev)),
                // The compacted revision of a store that never was compacted is -1.
                -1 => assert!(answer.unwrap().succeeded),
                _ => assert_eq!(refusal(answer), error(Error::Compacted), "{extreme}"),
            }
        }
    }
    assert_eq!(node.revision().await, 2);
    lives_on(node).await;
}

#[tokio::test]
async fn leases_compactions_and_hashes_take_any_number() {
    let node = Node::start().await;
    node.put(put("a", "1")).await.unwrap();
    for extreme in EXTREMES {
        assert_eq!(
            refusal(node.put(PutRequest { lease: extreme, ..put("a", "1") }).await),
            error(Error::LeaseNotFound)
        );
        assert_eq!(refusal(node.revoke(LeaseRevokeRequest { id: extreme }).await), error(Error::LeaseNotFound));
        let query = LeaseTimeToLiveRequest { id: extreme, keys: true };
        assert_eq!(node.time_to_live(query).await.unwrap().ttl, -1);
        let compacted = refusal(node.compact(compaction(extreme)).await);
        assert_eq!(compacted, error(if extreme < 0 { Error::Compacted } else { Error::FutureRev }));
        match node.hash_kv(HashKvRequest { revision: extreme }).await {
            Err(status) => assert_eq!(refusal::<()>(Err(status)), error(Error::FutureRev)),
            Ok(hashed) => assert!(extreme < 0, "{hashed:?}"),
        }
        match node.grant(grant(extreme, extreme)).await {
            Err(status) => assert_eq!(refusal::<()>(Err(status)), error(Error::LeaseTtlTooLarge)),
            Ok(granted) => assert_eq!((granted.id, granted.ttl), (extreme, extreme.max(1))),
        }
        node.grant(grant(1000, 9_000_000_000)).await.unwrap();
        node.put(PutRequest { lease: 1000, ..put("b", "1") }).await.unwrap();
        node.revoke(LeaseRevokeRequest { id: 1000 }).await.unwrap();
    }
    lives_on(node).await;
}

#[tokio::test]
async fn a_watch_takes_any_number() {
    let node = Node::start().await;
    let mut watch = node.watch().await;
    for extreme in EXTREMES {
        watch.send(&watch_cancel(extreme));
        watch.send(&watch_create(WatchCreateRequest { watch_id: extreme, ..watching("a") }));
        let created: WatchResponse = watch.next().await.unwrap();
        assert_eq!((created.created, created.canceled, created.watch_id), (true, false, extreme));
    }
    for extreme in EXTREMES.into_iter().filter(|extreme| *extreme < 0) {
        watch.send(&watch_create(WatchCreateRequest { start_revision: extreme, ..watching("a") }));
        let refused: WatchResponse = watch.next().await.unwrap();
        assert_eq!((refused.created, refused.canceled, refused.watch_id), (true, true, -1), "{extreme}");
    }
    node.put(put("a", "1")).await.unwrap();
    let mut told: Vec<i64> = Vec::new();
    for _ in EXTREMES {
        told.push(watch.events().await.watch_id);
    }
    told.sort_unstable();
    assert_eq!(told, EXTREMES);
    watch.send(&watch_progress());
    assert_eq!(watch.next::<WatchResponse>().await.unwrap().watch_id, -1);

    // A start that is never reached is waited for, and holds progress back.
    let mut future = node.watcher(watching_all(i64::MAX)).await;
    future.send(&watch_progress());
    future.send(&watch_cancel(0));
    assert!(future.next::<WatchResponse>().await.unwrap().canceled);
    drop((watch, future));
    lives_on(node).await;
}

#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let node = Node::start().await;
    let keys = [&b"\0"[..], b"\0\0", b"\xff", b"\xff\xff\xff", b"\x00\xff", b"a/\n\r\t\"'%", &[0x80; 300]];
    for key in keys {
        let key = Bytes::from_static(key.to_vec().leak());
        let put = PutRequest { key: key.clone(), value: key.clone(), ..Default::default() };
        node.put(put).await.unwrap();
    }
    let mut sorted = keys.map(Bytes::from_static);
    sorted.sort();
    let node = node.restart().await;
    assert_eq!(node.everything().await.into_iter().map(|kv| kv.key).collect::<Vec<_>>(), sorted);
    // Ends at or below the start name nothing.
    for (key, end) in [(&b"\xff"[..], &b"\x01"[..]), (b"b", b"b"), (b"\xff\xff\xff\xff", b"\xff")] {
        let range =
            RangeRequest { key: Bytes::from_static(key), range_end: Bytes::from_static(end), ..Default::default() };
        assert_eq!(node.range(range).await.unwrap().count, 0);
    }
}

/// Random bytes, and real requests with bytes changed, on every method.
#[tokio::test]
async fn random_requests_are_answered_and_survived() {
    let seed = std::env::var("FOREBAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20);
    println!("FOREBAY_TEST_SEED={seed}");
    let mut random = Random(seed);
    let node = Node::start().await;
    let real = [
        RangeRequest { range_end: zero(), limit: 3, revision: 2, ..get("a") }.encode_to_vec(),
        PutRequest { lease: 7, prev_kv: true, ..put("a", "value") }.encode_to_vec(),
        nested(2, all(vec![op(Op::RequestPut(put("a", "1"))), op(Op::RequestRange(get("b")))])).encode_to_vec(),
        watch_create(watching_all(2)).encode_to_vec(),
        grant(7, 600).encode_to_vec(),
        AlarmRequest { action: 0, member_id: 1, alarm: 1 }.encode_to_vec(),
    ];
    for round in 0..600 {
        let message = match round % 3 {
            0 => (0..random.below(64)).map(|_| random.next() as u8).collect::<Vec<_>>(),
            _ => {
                let mut message = real[random.below(real.len())].clone();
                for _ in 0..1 + random.below(4) {
                    let at = random.below(message.len());
                    message[at] = random.next() as u8;
                }
                message
            }
        };
        let path = UNARY[random.below(UNARY.len())];
        if let Err(status) = node.send_bytes(path, HeaderMap::new(), grpc::framed(&message)).await {
            let expected = match status.code() {
                Code::InvalidArgument | Code::OutOfRange | Code::NotFound | Code::FailedPrecondition => true,
                // An alarm may have been among the requests.
                Code::ResourceExhausted | Code::DataLoss => true,
                Code::Internal => status.message().starts_with("grpc: error unmarshalling request: "),
                _ => false,
            };
            assert!(expected, "seed {seed}, round {round}, {path}, {message:?}: {status:?}");
        }
        let stream = STREAMS[2 + random.below(2)];
        let mut call = node.open(stream).await;
        call.send_bytes(grpc::framed(&message));
        call.half_close();
        if stream.ends_with("KeepAlive") {
            let _ = call.next_bytes().await;
        }
    }
    assert_eq!(node.range(get("none")).await.unwrap().count, 0);
    let node = node.restart().await;
    assert_eq!(node.range(get("none")).await.unwrap().count, 0);
}

/// A small generator of numbers: the same ones for the same seed on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }
}
