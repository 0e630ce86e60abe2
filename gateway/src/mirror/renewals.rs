//! Lease renewals of many clients on one upstream stream.
//!
//! Every client keeps a stream open to renew its leases. Here those of one identity share an upstream stream, and
//! renewals of one lease that wait for each other share one renewal. A renewal is sent only for a client that asked and
//! is still there, and it answers only those who asked before it was sent: so no client's silence is filled by the
//! gateway, and a lease whose clients are gone ends when it would have ended without us.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use forebay_edge::{
    Body, BoxError, Response,
    grpc::{self, Messages},
};
use forebay_proto::{
    Error,
    etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse},
};
use futures::{StreamExt as _, stream, stream::FuturesOrdered};
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::{caller::Caller, identity::Identity, metrics::Metrics};
use crate::{
    call::Call,
    methods::LEASE_KEEP_ALIVE,
    replies::{self, Replies, Reply},
};

/// A renewal is an id; clients have no reason to send more.
const REQUEST_BYTES_MAX: usize = 4096;
/// Renewals of one client that may be unanswered; beyond it the client waits.
const UNANSWERED_MAX: usize = 128;
/// How long a shared stream stays open without renewals.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long opening one may take.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// The shared streams; clones share them.
#[derive(Clone)]
pub(super) struct Renewals(Arc<Shared>);

struct Shared {
    caller: Caller,
    metrics: Metrics,
    streams: Mutex<HashMap<Kind, mpsc::UnboundedSender<Asked>>>,
}

/// Clients that can share a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    identity: Identity,
    requires_leader: bool,
}

/// The framed answer to a renewal, or how the stream ended instead.
type Answer = Result<Bytes, Status>;

/// A renewal that a client asked for. Its answer's receiver is dropped with the client.
struct Asked {
    lease: i64,
    answer: oneshot::Sender<Answer>,
}

impl Renewals {
    pub(super) fn new(caller: Caller, metrics: Metrics) -> Renewals {
        Renewals(Arc::new(Shared { caller, metrics, streams: Mutex::default() }))
    }

    /// Answers one client's stream.
    pub(super) fn serve(&self, call: Call) -> Response {
        let (head, body) = call.request.into_parts();
        let requires_leader = head.headers.get(grpc::HAS_LEADER).is_some_and(|value| value == "true");
        let client = Client {
            renewals: self.clone(),
            kind: Kind { identity: Identity::of(&head.headers), requires_leader },
            requests: Some(Messages::new(&head.headers, body, REQUEST_BYTES_MAX)),
            unanswered: FuturesOrdered::new(),
        };
        let answers =
            stream::try_unfold(
                client,
                |mut client| async move { Ok(client.next().await?.map(|answer| (answer, client))) },
            );
        grpc::respond(Body::grpc_stream(answers))
    }

    fn ask(&self, kind: &Kind, lease: i64) -> oneshot::Receiver<Answer> {
        self.0.metrics.renewal_asked();
        let (answer, answered) = oneshot::channel();
        let mut asked = Asked { lease, answer };
        let mut streams = self.0.streams.lock();
        if let Some(open) = streams.get(kind) {
            match open.send(asked) {
                Ok(()) => return answered,
                // It ended by itself.
                Err(returned) => asked = returned.0,
            }
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        // The receiver is in the next line.
        let _ = sender.send(asked);
        streams.insert(kind.clone(), sender);
        tokio::spawn(run(Arc::clone(&self.0), kind.clone(), receiver));
        answered
    }
}

/// One client's stream.
struct Client {
    renewals: Renewals,
    kind: Kind,
    /// Until the client has sent all.
    requests: Option<Messages<LeaseKeepAliveRequest>>,
    /// In the order in which they were asked for, which is that of the answers.
    unanswered: FuturesOrdered<oneshot::Receiver<Answer>>,
}

impl Client {
    /// The next answer, or the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let listening = self.requests.is_some() && self.unanswered.len() < UNANSWERED_MAX;
            if !listening && self.unanswered.is_empty() {
                return Ok(None);
            }
            let request = async {
                match &mut self.requests {
                    Some(requests) => requests.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(answer) = self.unanswered.next() => {
                    return answer.unwrap_or_else(|_| Err(Error::TimeoutDueToConnectionLost.into())).map(Some);
                }
                request = request, if listening => match request? {
                    Some(request) => {
                        let asked = self.renewals.ask(&self.kind, request.id);
                        self.unanswered.push_back(asked);
                    }
                    None => self.requests = None,
                },
            }
        }
    }
}

/// Runs one shared stream until it is idle or breaks.
async fn run(shared: Arc<Shared>, kind: Kind, mut asked: mpsc::UnboundedReceiver<Asked>) {
    let mut leases = Leases::default();
    let end = match follow(&shared, &kind, &mut asked, &mut leases).await {
        Ok(()) => return,
        Err(end) => end,
    };
    // Who asks from now on opens another stream; who has asked is told how this one ended.
    asked.close();
    while let Some(Asked { answer, .. }) = asked.recv().await {
        let _ = answer.send(Err(end.clone()));
    }
    leases.end(&end);
}

