//! Leases: who holds which keys until when.
//!
//! [`Lessor`] is pure; the caller passes the time and carries out what it decides. Only a primary
//! lessor, the leader's, knows expiry times; on followers a lease lasts until the leader's revoke
//! comes through the log.

mod lessor;
mod spread;

use std::time::Duration;

pub use lessor::{Grant, Lessor, Renewal};

/// Why a member does not answer for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// There is no such lease.
    #[error("lease not found")]
    Unknown,
    /// Another member leads.
    #[error("not a primary lessor")]
    Elsewhere,
    /// It may be that this one does not know of it yet.
    #[error("waiting for node to catch up its applied index has timed out")]
    Behind,
}

/// The largest TTL that a client may ask for, in seconds.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// What a lease table is told at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Shorter TTLs, in seconds, are raised to this, so that a lease outlives an election.
    pub min_ttl: i64,
    /// How often the log is told what is left of a long lease; `None` for never. Often: a change of leaders prolongs
    /// leases by little; seldom: fewer entries.
    pub checkpoint_interval: Option<Duration>,
    /// Whether what is left goes into the file of a cluster whose version is below 3.6 as well.
    pub persist_checkpoints: bool,
}

/// Checkpoints in one entry.
pub const CHECKPOINTS_PER_ENTRY: usize = 1000;

/// Leases that one expiry round revokes at most; the rest waits for the next round.
pub const REVOKES_PER_ROUND: usize = 500;
