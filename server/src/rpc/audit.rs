//! A line of the log for each call that only root may make and each that is about users and roles, while auth is on:
//! who made it, by what that was known, and what came of it.
//!
//! Refused calls cost their sender nothing, so of their lines there are a few a second, and the next one says how many
//! are missing. What was carried out is always told.

use std::{net::SocketAddr, time::Instant};

use forebay_edge::{Request, Response, listener::Peer};
use forebay_policies::{
    bucket::{Bucket, Pace},
    units::Rate,
};
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::rights::Need;
use crate::{auth::Identified, member::Member};

/// Lines of refused calls.
const REFUSED_PER_SECOND: u64 = 10;

/// The refused calls of which there was a line lately.
#[derive(Debug)]
pub(crate) struct Audit(Mutex<Refused>);

#[derive(Debug)]
struct Refused {
    lines: Bucket,
    /// Calls without a line since the last one.
    untold: u64,
}

/// A call that there will be a line for.
pub(super) struct Line {
    method: Box<str>,
    user: Option<Box<str>>,
    shown: &'static str,
    remote: Option<SocketAddr>,
}

impl Line {
    /// Of a call that came, if it is one of those.
    pub(super) fn of(member: &Member, request: &Request, need: Need) -> Option<Line> {
        if !matches!(need, Need::Admin | Need::Apply) {
            return None;
        }
        let credentials = Member::credentials(request);
        let user = match member.auth().identify(&credentials) {
            Identified::As(caller) if !caller.user().is_empty() => Some(caller.user().into()),
            Identified::As(_) | Identified::Later(_) | Identified::Invalid => None,
        };
        Some(Line {
            method: request.uri().path().into(),
            user,
            shown: credentials.kind(),
            remote: request.extensions().get::<Peer>().map(|peer| peer.address),
        })
    }

    /// Writes it, once there is an answer.
    pub(super) fn write(self, audit: &Audit, answer: &Response) {
        let code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code());
        let Line { method, user, shown, remote } = self;
        let (user, remote) = (user.as_deref(), remote.map(tracing::field::display));
        match code {
            Code::Ok => tracing::info!(method = &*method, user, shown, remote, verdict = ?code, "audit"),
            code => {
                let Some(untold) = audit.refused(Instant::now()) else { return };
                tracing::warn!(method = &*method, user, shown, remote, verdict = ?code, untold, "audit");
            }
        }
    }
}

impl Audit {
    pub(crate) fn new(now: Instant) -> Audit {
        Audit(Mutex::new(Refused { lines: Bucket::new(now), untold: 0 }))
    }

    /// Whether a refused call has a line, and how many before it had none.
    fn refused(&self, now: Instant) -> Option<u64> {
        let pace = Pace { rate: Rate::per_second(REFUSED_PER_SECOND), burst: REFUSED_PER_SECOND };
        let mut refused = self.0.lock();
        if !refused.lines.wait(now, pace, 1).is_zero() {
            refused.untold += 1;
            return None;
        }
        refused.lines.take(now, pace, 1);
        Some(std::mem::take(&mut refused.untold))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refused_calls_have_few_lines_and_are_counted() {
        let start = Instant::now();
        let audit = Audit::new(start);
        let lines = (0..1_000).filter_map(|_| audit.refused(start)).collect::<Vec<_>>();
        assert_eq!(lines, [0; 10]);
        assert_eq!(audit.refused(start + Duration::from_secs(1)), Some(990));
    }
}