async fn follow(
    shared: &Shared,
    kind: &Kind,
    asked: &mut mpsc::UnboundedReceiver<Asked>,
    leases: &mut Leases,
) -> Result<(), Status> {
    let Some(first) = asked.recv().await else { return Ok(()) };
    // Holds one renewal of each lease at most, and clients wait for theirs.
    let (renewals, sent) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
    let renew = |id: i64| {
        shared.metrics.renewal_sent();
        // If the stream is broken its replies are about to say so.
        let _ = renewals.send(Ok(Frame::data(grpc::encode(&LeaseKeepAliveRequest { id }))));
    };
    leases.ask(first).map(renew);
    let body = Body::new(StreamBody::new(UnboundedReceiverStream::new(sent)));
    let opening = shared.caller.stream_as(LEASE_KEEP_ALIVE, body, &kind.identity, kind.requires_leader);
    let opened = time::timeout(OPEN_MAX, opening).await;
    let mut replies: Replies = opened.unwrap_or_else(|_| Err(Error::TimeoutDueToConnectionLost.into()))?;
    loop {
        tokio::select! {
            biased;
            reply = replies.next() => match reply {
                Ok(Reply::Message(message)) => {
                    if let Some(lease) = leases.answer(&message)? {
                        renew(lease);
                    }
                }
                Ok(Reply::End(trailers)) => return Err(replies::status(&trailers)),
                Err(_) => return Err(Error::TimeoutDueToConnectionLost.into()),
            },
            next = asked.recv() => match next {
                Some(next) => {
                    leases.ask(next).map(renew);
                }
                None => return Ok(()),
            },
            () = time::sleep(IDLE_MAX), if leases.is_idle() => {
                let mut streams = shared.streams.lock();
                // Nobody can ask while this is locked.
                if asked.is_empty() {
                    streams.remove(kind);
                    return Ok(());
                }
            }
        }
    }
}

/// Who waits for which renewal.
#[derive(Default)]
struct Leases {
    /// Those whose renewal is under way, in the order in which etcd answers.
    under_way: VecDeque<i64>,
    waiting: HashMap<i64, Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Asked before the renewal that is under way was sent.
    now: Vec<oneshot::Sender<Answer>>,
    /// Asked after it.
    next: Vec<oneshot::Sender<Answer>>,
}

impl Leases {
    /// Takes a client's request; returns the lease if a renewal is to be sent.
    fn ask(&mut self, asked: Asked) -> Option<i64> {
        let Asked { lease, answer } = asked;
        let waiting = self.waiting.entry(lease).or_default();
        if !waiting.now.is_empty() {
            waiting.next.push(answer);
            return None;
        }
        waiting.now.push(answer);
        self.under_way.push_back(lease);
        Some(lease)
    }

    /// Takes the upstream's answer; returns the lease if another renewal is to be sent for those who asked meanwhile.
    fn answer(&mut self, message: &Bytes) -> Result<Option<i64>, Status> {
        let answered = LeaseKeepAliveResponse::decode(message.clone()).map(|response| response.id);
        let lease = self.under_way.pop_front().filter(|lease| answered == Ok(*lease));
        let lease = lease.ok_or_else(|| Status::internal("the upstream answered a renewal that was not sent"))?;
        let waiting = self.waiting.get_mut(&lease).expect("a renewal is under way for somebody");
        let frame = grpc::framed(message);
        for answer in std::mem::take(&mut waiting.now) {
            let _ = answer.send(Ok(frame.clone()));
        }
        // A client that has gone keeps nothing alive.
        waiting.now = std::mem::take(&mut waiting.next);
        waiting.now.retain(|answer| !answer.is_closed());
        if waiting.now.is_empty() {
            self.waiting.remove(&lease);
            return Ok(None);
        }
        self.under_way.push_back(lease);
        Ok(Some(lease))
    }

    fn end(self, status: &Status) {
        for answer in self.waiting.into_values().flat_map(|waiting| waiting.now.into_iter().chain(waiting.next)) {
            let _ = answer.send(Err(status.clone()));
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lease: i64) -> (Asked, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        (Asked { lease, answer }, answered)
    }

    fn renewed(id: i64) -> Bytes {
        LeaseKeepAliveResponse { id, ttl: 10, ..Default::default() }.encode_to_vec().into()
    }

    #[test]
    fn b42_a_renewal_answers_those_who_asked_before_it_was_sent() {
        let mut leases = Leases::default();
        let (first, mut first_answered) = asked(5);
        assert_eq!(leases.ask(first), Some(5), "sent at once");
        let (second, mut second_answered) = asked(5);
        let (third, mut third_answered) = asked(5);
        assert_eq!((leases.ask(second), leases.ask(third)), (None, None), "they wait for the next");
        assert_eq!(leases.answer(&renewed(5)).unwrap(), Some(5), "which is sent for both");
        assert!(first_answered.try_recv().unwrap().is_ok());
        assert!(second_answered.try_recv().is_err());
        assert_eq!(leases.answer(&renewed(5)).unwrap(), None);
        assert!(second_answered.try_recv().unwrap().is_ok() && third_answered.try_recv().unwrap().is_ok());
        assert!(leases.is_idle());
    }

    #[test]
    fn b42_nothing_is_renewed_for_a_client_that_has_gone() {
        let mut leases = Leases::default();
        let (first, _first) = asked(5);
        leases.ask(first);
        let (gone, answered) = asked(5);
        leases.ask(gone);
        drop(answered);
        assert_eq!(leases.answer(&renewed(5)).unwrap(), None);
        assert!(leases.is_idle());
    }

    #[test]
    fn an_answer_out_of_order_is_not_believed() {
        let mut leases = Leases::default();
        let (five, _five) = asked(5);
        let (six, _six) = asked(6);
        leases.ask(five);
        leases.ask(six);
        assert!(leases.answer(&renewed(6)).is_err());
    }
}
