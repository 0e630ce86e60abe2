//! Requests to the key-value API, from their bytes to their answers.

use bytes::BytesMut;
use forebay_keyspace::{
    CompactStep, Keyspace, check,
    eval::{self, Response},
};
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{
        DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
        TxnRequest, TxnResponse,
    },
};
use prost::Message;

/// Every request is refused or answered, by a message of the length that was said.
///
/// Input: a byte that says the method, then the bytes of its request.
pub fn requests(data: &[u8]) {
    let Some((method, bytes)) = data.split_first() else { return };
    let mut keyspace = store();
    match method % 4 {
        0 => {
            let Ok(request) = RangeRequest::decode(bytes) else { return };
            let streamable = check::range_stream(&request);
            if check::range(&request).is_err() {
                return assert!(streamable.is_err(), "what Range refuses RangeStream refuses");
            }
            let reader = keyspace.reader();
            let result = reader.evaluate(|snapshot| eval::range(snapshot, &request));
            let answered = result.map(|result| written::<RangeResponse>(&result));
            check_range(&request, answered.as_ref());
            if streamable.is_ok() {
                let chunks: Result<Vec<_>, _> = eval::RangeChunks::new(reader, request, 16).collect();
                assert_eq!(chunks.err(), answered.err());
            }
        }
        1 => {
            let Ok(request) = PutRequest::decode(bytes) else { return };
            if check::put(&request).is_ok() {
                let result = eval::put(&mut keyspace.write(), &leases, &request);
                drop(result.map(|result| written::<PutResponse>(&result)));
            }
        }
        2 => {
            let Ok(request) = DeleteRangeRequest::decode(bytes) else { return };
            if check::delete_range(&request).is_ok() {
                let result = eval::delete_range(&mut keyspace.write(), &request);
                let response: DeleteRangeResponse = written(&result);
                assert!(response.prev_kvs.is_empty() || response.prev_kvs.len() as i64 == response.deleted);
            }
        }
        _ => {
            let Ok(request) = TxnRequest::decode(bytes) else { return };
            if check::txn(&request, 128).is_err() {
                return;
            }
            let before = keyspace.revision();
            let result = if eval::is_read_only(&request) {
                keyspace.reader().evaluate(|snapshot| eval::txn_read(snapshot, &request))
            } else {
                eval::txn(&mut keyspace.write(), &leases, &request)
            };
            let response = result.map(|result| written::<TxnResponse>(&result));
            match &response {
                Err(_) => assert_eq!(keyspace.revision(), before, "what is refused changes nothing"),
                Ok(response) => assert_eq!(response.header.unwrap_or_default().revision, keyspace.revision()),
            }
        }
    }
    keyspace.publish();
}

/// Keys `a` to `f`, some of them changed and deleted, compacted at revision 5 of 12.
fn store() -> Keyspace {
    let mut keyspace = Keyspace::new();
    let put = |keyspace: &mut Keyspace, key: &[u8]| drop(keyspace.write().put(key, b"value", 0));
    for key in [b"a", b"b", b"c", b"a", b"d", b"e", b"f", b"a", b"b"] {
        put(&mut keyspace, key);
    }
    keyspace.write().delete_range(&KeyRange::Key("c".into()));
    put(&mut keyspace, b"c");
    keyspace.publish();
    drop(keyspace.compact(5));
    keyspace.publish();
    while !matches!(keyspace.compact_step(100), CompactStep::Idle) {}
    keyspace
}

fn leases(lease: i64) -> bool {
    lease < 8
}

fn written<M: Message + Default>(result: &impl Response) -> M {
    let base = ResponseHeader::default();
    let mut out = BytesMut::new();
    result.encode(&base, &mut out);
    assert_eq!(out.len(), result.encoded_len(&base));
    let message = M::decode(&out[..]).expect("a response is a message");
    assert_eq!(out, message.encode_to_vec(), "a response is written as prost would");
    message
}

fn check_range(request: &RangeRequest, answered: Result<&RangeResponse, &Error>) {
    let Ok(response) = answered else { return };
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    assert!(response.kvs.iter().all(|kv| range.contains(&kv.key)));
    assert!(request.limit <= 0 || response.kvs.len() as i64 <= request.limit);
    assert!(response.count >= response.kvs.len() as i64 && (!request.count_only || response.kvs.is_empty()));
    assert!(!request.keys_only || response.kvs.iter().all(|kv| kv.value.is_empty()));
}
