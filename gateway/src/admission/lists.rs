//! Large lists, read so that neither the upstream nor the gateway has to hold many of them at once.
//!
//! A list that is known to be large, or of which nothing is known, is read in pages at one revision
//! and put together into the answer that the upstream would have given. Lists of the same keys take
//! turns. Whoever asks exactly the same while one waits for its turn joins it, and one answer serves
//! all of them: a crowd costs the upstream two lists, and the gateway's memory one or two.
//!
//! Nobody joins a list that has begun. It may show a revision from before the caller asked, and a
//! linearizable read must not.
//!
//! So a read goes down a ladder, each step of which costs the upstream less than it would alone:
//!
//! | Step | Where |
//! |---|---|
//! | the mirror answers it | the layer above, `crate::mirror` |
//! | it joins a twin that waits | [`turns`] |
//! | it is read in pages | [`page`], [`assembly`] |
//! | it waits for the others of its keys, and then, page by page, for a seat | [`turns`], `admission::queue` |
//! | it is shed: its turn, a seat or memory for it did not come in time | here, `admission::queue`, `admission::memory` |
//!
//! A member in this process is asked for all at once: it looks the keys up in turn, and writes their records as the client
//! takes them, so pages would only be copies.
//!
//! Reading `limit` keys of fewer costs what reading all of them does, so a list that turns out to be
//! small has lost nothing.

mod assembly;
mod page;
mod turns;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_edge::{Body, Response};
use forebay_proto::{Error, KeyRange};
use futures::FutureExt as _;
use http::request;
use tokio::time::Instant;

use self::{
    assembly::{Assembly, List},
    turns::{Crowded, Turns, Twin},
};
use super::{
    Admitted,
    answers::{Refusal, What},
    memory::Memory,
    metrics::Metrics,
    scan::RangeAsked,
};
use crate::{
    call::{Call, Failure, Handler},
    methods::Method,
};

/// A list of less than this passes as it came.
const LARGE_BYTES: u64 = 1 << 20;
/// Bytes that a page should have. A large value makes fewer round trips, a small one lets others have
/// their turn sooner.
const PAGE_BYTES: u64 = 1 << 20;
/// Objects of a first page of unknown size.
const PAGE_OBJECTS: u64 = 500;
/// Objects of a page at most: small ones cost time too.
const PAGE_OBJECTS_MAX: u64 = 10_000;
/// What a record without its value has at most, most often.
const KEY_BYTES: u64 = 128;
/// How long a list waits for memory before it is given up.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one waits for its turn whose client has not said how long it waits; of those who have, a quarter.
const TURN_MAX: Duration = Duration::from_secs(60);
/// A compaction may overtake a list; it is read again, in larger pages, so many times.
const ATTEMPTS: u32 = 4;

/// The layer.
pub(crate) struct Lists<S> {
    inner: Arc<S>,
    /// Whether anything is read in pages.
    in_pages: bool,
    turns: Arc<Turns<Outcome>>,
    memory: Memory,
    metrics: Metrics,
}

/// What a list came to; shared by all who asked for it.
type Outcome = Result<Arc<List>, Arc<Failure>>;

impl<S: Handler> Lists<S> {
    pub(crate) fn new(inner: S, in_pages: bool, memory: Memory, metrics: Metrics) -> Lists<S> {
        Lists { inner: Arc::new(inner), in_pages, turns: Arc::default(), memory, metrics }
    }

    /// The objects of the first page, if the call is to be read in pages.
    fn first_page(admitted: &Admitted) -> Option<u64> {
        let asked = admitted.asked.as_ref()?;
        let range = asked.range.filter(|range| range.plain && !range.count_only)?;
        let limit = limit(range);
        if matches!(asked.keys.first()?, KeyRange::Key(_)) {
            return None;
        }
        let page = match admitted.expected {
            Some(expected) => {
                let mean = if range.keys_only { expected.object_bytes.min(KEY_BYTES) } else { expected.object_bytes };
                if expected.objects.min(limit).saturating_mul(mean) < LARGE_BYTES {
                    return None;
                }
                (PAGE_BYTES / mean.max(1)).clamp(1, PAGE_OBJECTS_MAX)
            }
            None => PAGE_OBJECTS,
        };
        (page < limit).then_some(page)
    }
}

