//! Which methods are served, and what is said about those that do not exist.

use forebay_edge::grpc;
use forebay_proto::{DESCRIPTORS, etcdserverpb::WatchCreateRequest};
use http::HeaderMap;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::support::{Node, metadata, refusal, watch_create};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

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
async fn every_method_of_the_protocol_is_served() {
    let node = Node::start().await;
    for path in all_methods() {
        // Some wait until there is something to say.
        let mut call = node.open_with(&path, metadata("grpc-timeout", b"200m")).await;
        match &path[..] {
            // It answers nothing before it is asked for something.
            WATCH => call.send(&watch_create(WatchCreateRequest::default())),
            _ => call.send_bytes(grpc::encode(&())),
        }
        call.half_close();
        let is_unimplemented = call.next_bytes().await.is_err_and(|status| status.code() == Code::Unimplemented);
        assert!(!is_unimplemented, "{path} is to be served");
    }
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
        node.send_bytes("/grpc.health.v1.Health/Check", HeaderMap::new(), grpc::framed(&message))
    };
    assert_eq!(&check(b"").await.unwrap()[..], b"\x08\x01");
    assert_eq!(refusal(check(b"etcdserverpb.KV").await), (Code::NotFound, "unknown service".to_owned()));
}
