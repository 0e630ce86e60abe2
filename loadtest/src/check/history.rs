//! What clients asked and saw, and when.

use forebay_proto::{
    etcdserverpb::{WatchCreateRequest, WatchResponse, request_op, response_op},
    mvccpb::KeyValue,
};

/// Nanoseconds, or ticks, of one clock that never goes back and that everybody who recorded shares.
pub type Time = u64;

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What there was before.
    pub base: Base,
    /// In any order.
    pub operations: Vec<Operation>,
    /// In any order.
    pub watches: Vec<Watch>,
    /// Whether nobody but these operations wrote anything, not even to other keys: each revision must then be by one
    /// of them.
    pub exclusive: bool,
}

/// The state that a history begins with.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// Of a read of all keys that the history is about, answered before its first operation was sent.
    pub revision: i64,
    /// All of them.
    pub kvs: Vec<KeyValue>,
}

/// One request and what came of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// When it was sent.
    pub called: Time,
    /// What was asked.
    pub request: Request,
    /// What came back.
    pub outcome: Outcome,
}

/// What can be asked.
#[derive(Clone, Debug)]
pub enum Request {
    /// KV. All keys that it names are among those of the base.
    Kv(request_op::Request),
    /// Compacts up to a revision.
    Compact(i64),
    /// Takes a lease away, with the keys that hang on it. A lease that may expire is one of these that nobody answers.
    Revoke(i64),
}

/// What can come back.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was done.
    Answered {
        /// When the answer was there.
        at: Time,
        /// What it was.
        answer: Answer,
    },
    /// It was not done and never will be.
    Refused {
        /// When the answer was there.
        at: Time,
        /// Why.
        refusal: Refusal,
    },
    /// It may have been done, or may be done later: a timeout, a connection that broke.
    Unknown,
}

/// The answer to a request that was done.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To a request of KV: whole, headers included.
    Kv(response_op::Response),
    /// To others: that it was done.
    Done,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A read at a revision that is compacted.
    Compacted,
    /// A read at a revision that is not there yet.
    FutureRevision,
    /// Anything else.
    Other,
}

/// One watcher, from its creation until it ended or nobody looked any more. One that is resumed is a new one.
#[derive(Clone, Debug)]
pub struct Watch {
    /// When it was asked for.
    pub called: Time,
    /// What was asked.
    pub request: WatchCreateRequest,
    /// Everything that came for it, the answer to its creation first. What came for all watches of its stream
    /// (`watch_id` -1) is here too.
    pub messages: Vec<Received>,
    /// Up to which revision it had time to get everything: not reaching it is a loss. 0 if it ended before.
    pub settled: i64,
}

/// A message of a watch.
#[derive(Clone, Debug)]
pub struct Received {
    /// When it was there.
    pub at: Time,
    /// What it was.
    pub response: WatchResponse,
}
