//! Whether all members hold the same: hashes of the keys at a revision are compared with those of the others.
//!
//! A difference raises the CORRUPT alarm, which stops writes. Three times to look: before a member serves, every now and
//! then on the leader, and on the leader for each compaction, whose hash every member keeps for a while.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use forebay_edge::Body;
use forebay_keyspace::RevisionHash;
use forebay_proto::etcdserverpb::{AlarmRequest, AlarmType, InternalRaftRequest, alarm_request::AlarmAction};
use forebay_storage::snap::MemberRecord;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tonic::Status;

use crate::{
    auth::Caller,
    member::Member,
    peer::{Client, HashKvAnswer, HashKvQuery, Identity, id_text},
    raft::Role,
};

/// What another member answered, by its id; `None` if it did not, or does not hold that revision.
type Answers = BTreeMap<u64, Option<HashKvAnswer>>;

/// The hashes of other members at a revision.
async fn ask(client: &Client, identity: &Identity, others: &[MemberRecord], revision: i64, limit: Duration) -> Answers {
    let body = serde_json::to_vec(&HashKvQuery { revision }).expect("a number can be printed");
    let asking = others.iter().filter(|other| other.id != identity.member_id).map(|other| async {
        for url in &other.peer_urls {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert("x-etcd-cluster-id", identity.cluster_header());
            let asked = client.ask(url, Method::GET, "/members/hashkv", headers, Body::full(body.clone()), limit).await;
            match asked {
                Ok(answer) if answer.status == StatusCode::OK => {
                    return (other.id, serde_json::from_slice(&answer.body).ok());
                }
                Ok(answer) => tracing::debug!(url, revision, answer = answer.text(), "a member has no such hash"),
                Err(error) => tracing::debug!(url, %error, "failed to ask a member for its hash"),
            }
        }
        (other.id, None)
    });
    futures::future::join_all(asking).await.into_iter().collect()
}

/// Before this member serves anybody: whether one that compacted as it did holds something else.
pub(crate) async fn check_at_start(
    own: RevisionHash,
    client: &Client,
    identity: &Identity,
    members: &[MemberRecord],
    limit: Duration,
) -> Result<(), String> {
    let answers = ask(client, identity, members, own.revision, limit).await;
    let differs = |answer: &HashKvAnswer| {
        let HashKvAnswer { compact_revision, hash, .. } = *answer;
        is_unlike(&own, &RevisionHash { revision: own.revision, compact_revision, hash })
    };
    let differing: Vec<_> =
        answers.iter().filter(|(_, answer)| answer.as_ref().is_some_and(differs)).map(|(id, _)| id_text(*id)).collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} found data inconsistency with peers {} at revision {}; remove this member, and add a new one in its place",
        id_text(identity.member_id),
        differing.join(", "),
        own.revision
    ))
}

/// Whether a member that compacted as this one did holds something else at the same revision.
pub(crate) fn is_unlike(own: &RevisionHash, other: &RevisionHash) -> bool {
    other.compact_revision == own.compact_revision && other.hash != own.hash
}

/// Compares the members again and again, on the leader. Ends when the member stops.
pub(crate) async fn watch_periodically(member: Member, interval: Duration) {
    while is_turn(&member, interval).await {
        if let Err(status) = check_now(&member).await {
            tracing::warn!(error = status.message(), "failed to check hash KV");
        }
    }
}

/// Compares the members at each compaction, on the leader. Ends when the member stops.
pub(crate) async fn watch_compactions(member: Member, interval: Duration) {
    let mut checked = 0;
    while is_turn(&member, interval).await {
        checked = check_compactions(&member, checked).await;
    }
}

/// Waits until it is time and this member leads; `false` when the member stops before.
async fn is_turn(member: &Member, interval: Duration) -> bool {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = member.draining() => return false,
        }
        if member.raft_status().role == Role::Leader {
            return true;
        }
    }
}

async fn others(member: &Member, revision: i64) -> Answers {
    let shown = member.0.cluster.shown();
    let peers = &member.0.peers;
    ask(peers.client(), peers.identity(), &shown.members, revision, member.config().request_timeout()).await
}

async fn check_now(member: &Member) -> Result<(), Status> {
    let own = || member.maintaining(|member| Ok(member.hash_kv(0)?));
    let (before, _) = own().await?;
    let answers = others(member, before.revision).await;
    member.linearize(member.own_deadline()).await?;
    let (after, revision) = own().await?;
    if let Some(corrupt) = find_corrupt(member.id(), &before, &after, revision, &answers) {
        raise(member, corrupt).await;
    }
    Ok(())
}

/// Who must be corrupt. `before` and `after` are the leader's own hashes of before and after the others were asked.
fn find_corrupt(
    leader: u64,
    before: &RevisionHash,
    after: &RevisionHash,
    revision: i64,
    answers: &Answers,
) -> Option<u64> {
    let is_same_state = before.revision == after.revision && before.compact_revision == after.compact_revision;
    if is_same_state && before.hash != after.hash {
        return Some(leader);
    }
    let is_corrupt = |answer: &HashKvAnswer| {
        answer.header.revision > revision
            || answer.compact_revision > after.compact_revision
            || answer.compact_revision == before.compact_revision && answer.hash != before.hash
    };
    answers.iter().find(|(_, answer)| answer.as_ref().is_some_and(is_corrupt)).map(|(id, _)| *id)
}

