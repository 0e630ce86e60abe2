//! A data directory moves between etcd and the bundled server, from a process that was killed and left most of what it
//! knew in the log alone.

use forebay_conformance::{
    content::{Content, Progress, content, identities, progress, write},
    peers::{self, Release},
    session,
    target::{Kind, Target},
};
use forebay_proto::etcdserverpb::{AuthRoleAddRequest, AuthUserAddRequest, auth_client::AuthClient};

use crate::within;

/// Leaves everything since the start to the log.
const NOTHING_TO_THE_DB: &[&str] = &["--backend-batch-interval=1h", "--backend-batch-limit=1000000"];

/// And keeps the way back to an older release open; etcd itself goes up when it can, and an older one then refuses.
const AND_HELD: &[&str] = &["--backend-batch-interval=1h", "--backend-batch-limit=1000000", "--hold-cluster-version"];

async fn had(target: &Target) -> anyhow::Result<(Content, Progress)> {
    Ok((content(target).await?, progress(target).await?))
}

/// What was there is there, and raft did not go back.
async fn has(target: &Target, (had, was): (Content, Progress), who: &str) -> anyhow::Result<()> {
    assert_eq!(content(target).await?, had, "{who}");
    let is = progress(target).await?;
    assert!(is.term > was.term && is.index >= was.index, "{who}: {was:?}, then {is:?}");
    Ok(())
}

/// Users and roles, without anybody being asked for them.
async fn add_identities(target: &Target) -> anyhow::Result<()> {
    let mut auth = AuthClient::new(session::connect(target).await?);
    let user = AuthUserAddRequest { name: "ann".into(), password: "secret".into(), ..Default::default() };
    auth.user_add(user).await?;
    auth.role_add(AuthRoleAddRequest { name: "reader".into() }).await?;
    Ok(())
}

async fn moves(test: &str, release: Release, and_back: bool) -> anyhow::Result<()> {
    let etcd = Kind::Etcd(release);
    if let Some(missing) = etcd.missing().or(Kind::Server.missing()) {
        peers::skip(test, missing);
        return Ok(());
    }
    let mut target = Target::start(etcd, NOTHING_TO_THE_DB).await?;
    add_identities(&target).await?;
    write(&target, "by etcd").await?;
    let (before, named) = (had(&target).await?, identities(&target).await?);
    target.restart_as(Kind::Server, AND_HELD).await?;
    has(&target, before, &format!("what etcd {release} left is what we found")).await?;
    write(&target, "by forebay").await?;
    let before = had(&target).await?;
    if let Some(found) = identities(&target).await? {
        assert_eq!(Some(found), named);
    }
    if and_back {
        target.restart_as(etcd, NOTHING_TO_THE_DB).await?;
        has(&target, before, &format!("what we left is what etcd {release} found")).await?;
        assert_eq!(identities(&target).await?, named, "users and roles went through our hands");
        write(&target, "by etcd again").await?;
        let before = had(&target).await?;
        target.restart_as(Kind::Server, &[]).await?;
        has(&target, before, "and once more").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_goes_on_where_etcd_3_4_was_killed() {
    within(moves("swap::the_server_goes_on_where_etcd_3_4_was_killed", Release::V3_4, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_5_and_the_server_take_turns() {
    within(moves("swap::etcd_3_5_and_the_server_take_turns", Release::V3_5, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_3_7_and_the_server_take_turns() {
    within(moves("swap::etcd_3_7_and_the_server_take_turns", Release::V3_7, true)).await;
}
