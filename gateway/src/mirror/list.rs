//! The list that a mirror begins with: all live records of its ranges at one revision.

use std::time::Duration;

use forebay_edge::{Body, grpc};
use forebay_keyspace::mirror::{Desync, Load, Ranges};
use forebay_proto::{
    KeyRange,
    etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse},
    mvccpb::KeyValue,
};
use prost::Message as _;
use tokio::time;
use tonic::{Code, Status};

use super::{caller::Caller, config::pair, identity::Identity};
use crate::replies::{self, Reply};

/// How much a page should hold: it stands in memory here and at the upstream.
const PAGE_BYTES: u64 = 2 << 20;
/// How many keys the first page has, and how many any page has at most.
const PAGE_KEYS: i64 = 500;
const PAGE_KEYS_MAX: i64 = 10_000;
/// How long a page may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a message of a stream may; the first ones are small.
const STALL_MAX: Duration = Duration::from_secs(5);

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    /// The upstream refused, or was not there.
    #[error(transparent)]
    Status(#[from] Status),
    /// The upstream said what cannot be.
    #[error(transparent)]
    Desync(#[from] Desync),
    /// It takes more memory than it may.
    #[error("the list does not fit")]
    TooLarge,
}

/// Lists the ranges as they were at `revision`. Gives up when the records take more than `max_bytes`.
pub(super) async fn list(
    caller: &Caller,
    identity: &Identity,
    ranges: Ranges,
    revision: i64,
    max_bytes: u64,
) -> Result<Load, ListError> {
    let wanted: Vec<KeyRange> = ranges.iter().collect();
    let mut lister = Lister { caller, identity, load: Load::new(ranges, revision), max_bytes };
    let mut can_stream = caller.can_stream_ranges();
    for range in &wanted {
        if can_stream && !lister.stream(range).await? {
            can_stream = false;
        }
        if !can_stream {
            lister.pages(range).await?;
        }
    }
    Ok(lister.load)
}

struct Lister<'a> {
    caller: &'a Caller,
    identity: &'a Identity,
    load: Load,
    max_bytes: u64,
}

impl Lister<'_> {
    /// One call for the whole range. Returns false if the upstream has no such call.
    async fn stream(&mut self, range: &KeyRange) -> Result<bool, ListError> {
        let (key, range_end) = pair(range);
        let request = RangeRequest { key, range_end, revision: self.load.revision(), ..Default::default() };
        let body = Body::full(grpc::encode(&request));
        let late = |_| Status::unavailable("the upstream's list stalls");
        let opened = time::timeout(STALL_MAX, self.caller.stream(RANGE_STREAM, body, self.identity)).await;
        let mut replies = opened.map_err(late)??;
        loop {
            let reply = time::timeout(STALL_MAX, replies.next()).await.map_err(late)?;
            match reply.map_err(|failure| Status::unavailable(failure.to_string()))? {
                Reply::Message(message) => {
                    let chunk = RangeStreamResponse::decode(message).map_err(unreadable)?;
                    self.add(&chunk.range_response.unwrap_or_default().kvs)?;
                }
                Reply::End(trailers) => {
                    let status = replies::status(&trailers);
                    return match status.code() {
                        Code::Ok => Ok(true),
                        Code::Unimplemented if self.load.is_empty() => Ok(false),
                        _ => Err(status.into()),
                    };
                }
            }
        }
    }

    async fn pages(&mut self, range: &KeyRange) -> Result<(), ListError> {
        let (mut key, range_end) = pair(range);
        let mut limit = PAGE_KEYS;
        loop {
            let revision = self.load.revision();
            let request = RangeRequest { key, range_end: range_end.clone(), revision, limit, ..Default::default() };
            let page: RangeResponse = self.caller.unary(RANGE, &request, self.identity, TIMEOUT).await?;
            self.add(&page.kvs)?;
            let Some(last) = page.kvs.last().filter(|_| page.more) else { return Ok(()) };
            key = [&last.key[..], b"\0"].concat().into();
            let bytes: u64 = page.kvs.iter().map(|kv| (kv.key.len() + kv.value.len()) as u64).sum();
            let each = bytes.div_ceil(page.kvs.len() as u64).max(1);
            limit = i64::try_from(PAGE_BYTES / each).unwrap_or(i64::MAX).clamp(1, PAGE_KEYS_MAX);
        }
    }

    fn add(&mut self, kvs: &[KeyValue]) -> Result<(), ListError> {
        for kv in kvs {
            self.load.add(kv)?;
        }
        if self.load.bytes() > self.max_bytes { Err(ListError::TooLarge) } else { Ok(()) }
    }
}

fn unreadable(error: prost::DecodeError) -> Status {
    Status::internal(format!("the upstream's list cannot be read: {error}"))
}
