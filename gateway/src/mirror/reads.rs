//! Ranges from the mirror.
//!
//! A linearizable range first learns, in a round that begins after it came, which revision is safe to read at; then it
//! waits until the mirror is there, and is evaluated on a snapshot, whose revision its header tells. A serializable one
//! needs no quorum: it is answered at a revision that is young enough and not below a write that was acknowledged here.
//!
//! Whatever is in doubt goes to the upstream: it knows.

use std::{sync::Arc, time::Duration};

use forebay_edge::{Body, Response, grpc, grpc::Messages};
use forebay_keyspace::{
    check,
    mirror::{MirrorReader, Unanswered},
};
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{RangeRequest, ResponseHeader},
};
use prost::Message as _;
use tokio::time;
use tonic::{Code, Status};

use super::{
    answer,
    identity::Identity,
    metrics::Served,
    probe::Want,
    state::{Serving, State},
};
use crate::call::{Call, Failure};

/// How long a read waits for a mirror that is behind, before it goes to the upstream.
const LAG_MAX: Duration = Duration::from_millis(500);
/// Keys that are read on the thread of the request. More are read on a thread that may be kept busy.
const INLINE_KEYS: i64 = 10_000;

/// A range that came in, with what is needed to pass it on.
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) request: RangeRequest,
}

/// What became of a range.
pub(super) enum Outcome {
    Answered(Response),
    /// The upstream is to answer, and why.
    Pass(Call, Served),
}

/// Reads the request of a unary call; the call can be passed on as it came.
pub(super) async fn read(call: Call, max_message: usize) -> Result<Result<Asked, Call>, Failure> {
    let Call { method, deadline, request } = call;
    let (parts, body) = request.into_parts();
    let mut messages = Messages::<RangeRequest>::new(&parts.headers, body, max_message);
    let message = messages.next_bytes().await?;
    let again = |body| Call { method, deadline, request: http::Request::from_parts(parts, body) };
    let Some(message) = message else { return Ok(Err(again(Body::empty()))) };
    let mut frame = grpc::frame(message.len());
    frame.extend_from_slice(&message);
    let call = again(Body::full(frame.freeze()));
    // What cannot be read is the upstream's to complain about.
    Ok(match RangeRequest::decode(message) {
        Ok(request) => Ok(Asked { call, request }),
        Err(_) => Err(call),
    })
}

/// Answers a range from the mirror, if that can be done.
pub(super) async fn range(state: &Arc<State>, serving: Arc<Serving>, asked: Asked) -> Result<Outcome, Failure> {
    let Asked { call, request } = asked;
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    if check::range(&request).is_err() || range.is_empty() || !serving.reader.ranges().covers(&range) {
        return Ok(Outcome::Pass(call, Served::Uncovered));
    }
    let identity = Identity::of(call.request.headers());
    let want = Want { range: (!identity.is_anonymous()).then_some(range), revision: request.revision };
    if let Err(refused) = become_fresh(state, &serving, &identity, request.serializable, &want).await {
        return pass(call, refused);
    }
    let result = if is_small(&serving.reader, &request) {
        serving.reader.range(&request)
    } else {
        let (reader, request) = (serving.reader.clone(), request.clone());
        tokio::task::spawn_blocking(move || reader.range(&request))
            .await
            .map_err(|error| Failure::Broken(error.into()))?
    };
    if !state.is_serving(&serving) {
        return Ok(Outcome::Pass(call, Served::Absent));
    }
    Ok(match result {
        Ok(result) => Outcome::Answered(answer::respond(result, &header(state))),
        Err(Unanswered::Outside { .. }) => Outcome::Pass(call, Served::Window),
        Err(Unanswered::Unmirrored) => Outcome::Pass(call, Served::Uncovered),
        // A member may have a revision that a serializable read asks for and the mirror has not yet.
        Err(Unanswered::Refused(Error::FutureRev)) if request.serializable => Outcome::Pass(call, Served::Lagging),
        Err(Unanswered::Refused(error)) => Outcome::Answered(grpc::refuse(error.into())),
    })
}

/// Why the mirror may not answer yet.
pub(super) enum Refused {
    Pass(Served),
    /// The upstream cannot be asked, and so would not answer either.
    Unavailable(Status),
}

fn pass(call: Call, refused: Refused) -> Result<Outcome, Failure> {
    match refused {
        Refused::Pass(why) => Ok(Outcome::Pass(call, why)),
        Refused::Unavailable(status) => Err(Failure::Refused(status)),
    }
}

/// Waits until the mirror shows what a read that came now must see, and the upstream has vouched for the caller.
pub(super) async fn become_fresh(
    state: &Arc<State>,
    serving: &Arc<Serving>,
    identity: &Identity,
    serializable: bool,
    want: &Want,
) -> Result<(), Refused> {
    let vouched = state.vouch(identity, serializable, want).await;
    if !state.is_serving(serving) {
        return Err(Refused::Pass(Served::Absent));
    }
    let revision = match vouched {
        Ok(revision) if !serializable => revision,
        Ok(_) => state.recent().ok_or(Refused::Pass(Served::Lagging))?,
        // The whole round would go the same way, one by one.
        Err(status) if status.code() == Code::Unavailable && !serializable => return Err(Refused::Unavailable(status)),
        Err(_) => return Err(Refused::Pass(Served::Unvouched)),
    };
    if serving.reached.revision() < revision {
        state.progress_wanted.notify_one();
        let reached = time::timeout(LAG_MAX, serving.reached.wait(revision)).await;
        reached.map_err(|_| Refused::Pass(Served::Lagging))?;
    }
    Ok(())
}

pub(super) fn header(state: &State) -> ResponseHeader {
    let base = state.sight.header();
    ResponseHeader { cluster_id: base.cluster_id, member_id: base.member_id, raft_term: base.raft_term, revision: 0 }
}

/// Whether evaluating a range is quick.
fn is_small(reader: &MirrorReader, request: &RangeRequest) -> bool {
    let by_limit = (1..=INLINE_KEYS).contains(&request.limit) && !check::has_revision_filters(request);
    request.range_end.is_empty() || by_limit && request.revision == 0 || {
        let counting = RangeRequest { count_only: true, revision: 0, limit: 0, ..request.clone() };
        reader.range(&counting).is_ok_and(|counted| counted.count <= INLINE_KEYS)
    }
}
