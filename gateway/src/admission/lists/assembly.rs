//! Pages put together into one answer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_edge::{
    Body, Response,
    grpc::{self, PREFIX},
};
use forebay_proto::Error;
use http::HeaderMap;
use http_body::Frame;
use prost::encoding;
use tonic::Status;

use super::page::{Page, Start};
use crate::{admission::memory::Reserved, call::Failure, replies};

/// The pages so far.
pub(super) struct Assembly {
    reserved: Reserved,
    /// The revision that the client asked for; 0 for the present one.
    revision: i64,
    /// The first page's fields around its records.
    around: Option<(Bytes, Bytes)>,
    records: Vec<Bytes>,
    objects: u64,
    more: bool,
    /// Where the next page begins.
    next: Option<Start>,
}

impl Assembly {
    pub(super) fn new(reserved: Reserved, revision: i64) -> Assembly {
        let records = Vec::new();
        Assembly { reserved, revision, around: None, records, objects: 0, more: false, next: None }
    }

    pub(super) fn reserved(&mut self) -> &mut Reserved {
        &mut self.reserved
    }

    /// Where the next page begins; the first begins where the client's list does.
    pub(super) fn next(&self) -> Option<&Start> {
        self.next.as_ref()
    }

    /// Whether a page's status says that the revision was compacted since the first page.
    pub(super) fn is_overtaken(&self, status: &HeaderMap) -> bool {
        self.revision == 0 && self.next.is_some() && replies::status(status).message() == Error::Compacted.message()
    }

    pub(super) fn objects(&self) -> u64 {
        self.objects
    }

    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    pub(super) fn add(&mut self, page: Page) {
        let revision = match (&self.next, self.revision) {
            (Some(start), _) => start.revision,
            (None, 0) => page.revision,
            (None, asked) => asked,
        };
        let mut key = BytesMut::with_capacity(page.last_key.len() + 1);
        key.put_slice(&page.last_key);
        key.put_u8(0);
        self.next = Some(Start { key: key.freeze(), revision });
        self.objects += page.objects;
        // A page that holds nothing and promises more would be asked for again and again.
        self.more = page.more && page.objects > 0;
        self.around.get_or_insert((page.before, page.after));
        self.records.push(page.records);
    }

    /// The answer to the client.
    pub(super) fn finish(self) -> List {
        let (before, after) = self.around.unwrap_or_default();
        let mut tail = BytesMut::with_capacity(after.len() + 2);
        if self.more {
            encoding::bool::encode(3, &true, &mut tail);
        }
        tail.put_slice(&after);
        let len = before.len() + tail.len() + self.records.iter().map(Bytes::len).sum::<usize>();
        let Ok(prefixed) = u32::try_from(len) else { return List::too_large(len) };
        let mut first = BytesMut::with_capacity(PREFIX + before.len());
        first.put_u8(0);
        first.put_u32(prefixed);
        first.put_slice(&before);
        let mut pieces = Vec::with_capacity(self.records.len() + 2);
        pieces.push(first.freeze());
        pieces.extend(self.records);
        pieces.push(tail.freeze());
        pieces.retain(|piece| !piece.is_empty());
        List { pieces, trailers: grpc::trailers(&Status::ok("")), _reserved: Some(self.reserved) }
    }
}

/// An answer that any number of clients can be given.
pub(super) struct List {
    pieces: Vec<Bytes>,
    trailers: HeaderMap,
    /// Held until the last client has it.
    _reserved: Option<Reserved>,
}

impl List {
    /// The upstream answered a status.
    pub(super) fn status(status: HeaderMap) -> List {
        List { pieces: Vec::new(), trailers: status, _reserved: None }
    }

    /// gRPC has no room for it. etcd's own server fails in the same way.
    fn too_large(len: usize) -> List {
        let text = format!("trying to send message larger than max ({len} vs. {})", u32::MAX);
        List::status(grpc::trailers(&Status::resource_exhausted(text)))
    }

    pub(super) fn response(self: &Arc<List>) -> Response {
        if self.pieces.is_empty() {
            let mut response = grpc::respond(Body::empty());
            response.headers_mut().extend(self.trailers.clone());
            return response;
        }
        grpc::respond(Body::new(Pieces { list: Some(Arc::clone(self)), sent: 0 }))
    }
}

