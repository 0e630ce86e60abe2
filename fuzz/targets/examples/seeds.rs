//! Writes the inputs in `fuzz/corpus` that are made rather than found: requests and files as our own writers make them.
//! Files that begin with `etcd-` were made by a real etcd, and are not touched.

use std::{fs, path::Path, sync::Arc};

use bytes::{Bytes, BytesMut};
use forebay_edge::grpc;
use forebay_keyspace::{Put, Revision, Version};
use forebay_policies::Policy;
use forebay_proto::{
    etcdserverpb::{
        AlarmMember, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, Member, MemberListResponse,
        PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest, WatchCreateRequest,
        WatchRequest, WatchResponse, compare::TargetUnion, request_op::Request, watch_request::RequestUnion,
    },
    leasepb,
    mvccpb::{Event, KeyValue},
    raftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata},
    walpb,
};
use forebay_server::peer::codec::{Encoder, Kind};
use forebay_storage::{
    db::{self, Db},
    disk::{Disk as _, sim::SimDisk},
    schema,
    snap::{MemberRecord, Membership, Snapshots},
    wal::{self, Wal},
};
use prost::Message as _;

fn main() {
    texts();
    grpc_bodies();
    messages();
    programs();
    logs();
    snapshots();
    databases();
    answers();
    streams();
    files();
}

/// What DNS servers and gRPC servers answer.
fn answers() {
    let name = b"_etcd-server._tcp.example.com";
    // An hour, priority, weight, port, and a host whose domain stands in the question.
    let record = [0xc0, 12, 0, 33, 0, 1, 0, 0, 14, 16, 0, 10, 0, 1, 0, 2, 0x09, 0x4c, 1, b'a', 0xc0, 30];
    seed("dns_answers", "one", [&chunk(name)[..], &[0x81, 0x80, 0, 1], &record].concat());
    seed("dns_answers", "two", [&chunk(name)[..], &[0x81, 0x80, 0, 2], &record, &record].concat());
    seed("dns_answers", "none", [&chunk(name)[..], &[0x81, 0x83, 0, 0]].concat());
    let message = grpc::encode(&PutRequest { key: "a".into(), value: "1".into(), ..Default::default() });
    let head = [&[0][..], &chunk(b""), &chunk(b""), &chunk(&[3, 0, 2])].concat();
    seed("grpc_replies", "one", [&head[..], &message].concat());
    seed("grpc_replies", "two", [&head[..], &message, &message].concat());
    let head = [&[5][..], &chunk("100 % \u{e4}".as_bytes()), &chunk(b"details"), &chunk(&[])].concat();
    seed("grpc_replies", "refusal", head);
}

/// What members send each other, and what their logs hold.
fn streams() {
    let entry = Entry { term: Some(2), index: Some(5), data: Some("x".into()), ..Default::default() };
    let append = Message {
        r#type: Some(MessageType::MsgApp as i32),
        from: Some(1),
        to: Some(2),
        term: Some(2),
        log_term: Some(2),
        index: Some(4),
        entries: vec![entry.clone()],
        commit: Some(4),
        ..Default::default()
    };
    let next =
        Message { index: Some(5), entries: vec![Entry { index: Some(6), ..entry }], commit: Some(5), ..append.clone() };
    for (number, name, kind) in [(0, "message", Kind::Message), (1, "msgapp", Kind::MsgApp)] {
        let mut encoder = Encoder::new(kind);
        let mut out = BytesMut::new();
        encoder.heartbeat(&mut out);
        encoder.encode(&append, &mut out);
        encoder.encode(&next, &mut out);
        seed("peer_streams", name, [&[number][..], &chunk(&[1, 8, 0, 30]), &out].concat());
    }
    let put = Request::RequestPut(PutRequest { key: "a".into(), ..Default::default() });
    let txn = TxnRequest { success: vec![RequestOp { request: Some(put) }], ..Default::default() };
    let entry = InternalRaftRequest { txn: Some(txn), ..Default::default() };
    seed("raft_entries", "txn", numbered(3, &entry));
    seed("raft_entries", "deep", numbered(200, &entry));
}

