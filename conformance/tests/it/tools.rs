//! etcd's offline tools on our files, and ours on etcd's: they print the same, and what one restores the other serves.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use forebay_conformance::{
    content::{self, Content},
    peers::{self, Release},
    session,
    target::{Kind, NAME, Target},
    tools::Tool,
};
use forebay_proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
use tokio::task::JoinHandle;

use crate::within;

/// Both sides' tools.
struct Tools {
    etcdutl: [Tool; 2],
    /// Prints fewer facts of a file, and counts its keys otherwise.
    etcdutl_3_5: Tool,
    dump_db: [Tool; 2],
    dump_logs: [Tool; 2],
    /// Prints addresses for numbers, but counts, and must not crash.
    dump_logs_3_7: Tool,
    bbolt: Tool,
}

/// Nothing of it if one thing is missing.
fn tools() -> Option<Tools> {
    Some(Tools {
        etcdutl: [Tool::etcd("3.7/etcdutl")?, Tool::ours(&[])?],
        etcdutl_3_5: Tool::etcd("3.5/etcdutl")?,
        dump_db: [Tool::etcd("tools/etcd-dump-db")?, Tool::ours(&["dump-db"])?],
        dump_logs: [Tool::etcd("3.6/etcd-dump-logs")?, Tool::ours(&["dump-logs"])?],
        dump_logs_3_7: Tool::etcd("tools/etcd-dump-logs")?,
        bbolt: Tool::etcd("tools/bbolt")?,
    })
}

const ENTRY_TYPES: [&str; 12] = [
    "Normal,ConfigChange",
    "ConfigChange",
    "Request",
    "InternalRaftRequest",
    "IRRRange",
    "IRRPut",
    "IRRDeleteRange",
    "IRRTxn",
    "IRRCompaction",
    "IRRLeaseGrant",
    "IRRLeaseRevoke",
    "IRRLeaseCheckpoint",
];

/// What two programs print, one beside the other.
fn alike(tools: &[Tool; 2], words: &[&str], simplify: fn(&str) -> String) -> anyhow::Result<String> {
    let [theirs, ours] = [simplify(&tools[0].run(words)?), simplify(&tools[1].run(words)?)];
    anyhow::ensure!(theirs == ours, "{words:?}: etcd's prints\n{theirs}\nours prints\n{ours}");
    Ok(ours)
}

fn as_it_is(text: &str) -> String {
    text.to_owned()
}

/// Of an entry all but its text, which each release of the protobuf library prints in another way.
fn without_text(text: &str) -> String {
    let cut = |line: &str| line.split('\t').take(3).map(|cell| format!("{}\t", cell.trim())).collect::<String>();
    text.lines().map(|line| cut(line) + "\n").collect()
}

/// The lines of a dump that tell how many entries of a type there are.
fn count(text: &str) -> String {
    text.lines().filter(|line| line.starts_with("Entry types")).collect()
}

/// What etcdutl 3.5 says of a file as every other does.
fn hash_and_revision(status: &str) -> String {
    let status: serde_json::Value = serde_json::from_str(status).unwrap_or_default();
    format!("{} {}", status["hash"], status["revision"])
}