/// Looks at the compactions after `checked`, the newest first, until one is known to be the same everywhere or is not.
/// Returns up to which they need no second look.
async fn check_compactions(member: &Member, checked: i64) -> i64 {
    let kept = member.reader().hashes();
    for own in kept.iter().rev().filter(|own| own.revision > checked) {
        let answers = others(member, own.revision).await;
        match compare(member.id(), own, &answers) {
            Comparison::Same => return own.revision,
            Comparison::Unknown => {}
            Comparison::Different(corrupt) => {
                for id in corrupt {
                    raise(member, id).await;
                }
                return checked;
            }
        }
    }
    checked
}

/// What the hashes of one compaction say.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    /// All members answered, and agree.
    Same,
    /// Those that answered agree.
    Unknown,
    /// These are not like the majority; member 0 when there is none.
    Different(Vec<u64>),
}

fn compare(leader: u64, own: &RevisionHash, answers: &Answers) -> Comparison {
    let mut by_hash: BTreeMap<u32, Vec<u64>> = BTreeMap::from([(own.hash, vec![leader])]);
    let comparable = |answer: &&HashKvAnswer| answer.compact_revision == own.compact_revision;
    let mut compared = 0;
    for (id, answer) in answers {
        if let Some(answer) = answer.as_ref().filter(comparable) {
            compared += 1;
            by_hash.entry(answer.hash).or_default().push(*id);
        }
    }
    if by_hash.len() == 1 {
        return if compared == answers.len() { Comparison::Same } else { Comparison::Unknown };
    }
    let members = answers.len() + 1;
    let quorum = members / 2 + 1;
    let majority = by_hash.iter().find(|(_, ids)| ids.len() >= quorum).map(|(hash, _)| *hash);
    let Some(majority) = majority else { return Comparison::Different(vec![0]) };
    by_hash.remove(&majority);
    Comparison::Different(by_hash.into_values().flatten().collect())
}

async fn raise(member: &Member, id: u64) {
    tracing::error!(corrupted_member_id = id_text(id), "members hold different data; raising the CORRUPT alarm");
    let is_raised = |alarm: &forebay_proto::etcdserverpb::AlarmMember| {
        alarm.member_id == id && alarm.alarm == AlarmType::Corrupt as i32
    };
    if member.alarms().iter().any(is_raised) {
        return;
    }
    let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id: id, alarm: AlarmType::Corrupt as i32 };
    let request = InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
    let began = Instant::now();
    if let Err(status) = member.propose(&Caller::nobody(), request, member.own_deadline()).await {
        tracing::warn!(error = status.message(), took = ?began.elapsed(), "failed to raise the CORRUPT alarm");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(revision: i64, compact_revision: i64, hash: u32) -> RevisionHash {
        RevisionHash { revision, compact_revision, hash }
    }

    fn answer(revision: i64, compact_revision: i64, hash: u32) -> Option<HashKvAnswer> {
        let json = serde_json::json!({
            "header": { "revision": revision }, "hash": hash, "compact_revision": compact_revision,
        });
        Some(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn a_member_that_differs_is_found_and_one_that_lags_is_not() {
        let leader = own(10, 3, 77);
        let found = |answers: &[(u64, Option<HashKvAnswer>)]| {
            find_corrupt(1, &leader, &leader, 12, &answers.iter().copied().collect())
        };
        assert_eq!(found(&[(2, answer(10, 3, 77)), (3, None)]), None);
        assert_eq!(found(&[(2, answer(10, 2, 78))]), None, "not compacted so far yet");
        assert_eq!(found(&[(2, answer(10, 3, 78))]), Some(2));
        assert_eq!(found(&[(2, answer(13, 3, 77))]), Some(2), "ahead of the leader");
        assert_eq!(found(&[(2, answer(10, 4, 78))]), Some(2), "compacted beyond the leader");
        let changed = own(10, 3, 78);
        assert_eq!(find_corrupt(1, &leader, &changed, 12, &Answers::new()), Some(1));
    }

    #[test]
    fn a_compaction_is_judged_by_the_majority() {
        let leader = own(10, 3, 77);
        let compared =
            |answers: &[(u64, Option<HashKvAnswer>)]| compare(1, &leader, &answers.iter().copied().collect());
        assert_eq!(compared(&[(2, answer(10, 3, 77)), (3, answer(10, 3, 77))]), Comparison::Same);
        assert_eq!(compared(&[(2, answer(10, 3, 77)), (3, None)]), Comparison::Unknown);
        assert_eq!(compared(&[(2, answer(10, 3, 77)), (3, answer(10, 2, 78))]), Comparison::Unknown);
        assert_eq!(compared(&[(2, answer(10, 3, 77)), (3, answer(10, 3, 78))]), Comparison::Different(vec![3]));
        assert_eq!(compared(&[(2, answer(10, 3, 78)), (3, answer(10, 3, 78))]), Comparison::Different(vec![1]));
        assert_eq!(compared(&[(2, answer(10, 3, 78))]), Comparison::Different(vec![0]));
    }
}
