use tonic::Code;

use super::*;
use forebay_proto::etcdserverpb::PutRequest;
use futures::stream;

fn put(size: usize) -> PutRequest {
    PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from(vec![7; size]), ..Default::default() }
}

fn pieces(bytes: Bytes, size: usize) -> Body {
    let parts: Vec<Result<_, std::convert::Infallible>> =
        bytes.chunks(size).map(|part| Ok(http_body::Frame::data(Bytes::copy_from_slice(part)))).collect();
    Body::new(http_body_util::StreamBody::new(stream::iter(parts)))
}

async fn collect(body: Body, headers: HeaderMap, max: usize) -> Result<Vec<PutRequest>, Status> {
    let mut messages = Messages::<PutRequest>::new(&headers, body, max);
    let mut all = Vec::new();
    while let Some(message) = messages.next().await? {
        all.push(message);
    }
    Ok(all)
}

#[test]
fn what_has_come_of_a_message_is_known_however_the_network_cut_it() {
    let wire: Vec<u8> = [0, 1, 300, 7].iter().flat_map(|len| encode(&put(*len))).collect();
    for size in 1..wire.len() {
        let (mut follower, mut all, mut lens) = (Follower::default(), Pieces::default(), Vec::new());
        for piece in wire.chunks(size) {
            all.push(Bytes::copy_from_slice(piece));
            while let Some([_, a, b, c, d]) = all.peek_prefix()
                && all.take_message(u32::from_be_bytes([a, b, c, d]) as usize).is_some()
            {}
            assert_eq!(follower.read(piece, |len| lens.push(len)), all.len(), "pieces of {size}");
        }
        assert_eq!(lens, [0, 1, 300, 7].map(|len| put(len).encoded_len()), "pieces of {size}");
    }
}

#[tokio::test]
async fn messages_arrive_whole_however_the_network_cut_them() {
    let expected = vec![put(0), put(1), put(300), put(70_000)];
    let mut wire = BytesMut::new();
    for message in &expected {
        wire.extend_from_slice(&encode(message));
    }
    for size in [1, 2, 3, 5, 7, 64, 1000, 65_536, usize::MAX] {
        let body = pieces(wire.clone().freeze(), size.min(wire.len()));
        assert_eq!(collect(body, HeaderMap::new(), 1 << 20).await.unwrap(), expected, "pieces of {size}");
    }
    assert_eq!(collect(Body::full(wire.freeze()), HeaderMap::new(), 1 << 20).await.unwrap(), expected);
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_by_its_prefix_alone() {
    let mut prefix = BytesMut::new();
    prefix.put_u8(0);
    prefix.put_u32(u32::MAX);
    let status = collect(Body::full(prefix.freeze()), HeaderMap::new(), 2_097_152).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "grpc: received message larger than max (4294967295 vs. 2097152)");
}

#[tokio::test]
async fn a_cut_message_and_a_broken_one_are_internal_errors() {
    let wire = encode(&put(100));
    let cut = collect(Body::full(wire.slice(..50)), HeaderMap::new(), 1 << 20).await.unwrap_err();
    assert_eq!((cut.code(), cut.message()), (Code::Internal, "unexpected EOF"));
    let broken = Body::full(Bytes::from_static(b"\0\0\0\0\x02\x0a\x7f"));
    let broken = collect(broken, HeaderMap::new(), 1 << 20).await.unwrap_err();
    assert_eq!(broken.code(), Code::Internal);
    assert!(broken.message().starts_with("grpc: error unmarshalling request"), "{}", broken.message());
}

#[tokio::test]
async fn compression_is_refused_by_name() {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
    let status = collect(Body::full(Bytes::from_static(b"\x01\0\0\0\0")), headers, 10).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.message(), "grpc: Decompressor is not installed for grpc-encoding \"gzip\"");
}

#[test]
fn timeouts_have_grpcs_units() {
    let now = Instant::now();
    let read = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_static(text));
        deadline(&headers, now)
    };
    assert_eq!(read("5S").unwrap(), Some(now + Duration::from_secs(5)));
    assert_eq!(read("250m").unwrap(), Some(now + Duration::from_millis(250)));
    assert_eq!(read("1H").unwrap(), Some(now + Duration::from_secs(3600)));
    assert_eq!(read("99999999n").unwrap(), Some(now + Duration::from_nanos(99_999_999)));
    for bad in ["", "5", "S", "-1S", "999999999S", "5s", "5 S"] {
        assert_eq!(read(bad).unwrap_err().code(), Code::Internal, "{bad:?}");
    }
    assert_eq!(deadline(&HeaderMap::new(), now).unwrap(), None);
}

#[test]
fn an_unknown_path_is_named() {
    assert_eq!(unknown_method("/a.B/C").message(), "unknown service a.B");
    assert_eq!(unknown_method("/etcdserverpb.KV/Nope").message(), "unknown method Nope for service etcdserverpb.KV");
    assert_eq!(unknown_method("nonsense").message(), "malformed method name: \"nonsense\"");
}

#[test]
fn a_message_is_readable_on_the_wire() {
    let sent = |text: &str| trailers(&Status::unknown(text))["grpc-message"].to_str().unwrap().to_owned();
    assert_eq!(sent("etcdserver: key is not provided"), "etcdserver: key is not provided");
    assert_eq!(sent("50% of \u{fc}\n"), "50%25 of %C3%BC%0A");
    assert!(!trailers(&Status::ok("")).contains_key("grpc-message"));
}
