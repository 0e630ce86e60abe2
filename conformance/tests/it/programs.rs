//! Random programs on every target. `SEED=7` runs one program, `SEEDS=100` more of them than usual, and
//! `OPS=1000` longer ones.

use forebay_conformance::{
    peers::{self, Release},
    programs,
    target::Kind,
};
use futures::{StreamExt as _, stream};

/// A number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The seeds to run: `$SEED` alone, or the first `$SEEDS`.
pub(crate) fn seeds(usual: u64) -> Vec<u64> {
    setting("SEED").map_or_else(|| (1..=setting("SEEDS").unwrap_or(usual)).collect(), |seed| vec![seed])
}

async fn like_the_reference(test: &str, kind: Kind) {
    if let Some(missing) = Kind::REFERENCE.missing().or(kind.missing()) {
        return peers::skip(test, missing);
    }
    let length = usize::try_from(setting("OPS").unwrap_or(250)).expect("a length fits");
    let failures: Vec<Option<String>> = stream::iter(seeds(6))
        .map(|seed| async move { programs::check(kind, seed, length).await.expect("the program can be run") })
        .buffer_unordered(3)
        .collect()
        .await;
    let failures: String = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "\n{failures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_of_a_program_is_accepted() {
    if let Some(missing) = Kind::REFERENCE.missing() {
        return peers::skip("programs::most_of_a_program_is_accepted", missing);
    }
    let methods = programs::accepted(1, 400).await.expect("the program can be run");
    assert_eq!(methods.len(), 12, "every method has its turn: {methods:?}");
    for (method, (accepted, all)) in &methods {
        assert!(accepted * 5 >= *all, "{method} is mostly refused: {methods:?}");
    }
}

/// etcd 3.5 has no `hash_revision`, which shows in the first hash asked for, and without any operation at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_is_found_and_its_program_shrunk() {
    let kind = Kind::Etcd(Release::V3_5);
    if let Some(missing) = Kind::REFERENCE.missing().or(kind.missing()) {
        return peers::skip("programs::a_difference_is_found_and_its_program_shrunk", missing);
    }
    let failure = programs::check(kind, 1, 100).await.expect("the program can be run").expect("3.5 is not like 3.7");
    assert!(failure.contains("hash_revision") && failure.contains("shrunk to 0 of 100"), "{failure}");
}

macro_rules! targets {
    ($($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            like_the_reference(concat!("programs::", stringify!($name)), $kind).await;
        }
    )* };
}

targets! {
    etcd_is_like_itself: Kind::Etcd(Release::V3_7);
    the_server_is_like_etcd: Kind::Server;
    the_gateway_over_the_server_is_like_etcd: Kind::GatewayOverServer;
    the_gateway_over_etcd_is_like_etcd: Kind::GatewayOverEtcd(Release::V3_7);
    the_gateway_without_a_mirror_is_like_etcd: Kind::PassThroughOverEtcd(Release::V3_7);
}
