//! The member's own API, called in this process as somebody who called it from outside.
//!
//! Lock and Election are loops over the API, in etcd over its client. Here each step is a call like any other, with
//! the caller's metadata and certificate: whoever checks calls checks these too.

use std::time::Instant;

use forebay_edge::{Body, Request, grpc, listener::Memory};
use forebay_proto::{Error, etcdserverpb::*};
use http::{Extensions, HeaderMap, Method, header, request::Parts};
use prost::Message;
use tonic::{Code, Status};

use crate::member::Member;

/// Somebody who called.
#[derive(Clone)]
pub(super) struct Caller {
    member: Member,
    headers: HeaderMap,
    extensions: Extensions,
    deadline: Option<Instant>,
}

impl Caller {
    /// The sender of a request.
    pub(super) fn new(member: Member, parts: Parts) -> Result<Caller, Status> {
        let Parts { mut headers, mut extensions, .. } = parts;
        let deadline = grpc::deadline(&headers, Instant::now())?;
        // These are about that request alone; the deadline is kept by `in_time`.
        for name in ["grpc-timeout", "grpc-encoding", header::CONTENT_LENGTH.as_str()] {
            headers.remove(name);
        }
        // Nobody but us takes the answers.
        extensions.remove::<Memory>();
        Ok(Caller { member, headers, extensions, deadline })
    }

    /// Does something for as long as the caller waits for it.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let Some(deadline) = self.deadline else { return work.await };
        let waited = tokio::time::timeout_at(deadline.into(), work).await;
        waited.unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded")))
    }

    pub(super) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        self.unary("/etcdserverpb.KV/Range", request).await
    }

    pub(super) async fn delete(&self, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
        self.unary("/etcdserverpb.KV/DeleteRange", request).await
    }

    pub(super) async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        self.unary("/etcdserverpb.KV/Txn", request).await
    }

    pub(super) async fn grant(&self, request: &LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
        self.unary("/etcdserverpb.Lease/LeaseGrant", request).await
    }

    /// Watches until dropped.
    pub(super) async fn watch(&self, create: WatchCreateRequest) -> Watcher {
        let request = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
        let (_, replies) = self.open("/etcdserverpb.Watch/Watch", &request).await;
        Watcher(replies)
    }

    async fn unary<A: Message + Default>(&self, path: &'static str, request: &impl Message) -> Result<A, Status> {
        let (_, mut replies) = self.open(path, request).await;
        let answer = replies.next().await.map_err(client_error)?;
        match replies.next().await {
            Err(status) if status.code() == Code::Ok => {}
            Err(status) => return Err(client_error(status)),
            Ok(_) => unreachable!("a unary call has one answer"),
        }
        Ok(A::decode(answer).expect("our own answers decode"))
    }

    async fn open(&self, path: &'static str, request: &impl Message) -> (HeaderMap, grpc::Replies) {
        let mut call = Request::new(Body::full(grpc::encode(request)));
        *call.method_mut() = Method::POST;
        *call.uri_mut() = http::Uri::from_static(path);
        *call.headers_mut() = self.headers.clone();
        *call.extensions_mut() = self.extensions.clone();
        grpc::Replies::new(super::dispatch(self.member.clone(), call).await)
    }
}

/// The events that a watch tells of.
pub(super) struct Watcher(grpc::Replies);

impl Watcher {
    /// The next response; a watch that was cancelled ends in an error.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, Status> {
        let message = self.0.next().await.map_err(client_error)?;
        let response = WatchResponse::decode(message).expect("our own answers decode");
        match response {
            WatchResponse { canceled: true, compact_revision: 1.., .. } => Err(client_error(Error::Compacted.into())),
            WatchResponse { canceled: true, cancel_reason, .. } => {
                Err(client_error(Status::failed_precondition(cancel_reason)))
            }
            response => Ok(response),
        }
    }
}

/// What is left of an error on its way through etcd's client: of one that the client knows, only the text.
fn client_error(status: Status) -> Status {
    match Error::ALL.iter().any(|error| error.message() == status.message()) {
        true => Status::unknown(status.message()),
        false => status,
    }
}