/// What TLS is made of.
fn files() {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for (number, name) in [(0_u8, "certificate"), (1, "key"), (2, "certificate")] {
        let content = fs::read(made.join(format!("{name}.pem"))).expect("a certificate that is there");
        seed("tls_files", &format!("{number}-{name}"), [&[number][..], &content].concat());
    }
    seed("tls_files", "3-revoked", b"\x03-----BEGIN X509 CRL-----\nMA==\n-----END X509 CRL-----\n");
}

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    fs::create_dir_all(&folder).expect("a writable folder");
    fs::write(folder.join(name), bytes).expect("a writable file");
}

fn numbered(number: u8, message: &impl prost::Message) -> Vec<u8> {
    [&[number][..], &message.encode_to_vec()].concat()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).expect("a short chunk")][..], bytes].concat()
}

fn texts() {
    seed(
        "flags",
        "server",
        "etcd\n--name=m1\n--data-dir\n/d\n--listen-client-urls=http://127.0.0.1:1\n--advertise-client-urls=http://127.0.0.1:1\n--quota-backend-bytes=0x1000\n",
    );
    seed(
        "flags",
        "cluster",
        "--name=a\n--initial-cluster=a=http://127.0.0.1:2380,b=http://127.0.0.2:2380\n--initial-advertise-peer-urls=http://127.0.0.1:2380\n--listen-peer-urls=http://127.0.0.1:2380\n--initial-cluster-state=existing\n--auto-compaction-mode=revision\n--auto-compaction-retention=1000\n--heartbeat-interval=10\n--election-timeout=100\n",
    );
    seed(
        "flags",
        "environment",
        "--name=a\n$ETCD_NAME=b\n$ETCD_MAX_TXN_OPS=7\n$FOREBAY_LOG_LEVEL=debug\n$ETCD_NMAE=c\n$FOREBAY_ENDPOINTS=a:1\n",
    );
    seed(
        "flags",
        "gateway",
        "--endpoints=a:2379,http://b:1\n--listen-client-urls=http://[::1]:2379\n--dial-timeout=1h2m3.5s\n--print-config\n",
    );
    seed("flags", "wrong", "--nmae\nx\n---\n--snapshot-count=1e5\n--pre-vote\nfalse\n-h\n");
    seed(
        "flags",
        "gates",
        "--feature-gates=CompactHashCheck=true,Nothing=maybe\n--experimental-compact-hash-check-time=1s\n--cors=*,https://a:443\n--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA\n",
    );
    seed(
        "config_file",
        "server.yaml",
        "name: m1\ndata-dir: /d\nlisten-client-urls: http://127.0.0.1:1,http://127.0.0.1:2\nadvertise-client-urls: http://127.0.0.1:1\nquota-backend-bytes: 1e9\nstrict-reconfig-check: yes\nclient-transport-security:\n  client-cert-auth: true\n  cert-file: /c\nname: m2\n",
    );
    seed(
        "config_file",
        "gateway.json",
        r#"{"endpoints": ["a:1", "b:2"], "dial-timeout": "5s", "log-level": "info", "cors": ["*"]}"#,
    );
    seed("config_file", "wrong.yaml", "- a\n- &b [1, 0x10, 1.5, ~]\n- *b\n");
    seed(
        "config_file",
        "anchors.yaml",
        "name: &n m1\nwal-dir: *n\nself-signed-cert-validity: 1\nheartbeat-interval: !!str 5\nlog-outputs: [stderr, \"\"]\n",
    );
    seed("policy_file", "builtin.yaml", Policy::builtin_text());
    seed("policy_file", "full.yaml", include_str!("../../../policies/testdata/full.yaml"));
    seed(
        "policy_file",
        "wrong.yaml",
        "apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n  identity: []\n  admin: ['*']\n  priorityLevels:\n    - {name: a, queues: 2, handSize: 3, shares: 0}\n  flowRules:\n    - {name: b, matchingPrecedence: 1, match: {}, priorityLevel: c, limits: {burst: 5, concurrency: 0}}\n  quotas:\n    - {name: q, prefix: /a/b/, per: segment(3), hard: {}}\n",
    );
    seed(
        "policy_file",
        "unknown.yaml",
        "apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n  flowrules: [&a {nam: x}, *a]\n  <<: {}\n",
    );
    for (name, text) in [
        ("http", "http://127.0.0.1:2379,https://[::1%25eth0]:1,http://localhost:"),
        ("unix", "unix://localhost/m1:2379,unixs:/a/b"),
        ("wrong", "HTTP://user@a:b/c?d#e"),
        ("endpoints", "a, b:1,http://[::1]:2379/"),
        ("duration", "-1h2m3.5s1us"),
        ("number", "+0x7fff_ffff_ffff_ffff"),
    ] {
        seed("urls", name, text);
    }
    for (name, text) in [
        (
            "range",
            "/v3/kv/range\n{\"key\":\"YQ==\",\"range_end\":\"Yg\",\"limit\":\"10\",\"sortOrder\":\"DESCEND\",\"keys_only\":true}",
        ),
        (
            "txn",
            "/v3/kv/txn\n{\"compare\":[{\"target\":\"VALUE\",\"key\":\"a\\u0061==\",\"value\":\"-_-_\",\"result\":2}],\"success\":[{\"requestPut\":{\"key\":\"YQ==\",\"lease\":1e2}},{\"request_txn\":{\"failure\":[{}]}}]}",
        ),
        (
            "watch",
            "/v3/watch\n{\"create_request\":{\"key\":\"YQ==\",\"filters\":[\"NOPUT\",1],\"start_revision\":-1}}\n{\"cancel_request\":{\"watch_id\":\"0\"}}{\"progress_request\":{}} ",
        ),
        ("number", "/v3/lease/keepalive\n-12.50e+1"),
        ("nested", "/v3/kv/range\n[[[{\"a\":[{\"b\":null}]}]]]"),
        (
            "member",
            "/v3/cluster/member/add\n{\"peerURLs\":[\"http://a\\n\\ud83d\\ude00\",\"\\/\"],\"isLearner\":false,\"unknown\":[1,{}]}",
        ),
    ] {
        seed("json_request", name, text);
        let (path, body) = text.split_once('\n').expect("a path and a body");
        let fields = "Content-Type: application/json\nGrpc-Timeout: 5S\nGrpc-Metadata-a-bin: YQ\nAuthorization: t";
        seed("http_request", name, format!("POST {path}\n{fields}\n\n{body}"));
    }
    seed("http_request", "health", "GET /health?serializable=true&exclude=NOSPACE&exclude=%41%zz\n\n");
    seed("http_request", "livez", "GET /readyz/data_corruption?verbose&allowlist=a\nHost: a:1\n\n");
    seed("http_request", "clean", "GET //v3/..//metrics/./%2e%2e\nX-Forwarded-For: 1.2.3.4\n\n");
    seed(
        "http_request",
        "upgrade",
        "GET /v3/watch\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: Bearer, x\n\n",
    );
    seed(
        "http_request",
        "page",
        "OPTIONS /v3/kv/put\nOrigin: https://a.example\nAccess-Control-Request-Method: POST\n\n",
    );
}

