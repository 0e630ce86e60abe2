//! The mirror: the upstream's keys in this process, kept by one upstream watch, so that ranges and watches of any number
//! of clients are answered here and no client can tell.
//!
//! In reading order: [`feed`](self) fills the mirror by a `list` and keeps it by a `tail`, whose protocol is the pure
//! machine in `follow`. `rounds` ask the upstream, in one small `probe` for all who wait, what may be answered: at which
//! revision, and to whom. `reads` and `watches` answer. `state` is what they share; `sight` is what the upstream showed
//! of itself, and finds out when it is not what it was.
//!
//! The gateway decides nobody's rights. Every answer from the mirror follows a round under the caller's own token, in
//! which the upstream itself checked the token and the right to the range. What is in doubt goes to the upstream.

mod audit;
mod caller;
mod catch_up;
mod config;
mod credentials;
mod feed;
mod follow;
mod identity;
mod list;
mod messages;
mod metrics;
mod probe;
mod reached;
mod reads;
mod renewals;
mod rounds;
mod sight;
mod state;
mod tail;
mod turns;
mod warden;
mod watches;

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use forebay_edge::{Meter, Response, grpc, listener::Memory, watch::Watches};
use forebay_proto::{Error, etcdserverpb::ResponseHeader};
use futures::FutureExt as _;
use http::HeaderMap;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Status;

pub use self::config::{Credentials, MAX_BYTES, MirrorConfig};
pub(crate) use self::{caller::Caller, credentials::Own, metrics::Metrics as MirrorMetrics};
use self::{
    feed::Feed,
    identity::Identity,
    metrics::Served,
    reads::{Form, Outcome},
    renewals::Renewals,
    state::State,
    warden::Warden,
    watches::Rider,
};
use crate::{
    call::{Call, Failure, Handler},
    methods::{Kind, LEASE_KEEP_ALIVE},
    rescue,
    upstream::Upstream,
};

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// How long a watch stream waits for a mirror that is being filled. All clients come at once when a gateway starts.
const FILL_MAX: Duration = Duration::from_secs(5);

/// The layer. Without a mirror it passes everything.
pub(crate) struct Mirror<S> {
    inner: S,
    active: Option<Active>,
}

struct Active {
    state: Arc<State>,
    warden: Arc<Warden>,
    renewals: Renewals,
    max_message: usize,
    max_request: usize,
    progress_interval: Duration,
    /// Aborted with the layer.
    _tasks: JoinSet<()>,
}

impl<S> Mirror<S> {
    /// Mirrors `upstream`, and passes to `inner` what the mirror does not answer. Must be called in a tokio runtime if
    /// there is a mirror to be made.
    pub(crate) fn new(
        inner: S,
        config: Option<&MirrorConfig>,
        upstream: &Upstream,
        max_message: usize,
        metrics: &MirrorMetrics,
    ) -> Mirror<S> {
        let active = config.map(|config| {
            let caller = Caller::new(upstream.clone());
            let renewals = Renewals::new(caller.clone(), metrics.clone());
            let state = State::new(caller, Bytes::from_static(b"\0"), config.has_common_name, metrics.clone());
            let warden = Arc::new(Warden::default());
            let mut tasks = JoinSet::new();
            tasks.spawn(Feed::new(Arc::clone(&state), config.clone()).run());
            tasks.spawn(Arc::clone(&warden).run(Arc::clone(&state)));
            let MirrorConfig { max_request_bytes: max_request, progress_interval, .. } = *config;
            Active { state, warden, renewals, max_message, max_request, progress_interval, _tasks: tasks }
        });
        Mirror { inner, active }
    }
}

impl<S: Handler> Handler for Mirror<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        let Some(active) = &self.active else { return self.inner.handle(call).boxed().await };
        let call = match call.method.path {
            RANGE | RANGE_STREAM => match active.range(call).await? {
                Outcome::Answered(response) => return Ok(*response),
                Outcome::Pass(call, _) => call,
            },
            WATCH => match active.watch(call).await? {
                Ok(response) => return Ok(response),
                Err(call) => call,
            },
            LEASE_KEEP_ALIVE if !is_odd(call.request.headers()) => return Ok(active.renewals.serve(call)),
            _ => call,
        };
        let changes = call.method.kind == Kind::Mutation;
        let response = self.inner.handle(call).boxed().await?;
        Ok(if changes { active.acknowledged(response) } else { response })
    }
}

