//! Range results on their way to a client, of a member's keyspace and a gateway's mirror alike.
//!
//! A response is one gRPC message, whatever it holds, and a list of everything is hundreds of
//! megabytes. Its length is known before any of it is written, so it is written piece by piece as
//! the client takes it: what waits is a pointer for each key, and the records are the keyspace's own.

use std::{
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_keyspace::{
    Form, Version, check,
    eval::{RangeChunk, RangeResult, Response as _},
};
use forebay_proto::{
    Error,
    etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader},
};
use futures::stream;
use http::HeaderMap;
use http_body::Frame;
use prost::Message as _;
use tokio::{sync::Semaphore, task::JoinError};
use tonic::Status;

use crate::{
    Body, BoxError, Response, grpc,
    listener::{Held, Memory},
};

/// The field of `RangeResponse` that holds the keys.
const KVS: u8 = 2;
/// The largest message that is sent; etcd's number.
const MESSAGE_MAX: usize = i32::MAX as usize;
/// How large a piece is, its last record left aside. A large value saves system calls, a small one
/// bounds what a slow client holds of a list.
const PIECE_BYTES: usize = 128 << 10;
/// Keys that a range reads on the thread of its request. More are read on a thread that may be kept
/// busy, so that other requests of this one are not.
const INLINE_KEYS: i64 = 10_000;

/// Whether evaluating a range is quick enough for the thread of its request. `count` evaluates a
/// request that only counts, if that can be answered.
pub fn is_quick(request: &RangeRequest, count: impl FnOnce(&RangeRequest) -> Option<i64>) -> bool {
    let by_limit = (1..=INLINE_KEYS).contains(&request.limit) && !check::has_revision_filters(request);
    request.range_end.is_empty() || by_limit && request.revision == 0 || {
        let counting = RangeRequest { count_only: true, revision: 0, limit: 0, ..request.clone() };
        count(&counting).is_some_and(|count| count <= INLINE_KEYS)
    }
}

/// Evaluates a range that is not quick, on another thread and in turn. Half of the processors do nothing else at most: when
/// many ask for much at once, those who ask for little are served meanwhile, and no more results wait to be written than
/// are being made.
pub async fn in_turn<T: Send + 'static>(evaluate: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Semaphore::new((processors / 2).max(1))
    });
    let turn = TURNS.acquire().await.expect("it is never closed");
    tokio::task::spawn_blocking(move || {
        // Who goes away meanwhile ends nothing of it.
        let _turn = turn;
        evaluate()
    })
    .await
}

/// Refuses a message that is larger than etcd sends.
pub fn check_len(len: usize) -> Result<(), Status> {
    if len <= MESSAGE_MAX {
        return Ok(());
    }
    let text = format!("grpc: trying to send message larger than max ({len} vs. {MESSAGE_MAX})");
    Err(Status::resource_exhausted(text))
}

/// The response to a Range, or that there is no memory for it. Of its header, the revision is the result's own and the
/// rest is `base`'s.
pub fn respond(result: RangeResult, base: &ResponseHeader, memory: &Memory) -> Response {
    let len = result.encoded_len(base);
    if let Err(status) = check_len(len) {
        return grpc::refuse(status);
    }
    // A client that opens its window by a byte has one piece in the connection's buffers and another behind it.
    let largest = result.kvs.iter().map(|version| version.len(result.form)).max().unwrap_or(0);
    let at_once = if memory.is_collecting() { len } else { (2 * (PIECE_BYTES + largest)).min(len) };
    let held = match memory.try_hold(result.kvs.capacity() * size_of::<Version>() + at_once) {
        Ok(held) => held,
        Err(too_many) => return grpc::refuse(too_many.into()),
    };
    if len <= PIECE_BYTES {
        let mut out = grpc::frame(len);
        result.encode(base, &mut out);
        return grpc::reply(out.freeze()).map(|body| body.holding(held));
    }
    let header = Some(result.header(base));
    let RangeResult { kvs, form, more, count, .. } = result;
    let mut head = BytesMut::from(&grpc::prefix(len)[..]);
    RangeResponse { header, ..Default::default() }.encode_raw(&mut head);
    let tail = RangeResponse { more, count, ..Default::default() }.encode_to_vec();
    let trailers = Some(grpc::trailers(&Status::ok("")));
    grpc::respond(Body::new(Pieces { head, kvs: kvs.into_iter(), form, tail, trailers, held }))
}

