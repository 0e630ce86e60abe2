//! What the tests of several modules share.

use std::time::Instant;

/// The first instant of a test; all later ones are reckoned from it.
#[expect(clippy::disallowed_methods, reason = "tests have to begin somewhere")]
pub fn start() -> Instant {
    Instant::now()
}