impl Active {
    async fn range(&self, call: Call) -> Result<Outcome, Failure> {
        let outcome = match self.state.serving() {
            None => Outcome::Pass(call, Served::Absent),
            Some(_) if is_odd(call.request.headers()) || self.is_unknown(&call) => {
                Outcome::Pass(call, Served::Uncovered)
            }
            Some(serving) => match reads::read(call) {
                Err(call) => Outcome::Pass(call, Served::Uncovered),
                Ok(asked) => {
                    let form = match asked.call.method.path {
                        RANGE => Form::Whole,
                        _ => Form::Chunks(self.max_request),
                    };
                    let answered = reads::range(&self.state, serving, asked, form).await;
                    answered.inspect_err(|_| self.state.metrics.served(Served::Unavailable))?
                }
            },
        };
        self.state.metrics.served(match &outcome {
            Outcome::Answered(_) => Served::Hit,
            Outcome::Pass(_, why) => *why,
        });
        Ok(outcome)
    }

    /// Whether a call is of a method that the upstream may not have.
    fn is_unknown(&self, call: &Call) -> bool {
        call.method.path == RANGE_STREAM && !self.state.caller.can_stream_ranges()
    }

    /// Answers a watch stream; gives the call back if there is no mirror for it.
    async fn watch(&self, call: Call) -> Result<Result<Response, Call>, Failure> {
        if is_odd(call.request.headers()) {
            self.state.metrics.served(Served::Uncovered);
            return Ok(Err(call));
        }
        let Some(serving) = self.state.soon_serving(FILL_MAX).await else {
            self.state.metrics.served(Served::Absent);
            return Ok(Err(call));
        };
        let requires_leader = call.request.headers().get(grpc::HAS_LEADER).is_some_and(|value| value == "true");
        let leaderless = self.state.leaderless();
        if requires_leader && *leaderless.borrow() {
            return Err(Failure::Refused(Error::NoLeader.into()));
        }
        self.state.metrics.served(Served::Hit);
        let (ward, mut denied) = self.warden.admit(Identity::of(call.request.headers()));
        let dismissed = self.state.dismissed();
        let lost_leader = lost_leader(requires_leader, leaderless);
        let ended = async move {
            tokio::select! {
                // A client that resumes is judged by the upstream, or rides again.
                () = dismissed => Status::unavailable("etcdserver: the mirror of the gateway is gone"),
                _ = denied.changed() => Status::unavailable("etcdserver: the right to watch is asked for anew"),
                () = lost_leader => Error::NoLeader.into(),
            }
        };
        let watches = Watches {
            hub: serving.hub.clone(),
            max_message: self.max_message,
            progress_interval: self.progress_interval,
        };
        let memory = Memory::of(call.request.extensions());
        let rider = Rider { state: Arc::clone(&self.state), serving, ward: Arc::new(ward), memory };
        Ok(Ok(watches.serve(*call.request, Arc::new(rider), ended.boxed())))
    }

    /// A response to a write: reads that follow must not be answered from before it.
    fn acknowledged(&self, response: Response) -> Response {
        if rescue::code(response.headers()).is_some() {
            // Refused: nothing was written.
            return response;
        }
        let state = Arc::clone(&self.state);
        response.map(|body| body.metered(Acknowledge { state, done: false }))
    }
}

/// Whether a call has metadata that etcd refuses, or might: that is the upstream's to do.
fn is_odd(metadata: &HeaderMap) -> bool {
    let version = metadata.get(grpc::CLIENT_API_VERSION);
    metadata.contains_key(grpc::ENCODING)
        || version.is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err())
}

/// Resolves when the upstream has had no leader for as long as etcd waits for one.
async fn lost_leader(is_asked: bool, mut leaderless: tokio::sync::watch::Receiver<bool>) {
    if !is_asked || leaderless.wait_for(|leaderless| *leaderless).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Sees the header of a response to a write before the client does.
struct Acknowledge {
    state: Arc<State>,
    done: bool,
}

impl Meter for Acknowledge {
    fn data(&mut self, data: &Bytes) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if let Some(header) = header(data) {
            self.state.acknowledge(header.revision);
        }
    }

    fn trailers(&mut self, _: &HeaderMap) {}
}

/// The header that a response begins with, if all of it is there: it is below a hundred bytes.
fn header(data: &Bytes) -> Option<ResponseHeader> {
    let mut message = data.get(grpc::PREFIX..)?;
    if message.first() != Some(&HEADER_TAG) {
        return None;
    }
    message.advance(1);
    let len = prost::encoding::decode_varint(&mut message).ok()?;
    ResponseHeader::decode(message.get(..usize::try_from(len).ok()?)?).ok()
}

/// Field 1, with a length.
const HEADER_TAG: u8 = 0x0a;
