//! RangeStream.

use bytes::{Bytes, BytesMut};
use forebay_keyspace::{
    CompactStep, Keyspace,
    check::{self, RangeStreamError},
    eval::{self, RangeChunk, RangeChunks},
};
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader},
};
use prost::Message as _;

const TARGET_BYTES: usize = 4000;

fn filled(keys: usize, value_len: usize) -> Keyspace {
    let mut keyspace = Keyspace::new();
    for number in 0..keys {
        keyspace.write().put(format!("{number:04}").as_bytes(), &vec![b'v'; value_len], 0);
    }
    keyspace.publish();
    keyspace
}

fn everything() -> RangeRequest {
    RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Default::default() }
}

fn stream(keyspace: &Keyspace, request: &RangeRequest) -> RangeChunks {
    assert_eq!(check::range_stream(request), Ok(()));
    RangeChunks::new(keyspace.reader(), request.clone(), TARGET_BYTES)
}

fn message(chunk: &RangeChunk) -> RangeResponse {
    let mut out = BytesMut::new();
    chunk.encode(&ResponseHeader { cluster_id: 1, member_id: 2, raft_term: 3, ..Default::default() }, &mut out);
    let message = RangeStreamResponse::decode(&out[..]).unwrap();
    assert_eq!(out, message.encode_to_vec());
    message.range_response.expect("every chunk has a range")
}

fn messages(chunks: RangeChunks) -> Vec<RangeResponse> {
    chunks.map(|chunk| message(&chunk.unwrap())).collect()
}

fn sizes(messages: &[RangeResponse]) -> Vec<usize> {
    messages.iter().map(|message| message.kvs.len()).collect()
}

#[test]
fn the_chunks_together_are_the_range() {
    let keyspace = filled(500, 30);
    for limit in [0, 1, 10, 11, 333, 500, 501] {
        for (start, end) in [("\0", "\0"), ("0100", "0200"), ("0100", ""), ("9", "1")] {
            for keys_only in [false, true] {
                let (key, range_end) = (start.into(), end.into());
                let request = RangeRequest { key, range_end, limit, keys_only, ..Default::default() };
                let range = keyspace.reader().evaluate(|snapshot| eval::range(snapshot, &request)).unwrap();
                let messages = messages(stream(&keyspace, &request));
                let (last, others) = messages.split_last().unwrap();
                let header = last.header.expect("the last chunk has the header");
                assert_eq!((header.cluster_id, header.member_id, header.revision, header.raft_term), (1, 2, 501, 3));
                assert_eq!((last.more, last.count), (range.more, range.count), "{request:?}");
                assert!(others.iter().all(|other| (other.header, other.more, other.count) == (None, false, 0)));
                let streamed = messages.iter().flat_map(|message| &message.kvs).map(|kv| kv.encode_to_vec());
                let mut ranged = range.kvs.iter().map(|version| {
                    let mut record = Vec::new();
                    version.write(range.form, &mut record);
                    record
                });
                assert!(streamed.eq(&mut ranged), "{request:?}");
            }
        }
    }
}

#[test]
fn chunks_grow_and_shrink_towards_the_size_of_a_request() {
    assert_eq!(sizes(&messages(stream(&filled(400, 30), &everything()))), [10, 20, 40, 80, 80, 80, 80, 10]);
    assert_eq!(sizes(&messages(stream(&filled(20, 5000), &everything()))), [10, 5, 2, 1, 1, 1]);
    assert_eq!(sizes(&messages(stream(&filled(0, 0), &everything()))), [0]);
    let count_only = RangeRequest { count_only: true, ..everything() };
    let counted = messages(stream(&filled(50, 0), &count_only));
    assert_eq!((sizes(&counted), counted[0].count), (vec![0], 50));
}

#[test]
fn a_stream_stays_at_the_revision_it_began_at() {
    let mut keyspace = filled(100, 0);
    let mut chunks = stream(&keyspace, &everything());
    let first = message(&chunks.next().unwrap().unwrap());
    keyspace.write().put(b"0050", b"changed", 0);
    keyspace.write().put(b"zz", b"new", 0);
    keyspace.write().delete_range(&KeyRange::new("0060".into(), "0070".into()));
    keyspace.publish();
    let rest = messages(chunks);
    assert_eq!(first.kvs.len() + sizes(&rest).iter().sum::<usize>(), 100);
    assert!(rest.iter().flat_map(|message| &message.kvs).all(|kv| kv.mod_revision <= 101));
    let last = rest.last().unwrap();
    assert_eq!((last.header.unwrap().revision, last.count), (101, 100));
}

#[test]
fn a_compaction_ends_the_streams_it_overtakes() {
    let mut keyspace = filled(100, 0);
    let mut overtaken = stream(&keyspace, &everything());
    overtaken.next().unwrap().unwrap();
    keyspace.write().put(b"0050", b"changed", 0);
    keyspace.publish();
    let mut current = stream(&keyspace, &everything());
    current.next().unwrap().unwrap();
    keyspace.compact(102).unwrap();
    keyspace.publish();
    assert!(matches!(keyspace.compact_step(1000), CompactStep::Finished(102, _)));
    assert_eq!(overtaken.next().unwrap().unwrap_err(), Error::Compacted);
    assert!(overtaken.next().is_none(), "an error is the last thing a stream says");
    assert!(current.all(|chunk| chunk.is_ok()));
}

#[test]
fn a_stream_is_refused_what_needs_all_keys_at_once() {
    let refused = |request: RangeRequest| check::range_stream(&request).unwrap_err().to_string();
    assert_eq!(
        refused(RangeRequest { sort_order: 2, ..everything() }),
        "RangeStream does not support custom sort orders"
    );
    assert_eq!(
        refused(RangeRequest { min_mod_revision: 1, ..everything() }),
        "RangeStream does not support revision filters"
    );
    let unsorted = RangeRequest { sort_target: 1, ..everything() };
    assert_eq!(check::range_stream(&unsorted), Ok(()), "without an order the target says nothing");
    assert_eq!(check::range_stream(&RangeRequest::default()), Err(RangeStreamError::Range(Error::EmptyKey)));
    let keyspace = filled(1, 0);
    let at = |revision| stream(&keyspace, &RangeRequest { revision, ..everything() }).next().unwrap();
    assert_eq!(at(3).unwrap_err(), Error::FutureRev);
    assert!(at(1).is_ok());
}
