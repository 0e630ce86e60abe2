//! RangeStream: a range in pieces that are small enough for the client to take one at a time.

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{RangeRequest, ResponseHeader},
};

use super::{
    range::{RangeResult, form, limit, page, range},
    response::{RANGE_KVS, Response as _, kvs_len, write_kvs},
};
use crate::{
    reader::{Reader, View},
    record::{Form, Version},
    varint::{message_field_len, put_message_head},
};

/// How many keys the first chunk may have.
const FIRST_LIMIT: usize = 10;

/// The field of `RangeStreamResponse` that holds the `RangeResponse`.
const RANGE_RESPONSE: u8 = 1;

/// The chunks of a range, all of one revision. A compaction that overtakes it ends it with an error.
#[derive(Debug)]
pub struct RangeChunks {
    reader: Reader,
    request: RangeRequest,
    form: Form,
    pace: Pace,
    state: State,
}

/// How large chunks are made.
#[derive(Debug)]
struct Pace {
    /// How many bytes a chunk should have, roughly.
    target_bytes: usize,
    /// The most keys the next chunk may have, for its size's sake.
    limit: usize,
}

impl Pace {
    fn new(request: &RangeRequest, target_bytes: usize) -> Pace {
        // etcd cuts chunks by the smaller of both limits, so that a negative one means everything at once.
        let limit = if request.limit < 0 { usize::MAX } else { FIRST_LIMIT };
        Pace { target_bytes, limit }
    }

    /// A chunk had this many bytes, and there is another to come.
    fn sent(&mut self, bytes: usize) {
        self.limit = match bytes {
            _ if bytes < self.target_bytes / 2 => self.limit.saturating_mul(2),
            _ if bytes > self.target_bytes.saturating_mul(2) => (self.limit / 2).max(1),
            _ => self.limit,
        };
    }
}

#[derive(Debug)]
enum State {
    Begin,
    Amid(Cursor),
    Ended,
}

/// Where the stream is.
#[derive(Debug)]
struct Cursor {
    view: View,
    /// The revision it reads at.
    at: i64,
    /// What is left of the range.
    rest: KeyRange,
    sent: usize,
}

/// One message of a RangeStream.
#[derive(Clone, Debug)]
pub enum RangeChunk {
    /// Keys, and more to come.
    Some(Vec<Version>, Form),
    /// The last keys, with all that comes once.
    Last(RangeResult),
}

impl RangeChunks {
    /// The chunks that answer a request. `target_bytes` is `--max-request-bytes`.
    pub fn new(reader: Reader, request: RangeRequest, target_bytes: usize) -> RangeChunks {
        let (form, pace) = (form(&request), Pace::new(&request, target_bytes));
        RangeChunks { reader, request, form, pace, state: State::Begin }
    }

    fn begin(&mut self) -> Result<RangeChunk, Error> {
        if self.request.count_only {
            return self.reader.evaluate(|snapshot| range(snapshot, &self.request)).map(RangeChunk::Last);
        }
        loop {
            let view = self.reader.view();
            let at = match self.request.revision {
                asked if asked > 0 => view.evaluate(|snapshot| snapshot.at(asked))?,
                _ => view.revision(),
            };
            let rest = KeyRange::new(self.request.key.clone(), self.request.range_end.clone());
            match self.chunk(Cursor { view, at, rest, sent: 0 }) {
                // The view was overtaken before it was read, and any revision will do.
                Err(Error::Compacted) if self.request.revision <= 0 => {}
                result => return result,
            }
        }
    }

    fn chunk(&mut self, cursor: Cursor) -> Result<RangeChunk, Error> {
        let Cursor { view, at, rest, sent } = cursor;
        let left = limit(self.request.limit) - sent;
        let selection = view.evaluate(|snapshot| Ok(page(snapshot, &rest, at, self.pace.limit.min(left))))?;
        let sent = sent + selection.kvs.len();
        let rest = match selection.kvs.last().filter(|_| selection.more) {
            Some(last) => behind(last.key(), rest),
            None => return Ok(self.end(&view, selection.kvs, false, sent)),
        };
        if selection.kvs.len() == left {
            let unsent = view.evaluate(|snapshot| Ok(snapshot.count(&rest, at)))?;
            return Ok(self.end(&view, selection.kvs, true, sent + unsent));
        }
        self.pace.sent(kvs_len(&selection.kvs, self.form));
        self.state = State::Amid(Cursor { view, at, rest, sent });
        Ok(RangeChunk::Some(selection.kvs, self.form))
    }

