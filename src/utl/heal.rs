//! `utl heal`: a damaged member of a cluster is replaced by a new one in the same place, which the others fill.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use forebay_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberRemoveRequest, cluster_client::ClusterClient,
};
use forebay_utl::heal::{Files, Identity};
use tokio::time::Instant;

use super::{
    Done, Failure, Out,
    arguments::read,
    live::{self, Session},
};
use crate::flags::{
    Problem, go,
    table::{Flag, Slot},
    url::Url,
};

/// What it may be told.
#[derive(Clone, Debug)]
pub struct Settings {
    data_dir: String,
    wal_dir: String,
    member: String,
    peer_urls: Vec<Url>,
    force: bool,
    timeout: go::Duration,
    live: live::Settings,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            data_dir: String::new(),
            wal_dir: String::new(),
            member: String::new(),
            peer_urls: Vec::new(),
            force: false,
            timeout: go::Duration::from_secs(10),
            live: live::Settings::default(),
        }
    }
}

impl live::Asking for Settings {
    fn live(&mut self) -> &mut live::Settings {
        &mut self.live
    }
}

#[rustfmt::skip]
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Duration, Text, Urls};
    const GROUP: &str = "utl heal";
    let flag = Flag::<Settings>::new;
    let mut flags: Vec<Flag<Settings>> = vec![
        flag(GROUP, "data-dir", Text(|s| &mut s.data_dir), "The data directory of the stopped, damaged member."),
        flag(GROUP, "wal-dir", Text(|s| &mut s.wal_dir), "Where its log is, if not there."),
        flag(GROUP, "member", Text(|s| &mut s.member), "Its id, as `etcdctl member list` shows it; needed if the log does not tell any more."),
        flag(GROUP, "initial-advertise-peer-urls", Urls(|s| &mut s.peer_urls), "Where the others reach it; needed if the cluster does not list it any more."),
        flag(GROUP, "force", Bool(|s| &mut s.force), "Even if nothing is wrong with the files, as for a member whose keys differ (alarm CORRUPT)."),
        flag(GROUP, "timeout", Duration(|s| &mut s.timeout), "How long to wait for the lock of a file; 0 for ever."),
    ];
    flags.extend(live::flags());
    flags
}

pub(super) fn run(args: &[String], out: Out<'_>) -> Done {
    let mut settings = Settings::default();
    let words = read(&flags(), &mut settings, args)?;
    if settings.data_dir.is_empty() || settings.live.endpoints.is_empty() || !words.is_empty() {
        return Err(Failure::usage("heal needs --data-dir, and --endpoints of the members that work"));
    }
    let files = Files {
        data_dir: PathBuf::from(&settings.data_dir),
        wal_dir: (!settings.wal_dir.is_empty()).then(|| PathBuf::from(&settings.wal_dir)),
    };
    match files.damage(settings.timeout.to_std())? {
        Some(damage) => writeln!(out, "damaged: {damage}")?,
        None if settings.force => {}
        None => {
            let problem = Problem::new(format!("nothing is wrong with {}", settings.data_dir));
            return Err(Failure::Failed(problem.hint("start the member; --force replaces it all the same")));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (old, new) = runtime.block_on(replace(&settings, &files, out))?;
    let aside = files.begin_anew(new)?;
    let aside: Vec<_> = aside.iter().map(|path| path.display().to_string()).collect();
    writeln!(
        out,
        "{} is now that of member {:x}, which takes the place of {old:x}; what was there is in {}. Start it as before: \
         the leader sends it everything",
        settings.data_dir,
        new.member_id,
        if aside.is_empty() { "nothing".to_owned() } else { aside.join(" and ") }
    )?;
    Ok(())
}

/// Has the cluster replace the member; returns who it was and who it is to be. It may be asked again after it was
/// interrupted anywhere.
async fn replace(settings: &Settings, files: &Files, out: Out<'_>) -> anyhow::Result<(u64, Identity)> {
    let session = settings.live.any().await?;
    let mut cluster = ClusterClient::new(session.channel.clone());
    // A linearizable list: who answers has a quorum, without the member that is damaged.
    let listed = cluster.member_list(session.request(MemberListRequest { linearizable: true })).await;
    let listed = listed.context("the cluster does not work without this member")?.into_inner();
    let cluster_id = listed.header.unwrap_or_default().cluster_id;
    let logged = files.identity();
    if let Some(logged) = logged {
        ensure!(
            logged.cluster_id == cluster_id,
            "{} is of cluster {:x}, the members at {} are of {cluster_id:x}",
            settings.data_dir,
            logged.cluster_id,
            settings.live.endpoints.join(",")
        );
    }
    let old = match (&settings.member[..], logged) {
        ("", Some(logged)) => logged.member_id,
        ("", None) => {
            bail!("the log does not tell any more whose it is: give --member, as `etcdctl member list` shows it")
        }
        (member, logged) => {
            let id = u64::from_str_radix(member, 16).context("--member: write the id in hexadecimal digits")?;
            ensure!(
                logged.is_none_or(|logged| logged.member_id == id),
                "{} is of another member than {member}; leave --member out",
                settings.data_dir
            );
            id
        }
    };
    let add = match listed.members.iter().find(|member| member.id == old) {
        Some(member) => {
            for url in &member.client_ur_ls {
                ensure!(settings.live.at(url).await.is_err(), "member {old:x} runs: it answers at {url}");
            }
            cluster.member_remove(session.request(MemberRemoveRequest { id: old })).await.context("member remove")?;
            writeln!(out, "removed member {old:x} at {}", member.peer_ur_ls.join(","))?;
            MemberAddRequest { peer_ur_ls: member.peer_ur_ls.clone(), is_learner: member.is_learner }
        }
        // It was removed before: by hand, or by a heal that did not get to its end.
        None => {
            let peer_urls: Vec<String> = settings.peer_urls.iter().map(Url::to_string).collect();
            ensure!(
                !peer_urls.is_empty(),
                "the cluster does not list member {old:x} any more: give --initial-advertise-peer-urls to add one in its \
                 place"
            );
            let waits = |member: &&Member| member.client_ur_ls.is_empty() && member.peer_ur_ls == peer_urls;
            if let Some(waiting) = listed.members.iter().find(waits) {
                return Ok((old, Identity { member_id: waiting.id, cluster_id }));
            }
            MemberAddRequest { peer_ur_ls: peer_urls, is_learner: false }
        }
    };
    let member_id = added(&mut cluster, &session, add).await?;
    Ok((old, Identity { member_id, cluster_id }))
}

/// How long a cluster may take to be sure that all other members are well, which it wants to be before it grows.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

async fn added(
    cluster: &mut ClusterClient<tonic::transport::Channel>,
    session: &Session,
    add: MemberAddRequest,
) -> anyhow::Result<u64> {
    let began = Instant::now();
    loop {
        match cluster.member_add(session.request(add.clone())).await {
            Ok(answer) => return Ok(answer.into_inner().member.context("no member in the answer")?.id),
            Err(status) if status.code() == tonic::Code::Unavailable && began.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => {
                let again = "member add; run this command again, with --initial-advertise-peer-urls";
                return Err(status).context(format!("{again}={}", add.peer_ur_ls.join(",")));
            }
        }
    }
}
