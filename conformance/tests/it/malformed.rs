//! Requests that can be decoded and that no client sends: which of them end an etcd, and that none ends ours, or an etcd
//! behind a gateway.

use forebay_conformance::{malformed, peers::Release, target::Kind};

use crate::{finds_nothing, found};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_end_an_etcd() {
    let kind = Kind::Etcd(Release::V3_4);
    let Some(old) = found("malformed::control", kind, malformed::deadly(kind)).await else { return };
    let expected = [
        "action of /etcdserverpb.Maintenance/Alarm",
        "perm of /etcdserverpb.Auth/RoleGrantPermission",
        "sort_target of /etcdserverpb.KV/Range",
        "sort_target of /etcdserverpb.KV/Txn",
    ];
    assert!(old.iter().eq(expected), "{old:#?}");
    let kind = Kind::REFERENCE;
    let Some(new) = found("malformed::reference", kind, malformed::deadly(kind)).await else { return };
    assert!(new.iter().eq(&expected[..1]), "{new:#?}");
}

finds_nothing! {
    "malformed", malformed::deadly,
    none_ends_the_server: Kind::Server;
    none_ends_an_etcd_3_4_behind_the_gateway: Kind::PassThroughOverEtcd(Release::V3_4);
    none_ends_an_etcd_3_5_behind_the_gateway: Kind::PassThroughOverEtcd(Release::V3_5);
    none_ends_an_etcd_3_7_behind_the_gateway: Kind::GatewayOverEtcd(Release::V3_7);
}
