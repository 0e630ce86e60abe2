//! etcd's wire and disk messages, and the facts that every other crate shares about them.
//!
//! The `.proto` files stand in `proto/proto/`; their numbers and names are etcd's. Every `bytes`
//! field is a [`bytes::Bytes`], so decoding a message never copies a key or a value.

pub mod etcdserverpb {
    //! The client API (`rpc.proto`), the content of raft entries, and WAL metadata.
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.serde.rs"));
}
pub mod mvccpb {
    //! Keys, values and events.
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
    include!(concat!(env!("OUT_DIR"), "/mvccpb.serde.rs"));
}
pub mod authpb {
    //! Users, roles and permissions.
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
    include!(concat!(env!("OUT_DIR"), "/authpb.serde.rs"));
}
pub mod membershippb {
    //! Membership facts in the raft log.
    include!(concat!(env!("OUT_DIR"), "/membershippb.rs"));
    include!(concat!(env!("OUT_DIR"), "/membershippb.serde.rs"));
}
pub mod v3lockpb {
    //! The Lock service.
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.serde.rs"));
}
pub mod v3electionpb {
    //! The Election service.
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.serde.rs"));
}
pub mod leasepb {
    //! Leases on disk and between members.
    include!(concat!(env!("OUT_DIR"), "/leasepb.rs"));
}
pub mod raftpb {
    //! Raft entries, messages and snapshots in etcd's encoding.
    include!(concat!(env!("OUT_DIR"), "/raftpb.rs"));
}
pub mod walpb {
    //! Records of the write-ahead log.
    include!(concat!(env!("OUT_DIR"), "/walpb.rs"));
}
pub mod snappb {
    //! The envelope of a `.snap` file.
    include!(concat!(env!("OUT_DIR"), "/snappb.rs"));
}

mod error;
mod range;

pub use error::Error;
pub use range::KeyRange;

/// The encoded `FileDescriptorSet` of all files, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
