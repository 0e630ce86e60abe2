//! A store that things happen to, and a gateway before it that lives through all of them.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, ensure};
use forebay_proto::etcdserverpb::{CompactionRequest, RangeRequest, RangeResponse, kv_client::KvClient};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    cluster::Cluster,
    gateways::Gateway,
    programs::{Generator, Op},
    target::{Kind, START_LIMIT, Target},
};

/// Revisions that a compaction leaves.
const KEPT: i64 = 150;

/// One store and the gateway.
#[derive(Debug)]
pub struct Store {
    members: Members,
    gateway: Gateway,
}

#[derive(Debug)]
enum Members {
    /// It is killed, or restored from a snapshot.
    One(Box<Target>),
    /// Their leader is killed, or hands over.
    Three(Cluster),
}

/// What happens to a store.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Kill,
    /// To what it was when this was saved: revisions go back, and happen again with other content.
    Restore(PathBuf),
    KillLeader,
    MoveLeader,
}

impl Store {
    /// Of one member.
    pub async fn of_one(kind: Kind) -> anyhow::Result<Store> {
        let target = Target::start(kind, &[]).await?;
        let gateway = Gateway::start(&[target.url()], &[]).await?;
        Ok(Store { members: Members::One(target.into()), gateway })
    }

    /// Of three.
    pub async fn of_three(kind: Kind) -> anyhow::Result<Store> {
        let cluster = Cluster::start(&[kind; 3], &[]).await?;
        let upstream: Vec<String> = cluster.members.iter().map(|node| node.url()).collect();
        let gateway = Gateway::start(&upstream, &[]).await?;
        Ok(Store { members: Members::Three(cluster), gateway })
    }

    /// A new connection to a member, and one to the gateway.
    pub(super) fn connect(&self) -> anyhow::Result<(Channel, Channel)> {
        let member = match &self.members {
            Members::One(target) => target.url(),
            Members::Three(cluster) => cluster.members[0].url(),
        };
        let to = |url| anyhow::Ok(Endpoint::from_shared(url)?.connect_lazy());
        Ok((to(member)?, to(format!("http://{}", self.gateway.client))?))
    }

    /// What the members logged last.
    pub(super) fn log(&self) -> String {
        match &self.members {
            Members::One(target) => target.log(),
            Members::Three(cluster) => cluster.running().map(|node| node.log()).collect::<Vec<_>>().join("\n"),
        }
    }

    /// Writes through the gateway. A refused write is one that changes nothing, but one that was not taken is none.
    pub(super) async fn write(&self, generator: &mut Generator, count: usize) -> anyhow::Result<()> {
        let (_, through) = self.connect()?;
        let mut kv = KvClient::new(through);
        for _ in 0..count {
            let answer = match generator.write() {
                Op::Put(put) => kv.put(put).await.map(drop),
                Op::Delete(delete) => kv.delete_range(delete).await.map(drop),
                Op::Txn(txn) => kv.txn(txn).await.map(drop),
                op => unreachable!("{op:?} is no write"),
            };
            if let Err(status) = answer {
                ensure!(status.code() != Code::Unavailable, "a write: {status:?}");
            }
        }
        Ok(())
    }

    /// What is to happen this turn.
    pub(super) async fn next_fault(&self, turn: u64) -> anyhow::Result<Fault> {
        Ok(match (&self.members, turn.is_multiple_of(2)) {
            (Members::One(_), true) => Fault::Kill,
            (Members::One(target), false) => {
                let snapshot = target.scratch().join(format!("{turn}.db"));
                target.save(&snapshot).await?;
                Fault::Restore(snapshot)
            }
            (Members::Three(_), true) => Fault::KillLeader,
            (Members::Three(_), false) => Fault::MoveLeader,
        })
    }

    /// Lets it happen, and returns when the gateway answers again: the first answer has to be right.
    pub(super) async fn suffer(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match (fault, &mut self.members) {
            (Fault::Kill, Members::One(target)) => {
                target.kill();
                target.restart().await?;
            }
            (Fault::Restore(snapshot), Members::One(target)) => {
                target.restore(snapshot).await?;
                std::fs::remove_file(snapshot)?;
            }
            (Fault::KillLeader, Members::Three(cluster)) => {
                let leader = cluster.leader().await?;
                let kind = cluster.members[leader].kind;
                cluster.kill(leader);
                cluster.leader().await?;
                cluster.restart_as(leader, kind).await?;
            }
            (Fault::MoveLeader, Members::Three(cluster)) => {
                let leader = cluster.leader().await?;
                cluster.move_leader((leader + 1) % 3).await?;
            }
            (fault, members) => unreachable!("{fault:?} does not happen to {members:?}"),
        }
        let (direct, through) = self.connect()?;
        let expected = everything(&direct).await.context("the store answers")?;
        let begun = Instant::now();
        loop {
            match everything(&through).await {
                Ok(answer) => {
                    let revisions = (revision(&answer), revision(&expected));
                    ensure!(
                        answer == expected,
                        "after {fault:?} the first answer, and what it had to be: {revisions:?}"
                    );
                    return Ok(());
                }
                Err(status) => {
                    let is_too_long = status.code() != Code::Unavailable || begun.elapsed() > START_LIMIT;
                    ensure!(!is_too_long, "after {fault:?}: {status:?}");
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Compacts, and returns at which revision and what the last one is. Whoever is asked from then on knows both.
    pub(super) async fn compact(&self) -> anyhow::Result<(i64, i64)> {
        let (direct, _) = self.connect()?;
        let last = revision(&everything(&direct).await?);
        let compacted = (last - KEPT).max(1);
        let request = CompactionRequest { revision: compacted, physical: true };
        KvClient::new(direct).compact(request).await.context("a compaction is taken")?;
        if let Members::Three(cluster) = &self.members {
            let before = RangeRequest { revision: compacted - 1, serializable: true, ..all() };
            cluster
                .wait("the compaction", async |cluster| {
                    for node in &cluster.members {
                        let refused = compacted == 1 || node.kv().range(before.clone()).await.is_err();
                        if !refused || node.get("\0", true).await?.header.unwrap_or_default().revision < last {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                })
                .await?;
        }
        Ok((compacted, last))
    }

    /// The gateway answers from its mirror, or will soon.
    pub(super) async fn is_mirrored(&self) -> anyhow::Result<()> {
        self.gateway.is_mirrored().await
    }
}

fn revision(answer: &RangeResponse) -> i64 {
    answer.header.as_ref().map_or(0, |header| header.revision)
}

fn all() -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

/// All keys, at the revision that they are at.
async fn everything(channel: &Channel) -> Result<RangeResponse, Status> {
    let mut response = KvClient::new(channel.clone()).range(all()).await?.into_inner();
    super::forget_who(&mut response);
    Ok(response)
}
