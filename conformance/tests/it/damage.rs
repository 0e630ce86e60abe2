//! A member whose files were changed behind its back does not serve, the others go on, and it heals from them.

use std::{fs, path::Path, time::Duration};

use forebay_conformance::{
    cluster::Cluster,
    peers, session,
    target::{Kind, Target},
    tools::Tool,
};
use forebay_proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, StatusRequest,
    alarm_request::AlarmAction, kv_client::KvClient, maintenance_client::MaintenanceClient,
};

use crate::within;

/// The files of a member that hold data: its db file, or its last segment.
fn file(data_dir: &Path, is_log: bool) -> std::path::PathBuf {
    if !is_log {
        return data_dir.join("member/snap/db");
    }
    let segments = fs::read_dir(data_dir.join("member/wal")).expect("a log").flatten().map(|entry| entry.path());
    segments.filter(|path| path.extension().is_some_and(|kind| kind == "wal")).max().expect("a segment")
}

/// Flips a bit where something was written.
fn flip(path: &Path, is_log: bool) {
    let mut bytes = fs::read(path).expect("the file is read");
    let at = match is_log {
        // Of the second record, which every member has synced.
        true => 60,
        // The count of entries of the page that the tree begins with, by the newer meta page.
        false => {
            let word = |at: usize| u64::from_le_bytes(bytes[at..][..8].try_into().expect("eight bytes"));
            let meta = if word(16 + 48) > word(4096 + 16 + 48) { 0 } else { 4096 };
            word(meta + 16 + 16) as usize * 4096 + 10
        }
    };
    bytes[at] ^= 0x80;
    fs::write(path, bytes).expect("the file is written");
}