/// A message that is written as it is taken. Between two pieces it holds no buffer.
struct Pieces {
    /// What comes before the keys; empty once it was taken.
    head: BytesMut,
    kvs: std::vec::IntoIter<Version>,
    form: Form,
    /// What comes after the keys; empty once it was taken.
    tail: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// The memory of all this, which each piece has with it.
    held: Held,
}

impl Pieces {
    /// The next piece, in a buffer of its length; empty at the end.
    fn next(&mut self) -> Bytes {
        let (mut len, mut count) = (self.head.len(), 0);
        for version in self.kvs.as_slice() {
            if len >= PIECE_BYTES {
                break;
            }
            len += version.field_len(self.form);
            count += 1;
        }
        let is_last = count == self.kvs.len();
        let mut out = BytesMut::with_capacity(len + if is_last { self.tail.len() } else { 0 });
        out.put(std::mem::take(&mut self.head));
        self.kvs.by_ref().take(count).for_each(|version| version.write_field(KVS, self.form, &mut out));
        if is_last {
            out.put_slice(&std::mem::take(&mut self.tail));
        }
        self.held.clone().with(out.freeze())
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = self.next();
        let frame = match piece.is_empty() {
            true => self.trailers.take().map(Frame::trailers),
            false => Some(Frame::data(piece)),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none()
    }
}

/// The response to a RangeStream. `header` is asked for once, by the last chunk. `at_once` is how many bytes it takes all
/// the while, if that is known: who holds something does not wait for more. Otherwise each chunk waits for its own.
pub fn respond_stream(
    chunks: impl Iterator<Item = Result<RangeChunk, Error>> + Send + 'static,
    header: impl Fn() -> ResponseHeader + Send + 'static,
    at_once: Option<usize>,
    memory: Memory,
) -> Response {
    let room = match at_once.map(|bytes| memory.try_hold(bytes)).transpose() {
        Ok(room) => room,
        Err(too_many) => return grpc::refuse(too_many.into()),
    };
    let frames = stream::unfold(Some((chunks, header, memory, room)), |state| async {
        let (mut chunks, header, memory, room) = state?;
        // A chunk is at most a few megabytes; between two of them others have their turn.
        let chunk = match chunks.next()? {
            Ok(chunk) => chunk,
            Err(error) => return Some((Err(error.into()), None)),
        };
        let base = header();
        let len = chunk.encoded_len(&base);
        let held = match &room {
            Some(room) => room.clone(),
            None => memory.hold(len).await,
        };
        let mut out = grpc::frame(len);
        chunk.encode(&base, &mut out);
        tokio::task::yield_now().await;
        Some((Ok(held.with(out.freeze())), Some((chunks, header, memory, room))))
    });
    grpc::respond(Body::grpc_stream(frames))
}

#[cfg(test)]
mod tests {
    use forebay_keyspace::{
        Keyspace,
        eval::{self, RangeChunks},
        mirror::{Limits, Load, Mirror, Ranges},
    };
    use forebay_proto::etcdserverpb::RangeStreamResponse;
    use http_body_util::BodyExt as _;

    use super::*;

    const BASE: ResponseHeader = ResponseHeader { cluster_id: 1, member_id: 2, raft_term: 3, revision: 0 };

    fn keyspace(keys: usize, value_bytes: usize) -> Keyspace {
        let mut keyspace = Keyspace::new();
        let mut txn = keyspace.write();
        for key in 0..keys {
            txn.put(format!("key{key:05}").as_bytes(), &vec![b'v'; value_bytes], 7);
        }
        txn.end();
        keyspace.publish();
        keyspace
    }

