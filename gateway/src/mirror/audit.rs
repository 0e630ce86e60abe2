//! Compares the mirror with the upstream, a page of keys at a time, at one revision that both have.
//!
//! What the feed checks is that each event continues what is known. This finds what that cannot: a list that left
//! something out, an event that never came for a key that did not change since, a bit that fell over in memory.

use std::time::Duration;

use bytes::Bytes;
use forebay_keyspace::{Version, eval::RangeResult, mirror::MirrorReader};
use forebay_proto::{
    KeyRange,
    etcdserverpb::{RangeRequest, RangeResponse},
    mvccpb::KeyValue,
};

use super::{caller::Caller, config::pair, identity::Identity};

/// How often a page is compared.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// How many keys a page has: little enough that nobody notices.
const PAGE_KEYS: i64 = 500;
/// How long the upstream may take for it.
const TIMEOUT: Duration = Duration::from_secs(10);

const RANGE: &str = "/etcdserverpb.KV/Range";

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audited {
    Same,
    Different,
    /// There was nothing to compare: the upstream did not answer, or the revision was compacted meanwhile.
    Skipped,
}

impl Audited {
    /// For metrics.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Audited::Same => "same",
            Audited::Different => "different",
            Audited::Skipped => "skipped",
        }
    }
}

/// Where the next page begins: a key, or the first one.
pub(super) type Cursor = Option<Bytes>;

/// Compares the page at the cursor; returns also where the next one begins.
pub(super) async fn audit(
    caller: &Caller,
    identity: &Identity,
    reader: &MirrorReader,
    cursor: Cursor,
) -> (Audited, Cursor) {
    let Some(range) = rest(reader, cursor.as_ref()) else { return (Audited::Skipped, None) };
    let (key, range_end) = pair(&range);
    let request = RangeRequest { key, range_end, limit: PAGE_KEYS, revision: reader.revision(), ..Default::default() };
    let Ok(theirs) = caller.unary::<RangeResponse>(RANGE, &request, identity, TIMEOUT).await else {
        return (Audited::Skipped, cursor);
    };
    let Ok(ours) = reader.range(&request) else { return (Audited::Skipped, cursor) };
    let last = theirs.kvs.last().map(|kv| [&kv.key[..], b"\0"].concat().into());
    let next = match (theirs.more, last) {
        (true, Some(next)) => Some(next),
        // The next of the ranges, or the first again.
        _ => behind(reader, &range),
    };
    let outcome = if is_same(&ours, &theirs) { Audited::Same } else { Audited::Different };
    (outcome, next)
}

/// What is left of the mirrored range that the cursor is in.
fn rest(reader: &MirrorReader, cursor: Option<&Bytes>) -> Option<KeyRange> {
    let Some(cursor) = cursor else { return reader.ranges().iter().next() };
    reader.ranges().iter().find(|range| !range.is_past(cursor)).map(|range| match range {
        KeyRange::Range(start, end) => KeyRange::Range(start.max(cursor.clone()), end),
        KeyRange::From(start) => KeyRange::From(start.max(cursor.clone())),
        KeyRange::Key(key) => KeyRange::Key(key),
    })
}

/// Where the mirrored range behind this one begins.
fn behind(reader: &MirrorReader, range: &KeyRange) -> Cursor {
    reader.ranges().iter().map(|next| pair(&next).0).find(|start| range.is_past(start))
}

fn is_same(ours: &RangeResult, theirs: &RangeResponse) -> bool {
    (ours.count, ours.more, ours.kvs.len()) == (theirs.count, theirs.more, theirs.kvs.len())
        && ours.kvs.iter().zip(&theirs.kvs).all(|(ours, theirs)| is_same_key(ours, theirs))
}

fn is_same_key(ours: &Version, theirs: &KeyValue) -> bool {
    let numbers = [ours.create_revision(), ours.mod_revision(), ours.version(), ours.lease()];
    ours.key() == &theirs.key[..]
        && ours.value() == &theirs.value[..]
        && numbers == [theirs.create_revision, theirs.mod_revision, theirs.version, theirs.lease]
}
