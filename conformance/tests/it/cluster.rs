//! Clusters of real processes: members are killed, replaced, moved between etcd and Forebay, and lose nothing.

use std::time::Duration;

use forebay_conformance::{
    cluster::Cluster,
    peers::{self, Release},
    target::Kind,
};

const ETCD_3_7: Kind = Kind::Etcd(Release::V3_7);

fn missing(kinds: &[Kind]) -> Option<&'static str> {
    kinds.iter().find_map(|kind| kind.missing())
}

/// Runs a test if everything that it needs is installed.
macro_rules! cluster_test {
    ($(#[$meta:meta])* $name:ident($($kind:expr),+), $body:expr) => {
        $(#[$meta])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> anyhow::Result<()> {
            if let Some(missing) = missing(&[$($kind),+]) {
                peers::skip(concat!("cluster::", stringify!($name)), missing);
                return Ok(());
            }
            let body: anyhow::Result<()> = $body.await;
            body
        }
    };
}

/// Puts through this member until it takes it: a cluster that elects refuses for a moment.
async fn put_at_last(cluster: &Cluster, by: usize, key: &str, value: &str) -> anyhow::Result<()> {
    cluster.wait("a put", async |cluster| Ok(cluster.members[by].put(key, value).await.is_ok())).await
}

cluster_test!(three_members_go_on_when_their_leader_is_killed(Kind::Server), async {
    let mut cluster = Cluster::start(&[Kind::Server; 3], &[]).await?;
    let leader = cluster.leader().await?;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[follower].put("a", "by a follower").await?;
    let read = cluster.members[other].get("a", false).await?;
    assert_eq!(read.kvs[0].value, "by a follower", "a linearizable read of another follower sees it");
    cluster.kill(leader);
    put_at_last(&cluster, follower, "b", "without the leader").await?;
    cluster.restart_as(leader, Kind::Server).await?;
    let read = cluster.members[leader].get("b", false).await?;
    assert_eq!(read.kvs[0].value, "without the leader");
    cluster.agree().await?;
    Ok(())
});

async fn joins(release: Release) -> anyhow::Result<()> {
    let etcd = Kind::Etcd(release);
    let mut cluster = Cluster::start(&[etcd; 3], &[]).await?;
    for n in 0..50 {
        cluster.members[n % 3].put(&format!("before/{n}"), "etcd").await?;
    }
    let ours = cluster.join(0, Kind::Server, false).await?;
    cluster.agree().await?;
    cluster.members[ours].put("by us", "1").await?;
    cluster.move_leader(ours).await?;
    for n in 0..50 {
        cluster.members[n % 4].put(&format!("led by us/{n}"), "forebay").await?;
    }
    cluster.agree().await?;
    cluster.move_leader(0).await?;
    for n in 0..50 {
        cluster.members[n % 4].put(&format!("led by etcd again/{n}"), "etcd").await?;
    }
    cluster.agree().await?;
    Ok(())
}

cluster_test!(a_member_joins_an_etcd_3_7_cluster_leads_it_and_follows_again(Kind::Server, ETCD_3_7), async {
    joins(Release::V3_7).await
});

cluster_test!(
    a_member_joins_an_etcd_3_5_cluster_leads_it_and_follows_again(Kind::Server, Kind::Etcd(Release::V3_5)),
    async { joins(Release::V3_5).await }
);

cluster_test!(a_cluster_moves_from_etcd_to_forebay_and_back_member_by_member(Kind::Server, ETCD_3_7), async {
    let mut cluster = Cluster::start(&[ETCD_3_7; 3], &[]).await?;
    for kind in [Kind::Server, ETCD_3_7] {
        for member in 0..3 {
            cluster.stop(member).await?;
            put_at_last(&cluster, (member + 1) % 3, &format!("{kind}/{member}/while it is away"), "1").await?;
            cluster.restart_as(member, kind).await?;
            put_at_last(&cluster, member, &format!("{kind}/{member}/when it is back"), "2").await?;
            cluster.agree().await?;
        }
    }
    Ok(())
});

cluster_test!(a_member_that_lags_far_behind_gets_a_snapshot(Kind::Server), async {
    let args = ["--snapshot-count=20", "--snapshot-catchup-entries=5"];
    let mut cluster = Cluster::start(&[Kind::Server; 3], &args).await?;
    let follower = (cluster.leader().await? + 1) % 3;
    for round in 0..3 {
        cluster.kill(follower);
        for n in 0..200 {
            put_at_last(&cluster, (follower + 1) % 3, &format!("{round}/{n}"), "value").await?;
        }
        cluster.restart_as(follower, Kind::Server).await?;
        cluster.agree().await?;
    }
    Ok(())
});

cluster_test!(a_learner_is_promoted_and_a_removed_member_ends_by_itself(Kind::Server), async {
    let mut cluster = Cluster::start(&[Kind::Server], &[]).await?;
    let second = cluster.join(0, Kind::Server, true).await?;
    let id = cluster.members[second].id().await?;
    let refused = cluster.members[second].put("a", "1").await.unwrap_err();
    assert!(refused.message().contains("rpc not supported for learner"), "{refused}");
    cluster.promote(0, id).await?;
    cluster.serving().await?;
    let third = cluster.join(second, Kind::Server, false).await?;
    cluster.members[third].put("a", "1").await?;
    cluster.agree().await?;

    // Strict checks count on members that have been well for five seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    cluster.remove(0, id).await?;
    assert!(cluster.ended(second).await?, "a removed member ends well");
    put_at_last(&cluster, third, "b", "2").await?;
    cluster.agree().await?;
    cluster.spawn(second)?;
    assert!(!cluster.ended(second).await?, "and does not come back");
    Ok(())
});