/// Everything that reads the files of a stopped member.
fn read_alike(tools: &Tools, data_dir: &Path, is_ours: bool) -> anyhow::Result<()> {
    let dir = data_dir.to_str().expect("a temporary directory is UTF-8");
    let db = format!("{dir}/member/snap/db");
    for shape in ["simple", "table", "json", "fields"] {
        alike(&tools.etcdutl, &["snapshot", "status", &db, "-w", shape], as_it_is)?;
    }
    let of_3_5 = [tools.etcdutl_3_5.clone(), tools.etcdutl[1].clone()];
    alike(&of_3_5, &["snapshot", "status", &db, "-w", "json"], hash_and_revision)?;
    for bucket in alike(&tools.dump_db, &["list-bucket", &db], as_it_is)?.lines() {
        alike(&tools.dump_db, &["iterate-bucket", &db, bucket], as_it_is)?;
        alike(&tools.dump_db, &["iterate-bucket", &db, bucket, "--decode"], as_it_is)?;
        alike(&tools.dump_db, &["iterate-bucket", &db, bucket, "--limit", "2"], as_it_is)?;
    }
    alike(&tools.dump_db, &["hash", &db], as_it_is)?;
    for types in ENTRY_TYPES {
        let flag = format!("-entry-type={types}");
        alike(&tools.dump_logs, &[&flag, dir], without_text)?;
        // On logs of etcd 3.7 this one crashes.
        if is_ours {
            let of_3_7 = [tools.dump_logs_3_7.clone(), tools.dump_logs[1].clone()];
            alike(&of_3_7, &[&flag, "-start-index=7", "-end-index=21", dir], count)?;
        }
    }
    let raw = tools.dump_logs[1].run(&["-raw", dir])?;
    anyhow::ensure!(raw.ends_with("EOF: All entries were processed.\n"), "{raw}");
    anyhow::ensure!(tools.bbolt.run(&["check", &db])?.trim() == "OK");
    tools.etcdutl[1].run(&["check", dir])?;
    // Last, since etcdutl finishes a compaction that it finds begun.
    alike(&tools.etcdutl, &["hashkv", &db, "-w", "json"], as_it_is)?;
    Ok(())
}

