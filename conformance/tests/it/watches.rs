//! Random watches on every target, with the same settings as the random programs.

use forebay_conformance::{
    peers::{self, Release},
    target::Kind,
    watches,
};
use futures::{StreamExt as _, stream};

use crate::programs::{seeds, setting};

async fn like_the_reference(test: &str, kind: Kind) {
    if let Some(missing) = Kind::REFERENCE.missing().or(kind.missing()) {
        return peers::skip(test, missing);
    }
    let length = usize::try_from(setting("OPS").unwrap_or(200)).expect("a length fits");
    let failures: Vec<Option<String>> = stream::iter(seeds(6))
        .map(|seed| async move { watches::check(kind, seed, length).await.expect("the program can be run") })
        .buffer_unordered(3)
        .collect()
        .await;
    let failures: String = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "\n{failures}");
}

macro_rules! targets {
    ($($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            like_the_reference(concat!("watches::", stringify!($name)), $kind).await;
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