impl<S: Handler> Handler for Lists<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        let may_be = self.in_pages && call.method.path == "/etcdserverpb.KV/Range";
        let admitted = may_be.then(|| call.request.extensions().get::<Arc<Admitted>>().cloned()).flatten();
        let Some((admitted, page)) = admitted.and_then(|admitted| {
            let page = Self::first_page(&admitted)?;
            Some((admitted, page))
        }) else {
            return self.inner.handle(call).boxed().await;
        };
        let (head, _body) = call.request.into_parts();
        let asked = admitted.asked.as_ref().expect("a list was read");
        let keys = asked.keys.first().expect("a list has keys").clone();
        let twin = Twin::new(&head.headers, &admitted.message);
        let reading = Reading {
            inner: Arc::clone(&self.inner),
            method: call.method,
            head: page_head(head),
            message: admitted.message.clone(),
            range: asked.range.expect("a list is a range"),
            page,
            memory: self.memory.clone(),
        };
        let patience = call.deadline.map_or(TURN_MAX, |at| at.saturating_duration_since(Instant::now()) / 4);
        let list = self.turns.take(keys, twin, reading.read().boxed(), patience, || self.metrics.twins.inc());
        match list.await {
            Ok(Ok(list)) => Ok(list.response()),
            Ok(Err(failure)) => Err(failure.again()),
            Err(Crowded) => {
                let rule = admitted.policy.policy.rule(admitted.class.rule).name.as_str();
                let refusal = Refusal { rule: rule.into(), reason: "crowded", what: What::Later(PATIENCE) };
                self.metrics.refused.with_label_values(&[rule, refusal.reason]).inc();
                Ok(refusal.response())
            }
        }
    }
}

/// The head of the pages' requests: the client's, without its time, since others may wait as well.
fn page_head(mut head: request::Parts) -> request::Parts {
    head.headers.remove(forebay_edge::grpc::TIMEOUT);
    head
}

/// One list to be read.
struct Reading<S> {
    inner: Arc<S>,
    method: &'static Method,
    head: request::Parts,
    message: Bytes,
    range: RangeAsked,
    /// Objects of the first page.
    page: u64,
    memory: Memory,
}

impl<S: Handler> Reading<S> {
    async fn read(self) -> Outcome {
        let mut objects = self.page;
        for _ in 0..ATTEMPTS {
            match self.attempt(objects).await {
                Ok(Some(list)) => return Ok(Arc::new(list)),
                // Its revision was compacted meanwhile.
                Ok(None) => objects = (objects * 4).min(PAGE_OBJECTS_MAX),
                Err(failure) => return Err(Arc::new(failure)),
            }
        }
        Err(Arc::new(Failure::Refused(Error::TooManyRequests.into())))
    }

    /// Reads all pages; `None` if a compaction overtook them.
    async fn attempt(&self, mut objects: u64) -> Result<Option<List>, Failure> {
        let limit = limit(self.range);
        let mut assembly = Assembly::new(self.memory.none(), self.range.revision);
        loop {
            let left = limit - assembly.objects();
            let request = page::request(&self.message, assembly.next(), objects.min(left));
            let answered = self.inner.handle(self.call(request)).boxed().await?;
            let message = match page::read(answered, assembly.reserved(), PATIENCE).await? {
                Ok(message) => message,
                Err(status) if assembly.is_overtaken(&status) => return Ok(None),
                Err(status) => return Ok(Some(List::status(status))),
            };
            let page =
                page::split(&message).ok_or_else(|| Failure::Broken("the upstream's answer is no range".into()))?;
            objects = (PAGE_BYTES * page.objects / page.bytes().max(1)).clamp(1, PAGE_OBJECTS_MAX);
            assembly.add(page);
            if !assembly.has_more() || assembly.objects() >= limit {
                return Ok(Some(assembly.finish()));
            }
        }
    }

    fn call(&self, frame: Bytes) -> Call {
        let request = http::Request::from_parts(self.head.clone(), Body::full(frame));
        Call { method: self.method, deadline: None, request: Box::new(request) }
    }
}

/// Objects that are asked for at most.
fn limit(range: RangeAsked) -> u64 {
    u64::try_from(range.limit).ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX)
}
