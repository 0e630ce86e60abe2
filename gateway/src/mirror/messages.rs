//! The upstream's messages where the mirror reads less of them than there is.

use forebay_proto::etcdserverpb::ResponseHeader;
use prost::Message;

/// The header that every response of the KV and Lease services begins with; the rest is skipped.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Headed {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
}
