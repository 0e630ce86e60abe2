//! Ranges from the mirror.
//!
//! A linearizable range first learns, in a round that begins after it came, which revision is safe to read at; then it
//! waits until the mirror is there, and is evaluated on a snapshot, whose revision its header tells. A serializable one
//! needs no quorum: it is answered at a revision that is young enough and not below a write that was acknowledged here.
//!
//! Whatever is in doubt goes to the upstream: it knows.

use std::{sync::Arc, time::Duration};

use forebay_edge::{Response, grpc, listener::Memory, range, trace};
use forebay_keyspace::{
    check,
    eval::{RangeResult, ResultChunks},
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
    identity::Identity,
    metrics::Served,
    probe::Want,
    state::{Serving, State},
};
use crate::{
    admission::Admitted,
    call::{Call, Failure},
};

/// How long a read waits for a mirror that is behind, before it goes to the upstream.
const LAG_MAX: Duration = Duration::from_millis(500);

/// How a range is to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// In one message.
    Whole,
    /// As RangeStream has it, in messages of about so many bytes.
    Chunks(usize),
}

/// A range that was evaluated.
enum Evaluated {
    Whole(RangeResult),
    Chunks(ResultChunks),
}

impl Form {
    fn is_possible(self, request: &RangeRequest) -> bool {
        match self {
            Form::Whole => check::range(request).is_ok(),
            Form::Chunks(_) => check::range_stream(request).is_ok(),
        }
    }

    fn evaluate(self, reader: &MirrorReader, request: &RangeRequest) -> Result<Evaluated, Unanswered> {
        match self {
            Form::Whole => reader.range(request).map(Evaluated::Whole),
            Form::Chunks(bytes) => reader.range_chunks(request, bytes).map(Evaluated::Chunks),
        }
    }
}

/// A range that came in, with what is needed to pass it on.
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) request: RangeRequest,
}

/// What became of a range.
pub(super) enum Outcome {
    Answered(Box<Response>),
    /// The upstream is to answer, and why.
    Pass(Call, Served),
}

impl Outcome {
    fn answered(response: Response) -> Outcome {
        Outcome::Answered(Box::new(response))
    }
}

/// Reads the request of a unary call. What cannot be read is the upstream's to complain about.
pub(super) fn read(call: Call) -> Result<Asked, Call> {
    // The message was read when the call was let in.
    let admitted = call.request.extensions().get::<Arc<Admitted>>();
    match admitted.map(|admitted| RangeRequest::decode(&*admitted.message)) {
        Some(Ok(request)) => Ok(Asked { call, request }),
        _ => Err(call),
    }
}

/// Answers a range from the mirror, if that can be done.
pub(super) async fn range(
    state: &Arc<State>,
    serving: Arc<Serving>,
    asked: Asked,
    form: Form,
) -> Result<Outcome, Failure> {
    let Asked { call, request } = asked;
    let keys = KeyRange::new(request.key.clone(), request.range_end.clone());
    let memory = Memory::of(call.request.extensions());
    if !form.is_possible(&request) || keys.is_empty() || !serving.reader.ranges().covers(&keys) {
        return Ok(Outcome::Pass(call, Served::Uncovered));
    }
    let identity = Identity::of(call.request.headers());
    let want = Want { range: state.is_somebody(&identity).then_some(keys), revision: request.revision };
    if let Err(refused) = become_fresh(state, &serving, &identity, request.serializable, &want).await {
        return pass(call, refused);
    }
    let count = |counting: &RangeRequest| serving.reader.range(counting).ok().map(|counted| counted.count);
    let result = if range::is_quick(&request, count) {
        form.evaluate(&serving.reader, &request)
    } else {
        let (reader, request) = (serving.reader.clone(), request.clone());
        let evaluated = range::in_turn(move || form.evaluate(&reader, &request)).await;
        evaluated.map_err(|error| Failure::Broken(error.into()))?
    };
    if !state.is_serving(&serving) {
        return Ok(Outcome::Pass(call, Served::Absent));
    }
    Ok(match result {
        Ok(Evaluated::Whole(result)) => Outcome::answered(range::respond(result, &header(state), &memory)),
        Ok(Evaluated::Chunks(chunks)) => {
            let state = Arc::clone(state);
            let at_once = Some(chunks.memory());
            Outcome::answered(range::respond_stream(chunks.map(Ok), move || header(&state), at_once, memory))
        }
        Err(Unanswered::Outside { .. }) => Outcome::Pass(call, Served::Window),
        Err(Unanswered::Unmirrored) => Outcome::Pass(call, Served::Uncovered),
        // A member may have a revision that a serializable read asks for and the mirror has not yet.
        Err(Unanswered::Refused(Error::FutureRev)) if request.serializable => Outcome::Pass(call, Served::Lagging),
        Err(Unanswered::Refused(error)) => Outcome::answered(grpc::refuse(error.into())),
    })
}

/// Why the mirror may not answer yet.
enum Refused {
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
async fn become_fresh(
    state: &Arc<State>,
    serving: &Arc<Serving>,
    identity: &Identity,
    serializable: bool,
    want: &Want,
) -> Result<(), Refused> {
    let _span = trace::part("freshness round");
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

fn header(state: &State) -> ResponseHeader {
    let base = state.sight.header();
    ResponseHeader { cluster_id: base.cluster_id, member_id: base.member_id, raft_term: base.raft_term, revision: 0 }
}
