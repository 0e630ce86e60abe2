//! The other members: etcd's peer protocol, both sides of it.
//!
//! ```text
//!   raft thread ── Transport ──► Peers ──► Link (one for each other member)
//!                                            ├─ msgapp, message: bodies of the streams that the member dialled
//!                                            ├─ pipeline: POST /raft while it has not
//!                                            ├─ POST /raft/snapshot, the db behind the message
//!                                            └─ readers: the streams that we dial there
//!   peer port ──► service ──► attaches streams, steps messages, receives snapshots, answers /members, /version, …
//! ```
//!
//! A pair of members has four long requests, two each way: whoever wants to hear dials. [`codec`] is what they carry,
//! [`identity`] what every request says about its sender, [`client`] how requests are made.
//!
//! **Invariants.** Nothing that a peer sends takes memory by a length it states, or more than a named bound. Sending
//! never waits: what does not fit is dropped and reported to raft as unreachable. A message goes to raft only if it is
//! for this member and not from a removed one.

mod calls;
mod client;
pub mod codec;
mod identity;
mod link;
mod metrics;
mod outgoing;
mod peers;
mod reader;
mod receive;
mod service;

pub(crate) use self::{
    calls::{HashKvAnswer, HashKvQuery},
    client::{Answer, Client, ClientError, Timeouts, get_members, get_versions},
    identity::{Identity, id_text},
    metrics::PeerMetrics,
    peers::Peers,
    receive::{Prepared, Receiver, file_name, remove_received},
    service::PeerService,
};