fn grpc_bodies() {
    let put = PutRequest { key: "a".into(), value: "value".into(), ..Default::default() };
    let body = [grpc::encode(&put), grpc::encode(&()), grpc::encode(&RangeRequest::default())].concat();
    let head = |max: u8, gzip: u8, timeout: &str, sizes: &[u8]| {
        [&[max, gzip][..], &chunk(timeout.as_bytes()), &chunk(sizes)].concat()
    };
    seed("grpc_messages", "three", [head(64, 0, "5S", &[1, 0, 3, 2, 9]), body.clone()].concat());
    seed("grpc_messages", "cut", [head(64, 0, "99999999H", &[1; 9]), body[..9].to_vec()].concat());
    seed("grpc_messages", "compressed", [head(64, 1, "", &[]), b"\x01\0\0\0\0".to_vec()].concat());
    seed("grpc_messages", "too_large", [head(1, 0, "1x", &[4]), b"\0\x80\0\0\0".to_vec()].concat());
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn a_txn() -> TxnRequest {
    let compare = Compare {
        result: 3,
        target: 3,
        key: "a".into(),
        range_end: "c".into(),
        target_union: Some(TargetUnion::Value("value".into())),
    };
    let put = PutRequest { key: "a".into(), value: "v".into(), prev_kv: true, ..Default::default() };
    let delete = DeleteRangeRequest { key: "b".into(), range_end: "d".into(), prev_kv: true };
    let range = RangeRequest { key: "\0".into(), range_end: "\0".into(), revision: 6, ..Default::default() };
    let nested = TxnRequest { success: vec![op(Request::RequestPut(put.clone()))], ..Default::default() };
    TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(put)), op(Request::RequestDeleteRange(delete))],
        failure: vec![op(Request::RequestTxn(nested)), op(Request::RequestRange(range))],
    }
}

