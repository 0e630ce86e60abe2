//! The Watch service: the shared one of `edge` over this member's hub.

use forebay_edge::{Request, Response};
use forebay_proto::Error;
use futures::FutureExt as _;

use crate::member::Member;

pub(super) fn watch(member: Member, request: Request) -> Response {
    let stopping = member.clone();
    let ended = async move {
        stopping.draining().await;
        Error::Stopped.into()
    };
    member.watches().serve(request, ended.boxed())
}
