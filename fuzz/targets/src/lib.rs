//! What must hold for every input: one function per decoder, which returns nothing and panics when it does not hold.
//!
//! They are called from two places, `fuzz/fuzz_targets` (libFuzzer, which looks for inputs) and `tests/corpus.rs` (a
//! plain test, which replays the inputs of `fuzz/corpus` and mutations of them). "It does not panic" is the least of
//! what they ask: where there is a slower or simpler way to the same answer, they go that way too and compare.

mod db;
mod dns;
mod entries;
mod flags;
mod grpc;
mod http;
mod input;
mod json;
mod messages;
mod peers;
mod policies;
mod ranges;
mod records;
mod replies;
mod requests;
mod schema;
mod snap;
mod tls;
mod txns;
mod urls;
mod wal;
mod watches;

pub use crate::{
    db::db_file,
    dns::dns_answers,
    entries::raft_entries,
    flags::{config_file, flags},
    grpc::grpc_messages,
    http::http_request,
    json::{json_request, json_response},
    messages::proto_messages,
    peers::peer_streams,
    policies::policy_file,
    ranges::key_ranges,
    records::key_records,
    replies::grpc_replies,
    requests::requests,
    schema::schema_values,
    snap::snapshot_file,
    tls::tls_files,
    txns::txn_checks,
    urls::urls,
    wal::{wal_records, wal_segment},
    watches::watch_streams,
};

/// A function to call with inputs.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its folder in `fuzz/corpus` and of its program in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Panics if something that must hold does not.
    pub run: fn(&[u8]),
    /// How many mutations of each input of the corpus the plain test tries: fewer where one takes long.
    pub mutations: u32,
}

macro_rules! targets {
    ($($name:ident: $mutations:literal,)*) => {
        /// Every target.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $name, mutations: $mutations },)*];
    };
}

targets! {
    config_file: 100,
    db_file: 100,
    dns_answers: 1000,
    flags: 150,
    grpc_messages: 500,
    grpc_replies: 500,
    http_request: 200,
    json_request: 500,
    json_response: 500,
    key_ranges: 1000,
    key_records: 300,
    peer_streams: 300,
    policy_file: 150,
    proto_messages: 1000,
    raft_entries: 300,
    requests: 300,
    schema_values: 100,
    snapshot_file: 200,
    tls_files: 50,
    txn_checks: 500,
    urls: 1000,
    wal_records: 150,
    wal_segment: 150,
    watch_streams: 300,
}
