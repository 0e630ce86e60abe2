//! Requests that can be decoded and that no client sends: which of them end an etcd, and that none ends ours, or an etcd
//! behind a gateway.

use forebay_conformance::{
    malformed,
    peers::{self, Release},
    target::Kind,
};

/// What ends a target of this kind; nothing where it cannot run.
async fn deadly(test: &str, kind: Kind) -> Option<Vec<String>> {
    match kind.missing() {
        Some(missing) => peers::skip(test, missing),
        None => {
            let deadly = malformed::deadly(kind).await.unwrap_or_else(|error| panic!("{error:#}"));
            return Some(deadly.into_iter().collect());
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_end_an_etcd() {
    let Some(old) = deadly("malformed::control", Kind::Etcd(Release::V3_4)).await else { return };
    let expected = [
        "action of /etcdserverpb.Maintenance/Alarm",
        "perm of /etcdserverpb.Auth/RoleGrantPermission",
        "sort_target of /etcdserverpb.KV/Range",
        "sort_target of /etcdserverpb.KV/Txn",
    ];
    assert_eq!(old, expected);
    let Some(new) = deadly("malformed::reference", Kind::REFERENCE).await else { return };
    assert_eq!(new, expected[..1]);
}

macro_rules! survived {
    ($($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let deadly = deadly(concat!("malformed::", stringify!($name)), $kind).await.unwrap_or_default();
            assert!(deadly.is_empty(), "{deadly:#?}");
        }
    )* };
}

survived! {
    none_ends_the_server: Kind::Server;
    none_ends_an_etcd_3_4_behind_the_gateway: Kind::PassThroughOverEtcd(Release::V3_4);
    none_ends_an_etcd_3_5_behind_the_gateway: Kind::PassThroughOverEtcd(Release::V3_5);
    none_ends_an_etcd_3_7_behind_the_gateway: Kind::GatewayOverEtcd(Release::V3_7);
}
