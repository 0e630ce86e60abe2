//! The differences that are no faults, with the reason for each.

use crate::{diff::Difference, peers::Release, target::Kind};

/// One difference that is expected.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// The targets it is expected on.
    pub on: On,
    /// The case, or the start of its name up to a `*`.
    pub case: &'static str,
    /// The path of the difference, or its end behind a `*`, or its start before one.
    pub path: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// A set of targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// etcd up to this release, directly or behind a gateway.
    EtcdUpTo(Release),
    /// The gateway, over anything.
    Gateway,
}

impl On {
    fn holds(self, kind: Kind) -> bool {
        match (self, kind) {
            (On::EtcdUpTo(limit), Kind::Etcd(release) | Kind::GatewayOverEtcd(release)) => release <= limit,
            (On::Gateway, kind) => kind.is_gateway(),
            _ => false,
        }
    }
}

impl Allowed {
    fn covers(&self, kind: Kind, case: &str, path: &str) -> bool {
        self.on.holds(kind) && matches(self.case, case) && matches(self.path, path)
    }
}

/// The entry that covers a difference, if one does.
pub fn reason(kind: Kind, case: &str, difference: &Difference) -> Option<&'static Allowed> {
    ALLOWED.iter().find(|allowed| allowed.covers(kind, case, &difference.path))
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
    }
}

/// The whole list.
pub const ALLOWED: &[Allowed] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matches("steps.*.lease", "steps.3.kvs.0.lease") && !matches("a*a", "a"));
        assert!(matches("*", "") && !matches("exact", "exactly"));
    }

    #[test]
    fn the_server_itself_has_no_allowance_of_etcd() {
        assert!(!On::EtcdUpTo(Release::V3_7).holds(Kind::Server) && !On::Gateway.holds(Kind::Server));
    }
}
