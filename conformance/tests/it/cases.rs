//! The table of cases on every target. `CASE=watch` runs those with `watch` in their name.

use std::collections::BTreeSet;

use forebay_conformance::{
    peers::{self, Release},
    runner,
    target::Kind,
};
use forebay_proto::Error;

async fn like_the_reference(test: &str, kind: Kind) {
    if let Some(missing) = Kind::REFERENCE.missing().or(kind.missing()) {
        return peers::skip(test, missing);
    }
    let report = runner::run_all(kind).await.expect("the cases can be run");
    assert!(report.text.is_empty(), "\n{}", report.text);
    if kind == Kind::REFERENCE && std::env::var_os("CASE").is_none() {
        every_error_was_asked_for(&report.errors);
    }
}

/// The errors that no single client of a single healthy member can be given.
const UNREACHABLE: &[(Error, &str)] = &[
    (Error::WatchCanceled, "the end of a stream whose client has gone"),
    (Error::MemberExist, "needs the same member to be added twice within a second"),
    (Error::ClusterIdMismatch, "between members only"),
    (Error::TooManyRequests, "needs a member that cannot keep up"),
    (Error::AuthOldRevision, "a race between two clients, or a token of another kind"),
    (Error::NoLeader, "needs a cluster without a leader"),
    (Error::NotLeader, "needs a follower"),
    (Error::LeaderChanged, "needs a second member"),
    (Error::NotCapable, "before a member serves"),
    (Error::Stopped, "while a member ends"),
    (Error::Timeout, "needs a cluster without a quorum"),
    (Error::TimeoutDueToLeaderFail, "needs a cluster without a quorum"),
    (Error::TimeoutDueToConnectionLost, "needs a cluster without a quorum"),
    (Error::TimeoutWaitAppliedIndex, "needs a member that cannot keep up"),
    (Error::Unhealthy, "needs a second member"),
    (Error::NotSupportedForLearner, "needs a learner that runs"),
    (Error::ClusterVersionUnavailable, "before a member serves"),
    (Error::NoInflightDowngrade, "cancelling a downgrade that is not there is answered well"),
    (Error::Canceled, "the end of a call whose client has gone"),
    (Error::DeadlineExceeded, "the end of a call whose client has gone"),
];

fn every_error_was_asked_for(seen: &BTreeSet<String>) {
    let unreachable = |error: &Error| UNREACHABLE.iter().any(|(own, _)| own == error);
    let missing: Vec<&Error> =
        Error::ALL.iter().filter(|&error| !unreachable(error) && !seen.contains(error.message())).collect();
    assert!(missing.is_empty(), "no case leads to {missing:?}");
    let reached: Vec<&Error> =
        Error::ALL.iter().filter(|&error| unreachable(error) && seen.contains(error.message())).collect();
    assert!(reached.is_empty(), "{reached:?} can be reached after all");
}

macro_rules! targets {
    ($($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            like_the_reference(concat!("cases::", stringify!($name)), $kind).await;
        }
    )* };
}

targets! {
    etcd_3_7_is_like_itself: Kind::Etcd(Release::V3_7);
    etcd_3_5_differs_only_as_listed: Kind::Etcd(Release::V3_5);
    etcd_3_4_differs_only_as_listed: Kind::Etcd(Release::V3_4);
    the_server_is_like_etcd: Kind::Server;
    the_gateway_over_the_server_is_like_etcd: Kind::GatewayOverServer;
    the_gateway_over_etcd_is_like_etcd: Kind::GatewayOverEtcd(Release::V3_7);
    the_gateway_without_a_mirror_is_like_etcd: Kind::PassThroughOverEtcd(Release::V3_7);
}