    fn end(&self, view: &View, kvs: Vec<Version>, more: bool, count: usize) -> RangeChunk {
        RangeChunk::Last(RangeResult { revision: view.revision(), kvs, form: self.form, more, count: count as i64 })
    }
}

/// What of a range lies behind a key.
fn behind(key: &[u8], range: KeyRange) -> KeyRange {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    let next: Bytes = next.freeze();
    match range {
        KeyRange::Range(_, end) => KeyRange::Range(next, end),
        KeyRange::From(_) => KeyRange::From(next),
        KeyRange::Key(_) => unreachable!("one key fits one chunk"),
    }
}

impl Iterator for RangeChunks {
    type Item = Result<RangeChunk, Error>;

    fn next(&mut self) -> Option<Result<RangeChunk, Error>> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Begin => Some(self.begin()),
            State::Amid(cursor) => Some(self.chunk(cursor)),
            State::Ended => None,
        }
    }
}

/// The chunks of a result that was evaluated at once: of a mirror, whose past may go while a client reads. It holds a
/// pointer for each key.
#[derive(Debug)]
pub struct ResultChunks {
    kvs: std::vec::IntoIter<Version>,
    /// How many bytes the keys of the largest two neighbouring chunks take.
    largest_two: usize,
    /// The result without its keys; taken with the last chunk.
    rest: Option<RangeResult>,
    pace: Pace,
}

impl ResultChunks {
    /// The chunks of what `request` selects in the order of keys.
    pub(crate) fn new(mut result: RangeResult, request: &RangeRequest, target_bytes: usize) -> ResultChunks {
        let kvs = std::mem::take(&mut result.kvs);
        let form = form(request);
        let (mut rest, mut pace) = (&kvs[..], Pace::new(request, target_bytes));
        let (mut before, mut largest_two) = (0, 0);
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(pace.limit.min(rest.len()));
            let bytes = kvs_len(chunk, form);
            largest_two = largest_two.max(before + bytes);
            pace.sent(bytes);
            (before, rest) = (bytes, behind);
        }
        let rest = Some(RangeResult { form, ..result });
        ResultChunks { kvs: kvs.into_iter(), largest_two, rest, pace: Pace::new(request, target_bytes) }
    }

    /// How many bytes it takes all the while, the records themselves left aside, if two chunks at most are written and not
    /// sent.
    pub fn memory(&self) -> usize {
        self.kvs.len() * size_of::<Version>() + self.largest_two
    }
}

impl Iterator for ResultChunks {
    type Item = RangeChunk;

    fn next(&mut self) -> Option<RangeChunk> {
        let form = self.rest.as_ref()?.form;
        let kvs: Vec<Version> = self.kvs.by_ref().take(self.pace.limit).collect();
        if self.kvs.len() == 0 {
            return self.rest.take().map(|rest| RangeChunk::Last(RangeResult { kvs, ..rest }));
        }
        self.pace.sent(kvs_len(&kvs, form));
        Some(RangeChunk::Some(kvs, form))
    }
}

impl RangeChunk {
    /// How long the `RangeStreamResponse` is, with a header like `base`.
    pub fn encoded_len(&self, base: &ResponseHeader) -> usize {
        message_field_len(self.response_len(base))
    }

    fn response_len(&self, base: &ResponseHeader) -> usize {
        match self {
            RangeChunk::Some(kvs, form) => kvs_len(kvs, *form),
            RangeChunk::Last(result) => result.encoded_len(base),
        }
    }

    /// Writes the `RangeStreamResponse`. Only the last chunk has a header: `base`, with the stream's revision.
    pub fn encode(&self, base: &ResponseHeader, out: &mut BytesMut) {
        let len = self.response_len(base);
        out.reserve(message_field_len(len));
        put_message_head(RANGE_RESPONSE, len, out);
        match self {
            RangeChunk::Some(kvs, form) => write_kvs(RANGE_KVS, kvs, *form, out),
            RangeChunk::Last(result) => result.encode(base, out),
        }
    }
}