async fn files_of(test: &str, kind: Kind) -> anyhow::Result<()> {
    let Some(tools) = tools() else {
        peers::skip(test, peers::INSTALL);
        return Ok(());
    };
    if let Some(missing) = kind.missing() {
        peers::skip(test, missing);
        return Ok(());
    }
    let is_ours = kind == Kind::Server;
    let mut target = Target::start(kind, &[]).await?;
    content::write(&target, "first").await?;
    content::write(&target, "second").await?;
    let before = content::content(&target).await?;
    target.stop().await?;
    read_alike(&tools, &target.data_dir(), is_ours)?;
    // etcd's defragmentation of our file, and ours of etcd's: the member goes on with it.
    let data_dir = target.data_dir();
    let dir = data_dir.to_str().expect("a temporary directory is UTF-8");
    let defragment = |tool: &Tool| {
        tool.run(&["defrag", "--data-dir", dir])?;
        tools.etcdutl[1].run(&["check", dir])
    };
    defragment(&tools.etcdutl[usize::from(!is_ours)])?;
    if is_ours {
        defragment(&tools.etcdutl_3_5)?;
    }
    target.restart().await?;
    assert_eq!(content::content(&target).await?, before, "a defragmented file holds what it held");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcds_tools_read_our_files_as_ours_do() {
    within(files_of("tools::etcds_tools_read_our_files_as_ours_do", Kind::Server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_tools_read_files_of_etcd_3_7_as_etcds_do() {
    within(files_of("tools::our_tools_read_files_of_etcd_3_7_as_etcds_do", Kind::Etcd(Release::V3_7))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_tools_read_files_of_etcd_3_5_as_etcds_do() {
    within(files_of("tools::our_tools_read_files_of_etcd_3_5_as_etcds_do", Kind::Etcd(Release::V3_5))).await;
}

/// What auger lists of a file, with the field lists of the talk; and our answer to the longest of them.
async fn extracted_from(test: &str, kind: Kind) -> anyhow::Result<()> {
    let Some(auger) = Tool::etcd("tools/auger") else {
        peers::skip_extra(test, peers::INSTALL_AUGER);
        return Ok(());
    };
    let Some(space) = Tool::ours(&["space"]).filter(|_| kind.missing().is_none()) else {
        peers::skip(test, kind.missing().unwrap_or(peers::BUILD));
        return Ok(());
    };
    let mut target = Target::start(kind, &[]).await?;
    content::write(&target, "first").await?;
    content::write(&target, "second").await?;
    target.stop().await?;
    let db = target.data_dir().join("member/snap/db");
    let db = db.to_str().expect("a temporary directory is UTF-8");
    let extract = |fields: &str| auger.run(&["extract", "--file", db, "--fields", fields]);
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let theirs = sorted(&extract("all-versions-value-size,version-count,key")?);
    assert!(theirs.len() > 20 && theirs.iter().any(|line| line.ends_with("second/last")), "{theirs:?}");
    assert_eq!(sorted(&space.run(&[db, "--auger"])?), theirs);
    assert_eq!(sorted(&extract("key")?).len(), theirs.len());
    assert!(extract("key,value-size")?.contains(&format!("second/last {}\n", "value of second/last".len())));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auger_extracts_from_our_files_what_space_prints() {
    within(extracted_from("tools::auger_extracts_from_our_files_what_space_prints", Kind::Server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_prints_of_files_of_etcd_3_7_what_auger_does() {
    let test = "tools::space_prints_of_files_of_etcd_3_7_what_auger_does";
    within(extracted_from(test, Kind::Etcd(Release::V3_7))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_prints_of_files_of_etcd_3_5_what_auger_does() {
    let test = "tools::space_prints_of_files_of_etcd_3_5_what_auger_does";
    within(extracted_from(test, Kind::Etcd(Release::V3_5))).await;
}

/// What a restore keeps of the content of a member: all but who the members are, and what is bound to them.
fn kept(content: Content) -> Content {
    Content { members: Vec::new(), alarms: Vec::new(), ..content }
}

/// Who restores a snapshot (0 for etcdutl, 1 for ours), who serves it then, and with which flag.
type Way = (usize, Kind, &'static str);

/// A snapshot of `from`, restored by either side's tool, and served by either side.
async fn snapshots_of(test: &str, from: Kind, ways: &[Way]) -> anyhow::Result<()> {
    let Some(tools) = tools() else {
        peers::skip(test, peers::INSTALL);
        return Ok(());
    };
    if let Some(missing) = from.missing().or(Kind::Server.missing()) {
        peers::skip(test, missing);
        return Ok(());
    }
    let target = Target::start(from, &[]).await?;
    content::write(&target, "before").await?;
    let before = content::content(&target).await?;
    let file = target.scratch().join("snapshot.db");
    let file = file.to_str().expect("a temporary directory is UTF-8");
    tools.etcdutl[1].run(&["snapshot", "save", file, "--endpoints", &target.url()])?;
    alike(&tools.etcdutl, &["snapshot", "status", file, "-w", "json"], as_it_is)?;
    tools.etcdutl[1].run(&["snapshot", "verify", file])?;
    let restorer = match from {
        Kind::Etcd(Release::V3_5) => [Tool::etcd("3.5/etcdutl").expect("it comes with etcd"), tools.etcdutl[1].clone()],
        _ => tools.etcdutl.clone(),
    };
    for (tool, to, bump) in ways.iter().copied() {
        let restored = Target::prepared(to, &[], &|data_dir, peer| {
            let data_dir = data_dir.to_str().expect("a temporary directory is UTF-8");
            let cluster = format!("{NAME}={peer}");
            let mut words = vec!["snapshot", "restore", file, "--data-dir", data_dir, "--name", NAME];
            words.extend(["--initial-cluster", &cluster, "--initial-advertise-peer-urls", peer]);
            if !bump.is_empty() {
                words.extend([bump, "--mark-compacted"]);
            }
            restorer[tool].run(&words).map(drop)
        })
        .await?;
        let after = content::content(&restored).await?;
        let case = format!("{from}, restored by {}, {bump}, served by {to}", ["etcdutl", "ours"][tool]);
        assert_eq!(after.members.len(), 1, "{case}");
        if bump.is_empty() {
            assert_eq!(kept(after), kept(before.clone()), "{case}");
        } else {
            assert_eq!((&after.keys, &after.leases), (&before.keys, &before.leases), "{case}");
            assert_eq!(after.revision, before.revision + 1000, "{case}");
            // Whoever watched or read the past learns that it is gone.
            let past = RangeRequest { key: "k".into(), revision: before.revision, ..Default::default() };
            let gone =
                KvClient::new(session::connect(&restored).await?).range(past).await.expect_err("it is compacted");
            assert_eq!(gone.message(), "etcdserver: mvcc: required revision has been compacted", "{case}");
        }
        content::write(&restored, "after").await?;
    }
    Ok(())
}

/// etcd 3.5 does not start on what 3.7 has written; ours writes as 3.7.
const BOTH_WAYS: [Way; 5] = [
    (0, Kind::Server, ""),
    (1, Kind::Etcd(Release::V3_7), ""),
    (1, Kind::Server, "--bump-revision=1000"),
    (0, Kind::Server, "--bump-revision=1000"),
    (1, Kind::Etcd(Release::V3_7), "--bump-revision=1000"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_snapshots_are_restored_by_either_side() {
    within(snapshots_of("tools::our_snapshots_are_restored_by_either_side", Kind::Server, &BOTH_WAYS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcds_snapshots_are_restored_by_either_side() {
    let test = "tools::etcds_snapshots_are_restored_by_either_side";
    within(snapshots_of(test, Kind::Etcd(Release::V3_7), &BOTH_WAYS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_of_etcd_3_5_are_restored_by_either_side() {
    let test = "tools::snapshots_of_etcd_3_5_are_restored_by_either_side";
    // Its tool cannot bump a revision yet.
    let ways = [
        (0, Kind::Server, ""),
        (1, Kind::Etcd(Release::V3_5), ""),
        (1, Kind::Server, ""),
        (1, Kind::Etcd(Release::V3_5), "--bump-revision=1000"),
    ];
    within(snapshots_of(test, Kind::Etcd(Release::V3_5), &ways)).await;
}

/// Saves snapshots while a writer goes on, and holds each to be one state: a prefix of what was written.
async fn saved_while_written(test: &str) -> anyhow::Result<()> {
    let Some(tools) = tools() else {
        peers::skip(test, peers::INSTALL);
        return Ok(());
    };
    if let Some(missing) = Kind::Server.missing() {
        peers::skip(test, missing);
        return Ok(());
    }
    let target = Target::start(Kind::Server, &[]).await?;
    let written = Arc::new(AtomicI64::new(0));
    let channel = session::connect(&target).await?;
    let counter = Arc::clone(&written);
    let writer: JoinHandle<Result<(), tonic::Status>> = tokio::spawn(async move {
        let mut kv = KvClient::new(channel);
        loop {
            let put = PutRequest { key: "k".into(), value: vec![b'v'; 20_000].into(), ..Default::default() };
            let revision = kv.put(put).await?.into_inner().header.unwrap_or_default().revision;
            counter.store(revision, Ordering::SeqCst);
        }
    });
    let mut last = 0;
    for round in 0..3 {
        // Something is to be saved, and the writer is past the last snapshot.
        while written.load(Ordering::SeqCst) < last + 100 {
            assert!(!writer.is_finished(), "the writer failed: {:?}", writer.await);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let file = target.scratch().join(format!("{round}.db"));
        let file = file.to_str().expect("a temporary directory is UTF-8").to_owned();
        let before = written.load(Ordering::SeqCst);
        let (save, url, path) = (tools.etcdutl[1].clone(), target.url(), file.clone());
        tokio::task::spawn_blocking(move || save.run(&["snapshot", "save", &path, "--endpoints", &url])).await??;
        let after = written.load(Ordering::SeqCst) + 1;
        let status = alike(&tools.etcdutl, &["snapshot", "status", &file, "-w", "json"], as_it_is)?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        last = status["revision"].as_i64().expect("a status has a revision");
        assert!((before..=after).contains(&last), "{last} is not between {before} and {after}");
        tools.etcdutl[1].run(&["snapshot", "verify", &file])?;
    }
    writer.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_one_state_while_writes_go_on() {
    within(saved_while_written("tools::a_snapshot_is_one_state_while_writes_go_on")).await;
}
