//! Every comparison, once for every target that is installed.

mod advisories;
mod auth;
mod bench;
mod boards;
mod cases;
mod clients;
mod cluster;
mod console;
mod corruption;
mod crash;
mod damage;
mod doctor;
mod etcdctl;
mod faults;
mod flaps;
mod gateways;
mod histories;
mod hostile;
mod http;
mod malformed;
mod metrics;
mod openapi;
mod packaging;
mod programs;
mod promises;
mod specs;
mod swap;
mod tools;
mod watches;

use std::{future::Future, time::Duration};

use forebay_conformance::{peers, target::Kind};

/// The whole of a test that talks to other processes: none of them may keep it for ever.
async fn within(test: impl Future<Output = anyhow::Result<()>>) {
    const LIMIT: Duration = Duration::from_secs(240);
    tokio::time::timeout(LIMIT, test).await.expect("the processes answer in time").expect("the test succeeds");
}

/// What trying everything on a target of this kind found; nothing where it cannot run.
async fn found<T>(test: &str, kind: Kind, tried: impl Future<Output = anyhow::Result<T>>) -> Option<T> {
    if let Some(missing) = kind.missing() {
        peers::skip(test, missing);
        return None;
    }
    Some(tried.await.unwrap_or_else(|error| panic!("{error:#}")))
}

/// A test for each name, that trying everything on a target of its kind finds nothing.
macro_rules! finds_nothing {
    ($suite:literal, $tried:path, $($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let kind: forebay_conformance::target::Kind = $kind;
            let found = crate::found(concat!($suite, "::", stringify!($name)), kind, $tried(kind)).await;
            assert!(found.as_ref().is_none_or(|found| found.is_empty()), "{found:#?}");
        }
    )* };
}
use finds_nothing;
