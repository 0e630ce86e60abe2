//! The layer that lets requests in.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use forebay_edge::{Body, Response, grpc};
use forebay_policies::{Answer, Client, Cost, Limit, Policy, Request, Rpc, Verdict};
use forebay_proto::Error;
use futures::FutureExt as _;
use tokio::time;
use tonic::Status;

use super::{
    Admission, Admitted, Waits,
    answers::{Refusal, What},
    memory::{self, Full},
    namespace::{Confinement, each_message, outward},
    scan::{Asked, RangeAsked, scan},
    seats::now,
    settle::Held,
    watches::{Session, Upstream},
};
use crate::{
    call::{Call, Failure, Handler},
    intake::{self, Intake},
    methods::{Shape, WATCH},
    rescue,
};

/// The layer.
pub(crate) struct Admit<S> {
    inner: Arc<S>,
    admission: Admission,
    /// The largest message.
    message_bytes_max: usize,
}

/// Why a call goes no further.
pub(super) enum Stop {
    Refused(Refusal),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl<S> Admit<S> {
    pub(crate) fn new(inner: S, admission: Admission, message_bytes_max: usize) -> Admit<S> {
        Admit { inner: Arc::new(inner), admission, message_bytes_max }
    }
}

impl<S: Handler> Handler for Admit<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        let is_watch = call.method.path == WATCH;
        let (call, held) = match self.admit(call).await {
            Ok(admitted) => admitted,
            Err(Stop::Failed(failure)) => return Err(failure),
            Err(Stop::Refused(refusal)) => return Ok(refusal.response()),
        };
        if is_watch {
            return self.watch(call, held).await;
        }
        held.settling(self.inner.handle(call).boxed().await?).await
    }
}

impl<S: Handler> Admit<S> {
    async fn watch(&self, call: Call, mut held: Held) -> Result<Response, Failure> {
        let session = Session::new(self.admission.clone(), held.client().clone());
        let request = session.requests(*call.request, self.message_bytes_max);
        let call = Call { request: Box::new(request), ..call };
        let inner = Arc::clone(&self.inner);
        let mut opening = async move { inner.handle(call).await }.boxed();
        tokio::select! {
            response = &mut opening => {
                let response = response?;
                if let Some(code) = rescue::code(response.headers()) {
                    held.ended(code);
                    return Ok(response);
                }
                let confinement = held.confinement();
                Ok(response.map(|body| outward(confinement, Rpc::Watch, session.responses(Upstream::Open(body), held))))
            }
            // etcd sends the head of its response with the first answer to a create. If that is ours, so is the head.
            () = session.refused() => {
                let confinement = held.confinement();
                let body = session.responses(Upstream::Opening(opening), held);
                Ok(grpc::respond(outward(confinement, Rpc::Watch, body)))
            }
        }
    }
}

impl<S> Admit<S> {
    /// Reads the call, and lets it in when its rule allows it.
    async fn admit(&self, mut call: Call) -> Result<(Call, Held), Stop> {
        let shared = &self.admission.0;
        let loaded = shared.loaded.load_full();
        let Call { method, deadline, .. } = call;
        let body = mem::take(call.request.body_mut());
        let (client, token) =
            shared.identities.identify(&mut call.request, &loaded.naming, shared.admin_token.as_ref());
        let patience = super::patience(deadline);

        let mut reserved = shared.memory.none();
        let (message, body) = if method.shape == Shape::Duplex {
            (None, body)
        } else {
            let reserve = async |bytes| {
                if bytes > memory::SMALL {
                    reserved.grow(bytes, patience).await.map_err(|Full| Stop::from(Refusal::no_memory()))?;
                }
                Ok::<(), Stop>(())
            };
            let Intake { message, body } = intake::read(body, self.message_bytes_max, reserve).await?;
            (message, body)
        };
        let rpc = Rpc::of_path(method.path);
        let confinement = loaded.policy.namespace(&client).map(|namespace| Confinement::new(&namespace.prefix));
        let (message, body) = match &confinement {
            Some(confinement) => confine(confinement, rpc, method.shape, message, body)?,
            None => (message, body),
        };
        let asked = message.as_ref().and_then(|message| scan(method, message));
        let mut turn = None;
        if let Some((address, user)) = login(&client, asked.as_ref()) {
            turn = Some(shared.logins.turn(address).await);
            let wait = shared.guesses.lock().wait(now(), address, user);
            if !wait.is_zero() {
                let refusal = Refusal::guesses(wait);
                shared.metrics.refused.with_label_values(&[&*refusal.rule, refusal.reason]).inc();
                return Err(refusal.into());
            }
        }
        let request = attributes(&client, rpc, asked.as_ref());
        let watchers = asked.as_ref().map_or(0, |asked| asked.heard_by(&shared.watched));
        let request = Request { watchers, ..request };
        let expected = shared.sizes.lock().expected(&request);
        let cost = Cost::predict(&request, expected);
        let class = loaded.policy.classify(&request, &cost);
        let charge = shared.charge(&loaded, &class, &request, &cost, patience).await;
        shared.count_shadow(&loaded.policy, charge.shadow);
        let (wait, receipt) = match charge.verdict {
            Verdict::Pass(wait, receipt) => (wait, receipt),
            Verdict::Refuse(refusal) => {
                let refusal = self.refusal(&loaded.policy, &refusal, &cost);
                shared.refused(&loaded.policy, &request, &refusal);
                return Err(refusal.into());
            }
        };
        let admitted = Arc::new(Admitted {
            client,
            token,
            rpc,
            asked,
            waits: Waits::new(wait),
            message: message.unwrap_or_default(),
            class,
            expected,
            cost,
            policy: loaded,
        });
        let held = Held::new(self.admission.clone(), Arc::clone(&admitted), receipt, (reserved, turn), confinement);
        if !wait.is_zero() {
            shared.metrics.rate_wait.observe(wait.as_secs_f64());
            time::sleep(wait).await;
        }
        admitted.policy.admit(class.rule);
        call.request.extensions_mut().insert(admitted);
        *call.request.body_mut() = body;
        Ok((call, held))
    }
}

