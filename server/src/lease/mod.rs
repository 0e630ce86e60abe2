//! Leases: who holds which keys until when.
//!
//! [`Lessor`] is pure; the caller passes the time and carries out what it decides. Only a primary
//! lessor, the leader's, knows expiry times; on followers a lease lasts until the leader's revoke
//! comes through the log.

mod lessor;

pub use lessor::{Grant, Lessor, Renewal};

/// The largest TTL that a client may ask for, in seconds.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// Leases that one expiry round revokes at most; the rest waits for the next round.
pub const REVOKES_PER_ROUND: usize = 500;
