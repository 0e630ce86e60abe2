//! The facts of the protocol, one small function each, written once and run on every target.
//!
//! A case asserts nothing itself. Everything it asks is recorded, and the record of the target is
//! compared with that of the reference. Every case has a fresh target of its own, so that revisions
//! can be compared exactly and a failing case fails alone.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::session::Session;

mod auth;
mod cluster;
mod compact;
mod concurrency;
mod header;
mod kv;
mod lease;
mod limits;
mod maintenance;
mod range;
mod range_stream;
pub mod requests;
mod rights;
mod txn;
mod txn_rules;
mod watch_create;
mod watch_events;

/// How long a case may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Module and function.
    pub name: &'static str,
    /// The behaviour it covers, in a few words.
    pub about: &'static str,
    /// Flags of the member beside the common ones.
    pub args: &'static [&'static str],
    /// What it asks.
    pub run: for<'a> fn(&'a mut Session) -> BoxFuture<'a, anyhow::Result<()>>,
}

/// The table of a module's cases: `name: "what it covers";`, with the member's flags behind `with` where needed.
macro_rules! cases {
    ($module:literal: $($name:ident: $about:literal $(with $args:expr)?;)*) => {
        pub(super) const CASES: &[crate::cases::Case] = &[$(
            crate::cases::Case {
                name: concat!($module, "::", stringify!($name)),
                about: $about,
                args: cases!(@args $($args)?),
                run: |session| Box::pin($name(session)),
            },
        )*];
    };
    (@args) => { &[] };
    (@args $args:expr) => { &$args };
}
use cases;

/// Every case.
pub fn all() -> Vec<&'static Case> {
    let modules = [
        header::CASES,
        range::CASES,
        range_stream::CASES,
        kv::CASES,
        txn::CASES,
        txn_rules::CASES,
        watch_create::CASES,
        watch_events::CASES,
        lease::CASES,
        compact::CASES,
        maintenance::CASES,
        cluster::CASES,
        limits::CASES,
        auth::CASES,
        rights::CASES,
        concurrency::CASES,
    ];
    modules.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = all().iter().map(|case| case.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