impl<S> Admit<S> {
    /// A limit's refusal in words for the client.
    fn refusal(&self, policy: &Policy, refused: &forebay_policies::Refusal, cost: &Cost) -> Refusal {
        let rule = policy.rule(refused.rule);
        let what = match (refused.limit, refused.retry_after) {
            (Limit::RequestBytes, _) => What::Invalid(Error::RequestTooLarge),
            (Limit::Ops, _) => What::Invalid(Error::TooManyOps),
            (Limit::Objects, _) => {
                let most = rule.limits.objects.or(rule.total.objects).map_or(0, |most| most.0);
                What::TooMuch(format!(
                    "forebay: rule {}: the range may answer with {} objects, and {most} are allowed: read it with a limit",
                    rule.name, cost.objects
                ))
            }
            (_, after) => What::Later(after.unwrap_or(Duration::from_secs(1))),
        };
        Refusal { rule: rule.name.as_str().into(), reason: refused.limit.name(), what }
    }
}

/// A confined client's request as the upstream is to see it.
fn confine(
    confinement: &Confinement,
    rpc: Rpc,
    shape: Shape,
    message: Option<Bytes>,
    body: Body,
) -> Result<(Option<Bytes>, Body), Failure> {
    match message {
        Some(message) => {
            let message = confinement.inward(rpc, message)?;
            let body = Body::full(grpc::framed(&message));
            Ok((Some(message), body))
        }
        None if shape == Shape::Duplex => {
            // Whether it may be called at all.
            confinement.inward(rpc, Bytes::new())?;
            let confinement = confinement.clone();
            Ok((None, each_message(body, move |message| confinement.inward(rpc, message))))
        }
        // What we cannot read the upstream might.
        None => Err(Failure::Refused(Status::internal("forebay: the request of a confined client cannot be read"))),
    }
}

/// Who tries to log in, and from where.
pub(super) fn login<'a>(client: &Client, asked: Option<&'a Asked>) -> Option<(IpAddr, &'a [u8])> {
    let user = asked?.user.as_deref()?;
    Some((client.peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), user))
}

/// The attributes of a request by which it is judged.
pub(super) fn attributes<'a>(client: &'a Client, rpc: Rpc, asked: Option<&'a Asked>) -> Request<'a> {
    let request = Request::new(client, rpc);
    let Some(asked) = asked else { return request };
    let range = asked.range.unwrap_or_default();
    Request {
        keys: &asked.keys,
        bytes: asked.bytes as u64,
        ops: asked.ops.max(1),
        writes: asked.writes_max(),
        limit: u64::try_from(range.limit).unwrap_or(0),
        elects: asked.elects(),
        answer: match range {
            RangeAsked { count_only: true, .. } => Answer::Count,
            RangeAsked { keys_only: true, .. } => Answer::Keys,
            _ => Answer::Objects,
        },
        ..request
    }
}
