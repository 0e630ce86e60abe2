//! One page: its request, made from the client's, and its answer, cut without decoding.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_edge::{
    Response,
    grpc::{self, PREFIX},
};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use prost::encoding;

use crate::{
    admission::{
        answers::Refusal,
        memory::{Full, Reserved},
        scan::{Value, fields, next_field},
    },
    call::Failure,
    rescue,
};

/// Where a page begins.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// Behind the last key of the page before.
    pub(super) key: Bytes,
    /// The revision of the first page.
    pub(super) revision: i64,
}

/// The framed request of a page. Of a field that is given twice the last counts, so what a page
/// changes is written behind the client's message, and fields of later releases stay.
pub(super) fn request(message: &Bytes, start: Option<&Start>, limit: u64) -> Bytes {
    let mut more = BytesMut::with_capacity(64);
    if let Some(start) = start {
        encoding::bytes::encode(1, &start.key, &mut more);
        encoding::int64::encode(4, &start.revision, &mut more);
    }
    encoding::int64::encode(3, &i64::try_from(limit).unwrap_or(i64::MAX), &mut more);
    let mut frame = grpc::frame(message.len() + more.len());
    frame.put_slice(message);
    frame.put_slice(&more);
    frame.freeze()
}

/// The message of a page's answer, or the status that came instead. The memory for it is reserved
/// before it is read.
pub(super) async fn read(
    response: Response,
    reserved: &mut Reserved,
    patience: Duration,
) -> Result<Result<Bytes, HeaderMap>, Failure> {
    let (head, mut body) = response.into_parts();
    if rescue::code(&head.headers).is_some() {
        return Ok(Err(head.headers));
    }
    let mut prefix = BytesMut::new();
    let mut message: Option<BytesMut> = None;
    loop {
        let Some(frame) = body.frame().await else {
            return Err(Failure::Broken("the upstream ended its response without a status".into()));
        };
        let data = match frame.map_err(Failure::from_body)?.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return match message {
                    Some(message) if rescue::code(&trailers) == Some(tonic::Code::Ok) => Ok(Ok(message.freeze())),
                    _ => Ok(Err(trailers)),
                };
            }
        };
        if let Some(message) = &mut message {
            message.extend_from_slice(&data);
            continue;
        }
        prefix.extend_from_slice(&data);
        if let Some(&[flag, a, b, c, d]) = prefix.first_chunk::<PREFIX>() {
            if flag != 0 {
                return Err(Failure::Broken("the upstream compressed a list".into()));
            }
            let len = u32::from_be_bytes([a, b, c, d]) as usize;
            if let Err(Full) = reserved.grow(len, patience).await {
                return Ok(Err(no_room()));
            }
            let mut whole = BytesMut::with_capacity(len);
            whole.extend_from_slice(&prefix[PREFIX..]);
            message = Some(whole);
        }
    }
}

fn no_room() -> HeaderMap {
    Refusal::no_memory().response().into_parts().0.headers
}

/// A page's answer.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The fields before the records: the header.
    pub(super) before: Bytes,
    /// The records, one behind the other, each with its tag.
    pub(super) records: Bytes,
    /// The fields behind the records, but for `more`.
    pub(super) after: Bytes,
    pub(super) objects: u64,
    pub(super) more: bool,
    /// The revision in the header.
    pub(super) revision: i64,
    /// The key of the last record.
    pub(super) last_key: Bytes,
}

impl Page {
    /// Bytes of the records.
    pub(super) fn bytes(&self) -> u64 {
        self.records.len() as u64
    }
}

/// Cuts a `RangeResponse`; `None` if it is none, or has its records in several places.
pub(super) fn split(message: &Bytes) -> Option<Page> {
    let mut page = Page::default();
    let mut records = 0..0;
    let mut last_record: &[u8] = &[];
    let mut after = BytesMut::new();
    let mut rest = &message[..];
    while !rest.is_empty() {
        let begin = message.len() - rest.len();
        let (tag, value) = next_field(&mut rest)?;
        let end = message.len() - rest.len();
        match (tag, value) {
            (1, Value::Bytes(header)) if begin == 0 => {
                page.before = message.slice(..end);
                page.revision = revision(header)?;
            }
            (2, Value::Bytes(record)) => {
                if page.objects == 0 {
                    records.start = begin;
                } else if records.end != begin {
                    return None;
                }
                records.end = end;
                last_record = record;
                page.objects += 1;
            }
            (3, Value::Varint(more)) => page.more = more != 0,
            _ => after.put_slice(&message[begin..end]),
        }
    }
    fields(last_record, |tag, value| {
        if let (1, Value::Bytes(key)) = (tag, value) {
            page.last_key = message.slice_ref(key);
        }
        Some(())
    })?;
    page.records = message.slice(records);
    page.after = after.freeze();
    Some(page)
}

/// The revision in a `ResponseHeader`.
fn revision(header: &[u8]) -> Option<i64> {
    let mut revision = 0;
    fields(header, |tag, value| {
        if let (3, Value::Varint(number)) = (tag, value) {
            revision = number.cast_signed();
        }
        Some(())
    })?;
    Some(revision)
}
