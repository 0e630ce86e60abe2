//! How large a request may be.

use bytes::Bytes;
use forebay_edge::grpc;
use forebay_proto::{
    Error,
    etcdserverpb::{request_op::Request as Op, *},
};
use http::HeaderMap;
use prost::Message;
use tonic::Code;

use crate::support::{Node, all, error, get, op, put, refusal, watch_create, watching};

/// etcd's default.
const REQUEST_MAX: usize = 1_572_864;
/// What a message may be larger than the request it carries.
const MESSAGE_MAX: usize = REQUEST_MAX + (512 << 10);

fn sized_put(len: usize) -> PutRequest {
    PutRequest { value: Bytes::from(vec![b'v'; len]), ..put("k", "") }
}

fn sized_txn(len: usize) -> TxnRequest {
    all(vec![op(Op::RequestPut(sized_put(len)))])
}

/// The size of a proposal as this member would make it. Ids of requests begin with the low bits of the member's.
fn proposal_len(node: &Node, request: InternalRaftRequest) -> usize {
    let header = RequestHeader { id: node.member.id() << 48 | 1, ..RequestHeader::default() };
    InternalRaftRequest { header: Some(header), ..request }.encoded_len()
}

/// The longest value with which something is within `max` bytes.
fn longest(max: usize, size: impl Fn(usize) -> usize) -> usize {
    (0..=max).rev().find(|len| size(*len) <= max).expect("an empty value fits")
}

fn too_large_message(len: usize) -> (Code, String) {
    (Code::ResourceExhausted, format!("grpc: received message larger than max ({len} vs. {MESSAGE_MAX})"))
}

#[tokio::test]
async fn a_proposal_may_be_as_large_as_the_limit_and_not_a_byte_more() {
    for max in [REQUEST_MAX, 1000] {
        let node = Node::with(|config| config.max_request_bytes = max).await;
        let of_put = |len| InternalRaftRequest { put: Some(sized_put(len)), ..Default::default() };
        let fits = longest(max, |len| proposal_len(&node, of_put(len)));
        assert_eq!(proposal_len(&node, of_put(fits)), max, "there is a put of exactly the limit");
        node.put(sized_put(fits)).await.unwrap();
        assert_eq!(node.range(get("k")).await.unwrap().kvs[0].value.len(), fits);
        assert_eq!(refusal(node.put(sized_put(fits + 1)).await), error(Error::RequestTooLarge));

        let of_txn = |len| InternalRaftRequest { txn: Some(sized_txn(len)), ..Default::default() };
        let fits = longest(max, |len| proposal_len(&node, of_txn(len)));
        node.txn(sized_txn(fits)).await.unwrap();
        assert_eq!(refusal(node.txn(sized_txn(fits + 1)).await), error(Error::RequestTooLarge));

        let long_key = |len| DeleteRangeRequest { key: Bytes::from(vec![b'k'; len]), ..Default::default() };
        let of_delete = |len| InternalRaftRequest { delete_range: Some(long_key(len)), ..Default::default() };
        let fits = longest(max, |len| proposal_len(&node, of_delete(len)));
        assert_eq!(node.delete(long_key(fits)).await.unwrap().deleted, 0);
        assert_eq!(refusal(node.delete(long_key(fits + 1)).await), error(Error::RequestTooLarge));
        assert_eq!(node.revision().await, 3, "what is refused changes nothing");
    }
}

#[tokio::test]
async fn a_message_beyond_the_transport_limit_is_refused_by_the_transport() {
    let node = Node::start().await;
    let fits = longest(MESSAGE_MAX, |len| sized_put(len).encoded_len());
    let largest = sized_put(fits);
    assert_eq!(largest.encoded_len(), MESSAGE_MAX);
    assert_eq!(refusal(node.put(largest).await), error(Error::RequestTooLarge));
    let larger = sized_put(fits + 1);
    let len = larger.encoded_len();
    assert_eq!(refusal(node.put(larger).await), too_large_message(len));
}

#[tokio::test]
async fn what_is_not_proposed_is_bounded_by_the_transport_alone() {
    let node = Node::start().await;
    let long_key = |len| RangeRequest { key: Bytes::from(vec![b'k'; len]), ..Default::default() };
    let fits = longest(MESSAGE_MAX, |len| long_key(len).encoded_len());
    assert_eq!(node.range(long_key(fits)).await.unwrap().count, 0);
    let len = long_key(fits + 1).encoded_len();
    assert_eq!(refusal(node.range(long_key(fits + 1)).await), too_large_message(len));
    let reads = all(vec![op(Op::RequestRange(long_key(REQUEST_MAX + 1)))]);
    assert!(node.txn(reads).await.unwrap().succeeded);
}

#[tokio::test]
async fn a_length_is_refused_before_its_bytes_arrive() {
    let node = Node::start().await;
    for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        for len in [MESSAGE_MAX as u32 + 1, i32::MAX as u32, u32::MAX] {
            let mut call = node.open(path).await;
            call.send_bytes([&[0][..], &len.to_be_bytes()].concat().into());
            // Nothing follows, and nothing is waited for.
            assert_eq!(refusal(call.next_bytes().await), too_large_message(len as usize), "{path}");
        }
    }
}

#[tokio::test]
async fn a_large_message_on_a_stream_ends_that_stream_alone() {
    let node = Node::start().await;
    let mut watch = node.watcher(watching("k")).await;
    let long_key = WatchCreateRequest { key: Bytes::from(vec![b'k'; MESSAGE_MAX]), ..Default::default() };
    let message = watch_create(long_key);
    watch.send(&message);
    assert_eq!(refusal(watch.next::<WatchResponse>().await), too_large_message(message.encoded_len()));
    let mut other = node.watcher(watching("k")).await;
    node.put(put("k", "1")).await.unwrap();
    assert_eq!(other.events().await.events.len(), 1);
}

#[tokio::test]
async fn a_request_may_come_in_pieces_of_any_size() {
    let node = Node::start().await;
    let frame = grpc::encode(&sized_put(1000));
    for piece in [1, 4, 5, 6, 333, frame.len() - 1] {
        let mut call = node.open_with("/etcdserverpb.KV/Put", HeaderMap::new()).await;
        for start in (0..frame.len()).step_by(piece) {
            call.send_bytes(frame.slice(start..frame.len().min(start + piece)));
        }
        call.half_close();
        let answer = PutResponse::decode(call.next_bytes().await.unwrap()).unwrap();
        assert!(answer.header.is_some());
    }
    assert_eq!(node.revision().await, 7);
}

#[tokio::test]
async fn an_answer_is_as_large_as_it_must_be() {
    let node = Node::start().await;
    for n in 0..6 {
        let key = Bytes::from(format!("k{n}"));
        node.put(PutRequest { key, ..sized_put(1 << 20) }).await.unwrap();
    }
    let kvs = node.everything().await;
    assert!(kvs.len() == 6 && kvs.iter().all(|kv| kv.value.len() == 1 << 20));
}
