//! Clusters in this process whose members lag, whose disks are slow, and whose users and leases change meanwhile. A test
//! begins with the number of the row of `docs/FAULTS.md` that it holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use forebay_proto::{Error, etcdserverpb::*};
use forebay_server::Config;
use forebay_storage::disk::{Disk, sim::SimDisk};
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tonic::{Code, Status};

use crate::{
    auth::{grant as grant_role, log_in, people},
    cluster::Cluster,
    support::{LIMIT, Node, error, eventually, get, grant, leased, put, refusal, watch_progress, watching_all},
};

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const GRANT_ROLE: &str = "/etcdserverpb.Auth/UserGrantRole";
const REVOKE_ROLE: &str = "/etcdserverpb.Auth/UserRevokeRole";
const PUT: &str = "/etcdserverpb.KV/Put";

/// A busy machine alone makes nobody stand for election.
fn patient(config: &mut Config) {
    (config.heartbeat_interval, config.election_timeout) = (Duration::from_millis(100), Duration::from_secs(1));
}

/// Whoever lags gets a snapshot.
fn small(config: &mut Config) {
    patient(config);
    (config.snapshot_count, config.snapshot_catchup_entries) = (10, 5);
}

/// Renews a lease by way of a member; its TTL, or 0 if it is gone.
async fn renew(node: &Node, id: i64) -> Result<i64, Status> {
    let mut renewals = node.open(KEEP_ALIVE).await;
    renewals.send(&LeaseKeepAliveRequest { id });
    Ok(renewals.next::<LeaseKeepAliveResponse>().await?.ttl)
}