fn messages() {
    let range = RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        limit: 2,
        revision: 7,
        sort_order: 2,
        sort_target: 4,
        max_mod_revision: 9,
        ..Default::default()
    };
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), count_only: true, ..Default::default() };
    let put = PutRequest { key: "a".into(), lease: 7, ignore_value: true, prev_kv: true, ..Default::default() };
    let delete = DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: true };
    seed("requests", "range", numbered(0, &range));
    seed("requests", "count", numbered(0, &all));
    seed("requests", "put", numbered(1, &put));
    seed("requests", "delete", numbered(2, &delete));
    seed("requests", "txn", numbered(3, &a_txn()));
    seed("txn_checks", "encoded", [&[128, 1][..], &a_txn().encode_to_vec()].concat());
    seed("txn_checks", "puts", [5, 0, 1, 4, 3, 1, 4, 1, 6, 4, 8, 12, 2, 1, 4, 0, 2]);
    seed("txn_checks", "nested", [9, 0, 0, 2, 6, 0, 1, 1, 4, 1, 1, 4, 7, 0, 0, 1, 4, 3, 9, 1, 6, 1, 2, 1, 4, 4, 4, 0]);
    seed("txn_checks", "budget", [2, 0, 2, 4, 6, 2, 6, 1, 4, 1, 1, 6, 0, 2, 1, 8, 1, 10]);

    seed("proto_messages", "range", numbered(0, &range));
    seed("proto_messages", "txn", numbered(8, &a_txn()));
    let header = Some(ResponseHeader { cluster_id: 1, member_id: u64::MAX, revision: 9, raft_term: 2 });
    let kv = KeyValue {
        key: "a".into(),
        create_revision: 2,
        mod_revision: 9,
        version: 3,
        value: "\0\u{1}é".into(),
        lease: i64::MIN,
    };
    let event = Event { r#type: 1, kv: Some(kv.clone()), prev_kv: Some(kv.clone()) };
    let answer = RangeResponse { header, kvs: vec![kv], more: true, count: 2 };
    let watched = WatchResponse { header, watch_id: -1, events: vec![event], fragment: true, ..Default::default() };
    let member = Member { id: 1, name: "<m>".into(), peer_ur_ls: vec!["http://a".into()], ..Default::default() };
    let members = MemberListResponse { header, members: vec![member] };
    seed("proto_messages", "watch", numbered(13, &watched));
    let response = |path: &str, message: &[u8]| [path.as_bytes(), b"\n", message].concat();
    seed("json_response", "range", response("/v3/kv/range", &answer.encode_to_vec()));
    seed("json_response", "watch", response("/v3/watch", &watched.encode_to_vec()));
    seed("json_response", "members", response("/v3/cluster/member/list", &members.encode_to_vec()));
    let raised = forebay_proto::etcdserverpb::AlarmResponse {
        header,
        alarms: vec![AlarmMember { member_id: 1, alarm: 1 }, AlarmMember { member_id: 2, alarm: 77 }],
    };
    seed("json_response", "alarms", response("/v3/maintenance/alarm", &raised.encode_to_vec()));

    let ranges: [(&str, [&[u8]; 4]); 4] = [
        ("key", [b"a", b"", b"a", b"a\0"]),
        ("from", [b"b", b"\0", b"a", b"b"]),
        ("empty", [b"c", b"a", b"", b"\0"]),
        ("zeros", [b"a", b"\0\0", b"\0", b"\0"]),
    ];
    for (name, parts) in ranges {
        seed("key_ranges", name, parts.map(chunk).concat());
    }

    let mut records = vec![1, 3];
    let (at, mut scratch) = (|main| Revision { main, sub: 0 }, Vec::new());
    let put = Put { revision: at(2), create_revision: 2, version: 1, lease: 5, key: b"a", value: b"1" };
    let versions = [
        (Version::put(put, &mut scratch), false),
        (Version::put(Put { revision: at(4), version: 2, ..put }, &mut scratch), false),
        (Version::tombstone(at(5), b"a", &mut scratch), true),
    ];
    for (version, tombstone) in versions {
        let mut key = version.revision().to_bytes().to_vec();
        key.extend(tombstone.then_some(b't'));
        records.extend([&[0][..], &chunk(&key), &chunk(version.record())].concat());
    }
    records.extend([1, 9, 0, 0, 0]); // What a raised revision leaves.
    seed("key_records", "restored", &records);
    let filed = |main: i64, mark: &[u8], record: &[u8]| {
        let key = [&Revision { main, sub: 0 }.to_bytes()[..], mark].concat();
        [&[0][..], &chunk(&key), &chunk(record)].concat()
    };
    // A placeholder at the last of all revisions, and tombstones at revisions that no store was ever at.
    let last = filed(i64::MAX, b"", b"");
    seed("key_records", "last", [&[0][..], &filed(i64::MAX - 1, b"t", b"\n\x01a"), &last].concat());
    seed("key_records", "below", [&[0][..], &filed(i64::MIN, b"t", b"\n\x01a"), &filed(0, b"t", b"\n\x01b")].concat());
    seed("key_records", "made", [0, 0, 2, 2, 0, 0, 0, 2, 1, 1, b'x', 2, 3, 0, 0, 0, 2, 2, 0, 2, 4, 0, 1, 0, 0, 0, 0]);
}

