//! The Watch service: the shared one of `edge` over this member's hub.

use std::sync::Arc;

use forebay_edge::{Request, Response, watch::Source};
use forebay_keyspace::watch::HeaderBase;
use forebay_proto::{Error, etcdserverpb::ResponseHeader};
use futures::FutureExt as _;

use crate::member::Member;

pub(super) fn watch(member: Member, request: Request) -> Response {
    let stopping = member.clone();
    let ended = async move {
        stopping.draining().await;
        Error::Stopped.into()
    };
    member.watches().serve(request, Arc::new(Own(member.clone())), ended.boxed())
}

/// The member's own hub knows everything there is since the last compaction, and as soon as the member does.
struct Own(Member);

impl Source for Own {
    fn header(&self) -> HeaderBase {
        let ResponseHeader { cluster_id, member_id, raft_term, .. } = self.0.header();
        HeaderBase { cluster_id, member_id, raft_term }
    }
}