/// A member is damaged, refused, healed by one command, and started as before; the others may be etcd's.
async fn heals(test: &str, others: Kind, is_log: bool) -> anyhow::Result<()> {
    let (Some(heal), None) = (Tool::ours(&["heal"]), others.missing()) else {
        peers::skip(test, Kind::Server.missing().or(others.missing()).unwrap_or(peers::INSTALL));
        return Ok(());
    };
    let mut cluster = Cluster::start(&[others, others, Kind::Server], &[]).await?;
    for n in 0..50 {
        cluster.members[0].put(&format!("key {n}"), &"v".repeat(1000)).await?;
    }
    cluster.agree().await?;
    let id = cluster.members[2].id().await?;
    cluster.stop(2).await?;
    let path = file(&cluster.data_dir(2), is_log);
    let data_dir = cluster.data_dir(2).to_str().expect("UTF-8").to_owned();
    let endpoints = format!("{},{}", cluster.members[0].url(), cluster.members[1].url());
    let words = ["--data-dir", &data_dir, "--endpoints", &endpoints];
    let whole = heal.run(&words).expect_err("nothing is wrong").to_string();
    assert!(whole.contains("nothing is wrong with"), "{whole}");
    flip(&path, is_log);
    cluster.spawn(2)?;
    // It says what is wrong, where, and what to do; and changes nothing.
    let damaged = fs::read(&path)?;
    let log = cluster.refused(2).await?;
    for part in [path.to_str().expect("UTF-8"), "expected", "found", "forebay utl check", "forebay utl heal"] {
        assert!(log.contains(part), "{part:?} is missing in {log}");
    }
    assert_eq!(fs::read(&path)?, damaged, "a refused file is left as it is");
    cluster.members[0].put("meanwhile", "the others go on").await?;
    cluster.members[0].get("meanwhile", false).await?;
    let done = heal.run(&words)?;
    assert!(done.contains(&format!("takes the place of {id:x}")), "{done}");
    cluster.restart_as(2, Kind::Server).await?;
    assert_ne!(cluster.members[2].id().await?, id, "what was promised under the old id is not known any more");
    cluster.members[2].put("again", "there are three").await?;
    cluster.agree().await?;
    // It counts again: one of the others may end.
    cluster.stop(0).await?;
    cluster.members[2].put("once more", "two of three").await?;
    cluster.agree().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k11_a_member_with_a_flipped_bit_in_its_log_is_refused_and_heals_from_the_others() {
    let test = "damage::k11_a_member_with_a_flipped_bit_in_its_log_is_refused_and_heals_from_the_others";
    within(heals(test, Kind::Server, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k12_a_member_with_a_flipped_bit_in_its_db_is_refused_and_heals_from_the_others() {
    let test = "damage::k12_a_member_with_a_flipped_bit_in_its_db_is_refused_and_heals_from_the_others";
    within(heals(test, Kind::Server, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k11_a_member_of_a_cluster_of_etcds_heals_from_them() {
    let test = "damage::k11_a_member_of_a_cluster_of_etcds_heals_from_them";
    within(heals(test, Kind::Etcd(peers::Release::V3_7), true)).await;
}

/// As large as what a controller may store in one object, give or take.
const LARGE_BYTES: usize = 100 << 10;
/// More of them than the disk holds.
const PUTS_MAX: usize = 4000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k14_a_member_on_a_disk_that_fills_raises_the_alarm_and_goes_on_once_there_is_space() {
    let test = "damage::k14_a_member_on_a_disk_that_fills_raises_the_alarm_and_goes_on_once_there_is_space";
    within(async {
        if let Some(missing) = Kind::Server.missing() {
            peers::skip(test, missing);
            return Ok(());
        }
        let Some(target) = Target::on_small_disk(Kind::Server, 200, &["--log-level=warn"]).await? else {
            peers::skip_extra(test, "this user may not mount a disk of its own");
            return Ok(());
        };
        let channel = session::connect(&target).await?;
        let (mut kv, mut maintenance) = (KvClient::new(channel.clone()), MaintenanceClient::new(channel));
        let put = |n: usize| PutRequest {
            key: format!("large/{n:04}").into(),
            value: vec![b'v'; LARGE_BYTES].into(),
            ..Default::default()
        };
        let mut acknowledged = 0;
        let refusal = loop {
            match kv.put(put(acknowledged)).await {
                Ok(_) => acknowledged += 1,
                Err(status) => break status,
            }
            assert!(acknowledged < PUTS_MAX, "the disk is not full");
        };
        assert_eq!(refusal.message(), "etcdserver: mvcc: database space exceeded", "{}", target.log());
        assert!(acknowledged > 100, "{acknowledged} fit on the disk");
        let status = maintenance.status(StatusRequest {}).await?.into_inner();
        let member_id = status.header.unwrap_or_default().member_id;
        assert_eq!(status.errors, [format!("memberID:{member_id} alarm:NOSPACE ")]);

        // What was acknowledged is read, and what frees space is done.
        let all = RangeRequest { key: "large/".into(), range_end: "large0".into(), ..Default::default() };
        let count = RangeRequest { count_only: true, ..all.clone() };
        assert_eq!(kv.range(count.clone()).await?.into_inner().count, acknowledged as i64);
        let half = DeleteRangeRequest {
            key: "large/".into(),
            range_end: format!("large/{:04}", acknowledged / 2).into(),
            ..Default::default()
        };
        let deleted = kv.delete_range(half).await?.into_inner();
        assert_eq!(deleted.deleted, acknowledged as i64 / 2);
        let revision = deleted.header.unwrap_or_default().revision;
        kv.compact(CompactionRequest { revision, physical: true }).await?;
        assert!(kv.put(put(0)).await.is_err(), "the alarm holds until it is turned off");

        target.enlarge_disk().await?;
        // The member looks at its disk four times a second; an alarm that is turned off before that is raised again.
        for attempt in 0.. {
            let (action, alarm) = (AlarmAction::Deactivate as i32, AlarmType::Nospace as i32);
            maintenance.alarm(AlarmRequest { action, member_id, alarm }).await?;
            match kv.put(put(0)).await {
                Ok(_) => break,
                Err(status) => assert!(attempt < 100, "{status}: {}", target.log()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for n in 0..acknowledged / 2 {
            kv.put(put(n)).await?;
        }
        assert_eq!(kv.range(count).await?.into_inner().count, acknowledged as i64);
        Ok(())
    })
    .await;
}