    fn everything() -> RangeRequest {
        RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_response_in_pieces_is_the_one_that_etcd_would_encode() {
        for (keys, value_bytes) in [(0, 0), (3, 10), (1000, 1000), (2, 3 << 20)] {
            let request = RangeRequest { limit: 900, ..everything() };
            let reader = keyspace(keys, value_bytes).reader();
            let result = reader.evaluate(|snapshot| eval::range(snapshot, &request)).unwrap();
            let mut whole = BytesMut::new();
            result.encode(&BASE, &mut whole);
            let mut body = respond(result, &BASE, &Memory::default()).into_body();
            let (mut sent, mut trailers) = (BytesMut::new(), None);
            while let Some(frame) = body.frame().await {
                match frame.unwrap().into_data() {
                    Ok(data) => {
                        assert!(data.len() <= PIECE_BYTES + value_bytes + 100, "a piece goes beyond by one record");
                        sent.put_slice(&data);
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            assert_eq!(trailers.unwrap()["grpc-status"], "0");
            assert_eq!(sent[..grpc::PREFIX], grpc::prefix(whole.len()));
            assert!(sent[grpc::PREFIX..] == whole[..], "{keys} keys of {value_bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_response_weighs_what_it_holds_while_nobody_takes_it() {
        for (keys, value_bytes) in [(1, 300 << 10), (20, 1 << 20), (4000, 1000)] {
            let reader = keyspace(keys, value_bytes).reader();
            let result = reader.evaluate(|snapshot| eval::range(snapshot, &everything())).unwrap();
            let memory = Memory::with_budget(1 << 30);
            let mut body = respond(result, &BASE, &memory).into_body();
            let weight = memory.taken();
            // One that is in the connection's buffers, and the next.
            let mut held = Vec::new();
            for _ in 0..2 {
                let Some(Ok(Ok(piece))) = body.frame().await.map(|frame| frame.map(Frame::into_data)) else { break };
                held.push(piece);
            }
            let len: usize = held.iter().map(Bytes::len).sum();
            assert!(len <= weight && weight < len * 2 + 100_000, "{keys} of {value_bytes}: {len} of {weight}");
            // What is in the connection's buffers when the whole body was taken.
            let last = held.pop().unwrap().split_off(1);
            drop((body, held));
            assert_eq!(memory.taken(), weight);
            drop(last);
            assert_eq!(memory.taken(), 0);
        }
    }

    #[tokio::test]
    async fn a_chunk_of_a_stream_is_made_once_there_is_memory_for_it() {
        let reader = keyspace(30, 100 << 10).reader();
        let memory = Memory::with_budget(2 << 20);
        let chunks = |reader| RangeChunks::new(reader, everything(), 1 << 20);
        let stream = || respond_stream(chunks(reader.clone()), || BASE, None, memory.clone()).into_body();
        let (mut first, mut second) = (stream(), stream());
        let chunk = first.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(chunk.len() > 900 << 10 && memory.taken() >= chunk.len() - 10);
        let mut waits = Box::pin(second.frame());
        assert!(futures::poll!(&mut waits).is_pending());
        // Who asks for the next may have sent all but a byte, which keeps the whole chunk.
        let last = chunk.slice(chunk.len() - 1..);
        drop(chunk);
        assert!(futures::poll!(Box::pin(first.frame())).is_pending());
        drop(first);
        assert!(futures::poll!(&mut waits).is_pending());
        drop(last);
        assert!(waits.await.is_some());
        drop(second);
        assert_eq!(memory.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_holds_its_keys_has_room_for_its_chunks_and_waits_for_nothing() {
        const CHUNK: usize = 100 << 10;
        let keyspace = keyspace(3000, 1000);
        let mut load = Load::new(Ranges::all(), 2);
        let all = keyspace.reader().evaluate(|snapshot| eval::range(snapshot, &everything())).unwrap();
        let mut whole = BytesMut::new();
        all.encode(&BASE, &mut whole);
        RangeResponse::decode(whole).unwrap().kvs.iter().for_each(|kv| load.add(kv).unwrap());
        let mirror = Mirror::new(load, Limits { bytes: 0, revisions: 0 }, 0).unwrap();
        let memory = Memory::with_budget(4 << 20);
        let mut bodies = Vec::new();
        loop {
            let chunks = mirror.reader().range_chunks(&everything(), CHUNK).unwrap();
            let at_once = Some(chunks.memory());
            let response = respond_stream(chunks.map(Ok), || BASE, at_once, memory.clone());
            if response.headers().contains_key("grpc-status") {
                break;
            }
            bodies.push(response.into_body());
        }
        assert!(bodies.len() > 1 && memory.taken() > 3 << 20, "{} streams", bodies.len());
        // One after another, while all the others hold what they have.
        for body in &mut bodies {
            let mut last_two = [Bytes::new(), Bytes::new()];
            let patience = std::time::Duration::from_secs(1);
            while let Some(frame) = tokio::time::timeout(patience, body.frame()).await.expect("it does not wait") {
                let Ok(chunk) = frame.unwrap().into_data() else { break };
                last_two = [std::mem::take(&mut last_two[1]), chunk];
                let len: usize = last_two.iter().map(Bytes::len).sum();
                assert!(len <= 3000 * size_of::<Version>() + 4 * CHUNK, "{len}");
            }
        }
        drop(bodies);
        assert_eq!(memory.taken(), 0);
    }

    async fn streamed(response: Response) -> Vec<RangeResponse> {
        let mut messages =
            grpc::Messages::<RangeStreamResponse>::new(&HeaderMap::new(), response.into_body(), usize::MAX);
        let mut chunks = Vec::new();
        while let Some(message) = messages.next().await.unwrap() {
            chunks.push(message.range_response.unwrap());
        }
        chunks
    }

    #[tokio::test]
    async fn a_mirror_streams_a_range_in_the_chunks_of_a_member() {
        let keyspace = keyspace(700, 100);
        let mut load = Load::new(Ranges::all(), 2);
        let all = keyspace.reader().evaluate(|snapshot| eval::range(snapshot, &everything())).unwrap();
        let mut whole = BytesMut::new();
        all.encode(&BASE, &mut whole);
        RangeResponse::decode(whole).unwrap().kvs.iter().for_each(|kv| load.add(kv).unwrap());
        let mirror = Mirror::new(load, Limits { bytes: 0, revisions: 0 }, 0).unwrap();
        for request in [
            everything(),
            RangeRequest { limit: 250, ..everything() },
            RangeRequest { limit: -1, ..everything() },
            RangeRequest { limit: 700, keys_only: true, sort_target: 4, ..everything() },
            RangeRequest { limit: 30, sort_target: 1, ..everything() },
            RangeRequest { count_only: true, ..everything() },
            RangeRequest { key: "none".into(), range_end: "none0".into(), ..everything() },
        ] {
            let chunks = RangeChunks::new(keyspace.reader(), request.clone(), 2000);
            let member = streamed(respond_stream(chunks, || BASE, None, Memory::default())).await;
            let chunks = mirror.reader().range_chunks(&request, 2000).unwrap().map(Ok);
            assert_eq!(streamed(respond_stream(chunks, || BASE, None, Memory::default())).await, member, "{request:?}");
        }
    }

    #[tokio::test]
    async fn who_asks_for_much_waits_for_a_turn_and_keeps_it_to_the_end() {
        use std::sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |_| {
            let (now, most) = (now.clone(), most.clone());
            tokio::spawn(in_turn(move || {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(5));
                now.fetch_sub(1, SeqCst);
            }))
        };
        let (gone, staying): (Vec<_>, Vec<_>) = ((0..4 * processors).map(work).collect(), (0..4).map(work).collect());
        tokio::task::yield_now().await;
        gone.iter().for_each(tokio::task::JoinHandle::abort);
        for stays in staying {
            stays.await.unwrap().unwrap();
        }
        assert!((1..=(processors / 2).max(1)).contains(&most.load(SeqCst)), "{most:?} at once");
    }

    #[test]
    fn a_range_is_quick_if_few_keys_are_looked_at() {
        let count = |keys| move |_: &RangeRequest| Some(keys);
        assert!(is_quick(&RangeRequest { key: "a".into(), ..Default::default() }, |_| unreachable!("one key")));
        assert!(is_quick(&RangeRequest { limit: 500, ..everything() }, count(1 << 20)));
        assert!(!is_quick(&RangeRequest { limit: 500, min_mod_revision: 7, ..everything() }, count(1 << 20)));
        assert!(is_quick(&everything(), count(INLINE_KEYS)) && !is_quick(&everything(), count(INLINE_KEYS + 1)));
        assert!(!is_quick(&everything(), |_| None));
    }
}
