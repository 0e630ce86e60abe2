//! Which methods are served, which are refused by name, and what is said about those that do not exist.

use forebay_edge::grpc;
use forebay_proto::{DESCRIPTORS, etcdserverpb::WatchCreateRequest};
use http::HeaderMap;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::support::{Node, metadata, refusal, watch_create};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// What the member serves. A method that is added to the protocol and not to this list must be refused by name.
const SERVED: [&str; 32] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    WATCH,
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Cluster/MemberAdd",
    "/etcdserverpb.Cluster/MemberRemove",
    "/etcdserverpb.Cluster/MemberUpdate",
    "/etcdserverpb.Cluster/MemberPromote",
    "/etcdserverpb.Maintenance/Alarm",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Defragment",
    "/etcdserverpb.Maintenance/Hash",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Maintenance/MoveLeader",
    "/etcdserverpb.Maintenance/Downgrade",
    "/v3lockpb.Lock/Lock",
    "/v3lockpb.Lock/Unlock",
    "/v3electionpb.Election/Campaign",
    "/v3electionpb.Election/Proclaim",
    "/v3electionpb.Election/Leader",
    "/v3electionpb.Election/Observe",
    "/v3electionpb.Election/Resign",
];

/// The path of every method of every service.
fn all_methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors decode");
    let mut paths = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let methods = service.method.iter();
            paths.extend(methods.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())));
        }
    }
    paths
}

#[tokio::test]
async fn every_method_of_the_protocol_is_served_or_refused_by_name() {
    let methods = all_methods();
    for served in SERVED {
        assert!(methods.iter().any(|method| method == served), "{served} is no method");
    }
    let node = Node::start().await;
    for path in &methods {
        // Some wait until there is something to say.
        let mut call = node.open_with(path, metadata("grpc-timeout", b"200m")).await;
        match &path[..] {
            // It answers nothing before it is asked for something.
            WATCH => call.send(&watch_create(WatchCreateRequest::default())),
            _ => call.send_bytes(grpc::encode(&())),
        }
        call.half_close();
        let answer = call.next_bytes().await;
        if SERVED.contains(&&path[..]) {
            let unimplemented = answer.is_err_and(|status| status.code() == Code::Unimplemented);
            assert!(!unimplemented, "{path} is to be served");
        } else {
            let text = format!("forebay: {} is not implemented yet", &path[1..]);
            assert_eq!(refusal(answer), (Code::Unimplemented, text));
        }
    }
}

#[tokio::test]
async fn a_method_that_is_refused_is_refused_before_its_request_is_read() {
    let node = Node::start().await;
    let mut call = node.open("/etcdserverpb.Auth/AuthEnable").await;
    let text = "forebay: etcdserverpb.Auth/AuthEnable is not implemented yet".to_owned();
    assert_eq!(refusal(call.next_bytes().await), (Code::Unimplemented, text));
}

#[tokio::test]
async fn what_does_not_exist_is_refused_with_the_words_of_grpc_go() {
    let node = Node::start().await;
    for (path, text) in [
        ("/etcdserverpb.KV/Get", "unknown method Get for service etcdserverpb.KV"),
        ("/etcdserverpb.KV/range", "unknown method range for service etcdserverpb.KV"),
        ("/etcdserverpb.KV/", "unknown method  for service etcdserverpb.KV"),
        ("/etcdserverpb.Auth/Login", "unknown method Login for service etcdserverpb.Auth"),
        ("/v3lockpb.Lock/TryLock", "unknown method TryLock for service v3lockpb.Lock"),
        ("/grpc.health.v1.Health/List", "unknown method List for service grpc.health.v1.Health"),
        ("/etcdserverpb.Nothing/Range", "unknown service etcdserverpb.Nothing"),
        ("/etcdserverpb.kv/Range", "unknown service etcdserverpb.kv"),
        ("/a/b/c", "unknown service a/b"),
        ("/nothing", "malformed method name: \"/nothing\""),
        ("/", "malformed method name: \"/\""),
    ] {
        let answer = node.call::<()>(path, &()).await;
        assert_eq!(refusal(answer), (Code::Unimplemented, text.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn the_standard_health_service_says_that_the_member_serves() {
    let node = Node::start().await;
    let check = |service: &[u8]| {
        let message = if service.is_empty() { Vec::new() } else { [&[0x0a, service.len() as u8], service].concat() };
        let frame = [&grpc::frame(message.len())[..], &message].concat();
        node.send_bytes("/grpc.health.v1.Health/Check", HeaderMap::new(), frame)
    };
    assert_eq!(&check(b"").await.unwrap()[..], b"\x08\x01");
    assert_eq!(refusal(check(b"etcdserverpb.KV").await), (Code::NotFound, "unknown service".to_owned()));
}
