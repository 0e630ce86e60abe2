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
    let failures: Vec<String> = stream::iter(seeds(6))
        .map(|seed| async move { programs::check(kind, seed, length).await.expect("the program can be run") })
        .buffer_unordered(3)
        .filter_map(async |failure| failure)
        .collect()
        .await;
    assert!(failures.is_empty(), "\n{}", failures.concat());
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
}