/// Sends a list piece by piece, as fast as the client takes it.
struct Pieces {
    /// Let go with the trailers: a body may be held long after.
    list: Option<Arc<List>>,
    sent: usize,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = &mut *self;
        let Some(list) = &this.list else { return Poll::Ready(None) };
        if let Some(piece) = list.pieces.get(this.sent) {
            this.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        let trailers = list.trailers.clone();
        this.list = None;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.list.is_none()
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::{
        etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader},
        mvccpb::KeyValue,
    };
    use http_body_util::BodyExt as _;
    use prost::Message as _;

    use super::*;
    use crate::admission::{
        lists::page::{request, split},
        memory::Memory,
    };

    /// etcd's answer to a range over `keys`, all of them live at revision 7.
    fn answer(keys: &[String], asked: &RangeRequest) -> RangeResponse {
        let matching: Vec<_> = keys.iter().filter(|key| key.as_bytes() >= &asked.key[..]).collect();
        let limit = usize::try_from(asked.limit).unwrap();
        let shown = if limit == 0 { matching.len() } else { limit.min(matching.len()) };
        let record = |key: &&String| KeyValue {
            key: (*key).clone().into(),
            value: key.repeat(3).into(),
            mod_revision: 5,
            ..Default::default()
        };
        RangeResponse {
            header: Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 7, raft_term: 3 }),
            kvs: matching[..shown].iter().map(record).collect(),
            more: shown < matching.len(),
            count: matching.len() as i64,
        }
    }

    async fn in_pages(keys: &[String], asked: &RangeRequest, page: u64) -> (RangeResponse, Vec<i64>) {
        let message = Bytes::from(asked.encode_to_vec());
        let mut assembly = Assembly::new(Memory::new(1 << 30).none(), asked.revision);
        let mut revisions = Vec::new();
        loop {
            let left = (asked.limit > 0).then(|| asked.limit as u64 - assembly.objects());
            let frame = request(&message, assembly.next(), left.map_or(page, |left| left.min(page)));
            let seen = RangeRequest::decode(frame.slice(PREFIX..)).unwrap();
            revisions.push(seen.revision);
            assembly.add(split(&answer(keys, &seen).encode_to_vec().into()).unwrap());
            if !assembly.has_more() || asked.limit > 0 && assembly.objects() >= asked.limit as u64 {
                break;
            }
        }
        let body = Arc::new(assembly.finish()).response().into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        (RangeResponse::decode(body.to_bytes().slice(PREFIX..)).unwrap(), revisions)
    }

    #[tokio::test]
    async fn pages_make_the_answer_that_the_upstream_would_have_given() {
        let keys: Vec<String> = (0..100).map(|number| format!("k{number:03}")).collect();
        for limit in [0, 1, 30, 99, 100, 101] {
            for page in [1, 7, 50, 99, 100, 1000] {
                let asked = RangeRequest { key: "k".into(), range_end: "l".into(), limit, ..Default::default() };
                let (got, revisions) = in_pages(&keys, &asked, page).await;
                assert_eq!(got, answer(&keys, &asked), "limit {limit}, pages of {page}");
                assert!(revisions[1..].iter().all(|revision| *revision == 7), "one revision for all pages");
            }
        }
        let nothing = RangeRequest { key: "x".into(), range_end: "y".into(), ..Default::default() };
        assert_eq!(in_pages(&keys, &nothing, 10).await.0, answer(&keys, &nothing));
    }

    #[tokio::test]
    async fn a_list_at_a_revision_of_the_clients_stays_at_it() {
        let keys: Vec<String> = (0..10).map(|number| format!("k{number}")).collect();
        let asked = RangeRequest { key: "k".into(), range_end: "l".into(), revision: 6, ..Default::default() };
        let (_, revisions) = in_pages(&keys, &asked, 3).await;
        assert_eq!(revisions, [6, 6, 6, 6]);
    }

    #[test]
    fn an_answer_with_fields_of_later_releases_keeps_them() {
        let mut message = RangeResponse { count: 3, more: true, ..Default::default() }.encode_to_vec();
        encoding::uint64::encode(99, &5, &mut message);
        let page = split(&message.into()).unwrap();
        assert!(page.more);
        assert_eq!(&page.after[..], b"\x20\x03\x98\x06\x05");
        assert!(split(&Bytes::from_static(b"\x12\x7f")).is_none());
    }
}
