//! etcd's wire and disk messages, and the facts that every other crate shares about them.
//!
//! The `.proto` files stand in `proto/proto/`; their numbers and names are etcd's. Every `bytes`
//! field is a [`bytes::Bytes`], so decoding a message never copies a key or a value.

/// Makes one module of what the build script generated for one package: its types, and for the
/// packages of the client API their JSON form.
macro_rules! generated {
    ($(#[$doc:meta])* $package:ident: $($file:literal),+) => {
        $(#[$doc])*
        #[allow(clippy::cloned_instead_of_copied, clippy::uninlined_format_args, reason = "generated code")]
        pub mod $package {
            $(include!(concat!(env!("OUT_DIR"), "/", $file));)+
        }
    };
}

generated! {
    /// The client API, the content of raft entries, and WAL metadata.
    etcdserverpb: "etcdserverpb.rs", "etcdserverpb.serde.rs"
}
generated! {
    /// Keys, values and events.
    mvccpb: "mvccpb.rs", "mvccpb.serde.rs"
}
generated! {
    /// Users, roles and permissions.
    authpb: "authpb.rs", "authpb.serde.rs"
}
generated! {
    /// Membership facts in the raft log.
    membershippb: "membershippb.rs", "membershippb.serde.rs"
}
generated! {
    /// The Lock service.
    v3lockpb: "v3lockpb.rs", "v3lockpb.serde.rs"
}
generated! {
    /// The Election service.
    v3electionpb: "v3electionpb.rs", "v3electionpb.serde.rs"
}
generated! {
    /// Leases on disk and between members.
    leasepb: "leasepb.rs"
}
generated! {
    /// Raft entries, messages and snapshots in etcd's encoding.
    raftpb: "raftpb.rs"
}
generated! {
    /// Records of the write-ahead log.
    walpb: "walpb.rs"
}
generated! {
    /// The envelope of a `.snap` file.
    snappb: "snappb.rs"
}

mod error;
pub mod json;
mod nesting;
pub mod quotas;
mod range;
pub mod rpc;

pub use error::Error;
pub use nesting::{NestingError, TXN_DEPTH_MAX, decode_raft_request, decode_txn, each_part};
pub use range::KeyRange;

/// The encoded `FileDescriptorSet` of all files, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