/// Puts until it is acknowledged: a leader may be being elected.
async fn put_at_last(node: &Node, key: &str) {
    eventually("a put", || async { node.put(put(key, "1")).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k17_a_slow_disk_holds_nobody_up_but_who_needs_it_and_ends_no_lease() {
    const SYNC: Duration = Duration::from_millis(500);
    const PUTS: usize = 60;
    let disks: Vec<SimDisk> = (0..3).map(|_| SimDisk::new()).collect();
    let own = |disk: &SimDisk| Arc::new(disk.clone()) as Arc<dyn Disk>;
    let cluster = Cluster::start_on(disks.iter().map(own).collect(), |config| config.unsafe_no_fsync = false).await;
    let follower = (cluster.leader().await + 1) % 3;

    // Two others are a quorum.
    disks[follower].slow_down(SYNC);
    let began = Instant::now();
    for n in 0..PUTS {
        put_at_last(&cluster.nodes[(follower + 1 + n % 2) % 3], &format!("beside a follower {n}")).await;
    }
    let took = began.elapsed();
    assert!(took < SYNC * PUTS as u32 / 2, "{PUTS} puts took {took:?}: they wait for the slow disk");
    disks[follower].slow_down(Duration::ZERO);

    // A leader whose disk is slow may lead on or be replaced; what it acknowledges is there, and its leases live.
    let leader = cluster.leader().await;
    let mut renewed = Instant::now();
    cluster.nodes[leader].grant(grant(7, 5)).await.unwrap();
    disks[leader].slow_down(SYNC);
    for n in 0..10 {
        put_at_last(&cluster.nodes[(leader + 1) % 3], &format!("beside a leader {n}")).await;
        let asked = Instant::now();
        match renew(&cluster.nodes[(leader + 2) % 3], 7).await {
            Ok(0) => assert!(renewed.elapsed() >= Duration::from_secs(5), "it ended {:?} early", renewed.elapsed()),
            Ok(_) => renewed = asked,
            // Nobody leads.
            Err(_) => {}
        }
    }
    disks[leader].slow_down(Duration::ZERO);
    cluster.agree().await;
    let everything = cluster.nodes[leader].everything().await;
    let is_there = |key: String| everything.iter().any(|kv| kv.key == key);
    assert!((0..PUTS).all(|n| is_there(format!("beside a follower {n}"))));
    assert!((0..10).all(|n| is_there(format!("beside a leader {n}"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn n7_a_watch_of_the_future_on_a_member_that_lags_begins_there_whoever_leads() {
    let mut cluster = Cluster::start(3, small).await;
    let place = (cluster.leader().await + 1) % 3;
    let lagging = cluster.nodes.remove(place).stopped().await;
    let mut head = 0;
    for n in 0..100 {
        head = cluster.nodes[0].put(put("k", &n.to_string())).await.unwrap().header.unwrap().revision;
    }
    let lagging = lagging.start().await;
    let start = head + 20;
    let mut watch = lagging.watcher(watching_all(start)).await;
    for n in 0..60 {
        if n == 10 {
            // Who led comes back as a follower.
            let leader = cluster.nodes.iter().position(|node| node.metric("etcd_server_is_leader") > 0.0);
            let stopped = cluster.nodes.remove(leader.unwrap_or(0)).stopped().await;
            put_at_last(&lagging, "without who led").await;
            cluster.nodes.push(stopped.start().await);
        }
        watch.send(&watch_progress());
        put_at_last(&cluster.nodes[n % 2], "k").await;
    }
    let mut seen: Vec<i64> = Vec::new();
    while seen.len() < 40 {
        let response: WatchResponse = watch.next().await.expect("the watch goes on");
        let told = response.header.unwrap().revision;
        assert!(told + 1 >= start, "revision {told} was told to who waits for {start}");
        seen.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    let last = *seen.last().unwrap();
    assert_eq!(seen, (start..=last).collect::<Vec<_>>(), "each revision once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_no_renewal_succeeds_once_a_lease_is_revoked_or_has_ended() {
    const RACES: i64 = 300;
    const ENDS: i64 = 40;
    let cluster = Cluster::start(3, patient).await;
    let race = async |id: i64| {
        let [one, other, third] = [0, 1, 2].map(|n| &cluster.nodes[(id as usize + n) % 3]);
        one.grant(grant(id, 60)).await.unwrap();
        one.put(leased(&format!("of {id}"), id)).await.unwrap();
        let is_revoked = AtomicBool::new(false);
        let renewing = async {
            loop {
                let was_revoked = is_revoked.load(SeqCst);
                let ttl = renew(other, id).await.unwrap();
                assert!(!was_revoked || ttl == 0, "lease {id} was renewed after its revoke was answered");
                if ttl == 0 {
                    return;
                }
            }
        };
        let revoking = async {
            third.revoke(LeaseRevokeRequest { id }).await.unwrap();
            is_revoked.store(true, SeqCst);
        };
        futures::join!(renewing, revoking);
        assert_eq!(other.range(get(&format!("of {id}"))).await.unwrap().count, 0);
    };
    let mut races: FuturesUnordered<_> = (1..=8).map(race).collect();
    let mut next = 9..=RACES;
    while races.next().await.is_some() {
        races.extend(next.next().map(race));
    }

    // Around the moment at which a lease ends by itself.
    let ends = (0..ENDS).map(async |n| {
        let (id, node) = (1000 + n, &cluster.nodes[n as usize % 3]);
        let ttl = node.grant(grant(id, 1)).await.unwrap().ttl;
        node.put(leased(&format!("of {id}"), id)).await.unwrap();
        let late = Duration::from_secs(ttl as u64) + Duration::from_millis(25) * n as u32;
        tokio::time::sleep(late.saturating_sub(Duration::from_millis(300))).await;
        let asked = Instant::now();
        let renewed = renew(node, id).await.unwrap();
        let left = node.range(get(&format!("of {id}"))).await.unwrap().count;
        if renewed == 0 {
            assert_eq!(left, 0, "lease {id} is gone, and its key is not");
        } else if asked.elapsed() < Duration::from_secs(renewed as u64) {
            assert_eq!(left, 1, "lease {id} was renewed, and its key is gone");
        }
        renewed > 0
    });
    let renewed = join_all(ends).await.into_iter().filter(|renewed| *renewed).count();
    eprintln!("{renewed} of {ENDS} leases were renewed in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_rights_change_under_load_and_every_member_judges_alike_those_that_join_too() {
    let mut cluster = Cluster::start(3, small).await;
    people(&cluster.nodes[0]).await;
    let root = log_in(&cluster.nodes[0], "root").await;
    for round in 0..20 {
        let revoke = AuthUserRevokeRoleRequest { name: "alice".to_owned(), role: "some".to_owned() };
        let changes = cluster.nodes[0].call_with::<AuthUserRevokeRoleResponse>(REVOKE_ROLE, root.clone(), &revoke);
        // Writes are under way while the right to them goes.
        let writing = join_all(cluster.nodes.iter().map(|node| writes(node, "alice", "a", 5)));
        let (changed, _) = futures::join!(changes, writing);
        changed.unwrap();
        let denied = join_all(cluster.nodes.iter().map(|node| writes(node, "alice", "a", 2))).await;
        for verdict in denied.into_iter().flatten() {
            assert_eq!(verdict, Err(error(Error::PermissionDenied)), "in round {round}, after the revoke");
        }
        let grant = grant_role("alice", "some");
        cluster.nodes[0].call_with::<AuthUserGrantRoleResponse>(GRANT_ROLE, root.clone(), &grant).await.unwrap();
        match round {
            // It comes back by a snapshot, and judges by what that holds.
            5 => {
                let stopped = cluster.nodes.remove(1).stopped().await;
                for _ in 0..30 {
                    let by_root = put("a", "root");
                    cluster.nodes[0].call_with::<PutResponse>(PUT, root.clone(), &by_root).await.unwrap();
                }
                cluster.nodes.insert(1, stopped.start().await);
            }
            10 => drop(cluster.join(&root, small).await),
            _ => {}
        }
    }
    assert_eq!(cluster.nodes.len(), 4);
    for node in &cluster.nodes {
        assert_eq!(writes(node, "alice", "a", 1).await, [Ok(())]);
        assert_eq!(writes(node, "alice", "c", 1).await, [Err(error(Error::PermissionDenied))]);
        assert_eq!(writes(node, "eve", "a", 1).await, [Err(error(Error::PermissionDenied))]);
        assert_eq!(refusal(node.put(put("a", "nobody")).await), error(Error::UserEmpty));
    }
    let mut revisions = Vec::new();
    for node in &cluster.nodes {
        let (root, asked) = (log_in(node, "root").await, AuthStatusRequest {});
        let status: AuthStatusResponse = node.call_with("/etcdserverpb.Auth/AuthStatus", root, &asked).await.unwrap();
        revisions.push(status.auth_revision);
    }
    assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
}

/// What puts by way of a member come to. Whoever was judged by rights that changed meanwhile asks again, as clients do.
async fn writes(node: &Node, who: &str, key: &str, count: usize) -> Vec<Result<(), (Code, String)>> {
    let mut verdicts = Vec::new();
    let deadline = Instant::now() + LIMIT;
    while verdicts.len() < count {
        assert!(Instant::now() < deadline, "rights change all the time");
        let who = log_in(node, who).await;
        match node.call_with::<PutResponse>(PUT, who, &put(key, "v")).await {
            Ok(_) => verdicts.push(Ok(())),
            Err(status) if status.message() == Error::AuthOldRevision.message() => {}
            Err(status) => verdicts.push(Err((status.code(), status.message().to_owned()))),
        }
    }
    verdicts
}