fn programs() {
    let create = WatchCreateRequest { key: "a".into(), range_end: "c".into(), start_revision: 2, ..Default::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let asked = [&[12][..], &chunk(&request.encode_to_vec())].concat();
    // Puts, published; two watchers, one of the past; changes, a deletion; progress; polled in pieces.
    let steps: Vec<&[u8]> = vec![
        &[0, 1, 0, 3, 1, 2],
        &[5],
        &[7, 1, 0, 2, 4, 1, 0, 1, 0, 0],
        &asked,
        &[15, 9],
        &[1, 2, 0, 1, 1, 1, 2, 1],
        &[4, 0, 2],
        &[11],
        &[6],
        &[14],
        &[15, 255],
        &[10, 0],
    ];
    seed("watch_streams", "two", steps.concat());
    // Compacted between what was put and a watcher that begins there.
    let steps: Vec<&[u8]> = vec![
        &[0, 0, 0, 1],
        &[0, 0, 1, 1],
        &[4, 0, 0],
        &[0, 0, 2, 1],
        &[13, 4],
        &[8, 0, 2, 7, 1, 0, 1, 2, 0],
        &[7, 0, 2, 8, 0, 1, 1, 1, 0, 0],
        &[15, 40],
        &[0, 0, 0, 0],
        &[13, 6],
    ];
    seed("watch_streams", "compacted", steps.concat());
    let values = [
        [&[0][..], &chunk(&9u64.to_be_bytes())].concat(),
        [&[2][..], &chunk(br#"{"voters":[7],"learners":[8],"auto_leave":false}"#)].concat(),
        [&[3][..], &chunk(b"\0\0\0\0\0\0\0\x09_\0\0\0\0\0\0\0\0")].concat(),
        [&[5][..], &chunk(b"3.6.0")].concat(),
        [&[7][..], &chunk(br#"{"target-version":"3.6.0","enabled":true}"#)].concat(),
        [&[10][..], &chunk(br#"{"id":1,"peerURLs":["http://a"],"isLearner":true,"name":"m"}"#)].concat(),
        [
            &[16][..],
            &chunk(&7i64.to_be_bytes()),
            &chunk(&leasepb::Lease { id: 7, ttl: 60, remaining_ttl: 5 }.encode_to_vec()),
        ]
        .concat(),
        [&[20][..], &chunk(&AlarmMember { member_id: 3, alarm: 1 }.encode_to_vec()), &chunk(b"")].concat(),
    ];
    seed("schema_values", "all", values.concat());
    seed("schema_values", "revision", b"\0\0\0\0\0\0\0\x09_\0\0\0\0\0\0\0\0t");
}

fn entries() -> Vec<Entry> {
    let put = PutRequest { key: "a".into(), value: "value".into(), ..Default::default() };
    let requests = [
        InternalRaftRequest { put: Some(put), ..Default::default() },
        InternalRaftRequest { txn: Some(a_txn()), ..Default::default() },
        InternalRaftRequest { lease_grant: Some(LeaseGrantRequest { ttl: 9, id: 7 }), ..Default::default() },
    ];
    let entry = |(index, request): (u64, InternalRaftRequest)| Entry {
        term: Some(1),
        index: Some(index),
        r#type: Some(EntryType::EntryNormal.into()),
        data: Some(request.encode_to_vec().into()),
    };
    (1..).zip(requests).map(entry).collect()
}

fn a_conf_state() -> ConfState {
    ConfState { voters: vec![7], auto_leave: Some(false), ..Default::default() }
}

fn logs() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/")).expect("a disk without faults");
    let options = wal::Options { segment_bytes: 4096, segments_max: 0 };
    let dir = Path::new("/wal");
    let mut log =
        Wal::create(Arc::new(disk.clone()), dir, options, Bytes::from_static(b"\x08\x07\x10\x09")).expect("a new log");
    let state = |commit| HardState { term: Some(1), vote: Some(7), commit: Some(commit) };
    log.append(Some(&state(2)), &entries(), true).expect("a disk without faults");
    log.save_snapshot(&walpb::Snapshot { index: Some(2), term: Some(1), conf_state: Some(a_conf_state()) })
        .expect("a disk without faults");
    drop(log);
    let segment = disk.contents(&dir.join("0000000000000000-0000000000000000.wal")).expect("the first segment");
    let end = segment.iter().rposition(|byte| *byte != 0).expect("records") + 1;
    seed("wal_segment", "whole", &segment[..end.next_multiple_of(8) + 64]);
    seed("wal_segment", "torn", &segment[..end - 9]);
    seed("wal_segment", "uneven", &segment[..end.next_multiple_of(8) + 3]);

    let record = |kind: u8, data: &[u8]| {
        let len = u16::try_from(data.len()).expect("a short record").to_be_bytes();
        [&[kind, 0][..], &len, data].concat()
    };
    let first = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None }.encode_to_vec();
    let mut log = [&[0][..], &record(1, b"m"), &record(5, &first)].concat();
    entries().iter().for_each(|entry| log.extend(record(2, &entry.encode_to_vec())));
    log.extend(record(3, &state(3).encode_to_vec()));
    seed("wal_records", "one", &log);
    log.extend([&[0, 1][..], &record(1, b"m"), &record(3, &state(3).encode_to_vec())].concat());
    let later = walpb::Snapshot { index: Some(9), term: Some(2), conf_state: Some(a_conf_state()) };
    log.extend(record(5, &later.encode_to_vec()));
    log.extend(record(2, &Entry { term: Some(2), index: Some(10), ..Default::default() }.encode_to_vec()));
    let extreme = |index| {
        let mark = walpb::Snapshot { index: Some(index), term: Some(1), conf_state: Some(a_conf_state()) };
        let entry = |index| Entry { term: Some(1), index: Some(index), ..Default::default() };
        let state = HardState { term: Some(u64::MAX), vote: Some(0), commit: Some(index) };
        [
            vec![0],
            record(1, b"m"),
            record(5, &first),
            record(5, &mark.encode_to_vec()),
            record(3, &state.encode_to_vec()),
            record(2, &entry(index).encode_to_vec()),
            record(2, &entry(index.wrapping_add(1)).encode_to_vec()),
        ]
        .concat()
    };
    seed("wal_records", "last", extreme(u64::MAX));
    seed("wal_records", "before_last", extreme(u64::MAX - 1));
    let jumped = HardState { term: Some(2), vote: Some(0), commit: Some(9) };
    log.extend(record(3, &jumped.encode_to_vec()));
    seed("wal_records", "two", &log);
}

fn a_membership() -> Membership {
    let member = MemberRecord {
        id: 7,
        name: "m1".into(),
        peer_urls: vec!["http://127.0.0.1:2380".into()],
        client_urls: vec![],
        is_learner: false,
    };
    Membership { members: vec![member], removed: vec![5], cluster_version: Some("3.7.0".into()) }
}

fn snapshots() {
    let disk = SimDisk::new();
    let dir = Path::new("/snap");
    let snapshots = Snapshots::open(Arc::new(disk.clone()), dir).expect("a disk without faults");
    let metadata = SnapshotMetadata { conf_state: Some(a_conf_state()), index: Some(9), term: Some(2) };
    let snapshot = Snapshot { data: Some(a_membership().to_snapshot_data().into()), metadata: Some(metadata) };
    snapshots.save(&snapshot).expect("a disk without faults");
    let file = disk.contents(&dir.join("0000000000000002-0000000000000009.snap")).expect("it was saved");
    seed("snapshot_file", "whole", &file);
    seed("snapshot_file", "content", Snapshot { data: Some("{}".into()), ..snapshot }.encode_to_vec());
}

fn databases() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/")).expect("a disk without faults");
    let options = db::Options { page_size: 1024, growth: 0, disk: Arc::new(disk.clone()), ..Default::default() };
    let open = || Db::open("/db", options.clone()).expect("a disk without faults");
    drop(open());
    let contents = || disk.contents(Path::new("/db")).expect("it is there");
    seed("db_file", "fresh", contents());
    let db = open();
    let mut txn = db.begin_write().expect("a new file");
    schema::create(&mut txn).expect("a new file");
    let facts =
        [schema::conf_state(&a_conf_state()), schema::storage_version("3.7.0"), schema::scheduled_compaction(3)];
    let members = a_membership().members;
    facts.iter().chain(&schema::applied(9, 2)).for_each(|value| value.put(&mut txn).expect("a value of the schema"));
    members.iter().map(schema::member).for_each(|value| value.put(&mut txn).expect("a value of the schema"));
    let mut scratch = Vec::new();
    for main in 2..=60 {
        let (revision, value) = (Revision { main, sub: 0 }, vec![b'v'; if main == 30 { 2000 } else { 5 }]);
        let put =
            Put { revision, create_revision: main, version: 1, lease: 0, key: &[b'a', main as u8], value: &value };
        let record = Version::put(put, &mut scratch);
        txn.bucket(schema::KEY).expect("it is there").put(&revision.to_bytes(), record.record()).expect("a short key");
    }
    txn.commit().expect("a disk without faults");
    seed("db_file", "written", contents());
    let mut txn = db.begin_write().expect("a file of ours");
    for main in 10..=20 {
        let key = Revision { main, sub: 0 }.to_bytes();
        txn.bucket(schema::KEY).expect("it is there").delete(&key).expect("it can be changed");
    }
    txn.commit().expect("a disk without faults");
    db.defragment().expect("a disk without faults");
    seed("db_file", "rewritten", contents());
}
